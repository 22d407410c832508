//! Ranges and coding for AVX-512: as for AVX2, sixteen numbers at a time.
#![allow(unsafe_code)]

use super::encode::{BLOCK, Line, ROUND_F32};
use crate::kernels::memory::prefetch;
use std::arch::x86_64::{
    __m128i, _CMP_GT_OQ, _mm_storeu_si128, _mm512_abs_ps, _mm512_add_epi32, _mm512_add_ps,
    _mm512_castps_si512, _mm512_cmp_ps_mask, _mm512_cvtepi32_epi8, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_max_epi32, _mm512_max_epu32, _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps,
    _mm512_permutexvar_epi32, _mm512_permutexvar_ps, _mm512_reduce_max_epi32, _mm512_reduce_max_epu32,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setr_epi32, _mm512_setr_ps, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_srlv_epi32, _mm512_storeu_ps, _mm512_sub_epi32, _mm512_sub_ps,
};

/// The largest bits of all values, as signed and as unsigned integers, and 0.
#[target_feature(enable = "avx512f")]
pub(super) fn max_bits(values: &[f32]) -> (i32, u32) {
    let (mut high, mut low) = ([_mm512_setzero_si512(); 2], [_mm512_setzero_si512(); 2]);
    let (blocks, rest) = values.as_chunks::<32>();
    for block in blocks {
        for (i, lane) in block.as_chunks::<16>().0.iter().enumerate() {
            // SAFETY: sixteen numbers.
            let x = unsafe { _mm512_loadu_si512(lane.as_ptr().cast()) };
            high[i] = _mm512_max_epi32(high[i], x);
            low[i] = _mm512_max_epu32(low[i], x);
        }
    }
    let high = _mm512_reduce_max_epi32(_mm512_max_epi32(high[0], high[1]));
    let low = _mm512_reduce_max_epu32(_mm512_max_epu32(low[0], low[1]));
    rest.iter().fold((high, low), |(high, low), x| (high.max(x.to_bits() as i32), low.max(x.to_bits())))
}

/// As [`Line::encode_portable`].
#[target_feature(enable = "avx512f")]
pub(super) fn encode(line: &Line, values: &[[f32; BLOCK]], ahead: usize, out: &mut [[u8; BLOCK]]) -> usize {
    let (per_step, shift) = (_mm512_set1_ps(line.per_step), _mm512_set1_ps(line.shift));
    let (low, high) = (_mm512_set1_ps(line.low), _mm512_set1_ps(line.high));
    let sure = _mm512_set1_ps(line.sure);
    // The bits of a rounded number are these and the code.
    let bits = _mm512_castps_si512(_mm512_set1_ps(ROUND_F32));
    for (i, (values, out)) in values.iter().zip(out).enumerate() {
        prefetch(values, ahead);
        let mut worst = _mm512_setzero_ps();
        for (x, code) in values.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<16>().0) {
            // SAFETY: sixteen numbers.
            let x = unsafe { _mm512_loadu_ps(x.as_ptr()) };
            let q = _mm512_min_ps(_mm512_max_ps(_mm512_mul_ps(x, per_step), low), high);
            let rounded = _mm512_add_ps(q, shift);
            let off = _mm512_sub_ps(q, _mm512_sub_ps(rounded, shift));
            worst = _mm512_max_ps(worst, _mm512_abs_ps(off));
            let codes = _mm512_cvtepi32_epi8(_mm512_sub_epi32(_mm512_castps_si512(rounded), bits));
            // SAFETY: 16 bytes.
            unsafe { _mm_storeu_si128(code.as_mut_ptr().cast::<__m128i>(), codes) };
        }
        if _mm512_cmp_ps_mask::<_CMP_GT_OQ>(worst, sure) != 0 {
            return i;
        }
    }
    values.len()
}

/// Codes of 4 bits that are decoded at a time.
pub(super) const NIBBLES: usize = 128;

/// `scale * (code - zero)` of packed 4-bit codes.
#[target_feature(enable = "avx512f")]
pub(super) fn decode_nibbles(packed: &[[u8; NIBBLES / 2]], scale: f32, zero: u8, out: &mut [[f32; NIBBLES]]) {
    let codes =
        _mm512_setr_ps(0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0);
    let numbers = _mm512_sub_ps(codes, _mm512_set1_ps(f32::from(zero)));
    let numbers = _mm512_mul_ps(numbers, _mm512_set1_ps(scale));
    let shifts = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    for (packed, out) in packed.iter().zip(out) {
        // SAFETY: 64 bytes.
        let packed = unsafe { _mm512_loadu_si512(packed.as_ptr().cast()) };
        // Eight codes each, of which sixteen numbers are made.
        let mut words = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
        for out in out.as_chunks_mut::<16>().0 {
            let now = _mm512_srlv_epi32(_mm512_permutexvar_epi32(words, packed), shifts);
            words = _mm512_add_epi32(words, _mm512_set1_epi32(2));
            // Of a lane the lowest four bits say which number.
            // SAFETY: room for sixteen numbers.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), _mm512_permutexvar_ps(now, numbers)) };
        }
    }
}
