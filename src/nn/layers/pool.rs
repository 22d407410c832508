//! Pooling over windows of feature maps, one plane (one channel of one sample) at a time.

use crate::kernels::cpu::fast;
use crate::{Float, parallel};
use std::ops::Range;

/// Values of planes that one thread takes at a time.
const WORTH: usize = 1 << 15;

/// Sizes of a pooling layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    pub size: [usize; 2],
    pub stride: [usize; 2],
    pub padding: [usize; 2],
    /// Height and width of the input.
    pub input: [usize; 2],
    /// Height and width of the output.
    pub output: [usize; 2],
}

impl Window {
    fn in_plane(&self) -> usize {
        self.input[0] * self.input[1]
    }

    fn out_plane(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Whether windows are squares of four that lie side by side.
    fn halves(&self) -> bool {
        self.size == [2, 2] && self.stride == [2, 2] && self.padding == [0, 0]
    }

    /// Planes that one thread takes at a time.
    fn planes(&self) -> usize {
        (WORTH / self.in_plane().max(1)).max(1)
    }

    /// The two lines of a plane that a line of windows of four covers, as pairs.
    #[inline(always)]
    fn pairs<'a, T>(&self, x: &'a [T], row: usize) -> impl Iterator<Item = (&'a [T; 2], &'a [T; 2])> {
        let width = self.input[1];
        let (upper, lower) = x[2 * row * width..][..2 * width].split_at(width);
        upper.as_chunks().0.iter().zip(lower.as_chunks().0)
    }

    /// Calls `f` with each window in order and the run of rows and of columns of the input that it covers,
    /// padding left out.
    fn for_each_window(&self, mut f: impl FnMut(usize, Range<usize>, Range<usize>)) {
        let along = |axis: usize, at: usize| {
            let start = at * self.stride[axis];
            let end = (start + self.size[axis]).saturating_sub(self.padding[axis]).min(self.input[axis]);
            start.saturating_sub(self.padding[axis])..end
        };
        let mut index = 0;
        for row in 0..self.output[0] {
            let rows = along(0, row);
            for col in 0..self.output[1] {
                f(index, rows.clone(), along(1, col));
                index += 1;
            }
        }
    }
}

/// Largest value of each window; the first where several are equal. `places` gets where in its plane each
/// came from, for the way back.
pub fn max_forward<T: Float>(window: &Window, x: &[T], y: &mut [T], places: &mut [u32]) {
    let (plane, out) = (window.in_plane(), window.out_plane().max(1));
    let (some, halves) = (window.planes(), window.halves());
    parallel::for_each_pair((y, out * some), (places, out * some), |i, y, places| {
        let planes = x[i * some * plane..].chunks(plane.max(1));
        for ((y, places), x) in y.chunks_mut(out).zip(places.chunks_mut(out)).zip(planes) {
            if halves {
                fast(
                    #[inline(always)]
                    || max_of_four(window, x, y, places),
                );
            } else {
                max_of_plane(window, x, y, places);
            }
        }
    });
}

/// One plane, for windows of 2 x 2 side by side: neighbours are computed together.
#[inline(always)]
fn max_of_four<T: Float>(window: &Window, x: &[T], y: &mut [T], places: &mut [u32]) {
    let (width, out) = (window.input[1], window.output[1]);
    for (row, (y, places)) in y.chunks_exact_mut(out).zip(places.chunks_exact_mut(out)).enumerate() {
        let pairs = window.pairs(x, row);
        for (j, ((y, place), (upper, lower))) in y.iter_mut().zip(places).zip(pairs).enumerate() {
            let at = (2 * row * width + 2 * j) as u32;
            let (mut top, mut best) = (upper[0], at);
            let others =
                [(upper[1], at + 1), (lower[0], at + width as u32), (lower[1], at + width as u32 + 1)];
            for (value, at) in others {
                // NaN wins, so that it is not hidden.
                let wins = value > top || value.is_nan();
                top = if wins { value } else { top };
                best = if wins { at } else { best };
            }
            (*y, *place) = (top, best);
        }
    }
}

/// One plane, for any windows.
fn max_of_plane<T: Float>(window: &Window, x: &[T], y: &mut [T], places: &mut [u32]) {
    window.for_each_window(|i, rows, cols| {
        // Padding is at most half a window, so that this cell is there.
        let mut at = rows.start * window.input[1] + cols.start;
        let mut top = x[at];
        for row in rows {
            let first = row * window.input[1] + cols.start;
            for (j, value) in x[first..first + cols.len()].iter().enumerate() {
                // NaN wins, so that it is not hidden.
                if *value > top || value.is_nan() {
                    (top, at) = (*value, first + j);
                }
            }
        }
        (y[i], places[i]) = (top, at as u32);
    });
}

