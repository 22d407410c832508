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
    #[test]
    fn extreme_values_do_not_overflow() {
        let n = 100_000;
        assert_eq!(super::dot(&vec![255; n], &vec![-255; n]), -(n as i64) * 255 * 255);
        assert_eq!(super::dot(&[], &[]), 0);
    }
}
