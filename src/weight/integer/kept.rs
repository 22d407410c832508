//! The product of a pruned weight with one input: kept codes meet the inputs at their places, which are brought
//! together in registers.

use super::super::zeros;
use super::{FLIP, MIN_PARALLEL, Mask, Product};
use crate::kernels::products::EXACT;
use crate::kernels::sparse::{ByteDots, Bytes, Offsets, TOGETHER};
use crate::{Fault, Float, parallel};
use std::ops::Range;

impl<T: Float> Product<'_, T> {
    /// `[m, 1]` for one input; `None` where the weight is not pruned, its codes are not bytes, a row has several scales
    /// or a sum of one might not fit, and where the CPU has no way that is worth it.
    pub(super) fn kept(&self) -> Result<Option<Vec<T>>, Fault> {
        let (Some(mask), Some(kept)) = (self.mask, self.decoder.packed(8)) else { return Ok(None) };
        if self.n != 1 || self.step != self.k || self.k > EXACT {
            return Ok(None);
        }
        match mask.offsets(self.k) {
            Some(offsets) => self.by_offsets(offsets, kept).map(Some),
            None if ByteDots::suit(mask.bits(0..self.k)) => self.by_words(mask, kept).map(Some),
            None => Ok(None),
        }
    }

    fn by_offsets(&self, offsets: &Offsets, kept: &[u8]) -> Result<Vec<T>, Fault> {
        let (x, offset) = (self.input(), self.offset());
        self.each(MIN_PARALLEL / 4, |rows, zeros, sums| {
            let first = rows.start;
            offsets.for_each_part(rows, kept, |rows, codes| {
                let own = rows.start - first..rows.end - first;
                offsets.sums_of_bytes(rows.start, (codes, &zeros[own.clone()]), (&x, offset), &mut sums[own]);
            });
        })
    }

    fn by_words(&self, mask: &Mask, kept: &[u8]) -> Result<Vec<T>, Fault> {
        let (k, dots, offset) = (self.k, ByteDots::new(self.input()), self.offset());
        self.each(MIN_PARALLEL / 16, |rows, zeros, sums| {
            for ((row, zero), sum) in rows.zip(zeros).zip(sums) {
                let kept = &kept[mask.rank(row * k)..];
                *sum = dots.sum(mask.bits(row * k..(row + 1) * k), kept, (*zero, offset));
            }
        })
    }

    /// The codes of the only input: around 128, so that they are signed.
    fn input(&self) -> Bytes {
        let mut codes = vec![0; self.k];
        self.encode(0, &mut codes);
        Bytes::new(codes.into_iter().map(|code| (code ^ FLIP) as i8))
    }

    /// What is to be added to such a code.
    fn offset(&self) -> i32 {
        i32::from(FLIP) - self.grids.zero(0)
    }

    /// The product from the sums of rows, which `f(rows, their zero points, sums)` finds for `work` entries at a time.
    fn each(
        &self,
        work: usize,
        f: impl Fn(Range<usize>, &[u8], &mut [i32]) + Sync + Send,
    ) -> Result<Vec<T>, Fault> {
        let mut out = zeros::<T>(self.m, 1)?;
        let height = self.height(TOGETHER, work);
        parallel::for_each_chunk(&mut out, height, |i, out| {
            let rows = i * height..i * height + out.len();
            let (scales, zeros) = self.decoder.first_grids(rows.clone());
            let mut sums = vec![0; out.len()];
            f(rows, &zeros, &mut sums);
            for ((out, scale), sum) in out.iter_mut().zip(scales).zip(sums) {
                *out = T::narrow(scale.widen() * f64::from(sum) * self.grids.scale(0));
            }
        });
        Ok(out)
    }
}
