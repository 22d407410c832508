//! Products of matrices whose rows both run along the sum: `c [m, n] += w [m, k] x [n, k]^T`.
//!
//! Weights and inputs lie like that as they are, so nothing is transposed: a tile of a few rows of each is
//! summed with all its accumulators in registers. Sums run along `k` in the lanes of the tile, and in blocks
//! of fixed length, one after the other.
//!
//! For a few inputs the weights are read where they are ([`direct`]). For more, a few rows of them are
//! decoded at a time into a buffer that stays in the nearest cache, where all inputs meet them ([`blocked`]);
//! rows of a matrix may lie a power of two apart, where they would push each other out of that cache, so the
//! inputs are cut into [`Panels`] once.

use super::cpu::fast;
#[cfg(target_arch = "x86_64")]
use super::{avx2, cpu};
use std::ops::{AddAssign, Range};

/// Products that an `i32` holds for certain: 16,384 * 255 * 255 < 2^31.
pub const EXACT: usize = 1 << 14;
/// Rows of `x` in a tile.
const WIDTH: usize = 4;
/// Rows of weights that are decoded at a time.
pub const ROWS: usize = 24;
/// Bytes of a block of one row.
const BLOCK_BYTES: usize = 4096;
/// Blocks are filled up with zeros to a multiple of this.
const LANES: usize = 16;

/// Rows of equal length, `stride` values apart.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a, T> {
    pub values: &'a [T],
    pub stride: usize,
}

impl<'a, T> Rows<'a, T> {
    pub fn new(values: &'a [T], stride: usize) -> Self {
        Self { values, stride }
    }

    /// The same rows without their first `columns` values.
    pub fn skip_columns(self, columns: usize) -> Self {
        Self { values: self.values.get(columns..).unwrap_or(&[]), ..self }
    }

    #[inline(always)]
    pub fn part(&self, row: usize, columns: Range<usize>) -> &'a [T] {
        &self.values[row * self.stride..][columns]
    }
}

/// The rows of an input, cut into blocks along `k`: a block of all rows, then the next.
pub struct Panels<T> {
    values: Aligned<T>,
    blocks: Vec<Range<usize>>,
    n: usize,
    /// Values from row to row in a block.
    stride: usize,
}

impl<T: Copy + Default> Panels<T> {
    /// No block crosses a multiple of `step` along `k`.
    pub fn new(x: Rows<'_, T>, k: usize, n: usize, step: usize) -> Self {
        let (step, longest) = (step.clamp(1, k.max(1)), BLOCK_BYTES / size_of::<T>());
        let blocks: Vec<_> = (0..k)
            .step_by(step)
            .flat_map(|first| {
                let last = k.min(first + step);
                (first..last).step_by(longest).map(move |first| first..last.min(first + longest))
            })
            .collect();
        let stride = step.min(longest).next_multiple_of(LANES);
        let mut values = Aligned::new(blocks.len() * n * stride);
        for (i, to) in values.get_mut().chunks_exact_mut(stride).enumerate() {
            let from = x.part(i % n, blocks[i / n].clone());
            to[..from.len()].copy_from_slice(from);
        }
        Self { values, blocks, n, stride }
    }

    fn iter(&self) -> impl Iterator<Item = (&Range<usize>, Rows<'_, T>)> {
        let panels = self.values.get().chunks((self.stride * self.n).max(1));
        self.blocks.iter().zip(panels.map(|panel| Rows::new(panel, self.stride)))
    }
}

/// How many inputs are worth being cut into panels.
pub const MANY: usize = 48;

/// Values that begin where a cache line does.
struct Aligned<T> {
    values: Vec<T>,
    first: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    fn new(len: usize) -> Self {
        let values = vec![T::default(); len + 64 / size_of::<T>()];
        // No more than the slack for any address of a number.
        let first = values.as_ptr().align_offset(64).min(64 / size_of::<T>());
        Self { values, first, len }
    }

    fn get(&self) -> &[T] {
        &self.values[self.first..][..self.len]
    }

    fn get_mut(&mut self) -> &mut [T] {
        &mut self.values[self.first..][..self.len]
    }
}

/// A way to sum the products of `R` and `B` rows of equal length, for `R` up to `HEIGHT` and `B` up to
/// [`WIDTH`].
pub trait Tiles: Copy {
    type W: Copy + Default;
    type X: Copy + Default;
    type Sum: Copy + Default + AddAssign;
    /// As many rows as leave registers for their operands.
    const HEIGHT: usize;
    fn tile<const R: usize, const B: usize>(
        self,
        w: [&[Self::W]; R],
        x: [&[Self::X]; B],
    ) -> [[Self::Sum; WIDTH]; R];
}

