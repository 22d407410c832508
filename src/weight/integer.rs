//! Products of quantized activations and quantized weights, in integers.
//!
//! With `x ~ sx * (qx - zx)` and `w ~ sw * (qw - zw)`, one output is
//!
//! ```text
//! y = sx * sum over blocks ( sw * sum over the block ( (qx - zx) * (qw - zw) ) )
//! ```
//!
//! The inner sums are exact: both factors are within +-255, so 16,384 products fit an `i32`, and longer
//! sums go on in an `i64`. Only the final scaling rounds.

use super::decoder::Decoder;
use super::product::{SMALL, height, transposed};
use super::{Coding, Leaf, zeros};
use crate::kernels::cpu::fast;
use crate::kernels::dots::{self, MANY, Panels, ROWS, Rows};
use crate::{Fault, Float, parallel};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Adding it to a small whole number leaves that number in the low bits of the sum: 1.5 * 2^52.
const WHOLE: f64 = 6_755_399_441_055_744.0;
/// Values that are looked at side by side.
const LANES: usize = 16;

/// How the input of a product is coded.
///
/// | value | range of an input row | cost |
/// | --- | --- | --- |
/// | `Float` | none: the product runs on floats | exact up to rounding |
/// | `Int8` | its own minimum and maximum, found as it comes ("dynamic") | a pass over the input |
/// | `Int8Static` | fixed, from calibration | values outside are clipped |
///
/// Codes are unsigned 8-bit with an integer zero point: `q = round(x / scale) + zero`, rounding half to
/// even, clamped to 0..=255; `scale = (max - min) / 255` over a range widened to hold 0. Integer products
/// need a quantized weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Activations {
    /// Not coded.
    #[default]
    Float,
    /// 8 bits, with a range for each row of the batch (each image, for a convolution).
    Int8,
    /// 8 bits, with a fixed range.
    Int8Static {
        /// Lower end, at most 0.
        low: f64,
        /// Upper end, at least 0.
        high: f64,
    },
}

impl Activations {
    /// Whether a fixed range is one: finite, and around 0. Files with another are refused, so none is written.
    pub(crate) fn is_sane(&self) -> bool {
        match *self {
            Self::Int8Static { low, high } => {
                (f64::MIN..=0.0).contains(&low) && (0.0..=f64::MAX).contains(&high)
            }
            Self::Float | Self::Int8 => true,
        }
    }
}

/// `x` is `scale * code` with codes in -255..=255 (the zero point is subtracted already).
struct CodedInput {
    codes: Vec<i16>,
    /// One for each row.
    scales: Vec<f64>,
}

impl CodedInput {
    fn new<T: Float>(x: &[T], n: usize, group: usize, how: Activations) -> Result<Self, Fault> {
        let cols = x.len().checked_div(n).unwrap_or(0);
        let size = (cols * group).max(1);
        let find = |i: usize| {
            let rows = &x[i * size..x.len().min((i + 1) * size)];
            // With a fixed range, too: a NaN must not pass for a number.
            let found = range(rows).ok_or_else(|| Fault::input(x, i * size))?;
            let (low, high) = match how {
                Activations::Int8Static { low, high } => (low, high),
                _ => found,
            };
            Ok::<_, Fault>(grid(low, high))
        };
        let grids = match x.len().div_ceil(size) {
            1 => vec![find(0)?],
            many => parallel::try_map(many, find)?,
        };
        let mut codes = vec![0; x.len()];
        parallel::for_each_chunk(&mut codes, size, |i, codes| {
            let (scale, zero) = grids[i];
            encode(&x[i * size..][..codes.len()], scale, zero, codes);
        });
        let mut scales: Vec<f64> =
            grids.iter().flat_map(|(scale, _)| std::iter::repeat_n(*scale, group)).take(n).collect();
        scales.resize(n, 1.0);
        Ok(Self { codes, scales })
    }
}

/// `code - zero` of finite values.
fn encode<T: Float>(x: &[T], scale: f64, zero: f64, codes: &mut [i16]) {
    fast(
        #[inline(always)]
        || {
            for (code, x) in codes.iter_mut().zip(x) {
                let q = (x.widen() / scale).round_ties_even() + zero;
                let q = q.clamp(0.0, 255.0) - zero;
                // A whole number after this sum lies in the low bits: a conversion that vectors have.
                *code = (q + WHOLE).to_bits() as i16;
            }
        },
    );
}

