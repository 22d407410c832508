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

use super::leaf::scatter;
use super::{Coding, Leaf, Support, join_columns, zeros};
use crate::kernels::int8;
use crate::{Fault, Float};
use serde::{Deserialize, Serialize};

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
        let mut codes = Vec::with_capacity(x.len());
        let mut scales = Vec::with_capacity(n);
        let size = (cols * group).max(1);
        for (i, rows) in x.chunks(size).enumerate() {
            // With a fixed range, too: a NaN must not pass for a number.
            let found = range(rows).ok_or_else(|| Fault::input(x, i * size))?;
            let (low, high) = match how {
                Activations::Int8Static { low, high } => (low, high),
                _ => found,
            };
            let (scale, zero) = grid(low, high);
            codes.extend(rows.iter().map(|x| {
                let q = (x.widen() / scale).round_ties_even() + zero;
                (q.clamp(0.0, 255.0) - zero) as i16
            }));
            scales.extend(std::iter::repeat_n(scale, rows.len().checked_div(cols).unwrap_or(0)));
        }
        scales.resize(n, 1.0);
        Ok(Self { codes, scales })
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
    let (mut low, mut high) = (T::zero(), T::zero());
    let mut sum = T::zero();
    for x in values {
        low = low.min(*x);
        high = high.max(*x);
        // Becomes NaN with the first NaN or infinity.
        sum += *x * T::zero();
    }
    (sum == T::zero()).then(|| (low.widen(), high.widen()))
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
        let Coding::Affine(affine) = &self.coding else {
            return Err(Fault::Form("its values are floats: quantize it before running it on integers"));
        };
        if matches!(self.support, Support::Zeros(_)) {
            return self.load()?.integer_product(x, n, group, how);
        }
        let cols = self.cols;
        let input = CodedInput::new(x, n, group, how)?;
        let run = affine.granularity.block(self.rows, cols).max(1);
        // Inputs of a row that share a scale.
        let step = run.min(cols).max(1);
        let mask = self.mask()?;
        let blocks = self.map_ranges(cols, |range| {
            let mut codes = affine.decode_integers(range.clone(), run, mask.as_deref())?;
            if let Some(mask) = &mask {
                // A pruned entry is a code that adds nothing.
                codes = scatter(mask.positions(range.clone()), &codes, &range);
            }
            let first_run = range.start / run;
            let scales = affine.scale.read(first_run..range.end.div_ceil(run))?;
            let height = codes.len().checked_div(cols).unwrap_or(0);
            let mut y = zeros::<T>(n, height)?;
            for b in 0..n {
                let qx = &input.codes[b * cols..(b + 1) * cols];
                for r in 0..height {
                    let start = range.start + r * cols;
                    let qw = &codes[r * cols..(r + 1) * cols];
                    let sum: f64 = (qx.chunks(step).zip(qw.chunks(step)).enumerate())
                        .map(|(i, (qx, qw))| {
                            scales[(start + i * step) / run - first_run].widen() * int8::dot(qx, qw) as f64
                        })
                        .sum();
                    y[b * height + r] = T::narrow(sum * input.scales[b]);
                }
            }
            Ok(y)
        })?;
        join_columns(&blocks, n, self.rows)
    }
}
