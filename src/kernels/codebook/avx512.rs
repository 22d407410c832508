//! Codes for AVX-512: up to 31 bounds are searched by halves, with the bounds of each level in a register. Up to 15
//! AVX2 searches as well, in less than half the time: its comparisons are numbers at once, and no masks.
#![allow(unsafe_code)]

use super::assign::{LANES, MOST, level};
use std::arch::x86_64::{
    __m128i, _CMP_GT_OQ, _mm_storeu_si128, _mm512_add_epi32, _mm512_cmp_ps_mask, _mm512_cvtepi32_epi8,
    _mm512_loadu_ps, _mm512_mask_add_epi32, _mm512_permutexvar_ps, _mm512_set1_epi32, _mm512_setzero_si512,
};

const LEVELS: usize = 5;

/// How many of the first of `bounds`, up to 31, lie below each of the values.
#[target_feature(enable = "avx512f")]
pub(super) fn codes(values: &[[f32; LANES]], bounds: &[f32; MOST], out: &mut [[u8; LANES]]) {
    // SAFETY: sixteen numbers.
    let levels: [_; LEVELS] = std::array::from_fn(|i| unsafe {
        let level: [f32; 16] = level(bounds, LEVELS, i);
        _mm512_loadu_ps(level.as_ptr())
    });
    let one = _mm512_set1_epi32(1);
    for (values, out) in values.iter().zip(out) {
        for (x, out) in values.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<16>().0) {
            // SAFETY: sixteen numbers.
            let x = unsafe { _mm512_loadu_ps(x.as_ptr()) };
            let mut code = _mm512_setzero_si512();
            for level in levels {
                let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, _mm512_permutexvar_ps(code, level));
                code = _mm512_add_epi32(code, code);
                code = _mm512_mask_add_epi32(code, above, code, one);
            }
            // SAFETY: 16 bytes.
            unsafe { _mm_storeu_si128(out.as_mut_ptr().cast::<__m128i>(), _mm512_cvtepi32_epi8(code)) };
        }
    }
}
