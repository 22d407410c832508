//! Exact sums of products of small integers.

use super::cpu::fast;

/// Products that an `i32` holds for certain: 16,384 * 255 * 255 < 2^31.
const EXACT: usize = 1 << 14;

/// Sum of `a[i] * b[i]` for values within +-255.
pub fn dot(a: &[i16], b: &[i16]) -> i64 {
    fast(
        #[inline(always)]
        || {
            let products = a.chunks(EXACT).zip(b.chunks(EXACT));
            let sums = products.map(|(a, b)| a.iter().zip(b).map(|(a, b)| i32::from(*a) * i32::from(*b)));
            sums.map(|s| i64::from(s.sum::<i32>())).sum()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::dot;
    use proptest::prelude::*;

    #[test]
    fn extreme_values_do_not_overflow() {
        let n = 100_000;
        assert_eq!(dot(&vec![255; n], &vec![-255; n]), -(n as i64) * 255 * 255);
        assert_eq!(dot(&[], &[]), 0);
    }

    proptest! {
        #[test]
        fn every_compilation_gives_the_plain_sum(
            pairs in prop::collection::vec((-255_i16..=255, -255_i16..=255), 0..200), skip in 0_usize..17,
        ) {
            let (a, b): (Vec<i16>, Vec<i16>) = pairs.into_iter().unzip();
            // From any place in memory.
            let skip = skip.min(a.len());
            let plain: i64 = (skip..a.len()).map(|i| i64::from(a[i]) * i64::from(b[i])).sum();
            prop_assert_eq!(dot(&a[skip..], &b[skip..]), plain);
        }
    }
}
