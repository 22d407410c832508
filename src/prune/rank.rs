//! The k-th smallest magnitude of a set, without sorting it: a radix selection.
//!
//! Each pass counts the values that share the digits found so far by their next digit, and picks the digit
//! in which the k-th lies. Three passes for `f32`, six for `f64`; nothing is copied, so the set may be
//! spread over a model that does not fit in memory. Counts add up in any order, so the result does not
//! depend on threads.

use crate::kernels::Kernels;

/// Bits of a digit: a table of counts that stays in the innermost cache.
const DIGIT: u32 = 11;

/// Counts of the next digit.
pub(super) type Counts = Vec<u64>;

/// A selection under way.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    /// Digits found so far.
    prefix: u64,
    /// Bits not found yet.
    open: u32,
    /// Rank among the values that share the prefix.
    rank: u64,
}

/// Where a ranking is cut: all smaller magnitudes are on one side, and `ties` of the equal ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cut {
    /// Bits of the magnitude.
    pub magnitude: u64,
    /// How many of the values with exactly this magnitude lie below the cut.
    pub ties: u64,
}

impl Selection {
    /// Of the value below which `rank` values lie.
    pub fn new<T: Kernels>(rank: u64) -> Self {
        Self { prefix: 0, open: T::BITS, rank }
    }

    fn digit(&self) -> u32 {
        DIGIT.min(self.open)
    }

    /// Counts `values` for the next pass.
    pub fn count<T: Kernels + Copy>(&self, values: &[T]) -> Counts {
        let digit = self.digit();
        let shift = self.open - digit;
        let mut counts = vec![0_u64; 1 << digit];
        for x in values {
            let bits: u64 = x.magnitude().into();
            if bits >> self.open == self.prefix {
                counts[(bits >> shift & ((1 << digit) - 1)) as usize] += 1;
            }
        }
        counts
    }

    /// Adds counts of another part of the set.
    pub fn add(total: &mut Counts, counts: &Counts) {
        if total.is_empty() {
            total.clone_from(counts);
        } else {
            total.iter_mut().zip(counts).for_each(|(a, b)| *a += b);
        }
    }

    /// Takes the counts of all values; the cut, once it is known.
    pub fn advance(&mut self, counts: &[u64]) -> Option<Cut> {
        let digit = self.digit();
        let mut found = (1_u64 << digit) - 1;
        for (value, count) in counts.iter().enumerate() {
            if self.rank < *count {
                found = value as u64;
                break;
            }
            self.rank -= count;
        }
        self.prefix = self.prefix << digit | found;
        self.open -= digit;
        (self.open == 0).then_some(Cut { magnitude: self.prefix, ties: self.rank })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::prune::Magnitude;
    use proptest::prelude::*;

    fn cut<T: Kernels + Copy>(values: &[T], rank: usize) -> Cut {
        let mut selection = Selection::new::<T>(rank as u64);
        loop {
            let mut total = Counts::new();
            values.chunks(7).for_each(|part| Selection::add(&mut total, &selection.count(part)));
            if let Some(cut) = selection.advance(&total) {
                return cut;
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_sorting(values in prop::collection::vec(prop_oneof![-3_i32..3, any::<i32>()], 1..200), at in any::<prop::sample::Index>()) {
            let floats: Vec<f32> = values.iter().map(|x| *x as f32 * 0.5).collect();
            let rank = at.index(floats.len());
            let mut sorted: Vec<f32> = floats.iter().map(|x| x.abs()).collect();
            sorted.sort_by(f32::total_cmp);
            let expected = sorted[rank];
            let below = sorted.iter().filter(|x| **x < expected).count();
            let found = cut(&floats, rank);
            prop_assert_eq!(found, Cut { magnitude: u64::from(expected.magnitude()), ties: (rank - below) as u64 });
            let doubles: Vec<f64> = floats.iter().map(|x| f64::from(*x)).collect();
            prop_assert_eq!(cut(&doubles, rank).magnitude, f64::from(expected).magnitude());
        }
    }
}
