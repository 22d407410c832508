//! [`Decoder`]: the codes of a leaf, in memory and ready to be read row by row.

use super::codebook::kept_range;
use super::mask::Mask;
use super::{Affine, Leaf};
use crate::kernels::products::Decode;
use crate::kernels::quantize::pack;
use crate::kernels::sparse::{Bits, expand_integers};
use crate::{Fault, Float};
use std::borrow::Cow;
use std::ops::Range;

/// The integers of some rows, from `first` on.
pub(super) struct Integers<'a, T: Float> {
    pub decoder: &'a Decoder<'a, T>,
    pub mask: Option<&'a Mask>,
    pub cols: usize,
    pub first: usize,
}

impl<T: Float> Integers<'_, T> {
    fn range(&self, row: usize, columns: Range<usize>) -> Range<usize> {
        let start = (self.first + row) * self.cols;
        start + columns.start..start + columns.end
    }
}

impl<T: Float> Decode<i16> for Integers<'_, T> {
    fn decode(&mut self, row: usize, columns: Range<usize>, to: &mut [i16]) {
        self.decoder.spread(self.range(row, columns), self.mask, to);
    }

    fn source(&self, row: usize, columns: Range<usize>) -> &[u8] {
        self.decoder.bytes(self.range(row, columns), self.mask)
    }
}

/// Codes that are unpacked at a time.
const CHUNK: usize = 512;

pub(super) struct Decoder<'a, T: Float> {
    packed: Cow<'a, [u8]>,
    bits: u8,
    scales: Cow<'a, [T]>,
    /// Of each block; `None` where all are the middle code.
    zeros: Option<Vec<u8>>,
    /// Entries that share a scale.
    run: usize,
    /// Scales of a row; 0 where all rows share one.
    per_row: usize,
}

impl<'a, T: Float> Decoder<'a, T> {
    pub fn new(leaf: &Leaf<T>, affine: &'a Affine<T>) -> Result<Self, Fault> {
        let zeros = match &affine.zero {
            None => None,
            Some(zero) => Some(zero.unpack(0..zero.len())?),
        };
        let run = affine.granularity.block(leaf.rows, leaf.cols).max(1);
        Ok(Self {
            packed: affine.codes.bytes()?,
            bits: affine.bits(),
            scales: affine.scale.read(0..affine.scale.len())?,
            zeros,
            run,
            per_row: leaf.cols / run,
        })
    }

    /// The codes as they are, where each has `bits`.
    pub fn packed(&self, bits: u8) -> Option<&[u8]> {
        (self.bits == bits).then_some(&self.packed)
    }

    /// Columns of a row that share a scale.
    pub fn step(&self, cols: usize) -> usize {
        self.run.min(cols).max(1)
    }

    /// Scale and zero point of a row's [`step`](Self::step) of columns, by its number.
    pub fn grid(&self, row: usize, step: usize) -> (T, u8) {
        self.block(row * self.per_row + step)
    }

    /// All of a row.
    pub fn grids(&self, row: usize) -> impl Iterator<Item = (T, u8)> {
        let first = row * self.per_row;
        (first..first + self.per_row.max(1)).map(|block| self.block(block))
    }

    fn block(&self, block: usize) -> (T, u8) {
        let zero = self.zeros.as_ref().map_or(Affine::<T>::middle(self.bits), |zeros| zeros[block]);
        (self.scales[block], zero)
    }

    /// `code - zero` of all entries of the flat `range`; a pruned one is a number that adds nothing.
    pub fn spread(&self, range: Range<usize>, mask: Option<&Mask>, out: &mut [i16]) {
        let Some(mask) = mask else { return self.integers(range, None, out) };
        let mut kept = [0; CHUNK];
        for (first, out) in range.clone().step_by(CHUNK).zip(out.chunks_mut(CHUNK)) {
            let part = first..first + out.len();
            let kept = &mut kept[..mask.rank(part.end) - mask.rank(part.start)];
            self.integers(part, Some(mask), kept);
            let bits = Bits { words: mask.words(0..mask.len()), start: first, cols: out.len() };
            expand_integers(bits, kept, out);
        }
    }

    /// `code - zero` of the kept entries of the flat `range`.
    fn integers(&self, range: Range<usize>, mask: Option<&Mask>, out: &mut [i16]) {
        if self.zeros.is_none() {
            // One zero point: no need to go from scale to scale.
            let first = kept_range(&range, mask).start;
            return pack::subtract_from(self.bits, &self.packed, first, Affine::<T>::middle(self.bits), out);
        }
        self.runs(range, mask, out, |first, (_, zero), out| {
            pack::subtract_from(self.bits, &self.packed, first, zero, out);
        });
    }

    /// The numbers that the kept entries of the flat `range` stand for.
    pub fn values(&self, range: Range<usize>, mask: Option<&Mask>, out: &mut [T]) {
        self.runs(range, mask, out, |first, grid, out| {
            pack::decode_from(self.bits, &self.packed, first, grid, out);
        });
    }

    /// The bytes that hold the codes of the flat `range`; none where it lies past the end.
    pub fn bytes(&self, range: Range<usize>, mask: Option<&Mask>) -> &[u8] {
        pack::bytes_of(self.bits, &self.packed, kept_range(&range, mask))
    }

    /// `put(number of the first code, grid, out)` for the kept entries of the flat `range`, one scale at a time.
    fn runs<R>(
        &self,
        range: Range<usize>,
        mask: Option<&Mask>,
        out: &mut [R],
        put: impl Fn(usize, (T, u8), &mut [R]),
    ) {
        let rank = |i: usize| mask.map_or(i, |m| m.rank(i));
        let (mut at, mut code) = (range.start, rank(range.start));
        let first = code;
        let mut block = at / self.run;
        while at < range.end {
            let end = range.end.min((block + 1) * self.run);
            let last = rank(end);
            put(code, self.block(block), &mut out[code - first..last - first]);
            (at, code) = (end, last);
            block += 1;
        }
    }
}
