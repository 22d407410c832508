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

use super::decoder::{Decoder, Integers};
use super::product::{Gather, SMALL, height, transposed};
use super::{Coding, Leaf, zeros};
use crate::kernels::products::{self, Decode, EXACT, FEW, HEIGHT, Panels, Rows, Sorted, Source, TOGETHER};
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
    /// What was subtracted in the first row.
    zero: u8,
}

impl CodedInput {
    /// Of `n` rows, made of samples of `size` values, `rows` of each; a sample shares a range.
    fn new<T: Float>(
        x: &[T],
        (size, rows): (usize, usize),
        n: usize,
        how: Activations,
    ) -> Result<Self, Fault> {
        let size = size.max(1);
        let find = |i: usize| {
            let sample = &x[i * size..x.len().min((i + 1) * size)];
            // With a fixed range, too: a NaN must not pass for a number.
            let found = range(sample).ok_or_else(|| Fault::input(x, i * size))?;
            let (low, high) = match how {
                Activations::Int8Static { low, high } => (low, high),
                _ => found,
            };
            Ok::<_, Fault>(input_steps(low, high))
        };
        let grids = match x.len().div_ceil(size) {
            1 => vec![find(0)?],
            many => parallel::try_map(many, find)?,
        };
        let mut codes = vec![0; x.len()];
        parallel::for_each_chunk(&mut codes, size, |i, codes| encode(&grids[i], &x[i * size..], codes));
        let scales = grids.iter().flat_map(|grid| std::iter::repeat_n(grid.scale.widen(), rows));
        let mut scales: Vec<f64> = scales.take(n).collect();
        scales.resize(n, 1.0);
        let zero = grids.first().map_or(0, |grid| grid.zero);
        Ok(Self { codes, scales, zero })
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
pub(crate) fn input_steps<T: Float>(low: f64, high: f64) -> Steps<T> {
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
        let (rows, cols) = (self.rows, self.cols);
        let input = CodedInput::new(x, (cols * group, group), n, how)?;
        // Inputs of a row that share a scale.
        let step = decoder.step(cols);
        if mask.is_none()
            && let Some(y) = in_place(&decoder, &input, [rows, cols, n], step)?
        {
            return transposed(y, rows, n);
        }
        let scale = |row: usize, step: usize| decoder.grid(row, step).0.widen();
        let x = Rows::new(&input.codes, cols);
        let of_weight = |first| Integers { decoder: &decoder, mask: mask.as_deref(), cols, first };
        if n > rows && step == cols && rows * cols <= SMALL {
            let mut of_weight = of_weight(0);
            let panels = Panels::by(cols, rows, step, |row, columns, to| of_weight.decode(row, columns, to));
            let part =
                |b: usize, columns: Range<usize>, to: &mut [i16]| to.copy_from_slice(x.part(b, columns));
            return input_rows(part, &panels, &decoder, &input, [n, cols, rows]);
        }
        let finish = |_: usize, b: usize, sum: f64| T::narrow(sum * input.scales[b]);
        let y = sums(of_weight, &Panels::new(x, cols, n, step), [rows, cols, n], step, scale, finish)?;
        transposed(y, rows, n)
    }

    /// The same for rows that are made of samples; `None` for a leaf with several scales a row.
    pub(super) fn integer_product_of(
        &self,
        samples: &[T],
        (size, of_sample): (usize, usize),
        n: usize,
        how: Activations,
        make: &impl Gather,
    ) -> Result<Option<Vec<T>>, Fault> {
        if !self.is_coded() || self.codebook().is_some() {
            return Ok(None);
        }
        // As it is in memory: in a file, pruned entries may be among the codes.
        let leaf = self.load()?;
        let Coding::Affine(affine) = &leaf.coding else { return Ok(None) };
        let (rows, cols) = (self.rows, self.cols);
        let decoder = Decoder::new(&leaf, affine)?;
        if decoder.step(cols) != cols {
            return Ok(None);
        }
        let mask = leaf.mask()?;
        let mut w = vec![0; rows * cols];
        for (row, w) in w.chunks_exact_mut(cols.max(1)).enumerate() {
            decoder.spread(row * cols..(row + 1) * cols, mask.as_deref(), w);
        }
        let panels = Panels::by(cols, rows, cols, |row, columns, to| {
            columns.zip(to).for_each(|(column, to)| *to = w[row * cols + make.column(column)]);
        });
        let input = CodedInput::new(samples, (size, of_sample), n, how)?;
        let part =
            |b: usize, columns: Range<usize>, to: &mut [i16]| make.gather(&input.codes, b, columns, to);
        input_rows(part, &panels, &decoder, &input, [n, cols, rows]).map(Some)
    }
}

/// `[n, rows]` for the `[n, cols, rows]` of inputs whose parts `part(row, columns, codes)` gives, and panels of a
/// weight whose rows have one scale each.
fn input_rows<T: Float>(
    part: impl Fn(usize, Range<usize>, &mut [i16]) + Sync + Send,
    panels: &Panels<i16>,
    decoder: &Decoder<'_, T>,
    input: &CodedInput,
    shape: [usize; 3],
) -> Result<Vec<T>, Fault> {
    let scales: Vec<f64> = (0..shape[2]).map(|row| decoder.grid(row, 0).0.widen()).collect();
    let part = &part;
    let rows =
        |first: usize| move |b: usize, columns: Range<usize>, to: &mut [i16]| part(first + b, columns, to);
    let finish = |b: usize, row: usize, sum: f64| T::narrow(scales[row] * sum * input.scales[b]);
    sums(rows, panels, shape, shape[1].max(1), |_, _| 1.0, finish)
}

/// `finish(row, b, sum)` of the sums of each row that `rows(first)` decodes with each of the panels: in
/// integers within a step, which then counts `scale(row, number of the step)` times.
fn sums<T: Float, D: Decode<i16>>(
    rows: impl Fn(usize) -> D + Sync + Send,
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
            let (first, count) = (i * height + j * HEIGHT, out.len() / n);
            // Of steps that are cut, what has been summed.
            let mut long = if step > EXACT { vec![0_i64; count * width] } else { Vec::new() };
            let mut total = vec![0.0; count * width];
            let mut add = |rows: Range<usize>, columns: Range<usize>, sums: &[i32]| {
                let number = columns.start / step;
                let total = &mut total[rows.start * width..rows.end * width];
                if long.is_empty() {
                    let mut scales = [0.0; HEIGHT];
                    let scales = &mut scales[..rows.len()];
                    rows.zip(&mut *scales).for_each(|(row, to)| *to = scale(first + row, number));
                    return products::add_scaled(scales, sums, width, total);
                }
                let long = &mut long[rows.start * width..rows.end * width];
                long.iter_mut().zip(sums).for_each(|(long, sum)| *long += i64::from(*sum));
                if columns.end.is_multiple_of(step) || columns.end == k {
                    for ((row, long), total) in
                        rows.zip(long.chunks_exact_mut(width)).zip(total.chunks_exact_mut(width))
                    {
                        let scale = scale(first + row, number);
                        total.iter_mut().zip(&*long).for_each(|(total, long)| *total += scale * *long as f64);
                        long.fill(0);
                    }
                }
            };
            products::integers(Source::Decoded(&mut rows(first)), panels, count, &mut add);
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
    if let Some(codes) = decoder.packed(8).filter(|_| n <= FEW) {
        return bytes(codes, decoder, input, [m, k, n], step).map(Some);
    }
    let whole = k.is_multiple_of(step) && step.is_multiple_of(TOGETHER) && step <= EXACT;
    if let Some(codes) = decoder.packed(4).filter(|_| n == 1 && whole) {
        return nibbles(codes, decoder, input, [m, k], step).map(Some);
    }
    Ok(None)
}

/// Sums of the input's codes in some columns.
fn of_inputs(input: &CodedInput, k: usize, columns: Range<usize>) -> impl Iterator<Item = i64> {
    let rows = input.codes.chunks(k.max(1));
    rows.map(move |row| row[columns.clone()].iter().map(|q| i64::from(*q)).sum())
}

fn bytes<T: Float>(
    codes: &[u8],
    decoder: &Decoder<'_, T>,
    input: &CodedInput,
    [m, k, n]: [usize; 3],
    step: usize,
) -> Result<Vec<T>, Fault> {
    let x = Rows::new(&input.codes, k);
    let steps: Vec<Range<usize>> = (0..k).step_by(step).map(|first| first..k.min(first + step)).collect();
    let of_inputs: Vec<i64> = steps.iter().flat_map(|step| of_inputs(input, k, step.clone())).collect();
    let mut out = zeros::<T>(m, n)?;
    let height = height(2 * HEIGHT, k * n);
    parallel::for_each_chunk(&mut out, height * n, |i, out| {
        let first = i * height;
        let w = Rows::new(&codes[first * k..], k);
        let (mut total, mut part) = (vec![0.0; out.len()], vec![0; out.len()]);
        let mut long = vec![0_i64; out.len()];
        for (number, (columns, of_inputs)) in steps.iter().zip(of_inputs.chunks(n)).enumerate() {
            // What an `i32` cannot hold is cut.
            for from in columns.clone().step_by(EXACT) {
                let len = EXACT.min(columns.end - from);
                part.fill(0);
                let (w, x) = (w.skip_columns(from), x.skip_columns(from));
                products::bytes_in_place(w, x, [out.len() / n, len, n], &mut part);
                long.iter_mut().zip(&part).for_each(|(long, part)| *long += i64::from(*part));
            }
            for (row, (long, total)) in long.chunks_mut(n).zip(total.chunks_mut(n)).enumerate() {
                let (scale, zero) = decoder.grid(first + row, number);
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

/// One input with 4-bit codes. For the kernel the input's codes are around 128, so that they fit 8 bits; what
/// that changes is known from the sums of the weight's codes.
fn nibbles<T: Float>(
    codes: &[u8],
    decoder: &Decoder<'_, T>,
    input: &CodedInput,
    [m, k]: [usize; 2],
    step: usize,
) -> Result<Vec<T>, Fault> {
    let offset = 128 - i32::from(input.zero);
    let x: Vec<i8> = input.codes.iter().map(|q| (i32::from(*q) - offset) as i8).collect();
    let x = Sorted::new(&x);
    let steps = (0..k).step_by(step).map(|first| first..first + step);
    let of_inputs: Vec<i32> =
        steps.flat_map(|step| of_inputs(input, k, step)).map(|sum| sum as i32).collect();
    let scale_of_input = input.scales.first().copied().unwrap_or(1.0);
    let mut out = zeros::<T>(m, 1)?;
    let height = height(2 * HEIGHT, k);
    parallel::for_each_chunk(&mut out, height, |i, out| {
        let (mut sums, mut of_codes) = (vec![0; of_inputs.len()], vec![0; of_inputs.len()]);
        for (row, out) in (i * height..).zip(out) {
            let w = Rows::new(&codes[row * k / 2..][..k / 2], k / 2);
            products::nibbles(w, &x, step, &mut sums, &mut of_codes);
            // Side by side: a sum must wait for the one before it.
            let mut total = [0.0; 4];
            for (i, (scale, zero)) in decoder.grids(row).enumerate() {
                let sum = sums[i] + offset * of_codes[i] - i32::from(zero) * of_inputs[i];
                total[i % 4] += scale.widen() * f64::from(sum);
            }
            *out = T::narrow(total.iter().sum::<f64>() * scale_of_input);
        }
    });
    Ok(out)
}
