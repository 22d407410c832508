//! How a mask lies in a file: the smallest of four forms, chosen by bytes. A pure function of the leaf.
//!
//! | form | parts | bytes for `rows` x `cols` with `kept` entries |
//! | --- | --- | --- |
//! | N:M | `pattern`: for each group of M its combination of N kept places, as a number | `ceil(groups * ceil(log2 C(M, N)) / 8)` |
//! | bitmask | `mask`: a bit an entry, row-major, least significant bit first | `ceil(rows * cols / 8)` |
//! | CSR | `indices`: columns of the kept entries; `row_offsets`: where each row starts in them | `kept * w + (rows + 1) * v` |
//! | zeros | none: the values (or codes) hold every entry, pruned ones as zero; possible where no kept entry is zero | 0, but the values of pruned entries |
//!
//! with `w` of 1, 2 or 4 bytes as `cols` needs, and `v` of 4 or 8 as `kept` needs. A 2:4 group takes
//! 3 bits, less than the 4 of a bitmask. In a convolution `[out, in, kh, kw]` a group runs along `in`, so
//! its places lie `stride = kh * kw` entries apart.

use super::bytes::Bytes;
use super::mask::Mask;
use super::parts::PartKind;
use crate::{DType, Fault, kernels};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A stored mask describes at most this many entries a byte, so that a small file cannot ask for much
/// memory. Matrices that would need more (all zero, and wider than 16,384) use the bitmask.
const MAX_ENTRIES_PER_BYTE: usize = 4096;
const FREE_ENTRIES: usize = 1 << 20;

/// Lengths of the groups in which N:M patterns are looked for.
const GROUPS: [usize; 4] = [4, 8, 16, 2];

/// Which form, with what is needed to read it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MaskForm {
    Nm {
        n: usize,
        m: usize,
        stride: usize,
    },
    Bitmask {
        kept: usize,
    },
    Csr {
        kept: usize,
    },
    /// No mask at all: the values hold every entry, and those that are not zero are kept.
    Zeros {
        kept: usize,
    },
}

/// A mask in its stored form: the parts, by their names.
#[derive(Clone, Debug)]
pub(crate) struct StoredMask {
    pub form: MaskForm,
    rows: usize,
    cols: usize,
    parts: Vec<(MaskPart, Bytes)>,
}

/// One array of a stored mask.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MaskPart {
    pub name: &'static str,
    pub dtype: DType,
    pub len: usize,
}

impl MaskPart {
    /// Its size, where that is a number at all: lengths come from files.
    pub fn bytes(&self) -> Option<usize> {
        self.len.checked_mul(self.dtype.bits() / 8)
    }
}

/// The form that a mask of a given shape is stored in.
pub(crate) struct Choice {
    pub form: MaskForm,
    pub parts: Vec<MaskPart>,
}

impl Choice {
    pub fn bytes(&self) -> usize {
        self.parts.iter().filter_map(MaskPart::bytes).sum()
    }
}

impl MaskForm {
    /// What the arrays of this form hold.
    pub fn kind(&self, rows: usize, cols: usize) -> PartKind {
        match self {
            Self::Bitmask { kept } => PartKind::Mask { entries: rows * cols, cols, kept: *kept },
            _ => PartKind::Numbers,
        }
    }

    pub fn kept(&self, rows: usize, cols: usize) -> Option<usize> {
        match *self {
            Self::Nm { n, m, .. } => (rows.checked_mul(cols)? / m.max(1)).checked_mul(n),
            Self::Bitmask { kept } | Self::Csr { kept } | Self::Zeros { kept } => Some(kept),
        }
    }

    /// The arrays that it is made of, or `None` where it does not fit the shape or expands too far.
    pub fn parts(&self, rows: usize, cols: usize) -> Option<Vec<MaskPart>> {
        let parts = self.layout(rows, cols)?;
        let bytes = parts.iter().try_fold(0_usize, |sum, p| sum.checked_add(p.bytes()?))?;
        let limit = bytes.saturating_mul(MAX_ENTRIES_PER_BYTE).saturating_add(FREE_ENTRIES);
        if matches!(self, Self::Zeros { .. }) {
            // The values are as many as the entries.
            return Some(parts);
        }
        (rows.checked_mul(cols)? <= limit).then_some(parts)
    }

