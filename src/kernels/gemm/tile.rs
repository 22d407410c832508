//! The inner loop of a product: a few rows of the left operand meet a panel of the right one, and their sums
//! stay in registers from the first step to the last.

#![allow(clippy::needless_range_loop, reason = "several arrays of one length, in step")]

use super::vector::Vector;
use crate::kernels::transpose::transpose;
use bytemuck::Pod;
use num_traits::Float;
use std::ops::Range;

/// The left operand of a product: `steps` numbers in each row.
pub trait Left<T>: Copy + Sync {
    /// `sums[i] += row first + i at each of the steps * panel[step]`, step by step; a step of the panel is `W`
    /// vectors.
    fn tile<V: Vector<T>, const M: usize, const W: usize>(
        self,
        cpu: V::Cpu,
        first: usize,
        steps: Range<usize>,
        panel: &[T],
        sums: &mut [[V; W]; M],
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
    fn tile<V: Vector<T>, const M: usize, const W: usize>(
        self,
        cpu: V::Cpu,
        first: usize,
        steps: Range<usize>,
        panel: &[T],
        sums: &mut [[V; W]; M],
    ) {
        // A loop: closures would not be compiled for the instruction set of their surroundings.
        let mut rows = [&[][..]; M];
        for i in 0..M {
            rows[i] = &self.0[(first + i) * self.1..][steps.start..steps.end];
        }
        along(cpu, rows, panel, sums);
    }
}

/// `sums += rows * panel`, for rows as long as the panel.
#[inline(always)]
pub fn along<T: Copy, V: Vector<T>, const M: usize, const W: usize>(
    cpu: V::Cpu,
    rows: [&[T]; M],
    panel: &[T],
    sums: &mut [[V; W]; M],
) {
    let steps = panel.len() / (W * V::LEN);
    // A copy that nothing else points to can stay in registers.
    let mut now = *sums;
    let mut equal = rows;
    for i in 0..M {
        equal[i] = &rows[i][..steps];
    }
    for k in 0..steps {
        let b = step::<T, V, W>(cpu, panel, k);
        for i in 0..M {
            let a = equal[i][k];
            for w in 0..W {
                now[i][w] = now[i][w].add_product(a, b[w]);
            }
        }
    }
    *sums = now;
}

/// `rows * right`, where a step of the right operand is `W` vectors of `values` from its place.
#[inline(always)]
pub fn at_places<T: Copy, V: Vector<T>, const M: usize, const W: usize>(
    cpu: V::Cpu,
    rows: [&[T]; M],
    values: &[T],
    places: &[usize],
) -> [[V; W]; M] {
    let mut equal = rows;
    for i in 0..M {
        equal[i] = &rows[i][..places.len()];
    }
    let mut sums = [[V::zero(cpu); W]; M];
    for k in 0..places.len() {
        let from = &values[places[k]..][..W * V::LEN];
        let mut b = [V::zero(cpu); W];
        for w in 0..W {
            b[w] = V::load(cpu, &from[w * V::LEN..]);
        }
        for i in 0..M {
            let a = equal[i][k];
            for w in 0..W {
                sums[i][w] = sums[i][w].add_product(a, b[w]);
            }
        }
    }
    sums
}

/// One step of a panel.
#[inline(always)]
fn step<T, V: Vector<T>, const W: usize>(cpu: V::Cpu, panel: &[T], k: usize) -> [V; W] {
    let from = &panel[k * W * V::LEN..][..W * V::LEN];
    let mut vectors = [V::zero(cpu); W];
    for w in 0..W {
        vectors[w] = V::load(cpu, &from[w * V::LEN..]);
    }
    vectors
}

impl<T: Float + Sync> Left<T> for Across<'_, T> {
    #[inline(always)]
    fn tile<V: Vector<T>, const M: usize, const W: usize>(
        self,
        cpu: V::Cpu,
        first: usize,
        steps: Range<usize>,
        panel: &[T],
        sums: &mut [[V; W]; M],
    ) {
        let mut now = *sums;
        for k in 0..steps.len() {
            let b = step::<T, V, W>(cpu, panel, k);
            let Some(a) = self.0[(steps.start + k) * self.1 + first..].first_chunk::<M>() else { return };
            for i in 0..M {
                for w in 0..W {
                    now[i][w] = now[i][w].add_product(a[i], b[w]);
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
