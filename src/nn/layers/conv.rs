//! Convolution as a matrix product: windows become rows ("im2col"), `[n * oh * ow, in * kh * kw]`, one
//! group of channels at a time. A row is ordered as a kernel is: channel, then height, then width.

use crate::kernels::cpu::fast;
use crate::kernels::transpose::transpose;
use crate::weight::{Gather, IntegerWindows, zeros};
use crate::{Fault, Float, parallel};
use std::borrow::Cow;
use std::ops::Range;

/// Values of unrolled windows that a convolution holds at a time.
const UNROLLED: usize = 1 << 22;

/// Sizes of a convolution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    /// Channels of the input, all groups together.
    pub channels: usize,
    /// Height and width of the input.
    pub input: [usize; 2],
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub padding: [usize; 2],
    pub groups: usize,
    /// Height and width of the output.
    pub output: [usize; 2],
}

impl Geometry {
    /// Windows of one sample.
    pub fn windows(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Channels that one group sees.
    pub fn group_channels(&self) -> usize {
        self.channels / self.groups
    }

    /// Length of a row: inputs of one window in one group.
    pub fn cols(&self) -> usize {
        self.group_channels() * self.kernel[0] * self.kernel[1]
    }

    /// Bytes that the rows of one sample take; `None` where they cannot be counted.
    pub fn unrolled(&self) -> Option<usize> {
        let sizes = [self.output[0], self.output[1], self.group_channels(), self.kernel[0], self.kernel[1]];
        sizes.iter().try_fold(size_of::<f64>(), |a, b| a.checked_mul(*b))
    }

    /// Values of one sample.
    pub fn sample(&self) -> usize {
        self.channels * self.input[0] * self.input[1]
    }

    /// What integers need of it.
    pub fn integer_windows(&self) -> IntegerWindows {
        let Self { channels, input, kernel, stride, padding, output, .. } = *self;
        IntegerWindows { channels, input, kernel, stride, padding, output }
    }

    /// Where the first value of a window lies in its sample, if no part of the window is padding.
    fn inside(&self, group: usize, window: usize) -> Option<usize> {
        let [h, w] = self.input;
        let top = ((window / self.output[1]) * self.stride[0]).checked_sub(self.padding[0])?;
        let left = ((window % self.output[1]) * self.stride[1]).checked_sub(self.padding[1])?;
        let fits = top + self.kernel[0] <= h && left + self.kernel[1] <= w;
        fits.then(|| (group * self.group_channels() * h + top) * w + left)
    }

    /// First values of the kernel rows of a window that lies inside, in order.
    fn runs(&self, corner: usize) -> impl Iterator<Item = usize> {
        let (plane, width, height) = (self.input[0] * self.input[1], self.input[1], self.kernel[0]);
        (0..self.group_channels()).flat_map(move |c| (0..height).map(move |i| corner + c * plane + i * width))
    }

    /// Calls `f(column, first, len)` for each run of a kernel row that lies inside the image: window
    /// inputs `column..` and sample values `first..`, `len` of each. `window` is the index of the window.
    fn for_each_run(&self, group: usize, window: usize, mut f: impl FnMut(usize, usize, usize)) {
        let [h, w] = self.input;
        let [kh, kw] = self.kernel;
        let top = (window / self.output[1]) * self.stride[0];
        let left = (window % self.output[1]) * self.stride[1];
        // Kernel columns that lie inside the image.
        let first = self.padding[1].saturating_sub(left).min(kw);
        let last = (w + self.padding[1]).saturating_sub(left).min(kw).max(first);
        for c in 0..self.group_channels() {
            let plane = (group * self.group_channels() + c) * h * w;
            for i in 0..kh {
                let Some(y) = (top + i).checked_sub(self.padding[0]).filter(|y| *y < h) else { continue };
                let column = (c * kh + i) * kw + first;
                // Where the run is empty, the index of its first value may lie outside.
                if last > first {
                    f(column, plane + y * w + left + first - self.padding[1], last - first);
                }
            }
        }
    }
}

/// What a convolution does at a time: one group of a few samples.
pub struct Part {
    pub group: usize,
    /// Rows of the kernel, and channels of the output, that belong to the group.
    pub rows: Range<usize>,
    /// Windows of these samples.
    pub windows: usize,
    /// Values of these samples in the input and, all groups together, in the output.
    pub x: Range<usize>,
    pub y: Range<usize>,
}

/// The parts of a convolution of `n` samples to `out` channels, the first of which has the most windows.
pub fn parts(geometry: &Geometry, n: usize, out: usize) -> impl Iterator<Item = Part> {
    let (windows, sample, groups) = (geometry.windows(), geometry.sample(), geometry.groups);
    let step = (UNROLLED / (windows * geometry.cols()).max(1)).clamp(1, n.max(1));
    (0..n).step_by(step).flat_map(move |first| {
        let last = n.min(first + step);
        (0..groups).map(move |group| Part {
            group,
            rows: group * (out / groups)..(group + 1) * (out / groups),
            windows: (last - first) * windows,
            x: first * sample..last * sample,
            y: first * out * windows..last * out * windows,
        })
    })
}

/// The rows of `group`: `[n * windows, cols]`. Overwrites all of `rows`.
pub fn im2col<T: Float>(geometry: &Geometry, group: usize, x: &[T], rows: &mut [T]) {
    match geometry.kernel[1] {
        1 => unroll::<T, 1>(geometry, group, x, rows),
        3 => unroll::<T, 3>(geometry, group, x, rows),
        5 => unroll::<T, 5>(geometry, group, x, rows),
        7 => unroll::<T, 7>(geometry, group, x, rows),
        _ => unroll::<T, 0>(geometry, group, x, rows),
    }
}

/// The transposed of [`im2col`]: adds each entry of `rows` to the value of `dx` that it came from.
pub fn col2im<T: Float>(geometry: &Geometry, group: usize, rows: &[T], dx: &mut [T]) {
    match geometry.kernel[1] {
        1 => roll::<T, 1>(geometry, group, rows, dx),
        3 => roll::<T, 3>(geometry, group, rows, dx),
        5 => roll::<T, 5>(geometry, group, rows, dx),
        7 => roll::<T, 7>(geometry, group, rows, dx),
        _ => roll::<T, 0>(geometry, group, rows, dx),
    }
}

/// [`im2col`] for kernels of width `K`, whose runs are then copied without a call each; 0 is any width.
fn unroll<T: Float, const K: usize>(geometry: &Geometry, group: usize, x: &[T], rows: &mut [T]) {
    let (windows, cols) = (geometry.windows(), geometry.cols());
    parallel::for_each_chunk(rows, windows * cols, |sample, rows| {
        let x = &x[sample * geometry.sample()..(sample + 1) * geometry.sample()];
        for (window, row) in rows.chunks_mut(cols.max(1)).enumerate() {
            if K > 0
                && let Some(corner) = geometry.inside(group, window)
            {
                for (to, first) in row.as_chunks_mut::<K>().0.iter_mut().zip(geometry.runs(corner)) {
                    if let Some(from) = x[first..].first_chunk::<K>() {
                        *to = *from;
                    }
                }
                continue;
            }
            row.fill(T::zero());
            geometry.for_each_run(group, window, |column, first, len| {
                row[column..column + len].copy_from_slice(&x[first..first + len]);
            });
        }
    });
}

/// [`col2im`] for kernels of width `K`; 0 is any width.
fn roll<T: Float, const K: usize>(geometry: &Geometry, group: usize, rows: &[T], dx: &mut [T]) {
    let (windows, cols) = (geometry.windows(), geometry.cols());
    parallel::for_each_chunk(dx, geometry.sample(), |sample, dx| {
        let rows = &rows[sample * windows * cols..(sample + 1) * windows * cols];
        for (window, row) in rows.chunks(cols.max(1)).enumerate() {
            if K > 0
                && let Some(corner) = geometry.inside(group, window)
            {
                for (from, first) in row.as_chunks::<K>().0.iter().zip(geometry.runs(corner)) {
                    if let Some(to) = dx[first..].first_chunk_mut::<K>() {
                        to.iter_mut().zip(from).for_each(|(d, r)| *d += *r);
                    }
                }
                continue;
            }
            geometry.for_each_run(group, window, |column, first, len| {
                for (d, r) in dx[first..first + len].iter_mut().zip(&row[column..column + len]) {
                    *d += *r;
                }
            });
        }
    });
}

/// Samples `[n, channels, height, width]` with their channels last: `[n, height, width, channels]`.
pub fn channels_last<'a, T: Float>(geometry: &Geometry, x: &'a [T]) -> Result<Cow<'a, [T]>, Fault> {
    let (channels, plane) = (geometry.channels, geometry.input[0] * geometry.input[1]);
    if channels == 1 || plane == 1 {
        return Ok(Cow::Borrowed(x));
    }
    let mut out = zeros(1, x.len())?;
    parallel::for_each_chunk(&mut out, geometry.sample(), |sample, out| {
        transpose((&x[sample * geometry.sample()..], plane), [channels, plane], (out, channels));
    });
    Ok(Cow::Owned(out))
}

