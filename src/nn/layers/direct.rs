//! Convolution at stride 1 without unrolled windows: what the products need of a sample is read from a copy of it
//! with a border of zeros, one at a time.
//!
//! With the windows as columns, a sample's output is `kernel [out, cols] * windows [cols, windows]`, which is how
//! maps lie. A row of the windows at one place of the kernel is a run of a line of the image; and all of its lines
//! follow each other, with a few columns in between that are no windows. So the output is a product in place, of
//! which these columns are dropped, and summing the kernel's gradient and adding up the input's are made of runs.

#![allow(clippy::needless_range_loop, reason = "several arrays of one length, in step")]

use super::conv::Geometry;
use crate::kernels::cpu::fast;
use crate::kernels::gemm::{Across, Along, InPlace, Left, Out, PAST, Part, Vector, along};
use crate::kernels::memory::{by_chunks, with_room};
use crate::weight::room_for_maps;
use crate::{Fault, Float, parallel};
use std::ops::Range;

/// Most unrolled values of a sample in training: their gradients are made in one piece.
const MOST: usize = 1 << 18;
/// Multiplications of a sample that more than one thread shares.
const WORTH: usize = 1 << 18;
/// Values with their border that are worth a thread.
const FRAMED: usize = 1 << 15;
/// Least columns of a kernel's gradient that one thread computes: a panel of them.
const MAPS: usize = 16;

/// A convolution that is computed this way.
#[derive(Clone, Copy)]
pub struct Direct {
    g: Geometry,
    /// Channels of the output, all groups together.
    out: usize,
    /// Height and width of a sample with its border.
    size: [usize; 2],
}

impl Direct {
    /// `None` where the windows are better unrolled.
    pub fn new(g: &Geometry, out: usize) -> Option<Self> {
        let size = [0, 1].map(|a| g.input[a] + 2 * g.padding[a]);
        (g.stride == [1, 1]).then_some(Self { g: *g, out, size })
    }

    /// The same for training, which needs more room.
    pub fn both_ways(g: &Geometry, out: usize) -> Option<Self> {
        let fits = g.cols().checked_mul(g.windows()).is_some_and(|n| n <= MOST);
        Self::new(g, out).filter(|_| fits)
    }

    /// A sample with a border of zeros, and what may be read after it.
    fn framed<T: Float, R>(&self, x: &[T], f: impl FnOnce(&[T]) -> R) -> R {
        let ([h, w], [height, width]) = (self.g.input, self.size);
        let len = self.g.channels * height * width;
        with_room(len + PAST, |room: &mut [T]| {
            room[len..].fill(T::zero());
            if self.g.padding == [0, 0] {
                room[..len].copy_from_slice(x);
                return f(room);
            }
            let planes = (FRAMED / (height * width)).max(1);
            parallel::for_each_chunk(&mut room[..len], planes * height * width, |i, room| {
                let from = x[i * planes * h * w..].chunks_exact((h * w).max(1));
                for (x, to) in from.zip(room.chunks_exact_mut(height * width)) {
                    to.fill(T::zero());
                    let lines = to[self.g.padding[0] * width..].chunks_mut(width);
                    for (x, to) in x.chunks_exact(w).zip(lines) {
                        to[self.g.padding[1]..][..w].copy_from_slice(x);
                    }
                }
            });
            f(room)
        })
    }