/// Runs `$f` with the tiles of this CPU as its first argument.
macro_rules! choose {
    ($avx2:ident, $portable:expr, $f:ident($($args:expr),*)) => {{
        #[cfg(target_arch = "x86_64")]
        if let Some(avx2) = cpu::Avx2::new() {
            return fast(
                #[inline(always)]
                || $f(avx2::$avx2(avx2), $($args),*),
            );
        }
        $f($portable, $($args),*)
    }};
}

/// `c [m, n] += w x^T` for floats, weights where they are.
pub fn floats(w: Rows<'_, f32>, x: Rows<'_, f32>, shape: [usize; 3], c: &mut [f32]) {
    choose!(Floats, PlainFloats, direct(w, x, shape, c));
}

/// The same for codes of a byte with integers within +-255. `k` is at most [`EXACT`], and what `c` holds
/// leaves room.
pub fn codes(w: Rows<'_, u8>, x: Rows<'_, i16>, shape: [usize; 3], c: &mut [i32]) {
    debug_assert!(shape[1] <= EXACT);
    choose!(Bytes, PlainBytes, direct(w, x, shape, c));
}

/// `c [m, n] += w x^T` for up to [`ROWS`] rows of weights that `fill(row, columns, values)` decodes.
pub fn blocked_floats(fill: impl FnMut(usize, Range<usize>, &mut [f32]), x: &Panels<f32>, c: &mut [f32]) {
    let m = c.len().checked_div(x.n).unwrap_or(0);
    let add = |_: &Range<usize>, sums: &[f32]| c.iter_mut().zip(sums).for_each(|(c, sum)| *c += *sum);
    choose!(Floats, PlainFloats, blocked(fill, x, m, add));
}

/// [`blocked_floats`] for any number type, with a product `dots(w, x, [m, k, n], c)` that adds to `c`.
pub fn blocked_by<T: Copy + Default>(
    mut fill: impl FnMut(usize, Range<usize>, &mut [T]),
    x: &Panels<T>,
    c: &mut [T],
    dots: impl Fn(Rows<'_, T>, Rows<'_, T>, [usize; 3], &mut [T]),
) {
    let m = c.len().checked_div(x.n).unwrap_or(0);
    let mut w = vec![T::default(); m * x.stride];
    for (columns, rows) in x.iter() {
        for (r, w) in w.chunks_exact_mut(x.stride).enumerate() {
            fill(r, columns.clone(), &mut w[..columns.len()]);
        }
        dots(Rows::new(&w, x.stride), rows, [m, columns.len(), x.n], c);
    }
}

/// `add(columns, sums [m, n])` for each block of columns, for up to [`ROWS`] rows of weights.
pub fn blocked_integers(
    fill: impl FnMut(usize, Range<usize>, &mut [i16]),
    x: &Panels<i16>,
    m: usize,
    add: impl FnMut(&Range<usize>, &[i32]),
) {
    choose!(Integers, PlainIntegers, blocked(fill, x, m, add));
}

#[inline(always)]
fn direct<K: Tiles>(
    kernel: K,
    w: Rows<'_, K::W>,
    x: Rows<'_, K::X>,
    [m, k, n]: [usize; 3],
    c: &mut [K::Sum],
) {
    let row = |r: usize| w.part(r, 0..k);
    tiles(kernel, row, x, [m, k, n], |r, b, sums| {
        c[r * n + b..][..sums.len()].iter_mut().zip(sums).for_each(|(c, sum)| *c += *sum);
    });
}

#[inline(always)]
fn blocked<K: Tiles>(
    kernel: K,
    mut fill: impl FnMut(usize, Range<usize>, &mut [K::W]),
    x: &Panels<K::X>,
    m: usize,
    mut add: impl FnMut(&Range<usize>, &[K::Sum]),
) {
    let stride = x.stride;
    let mut w = Aligned::<K::W>::new(m * stride);
    let w = w.get_mut();
    let mut c = vec![K::Sum::default(); m * x.n];
    for (columns, x_rows) in x.iter() {
        for (r, w) in w.chunks_exact_mut(stride).enumerate() {
            // What is left of another block meets zeros, and must be a number.
            w[columns.len()..].fill(K::W::default());
            fill(r, columns.clone(), &mut w[..columns.len()]);
        }
        let row = |r: usize| &w[r * stride..][..stride];
        tiles(kernel, row, x_rows, [m, stride, x.n], |r, b, sums| {
            c[r * x.n + b..][..sums.len()].copy_from_slice(sums);
        });
        add(columns, &c);
    }
}