/// The windows of samples whose channels come last, one after the other. A row is ordered by height, width, and
/// then channel, so that a line of a kernel is one run.
pub struct Windows<'a>(pub &'a Geometry);

impl Gather for Windows<'_> {
    fn gather<C: Copy + Default>(&self, samples: &[C], row: usize, columns: Range<usize>, to: &mut [C]) {
        let g = self.0;
        let ([h, w], [kh, kw]) = (g.input, g.kernel);
        let sample = &samples[row / g.windows() * g.sample()..][..g.sample()];
        let window = row % g.windows();
        let top = window / g.output[1] * g.stride[0];
        let left = window % g.output[1] * g.stride[1];
        // Kernel columns that lie inside the image.
        let first = g.padding[1].saturating_sub(left).min(kw);
        let last = (w + g.padding[1]).saturating_sub(left).min(kw).max(first);
        let line = kw * g.channels;
        for i in columns.start / line..kh.min(columns.end.div_ceil(line)) {
            // Of this line: the columns that are asked for, and of these the ones inside.
            let asked = columns.start.max(i * line)..columns.end.min((i + 1) * line);
            let inside =
                asked.start.max(i * line + first * g.channels)..asked.end.min(i * line + last * g.channels);
            let to = &mut to[asked.start - columns.start..asked.end - columns.start];
            let y = (top + i).checked_sub(g.padding[0]).filter(|y| *y < h);
            let Some(y) = y.filter(|_| inside.start < inside.end) else {
                to.fill(C::default());
                continue;
            };
            let (before, after) = (inside.start - asked.start, asked.end - inside.end);
            let from = (y * w + left) * g.channels + (inside.start - i * line) - g.padding[1] * g.channels;
            to[..before].fill(C::default());
            to[before..before + inside.len()].copy_from_slice(&sample[from..from + inside.len()]);
            to[before + inside.len()..][..after].fill(C::default());
        }
    }

    fn column(&self, column: usize) -> usize {
        let g = self.0;
        let (place, channel) = (column / g.channels, column % g.channels);
        channel * g.kernel[0] * g.kernel[1] + place
    }
}

