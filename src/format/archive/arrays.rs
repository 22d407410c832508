//! The arrays of an archive in their order, each coded with what is known of those before.

use super::super::entropy::{
    CodeModel, Coder, Decoder, Encoder, Geometry, MaskModel, NumberModel, PlainBits, Signs, Tree,
};
use super::{CHUNK, has};
use crate::weight::{Bytes, Codes, Packer, Part, PartData, PartKind, fold, for_each_chunk};
use crate::{DType, Fault, Float, Result};

/// Bits of a stream that are coded by the models that mix.
const MIXED: usize = 1 << 22;
/// These models have tables of this many columns at most.
const COLUMNS: usize = 1 << 16;
/// Rows of a matrix that the next one is told of at most.
const ROWS: usize = 1 << 16;

/// What is known when the next array is coded.
#[derive(Default)]
pub(super) struct Arrays {
    /// Bits that have been mixed.
    mixed: usize,
    /// How many entries each row of the matrix before keeps: whether what comes in from there is used.
    before: Vec<u32>,
    /// The mask of the codes or values that come next.
    mask: Option<Mask>,
    /// The codebook of the codes that come next.
    signs: Option<Signs>,
}

struct Mask {
    bits: Vec<u8>,
    kept: usize,
    geometry: Geometry,
}

impl Arrays {
    /// `shape`: that of the entry.
    pub fn encode<T: Float>(&mut self, encoder: &mut Encoder, shape: &[usize], part: &Part<T>) -> Result<()> {
        let fault = |f| super::super::fault(&part.name, f);
        let bytes = stored(part).map_err(fault)?;
        encoder.claim(claim(part.kind, bytes.len()))?;
        self.code(encoder, shape, (part.kind, part.dtype), bytes).map_err(fault)?;
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
        decoder.claim(claim(kind, bytes))?;
        self.code(decoder, shape, (kind, dtype), vec![0; bytes])
            .map_err(|f| super::super::fault(super::NAME, f))
    }

    /// Whether the next array, of so many bits, is mixed.
    fn mixes(&mut self, bits: usize, columns: usize) -> bool {
        let mixes = columns <= COLUMNS && bits <= MIXED - self.mixed;
        self.mixed += if mixes { bits } else { 0 };
        mixes
    }

    /// Codes an array, of which a decoder is given the length only.
    fn code(
        &mut self,
        coder: &mut impl Coder,
        shape: &[usize],
        (kind, dtype): (PartKind, DType),
        mut bytes: Vec<u8>,
    ) -> Result<Bytes, Fault> {
        match kind {
            PartKind::Mask { entries, cols, kept } => {
                let (_, folded) = fold(shape);
                let shape = if folded == cols { shape } else { &[] };
                let geometry = Geometry::new(shape, cols, &self.before);
                let mut on = vec![0; bytes.len()];
                if self.mixes(entries, cols) {
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
                self.codes(coder, shape, &packed, mask, signs)
            }
            PartKind::ZeroPoints { bits, len } => {
                let mut tree = Tree::new(u32::from(bits));
                each_code(&Codes::from_packed(bits, len, bytes.into()), |_, code| {
                    tree.code(coder, u32::from(code)) as u8
                })
            }
            PartKind::Numbers | PartKind::Table => {
                let mixes = self.mixes(bytes.len().saturating_mul(8), 0);
                NumberModel::new(dtype, bytes.len(), mixes).code(coder, &mut bytes);
                if kind == PartKind::Table {
                    self.signs = Some(Signs::of_table(&bytes, dtype));
                } else if self.mask.take().is_none() {
                    self.full(shape);
                }
                Ok(bytes.into())
            }
        }
    }

    fn codes(
        &mut self,
        coder: &mut impl Coder,
        shape: &[usize],
        packed: &Codes,
        mask: Option<Mask>,
        signs: Signs,
    ) -> Result<Bytes, Fault> {
        let (bits, len) = (packed.bits(), packed.len());
        let (rows, cols) = fold(shape);
        let (geometry, mask) = match mask {
            Some(mask) => (mask.geometry, Some(mask.bits)),
            None if rows.checked_mul(cols) == Some(len) => (Geometry::new(shape, cols, &self.before), None),
            None => (Geometry::new(&[], len, &[]), None),
        };
        if mask.is_none() {
            self.full(shape);
        }
        if !self.mixes(len.saturating_mul(usize::from(bits)), geometry.cols) {
            let mut tree = Tree::new(u32::from(bits));
            return each_code(packed, |_, code| tree.code(coder, u32::from(code)) as u8);
        }
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

/// Bits that an array takes.
fn claim(kind: PartKind, bytes: usize) -> Option<usize> {
    match kind {
        PartKind::Mask { entries, .. } => Some(entries),
        _ => bytes.checked_mul(8),
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
        PartData::Bytes(bytes) => for_each_chunk(bytes, push)?,
    }
    Ok(out)
}
