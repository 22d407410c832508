//! [`Decoder`]: the codes of a leaf, in memory and ready to be read row by row.

use super::codebook::kept_range;
use super::mask::Mask;
use super::{Affine, Leaf};
use crate::kernels::cpu::fast;
use crate::kernels::products::Grids;
use crate::kernels::quantize::pack;
use crate::kernels::sparse::expand_bytes;
use crate::{Fault, Float};
use std::borrow::Cow;
use std::ops::Range;

/// Codes that are unpacked at a time.
const CHUNK: usize = 512;
/// The middle of 8 bits.
const MIDDLE: i32 = 128;

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

    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Columns of a row that share a scale.
    pub fn step(&self, cols: usize) -> usize {
        self.run.min(cols).max(1)
    }

    /// Scale and zero point of a row's [`step`](Self::step) of columns, by its number.
    pub fn grid(&self, row: usize, step: usize) -> (T, u8) {
        self.block(row * self.per_row + step)
    }

    /// The scales and zero points of the first steps of some rows.
    pub fn first_grids(&self, rows: Range<usize>) -> (Vec<T>, Vec<u8>) {
        rows.map(|row| self.grid(row, 0)).unzip()
    }

    /// All of a row.
    pub fn grids(&self, row: usize) -> Grids<'_, T> {
        let blocks = row * self.per_row..row * self.per_row + self.per_row.max(1);
        let zeros = self.zeros.as_ref().map(|zeros| &zeros[blocks.clone()]);
        Grids { scales: &self.scales[blocks], zeros, middle: Affine::<T>::middle(self.bits) }
    }

    fn block(&self, block: usize) -> (T, u8) {
        let zero = self.zeros.as_ref().map_or(Affine::<T>::middle(self.bits), |zeros| zeros[block]);
        (self.scales[block], zero)
    }

    /// What stands for 0 among the [`signed`](Self::signed) integers of a row's step.
    pub fn signed_zero(&self, row: usize, step: usize) -> i32 {
        if self.bits == 8 { i32::from(self.grid(row, step).1) - MIDDLE } else { 0 }
    }

    /// Whether that is always 0.
    pub fn is_centred(&self) -> bool {
        self.bits < 8 || self.zeros.is_none()
    }

    /// All entries of the flat `range`, which lies in one row, as signed integers that a byte holds: `code - zero`,
    /// or `code - 128` where there are 8 bits.
    pub fn signed(&self, range: Range<usize>, mask: Option<&Mask>, out: &mut [i8]) {
        let out: &mut [u8] = bytemuck::cast_slice_mut(out);
        let one_zero = self.bits == 8 || self.zeros.is_none();
        let less = |first: usize, zero: u8, out: &mut [u8]| {
            pack::unpack_less(self.bits, &self.packed, first, zero, out);
        };
        let Some(mask) = mask else {
            if one_zero {
                return less(range.start, Affine::<T>::middle(self.bits), out);
            }
            return self.runs(range, None, out, |first, (_, zero), out| less(first, zero, out));
        };
        self.codes(range.clone(), mask, out);
        if one_zero {
            return subtract(Affine::<T>::middle(self.bits), out);
        }
        self.runs(range, None, out, |_, (_, zero), out| subtract(zero, out));
    }

    /// The codes of all entries of the flat `range`, which lies in one row: for pruned ones what stands for 0.
    pub fn codes(&self, range: Range<usize>, mask: &Mask, out: &mut [u8]) {
        if self.zeros.is_none() {
            return self.spread(range.start, mask, Affine::<T>::middle(self.bits), out);
        }
        let mut at = range.start;
        self.runs(range, None, out, |_, (_, zero), out| {
            self.spread(at, mask, zero, out);
            at += out.len();
        });
    }

    /// Some of them, from `start` on, with one `zero`.
    fn spread(&self, start: usize, mask: &Mask, zero: u8, out: &mut [u8]) {
        let place = |start: usize, kept: &[u8], out: &mut [u8]| {
            expand_bytes(mask.bits(start..start + out.len()), kept, zero, out);
        };
        if self.bits == 8 {
            return place(start, &self.packed[mask.rank(start)..], out);
        }
        let mut kept = [0; CHUNK];
        for (start, out) in (start..).step_by(CHUNK).zip(out.chunks_mut(CHUNK)) {
            let range = mask.rank(start)..mask.rank(start + out.len());
            let kept = &mut kept[..range.len()];
            pack::unpack_from(self.bits, &self.packed, range.start, kept);
            place(start, kept, out);
        }
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
        mut put: impl FnMut(usize, (T, u8), &mut [R]),
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

/// `code - zero`, in as many bits.
fn subtract(zero: u8, codes: &mut [u8]) {
    fast(
        #[inline(always)]
        || codes.iter_mut().for_each(|code| *code = code.wrapping_sub(zero)),
    );
}
