//! How sums reach the result, as it lies or transposed.

use crate::kernels::cpu::fast;
use crate::kernels::transpose::transpose;
use bytemuck::Pod;
use num_traits::Float;

/// Room for the rows of the highest tile, in whole vectors.
pub const HEIGHT: usize = 16;
/// Columns of the widest.
pub const WIDTH: usize = 32;

/// Where the result goes: the first number is that of the part.
pub struct Out<'a, T> {
    pub values: &'a mut [T],
    pub stride: usize,
    /// Columns of the product are rows here.
    pub turned: bool,
}

impl<T: Float + Pod> Out<'_, T> {
    /// `beta * out + alpha * sums` for the columns from `column` of which there are `width`; rows of sums are
    /// `apart`. Not compiled again for each tile.
    #[inline(never)]
    pub(super) fn put(
        &mut self,
        at: (usize, usize),
        width: usize,
        (alpha, beta): (T, T),
        (sums, apart): (&[T], usize),
    ) {
        let new = |old: T, sum: T| {
            let sum = alpha * sum;
            if beta == T::zero() { sum } else { beta * old + sum }
        };
        fast(
            #[inline(always)]
            || {
                if self.turned {
                    self.put_turned(at, width, new, (sums, apart));
                } else {
                    self.put_straight(at, width, new, (sums, apart));
                }
            },
        );
    }

    #[inline(always)]
    fn put_straight(
        &mut self,
        (row, column): (usize, usize),
        width: usize,
        new: impl Fn(T, T) -> T,
        (sums, apart): (&[T], usize),
    ) {
        for (i, sums) in sums.chunks_exact(apart).enumerate() {
            let to = &mut self.values[(row + i) * self.stride + column..][..width];
            for (to, sum) in to.iter_mut().zip(sums) {
                *to = new(*to, *sum);
            }
        }
    }

    #[inline(always)]
    fn put_turned(
        &mut self,
        (row, column): (usize, usize),
        width: usize,
        new: impl Fn(T, T) -> T,
        (sums, apart): (&[T], usize),
    ) {
        let mut turned = [[T::zero(); HEIGHT]; WIDTH];
        let rows = sums.len() / apart;
        transpose((sums, apart), [rows, width], (turned.as_flattened_mut(), HEIGHT));
        for (j, turned) in turned[..width].iter().enumerate() {
            let to = &mut self.values[(column + j) * self.stride + row..][..rows];
            for (to, sum) in to.iter_mut().zip(turned) {
                *to = new(*to, *sum);
            }
        }
    }

    /// `out = beta * out`, for a product without steps.
    pub(super) fn scale(&mut self, rows: usize, columns: usize, beta: T) {
        let (rows, columns) = if self.turned { (columns, rows) } else { (rows, columns) };
        for row in self.values.chunks_mut(self.stride.max(1)).take(rows) {
            for to in &mut row[..columns] {
                *to = if beta == T::zero() { beta } else { beta * *to };
            }
        }
    }
}
