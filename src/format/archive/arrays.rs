//! The arrays of an archive in their order, each coded with what is known of those before.

use super::super::entropy::{
    CodeModel, Coder, Decoder, Encoder, Geometry, MaskModel, NumberModel, PlainBits, Signs, Tree, Trial,
};
#[cfg(test)]
use super::VERSION;
use super::{CHUNK, has};
use crate::weight::{Bytes, Codes, Packer, Part, PartData, PartKind, fold};
use crate::{DType, Error, Fault, Float, Result};

/// Bits of a stream that are coded by the models that mix.
const MIXED: usize = 1 << 22;
/// These models have tables of this many columns at most.
const COLUMNS: usize = 1 << 16;
/// Rows of a matrix that the next one is told of at most.
const ROWS: usize = 1 << 16;

/// Most codes that models which mix have tables for, whatever the length of the array.
const WIDE: usize = 32;
/// Probability that an array which may be mixed is, in parts of 2^16.
const MOSTLY: u32 = 55_000;

/// What is known when the next array is coded.
#[derive(Clone)]
pub(super) struct Arrays {
    /// That of the stream.
    version: u32,
    /// Bits that have been mixed.
    mixed: usize,
    /// How many entries each row of the matrix before keeps: whether what comes in from there is used.
    before: Vec<u32>,
    /// The mask of the codes or values that come next.
    mask: Option<Mask>,
    /// The codebook of the codes that come next.
    signs: Option<Signs>,
}

#[derive(Clone)]
struct Mask {
    bits: Vec<u8>,
    kept: usize,
    geometry: Geometry,
}

/// An array that is coded.
struct Array<'a> {
    /// That of the entry.
    shape: &'a [usize],
    kind: PartKind,
    dtype: DType,
    bytes: usize,
}

impl Array<'_> {
    /// Bits that the array takes.
    fn claim(&self) -> Option<usize> {
        match self.kind {
            PartKind::Mask { entries, .. } => Some(entries),
            _ => self.bytes.checked_mul(8),
        }
    }

    /// Bits that the models that mix have to code.
    fn mixed(&self) -> usize {
        match self.kind {
            PartKind::Mask { entries, .. } => entries,
            PartKind::Codes { bits, len } => len.saturating_mul(usize::from(bits)),
            _ => self.bytes.saturating_mul(8),
        }
    }

    /// Rows and columns, if it has so many entries.
    fn matrix(&self, len: usize) -> Option<(usize, usize)> {
        let (rows, cols) = fold(self.shape);
        (rows.checked_mul(cols) == Some(len)).then_some((rows, cols))
    }
}

impl Arrays {
    pub fn new(version: u32) -> Self {
        Self { version, mixed: 0, before: Vec::new(), mask: None, signs: None }
    }

    /// `shape`: that of the entry.
    pub fn encode<T: Float>(&mut self, encoder: &mut Encoder, shape: &[usize], part: &Part<T>) -> Result<()> {
        let fault = |f| super::super::fault(&part.name, f);
        let bytes = stored(part).map_err(fault)?;
        let array = Array { shape, kind: part.kind, dtype: part.dtype, bytes: bytes.len() };
        encoder.claim(array.claim())?;
        if !self.may_mix(&array) {
            self.code(encoder, &array, bytes, false).map_err(fault)?;
            return Ok(());
        }
        // Whichever takes fewer bits.
        let tried = |mixed, bytes| {
            let (mut next, mut trial) = (self.clone(), Trial::default());
            trial.bit(MOSTLY, mixed);
            next.code(&mut trial, &array, bytes, mixed).map_err(fault)?;
            Ok::<_, Error>((trial, next))
        };
        let (plain, mixed) = (tried(false, bytes.clone())?, tried(true, bytes)?);
        let (trial, next) = if plain.0.cost() < mixed.0.cost() { plain } else { mixed };
        trial.replay(encoder);
        *self = next;
        Ok(())
    }

    pub fn decode(
        &mut self,
        decoder: &mut Decoder<'_>,
        shape: &[usize],
        kind: PartKind,
        dtype: DType,
        bytes: usize,
    ) -> Result<Bytes> {
        let array = Array { shape, kind, dtype, bytes };
        decoder.claim(array.claim())?;
        let mixed = self.may_mix(&array) && (self.version < 3 || decoder.bit(MOSTLY, false));
        self.code(decoder, &array, vec![0; bytes], mixed).map_err(|f| super::super::fault(super::NAME, f))
    }