/// Products `[n * windows, m]` to feature maps: channels `first..first + m` of `maps [n, channels, windows]`.
pub fn to_maps<T: Float>(
    rows: &[T],
    windows: usize,
    m: usize,
    channels: usize,
    first: usize,
    maps: &mut [T],
) {
    parallel::for_each_chunk(maps, channels * windows, |sample, maps| {
        let rows = &rows[sample * windows * m..(sample + 1) * windows * m];
        transpose((rows, m), [windows, m], (&mut maps[first * windows..], windows));
    });
}

/// The inverse of [`to_maps`].
pub fn to_rows<T: Float>(
    maps: &[T],
    windows: usize,
    m: usize,
    channels: usize,
    first: usize,
    rows: &mut [T],
) {
    parallel::for_each_chunk(rows, windows * m, |sample, rows| {
        let maps = &maps[sample * channels * windows..(sample + 1) * channels * windows];
        transpose((&maps[first * windows..], windows), [m, windows], (rows, m));
    });
}

/// Adds `bias [channels]` to the maps `y [n, channels, windows]`.
pub fn add_bias<T: Float>(bias: &[T], windows: usize, y: &mut [T]) {
    for maps in y.chunks_mut((bias.len() * windows).max(1)) {
        for (plane, b) in maps.chunks_mut(windows.max(1)).zip(bias) {
            plane.iter_mut().for_each(|y| *y += *b);
        }
    }
}

/// `db += sum over samples and windows of dy`.
pub fn backward_bias<T: Float>(dy: &[T], windows: usize, db: &mut [T]) {
    for maps in dy.chunks((db.len() * windows).max(1)) {
        for (plane, b) in maps.chunks(windows.max(1)).zip(db.iter_mut()) {
            *b += fast(
                #[inline(always)]
                || sum(plane),
            );
        }
    }
}

/// The sum of a plane, along lanes.
#[inline(always)]
fn sum<T: Float>(plane: &[T]) -> T {
    let (chunks, rest) = plane.as_chunks::<32>();
    let mut lanes = [T::zero(); 32];
    for chunk in chunks {
        for i in 0..32 {
            lanes[i] += chunk[i];
        }
    }
    lanes.iter().chain(rest).fold(T::zero(), |a, b| a + *b)
}

#[cfg(test)]
mod tests {
    use super::super::gradcheck::{check, dot, numbers};
    use super::super::linear;
    use super::*;