    fn sample<'a, T>(&self, x: &'a [T], i: usize) -> &'a [T] {
        &x[i * self.g.sample()..][..self.g.sample()]
    }

    /// `y [n, out, windows]`, bias added where there is one.
    pub fn forward<T: Float>(&self, x: &[T], w: &[T], bias: &[T], y: &mut [T]) {
        let size = (self.out * self.g.windows()).max(1);
        self.with_places(|places| {
            let maps = self.maps_of(y.len() / size, x, Kernel { w, bias, places });
            parallel::for_each_chunk(y, size, maps);
        });
    }

    /// The same in new memory, of `n` samples.
    pub fn maps<T: Float>(&self, n: usize, x: &[T], w: &[T], bias: &[T]) -> Result<Vec<T>, Fault> {
        let (windows, size) = (self.g.windows(), self.out * self.g.windows());
        let room = room_for_maps(n, size)?;
        self.with_places(|places| {
            let kernel = Kernel { w, bias, places };
            if n == 1 && self.g.groups == 1 {
                let maps = self.together(n);
                return self.framed(x, |x| {
                    by_chunks(room, size, maps * windows, |i, y| {
                        self.some_maps(x, kernel, i * maps, y);
                        Ok(())
                    })
                });
            }
            let maps = self.maps_of(n, x, kernel);
            by_chunks(room, n * size, size, |i, y| {
                maps(i, y);
                Ok(())
            })
        })
    }

    fn with_places<R>(&self, f: impl FnOnce(&[usize]) -> R) -> R {
        with_room(self.g.cols(), |places: &mut [usize]| {
            places.iter_mut().enumerate().for_each(|(col, place)| *place = self.place(col));
            f(places)
        })
    }

    /// Maps of a group that one thread computes at a time, of `n` samples: a sample beside which there is no work for
    /// another thread is shared by its maps.
    fn together(&self, n: usize) -> usize {
        let m = self.out / self.g.groups;
        let share = n < parallel::threads() && m * self.g.cols() * self.g.windows() >= WORTH;
        m.div_ceil(if share { parallel::threads() } else { 1 }).max(1)
    }

    /// `f(i, y)` for the maps `y` of the sample `i` of `n`.
    fn maps_of<T: Float>(&self, n: usize, x: &[T], kernel: Kernel<'_, T>) -> impl Fn(usize, &mut [T]) {
        let (windows, m, maps) = (self.g.windows(), self.out / self.g.groups, self.together(n));
        move |i, y| {
            self.framed(self.sample(x, i), |x| {
                for (group, y) in y.chunks_exact_mut((m * windows).max(1)).enumerate() {
                    let x = self.windows(x, group).values;
                    parallel::for_each_chunk(y, maps * windows, |i, y| {
                        self.some_maps(x, kernel, group * m + i * maps, y);
                    });
                }
            });
        }
    }

    /// Some maps, from `first` on, from the channels of their group.
    fn some_maps<T: Float>(&self, values: &[T], kernel: Kernel<'_, T>, first: usize, y: &mut [T]) {
        let Kernel { w, bias, places } = kernel;
        let (windows, cols) = (self.g.windows(), self.g.cols());
        let ([_, width], [lines, out]) = (self.size, self.g.output);
        // Columns of the product: windows, and between two lines of them what is none.
        let columns = (lines * width + out).saturating_sub(width);
        let (maps, bias) = (y.len() / windows.max(1), bias.get(first..).unwrap_or(&[]));
        let left = &w[first * cols..][..maps * cols];
        InPlace { left, values, places, columns }.rows(0..maps, |map, column, tile| {
            fast(
                #[inline(always)]
                || {
                    let mut at = column;
                    while at < column + tile.width {
                        let (line, skip) = (at / width, at % width);
                        let len = out.saturating_sub(skip).min(column + tile.width - at);
                        for (i, sums) in tile.rows().enumerate() {
                            let bias = bias.get(map + i).copied().unwrap_or(T::zero());
                            let to = &mut y[(map + i) * windows + line * out + skip..][..len];
                            each_of_eight(&sums[at - column..][..len], to, |to, x| *to = x + bias);
                        }
                        at += (width - skip).min(column + tile.width - at);
                    }
                },
            );
        });
    }

    /// `dw = beta * dw + the kernel's gradient`.
    pub fn backward_weight<T: Float>(&self, x: &[T], dy: &[T], beta: T, dw: &mut [T]) {
        let (windows, cols, m) = (self.g.windows(), self.g.cols(), self.out / self.g.groups);
        let maps = m.div_ceil(parallel::threads()).clamp(MAPS.min(m).max(1), m.max(1));
        for (group, dw) in dw.chunks_exact_mut((m * cols).max(1)).enumerate() {
            parallel::for_each_chunk(dw, maps * cols, |i, dw| {
                let width = dw.len() / cols;
                let first = group * m + i * maps;
                // Summed with the maps side by side, as they come, and turned at the end.
                with_room(cols * width, |sums: &mut [T]| {
                    for (sample, dy) in dy.chunks_exact((self.out * windows).max(1)).enumerate() {
                        let beta = if sample == 0 { T::zero() } else { T::one() };
                        let part = Part { beta, ..self.part(cols, width, windows) };
                        let right = Along(&dy[first * windows..][..width * windows], windows);
                        let mut out = Out { values: sums, stride: width, turned: false };
                        self.framed(self.sample(x, sample), |x| {
                            T::block(self.windows(x, group), right, &part, &mut out);
                        });
                    }
                    if dy.is_empty() {
                        sums.fill(T::zero());
                    }
                    for (j, dw) in dw.chunks_exact_mut(cols).enumerate() {
                        for (dw, sum) in dw.iter_mut().zip(sums[j..].iter().step_by(width)) {
                            *dw = if beta == T::zero() { *sum } else { beta * *dw + *sum };
                        }
                    }
                });
            });
        }
    }

    /// The input's gradient, added to `dx` unless that is `fresh`.
    pub fn backward_input<T: Float>(&self, w: &[T], dy: &[T], fresh: bool, dx: &mut [T]) {
        let (windows, cols, m) = (self.g.windows(), self.g.cols(), self.out / self.g.groups);
        parallel::for_each_chunk(dx, self.g.sample(), |i, dx| {
            if fresh {
                dx.fill(T::zero());
            }
            with_room(cols * windows, |unrolled: &mut [T]| {
                for group in 0..self.g.groups {
                    let part = self.part(cols, windows, m);
                    let left = Across(&w[group * m * cols..][..m * cols], cols);
                    let dy = &dy[(i * self.out + group * m) * windows..][..m * windows];
                    let mut out = Out { values: &mut *unrolled, stride: windows, turned: false };
                    T::block(left, Across(dy, windows), &part, &mut out);
                    fast(
                        #[inline(always)]
                        || self.roll(group, unrolled, dx),
                    );
                }
            });
        });
    }

    fn part<T: Float>(&self, rows: usize, columns: usize, steps: usize) -> Part<T> {
        Part { rows: 0..rows, columns: 0..columns, steps, alpha: T::one(), beta: T::zero() }
    }

    /// Where the first value of a place of the kernel lies in a group of a framed sample, for the first window.
    #[inline(always)]
    fn place(&self, col: usize) -> usize {
        let ([kh, kw], [height, width]) = (self.g.kernel, self.size);
        let (line, j) = (col / kw, col % kw);
        (line / kh * height + line % kh) * width + j
    }

    /// The windows of one group of a framed sample.
    fn windows<'a, T>(&self, x: &'a [T], group: usize) -> Windows<'a, T> {
        let values = &x[group * self.g.group_channels() * self.size[0] * self.size[1]..];
        Windows { values, direct: *self }
    }

    /// Adds each entry of `unrolled [cols, windows]` to the value that it came from.
    #[inline(always)]
    fn roll<T: Float>(&self, group: usize, unrolled: &[T], dx: &mut [T]) {
        let ([h, w], [kh, kw], [_, width]) = (self.g.input, self.g.kernel, self.g.output);
        let mut rows = unrolled.chunks_exact(self.g.windows().max(1));
        for c in 0..self.g.group_channels() {
            let plane = &mut dx[(group * self.g.group_channels() + c) * h * w..][..h * w];
            for i in 0..kh {
                for j in 0..kw {
                    let Some(row) = rows.next() else { return };
                    // What of a line falls on the border is nobody's.
                    let skip = self.g.padding[1].saturating_sub(j).min(width);
                    let left = (j + skip).saturating_sub(self.g.padding[1]);
                    let len = (width - skip).min(w.saturating_sub(left));
                    for (line, from) in row.chunks_exact(width).enumerate() {
                        let y = (line + i).wrapping_sub(self.g.padding[0]);
                        if y < h && len > 0 {
                            let to = &mut plane[y * w + left..][..len];
                            each_of_eight(&from[skip..skip + len], to, |to, x| *to += x);
                        }
                    }
                }
            }
        }
    }
}