    fn layout(&self, rows: usize, cols: usize) -> Option<Vec<MaskPart>> {
        let n = rows.checked_mul(cols)?;
        match *self {
            Self::Nm { n: keep, m, stride } => {
                let fits = GROUPS.contains(&m)
                    && keep <= m
                    && stride > 0
                    && cols.is_multiple_of(m.checked_mul(stride)?);
                let bits = fits.then(|| (n / m).checked_mul(pattern_bits(keep, m)))??;
                Some(vec![MaskPart { name: "pattern", dtype: DType::U8, len: bits.div_ceil(8) }])
            }
            Self::Zeros { kept } => (kept <= n).then(Vec::new),
            Self::Bitmask { kept } => {
                (kept <= n).then(|| vec![MaskPart { name: "mask", dtype: DType::U8, len: n.div_ceil(8) }])
            }
            Self::Csr { kept } => {
                let index = match cols {
                    0..=0x100 => DType::U8,
                    0x101..=0x1_0000 => DType::U16,
                    _ if u32::try_from(cols).is_ok() => DType::U32,
                    _ => DType::U64,
                };
                let offset = if u32::try_from(kept).is_ok() { DType::U32 } else { DType::U64 };
                let offsets = MaskPart { name: "row_offsets", dtype: offset, len: rows.checked_add(1)? };
                let indices = MaskPart { name: "indices", dtype: index, len: kept };
                (kept <= n).then(|| vec![offsets, indices])
            }
        }
    }
}

impl StoredMask {
    /// Parts that were found in a file. Their lengths have been checked against `form.parts`.
    pub fn from_parts(form: MaskForm, rows: usize, cols: usize, parts: Vec<(MaskPart, Bytes)>) -> Self {
        Self { form, rows, cols, parts }
    }

    pub fn kept(&self) -> usize {
        self.form.kept(self.rows, self.cols).unwrap_or(0)
    }

    pub fn stored_bytes(&self) -> usize {
        self.parts.iter().map(|(_, b)| b.len()).sum()
    }

    pub fn resident_bytes(&self) -> usize {
        self.parts.iter().map(|(_, b)| b.resident()).sum()
    }

    /// What its arrays hold.
    pub fn kind(&self) -> PartKind {
        self.form.kind(self.rows, self.cols)
    }

    pub fn parts(&self) -> &[(MaskPart, Bytes)] {
        &self.parts
    }

    /// The smallest form for `mask`.
    pub fn form(mask: &Mask, rows: usize, cols: usize, stride: usize) -> Choice {
        let form = mask.stored_form(cols, stride, || smallest(mask, rows, cols, stride));
        let parts = form.parts(rows, cols).unwrap_or_default();
        Choice { form, parts }
    }

    /// `mask` in its smallest form.
    pub fn encode(mask: &Arc<Mask>, rows: usize, cols: usize, stride: usize) -> Self {
        Self::encode_as(Self::form(mask, rows, cols, stride).form, mask, rows, cols)
    }

    /// `mask` in the given form, which fits it.
    pub fn encode_as(form: MaskForm, mask: &Arc<Mask>, rows: usize, cols: usize) -> Self {
        let parts = form.parts(rows, cols).unwrap_or_default();
        let bytes: Vec<Bytes> = match form {
            MaskForm::Bitmask { .. } => vec![Bytes::made(mask.len().div_ceil(8), Arc::clone(mask))],
            MaskForm::Zeros { .. } => Vec::new(),
            MaskForm::Csr { .. } => {
                let (mut offsets, mut indices) = (Vec::new(), Vec::new());
                for r in 0..=rows {
                    push_le(&mut offsets, parts[0].dtype, mask.rank(r * cols));
                }
                for i in mask.positions(0..mask.len()) {
                    push_le(&mut indices, parts[1].dtype, i % cols);
                }
                vec![offsets.into(), indices.into()]
            }
            MaskForm::Nm { n, m, stride } => {
                let bits = pattern_bits(n, m);
                let mut out = BitWriter::default();
                for group in groups(rows * cols, m, stride) {
                    out.push(pattern_rank(group.map(|i| mask.has(i))), bits);
                }
                vec![out.finish().into()]
            }
        };
        let parts = parts.into_iter().zip(bytes).collect();
        Self { form, rows, cols, parts }
    }

