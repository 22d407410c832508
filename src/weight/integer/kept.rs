//! The product of a pruned weight with one input: kept codes meet the inputs at their places, which are brought
//! together in registers.

use super::super::zeros;
use super::{FLIP, MIN_PARALLEL, Product};
use crate::kernels::products::EXACT;
use crate::kernels::sparse::{Bits, ByteDots, WORD};
use crate::{Fault, Float, parallel};

impl<T: Float> Product<'_, T> {
    /// `[m, 1]` for one input; `None` where the weight is not pruned, its codes are not bytes, a row has several scales
    /// or a sum of one might not fit, and where the CPU has no way that is worth it.
    pub(super) fn kept(&self) -> Result<Option<Vec<T>>, Fault> {
        let Self { decoder, k, .. } = self;
        let k = *k;
        let (Some(mask), Some(kept)) = (self.mask, decoder.packed(8)) else { return Ok(None) };
        let Some(dots) = ByteDots::new(kept.len(), mask.len()) else { return Ok(None) };
        if self.n != 1 || self.step != k || k > EXACT {
            return Ok(None);
        }
        let mut codes = vec![0; k];
        self.encode(0, &mut codes);
        // For the kernel around 128, so that they are signed.
        let mut x: Vec<i8> = codes.iter().map(|code| (code ^ FLIP) as i8).collect();
        x.resize(k.next_multiple_of(WORD), 0);
        let (offset, scale) = (i32::from(FLIP) - self.grids.zero(0), self.grids.scale(0));
        let mut out = zeros::<T>(self.m, 1)?;
        let height = self.height(1, MIN_PARALLEL / 16);
        parallel::for_each_chunk(&mut out, height, |i, out| {
            for (row, out) in (i * height..).zip(out) {
                let bits = Bits { words: mask.words(0..mask.len()), start: row * k, cols: k };
                let (weight, zero) = decoder.grid(row, 0);
                let sum = dots.sum(bits, &kept[mask.rank(row * k)..], (zero, offset), &x);
                *out = T::narrow(weight.widen() * f64::from(sum) * scale);
            }
        });
        Ok(Some(out))
    }
}