    /// Whether the next array may be mixed.
    fn may_mix(&self, array: &Array<'_>) -> bool {
        let columns = match array.kind {
            PartKind::Mask { cols, .. } => cols,
            // The tables grow with the codes that there can be, not with those that there are.
            PartKind::Codes { bits, len } if self.version > 2 && 1 << bits > WIDE.max(len) => return false,
            PartKind::Codes { len, .. } => match self.mask.as_ref().filter(|mask| mask.kept == len) {
                Some(mask) => mask.geometry.cols,
                None => array.matrix(len).map_or(len, |(_, cols)| cols),
            },
            PartKind::ZeroPoints { .. } => return false,
            PartKind::Numbers | PartKind::Table => 0,
        };
        columns <= COLUMNS && array.mixed() <= MIXED - self.mixed
    }

    /// Codes an array, of which a decoder is given the length only.
    fn code(
        &mut self,
        coder: &mut impl Coder,
        array: &Array<'_>,
        mut bytes: Vec<u8>,
        mixed: bool,
    ) -> Result<Bytes, Fault> {
        let (shape, kind) = (array.shape, array.kind);
        self.mixed += if mixed { array.mixed() } else { 0 };
        match kind {
            PartKind::Mask { entries, cols, kept } => {
                let (_, folded) = fold(shape);
                let shape = if folded == cols { shape } else { &[] };
                let geometry = Geometry::new(shape, cols, &self.before);
                let mut on = vec![0; bytes.len()];
                if mixed {
                    MaskModel::new(&geometry, entries, kept).code(coder, &mut on, |i| has(&bytes, i));
                } else {
                    PlainBits::new().code(coder, (entries, cols), &mut on, |i| has(&bytes, i));
                }
                if shape.len() > 1 {
                    self.follow(entries.checked_div(cols).unwrap_or(0), |r| {
                        (r * cols..(r + 1) * cols).filter(|i| has(&on, *i)).count()
                    });
                }
                self.mask = Some(Mask { bits: on.clone(), kept, geometry });
                Ok(on.into())
            }
            PartKind::Codes { bits, len } => {
                let mask = self.mask.take().filter(|mask| mask.kept == len);
                let signs = self.signs.take().unwrap_or(Signs::middle(bits));
                let packed = Codes::from_packed(bits, len, bytes.into());
                self.codes(coder, array, &packed, (mask, signs), mixed)
            }
            PartKind::ZeroPoints { bits, len } => {
                let mut tree = Tree::new(u32::from(bits));
                each_code(&Codes::from_packed(bits, len, bytes.into()), |_, code| {
                    tree.code(coder, u32::from(code)) as u8
                })
            }
            PartKind::Numbers | PartKind::Table => {
                NumberModel::new(array.dtype, bytes.len(), mixed).code(coder, &mut bytes);
                // Scales come between a mask and its codes.
                let values =
                    |mask: &Mask| self.version < 3 || mask.kept * array.dtype.bits() == 8 * bytes.len();
                if kind == PartKind::Table {
                    self.signs = Some(Signs::of_table(&bytes, array.dtype));
                } else if self.mask.is_none() {
                    self.full(shape);
                } else if self.mask.as_ref().is_some_and(values) {
                    self.mask = None;
                }
                Ok(bytes.into())
            }
        }
    }

    fn codes(
        &mut self,
        coder: &mut impl Coder,
        array: &Array<'_>,
        packed: &Codes,
        (mask, signs): (Option<Mask>, Signs),
        mixed: bool,
    ) -> Result<Bytes, Fault> {
        let (bits, len) = (packed.bits(), packed.len());
        if mask.is_none() {
            self.full(array.shape);
        }
        if !mixed {
            let mut tree = Tree::new(u32::from(bits));
            return each_code(packed, |_, code| tree.code(coder, u32::from(code)) as u8);
        }
        let (geometry, mask) = match (mask, array.matrix(len)) {
            (Some(mask), _) => (mask.geometry, Some(mask.bits)),
            (None, Some((_, cols))) => (Geometry::new(array.shape, cols, &self.before), None),
            (None, None) => (Geometry::new(&[], len, &[]), None),
        };
        let mut model = CodeModel::new(&geometry, bits, signs);
        let mut places = mask.iter().flat_map(|on| (0..on.len() * 8).filter(|i| has(on, *i)));
        each_code(packed, |i, code| {
            let place = if mask.is_some() { places.next().unwrap_or(0) } else { i };
            model.code(coder, place, code)
        })
    }

    /// A matrix without a mask uses all of its rows.
    fn full(&mut self, shape: &[usize]) {
        let (rows, cols) = fold(shape);
        if shape.len() > 1 && cols > 0 {
            self.follow(rows, |_| cols);
        }
    }

