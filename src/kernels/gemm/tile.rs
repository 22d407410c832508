//! The inner loop of a product: a few rows of the left operand meet a panel of the right one, and their sums
//! stay in registers from the first step to the last.

#![allow(clippy::needless_range_loop, reason = "several arrays of one length, in step")]

use crate::kernels::cpu::multiply_add;
use crate::kernels::transpose::transpose;
use bytemuck::Pod;
use num_traits::Float;
use std::ops::Range;

/// The left operand of a product: `steps` numbers in each row.
pub trait Left<T>: Copy + Sync {
    /// `sums[i][j] += row first + i at each of the steps * panel[step][j]`, step by step.
    fn tile<const M: usize, const N: usize, const FUSED: bool>(
        self,
        first: usize,
        steps: Range<usize>,
        panel: &[T],
        sums: &mut [[T; N]; M],
    );
}

/// Rows that lie along the sum, `0` apart by the second number.
#[derive(Clone, Copy)]
pub struct Along<'a, T>(pub &'a [T], pub usize);

/// Rows that lie across it: all of a step are neighbours, steps are the second number apart.
#[derive(Clone, Copy)]
pub struct Across<'a, T>(pub &'a [T], pub usize);

impl<T: Float + Sync> Left<T> for Along<'_, T> {
    #[inline(always)]
    fn tile<const M: usize, const N: usize, const FUSED: bool>(
        self,
        first: usize,
        steps: Range<usize>,
        panel: &[T],
        sums: &mut [[T; N]; M],
    ) {
        // A loop: closures would not be compiled for the instruction set of their surroundings.
        let mut rows = [&[][..]; M];
        for i in 0..M {
            rows[i] = &self.0[(first + i) * self.1..][steps.start..steps.end];
        }
        along::<T, M, N, FUSED>(rows, panel.as_chunks::<N>().0, sums);
    }
}

/// `sums += rows * panel`, for rows as long as the panel.
#[inline(always)]
pub fn along<T: Float, const M: usize, const N: usize, const FUSED: bool>(
    rows: [&[T]; M],
    panel: &[[T; N]],
    sums: &mut [[T; N]; M],
) {
    // A copy that nothing else points to can stay in registers.
    let mut now = *sums;
    let mut equal = rows;
    for i in 0..M {
        equal[i] = &rows[i][..panel.len()];
    }
    for (k, b) in panel.iter().enumerate() {
        for i in 0..M {
            let a = equal[i][k];
            for j in 0..N {
                now[i][j] = multiply_add::<T, FUSED>(a, b[j], now[i][j]);
            }
        }
    }
    *sums = now;
}

impl<T: Float + Sync> Left<T> for Across<'_, T> {
    #[inline(always)]
    fn tile<const M: usize, const N: usize, const FUSED: bool>(
        self,
        first: usize,
        steps: Range<usize>,
        panel: &[T],
        sums: &mut [[T; N]; M],
    ) {
        let mut now = *sums;
        for (k, b) in steps.zip(panel.as_chunks::<N>().0) {
            let Some(a) = self.0[k * self.1 + first..].first_chunk::<M>() else { return };
            for i in 0..M {
                for j in 0..N {
                    now[i][j] = multiply_add::<T, FUSED>(a[i], b[j], now[i][j]);
                }
            }
        }
        *sums = now;
    }
}

/// The right operand of a product, as it is brought into panels.
pub trait Right<T>: Copy + Sync {
    /// `panel[step][j] = column first + j at each of the steps`, for `width` columns and panels of `lanes`.
    /// The other lanes may hold any numbers.
    fn pack(self, steps: Range<usize>, first: usize, width: usize, lanes: usize, panel: &mut [T]);
}

impl<T: Float + Sync> Right<T> for Across<'_, T> {
    #[inline(always)]
    fn pack(self, steps: Range<usize>, first: usize, width: usize, lanes: usize, panel: &mut [T]) {
        for (k, to) in steps.zip(panel.chunks_exact_mut(lanes)) {
            let from = &self.0[k * self.1 + first..][..width];
            // Lengths that the compiler knows, for nearly all of it.
            match (from.as_chunks::<8>().0, to.as_chunks_mut::<8>().0) {
                ([a, b, c, d], [e, f, g, h]) => (*e, *f, *g, *h) = (*a, *b, *c, *d),
                ([a, b], [c, d]) => (*c, *d) = (*a, *b),
                ([a], [b]) if width == 8 => *b = *a,
                _ => to[..width].copy_from_slice(from),
            }
        }
    }
}

impl<T: Pod + Sync> Right<T> for Along<'_, T> {
    #[inline(always)]
    fn pack(self, steps: Range<usize>, first: usize, width: usize, lanes: usize, panel: &mut [T]) {
        let from = &self.0[first * self.1 + steps.start..];
        transpose((from, self.1), [width, steps.len()], (panel, lanes));
    }
}