impl Fault {
    /// Of an input in which an entry at or after `first` is NaN or infinite.
    pub(crate) fn input<T: Float>(x: &[T], first: usize) -> Self {
        let bad = (first..x.len()).find(|i| !x[*i].is_finite());
        let index = bad.unwrap_or(first);
        Self::Input { index, value: x.get(index).map(ToString::to_string).unwrap_or_default() }
    }
}

/// Smallest and largest of the values and 0; `None` where one is NaN or infinite.
pub(crate) fn range<T: Float>(values: &[T]) -> Option<(f64, f64)> {
    fast(
        #[inline(always)]
        || {
            let zeros = [T::zero(); LANES];
            let (mut low, mut high, mut sums) = (zeros, zeros, zeros);
            let (whole, rest) = values.as_chunks::<LANES>();
            let mut last = zeros;
            last[..rest.len()].copy_from_slice(rest);
            for values in whole.iter().chain([&last]) {
                for (i, x) in values.iter().enumerate() {
                    low[i] = if *x < low[i] { *x } else { low[i] };
                    high[i] = if *x > high[i] { *x } else { high[i] };
                    // Becomes NaN with the first NaN or infinity.
                    sums[i] += *x * T::zero();
                }
            }
            let (low, high) = (low.iter().map(|x| x.widen()), high.iter().map(|x| x.widen()));
            let finite = sums.iter().all(|sum| *sum == T::zero());
            finite.then(|| (low.fold(0.0, f64::min), high.fold(0.0, f64::max)))
        },
    )
}

/// Scale and zero point of unsigned 8-bit codes for `low..=high`, which is widened to hold 0.
fn grid(low: f64, high: f64) -> (f64, f64) {
    let (low, high) = (low.min(0.0), high.max(0.0));
    // Not (high - low) / 255: that overflows for the largest numbers.
    let scale = high / 255.0 - low / 255.0;
    if scale > 0.0 && (1.0 / scale).is_finite() {
        (scale, (-low / scale).round_ties_even().clamp(0.0, 255.0))
    } else {
        (1.0, 0.0)
    }
}

impl<T: Float> Leaf<T> {
    /// `x [n, cols]` times the transposed leaf, in integers.
    pub(super) fn integer_product(
        &self,
        x: &[T],
        n: usize,
        group: usize,
        how: Activations,
    ) -> Result<Vec<T>, Fault> {
        match &self.coding {
            Coding::Affine(_) => {}
            Coding::Float(_) => {
                return Err(Fault::Form("its values are floats: quantize it before running it on integers"));
            }
            Coding::Codebook(_) => {
                return Err(Fault::Form(
                    "its values are in a codebook, which runs on floats, not on integers",
                ));
            }
        }
        // Compressed as it is; no more than handles where it is in memory already.
        let leaf = self.load()?;
        let Coding::Affine(affine) = &leaf.coding else { unreachable!("loading keeps the coding") };
        let decoder = Decoder::new(&leaf, affine)?;
        let mask = leaf.mask()?;
        let input = CodedInput::new(x, n, group, how)?;
        let (rows, cols) = (self.rows, self.cols);
        // Inputs of a row that share a scale.
        let step = affine.granularity.block(rows, cols).min(cols).max(1);
        let scale = |row: usize, column: usize| decoder.grid(row * cols + column).0.widen();
        let x = Rows::new(&input.codes, cols);
        if let (None, true, Some(codes)) = (&mask, n <= MANY, decoder.bytes()) {
            let y = byte_sums(codes, &decoder, &input, [rows, cols, n], step)?;
            return transposed(y, rows, n);
        }
        let fill = |row: usize, columns: Range<usize>, to: &mut [i16]| {
            decoder.spread(row * cols + columns.start..row * cols + columns.end, mask.as_deref(), to);
        };
        if n > rows && step == cols && rows * cols <= SMALL {
            let mut w = vec![0; rows * cols];
            w.chunks_mut(cols).enumerate().for_each(|(row, to)| fill(row, 0..cols, to));
            let scales: Vec<f64> = (0..rows).map(|row| scale(row, 0)).collect();
            let fill =
                |b: usize, columns: Range<usize>, to: &mut [i16]| to.copy_from_slice(x.part(b, columns));
            let finish = |b: usize, row: usize, sum: f64| T::narrow(scales[row] * sum * input.scales[b]);
            let panels = Panels::new(Rows::new(&w, cols), cols, rows, step);
            return sums(fill, &panels, [n, cols, rows], step, |_, _| 1.0, finish);
        }
        let finish = |_: usize, b: usize, sum: f64| T::narrow(sum * input.scales[b]);
        let y = sums(fill, &Panels::new(x, cols, n, step), [rows, cols, n], step, scale, finish)?;
        transposed(y, rows, n)
    }
}

