//! The smallest and the largest of values, and whether all are finite, in one pass.
//!
//! The bits of an IEEE number, read as a signed integer, order the positive numbers as they are, with every
//! negative one below them; read as an unsigned integer, they order the negative numbers by size, with every
//! positive one below. So the signed maximum is the largest number and the unsigned maximum the smallest,
//! where there are such besides 0. Infinities and NaN lie above all numbers in either order.

use super::Quantize;
use crate::kernels::cpu::fast;

/// Numbers that are compared side by side.
const LANES: usize = 32;

/// The smallest and the largest of the values and 0; `None` where one is NaN or infinite.
pub fn ends<T: Quantize>(values: &[T]) -> Option<(T, T)> {
    fast(
        #[inline(always)]
        || T::ends(values),
    )
}

/// The same of those whose bits are set.
pub fn ends_of<T: Quantize>(values: &[T], chosen: &[u64]) -> Option<(T, T)> {
    fast(
        #[inline(always)]
        || T::ends_of(values, chosen),
    )
}

macro_rules! ends {
    ($ends:ident, $max_bits:ident, $max_bits_of:ident, $t:ty, $signed:ty, $unsigned:ty) => {
        /// The numbers that the largest bits say.
        #[inline(always)]
        pub(super) fn $ends((high, low): ($signed, $unsigned)) -> Option<($t, $t)> {
            const SIGN: $unsigned = 1 << (<$unsigned>::BITS - 1);
            let high = <$t>::from_bits(high as $unsigned);
            // Adding 0 makes -0 a 0.
            let low = if low < SIGN { 0.0 } else { <$t>::from_bits(low) + 0.0 };
            (high.is_finite() && low.is_finite()).then_some((low, high))
        }

        /// The largest bits of all values, as signed and as unsigned integers, and 0.
        #[inline(always)]
        pub(super) fn $max_bits(values: &[$t]) -> ($signed, $unsigned) {
            let (mut high, mut low) = ([0 as $signed; LANES], [0 as $unsigned; LANES]);
            let (blocks, rest) = values.as_chunks::<LANES>();
            for block in blocks {
                for i in 0..LANES {
                    let bits = block[i].to_bits();
                    high[i] = high[i].max(bits as $signed);
                    low[i] = low[i].max(bits);
                }
            }
            for x in rest {
                high[0] = high[0].max(x.to_bits() as $signed);
                low[0] = low[0].max(x.to_bits());
            }
            (high.into_iter().fold(0, <$signed>::max), low.into_iter().fold(0, <$unsigned>::max))
        }

        /// The same of those whose bits are set: the others count as 0.
        #[inline(always)]
        pub(super) fn $max_bits_of(values: &[$t], chosen: &[u64]) -> ($signed, $unsigned) {
            let (mut high, mut low) = (0, 0);
            for (values, word) in values.chunks(64).zip(chosen) {
                for (i, x) in values.iter().enumerate() {
                    let bits = x.to_bits() & <$unsigned>::wrapping_sub(0, (word >> i & 1) as $unsigned);
                    high = high.max(bits as $signed);
                    low = low.max(bits);
                }
            }
            (high, low)
        }
    };
}

ends!(of_bits_f32, max_bits_f32, max_bits_of_f32, f32, i32, u32);
ends!(of_bits_f64, max_bits_f64, max_bits_of_f64, f64, i64, u64);

#[inline(always)]
pub(super) fn ends_f32(values: &[f32]) -> Option<(f32, f32)> {
    #[cfg(target_arch = "x86_64")]
    if crate::kernels::cpu::Avx512::new().is_some() {
        // SAFETY: the CPU has the instructions, as was just asked.
        #[allow(unsafe_code)]
        return of_bits_f32(unsafe { super::avx512::max_bits(values) });
    }
    #[cfg(target_arch = "x86_64")]
    if crate::kernels::cpu::has_avx2() {
        // SAFETY: the CPU has the instructions, as was just asked.
        #[allow(unsafe_code)]
        return of_bits_f32(unsafe { super::avx2::max_bits(values) });
    }
    of_bits_f32(max_bits_f32(values))
}

