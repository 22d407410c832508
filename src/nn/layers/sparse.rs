//! Products of a layer whose matrix keeps few entries, and gradients of those alone.
//!
//! Some samples lie side by side, so that a kept entry meets all of them at once: the work is in proportion to
//! the entries that are kept. Sums do not depend on the number of threads.

#![allow(clippy::needless_range_loop, reason = "several arrays of one length, in step")]

use crate::kernels::cpu::{fast, has_fused, multiply_add};
use crate::kernels::gemm::{Along, Right};
use crate::kernels::memory::with_room;
use crate::{Float, parallel};
use std::ops::Range;

/// Samples that a kept entry meets at once.
const SIDE: usize = 32;
/// Samples whose gradients are summed at a time, before the next ones are turned.
const TURNED: usize = 8 * SIDE;
/// Kept entries that are worth a thread, for each sample side by side.
const WORTH: usize = 1 << 12;
/// A matrix that keeps at most one of so many entries is faster this way.
const FEW: usize = 6;
/// Below so many entries, the dense product is fast enough.
const SMALL: usize = 1 << 12;

/// Places of the kept entries of a matrix, row by row.
#[derive(Clone, Debug)]
pub struct Kept {
    cols: usize,
    /// Where each row begins, and where the last one ends.
    starts: Vec<usize>,
    columns: Vec<u32>,
}

impl Kept {
    /// `positions` are those of the kept entries, in order; `None` where the dense product is faster.
    pub fn new(rows: usize, cols: usize, positions: &[usize]) -> Option<Self> {
        let few = rows * cols >= SMALL && positions.len() <= rows * cols / FEW;
        if !few || u32::try_from(cols).is_err() {
            return None;
        }
        let starts = (0..=rows).map(|r| positions.partition_point(|p| *p < r * cols)).collect();
        let columns = positions.iter().map(|p| (p % cols) as u32).collect();
        Some(Self { cols, starts, columns })
    }

    fn rows(&self) -> usize {
        self.starts.len() - 1
    }

    fn worth(&self, n: usize) -> usize {
        // One piece where there is little to do.
        if self.columns.len() < WORTH { n.next_multiple_of(SIDE).max(SIDE) } else { SIDE }
    }

    /// `y = beta * y + x W^T` for `x [n, cols]`, `w` the kept entries, `y [n, rows]`.
    pub fn forward<T: Float>(&self, n: usize, x: &[T], w: &[T], beta: T, y: &mut [T]) {
        let (rows, cols, step) = (self.rows(), self.cols, self.worth(n));
        parallel::for_each_chunk(y, step * rows, |i, y| {
            with_room(SIDE * cols, |turned: &mut [T]| {
                for (j, y) in y.chunks_mut(SIDE * rows).enumerate() {
                    let first = i * step + j * SIDE;
                    beside(x, cols, first, y.len() / rows, turned);
                    vectors(self, turned, w, beta, y, forward_block::<T, true>, forward_block::<T, false>);
                }
            });
        });
    }

    /// `dx = beta * dx + dy W`.
    pub fn backward_input<T: Float>(&self, n: usize, dy: &[T], w: &[T], beta: T, dx: &mut [T]) {
        let (rows, cols, step) = (self.rows(), self.cols, self.worth(n));
        parallel::for_each_chunk(dx, step * cols, |i, dx| {
            with_room(SIDE * (rows + cols), |room: &mut [T]| {
                for (j, dx) in dx.chunks_mut(SIDE * cols).enumerate() {
                    let first = i * step + j * SIDE;
                    beside(dy, rows, first, dx.len() / cols, &mut room[..SIDE * rows]);
                    room[SIDE * rows..].fill(T::zero());
                    vectors(self, room, w, beta, dx, backward_block::<T, true>, backward_block::<T, false>);
                }
            });
        });
    }

