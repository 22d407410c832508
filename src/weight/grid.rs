//! [`Grid`]: the numbers that the codes of one block can stand for.

use super::affine::{Affine, value};
use super::codes::Codes;
use crate::Float;
use crate::kernels::quantize::Steps;

/// Scale and zero point of one block of entries, and the lowest and highest code in use. Whoever makes codes,
/// when a weight is quantized or while it is trained, makes them by this.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Grid<T> {
    pub scale: T,
    pub zero: u8,
    low: u8,
    high: u8,
}

impl<T: Float> Grid<T> {
    /// The grid of codes of `bits` bits, without those that stand for more than the largest number. Where the
    /// `zero` is the middle code by agreement (`centred`), the lowest code is not used, so that both sides
    /// reach as far; a single bit has no middle.
    #[inline]
    pub fn new(bits: u8, centred: bool, scale: T, zero: u8) -> Self {
        let [low, high] = Self::ends(bits, centred);
        if Self::is_far_from_overflow(scale) {
            return Self { scale, zero, low: low.min(zero), high: high.max(zero) };
        }
        let finite = |code: &u8| value(scale, i16::from(zero), *code).is_finite();
        // The zero code stands for 0 whatever the scale, so that the search ends there.
        let low = (low.min(zero)..zero).find(finite).unwrap_or(zero);
        let high = (zero..=high.max(zero)).rev().find(finite).unwrap_or(zero);
        Self { scale, zero, low, high }
    }

    /// Whether every code stands for a number.
    #[inline(always)]
    pub fn is_far_from_overflow(scale: T) -> bool {
        scale.abs() <= T::max_value() / T::narrow(256.0)
    }

    /// What the kernels need of it.
    #[inline(always)]
    pub fn steps(&self) -> Steps<T> {
        Steps { scale: self.scale, zero: self.zero, low: self.low, high: self.high }
    }

    /// The lowest and the highest code of a grid of small numbers.
    pub fn ends(bits: u8, centred: bool) -> [u8; 2] {
        [u8::from(centred && bits > 1), Codes::max(bits)]
    }

    /// The grids of all blocks of a leaf with this coding.
    pub fn of(affine: &Affine<T>, blocks: usize) -> Result<Vec<Self>, crate::Fault> {
        let scales = affine.scale.read(0..blocks)?;
        let zeros = affine.zeros(0..blocks)?;
        let centred = affine.zero.is_none();
        Ok(scales.iter().zip(zeros).map(|(s, z)| Self::new(affine.bits(), centred, *s, z)).collect())
    }

    /// The same codes with another scale, which is a positive number.
    pub fn with_scale(&self, scale: T) -> Self {
        Self { scale, ..*self }
    }

    /// How the number that stands for `x` changes with the scale (Esser et al., arXiv 1902.08153, equation 3), and
    /// whether it changes with `x`: it does not beyond the ends of the grid.
    pub fn slope(&self, x: T) -> (f64, bool) {
        let at = x.widen() / self.scale.widen();
        let code = at.round_ties_even();
        let zero = f64::from(self.zero);
        let (low, high) = (f64::from(self.low) - zero, f64::from(self.high) - zero);
        if code < low {
            (low, false)
        } else if code > high {
            (high, false)
        } else {
            (code - at, true)
        }
    }

    /// Codes on the longer side of the zero, at least 1.
    pub fn reach(&self) -> u8 {
        (self.zero - self.low).max(self.high - self.zero).max(1)
    }

    /// Whether the scale is a positive number. One of a hostile file may be anything.
    pub fn is_sound(&self) -> bool {
        self.scale > T::zero() && self.scale.is_finite()
    }

    /// The code of `x`, which is not NaN.
    pub fn code(&self, x: T) -> u8 {
        let q = (x.widen() / self.scale.widen()).round_ties_even() + f64::from(self.zero);
        q.clamp(f64::from(self.low), f64::from(self.high)) as u8
    }

    /// The number that `code` stands for.
    pub fn value(&self, code: u8) -> T {
        value(self.scale, i16::from(self.zero), code)
    }

    /// The number nearest to `x` within the ends of a sound grid; NaN stays NaN.
    pub fn clamp(&self, x: T) -> T {
        let (low, high) = (self.value(self.low), self.value(self.high));
        if x < low {
            low
        } else if x > high {
            high
        } else {
            x
        }
    }
}
