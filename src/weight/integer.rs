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
use crate::kernels::products::{self, EXACT, FEW, HEIGHT, Panels, Rows, Sorted, Source, TOGETHER};
use crate::kernels::quantize::{Steps, ends, subtract};
use crate::{Fault, Float, parallel};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Values that are coded at a time.
const CHUNK: usize = 512;

/// How the input of a product is coded.
///
/// | value | range of an input row | cost |
/// | --- | --- | --- |
/// | `Float` | none: the product runs on floats | exact up to rounding |
/// | `Int8` | its own minimum and maximum, found as it comes ("dynamic") | a pass over the input |
/// | `Int8Static` | fixed, from calibration | values outside are clipped |
///
/// Codes are unsigned 8-bit with an integer zero point: `q = round(x / scale) + zero`, rounding half to
/// even, clamped to 0..=255; `scale = (max - min) / 255` over a range widened to hold 0, rounded to the type of
/// the weights. Integer products need a quantized weight.
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
        parallel::for_each_chunk(&mut codes, size, |i, codes| encode(&grids[i], &x[i * size..], codes));
        let scales = grids.iter().flat_map(|grid| std::iter::repeat_n(grid.scale.widen(), group));
        let mut scales: Vec<f64> = scales.take(n).collect();
        scales.resize(n, 1.0);
        Ok(Self { codes, scales })
    }
}

/// `code - zero` of finite values.
fn encode<T: Float>(grid: &Steps<T>, x: &[T], codes: &mut [i16]) {
    let mut bytes = [0; CHUNK];
    for (codes, x) in codes.chunks_mut(CHUNK).zip(x.chunks(CHUNK)) {
        let bytes = &mut bytes[..codes.len()];
        grid.encode(&x[..codes.len()], bytes);
        subtract(bytes, grid.zero, codes);
    }
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
    ends(values).map(|(low, high)| (low.widen(), high.widen()))
}

