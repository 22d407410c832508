//! Affine codes: `x = scale * (code - zero)`, a scale and an integer zero for each block of entries.

use super::codes::Codes;
use super::mask::Mask;
use super::values::Values;
use crate::{Fault, Float};
use serde::{Deserialize, Serialize};
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
        self.decode_with(range, block, mask, value)
    }

    /// The same entries as `code - zero`.
    pub fn decode_integers(
        &self,
        range: Range<usize>,
        block: usize,
        mask: Option<&Mask>,
    ) -> Result<Vec<i16>, Fault> {
        self.decode_with(range, block, mask, |_, zero, code| i16::from(code) - zero)
    }

    fn decode_with<R>(
        &self,
        range: Range<usize>,
        block: usize,
        mask: Option<&Mask>,
        f: impl Fn(T, i16, u8) -> R,
    ) -> Result<Vec<R>, Fault> {
        let rank = |i: usize| mask.map_or(i, |m| m.rank(i));
        let kept = rank(range.start)..rank(range.end);
        if kept.is_empty() {
            return Ok(Vec::new());
        }
        let block = block.max(1);
        let blocks = range.start / block..range.end.div_ceil(block);
        let scales = self.scale.read(blocks.clone())?;
        let zeros = self.zeros(blocks.clone())?;
        let codes = self.codes.unpack(kept.clone())?;
        let mut out = Vec::with_capacity(codes.len());
        for (i, b) in blocks.enumerate() {
            let first = rank((b * block).max(range.start)) - kept.start;
            let last = rank(((b + 1) * block).min(range.end)) - kept.start;
            let (scale, zero) = (scales[i], i16::from(zeros[i]));
            out.extend(codes[first..last].iter().map(|c| f(scale, zero, *c)));
        }
        Ok(out)
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

/// The number that `code` stands for.
pub(crate) fn value<T: Float>(scale: T, zero: i16, code: u8) -> T {
    T::narrow(f64::from(i16::from(code) - zero)) * scale
}
