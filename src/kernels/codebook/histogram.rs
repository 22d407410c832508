//! [`Histogram`]: how many values lie in each bin, and their mean there.

use super::Share;
use crate::kernels::cpu::fast;
use std::marker::PhantomData;

/// In a tally, the count begins at this bit; the sum of the fine bits lies below.
const COUNT: u32 = 40;

/// Counts and sums of the bins of many values, in whole numbers: the result does not depend on the order in
/// which values come and tallies are added.
#[derive(Clone, Debug)]
pub struct Histogram<T> {
    counts: Vec<u64>,
    /// Of the fine bits.
    sums: Vec<u64>,
    zeros: bool,
    number: PhantomData<T>,
}

impl<T: Share> Histogram<T> {
    /// The most values that are tallied before the tally is added: sums of their fine bits stay under the count.
    pub const TALLY: usize = 1 << 22;

    /// Bins, and so the length of a tally.
    pub const BINS: usize = 1 << T::BIN_BITS;

    /// Of no values.
    pub fn new() -> Self {
        Self { counts: vec![0; Self::BINS], sums: vec![0; Self::BINS], zeros: false, number: PhantomData }
    }

    /// Counts `values` in a tally of [`BINS`](Self::BINS) numbers. Says whether one of them is exactly 0.
    pub fn tally(values: &[T], tally: &mut [u64]) -> bool {
        let tally = &mut tally[..Self::BINS];
        fast(
            #[inline(always)]
            || {
                for x in values {
                    let (bin, fine) = x.bin();
                    // There are as many bins as the bits have values, which the compiler does not see.
                    tally[bin & (Self::BINS - 1)] += 1 << COUNT | fine;
                }
                let zero = T::zeroed();
                let mut any = false;
                for x in values {
                    any |= *x == zero;
                }
                any
            },
        )
    }

    /// Adds a tally of at most [`TALLY`](Self::TALLY) values.
    pub fn add(&mut self, tally: &[u64], zeros: bool) {
        self.zeros |= zeros;
        for ((tally, count), sum) in tally.iter().zip(&mut self.counts).zip(&mut self.sums) {
            if *tally != 0 {
                *count += tally >> COUNT;
                *sum += tally & ((1 << COUNT) - 1);
            }
        }
    }

    /// Bins of one sign.
    const HALF: usize = Self::BINS / 2;
    /// The first bin, of one sign, of what is not a number: its exponent is all ones.
    const INFINITE: usize = ((1 << T::EXPONENT_BITS) - 1) << (T::BIN_BITS - 1 - T::EXPONENT_BITS);

    /// Whether all values are finite.
    pub fn is_finite(&self) -> bool {
        let finite = |half: &[u64]| half[Self::INFINITE..].iter().all(|count| *count == 0);
        let (positive, negative) = self.counts.split_at(Self::HALF);
        finite(positive) && finite(negative)
    }

    /// Bins that hold values.
    pub(super) fn used(&self) -> usize {
        self.counts.iter().filter(|count| **count > 0).count()
    }

    /// Calls `f` with the mean of the values of each bin that has some, how far the nearer end of the bin lies
    /// from it, and their number, in ascending order. All values are finite.
    pub(super) fn for_each(&self, mut f: impl FnMut(f64, f64, u64)) {
        let negative = (Self::HALF..Self::HALF + Self::INFINITE).rev();
        for bin in negative.chain(0..Self::INFINITE) {
            let count = self.counts[bin];
            if count > 0 {
                // Numbers that share a bin with 0 are next to nothing beside all others.
                if self.zeros && bin % Self::HALF == 0 {
                    f(0.0, 0.0, count);
                    continue;
                }
                let fine = self.sums[bin] as f64 / count as f64;
                let mean = T::from_bin(bin, fine);
                let room = fine.min(f64::from(1_u32 << T::FINE_BITS) - fine);
                f(mean, (T::from_bin(bin, fine - room) - mean).abs(), count);
            }
        }
    }
}

impl<T: Share> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::codebook::Points;
    use proptest::prelude::*;

    fn histogram<T: Share>(values: &[T], cut: usize) -> Histogram<T> {
        let mut histogram = Histogram::<T>::new();
        for values in values.chunks(cut) {
            let mut tally = vec![0; Histogram::<T>::BINS];
            let zeros = Histogram::tally(values, &mut tally);
            histogram.add(&tally, zeros);
        }
        histogram
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn bins_hold_means_of_neighbours(bits in prop::collection::vec(any::<u32>(), 1..200), cut in 1_usize..100) {
            let values: Vec<f32> = bits.iter().map(|b| f32::from_bits(*b)).filter(|x| x.is_normal()).collect();
            prop_assume!(!values.is_empty());
            let (mut means, mut total) = (Vec::new(), 0);
            histogram(&values, cut).for_each(|mean, room, count| {
                assert!(room >= 0.0 && room <= mean.abs() / 512.0);
                means.push(mean);
                total += count;
            });
            prop_assert_eq!(total, values.len() as u64);
            prop_assert!(means.is_sorted());
            // Each value is within a bin's width of a mean.
            for x in values.iter().map(|x| f64::from(*x)) {
                prop_assert!(means.iter().any(|m| (m - x).abs() <= x.abs() / 512.0), "{}", x);
            }
        }

        #[test]
        fn one_value_is_its_own_mean(x in any::<f32>(), n in 1_usize..50) {
            prop_assume!(x.is_finite());
            let values = vec![x; n];
            let points = Points::of_histogram(&histogram(&values, 7), 2);
            prop_assert_eq!(points.restore(&points.values), vec![f64::from(x)]);
            // As far as 25 bits say.
            let wide: Vec<f64> = values.iter().map(|x| f64::from(*x)).collect();
            let points = Points::of_histogram(&histogram(&wide, 7), 2);
            prop_assert_eq!(points.restore(&points.values), vec![f64::from(x)]);
        }
    }

    #[test]
    fn what_is_not_finite_is_found() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -f64::NAN] {
            assert!(!histogram(&[1.0, bad, 2.0], 9).is_finite());
            assert!(!histogram(&[1.0, bad as f32, 2.0], 9).is_finite());
        }
        assert!(histogram(&[f64::MAX, f64::MIN, 0.0, 5e-324], 9).is_finite());
        assert!(histogram(&[f32::MAX, f32::MIN, -0.0], 9).is_finite());
    }

    #[test]
    fn zero_is_exact() {
        let points = Points::of_histogram(&histogram(&[1e-45_f32, -0.0, 2.0, 0.0, -1.0], 9), 2);
        assert_eq!(points.restore(&points.values), [-1.0, 0.0, 2.0]);
        assert_eq!((points.zero, &points.counts[..]), (Some(1), &[1.0, 3.0, 1.0][..]));
    }
}