/// Calls `put(r, b, sums of row r of the weights with rows b.. of x)`.
#[inline(always)]
fn tiles<'a, K: Tiles<W: 'a>>(
    kernel: K,
    w: impl Fn(usize) -> &'a [K::W],
    x: Rows<'_, K::X>,
    [m, k, n]: [usize; 3],
    mut put: impl FnMut(usize, usize, &[K::Sum]),
) {
    macro_rules! tile {
        ($r:expr, $b:expr, $height:literal, $width:literal) => {{
            let ws: [_; $height] = std::array::from_fn(|i| w($r + i));
            let xs: [_; $width] = std::array::from_fn(|i| x.part($b + i, 0..k));
            let sums = kernel.tile(ws, xs);
            for (i, sums) in sums.iter().enumerate() {
                put($r + i, $b, &sums[..$width]);
            }
        }};
    }
    for b in (0..n).step_by(WIDTH) {
        for r in (0..m).step_by(K::HEIGHT) {
            match (K::HEIGHT.min(m - r), WIDTH.min(n - b)) {
                (3, 4) => tile!(r, b, 3, 4),
                (3, 3) => tile!(r, b, 3, 3),
                (3, 2) => tile!(r, b, 3, 2),
                (3, 1) => tile!(r, b, 3, 1),
                (2, 4) => tile!(r, b, 2, 4),
                (2, 3) => tile!(r, b, 2, 3),
                (2, 2) => tile!(r, b, 2, 2),
                (2, 1) => tile!(r, b, 2, 1),
                (_, 4) => tile!(r, b, 1, 4),
                (_, 3) => tile!(r, b, 1, 3),
                (_, 2) => tile!(r, b, 1, 2),
                _ => tile!(r, b, 1, 1),
            }
        }
    }
}

macro_rules! plain {
    ($name:ident, $w:ty, $x:ty, $sum:ty, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy)]
        struct $name;

        impl Tiles for $name {
            type W = $w;
            type X = $x;
            type Sum = $sum;
            const HEIGHT: usize = 2;
            #[inline(always)]
            fn tile<const R: usize, const B: usize>(
                self,
                w: [&[$w]; R],
                x: [&[$x]; B],
            ) -> [[$sum; WIDTH]; R] {
                w.map(|w| {
                    std::array::from_fn(|b| {
                        x.get(b).map_or_else(Default::default, |x| {
                            w.iter().zip(*x).map(|(w, x)| <$sum>::from(*w) * <$sum>::from(*x)).sum()
                        })
                    })
                })
            }
        }
    };
}

plain!(PlainIntegers, i16, i16, i32, "The portable form for integers.");
plain!(PlainBytes, u8, i16, i32, "The portable form for codes of a byte.");

/// The portable form for floats: eight sums side by side, as vectors have them.
#[derive(Clone, Copy)]
struct PlainFloats;

impl Tiles for PlainFloats {
    type W = f32;
    type X = f32;
    type Sum = f32;
    const HEIGHT: usize = 2;
    #[inline(always)]
    fn tile<const R: usize, const B: usize>(self, w: [&[f32]; R], x: [&[f32]; B]) -> [[f32; WIDTH]; R] {
        w.map(|w| std::array::from_fn(|b| x.get(b).map_or(0.0, |x| float_dot(w, x))))
    }
}