    fn follow(&mut self, rows: usize, kept: impl Fn(usize) -> usize) {
        if rows <= ROWS {
            self.before = (0..rows).map(|r| kept(r).min(u32::MAX as usize) as u32).collect();
        }
    }
}

/// Calls `code` for each code, and packs those that it gives.
fn each_code(packed: &Codes, mut code: impl FnMut(usize, u8) -> u8) -> Result<Bytes, Fault> {
    let mut packer = Packer::new(packed.bits());
    for first in (0..packed.len()).step_by(CHUNK) {
        let codes = packed.unpack(first..packed.len().min(first + CHUNK))?;
        let coded: Vec<u8> = codes.iter().zip(first..).map(|(c, i)| code(i, *c)).collect();
        packer.extend(&coded);
    }
    Ok(packer.finish().packed())
}

/// The bytes of an array.
fn stored<T: Float>(part: &Part<T>) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::with_capacity(part.len());
    let push = |bytes: &[u8]| {
        out.extend_from_slice(bytes);
        Ok::<(), Fault>(())
    };
    match &part.data {
        PartData::Values(values) => values.for_each_stored_chunk(push)?,
        PartData::Bytes(bytes) => bytes.for_each_chunk(push)?,
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(kind: PartKind, bytes: Vec<u8>) -> Part<f32> {
        let mut part = Part::bytes("part".into(), DType::U8, vec![bytes.len()], bytes.into());
        part.kind = kind;
        part
    }

    /// A mask of 64 x 64 whose entry `i` is kept where `kept(i)`.
    fn mask(kept: impl Fn(usize) -> bool) -> (PartKind, Vec<u8>) {
        let mut bytes = vec![0_u8; 512];
        (0..4096).filter(|i| kept(*i)).for_each(|i| bytes[i / 8] |= 1 << (i % 8));
        let kept = bytes.iter().map(|b| b.count_ones() as usize).sum();
        (PartKind::Mask { entries: 4096, cols: 64, kept }, bytes)
    }

    #[test]
    fn an_array_is_coded_by_what_takes_fewer_bits() {
        let shape = [64, 64];
        let chance = |i: usize| {
            let x = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB) >> 32 & 1023
        };
        // Whole columns that are there or not are worth learning; of random bytes there is nothing to learn.
        let columns = mask(|i| chance(i % 64) < 300 && chance(i + 64) < 700);
        let bytes = (0..256).map(|i| chance(i) as u8).collect();
        for ((kind, bytes), mixes) in [(columns, true), ((PartKind::Numbers, bytes), false)] {
            let array = Array { shape: &shape, kind, dtype: DType::U8, bytes: bytes.len() };
            let bits = |mixed| {
                let mut trial = Trial::default();
                Arrays::new(VERSION).code(&mut trial, &array, bytes.clone(), mixed).unwrap();
                trial.cost() as f64 / 65536.0
            };
            // By more than saying so takes, and than the end of a stream.
            assert!(bits(mixes) + 80.0 < bits(!mixes), "{} {}", bits(mixes), bits(!mixes));
            let mut encoder = Encoder::new();
            Arrays::new(VERSION).encode(&mut encoder, &shape, &part(kind, bytes.clone())).unwrap();
            let stream = encoder.finish();
            assert!((stream.len() as f64) < bits(mixes) / 8.0 + 8.0, "{}", stream.len());
            let mut decoder = Decoder::new(&stream);
            let back =
                Arrays::new(VERSION).decode(&mut decoder, &shape, kind, DType::U8, bytes.len()).unwrap();
            assert_eq!(back.read(0, bytes.len()).unwrap(), bytes);
        }
    }

    #[test]
    fn scales_do_not_take_the_mask_from_the_codes() {
        let (kind, bytes) = mask(|i| i % 3 == 0);
        let PartKind::Mask { kept, .. } = kind else { unreachable!() };
        let mut arrays = Arrays::new(VERSION);
        let mut encoder = Encoder::new();
        let scales = vec![7; 64 * 4];
        for (kind, bytes) in [(kind, bytes), (PartKind::Numbers, scales)] {
            let mut part = part(kind, bytes);
            part.dtype = DType::F32;
            arrays.encode(&mut encoder, &[64, 64], &part).unwrap();
        }
        assert_eq!(arrays.mask.map(|mask| mask.kept), Some(kept));
        // What the next matrix is told: what each row keeps, not all of it.
        assert!(arrays.before.iter().all(|n| *n < 64));
    }
}
