//! Affine codes: `x = scale * (code - zero)`, a scale and an integer zero for each block of entries.

use super::codes::Codes;
use super::mask::Mask;
use super::values::Values;
use crate::kernels::memory::{self, Slot};
use crate::kernels::quantize::decode_runs;
use crate::{Fault, Float};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::ops::Range;

/// Which entries share one scale and one zero point.
///
/// For a weight `[64, 128]` (a convolution `[out, in, kh, kw]` counts as `[out, in * kh * kw]`):
/// `Tensor` makes 1 scale, `Channel` 64 and `Group { size: 32 }` makes `[64, 4]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// The whole weight.
    Tensor,
    /// Each output (row).
    Channel,
    /// Each run of `size` inputs within a row; `size` divides the inputs.
    Group {
        /// Entries in a group.
        size: usize,
    },
}

impl Granularity {
    /// Entries that share a scale, in a matrix of `rows` x `cols`. Blocks are runs in row-major order.
    pub(crate) fn block(self, rows: usize, cols: usize) -> usize {
        match self {
            Self::Tensor => rows * cols,
            Self::Channel => cols,
            Self::Group { size } => size,
        }
    }
}

/// The codes of a leaf's kept entries, and what they mean.
///
/// `zero` is `None` where every zero point is the middle code, `2^(bits - 1)`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Affine<T: Float> {
    pub granularity: Granularity,
    pub scale: Values<T>,
    pub zero: Option<Codes>,
    pub codes: Codes,
}

impl<T: Float> Affine<T> {
    pub fn bits(&self) -> u8 {
        self.codes.bits()
    }

    /// The code that means zero where no zero points are stored.
    pub fn middle(bits: u8) -> u8 {
        1 << (bits.clamp(1, 8) - 1)
    }

    /// Zero points of the blocks in `range`.
    pub fn zeros(&self, range: Range<usize>) -> Result<Vec<u8>, Fault> {
        match &self.zero {
            Some(zero) => zero.unpack(range),
            None => Ok(vec![Self::middle(self.bits()); range.len()]),
        }
    }

    /// The numbers that the kept entries within the flat `range` stand for. `block` is the length of a run
    /// that shares a scale; `mask` is the leaf's, if it has one.
    pub fn decode(&self, range: Range<usize>, block: usize, mask: Option<&Mask>) -> Result<Vec<T>, Fault> {
        let rank = |i: usize| mask.map_or(i, |m| m.rank(i));
        let kept = rank(range.end) - rank(range.start);
        let room = memory::reserve(kept).map_err(|_| Fault::Form("its numbers do not fit in memory"))?;
        let piece = std::iter::once((kept, range));
        let (values, _) = memory::fill(room, piece, |range, slot| self.decode_to(range, block, mask, slot))?;
        Ok(values)
    }

    /// The same numbers, put into `out`.
    pub fn decode_to(
        &self,
        range: Range<usize>,
        block: usize,
        mask: Option<&Mask>,
        out: &mut Slot<'_, T>,
    ) -> Result<(), Fault> {
        let Some(part) = self.part(range, block, mask)? else { return Ok(()) };
        let codes = self.codes.read(part.kept.clone())?;
        decode_runs(&codes, part.runs(), out);
        Ok(())
    }

    /// The same entries as `code - zero`.
    pub fn decode_integers(
        &self,
        range: Range<usize>,
        block: usize,
        mask: Option<&Mask>,
    ) -> Result<Vec<i16>, Fault> {
        let Some(part) = self.part(range, block, mask)? else { return Ok(Vec::new()) };
        let codes = self.codes.read(part.kept.clone())?;
        let mut out = Vec::with_capacity(codes.len());
        let mut rest = &codes[..];
        for (len, _, zero) in part.runs() {
            let (run, later) = rest.split_at(len);
            out.extend(run.iter().map(|code| i16::from(*code) - i16::from(zero)));
            rest = later;
        }
        Ok(out)
    }

    /// The runs of kept entries within the flat `range`; `None` where there are none.
    fn part(
        &self,
        range: Range<usize>,
        block: usize,
        mask: Option<&Mask>,
    ) -> Result<Option<Part<'_, T>>, Fault> {
        let rank = |i: usize| mask.map_or(i, |m| m.rank(i));
        let kept = rank(range.start)..rank(range.end);
        if kept.is_empty() {
            return Ok(None);
        }
        let block = block.max(1);
        let blocks = range.start / block..range.end.div_ceil(block);
        let scales = self.scale.read(blocks.clone())?;
        let zeros = self.zeros(blocks.clone())?;
        let ends = blocks.map(|b| rank(((b + 1) * block).min(range.end))).collect();
        Ok(Some(Part { kept, ends, scales, zeros }))
    }

    pub fn stored_bytes(&self) -> usize {
        self.codes.stored_bytes()
            + self.scale.stored_bytes()
            + self.zero.as_ref().map_or(0, Codes::stored_bytes)
    }

    pub fn resident_bytes(&self) -> usize {
        self.codes.resident_bytes()
            + self.scale.resident_bytes()
            + self.zero.as_ref().map_or(0, Codes::resident_bytes)
    }

    pub fn load(&self) -> Result<Self, Fault> {
        Ok(Self {
            granularity: self.granularity,
            scale: self.scale.load()?,
            zero: self.zero.as_ref().map(Codes::load).transpose()?,
            codes: self.codes.load()?,
        })
    }
}

/// Entries in a row of runs that share a scale.
struct Part<'a, T: Float> {
    /// Which of the kept entries.
    kept: Range<usize>,
    /// For each run, the kept entries before its end.
    ends: Vec<usize>,
    scales: Cow<'a, [T]>,
    zeros: Vec<u8>,
}

impl<T: Float> Part<'_, T> {
    /// Length, scale and zero point of each run.
    fn runs(&self) -> impl Iterator<Item = (usize, T, u8)> {
        let mut start = self.kept.start;
        let lens = self.ends.iter().map(move |end| end - std::mem::replace(&mut start, *end));
        lens.zip(&*self.scales).zip(&self.zeros).map(|((len, scale), zero)| (len, *scale, *zero))
    }
}

/// The number that `code` stands for.
pub(crate) fn value<T: Float>(scale: T, zero: i16, code: u8) -> T {
    T::narrow(f64::from(i16::from(code) - zero)) * scale
}