#[inline(always)]
fn float_dot(w: &[f32], x: &[f32]) -> f32 {
    let (w, w_rest) = w.as_chunks::<8>();
    let (x, x_rest) = x.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (w, x) in w.iter().zip(x) {
        sums.iter_mut().zip(w).zip(x).for_each(|((sum, w), x)| *sum += w * x);
    }
    sums.iter_mut().zip(w_rest).zip(x_rest).for_each(|((sum, w), x)| *sum += w * x);
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bits(seed: u64, n: usize) -> impl Iterator<Item = u64> {
        (0..n as u64).map(move |i| {
            let x = (i + 1).wrapping_mul(seed | 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            (x ^ (x >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 32
        })
    }

    /// Full range, with the ends more often than by chance.
    fn small(seed: u64, n: usize) -> Vec<i16> {
        bits(seed, n)
            .map(|x| if x & 3 == 0 { 255 - 510 * (x >> 2 & 1) as i16 } else { (x % 511) as i16 - 255 })
            .collect()
    }

    proptest! {
        #[test]
        fn integer_tiles_give_the_sums(
            m in 0_usize..30, k in 0_usize..700, n in 0_usize..20, skip in 0_usize..5, seed in any::<u64>(),
        ) {
            let stride = k + skip;
            let (w, x) = (small(seed, m * stride + skip), small(seed ^ 99, n * stride + skip));
            let bytes: Vec<u8> = w.iter().map(|w| w.unsigned_abs() as u8).collect();
            let exact = |w: &dyn Fn(usize) -> i32| -> Vec<i32> {
                let dot = |r: usize, b: usize| (0..k).map(|i| w(r * stride + skip + i) * i32::from(x[b * stride + skip + i])).sum::<i32>() + 7;
                (0..m).flat_map(|r| (0..n).map(move |b| (r, b))).map(|(r, b)| dot(r, b)).collect()
            };
            let xs = Rows::new(&x, stride).skip_columns(skip);
            for step in [k, 7, 64, 100] {
                let mut c = vec![7; m * n];
                let rows = Rows::new(&w, stride).skip_columns(skip);
                let fill = |r: usize, columns: Range<usize>, to: &mut [i16]| to.copy_from_slice(rows.part(r, columns));
                blocked_integers(fill, &Panels::new(xs, k, n, step), m, |columns, sums| {
                    assert!(columns.start / step.max(1) == (columns.end - 1) / step.max(1));
                    c.iter_mut().zip(sums).for_each(|(c, sum)| *c += sum);
                });
                prop_assert_eq!(&c, &exact(&|i| i32::from(w[i])));
            }
            let mut c = vec![7; m * n];
            codes(Rows::new(&bytes, stride).skip_columns(skip), xs, [m, k, n], &mut c);
            prop_assert_eq!(&c, &exact(&|i| i32::from(bytes[i])));
        }

        #[test]
        fn float_tiles_stay_within_the_bound(
            m in 0_usize..30, k in 0_usize..700, n in 0_usize..20, skip in 0_usize..5, seed in any::<u64>(), huge in any::<bool>(),
        ) {
            let stride = k + skip;
            let float = |x: u64| (x as u32 as f32 / u32::MAX as f32 - 0.5) * if huge { 1e16 } else { 1.0 };
            let w: Vec<f32> = bits(seed, m * stride + skip).map(float).collect();
            let x: Vec<f32> = bits(seed ^ 99, n * stride + skip).map(float).collect();
            let mut c = vec![0.0; m * n];
            floats(Rows::new(&w, stride).skip_columns(skip), Rows::new(&x, stride).skip_columns(skip), [m, k, n], &mut c);
            let rows = Rows::new(&w, stride).skip_columns(skip);
            let panels = Panels::new(Rows::new(&x, stride).skip_columns(skip), k, n, k);
            let mut blocked = vec![0.0; m * n];
            blocked_floats(|r, columns, to| to.copy_from_slice(rows.part(r, columns)), &panels, &mut blocked);
            for (i, c) in c.iter().chain(&blocked).enumerate() {
                let i = i % (m * n);
                let (r, b) = (i / n, i % n);
                let terms = (0..k).map(|i| f64::from(w[r * stride + skip + i]) * f64::from(x[b * stride + skip + i]));
                let (sum, all) = terms.fold((0.0, 0.0), |(s, a), t| (s + t, a + f64::abs(t)));
                let bound = (k as f64 + 4.0) * f64::from(f32::EPSILON) / 2.0 * all;
                prop_assert!((f64::from(*c) - sum).abs() <= bound, "{} {} {}", c, sum, bound);
            }
        }
    }

    #[test]
    fn the_longest_sums_of_the_largest_values_are_exact() {
        let (w, x) = (vec![255_i16; EXACT], vec![-255_i16; EXACT]);
        let panels = Panels::new(Rows::new(&x, EXACT), EXACT, 1, EXACT);
        let mut sum = 0;
        blocked_integers(
            |_, columns, to| to.copy_from_slice(&w[columns]),
            &panels,
            1,
            |_, sums| sum += sums[0],
        );
        assert_eq!(sum, -(EXACT as i32) * 255 * 255);
        let mut c = [0];
        codes(Rows::new(&[255; EXACT], EXACT), Rows::new(&x, EXACT), [1, EXACT, 1], &mut c);
        assert_eq!(c, [-(EXACT as i32) * 255 * 255]);
    }

    #[test]
    fn not_finite_values_spread_as_floats_do() {
        let mut w = vec![1.0_f32; 3 * 21];
        w[5] = f32::NAN;
        w[21 + 20] = f32::INFINITY;
        let mut c = vec![0.0; 6];
        floats(Rows::new(&w, 21), Rows::new(&[1.0; 42], 21), [3, 21, 2], &mut c);
        assert!(c[0].is_nan() && c[1].is_nan());
        assert_eq!(c[2..], [f32::INFINITY, f32::INFINITY, 21.0, 21.0]);
    }
}