    /// `dw = beta * dw + dy^T x` at the kept entries.
    pub fn backward_weight<T: Float>(&self, n: usize, x: &[T], dy: &[T], beta: T, dw: &mut [T]) {
        let (rows, cols) = (self.rows(), self.cols);
        if n == 0 {
            return dw.iter_mut().for_each(|x| *x = if beta == T::zero() { beta } else { beta * *x });
        }
        let blocks = n.min(TURNED).div_ceil(SIDE);
        with_room(blocks * SIDE * (rows + cols), |room: &mut [T]| {
            let (xs, dys) = room.split_at_mut(blocks * SIDE * cols);
            for first in (0..n).step_by(TURNED) {
                let blocks = (n - first).min(TURNED).div_ceil(SIDE);
                let (xs, dys) = (&mut xs[..blocks * SIDE * cols], &mut dys[..blocks * SIDE * rows]);
                parallel::for_each_pair((xs, SIDE * cols), (dys, SIDE * rows), |i, xs, dys| {
                    let at = first + i * SIDE;
                    beside(x, cols, at, SIDE.min(n - at), xs);
                    beside(dy, rows, at, SIDE.min(n - at), dys);
                });
                self.sums(0..rows, xs, dys, if first == 0 { beta } else { T::one() }, dw);
            }
        });
    }

    /// The gradients of some rows, which `dw` holds.
    fn sums<T: Float>(&self, rows: Range<usize>, xs: &[T], dys: &[T], beta: T, dw: &mut [T]) {
        if dw.len() < WORTH || rows.len() < 2 {
            let run = Sums { kept: self, rows, xs, dys, beta };
            if has_fused() {
                return fast(
                    #[inline(always)]
                    || run.run::<true>(dw),
                );
            }
            return run.run::<false>(dw);
        }
        let middle = rows.start + rows.len() / 2;
        let (one, other) = dw.split_at_mut(self.starts[middle] - self.starts[rows.start]);
        parallel::join(
            || self.sums(rows.start..middle, xs, dys, beta, one),
            || self.sums(middle..rows.end, xs, dys, beta, other),
        );
    }
}

/// Runs a block in the compilation that fits this CPU.
fn vectors<T: Float>(
    kept: &Kept,
    room: &mut [T],
    w: &[T],
    beta: T,
    out: &mut [T],
    fused: impl Fn(&Kept, &mut [T], &[T], T, &mut [T]),
    plain: impl Fn(&Kept, &mut [T], &[T], T, &mut [T]),
) {
    if has_fused() { fused(kept, room, w, beta, out) } else { plain(kept, room, w, beta, out) }
}

/// Rows `first..first + count` of `[n, width]` side by side: `[width, SIDE]`, filled up with zeros.
fn beside<T: Float>(values: &[T], width: usize, first: usize, count: usize, to: &mut [T]) {
    fast(
        #[inline(always)]
        || {
            if count < SIDE {
                to.fill(T::zero());
            }
            Along(values, width).pack(0..width, first, count, SIDE, to);
            for to in to.chunks_exact_mut(SIDE) {
                to[count..].fill(T::zero());
            }
        },
    );
}

fn forward_block<T: Float, const FUSED: bool>(kept: &Kept, xs: &mut [T], w: &[T], beta: T, y: &mut [T]) {
    let rows = kept.rows();
    fast(
        #[inline(always)]
        || {
            let xs = xs.as_chunks::<SIDE>().0;
            for r in 0..rows {
                let range = kept.starts[r]..kept.starts[r + 1];
                let mut sums = [T::zero(); SIDE];
                for (c, w) in kept.columns[range.clone()].iter().zip(&w[range]) {
                    let x = &xs[*c as usize];
                    for j in 0..SIDE {
                        sums[j] = multiply_add::<T, FUSED>(*w, x[j], sums[j]);
                    }
                }
                for (y, sum) in y[r..].iter_mut().step_by(rows).zip(sums) {
                    *y = if beta == T::zero() { sum } else { beta * *y + sum };
                }
            }
        },
    );
}

