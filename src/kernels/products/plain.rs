//! The portable forms of [`Tiles`] and [`Strips`]: what runs where there is no other, and what the others are
//! tested against.

use super::dots::Tiles;
use super::panels::FEW;
use super::strips::Strips;
use crate::kernels::cpu::multiply_add;
use num_traits::{Float, NumAssign};
use std::iter::Sum;
use std::marker::PhantomData;

/// Floats. `FUSED`: each product and sum is rounded once, which is slow where the CPU has no instruction for
/// it.
#[derive(Clone, Copy, Default)]
pub struct Plain<T, const FUSED: bool>(PhantomData<T>);

/// Sums that go on side by side, as vectors have them.
const SIDE: usize = 8;

impl<T: Float + NumAssign + bytemuck::Pod + Default + Sum, const FUSED: bool> Plain<T, FUSED> {
    #[inline(always)]
    fn dot(w: &[T], x: &[T]) -> T {
        let (w, w_rest) = w.as_chunks::<SIDE>();
        let (x, x_rest) = x.as_chunks::<SIDE>();
        let mut sums = [T::zero(); SIDE];
        for (w, x) in w.iter().zip(x) {
            sums.iter_mut()
                .zip(w)
                .zip(x)
                .for_each(|((sum, w), x)| *sum = multiply_add::<T, FUSED>(*w, *x, *sum));
        }
        let rest = sums.iter_mut().zip(w_rest).zip(x_rest);
        rest.for_each(|((sum, w), x)| *sum = multiply_add::<T, FUSED>(*w, *x, *sum));
        sums.into_iter().sum()
    }

    /// `SIDE` of the lanes at a time: as many as leave registers for their operands.
    #[inline(always)]
    fn lanes<const R: usize>(w: [&[T]; R], x: &[T], lanes: usize, sums: &mut [T], width: usize) {
        for first in (0..lanes).step_by(SIDE) {
            let mut acc = [[T::zero(); SIDE]; R];
            for (i, x) in x.chunks_exact(lanes).enumerate() {
                let Some(x) = x[first..].first_chunk::<SIDE>() else { continue };
                for (acc, w) in acc.iter_mut().zip(w) {
                    for (acc, x) in acc.iter_mut().zip(x) {
                        *acc = multiply_add::<T, FUSED>(w[i], *x, *acc);
                    }
                }
            }
            for (r, acc) in acc.iter().enumerate() {
                sums[r * width + first..].iter_mut().zip(acc).for_each(|(sum, acc)| *sum += *acc);
            }
        }
    }
}

impl<T: Float + NumAssign + bytemuck::Pod + Default + Sum, const FUSED: bool> Tiles for Plain<T, FUSED> {
    type W = T;
    type X = T;
    type Sum = T;
    #[inline(always)]
    fn tile<const R: usize, const B: usize>(self, w: [&[T]; R], x: [&[T]; B]) -> [[T; FEW]; R] {
        w.map(|w| std::array::from_fn(|b| x.get(b).map_or(T::zero(), |x| Self::dot(w, x))))
    }
}

impl<T: Float + NumAssign + bytemuck::Pod + Default + Sum, const FUSED: bool> Strips for Plain<T, FUSED> {
    #[inline(always)]
    fn strip<const R: usize>(
        self,
        w: [&[T]; R],
        x: &[T],
        lanes: usize,
        sums: &mut [T],
        width: usize,
        _: [&[u8]; R],
    ) {
        Self::lanes(w, x, lanes, sums, width);
    }
}