/// `f` of each of `to` and what is in its place in `from`, in steps that need no call.
#[inline(always)]
fn each_of_eight<T: Float>(from: &[T], to: &mut [T], f: impl Fn(&mut T, T)) {
    let ((from, from_rest), (to, to_rest)) = (from.as_chunks::<8>(), to.as_chunks_mut::<8>());
    for (from, to) in from.iter().zip(to) {
        for i in 0..8 {
            f(&mut to[i], from[i]);
        }
    }
    for (from, to) in from_rest.iter().zip(to_rest) {
        f(to, *from);
    }
}

/// A kernel, the bias of each of its rows, and where its entries find theirs.
#[derive(Clone, Copy)]
struct Kernel<'a, T> {
    w: &'a [T],
    bias: &'a [T],
    places: &'a [usize],
}

/// The windows of one group of a sample, `[cols, windows]`, as a left operand: summed over the windows.
#[derive(Clone, Copy)]
struct Windows<'a, T> {
    values: &'a [T],
    direct: Direct,
}

impl<T: Float> Left<T> for Windows<'_, T> {
    #[inline(always)]
    fn tile<V: Vector<T>, const M: usize, const W: usize>(
        self,
        cpu: V::Cpu,
        first: usize,
        steps: Range<usize>,
        panel: &[T],
        sums: &mut [[V; W]; M],
    ) {
        let (out, width) = (self.direct.g.output[1], self.direct.size[1]);
        let mut places = [0; M];
        for i in 0..M {
            places[i] = self.direct.place(first + i);
        }
        let mut now = *sums;
        let mut at = steps.start;
        while at < steps.end {
            let (line, left) = (at / out, at % out);
            let len = (out - left).min(steps.end - at);
            let panel = &panel[(at - steps.start) * W * V::LEN..][..len * W * V::LEN];
            let mut rows = [&[][..]; M];
            for i in 0..M {
                rows[i] = &self.values[places[i] + line * width + left..][..len];
            }
            along(cpu, rows, panel, &mut now);
            at += len;
        }
        *sums = now;
    }
}

