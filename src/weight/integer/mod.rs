//! Products of quantized activations and quantized weights, in integers.
//!
//! With `x ~ sx * (qx - zx)` and `w ~ sw * (qw - zw)`, one output is
//!
//! ```text
//! y = sx * sum over blocks ( sw * sum over the block ( (qx - zx) * (qw - zw) ) )
//! ```
//!
//! The inner sums are exact. The kernels take signed bytes of one side and unsigned ones of the other: codes of the
//! input as they are with `qw - zw`, or `qw - 128` where there are 8 bits; or codes of the weight as they are
//! (`unsigned`, `kept`) with `qx - 128`. What zero points add is known from the sums of the rows. All factors are within
//! +-255, so 16,384 products fit an `i32`; longer sums go on in 64 bits. Only the final scaling rounds.

mod beside;
mod few;
mod kept;
mod many;
mod maps;
mod unsigned;

pub(crate) use maps::{MapKernel, Windows};

use super::decoder::Decoder;
use super::mask::Mask;
use super::product::by_rows;
use super::{Coding, Leaf, zeros};
use crate::kernels::cpu::fast;
use crate::kernels::products::{EXACT, FEW, TOGETHER};
use crate::kernels::quantize::{Steps, ends};
use crate::{Fault, Float, parallel};
use serde::{Deserialize, Serialize};

/// Values that are looked at, and multiplications that are done, in less time than a second thread takes to begin.
const SERIAL: usize = 1 << 15;
const MIN_PARALLEL: usize = 1 << 21;
/// What makes a signed byte of a code, and takes 128 away.
const FLIP: u8 = 128;

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

/// The grids that an input is coded on.
pub(super) struct InputGrids<T> {
    grids: Vec<Steps<T>>,
    /// Rows that share one.
    rows: usize,
}

impl<T: Float> InputGrids<T> {
    /// Of rows that are made of samples of `size` values, `rows` of each; a sample shares a range.
    pub fn new(x: &[T], size: usize, rows: usize, how: Activations) -> Result<Self, Fault> {
        let size = size.max(1);
        let find = |i: usize| {
            let sample = &x[i * size..x.len().min((i + 1) * size)];
            grid_of(sample, how).ok_or_else(|| Fault::input(x, i * size))
        };
        let n = x.len().div_ceil(size);
        let grids = match x.len() {
            ..=SERIAL => (0..n).map(find).collect::<Result<_, _>>()?,
            _ => parallel::try_map(n, find)?,
        };
        Ok(Self { grids, rows: rows.max(1) })
    }

    pub fn of(&self, row: usize) -> &Steps<T> {
        &self.grids[row / self.rows]
    }

    pub fn scale(&self, row: usize) -> f64 {
        self.of(row).scale.widen()
    }

    pub fn zero(&self, row: usize) -> i32 {
        i32::from(self.of(row).zero)
    }
}

/// The grid of one sample; `None` where a value is NaN or infinite.
fn grid_of<T: Float>(sample: &[T], how: Activations) -> Option<Steps<T>> {
    // With a fixed range, too: a NaN must not pass for a number.
    let found = range_of_many(sample)?;
    let (low, high) = match how {
        Activations::Int8Static { low, high } => (low, high),
        _ => found,
    };
    Some(input_steps(low, high))
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

/// [`range`], on all threads where there are many values.
fn range_of_many<T: Float>(values: &[T]) -> Option<(f64, f64)> {
    if values.len() <= SERIAL {
        return range(values);
    }
    let mut parts = vec![None; values.len().div_ceil(SERIAL)];
    parallel::for_each_chunk(&mut parts, 1, |i, part| {
        part[0] = range(&values[i * SERIAL..values.len().min((i + 1) * SERIAL)]);
    });
    parts
        .into_iter()
        .try_fold((0.0, 0.0), |(low, high): (f64, f64), part| part.map(|(l, h)| (low.min(l), high.max(h))))
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
        let leaf = self.for_product()?;
        let Coding::Affine(affine) = &leaf.coding else { unreachable!("loading keeps the coding") };
        let decoder = Decoder::new(&leaf, affine)?;
        let mask = leaf.mask()?;
        let (rows, cols) = (self.rows, self.cols);
        if n == 0 || rows == 0 || cols == 0 {
            return zeros(n, rows);
        }
        let grids = InputGrids::new(x, cols * group, group, how)?;
        // Inputs of a row that share a scale.
        let step = decoder.step(cols);
        let product = Product { decoder, mask: mask.as_deref(), x, grids, m: rows, k: cols, n, step };
        let whole = cols.is_multiple_of(step) && step.is_multiple_of(TOGETHER) && step <= EXACT;
        if n == 1
            && whole
            && let (None, Some(codes)) = (product.mask, product.decoder.packed(4))
        {
            return product.nibbles(codes);
        }
        if let Some(y) = product.kept()? {
            return Ok(y);
        }
        if n <= FEW {
            return product.few();
        }
        product.unsigned().unwrap_or_else(|| product.many())
    }
}

/// A product with rows of codes.
struct Product<'a, T: Float> {
    decoder: Decoder<'a, T>,
    mask: Option<&'a Mask>,
    /// `[n, k]`.
    x: &'a [T],
    grids: InputGrids<T>,
    /// Rows of the weight.
    m: usize,
    k: usize,
    n: usize,
    /// Columns that share a scale in a row.
    step: usize,
}

impl<T: Float> Product<'_, T> {
    /// The codes of an input.
    fn encode(&self, b: usize, codes: &mut [u8]) {
        self.grids.of(b).encode(&self.x[b * self.k..(b + 1) * self.k], codes);
    }

    /// The codes of an input in some columns, without their zero point.
    fn of_input(&self, b: usize, codes: &[u8]) -> i32 {
        sum(codes) - self.grids.zero(b) * codes.len() as i32
    }

    /// Rows of the weight that a thread takes at a time, so that it has some `work`.
    fn height(&self, least: usize, work: usize) -> usize {
        (work / (self.k * self.n).max(1)).next_multiple_of(least).max(least)
    }
}

/// The sum of codes, no more than [`EXACT`].
fn sum(codes: &[u8]) -> i32 {
    fast(
        #[inline(always)]
        || codes.iter().map(|code| i32::from(*code)).sum(),
    )
}