/// The same values without places.
pub fn max_values<T: Float>(window: &Window, x: &[T], y: &mut [T]) {
    let width = window.input[1];
    if window.padding != [0, 0] {
        let places = &mut vec![0; y.len()];
        return max_forward(window, x, y, places);
    }
    let (some, halves) = (window.planes(), window.halves());
    parallel::for_each_chunk(y, window.out_plane() * some, |i, y| {
        let planes = x[i * some * window.in_plane()..].chunks(window.in_plane().max(1));
        for (y, x) in y.chunks_mut(window.out_plane().max(1)).zip(planes) {
            if halves {
                fast(
                    #[inline(always)]
                    || largest_of_four(window, x, y),
                );
                continue;
            }
            for (row, y) in y.chunks_mut(window.output[1].max(1)).enumerate() {
                y.fill(T::neg_infinity());
                // One place of all windows at a time: neighbours are then computed together.
                for line in 0..window.size[0] {
                    let line = &x[(row * window.stride[0] + line) * width..][..width];
                    for place in 0..window.size[1] {
                        for (y, x) in y.iter_mut().zip(line[place..].iter().step_by(window.stride[1])) {
                            *y = larger(*y, *x);
                        }
                    }
                }
            }
        }
    });
}

#[inline(always)]
fn largest_of_four<T: Float>(window: &Window, x: &[T], y: &mut [T]) {
    let (width, out) = (window.input[1], window.output[1].max(1));
    // The larger of two neighbours, for some lines: these follow each other where nothing of a line is left out, so that
    // what is computed together need not end with it. Neighbours come before lines, so that of 0 and -0 the first wins,
    // as it does with places.
    let mut halves = [T::zero(); NEAR];
    let some = if width == 2 * out { NEAR / width } else { 0 };
    if some == 0 {
        for (row, y) in y.chunks_exact_mut(out).enumerate() {
            for (y, (upper, lower)) in y.iter_mut().zip(window.pairs(x, row)) {
                *y = larger(larger(upper[0], upper[1]), larger(lower[0], lower[1]));
            }
        }
        return;
    }
    for (y, x) in y.chunks_mut(some * out).zip(x.chunks(2 * some * width)) {
        let halves = &mut halves[..2 * y.len()];
        halves.iter_mut().zip(x.as_chunks().0).for_each(|(to, [a, b])| *to = larger(*a, *b));
        for (y, halves) in y.chunks_exact_mut(out).zip(halves.chunks_exact(width)) {
            let (upper, lower) = halves.split_at(out);
            y.iter_mut().zip(upper).zip(lower).for_each(|((y, a), b)| *y = larger(*a, *b));
        }
    }
}

/// Values of lines that stay in the nearest cache.
const NEAR: usize = 512;

/// The first where both are equal. NaN wins, so that it is not hidden.
#[inline(always)]
fn larger<T: Float>(a: T, b: T) -> T {
    if b > a || b.is_nan() { b } else { a }
}

/// Each gradient goes to the value that won; the others get none. Adds to `dx` unless it is `fresh`.
pub fn max_backward<T: Float>(window: &Window, places: &[u32], dy: &[T], fresh: bool, dx: &mut [T]) {
    let (plane, out) = (window.in_plane().max(1), window.out_plane().max(1));
    let some = window.planes();
    parallel::for_each_chunk(dx, plane * some, |i, dx| {
        let range = i * some * out..i * some * out + dx.len() / plane * out;
        let sources = places[range.clone()].chunks(out).zip(dy[range].chunks(out));
        for (dx, (places, dy)) in dx.chunks_mut(plane).zip(sources) {
            if fresh {
                dx.fill(T::zero());
            }
            for (place, dy) in places.iter().zip(dy) {
                dx[*place as usize] += *dy;
            }
        }
    });
}

fn share<T: Float>(window: &Window) -> T {
    T::narrow(1.0 / (window.size[0] as f64 * window.size[1] as f64))
}

/// Mean of each window; padding counts as zeros.
pub fn average_forward<T: Float>(window: &Window, x: &[T], y: &mut [T]) {
    let plane = window.in_plane();
    let share = share::<T>(window);
    parallel::for_each_chunk(y, window.out_plane(), |i, y| {
        let x = &x[i * plane..(i + 1) * plane];
        window.for_each_window(|i, rows, cols| {
            let mut sum = T::zero();
            for row in rows {
                let first = row * window.input[1] + cols.start;
                x[first..first + cols.len()].iter().for_each(|x| sum += *x);
            }
            y[i] = sum * share;
        });
    });
}

/// Each gradient is shared out evenly.
pub fn average_backward<T: Float>(window: &Window, dy: &[T], dx: &mut [T]) {
    let out = window.out_plane();
    let share = share::<T>(window);
    parallel::for_each_chunk(dx, window.in_plane(), |i, dx| {
        let dy = &dy[i * out..(i + 1) * out];
        window.for_each_window(|i, rows, cols| {
            for row in rows {
                let first = row * window.input[1] + cols.start;
                dx[first..first + cols.len()].iter_mut().for_each(|dx| *dx += dy[i] * share);
            }
        });
    });
}

