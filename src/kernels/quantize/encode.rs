//! Codes of values: `clamp(round(x / scale) + zero, low, high)`, with the quotient as a double and rounding
//! half to even.
//!
//! For `f32`, a product with the reciprocal in single precision finds the same code unless the quotient lies
//! within `2^-23` of its size from a half: `x * (1 / scale)` is off by two roundings of `2^-24`. A block with
//! such a value (one in some thousand) is computed again as the formula says.

use super::Quantize;
use crate::kernels::cpu::fast;

/// The grid of one block of values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Steps<T> {
    /// What one step is worth: a positive number.
    pub scale: T,
    /// The code of 0.
    pub zero: u8,
    /// The lowest code in use, at most `zero`.
    pub low: u8,
    /// The highest code in use, at least `zero`.
    pub high: u8,
}

/// Values that are coded at a time.
const BLOCK: usize = 32;
/// `1.5 * 2^23` and `1.5 * 2^52`: a number of small size added to it is rounded to an integer, half to even,
/// which then stands in the lowest bits.
const ROUND_F32: f32 = 12_582_912.0;
const ROUND_F64: f64 = 6_755_399_441_055_744.0;

impl<T: Quantize> Steps<T> {
    /// The codes of `values`, which are finite.
    pub fn encode(&self, values: &[T], out: &mut [u8]) {
        fast(
            #[inline(always)]
            || T::encode(values, self, out),
        );
    }
}

/// Codes runs of values, each on the grid that `fit` gives for its smallest and its largest value (and 0):
/// the grid to `keep`, the codes into `out`. Says whether all values are finite; where not, it stops. The
/// `lens` of the runs add up to that of `values`.
#[inline(always)]
pub fn encode_runs<T: Quantize>(
    values: &[T],
    lens: impl Iterator<Item = usize>,
    fit: impl Fn(T, T) -> Steps<T>,
    mut keep: impl FnMut(Steps<T>),
    out: &mut [u8],
) -> bool {
    fast(
        #[inline(always)]
        || {
            let mut at = 0;
            for len in lens {
                let run = &values[at..at + len];
                let Some((low, high)) = T::ends(run) else { return false };
                let steps = fit(low, high);
                T::encode(run, &steps, &mut out[at..at + len]);
                keep(steps);
                at += len;
            }
            true
        },
    )
}

#[inline(always)]
fn exact(values: impl Iterator<Item = f64>, scale: f64, [zero, low, high]: [u8; 3], out: &mut [u8]) {
    let (low, high) = (f64::from(low) - f64::from(zero), f64::from(high) - f64::from(zero));
    for (x, code) in values.zip(out) {
        let q = x / scale;
        let q = if q < low { low } else { q };
        let q = if q > high { high } else { q };
        // Rounded before the zero point comes to it: half to even counts from 0.
        let q = (q + ROUND_F64) - ROUND_F64;
        *code = (q + (f64::from(zero) + ROUND_F64)).to_bits() as u8;
    }
}

#[inline(always)]
pub(super) fn encode_f64(values: &[f64], steps: &Steps<f64>, out: &mut [u8]) {
    exact(values.iter().copied(), steps.scale, [steps.zero, steps.low, steps.high], out);
}