#[inline(always)]
pub(super) fn ends_of_f32(values: &[f32], chosen: &[u64]) -> Option<(f32, f32)> {
    #[cfg(target_arch = "x86_64")]
    if crate::kernels::cpu::Avx512::new().is_some() {
        // SAFETY: the CPU has the instructions, as was just asked.
        #[allow(unsafe_code)]
        return of_bits_f32(unsafe { super::avx512::max_bits_of(values, chosen) });
    }
    of_bits_f32(max_bits_of_f32(values, chosen))
}

#[inline(always)]
pub(super) fn ends_of_f64(values: &[f64], chosen: &[u64]) -> Option<(f64, f64)> {
    of_bits_f64(max_bits_of_f64(values, chosen))
}

#[inline(always)]
pub(super) fn ends_f64(values: &[f64]) -> Option<(f64, f64)> {
    of_bits_f64(max_bits_f64(values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(values: &[f32]) -> Option<(f32, f32)> {
        let ends = values.iter().fold((0.0_f32, 0.0_f32), |(low, high), x| (low.min(*x), high.max(*x)));
        values.iter().all(|x| x.is_finite()).then_some(ends)
    }

    proptest! {
        #[test]
        fn ends_as_the_plain_form(bits in prop::collection::vec(any::<u32>(), 0..300), skip in 0_usize..9, tame in any::<bool>()) {
            let values: Vec<f32> = bits.iter().map(|b| f32::from_bits(*b)).map(|x| {
                if tame && !x.is_finite() { 1.5 } else { x }
            }).collect();
            let values = &values[skip.min(values.len())..];
            prop_assert_eq!(ends(values), plain(values));
            prop_assert_eq!(of_bits_f32(max_bits_f32(values)), plain(values));
            #[cfg(target_arch = "x86_64")]
            if crate::kernels::cpu::has_avx2() {
                // SAFETY: the CPU has the instructions, as was just asked.
                #[allow(unsafe_code)]
                let bits = unsafe { super::super::avx2::max_bits(values) };
                prop_assert_eq!(of_bits_f32(bits), plain(values));
            }
            let wide: Vec<f64> = values.iter().map(|x| f64::from(*x)).collect();
            let wanted = plain(values).map(|(a, b)| (f64::from(a), f64::from(b)));
            prop_assert_eq!(ends(&wide), wanted);
            let chosen: Vec<u64> = bits.chunks(64).map(|c| c.iter().fold(7_u64, |w, b| w.rotate_left(9) ^ u64::from(*b))).collect();
            let some: Vec<f32> = (0..values.len()).filter(|i| chosen[i / 64] >> (i % 64) & 1 == 1).map(|i| values[i]).collect();
            prop_assert_eq!(ends_of(values, &chosen), plain(&some));
            prop_assert_eq!(of_bits_f32(max_bits_of_f32(values, &chosen)), plain(&some));
            let wanted = plain(&some).map(|(a, b)| (f64::from(a), f64::from(b)));
            prop_assert_eq!(ends_of(&wide, &chosen), wanted);
        }

        #[test]
        fn one_that_is_not_finite_is_found(len in 1_usize..200, at in any::<prop::sample::Index>(), bad in prop::sample::select(vec![f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY])) {
            let mut values = vec![0.5_f32; len];
            values[at.index(len)] = bad;
            prop_assert_eq!(ends(&values), None);
        }
    }

    #[test]
    fn extremes() {
        assert_eq!(ends::<f32>(&[]), Some((0.0, 0.0)));
        assert_eq!(ends(&[-0.0_f32]).map(|(a, b)| (a.to_bits(), b.to_bits())), Some((0, 0)));
        let tiny = f32::from_bits(1);
        assert_eq!(ends(&[tiny, -tiny, f32::MAX, f32::MIN]), Some((f32::MIN, f32::MAX)));
        assert_eq!(ends(&[tiny, -tiny]), Some((-tiny, tiny)));
        assert_eq!(ends(&[3.0_f64, 2.0]), Some((0.0, 3.0)));
        assert_eq!(ends(&[-3.0_f64, -2.0]), Some((-3.0, 0.0)));
    }
}