    /// The mask. What a file claims is checked: positions in range and in order, counts as declared.
    pub fn read(&self) -> Result<Mask, Fault> {
        let n = self.rows * self.cols;
        let part = |i: usize| match self.parts.get(i) {
            Some((_, bytes)) => bytes.read(0, bytes.len()),
            None => Err(Fault::Form("a part of the mask is missing")),
        };
        let mask = match self.form {
            MaskForm::Bitmask { .. } => Mask::from_le_bytes(&part(0)?, n),
            MaskForm::Zeros { .. } => return Err(Fault::Form("the mask lies in the values")),
            MaskForm::Csr { .. } => {
                let offsets = read_le(&part(0)?, self.parts[0].0.dtype);
                let indices = read_le(&part(1)?, self.parts[1].0.dtype);
                self.csr(&offsets, &indices)?
            }
            MaskForm::Nm { n: keep, m, stride } => {
                let bits = pattern_bits(keep, m);
                let packed = part(0)?;
                let mut words = vec![0_u64; n.div_ceil(64)];
                for (g, group) in groups(n, m, stride).enumerate() {
                    let places = pattern_places(read_bits(&packed, g * bits, bits), keep, m)
                        .ok_or(Fault::Form("a pattern of the mask does not exist"))?;
                    for (i, on) in group.zip(places) {
                        words[i / 64] |= u64::from(on) << (i % 64);
                    }
                }
                Mask::new(words, n)
            }
        };
        if mask.kept() == self.kept() {
            Ok(mask)
        } else {
            Err(Fault::Form("the mask keeps another number of entries than declared"))
        }
    }

    fn csr(&self, offsets: &[usize], indices: &[usize]) -> Result<Mask, Fault> {
        let bad = Fault::Form("the sparse indices are out of order or out of range");
        let mut words = vec![0_u64; (self.rows * self.cols).div_ceil(64)];
        if offsets.first() != Some(&0) || offsets.last() != Some(&indices.len()) {
            return Err(bad);
        }
        for (r, pair) in offsets.windows(2).enumerate() {
            let Some(row) = indices.get(pair[0]..pair[1]) else { return Err(bad) };
            if row.windows(2).any(|w| w[0] >= w[1]) || row.last().is_some_and(|c| *c >= self.cols) {
                return Err(bad);
            }
            for c in row {
                let i = r * self.cols + c;
                words[i / 64] |= 1 << (i % 64);
            }
        }
        Ok(Mask::new(words, self.rows * self.cols))
    }
}

fn push_le(out: &mut Vec<u8>, dtype: DType, x: usize) {
    out.extend_from_slice(&(x as u64).to_le_bytes()[..dtype.bits() / 8]);
}

fn read_le(bytes: &[u8], dtype: DType) -> Vec<usize> {
    bytes
        .chunks_exact(dtype.bits() / 8)
        .map(|c| {
            let mut word = [0; 8];
            word[..c.len()].copy_from_slice(c);
            u64::from_le_bytes(word) as usize
        })
        .collect()
}

/// The flat positions of each group of `m` places that lie `stride` apart, group by group. `stride * m`
/// divides the row, so groups never cross rows.
fn groups(len: usize, m: usize, stride: usize) -> impl Iterator<Item = impl Iterator<Item = usize>> {
    let span = m * stride;
    (0..len / span.max(1))
        .flat_map(move |s| (0..stride).map(move |k| (0..m).map(move |t| s * span + t * stride + k)))
}

fn smallest(mask: &Mask, rows: usize, cols: usize, stride: usize) -> MaskForm {
    let kept = mask.kept();
    let mut forms = vec![MaskForm::Bitmask { kept }, MaskForm::Csr { kept }];
    for m in GROUPS {
        if let Some(n) = uniform_groups(mask, cols, m, stride) {
            forms.insert(0, MaskForm::Nm { n, m, stride });
        }
    }
    // `min_by_key` takes the first of equals.
    forms
        .into_iter()
        .filter_map(|form| form.parts(rows, cols).map(|parts| Choice { form, parts }))
        .min_by_key(Choice::bytes)
        .map_or(MaskForm::Bitmask { kept }, |choice| choice.form)
}

/// How many entries every group of `m` keeps, where they all keep the same number.
fn uniform_groups(mask: &Mask, cols: usize, m: usize, stride: usize) -> Option<usize> {
    if mask.len() == 0
        || stride == 0
        || !cols.is_multiple_of(m * stride)
        || !mask.kept().is_multiple_of(mask.len() / m)
    {
        return None;
    }
    let n = mask.kept() / (mask.len() / m);
    let all = if stride == 1 {
        kernels::prune::uniform_groups(mask.words(0..mask.len()), mask.len(), m, n)
    } else {
        groups(mask.len(), m, stride).all(|group| group.filter(|i| mask.has(*i)).count() == n)
    };
    all.then_some(n)
}

