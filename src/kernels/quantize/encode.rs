//! Codes of values: `clamp(round(x / scale) + zero, low, high)`, with the quotient as a double and rounding
//! half to even.
//!
//! For `f32`, a product with the reciprocal in single precision finds the same code unless the quotient lies
//! within `2^-23` of its size from a half: `x * (1 / scale)` is off by two roundings of `2^-24`. A block with
//! such a value (one in some thousand) is computed again as the formula says.

use super::Quantize;
use crate::kernels::cpu::fast;
use crate::kernels::memory::prefetch;

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
pub(super) const BLOCK: usize = 32;
/// `1.5 * 2^23` and `1.5 * 2^52`: a number of small size added to it is rounded to an integer, half to even,
/// which then stands in the lowest bits.
pub(super) const ROUND_F32: f32 = 12_582_912.0;
const ROUND_F64: f64 = 6_755_399_441_055_744.0;

/// Values by which memory is ahead of what is coded, where values follow on each other.
const AHEAD: usize = 1 << 11;

impl<T: Quantize> Steps<T> {
    /// The codes of `values`, which are finite.
    pub fn encode(&self, values: &[T], out: &mut [u8]) {
        fast(
            #[inline(always)]
            || T::encode(values, self, AHEAD, out),
        );
    }
}

/// Runs that are looked at before the first of them is coded, and how many values they may have together to
/// be still in the nearest cache then. One after the other, each would wait for the end of its own range.
const RUNS: usize = 32;
const NEAR: usize = 1 << 12;

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
            let mut lens = lens.fuse();
            let (mut values, mut out) = (values, out);
            let nothing = Steps { scale: T::zeroed(), zero: 0, low: 0, high: 0 };
            let mut batch = [(0, (T::zeroed(), T::zeroed()), nothing); RUNS];
            loop {
                let (mut n, mut total) = (0, 0);
                while n < RUNS && total < NEAR {
                    let Some(len) = lens.next() else { break };
                    let Some(ends) = T::ends(&values[total..total + len]) else { return false };
                    batch[n] = (len, ends, nothing);
                    n += 1;
                    total += len;
                }
                if n == 0 {
                    return true;
                }
                for (_, (low, high), steps) in &mut batch[..n] {
                    *steps = fit(*low, *high);
                }
                for (len, _, steps) in &batch[..n] {
                    let (run, later) = values.split_at(*len);
                    let (codes, out_later) = std::mem::take(&mut out).split_at_mut(*len);
                    T::encode(run, steps, total, codes);
                    keep(*steps);
                    (values, out) = (later, out_later);
                }
            }
        },
    )
}

#[inline(always)]
pub(super) fn encode_f64(values: &[f64], steps: &Steps<f64>, out: &mut [u8]) {
    let Steps { scale, zero, low, high } = *steps;
    let (low, high) = (f64::from(low) - f64::from(zero), f64::from(high) - f64::from(zero));
    for (x, code) in values.iter().zip(out) {
        let q = x / scale;
        let q = if q < low { low } else { q };
        let q = if q > high { high } else { q };
        // Rounded before the zero point comes to it: half to even counts from 0.
        let q = (q + ROUND_F64) - ROUND_F64;
        *code = (q + (f64::from(zero) + ROUND_F64)).to_bits() as u8;
    }
}

/// The formula itself, apart from the fast form so that this can keep its constants in registers.
#[cold]
#[inline(never)]
fn exact(values: &[f32], steps: &Steps<f32>, out: &mut [u8]) {
    let Steps { scale, zero, low, high } = *steps;
    let steps = Steps { scale: f64::from(scale), zero, low, high };
    let mut wide = [0.0; BLOCK];
    for (values, out) in values.chunks(BLOCK).zip(out.chunks_mut(BLOCK)) {
        wide.iter_mut().zip(values).for_each(|(w, x)| *w = f64::from(*x));
        encode_f64(&wide[..values.len()], &steps, out);
    }
}

/// What the fast form of one grid computes with.
pub(super) struct Line {
    pub per_step: f32,
    /// Codes in use, counted from the zero point.
    pub low: f32,
    pub high: f32,
    /// Rounds, and puts the code into the lowest bits.
    pub shift: f32,
    /// A code is certain where the product is at most this far from it.
    pub sure: f32,
}

impl Line {
    /// `None` where single precision is not enough.
    #[inline(always)]
    fn new(steps: &Steps<f32>) -> Option<Self> {
        let Steps { scale, zero, low, high } = *steps;
        let per_step = 1.0 / scale;
        // Twice what the product can be off by, for quotients within the grid and one step.
        let margin = (f32::from(high) - f32::from(low) + 1.0) * 2.0 * f32::EPSILON;
        let (low, high, zero) = (f32::from(low), f32::from(high), f32::from(zero));
        let line = Self {
            per_step,
            low: low - zero,
            high: high - zero,
            shift: zero + ROUND_F32,
            sure: 0.5 - margin,
        };
        (scale.is_normal() && per_step.is_normal()).then_some(line)
    }