    fn geometry(kernel: [usize; 2], groups: usize, stride: [usize; 2], padding: [usize; 2]) -> Geometry {
        let input = [5, 4];
        let output = [0, 1].map(|a| (input[a] + 2 * padding[a] - kernel[a]) / stride[a] + 1);
        Geometry { channels: 4, input, kernel, stride, padding, groups, output }
    }

    /// By definition, window by window.
    fn naive(g: &Geometry, n: usize, out: usize, x: &[f64], w: &[f64]) -> Vec<f64> {
        let (gc, go) = (g.group_channels(), out / g.groups);
        let mut y = Vec::new();
        for s in 0..n {
            for o in 0..out {
                for window in 0..g.windows() {
                    let (oy, ox) = (window / g.output[1], window % g.output[1]);
                    let mut sum = 0.0;
                    for c in 0..gc {
                        for i in 0..g.kernel[0] {
                            for j in 0..g.kernel[1] {
                                let row = (oy * g.stride[0] + i).wrapping_sub(g.padding[0]);
                                let col = (ox * g.stride[1] + j).wrapping_sub(g.padding[1]);
                                if row < g.input[0] && col < g.input[1] {
                                    let channel = (o / go) * gc + c;
                                    sum += x
                                        [((s * g.channels + channel) * g.input[0] + row) * g.input[1] + col]
                                        * w[((o * gc + c) * g.kernel[0] + i) * g.kernel[1] + j];
                                }
                            }
                        }
                    }
                    y.push(sum);
                }
            }
        }
        y
    }

    fn run(g: &Geometry, n: usize, out: usize, x: &[f64], w: &[f64]) -> Vec<f64> {
        let (rows, cols, m) = (n * g.windows(), g.cols(), out / g.groups);
        let mut y = vec![f64::NAN; out * rows];
        let (mut x_rows, mut y_rows) = (vec![f64::NAN; rows * cols], vec![f64::NAN; rows * m]);
        for group in 0..g.groups {
            im2col(g, group, x, &mut x_rows);
            linear::forward([rows, cols, m], &x_rows, &w[group * m * cols..][..m * cols], 0.0, &mut y_rows);
            to_maps(&y_rows, g.windows(), m, out, group * m, &mut y);
        }
        y
    }

    #[test]
    fn equals_its_definition_and_gradients() {
        let (n, out) = (2, 6);
        for (kernel, groups, stride, padding) in [
            ([3, 2], 1, [1, 1], [0, 0]),
            ([3, 2], 2, [2, 1], [1, 0]),
            ([3, 2], 1, [2, 3], [2, 2]),
            ([3, 2], 2, [1, 1], [3, 2]),
            ([2, 3], 2, [1, 1], [1, 1]),
            ([3, 3], 1, [2, 1], [1, 1]),
            ([1, 1], 2, [1, 1], [0, 0]),
        ] {
            let g = geometry(kernel, groups, stride, padding);
            let (rows, cols, m) = (n * g.windows(), g.cols(), out / groups);
            let (x, w) = (numbers(n * g.sample(), 1), numbers(out * cols, 2));
            let y = run(&g, n, out, &x, &w);
            assert!(y.iter().zip(naive(&g, n, out, &x, &w)).all(|(a, b)| (a - b).abs() < 1e-12));

            let dy = numbers(y.len(), 3);
            let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
            let (mut x_rows, mut dy_rows) = (vec![0.0; rows * cols], vec![0.0; rows * m]);
            for group in 0..groups {
                let part = group * m * cols..(group + 1) * m * cols;
                to_rows(&dy, g.windows(), m, out, group * m, &mut dy_rows);
                im2col(&g, group, &x, &mut x_rows);
                linear::backward_weight([rows, cols, m], &x_rows, &dy_rows, 1.0, &mut dw[part.clone()]);
                linear::backward_input([rows, cols, m], &dy_rows, &w[part], 0.0, &mut x_rows);
                col2im(&g, group, &x_rows, &mut dx);
            }
            check("input", &x, &dx, |x| dot(&run(&g, n, out, x, &w), &dy));
            check("kernel", &w, &dw, |w| dot(&run(&g, n, out, &x, w), &dy));
        }
    }

    #[test]
    fn bias_gradient() {
        let (b, dy) = (numbers(3, 1), numbers(2 * 3 * 4, 2));
        let mut db = vec![0.0; 3];
        backward_bias(&dy, 4, &mut db);
        check("bias", &b, &db, |b| {
            let mut y = vec![0.0; 24];
            add_bias(b, 4, &mut y);
            dot(&y, &dy)
        });
    }
}