fn backward_block<T: Float, const FUSED: bool>(kept: &Kept, room: &mut [T], w: &[T], beta: T, dx: &mut [T]) {
    let (rows, cols) = (kept.rows(), kept.cols);
    fast(
        #[inline(always)]
        || {
            let (dys, dxs) = room.split_at_mut(SIDE * rows);
            let (dys, dxs) = (dys.as_chunks::<SIDE>().0, dxs.as_chunks_mut::<SIDE>().0);
            for (r, dy) in dys.iter().enumerate() {
                let range = kept.starts[r]..kept.starts[r + 1];
                for (c, w) in kept.columns[range.clone()].iter().zip(&w[range]) {
                    let dx = &mut dxs[*c as usize];
                    for j in 0..SIDE {
                        dx[j] = multiply_add::<T, FUSED>(*w, dy[j], dx[j]);
                    }
                }
            }
            for (s, dx) in dx.chunks_exact_mut(cols).enumerate() {
                for (dx, sum) in dx.iter_mut().zip(dxs.iter()) {
                    *dx = if beta == T::zero() { sum[s] } else { beta * *dx + sum[s] };
                }
            }
        },
    );
}

struct Sums<'a, T> {
    kept: &'a Kept,
    rows: Range<usize>,
    xs: &'a [T],
    dys: &'a [T],
    beta: T,
}

impl<T: Float> Sums<'_, T> {
    #[inline(always)]
    fn run<const FUSED: bool>(&self, dw: &mut [T]) {
        const LANES: usize = 8;
        let Self { kept, rows, xs, dys, beta } = self;
        let (height, width) = (SIDE * kept.rows(), SIDE * kept.cols);
        let base = kept.starts[rows.start];
        for r in rows.clone() {
            for at in kept.starts[r]..kept.starts[r + 1] {
                let c = kept.columns[at] as usize;
                let mut sums = [T::zero(); LANES];
                for (xs, dys) in xs.chunks_exact(width).zip(dys.chunks_exact(height)) {
                    let x = xs[c * SIDE..][..SIDE].as_chunks::<LANES>().0;
                    let dy = dys[r * SIDE..][..SIDE].as_chunks::<LANES>().0;
                    for (x, dy) in x.iter().zip(dy) {
                        for j in 0..LANES {
                            sums[j] = multiply_add::<T, FUSED>(x[j], dy[j], sums[j]);
                        }
                    }
                }
                let halves = [sums[0] + sums[4], sums[1] + sums[5], sums[2] + sums[6], sums[3] + sums[7]];
                let sum = (halves[0] + halves[2]) + (halves[1] + halves[3]);
                let dw = &mut dw[at - base];
                *dw = if *beta == T::zero() { sum } else { *beta * *dw + sum };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradcheck::numbers;
    use super::super::linear;
    use super::*;

    #[test]
    fn equals_the_dense_products() {
        let (rows, cols) = (70, 90);
        let positions: Vec<usize> =
            (0..rows * cols).filter(|i| (i * 7919) % 61 < 4 && i / cols != 5).collect();
        let kept = Kept::new(rows, cols, &positions).unwrap();
        let w = numbers(positions.len(), 1);
        let mut dense = vec![0.0; rows * cols];
        positions.iter().zip(&w).for_each(|(p, w)| dense[*p] = *w);
        for n in [1, 31, 64, 300] {
            let (shape, x, dy) = ([n, cols, rows], numbers(n * cols, 2), numbers(n * rows, 3));
            for beta in [0.0, 1.0] {
                let close = |a: &[f64], b: &[f64]| {
                    assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-11), "{n} samples");
                };
                let (mut a, mut b) = (numbers(n * rows, 4), numbers(n * rows, 4));
                kept.forward(n, &x, &w, beta, &mut a);
                linear::forward(shape, &x, &dense, beta, &mut b);
                close(&a, &b);
                let (mut a, mut b) = (numbers(n * cols, 4), numbers(n * cols, 4));
                kept.backward_input(n, &dy, &w, beta, &mut a);
                linear::backward_input(shape, &dy, &dense, beta, &mut b);
                close(&a, &b);
                let mut b = numbers(rows * cols, 4);
                let mut a: Vec<f64> = positions.iter().map(|p| b[*p]).collect();
                kept.backward_weight(n, &x, &dy, beta, &mut a);
                linear::backward_weight(shape, &x, &dy, beta, &mut b);
                close(&a, &positions.iter().map(|p| b[*p]).collect::<Vec<_>>());
            }
        }
        assert!(Kept::new(rows, cols, &(0..rows * cols).collect::<Vec<_>>()).is_none());
    }
}