/// Unsigned 8-bit codes for `low..=high`, which is widened to hold 0.
fn grid<T: Float>(low: f64, high: f64) -> Steps<T> {
    let (low, high) = (low.min(0.0), high.max(0.0));
    // Not (high - low) / 255: that overflows for the largest numbers.
    let scale = T::narrow(high / 255.0 - low / 255.0);
    if scale > T::zero() && (T::one() / scale).is_finite() {
        let zero = (-low / scale.widen()).round_ties_even().clamp(0.0, 255.0);
        Steps { scale, zero: zero as u8, low: 0, high: 255 }
    } else {
        Steps { scale: T::one(), zero: 0, low: 0, high: 255 }
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
        if !self.is_coded() {
            return Err(Fault::Form("its values are floats: quantize it before running it on integers"));
        }
        // Compressed as it is; no more than handles where it is in memory already.
        let leaf = self.load()?;
        let Coding::Affine(affine) = &leaf.coding else { unreachable!("loading keeps the coding") };
        let decoder = Decoder::new(&leaf, affine)?;
        let mask = leaf.mask()?;
        let input = CodedInput::new(x, n, group, how)?;
        let (rows, cols) = (self.rows, self.cols);
        // Inputs of a row that share a scale.
        let step = decoder.step(cols);
        if mask.is_none()
            && let Some(y) = in_place(&decoder, &input, [rows, cols, n], step)?
        {
            return transposed(y, rows, n);
        }
        let scale = |row: usize, column: usize| decoder.grid(row * cols + column).0.widen();
        let x = Rows::new(&input.codes, cols);
        let fill = |row: usize, columns: Range<usize>, to: &mut [i16]| {
            decoder.spread(row * cols + columns.start..row * cols + columns.end, mask.as_deref(), to);
        };
        if n > rows && step == cols && rows * cols <= SMALL {
            let scales: Vec<f64> = (0..rows).map(|row| scale(row, 0)).collect();
            let panels = Panels::by(cols, rows, step, fill);
            let fill =
                |b: usize, columns: Range<usize>, to: &mut [i16]| to.copy_from_slice(x.part(b, columns));
            let finish = |b: usize, row: usize, sum: f64| T::narrow(scales[row] * sum * input.scales[b]);
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
    let (height, width) = (height(HEIGHT, k * n), panels.width());
    parallel::for_each_chunk(&mut out, height * n, |i, out| {
        for (j, out) in out.chunks_mut((HEIGHT * n).max(1)).enumerate() {
            let (first, rows) = (i * height + j * HEIGHT, out.len() / n);
            // Of steps that are cut, what has been summed.
            let mut long = if step > EXACT { vec![0_i64; rows * width] } else { Vec::new() };
            let mut total = vec![0.0; rows * width];
            let mut fill = |row: usize, columns: Range<usize>, to: &mut [i16]| fill(first + row, columns, to);
            products::integers(Source::Decoded(&mut fill), panels, rows, &mut |columns, sums| {
                let rows = sums.chunks_exact(width).zip(total.chunks_exact_mut(width));
                if long.is_empty() {
                    for (row, (sums, total)) in (first..).zip(rows) {
                        products::add_scaled(scale(row, columns.start), sums, total);
                    }
                    return;
                }
                long.iter_mut().zip(sums).for_each(|(long, sum)| *long += i64::from(*sum));
                if columns.end.is_multiple_of(step) || columns.end == k {
                    for (row, (long, total)) in
                        (first..).zip(long.chunks_exact_mut(width).zip(total.chunks_exact_mut(width)))
                    {
                        let scale = scale(row, columns.start);
                        total.iter_mut().zip(&*long).for_each(|(total, long)| *total += scale * *long as f64);
                        long.fill(0);
                    }
                }
            });
            for (row, (out, total)) in (first..).zip(out.chunks_mut(n).zip(total.chunks(width.max(1)))) {
                out.iter_mut().zip(total).enumerate().for_each(|(b, (out, sum))| *out = finish(row, b, *sum));
            }
        }
    });
    Ok(out)
}

/// `[m, n]` for a few inputs with codes that are read where they are, if a kernel does that: what their zero
/// points add is known from the sums of the inputs.
fn in_place<T: Float>(
    decoder: &Decoder<'_, T>,
    input: &CodedInput,
    [m, k, n]: [usize; 3],
    step: usize,
) -> Result<Option<Vec<T>>, Fault> {
    let x = Rows::new(&input.codes, k);
    // Steps that an `i32` cannot hold are cut.
    let parts: Vec<Range<usize>> = (0..k)
        .step_by(step)
        .flat_map(|first| {
            let end = k.min(first + step);
            (first..end).step_by(EXACT).map(move |first| first..end.min(first + EXACT))
        })
        .collect();
    if let Some(codes) = decoder.packed(8).filter(|_| n <= FEW) {
        let sum = |first: usize, sums: &mut [i32]| {
            let w = Rows::new(&codes[first * k..], k);
            let rows = sums.len() / (parts.len() * n).max(1);
            for (part, sums) in parts.iter().zip(sums.chunks_mut((rows * n).max(1))) {
                let (w, x) = (w.skip_columns(part.start), x.skip_columns(part.start));
                products::bytes_in_place(w, x, [rows, part.len(), n], sums);
            }
        };
        // [part][row][input]
        return of_parts(decoder, input, [m, k, n], &parts, sum, |row, rows, part| (part * rows + row) * n).map(Some);
    }
    let whole = k.is_multiple_of(step) && step.is_multiple_of(TOGETHER) && step <= EXACT;
    if let Some(codes) = decoder.packed(4).filter(|_| n == 1 && whole) {
        let sorted = Sorted::new(&input.codes);
        let sum = |first: usize, sums: &mut [i32]| {
            products::nibbles(Rows::new(&codes[first * k / 2..], k / 2), &sorted, step, sums);
        };
        // [row][part]
        return of_parts(decoder, input, [m, k, n], &parts, sum, |row, _, part| row * parts.len() + part).map(Some);
    }
    Ok(None)
}

/// The products from the sums of codes with inputs that `sum(first row, sums)` adds for each part of the
/// columns, those of a row and a part from `place(row, rows, part)` on.
fn of_parts<T: Float>(
    decoder: &Decoder<'_, T>,
    input: &CodedInput,
    [m, k, n]: [usize; 3],
    parts: &[Range<usize>],
    sum: impl Fn(usize, &mut [i32]) + Sync + Send,
    place: impl Fn(usize, usize, usize) -> usize + Sync + Send,
) -> Result<Vec<T>, Fault> {
    let x = Rows::new(&input.codes, k);
    let of_inputs: Vec<i64> = (parts.iter())
        .flat_map(|part| (0..n).map(|b| x.part(b, part.clone()).iter().map(|q| i64::from(*q)).sum()))
        .collect();
    let mut out = zeros::<T>(m, n)?;
    let height = height(2 * HEIGHT, k * n);
    parallel::for_each_chunk(&mut out, height * n, |i, out| {
        let (first, rows) = (i * height, out.len() / n);
        let mut sums = vec![0; rows * parts.len() * n];
        sum(first, &mut sums);
        let mut total = vec![0.0; n];
        for (row, out) in out.chunks_mut(n).enumerate() {
            total.fill(0.0);
            for (p, (part, of_inputs)) in parts.iter().zip(of_inputs.chunks(n)).enumerate() {
                let (scale, zero) = decoder.grid((first + row) * k + part.start);
                let (scale, zero) = (scale.widen(), i64::from(zero));
                let sums = &sums[place(row, rows, p)..][..n];
                for ((total, sum), of_input) in total.iter_mut().zip(sums).zip(of_inputs) {
                    *total += scale * (i64::from(*sum) - zero * of_input) as f64;
                }
            }
            let sums = total.iter().zip(&input.scales);
            out.iter_mut().zip(sums).for_each(|(out, (sum, scale))| *out = T::narrow(sum * scale));
        }
    });
    Ok(out)
}