    /// The codes of the blocks up to the first in which some are not certain, and how many blocks come before
    /// that one. Values `ahead` of each will be wanted next.
    #[inline(always)]
    fn encode(&self, values: &[[f32; BLOCK]], ahead: usize, out: &mut [[u8; BLOCK]]) -> usize {
        #[cfg(target_arch = "x86_64")]
        if crate::kernels::cpu::Avx512::new().is_some() {
            // SAFETY: the CPU has the instructions, as was just asked.
            #[allow(unsafe_code)]
            return unsafe { super::avx512::encode(self, values, ahead, out) };
        }
        #[cfg(target_arch = "x86_64")]
        if crate::kernels::cpu::has_avx2() {
            // SAFETY: the CPU has the instructions, as was just asked.
            #[allow(unsafe_code)]
            return unsafe { super::avx2::encode(self, values, ahead, out) };
        }
        self.encode_portable(values, ahead, out)
    }

    /// The codes of less than a block. Whether all are certain.
    #[inline(always)]
    fn encode_rest(&self, values: &[f32], out: &mut [u8]) -> bool {
        #[cfg(target_arch = "x86_64")]
        if crate::kernels::cpu::Avx512::new().is_some() {
            // SAFETY: the CPU has the instructions, as was just asked.
            #[allow(unsafe_code)]
            return unsafe { super::avx512::encode_rest(self, values, out) };
        }
        let (mut block, mut codes) = ([[0.0; BLOCK]], [[0; BLOCK]]);
        block[0][..values.len()].copy_from_slice(values);
        let sure = self.encode(&block, 0, &mut codes) > 0;
        out.copy_from_slice(&codes[0][..out.len()]);
        sure
    }

    fn encode_portable(&self, values: &[[f32; BLOCK]], ahead: usize, out: &mut [[u8; BLOCK]]) -> usize {
        for (block, (values, out)) in values.iter().zip(out).enumerate() {
            prefetch(values, ahead);
            let (mut rounded, mut off) = ([0.0_f32; BLOCK], [0.0_f32; BLOCK]);
            for i in 0..BLOCK {
                let q = values[i] * self.per_step;
                let q = if q > self.low { q } else { self.low };
                let q = if q < self.high { q } else { self.high };
                rounded[i] = q + self.shift;
                off[i] = (q - (rounded[i] - self.shift)).abs();
            }
            let mut unsure = false;
            for i in 0..BLOCK {
                unsure |= off[i] > self.sure;
                out[i] = rounded[i].to_bits() as u8;
            }
            if unsure {
                return block;
            }
        }
        values.len()
    }
}

#[inline(always)]
pub(super) fn encode_f32(values: &[f32], steps: &Steps<f32>, ahead: usize, out: &mut [u8]) {
    let Some(line) = Line::new(steps) else { return exact(values, steps, out) };
    let (blocks, rest) = values.as_chunks::<BLOCK>();
    let (outs, out_rest) = out.as_chunks_mut::<BLOCK>();
    let mut done = 0;
    while done < blocks.len() {
        done += line.encode(&blocks[done..], ahead, &mut outs[done..]);
        if done < blocks.len() {
            exact(&blocks[done], steps, &mut outs[done]);
            done += 1;
        }
    }
    if !rest.is_empty() && !line.encode_rest(rest, out_rest) {
        exact(rest, steps, out_rest);
    }
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
        fn every_instruction_set_as_the_portable_form(steps in any_steps(), bits in prop::collection::vec(any::<u32>(), 5 * BLOCK), halves in any::<bool>()) {
            let tame = |b: &u32| {
                let x = f32::from_bits(*b);
                if halves && b.is_multiple_of(64) || !x.is_finite() { (b % 99) as f32 / 2.0 * steps.scale } else { x % (300.0 * steps.scale) }
            };
            let values: Vec<f32> = bits.iter().map(tame).map(|x| if x.is_finite() { x } else { 0.0 }).collect();
            let (blocks, _) = values.as_chunks::<BLOCK>();
            let Some(line) = Line::new(&steps) else { return Ok(()) };
            let (mut a, mut b) = ([[0; BLOCK]; 5], [[0; BLOCK]; 5]);
            let done = line.encode(blocks, 0, &mut a);
            prop_assert_eq!(line.encode_portable(blocks, 64, &mut b), done);
            prop_assert_eq!(a, b);
            #[cfg(target_arch = "x86_64")]
            if crate::kernels::cpu::has_avx2() {
                // SAFETY: the CPU has the instructions, as was just asked.
                #[allow(unsafe_code)]
                let other = unsafe { super::super::avx2::encode(&line, blocks, 0, &mut b) };
                prop_assert_eq!((other, b), (done, a));
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
