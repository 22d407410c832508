//! Rows of 4-bit codes with one input, read where they are: a byte holds the codes of an even column, below,
//! and of the odd one after it.

use super::quads::Form;
#[cfg(target_arch = "x86_64")]
use super::{avx2, nibbles256, nibbles512};
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::{Avx2, Avx512};
use num_traits::{Float, NumAssign};
use std::iter::Sum;

/// Columns that a step must be a multiple of.
pub const TOGETHER: usize = 32;

/// How the columns of an input are sorted: of so many, those that are `stride` apart lie side by side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Order {
    pub together: usize,
    pub stride: usize,
}

/// First the even columns, then the odd ones.
const PAIRS: Order = Order { together: TOGETHER, stride: 2 };

/// An input with its columns sorted as a kernel wants them.
pub struct Sorted<T> {
    values: Vec<T>,
    order: Order,
}

impl<T: Copy> Sorted<T> {
    /// Of whole steps of columns.
    fn new(x: &[T], order: Order) -> Self {
        let Order { together, stride } = order;
        debug_assert!(x.len().is_multiple_of(together));
        let mut values = Vec::with_capacity(x.len());
        for x in x.chunks_exact(together) {
            for first in 0..stride {
                values.extend(x[first..].iter().step_by(stride));
            }
        }
        Self { values, order }
    }

    fn pairs(&self) -> &[[T; TOGETHER]] {
        assert_eq!(self.order, PAIRS, "the input is sorted for another kernel");
        self.values.as_chunks().0
    }
}

impl Sorted<i8> {
    /// For [`nibbles`].
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    pub fn integers(form: Form, x: &[i8], step: usize) -> Self {
        match form {
            #[cfg(target_arch = "x86_64")]
            Form::Vnni(_) if nibbles512::takes(x.len(), step) => Self::new(x, nibbles512::INTEGERS),
            #[cfg(target_arch = "x86_64")]
            _ if form.avx2().is_some() && nibbles256::takes(x.len(), step) => {
                Self::new(x, nibbles256::INTEGERS)
            }
            _ => Self::new(x, PAIRS),
        }
    }
}

impl Sorted<f32> {
    /// For [`nibbles_f32`] with weights on such grids.
    pub fn floats(x: &[f32], step: usize, grids: Grids<'_, f32>) -> Self {
        #[cfg(target_arch = "x86_64")]
        if Avx512::new().is_some() && nibbles512::takes_floats(x.len(), step, grids) {
            return Self::new(x, nibbles512::FLOATS);
        }
        let _ = (step, grids);
        Self::new(x, PAIRS)
    }
}

impl Sorted<f64> {
    /// For [`plain_floats`].
    pub fn doubles(x: &[f64]) -> Self {
        Self::new(x, PAIRS)
    }
}

/// The grids of the steps of a row: the scales, and the zero points, or what they all are.
#[derive(Clone, Copy, Debug)]
pub struct Grids<'a, T> {
    pub scales: &'a [T],
    pub zeros: Option<&'a [u8]>,
    pub middle: u8,
}

impl<T> Grids<'_, T> {
    /// The zero point of a step.
    #[inline(always)]
    pub fn zero(&self, step: usize) -> u8 {
        self.zeros.map_or(self.middle, |zeros| zeros[step])
    }
}

/// Bytes of [`TOGETHER`] codes.
pub type Codes = [u8; TOGETHER / 2];

/// For each step of a row, the sum of `code * (x + offset)`, for an offset of -127..=128. `step` columns, no more
/// than [`EXACT`](super::EXACT).
pub fn nibbles(form: Form, w: &[u8], x: &Sorted<i8>, step: usize, offset: i32, sums: &mut [i32]) {
    debug_assert!((-127..=128).contains(&offset));
    let groups = step / TOGETHER;
    match form {
        #[cfg(target_arch = "x86_64")]
        Form::Vnni(cpu) if x.order == nibbles512::INTEGERS => {
            nibbles512::nibbles(cpu, w.as_chunks().0, x.values.as_chunks().0, step, offset, sums);
        }
        #[cfg(target_arch = "x86_64")]
        _ if x.order == nibbles256::INTEGERS => {
            let Some(cpu) = form.avx2() else { unreachable!("the order is of AVX2") };
            nibbles256::nibbles(cpu, w.as_chunks().0, x.values.as_chunks().0, step, offset, sums);
        }
        _ => {
            #[cfg(target_arch = "x86_64")]
            if let Some(cpu) = form.avx2() {
                return nibbles256::grouped(cpu, w.as_chunks().0, x.pairs(), groups, offset, sums);
            }
            plain(w.as_chunks().0, x.pairs(), groups, offset, sums);
        }
    }
}

fn plain(w: &[Codes], x: &[[i8; TOGETHER]], groups: usize, offset: i32, sums: &mut [i32]) {
    let sum = |(w, x): (&Codes, &[i8; TOGETHER])| -> i32 {
        let (even, odd) = x.split_at(TOGETHER / 2);
        let product = |code: u8, x: i8| i32::from(code) * (i32::from(x) + offset);
        w.iter().zip(even).zip(odd).map(|((w, e), o)| product(w & 15, *e) + product(w >> 4, *o)).sum()
    };
    let steps = w.chunks_exact(groups).zip(x.chunks_exact(groups));
    steps.zip(sums).for_each(|((w, x), to)| *to = w.iter().zip(x).map(sum).sum());
}