fn binomial(n: usize, k: usize) -> u64 {
    (0..k as u64).fold(1, |c, i| c * (n as u64 - i) / (i + 1))
}

/// Bits of the number of a combination of `n` out of `m`.
fn pattern_bits(n: usize, m: usize) -> usize {
    (u64::BITS - (binomial(m, n) - 1).leading_zeros()) as usize
}

/// Number of a combination in the combinatorial number system: the sum of C(place, i + 1) over its places.
fn pattern_rank(places: impl Iterator<Item = bool>) -> u64 {
    places.enumerate().filter(|(_, on)| *on).zip(1..).map(|((place, _), i)| binomial_or_zero(place, i)).sum()
}

fn binomial_or_zero(n: usize, k: usize) -> u64 {
    if n < k { 0 } else { binomial(n, k) }
}

/// Inverse of [`pattern_rank`].
fn pattern_places(mut rank: u64, n: usize, m: usize) -> Option<Vec<bool>> {
    if rank >= binomial(m, n) {
        return None;
    }
    let mut on = vec![false; m];
    let mut top = m;
    for i in (1..=n).rev() {
        let place = (0..top).rev().find(|p| binomial_or_zero(*p, i) <= rank)?;
        rank -= binomial_or_zero(place, i);
        on[place] = true;
        top = place;
    }
    Some(on)
}

#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    pending: u64,
    filled: usize,
}

impl BitWriter {
    fn push(&mut self, value: u64, bits: usize) {
        self.pending |= value << self.filled;
        self.filled += bits;
        while self.filled >= 8 {
            self.bytes.push(self.pending as u8);
            self.pending >>= 8;
            self.filled -= 8;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        if self.filled > 0 {
            self.bytes.push(self.pending as u8);
        }
        self.bytes
    }
}

fn read_bits(bytes: &[u8], at: usize, bits: usize) -> u64 {
    let mut word = [0; 8];
    let first = at / 8;
    let slice = bytes.get(first..bytes.len().min(first + 8)).unwrap_or(&[]);
    word[..slice.len()].copy_from_slice(slice);
    (u64::from_le_bytes(word) >> (at % 8)) & ((1 << bits) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_mask_survives_storage(rows in 0_usize..20, cols in 0_usize..70, density in 0_u8..=255, seed in any::<u64>()) {
            let mut state = seed;
            let on = (0..rows * cols).filter(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                ((state >> 56) as u8) < density
            });
            let mask = Arc::new(Mask::from_positions(on, rows * cols));
            let stored = StoredMask::encode(&mask, rows, cols, 1);
            prop_assert_eq!(&stored.read().unwrap(), &*mask);
            prop_assert_eq!(stored.stored_bytes(), StoredMask::form(&mask, rows, cols, 1).bytes());
            prop_assert!(stored.stored_bytes() <= (rows * cols).div_ceil(8));
        }

        #[test]
        fn patterns_are_numbered_without_gaps(n in 0_usize..=8, m in prop::sample::select(vec![8_usize, 16])) {
            for rank in 0..binomial(m, n).min(500) {
                let places = pattern_places(rank, n, m).unwrap();
                prop_assert_eq!(places.iter().filter(|x| **x).count(), n);
                prop_assert_eq!(pattern_rank(places.into_iter()), rank);
            }
            prop_assert!(pattern_places(binomial(m, n), n, m).is_none());
        }
    }

    #[test]
    fn two_of_four_takes_three_bits_a_group() {
        let mask = Arc::new(Mask::from_positions((0..64).filter(|i| i % 4 < 2), 64));
        let stored = StoredMask::encode(&mask, 4, 16, 1);
        assert_eq!(stored.form, MaskForm::Nm { n: 2, m: 4, stride: 1 });
        assert_eq!(stored.stored_bytes(), 16 * 3 / 8);
        assert_eq!(stored.read().unwrap(), *mask);
    }

    #[test]
    fn groups_of_a_convolution_run_along_the_inputs() {
        // [1, 4, 1, 2]: places of input 0..4 at kernel position 0 are 0, 2, 4, 6.
        let all: Vec<Vec<usize>> = groups(8, 4, 2).map(Iterator::collect).collect();
        assert_eq!(all, [vec![0, 2, 4, 6], vec![1, 3, 5, 7]]);
    }
}
