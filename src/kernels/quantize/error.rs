//! How far values lie from what their codes stand for, on several grids at a time.

use super::{Quantize, Steps};
use crate::kernels::cpu::fast;

/// Grids that are tried side by side: a sum is taken over the values in order, so that only sums of
/// different grids can go on at the same time.
pub const GRIDS: usize = 8;

/// For each grid, the sum of the squared differences between `values`, which are finite, and what their codes
/// on it stand for: in double precision, over the values in order.
pub fn squared_errors<T: Quantize>(values: &[T], grids: &[Steps<T>; GRIDS]) -> [f64; GRIDS] {
    fast(
        #[inline(always)]
        || T::squared_errors(values, grids),
    )
}

macro_rules! squared_errors {
    ($name:ident, $t:ty) => {
        #[inline(always)]
        pub(super) fn $name(values: &[$t], grids: &[Steps<$t>; GRIDS]) -> [f64; GRIDS] {
            let (mut low, mut high) = ([0.0; GRIDS], [0.0; GRIDS]);
            let (mut scale, mut wide) = ([0.0 as $t; GRIDS], [0.0; GRIDS]);
            for (i, grid) in grids.iter().enumerate() {
                low[i] = f64::from(grid.low) - f64::from(grid.zero);
                high[i] = f64::from(grid.high) - f64::from(grid.zero);
                scale[i] = grid.scale;
                wide[i] = f64::from(grid.scale);
            }
            let mut sums = [0.0; GRIDS];
            for x in values {
                let x = f64::from(*x);
                for i in 0..GRIDS {
                    let q = x / wide[i];
                    let q = if q > low[i] { q } else { low[i] };
                    let q = if q < high[i] { q } else { high[i] };
                    let q = (q + ROUND) - ROUND;
                    let e = x - f64::from(q as $t * scale[i]);
                    sums[i] += e * e;
                }
            }
            sums
        }
    };
}

/// `1.5 * 2^52`: a double of much smaller size is rounded to an integer by adding it, half to even.
const ROUND: f64 = 6_755_399_441_055_744.0;

squared_errors!(squared_errors_f32, f32);
squared_errors!(squared_errors_f64, f64);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sums_as_the_formula_says(bits in prop::collection::vec(any::<u32>(), 0..100), scales in prop::array::uniform8(1_u32..0x7f00_0000), zero in any::<u8>()) {
            let values: Vec<f32> = bits.iter().map(|b| f32::from_bits(*b)).filter(|x| x.is_finite()).collect();
            let grids = scales.map(|s| Steps { scale: f32::from_bits(s), zero, low: zero / 2, high: 255 });
            let got = squared_errors(&values, &grids);
            for (grid, got) in grids.iter().zip(got) {
                let mut codes = vec![0; values.len()];
                grid.encode(&values, &mut codes);
                let value = |c: u8| f64::from(i16::from(c) - i16::from(zero)) as f32 * grid.scale;
                let wanted: f64 = values.iter().zip(codes).map(|(x, c)| (f64::from(*x) - f64::from(value(c))).powi(2)).sum();
                prop_assert!(got == wanted || got.is_nan() && wanted.is_nan(), "{} {}", got, wanted);
            }
        }
    }

    #[test]
    fn no_values_have_no_error() {
        let grid = Steps { scale: 1.0_f64, zero: 0, low: 0, high: 1 };
        assert_eq!(squared_errors(&[], &[grid; GRIDS]), [0.0; GRIDS]);
        assert_eq!(squared_errors(&[3.0], &[grid; GRIDS]), [4.0; GRIDS]);
    }
}
