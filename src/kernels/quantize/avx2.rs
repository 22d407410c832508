//! Ranges and coding for AVX2: the same steps as the portable forms, with sums and constants that stay in
//! registers, and with packing instructions that a compiler does not find there.
#![allow(unsafe_code)]

use super::encode::{BLOCK, Line, ROUND_F32};
use crate::kernels::memory::prefetch;
use std::arch::x86_64::{
    __m256i, _CMP_GT_OQ, _mm_cvtsi128_si32, _mm_max_epi32, _mm_max_epu32, _mm_shuffle_epi32, _mm256_add_ps,
    _mm256_and_si256, _mm256_andnot_ps, _mm256_castps_si256, _mm256_castsi256_si128, _mm256_cmp_ps,
    _mm256_cvtepi32_ps, _mm256_extracti128_si256, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_max_epi32,
    _mm256_max_epu32, _mm256_max_ps, _mm256_min_ps, _mm256_movemask_ps, _mm256_mul_ps, _mm256_packs_epi32,
    _mm256_packus_epi16, _mm256_permutevar8x32_epi32, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi32,
    _mm256_setzero_ps, _mm256_setzero_si256, _mm256_srlv_epi32, _mm256_storeu_ps, _mm256_storeu_si256,
    _mm256_sub_epi32, _mm256_sub_ps,
};

/// The largest bits of all values, as signed and as unsigned integers, and 0.
#[target_feature(enable = "avx2")]
pub(super) fn max_bits(values: &[f32]) -> (i32, u32) {
    let (mut high, mut low) = ([_mm256_setzero_si256(); 4], [_mm256_setzero_si256(); 4]);
    let (blocks, rest) = values.as_chunks::<32>();
    for block in blocks {
        for (i, lane) in block.as_chunks::<8>().0.iter().enumerate() {
            // SAFETY: eight numbers.
            let x = unsafe { _mm256_loadu_si256(lane.as_ptr().cast::<__m256i>()) };
            high[i] = _mm256_max_epi32(high[i], x);
            low[i] = _mm256_max_epu32(low[i], x);
        }
    }
    let high = _mm256_max_epi32(_mm256_max_epi32(high[0], high[1]), _mm256_max_epi32(high[2], high[3]));
    let low = _mm256_max_epu32(_mm256_max_epu32(low[0], low[1]), _mm256_max_epu32(low[2], low[3]));
    let high = _mm_max_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256::<1>(high));
    let low = _mm_max_epu32(_mm256_castsi256_si128(low), _mm256_extracti128_si256::<1>(low));
    let high = _mm_max_epi32(high, _mm_shuffle_epi32::<0b01_00_11_10>(high));
    let low = _mm_max_epu32(low, _mm_shuffle_epi32::<0b01_00_11_10>(low));
    let high = _mm_max_epi32(high, _mm_shuffle_epi32::<0b10_11_00_01>(high));
    let low = _mm_max_epu32(low, _mm_shuffle_epi32::<0b10_11_00_01>(low));
    let (high, low) = (_mm_cvtsi128_si32(high), _mm_cvtsi128_si32(low) as u32);
    rest.iter().fold((high, low), |(high, low), x| (high.max(x.to_bits() as i32), low.max(x.to_bits())))
}

/// As [`Line::encode_portable`].
#[target_feature(enable = "avx2")]
pub(super) fn encode(line: &Line, values: &[[f32; BLOCK]], ahead: usize, out: &mut [[u8; BLOCK]]) -> usize {
    let (per_step, shift) = (_mm256_set1_ps(line.per_step), _mm256_set1_ps(line.shift));
    let (low, high) = (_mm256_set1_ps(line.low), _mm256_set1_ps(line.high));
    let (sign, sure) = (_mm256_set1_ps(-0.0), _mm256_set1_ps(line.sure));
    // The bits of a rounded number are these and the code.
    let bits = _mm256_castps_si256(_mm256_set1_ps(ROUND_F32));
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (i, (values, out)) in values.iter().zip(out).enumerate() {
        prefetch(values, ahead);
        let mut worst = _mm256_setzero_ps();
        let mut codes = [_mm256_setzero_si256(); 4];
        for (x, code) in values.as_chunks::<8>().0.iter().zip(&mut codes) {
            // SAFETY: eight numbers.
            let x = unsafe { _mm256_loadu_ps(x.as_ptr()) };
            let q = _mm256_min_ps(_mm256_max_ps(_mm256_mul_ps(x, per_step), low), high);
            let rounded = _mm256_add_ps(q, shift);
            let off = _mm256_sub_ps(q, _mm256_sub_ps(rounded, shift));
            worst = _mm256_max_ps(worst, _mm256_andnot_ps(sign, off));
            *code = _mm256_sub_epi32(_mm256_castps_si256(rounded), bits);
        }
        let [a, b, c, d] = codes;
        let packed = _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
        let packed = _mm256_permutevar8x32_epi32(packed, order);
        // SAFETY: 32 bytes.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast::<__m256i>(), packed) };
        if _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(worst, sure)) != 0 {
            return i;
        }
    }
    values.len()
}

/// Codes of 4 bits that are decoded at a time.
pub(super) const NIBBLES: usize = 8;

/// `scale * (code - zero)` of packed 4-bit codes.
#[target_feature(enable = "avx2")]
pub(super) fn decode_nibbles(packed: &[[u8; NIBBLES / 2]], scale: f32, zero: u8, out: &mut [[f32; NIBBLES]]) {
    let (scale, zero) = (_mm256_set1_ps(scale), _mm256_set1_epi32(zero.into()));
    let shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    for (packed, out) in packed.iter().zip(out) {
        let codes = _mm256_srlv_epi32(_mm256_set1_epi32(i32::from_le_bytes(*packed)), shifts);
        let codes = _mm256_sub_epi32(_mm256_and_si256(codes, _mm256_set1_epi32(15)), zero);
        // SAFETY: room for eight numbers.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_mul_ps(_mm256_cvtepi32_ps(codes), scale)) };
    }
}