/// The sum of a row's numbers, `scale * (code - zero)`, with the input; a grid for each `step` of columns.
pub fn nibbles_f32(w: &[u8], grids: Grids<'_, f32>, x: &Sorted<f32>, step: usize) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if let Some(cpu) = Avx512::new().filter(|_| x.order == nibbles512::FLOATS) {
        return nibbles512::nibble_floats(cpu, w.as_chunks().0, grids, x.values.as_chunks().0, step);
    } else if let Some(cpu) = Avx2::new() {
        return avx2::nibble_floats(cpu, w.as_chunks().0, grids, x.pairs(), step / TOGETHER);
    }
    plain_floats(w, grids, x, step)
}

/// The portable form.
pub fn plain_floats<T: Float + NumAssign + From<i16> + Sum>(
    w: &[u8],
    grids: Grids<'_, T>,
    x: &Sorted<T>,
    step: usize,
) -> T {
    const LANES: usize = 8;
    let groups = step / TOGETHER;
    let mut total = [T::zero(); LANES];
    let steps = w.as_chunks().0.chunks_exact(groups).zip(x.pairs().chunks_exact(groups));
    for (i, (w, x)) in steps.enumerate() {
        let mut sums = [T::zero(); LANES];
        let zero = i16::from(grids.zero(i));
        let value = |code: u8| <T as From<i16>>::from(i16::from(code) - zero);
        for (w, x) in w.iter().zip(x) {
            let w: &Codes = w;
            let (even, odd) = x.split_at(TOGETHER / 2);
            for (i, ((w, e), o)) in w.iter().zip(even).zip(odd).enumerate() {
                sums[i % LANES] += value(w & 15) * *e + value(w >> 4) * *o;
            }
        }
        total.iter_mut().zip(sums).for_each(|(total, sum)| *total += grids.scales[i] * sum);
    }
    total.into_iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_largest_sums_are_exact() {
        let packed = [255; 192];
        for (x, offset) in [(127, 128), (-128, -127), (-128, 128)] {
            for form in Form::all() {
                for step in [32, 64, 96, 128, 192, 384] {
                    let (sorted, mut sums) = (Sorted::integers(form, &[x; 384], step), vec![9; 384 / step]);
                    nibbles(form, &packed, &sorted, step, offset, &mut sums);
                    assert!(sums.iter().all(|sum| *sum == 15 * (i32::from(x) + offset) * step as i32));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn rows_give_the_sums(
            rows in 0_usize..6, step in prop_oneof![1_usize..20, prop::sample::select(vec![1, 2, 4, 8, 12])],
            steps in 0_usize..40, offset in prop_oneof![Just(128), Just(-127), -127..=128], centred in any::<bool>(), seed in any::<u32>(),
        ) {
            let step = step * TOGETHER;
            let steps = steps.min(2000 / step);
            let cols = steps * step;
            let random = |i: usize| (i as u32 + 1).wrapping_mul(seed | 1).wrapping_mul(2_654_435_761) >> 16;
            let codes: Vec<u8> = (0..rows * cols).map(|i| random(i) as u8 & 15).collect();
            let packed: Vec<u8> = codes.as_chunks::<2>().0.iter().map(|[a, b]| a | b << 4).collect();
            let x: Vec<i8> = (0..cols).map(|i| if random(i + 7) % 3 == 0 { -128 } else { random(i + 7) as i8 }).collect();
            for form in Form::all() {
                let sorted = Sorted::integers(form, &x, step);
                for row in 0..rows {
                    let mut sums = vec![9; steps];
                    nibbles(form, &packed[row * cols / 2..][..cols / 2], &sorted, step, offset, &mut sums);
                    let codes = codes[row * cols..].chunks(step).zip(x.chunks(step));
                    let sum = |(codes, x): (&[u8], &[i8])| -> i32 {
                        codes.iter().zip(x).map(|(c, x)| i32::from(*c) * (i32::from(*x) + offset)).sum()
                    };
                    prop_assert_eq!(sums, codes.map(sum).collect::<Vec<_>>());
                }
            }
            let floats: Vec<f32> = x.iter().map(|x| f32::from(*x) * 0.37).collect();
            let doubles: Vec<f64> = floats.iter().map(|x| f64::from(*x)).collect();
            let scales: Vec<f32> = (0..steps).map(|s| 0.1 * (s + 1) as f32).collect();
            let wide: Vec<f64> = scales.iter().map(|s| f64::from(*s)).collect();
            let zeros: Vec<u8> = (0..steps).map(|s| (s * 5 % 16) as u8).collect();
            let zeros = (!centred).then_some(&zeros[..]);
            let grids = Grids { scales: &scales, zeros, middle: 8 };
            let (best, pairs) = (Sorted::floats(&floats, step, grids), Sorted::new(&floats, PAIRS));
            for row in 0..rows {
                let w = &packed[row * cols / 2..][..cols / 2];
                #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
                let mut found = vec![nibbles_f32(w, grids, &best, step), plain_floats(w, grids, &pairs, step)];
                #[cfg(target_arch = "x86_64")]
                found.extend(Avx2::new().map(|cpu| {
                    avx2::nibble_floats(cpu, w.as_chunks().0, grids, pairs.pairs(), step / TOGETHER)
                }));
                let (mut wanted, mut size) = (0.0, 0.0);
                for (i, x) in doubles.iter().enumerate() {
                    let w = wide[i / step] * (f64::from(codes[row * cols + i]) - f64::from(grids.zero(i / step)));
                    wanted += w * x;
                    size += (w * x).abs();
                }
                for sum in found {
                    prop_assert!((f64::from(sum) - wanted).abs() <= (cols as f64 + 4.0) * f64::from(f32::EPSILON) / 2.0 * size);
                }
                let double = plain_floats(w, Grids { scales: &wide, zeros, middle: 8 }, &Sorted::doubles(&doubles), step);
                prop_assert!((double - wanted).abs() <= (cols as f64 + 4.0) * f64::EPSILON * size);
            }
        }
    }
}