/// Mean of each plane of `size` values.
pub fn global_forward<T: Float>(size: usize, x: &[T], y: &mut [T]) {
    let share = T::narrow(1.0 / size.max(1) as f64);
    for (y, plane) in y.iter_mut().zip(x.chunks(size.max(1))) {
        *y = plane.iter().copied().sum::<T>() * share;
    }
}

/// The way back of [`global_forward`].
pub fn global_backward<T: Float>(size: usize, dy: &[T], dx: &mut [T]) {
    let share = T::narrow(1.0 / size.max(1) as f64);
    for (dy, plane) in dy.iter().zip(dx.chunks_mut(size.max(1))) {
        plane.iter_mut().for_each(|dx| *dx += *dy * share);
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradcheck::{check, dot, numbers};
    use super::*;
    use proptest::prelude::*;

    fn window(size: [usize; 2], stride: [usize; 2], padding: [usize; 2]) -> Window {
        let input = [5, 6];
        let output = [0, 1].map(|a| (input[a] + 2 * padding[a] - size[a]) / stride[a] + 1);
        Window { size, stride, padding, input, output }
    }

    #[test]
    fn gradients() {
        let x = numbers(3 * 30, 1);
        for w in
            [window([2, 2], [2, 2], [0, 0]), window([3, 2], [1, 2], [1, 1]), window([5, 6], [1, 1], [0, 3])]
        {
            let n = 3 * w.out_plane();
            let dy = numbers(n, 2);
            let max = |x: &[f64]| {
                let (mut y, mut places) = (vec![0.0; n], vec![0; n]);
                max_forward(&w, x, &mut y, &mut places);
                (y, places)
            };
            let mut dx = vec![0.0; x.len()];
            max_backward(&w, &max(&x).1, &dy, false, &mut dx);
            check("max", &x, &dx, |x| dot(&max(x).0, &dy));

            let mut dx = vec![0.0; x.len()];
            average_backward(&w, &dy, &mut dx);
            check("average", &x, &dx, |x| {
                let mut y = vec![0.0; n];
                average_forward(&w, x, &mut y);
                dot(&y, &dy)
            });
        }
        let dy = numbers(3, 2);
        let mut dx = vec![0.0; x.len()];
        global_backward(30, &dy, &mut dx);
        check("global", &x, &dx, |x| {
            let mut y = vec![0.0; 3];
            global_forward(30, x, &mut y);
            dot(&y, &dy)
        });
    }

    #[test]
    fn largest_values_with_and_without_places() {
        let mut x = numbers(3 * 30, 1);
        (x[7], x[40], x[41]) = (f64::NAN, f64::NEG_INFINITY, f64::INFINITY);
        for w in [
            window([2, 2], [2, 2], [0, 0]),
            window([3, 2], [1, 2], [0, 0]),
            window([1, 1], [3, 2], [0, 0]),
            window([3, 2], [1, 2], [1, 1]),
        ] {
            let n = 3 * w.out_plane();
            let (mut a, mut b, mut places) = (vec![0.0; n], vec![0.0; n], vec![0; n]);
            max_forward(&w, &x, &mut a, &mut places);
            max_values(&w, &x, &mut b);
            assert!(a.iter().zip(&b).all(|(a, b)| a == b || a.is_nan() && b.is_nan()));
        }
    }

    proptest! {
        /// To the bit: of 0 and -0, the first.
        #[test]
        fn equal_values_are_the_same_with_and_without_places(
            height in 2_usize..9, width in prop_oneof![2_usize..40, 500_usize..520], planes in 1_usize..4,
            seed in any::<u64>(), size in 1_usize..4, stride in 1_usize..3,
        ) {
            let (size, stride) = if size > height.min(width) { (2, 2) } else { (size, stride) };
            let output = [height, width].map(|n| (n - size) / stride + 1);
            let input = [height, width];
            let w = Window { size: [size; 2], stride: [stride; 2], padding: [0; 2], input, output };
            let value = |i: usize| [-1.0, 0.0, -0.0, -0.5][(seed.rotate_left(i as u32 * 7) >> (i % 5) & 3) as usize];
            let x: Vec<f32> = (0..planes * height * width).map(value).collect();
            let n = planes * w.out_plane();
            let (mut a, mut b, mut places) = (vec![0.0_f32; n], vec![0.0_f32; n], vec![0; n]);
            max_forward(&w, &x, &mut a, &mut places);
            max_values(&w, &x, &mut b);
            prop_assert!(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
    }

    #[test]
    fn padding_never_wins_and_counts_as_zeros() {
        let w = Window { size: [2, 2], stride: [2, 2], padding: [1, 1], input: [2, 2], output: [2, 2] };
        let x = [-1.0, -2.0, -3.0, -4.0];
        let (mut y, mut places) = ([0.0; 4], [0; 4]);
        max_forward(&w, &x, &mut y, &mut places);
        assert_eq!(y, x);
        average_forward(&w, &x, &mut y);
        assert_eq!(y, [-0.25, -0.5, -0.75, -1.0]);
    }
}