#[inline(always)]
pub(super) fn encode_f32(values: &[f32], steps: &Steps<f32>, out: &mut [u8]) {
    let Steps { scale, zero, low, high } = *steps;
    let per_step = 1.0 / scale;
    let exact = |values: &[f32], out: &mut [u8]| {
        let values = values.iter().map(|x| f64::from(*x));
        exact(values, f64::from(scale), [zero, low, high], out);
    };
    if !(scale.is_normal() && per_step.is_normal()) {
        return exact(values, out);
    }
    // Twice what the product can be off by, for quotients within the grid and one step.
    let margin = (f32::from(high) - f32::from(low) + 1.0) * 2.0 * f32::EPSILON;
    let sure = 0.5 - margin;
    let (low, high) = (f32::from(low) - f32::from(zero), f32::from(high) - f32::from(zero));
    let shift = f32::from(zero) + ROUND_F32;
    let (blocks, rest) = values.as_chunks::<BLOCK>();
    let (outs, out_rest) = out.as_chunks_mut::<BLOCK>();
    for (values, out) in blocks.iter().zip(outs) {
        let mut unsure = 0_u32;
        for (x, code) in values.iter().zip(&mut *out) {
            let q = x * per_step;
            let q = if q < low { low } else { q };
            let q = if q > high { high } else { q };
            let rounded = q + shift;
            *code = rounded.to_bits() as u8;
            unsure |= u32::from((q - (rounded - shift)).abs() > sure);
        }
        if unsure != 0 {
            exact(values, out);
        }
    }
    exact(rest, out_rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The formula, as it is documented.
    fn plain(x: f64, scale: f64, zero: u8, low: u8, high: u8) -> u8 {
        let q = (x / scale).round_ties_even() + f64::from(zero);
        q.clamp(f64::from(low), f64::from(high)) as u8
    }

    fn any_steps() -> impl Strategy<Value = Steps<f32>> {
        let scale = prop_oneof![
            (1_u32..0x7f80_0000).prop_map(f32::from_bits),
            1e-3_f32..1.0,
            Just(1.0),
            Just(f32::MIN_POSITIVE),
            Just(f32::from_bits(1)),
            Just(f32::MAX),
        ];
        (scale, 0_u32..=8, any::<[u8; 3]>()).prop_map(|(scale, bits, ends)| {
            let mask = ((1_u32 << bits) - 1) as u8;
            let mut ends = ends.map(|e| e & mask);
            ends.sort_unstable();
            Steps { scale, zero: ends[1], low: ends[0], high: ends[2] }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Quotients of all sizes, and many so near to a half that single precision cannot tell.
        #[test]
        fn codes_as_the_formula_says(steps in any_steps(), seeds in prop::collection::vec((any::<u32>(), 0_u8..4, -3_i32..=3), 0..150), skip in 0_usize..9) {
            let values: Vec<f32> = seeds.iter().map(|(bits, kind, off)| {
                let halves = f64::from(bits % 600) / 2.0 - 150.0;
                let near = (halves * f64::from(steps.scale)) as f32;
                let x = match kind {
                    0 => f32::from_bits(*bits),
                    1 => (bits % 1000) as f32 / 1000.0 * 300.0 * steps.scale,
                    _ => f32::from_bits(near.to_bits().wrapping_add_signed(*off)),
                };
                if x.is_finite() { x } else { 0.25 }
            }).collect();
            let values = &values[skip.min(values.len())..];
            let Steps { scale, zero, low, high } = steps;
            let mut codes = vec![9; values.len()];
            steps.encode(values, &mut codes);
            for (x, code) in values.iter().zip(&codes) {
                prop_assert_eq!(*code, plain(f64::from(*x), f64::from(scale), zero, low, high), "{} {:?}", x, steps);
            }
            let values: Vec<f64> = values.iter().map(|x| f64::from(*x) * 1.000_000_1).collect();
            let steps = Steps { scale: f64::from(scale), zero, low, high };
            steps.encode(&values, &mut codes);
            for (x, code) in values.iter().zip(&codes) {
                prop_assert_eq!(*code, plain(*x, steps.scale, zero, low, high), "{} {:?}", x, steps);
            }
        }

        #[test]
        fn runs_as_one_by_one(lens in prop::collection::vec(0_usize..100, 0..6), bad in any::<bool>(), seed in any::<u32>()) {
            let n: usize = lens.iter().sum();
            let mut values: Vec<f32> = (0..n).map(|i| ((seed as usize + i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
            if bad && n > 0 {
                values[seed as usize % n] = f32::NAN;
            }
            let fit = |low: f32, high: f32| Steps { scale: (high - low).max(1e-3) / 15.0, zero: 8, low: 0, high: 15 };
            let (mut codes, mut grids) = (vec![0; n], Vec::new());
            let finite = encode_runs(&values, lens.iter().copied(), fit, |g| grids.push(g), &mut codes);
            prop_assert_eq!(finite, !(bad && n > 0));
            if finite {
                let mut at = 0;
                for (len, grid) in lens.iter().zip(&grids) {
                    let run = &values[at..at + len];
                    let (low, high) = crate::kernels::quantize::ends(run).unwrap();
                    prop_assert_eq!(*grid, fit(low, high));
                    let mut own = vec![0; *len];
                    grid.encode(run, &mut own);
                    prop_assert_eq!(&own[..], &codes[at..at + len]);
                    at += len;
                }
                prop_assert_eq!(grids.len(), lens.len());
            }
        }
    }
}
