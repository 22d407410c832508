//! The grid of an affine code: from a range to a scale and a zero point, from a value to a code.
//!
//! ```text
//! asymmetric   scale = (max - min) / (2^b - 1)      zero = round(-min / scale)
//! symmetric    scale = max(|min|, |max|) / (2^(b-1) - 1)    zero = 2^(b-1)
//!              code  = clamp(round(x / scale) + zero, 0, 2^b - 1)
//!              x'    = scale * (code - zero)
//! ```
//!
//! with min and max widened to hold 0, so that 0 is always exactly a code. Rounding is half to even.
//! Symmetric codes use the range without its lowest code, so that it is the same on both sides. At 1 bit a
//! symmetric grid has room for one sign only: that of the end that lies further from 0.
//!
//! All of it is computed in `f64`: the difference of two `f32` can overflow `f32`. The scale is rounded to
//! the number type before the zero point is computed from it, so codes and decoded values agree.

use crate::Float;
use crate::weight::{Codes, Grid};

/// `1.5 * 2^52`: a double of much smaller size is rounded to an integer by adding it, half to even.
const ROUND: f64 = 6_755_399_441_055_744.0;

/// Which codes a grid may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scheme {
    pub bits: u8,
    pub symmetric: bool,
}

impl Scheme {
    pub fn max_code(self) -> u8 {
        Codes::max(self.bits)
    }

    /// Whether every zero point is the middle code, and need not be stored.
    pub fn has_middle_zero(self) -> bool {
        self.symmetric && self.bits > 1
    }

    fn middle(self) -> u8 {
        1 << (self.bits - 1)
    }

    /// The grid for values from `low` to `high`.
    #[inline(always)]
    pub fn grid<T: Float>(self, low: f64, high: f64) -> Grid<T> {
        let (low, high) = (low.min(0.0), high.max(0.0));
        let steps = f64::from(self.max_code());
        if self.has_middle_zero() {
            let scale = scale(low.abs().max(high) / f64::from(self.middle() - 1));
            return self.bounded(scale, self.middle());
        }
        if self.symmetric {
            let zero = u8::from(-low > high);
            return self.bounded(scale(low.abs().max(high)), zero);
        }
        // Not (high - low) / steps: that overflows for the largest numbers.
        let scale: T = scale(high / steps - low / steps);
        // Rounds half to even, as these are small numbers.
        let zero = ((-low / scale.widen() + ROUND) - ROUND).clamp(0.0, steps) as u8;
        self.bounded(scale, zero)
    }

    /// The grid without codes that stand for more than the largest number: rounding the zero point puts
    /// the outermost code of one side up to half a step past the range, and rounding the scale a bit. There,
    /// at the very end of the number type, an error can reach a whole step.
    #[inline(always)]
    fn bounded<T: Float>(self, scale: T, zero: u8) -> Grid<T> {
        let (bits, centred) = (self.bits, self.has_middle_zero());
        if Grid::is_far_from_overflow(scale) {
            return Grid::new(bits, centred, scale, zero);
        }
        let finite = |code: u8| crate::weight::value(scale, i16::from(zero), code).is_finite();
        let fits = Grid::<T>::ends(bits, centred).into_iter().all(finite);
        Grid::new(bits, centred, if fits { scale } else { scale * (T::one() - T::epsilon()) }, zero)
    }
}

/// `wanted` in the number type: finite, and not so small that it rounds to zero.
#[inline(always)]
fn scale<T: Float>(wanted: f64) -> T {
    if wanted == 0.0 {
        // Every value is 0: any scale is right.
        return T::one();
    }
    let tiniest = T::min_positive_value() * T::epsilon();
    T::narrow(wanted).max(tiniest).min(T::max_value())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_scheme() -> impl Strategy<Value = Scheme> {
        (1_u8..=8, any::<bool>()).prop_map(|(bits, symmetric)| Scheme { bits, symmetric })
    }

    proptest! {
        #[test]
        fn error_is_at_most_half_a_step_inside_the_grid(scheme in any_scheme(), a in any::<f32>(), b in any::<f32>(), t in 0.0_f64..=1.0) {
            prop_assume!(a.is_finite() && b.is_finite());
            let (low, high) = (f64::from(a.min(b)), f64::from(a.max(b)));
            let grid: Grid<f32> = scheme.grid(low, high);
            prop_assert!(grid.scale.is_finite() && grid.scale > 0.0);
            let x = (low + t * (high - low)) as f32;
            let code = grid.code(x);
            prop_assert!(code <= scheme.max_code());
            let decoded = grid.value(code);
            let scale = f64::from(grid.scale);
            let bottom = scale * (f64::from(Grid::<f32>::ends(scheme.bits, scheme.has_middle_zero())[0]) - f64::from(grid.zero));
            let top = scale * (f64::from(scheme.max_code()) - f64::from(grid.zero));
            let x = f64::from(x);
            if (bottom - scale / 2.0..=top + scale / 2.0).contains(&x) {
                let end = bottom.abs().max(top.abs()).max(x.abs());
                let ulp = (end * f64::from(f32::EPSILON)).max(f64::from(f32::from_bits(1)));
                prop_assert!((x - f64::from(decoded)).abs() <= scale / 2.0 + ulp, "{} {} {:?}", x, decoded, grid);
            }
        }

        #[test]
        fn zero_is_always_exact(scheme in any_scheme(), a in any::<f32>(), b in any::<f32>()) {
            prop_assume!(a.is_finite() && b.is_finite());
            let grid: Grid<f32> = scheme.grid(f64::from(a.min(b)), f64::from(a.max(b)));
            let code = grid.code(0.0);
            prop_assert_eq!(grid.value(code), 0.0);
        }
    }

    #[test]
    fn an_eight_bit_code_is_never_signed() {
        // round(min / scale) of the textbook formula is -128 here, and codes reach 255.
        let scheme = Scheme { bits: 8, symmetric: false };
        let grid: Grid<f32> = scheme.grid(-1.28, 1.27);
        assert_eq!((grid.code(-1.28), grid.code(1.27)), (0, 255));
        assert_eq!(grid.zero, 128);
    }

    #[test]
    fn the_widest_range_does_not_overflow() {
        let max = f64::from(f32::MAX);
        for bits in 2..=8 {
            for (low, high) in [(-max, max), (0.0, max), (-max, 0.0), (-max, 0.3 * max)] {
                for symmetric in [false, true] {
                    let scheme = Scheme { bits, symmetric };
                    let grid: Grid<f32> = scheme.grid(low, high);
                    for x in [low, high, 0.0] {
                        let x = x as f32;
                        let decoded = grid.value(grid.code(x));
                        let error = f64::from(x) - f64::from(decoded);
                        assert!(
                            error.abs() <= f64::from(grid.scale) * (1.0 + 1e-6),
                            "{bits} {symmetric} {x}: {decoded}"
                        );
                    }
                }
            }
        }
        let grid: Grid<f64> = Scheme { bits: 4, symmetric: false }.grid(-f64::MAX, f64::MAX);
        assert!(grid.scale.is_finite() && grid.zero > 0);
    }
}
