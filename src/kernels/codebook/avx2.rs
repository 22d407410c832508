//! Codes for AVX2: up to 15 bounds are searched by halves, with the bounds of each level in a register; more are
//! compared one by one as in the portable form, with sums that stay in registers.
#![allow(unsafe_code)]

use super::assign::{LANES, MOST, level};
use std::arch::x86_64::{
    __m256i, _CMP_GT_OQ, _mm256_add_epi32, _mm256_castps_si256, _mm256_cmp_ps, _mm256_loadu_ps,
    _mm256_packs_epi32, _mm256_packus_epi16, _mm256_permutevar8x32_epi32, _mm256_permutevar8x32_ps,
    _mm256_set1_ps, _mm256_setr_epi32, _mm256_setzero_si256, _mm256_storeu_si256, _mm256_sub_epi32,
};

/// Levels of a search of which each fits into a register.
const LEVELS: usize = 4;

/// How many of the first `used` of `bounds`, fewer than 256, lie below each of the values.
#[target_feature(enable = "avx2")]
pub(super) fn codes(values: &[[f32; LANES]], bounds: &[f32; MOST], used: usize, out: &mut [[u8; LANES]]) {
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    // SAFETY: eight numbers.
    let levels: [_; LEVELS] = std::array::from_fn(|i| unsafe {
        let level: [f32; 8] = level(bounds, LEVELS, i);
        _mm256_loadu_ps(level.as_ptr())
    });
    for (values, out) in values.iter().zip(out) {
        let lanes = values.as_chunks::<8>().0;
        // SAFETY: eight numbers each, and there are four times as many.
        let x: [_; 4] = std::array::from_fn(|i| unsafe { _mm256_loadu_ps(lanes[i].as_ptr()) });
        // A compare gives all ones, which is -1, where the value is above.
        let mut sums = [_mm256_setzero_si256(); 4];
        if used < 1 << LEVELS {
            for level in levels {
                for (sum, x) in sums.iter_mut().zip(x) {
                    let above = _mm256_cmp_ps::<_CMP_GT_OQ>(x, _mm256_permutevar8x32_ps(level, *sum));
                    *sum = _mm256_sub_epi32(_mm256_add_epi32(*sum, *sum), _mm256_castps_si256(above));
                }
            }
        } else {
            for bound in &bounds[..used] {
                let bound = _mm256_set1_ps(*bound);
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = _mm256_sub_epi32(*sum, _mm256_castps_si256(_mm256_cmp_ps::<_CMP_GT_OQ>(x, bound)));
                }
            }
        }
        let [a, b, c, d] = sums;
        let packed = _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
        let packed = _mm256_permutevar8x32_epi32(packed, order);
        // SAFETY: 32 bytes.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast::<__m256i>(), packed) };
    }
}
