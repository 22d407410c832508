//! [`Decoder`]: the codes of a leaf, in memory and ready to be read row by row.

use super::mask::Mask;
use super::{Affine, Leaf};
use crate::kernels::unpack;
use crate::{Fault, Float};
use std::borrow::Cow;
use std::ops::Range;

/// Codes that are unpacked at a time.
const CHUNK: usize = 256;

pub(super) struct Decoder<'a, T: Float> {
    packed: Cow<'a, [u8]>,
    bits: u8,
    scales: Cow<'a, [T]>,
    /// Of each block; `None` where all are the middle code.
    zeros: Option<Vec<u8>>,
    /// Entries that share a scale.
    run: usize,
}

impl<'a, T: Float> Decoder<'a, T> {
    pub fn new(leaf: &Leaf<T>, affine: &'a Affine<T>) -> Result<Self, Fault> {
        let zeros = match &affine.zero {
            None => None,
            Some(zero) => Some(zero.unpack(0..zero.len())?),
        };
        Ok(Self {
            packed: affine.codes.bytes()?,
            bits: affine.bits(),
            scales: affine.scale.read(0..affine.scale.len())?,
            zeros,
            run: affine.granularity.block(leaf.rows, leaf.cols).max(1),
        })
    }

    /// The codes as they are, where each is a byte.
    pub fn bytes(&self) -> Option<&[u8]> {
        (self.bits == 8).then_some(&self.packed)
    }

    /// Scale and zero point of the entry at a flat position.
    pub fn grid(&self, at: usize) -> (T, i16) {
        let block = at / self.run;
        let zero = self.zeros.as_ref().map_or(Affine::<T>::middle(self.bits), |zeros| zeros[block]);
        (self.scales[block], i16::from(zero))
    }

    /// `code - zero` of all entries of the flat `range`; a pruned one is a number that adds nothing.
    pub fn spread(&self, range: Range<usize>, mask: Option<&Mask>, out: &mut [i16]) {
        let copy = |_, integers: &[i16], out: &mut [i16]| out.copy_from_slice(integers);
        let Some(mask) = mask else { return self.decode(range, None, out, copy) };
        let mut kept = vec![0; mask.rank(range.end) - mask.rank(range.start)];
        self.decode(range.clone(), Some(mask), &mut kept, copy);
        out.fill(0);
        mask.positions(range.clone()).zip(kept).for_each(|(i, code)| out[i - range.start] = code);
    }

    /// The numbers that the kept entries of the flat `range` stand for.
    pub fn values(&self, range: Range<usize>, mask: Option<&Mask>, out: &mut [T]) {
        self.decode(range, mask, out, T::scale_integers);
    }

    fn decode<R>(
        &self,
        range: Range<usize>,
        mask: Option<&Mask>,
        out: &mut [R],
        put: impl Fn(T, &[i16], &mut [R]),
    ) {
        let rank = |i: usize| mask.map_or(i, |m| m.rank(i));
        let mut integers = [0_i16; CHUNK];
        let (mut at, mut code) = (range.start, rank(range.start));
        let first = code;
        while at < range.end {
            let end = range.end.min((at / self.run + 1) * self.run);
            let (scale, zero) = self.grid(at);
            let last = rank(end);
            while code < last {
                let n = CHUNK.min(last - code);
                let integers = &mut integers[..n];
                unpack::map(&self.packed, self.bits, code, integers, |c| i16::from(c) - zero);
                put(scale, integers, &mut out[code - first..][..n]);
                code += n;
            }
            at = end;
        }
    }
}