/// `finish(row, b, sum)` of the sums of each row that `fill` decodes with each of the panels: in integers
/// within a step, which then counts `scale(row, column)` times.
fn sums<T: Float>(
    fill: impl Fn(usize, Range<usize>, &mut [i16]) + Sync + Send,
    panels: &Panels<i16>,
    [m, k, n]: [usize; 3],
    step: usize,
    scale: impl Fn(usize, usize) -> f64 + Sync + Send,
    finish: impl Fn(usize, usize, f64) -> T + Sync + Send,
) -> Result<Vec<T>, Fault> {
    let mut out = zeros::<T>(m, n)?;
    let height = height(ROWS, k * n);
    parallel::for_each_chunk(&mut out, height * n, |i, out| {
        for (j, out) in out.chunks_mut((ROWS * n).max(1)).enumerate() {
            let first = i * height + j * ROWS;
            let (mut long, mut total) = (vec![0_i64; out.len()], vec![0.0; out.len()]);
            let fill = |row: usize, columns: Range<usize>, to: &mut [i16]| fill(first + row, columns, to);
            dots::blocked_integers(fill, panels, out.len() / n, |columns, sums| {
                let begins = columns.start.is_multiple_of(step);
                let ends = columns.end.is_multiple_of(step) || columns.end == k;
                let rows = sums.chunks(n).zip(long.chunks_mut(n)).zip(total.chunks_mut(n));
                for (row, ((sums, long), total)) in (first..).zip(rows) {
                    let scale = scale(row, columns.start);
                    if begins && ends {
                        total.iter_mut().zip(sums).for_each(|(total, sum)| *total += scale * f64::from(*sum));
                        continue;
                    }
                    for ((total, long), sum) in total.iter_mut().zip(long).zip(sums) {
                        *long += i64::from(*sum);
                        if ends {
                            *total += scale * *long as f64;
                            *long = 0;
                        }
                    }
                }
            });
            for (row, (out, total)) in (first..).zip(out.chunks_mut(n).zip(total.chunks(n))) {
                out.iter_mut().zip(total).enumerate().for_each(|(b, (out, sum))| *out = finish(row, b, *sum));
            }
        }
    });
    Ok(out)
}

/// The same for a few inputs with codes of a byte, which are read where they are: what their zero points
/// add is known from the sums of the inputs.
fn byte_sums<T: Float>(
    codes: &[u8],
    decoder: &Decoder<'_, T>,
    input: &CodedInput,
    [m, k, n]: [usize; 3],
    step: usize,
) -> Result<Vec<T>, Fault> {
    let x = Rows::new(&input.codes, k);
    let steps: Vec<Range<usize>> = (0..k).step_by(step).map(|c| c..k.min(c + step)).collect();
    let of_inputs: Vec<i64> = (steps.iter())
        .flat_map(|step| (0..n).map(|b| x.part(b, step.clone()).iter().map(|q| i64::from(*q)).sum()))
        .collect();
    let mut out = zeros::<T>(m, n)?;
    let height = height(2 * ROWS, k * n);
    parallel::for_each_chunk(&mut out, height * n, |i, out| {
        let first = i * height;
        let w = Rows::new(&codes[first * k..], k);
        let (mut total, mut part) = (vec![0.0; out.len()], vec![0; out.len()]);
        let mut long = vec![0_i64; out.len()];
        for (columns, of_inputs) in steps.iter().zip(of_inputs.chunks(n)) {
            for from in columns.clone().step_by(dots::EXACT) {
                let len = dots::EXACT.min(columns.end - from);
                part.fill(0);
                dots::codes(w.skip_columns(from), x.skip_columns(from), [out.len() / n, len, n], &mut part);
                long.iter_mut().zip(&part).for_each(|(long, part)| *long += i64::from(*part));
            }
            let rows = long.chunks_mut(n).zip(total.chunks_mut(n));
            for (row, (long, total)) in (first..).zip(rows) {
                let (scale, zero) = decoder.grid(row * k + columns.start);
                let (scale, zero) = (scale.widen(), i64::from(zero));
                for ((total, long), of_input) in total.iter_mut().zip(long).zip(of_inputs) {
                    *total += scale * (*long - zero * of_input) as f64;
                    *long = 0;
                }
            }
        }
        for (out, total) in out.chunks_mut(n).zip(total.chunks(n)) {
            let sums = total.iter().zip(&input.scales);
            out.iter_mut().zip(sums).for_each(|(out, (sum, scale))| *out = T::narrow(sum * scale));
        }
    });
    Ok(out)
}