#[cfg(test)]
mod tests {
    use super::super::conv;
    use super::super::gradcheck::numbers;
    use super::super::linear;
    use super::*;

    /// The same by unrolled windows, which are tested against their definition.
    #[test]
    fn equals_unrolled_windows() {
        for (kernel, groups, padding, input, out) in [
            ([3, 3], 1, [0, 0], [7, 11], 6),
            ([5, 5], 1, [0, 0], [12, 12], 20),
            ([3, 2], 2, [1, 0], [6, 5], 6),
            ([3, 3], 2, [2, 3], [5, 21], 38),
            ([1, 1], 1, [0, 0], [4, 4], 3),
            ([1, 7], 1, [0, 3], [1, 9], 2),
            ([2, 3], 1, [1, 4], [3, 2], 5),
        ] {
            let output = [0, 1].map(|a| input[a] + 2 * padding[a] - kernel[a] + 1);
            let g = Geometry { channels: 4, input, kernel, stride: [1, 1], padding, groups, output };
            let (n, rows, cols, m) = (3, 3 * g.windows(), g.cols(), out / groups);
            let (x, w, b) = (numbers(n * g.sample(), 1), numbers(out * cols, 2), numbers(out, 3));
            let dy = numbers(out * rows, 4);
            let direct = Direct::both_ways(&g, out).unwrap();
            let mut y = vec![f64::NAN; out * rows];
            direct.forward(&x, &w, &b, &mut y);
            assert_eq!(direct.maps(n, &x, &w, &b).unwrap(), y);
            let one = direct.maps(1, &x[..g.sample()], &w, &b).unwrap();
            assert_eq!(one, y[..out * g.windows()]);
            let (mut dw, mut dx) = (vec![f64::NAN; w.len()], vec![f64::NAN; x.len()]);
            direct.backward_weight(&x, &dy, 0.0, &mut dw);
            direct.backward_input(&w, &dy, true, &mut dx);

            let (mut y2, mut dw2, mut dx2) = (vec![0.0; y.len()], vec![0.0; w.len()], vec![0.0; x.len()]);
            let (mut x_rows, mut y_rows) = (vec![0.0; rows * cols], vec![0.0; rows * m]);
            for group in 0..groups {
                let part = group * m * cols..(group + 1) * m * cols;
                conv::im2col(&g, group, &x, &mut x_rows);
                linear::forward([rows, cols, m], &x_rows, &w[part.clone()], 0.0, &mut y_rows);
                conv::to_maps(&y_rows, g.windows(), m, out, group * m, &mut y2);
                conv::to_rows(&dy, g.windows(), m, out, group * m, &mut y_rows);
                linear::backward_weight([rows, cols, m], &x_rows, &y_rows, 0.0, &mut dw2[part.clone()]);
                linear::backward_input([rows, cols, m], &y_rows, &w[part], 0.0, &mut x_rows);
                conv::col2im(&g, group, &x_rows, &mut dx2);
            }
            conv::add_bias(&b, g.windows(), &mut y2);
            let close = |a: &[f64], b: &[f64]| {
                assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-11), "{kernel:?} {padding:?}");
            };
            close(&y, &y2);
            close(&dw, &dw2);
            close(&dx, &dx2);
            // What is there already is added to.
            direct.backward_weight(&x, &dy, 1.0, &mut dw);
            direct.backward_input(&w, &dy, false, &mut dx);
            close(&dw, &dw2.iter().map(|x| 2.0 * x).collect::<Vec<_>>());
            close(&dx, &dx2.iter().map(|x| 2.0 * x).collect::<Vec<_>>());
        }
    }
}
