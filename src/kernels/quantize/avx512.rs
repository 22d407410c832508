//! Ranges and coding for AVX-512: as for AVX2, sixteen numbers at a time; fewer at the end of a run, which may be
//! all of it.
#![allow(unsafe_code)]

use super::encode::{BLOCK, Line, ROUND_F32};
use crate::kernels::memory::prefetch;
use std::arch::x86_64::{
    __m128i, __m512, __m512i, _CMP_GT_OQ, _mm_mask_storeu_epi8, _mm_storeu_si128, _mm512_abs_ps,
    _mm512_add_epi32, _mm512_add_ps, _mm512_castps_si512, _mm512_cmp_ps_mask, _mm512_cvtepi32_epi8,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_maskz_loadu_epi32, _mm512_maskz_loadu_ps, _mm512_max_epi32,
    _mm512_max_epu32, _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps, _mm512_permutexvar_epi32,
    _mm512_permutexvar_ps, _mm512_reduce_max_epi32, _mm512_reduce_max_epu32, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setr_epi32, _mm512_setr_ps, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_srlv_epi32, _mm512_storeu_ps, _mm512_sub_epi32, _mm512_sub_ps,
};

/// The first `n` lanes of sixteen.
#[inline(always)]
fn first(n: usize) -> u16 {
    ((1_u32 << n) - 1) as u16
}

/// The largest bits so far, as signed and as unsigned integers.
struct Largest([__m512i; 2], [__m512i; 2]);

impl Largest {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new() -> Self {
        Self([_mm512_setzero_si512(); 2], [_mm512_setzero_si512(); 2])
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn add(&mut self, side: usize, x: __m512i) {
        self.0[side] = _mm512_max_epi32(self.0[side], x);
        self.1[side] = _mm512_max_epu32(self.1[side], x);
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn get(&self) -> (i32, u32) {
        let high = _mm512_reduce_max_epi32(_mm512_max_epi32(self.0[0], self.0[1]));
        (high, _mm512_reduce_max_epu32(_mm512_max_epu32(self.1[0], self.1[1])))
    }
}

/// The largest bits of all values, as signed and as unsigned integers, and 0.
#[target_feature(enable = "avx512f")]
pub(super) fn max_bits(values: &[f32]) -> (i32, u32) {
    let mut largest = Largest::new();
    let (blocks, rest) = values.as_chunks::<32>();
    for block in blocks {
        for (i, lane) in block.as_chunks::<16>().0.iter().enumerate() {
            // SAFETY: sixteen numbers.
            largest.add(i, unsafe { _mm512_loadu_si512(lane.as_ptr().cast()) });
        }
    }
    for (i, lane) in rest.chunks(16).enumerate() {
        // SAFETY: nothing is read but the numbers that there are; the others count as 0.
        largest.add(i, unsafe { _mm512_maskz_loadu_epi32(first(lane.len()), lane.as_ptr().cast()) });
    }
    largest.get()
}

/// The same of those whose bits are set.
#[target_feature(enable = "avx512f")]
pub(super) fn max_bits_of(values: &[f32], chosen: &[u64]) -> (i32, u32) {
    let mut largest = Largest::new();
    let (words, rest) = values.as_chunks::<64>();
    for (values, word) in words.iter().zip(chosen) {
        for (i, lane) in values.as_chunks::<16>().0.iter().enumerate() {
            // SAFETY: sixteen numbers; those that are not chosen count as 0.
            largest.add(i % 2, unsafe {
                _mm512_maskz_loadu_epi32((word >> (16 * i)) as u16, lane.as_ptr().cast())
            });
        }
    }
    let word = chosen.get(words.len()).unwrap_or(&0);
    for (i, lane) in rest.chunks(16).enumerate() {
        let lanes = (word >> (16 * i)) as u16 & first(lane.len());
        // SAFETY: nothing is read but chosen numbers, which there are; the others count as 0.
        largest.add(i % 2, unsafe { _mm512_maskz_loadu_epi32(lanes, lane.as_ptr().cast()) });
    }
    largest.get()
}

/// What [`Line`] computes with, in every lane.
struct Lanes {
    per_step: __m512,
    shift: __m512,
    low: __m512,
    high: __m512,
    sure: __m512,
    /// The bits of a rounded number are these and the code.
    bits: __m512i,
}

impl Lanes {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(line: &Line) -> Self {
        Self {
            per_step: _mm512_set1_ps(line.per_step),
            shift: _mm512_set1_ps(line.shift),
            low: _mm512_set1_ps(line.low),
            high: _mm512_set1_ps(line.high),
            sure: _mm512_set1_ps(line.sure),
            bits: _mm512_castps_si512(_mm512_set1_ps(ROUND_F32)),
        }
    }

    /// Sixteen codes, and how far their products are from them.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn codes(&self, x: __m512) -> (__m128i, __m512) {
        let q = _mm512_min_ps(_mm512_max_ps(_mm512_mul_ps(x, self.per_step), self.low), self.high);
        let rounded = _mm512_add_ps(q, self.shift);
        let off = _mm512_abs_ps(_mm512_sub_ps(q, _mm512_sub_ps(rounded, self.shift)));
        (_mm512_cvtepi32_epi8(_mm512_sub_epi32(_mm512_castps_si512(rounded), self.bits)), off)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn is_sure(&self, worst: __m512) -> bool {
        _mm512_cmp_ps_mask::<_CMP_GT_OQ>(worst, self.sure) == 0
    }
}

/// As [`Line::encode_portable`].
#[target_feature(enable = "avx512f")]
pub(super) fn encode(line: &Line, values: &[[f32; BLOCK]], ahead: usize, out: &mut [[u8; BLOCK]]) -> usize {
    let lanes = Lanes::new(line);
    for (i, (values, out)) in values.iter().zip(out).enumerate() {
        prefetch(values, ahead);
        let mut worst = _mm512_setzero_ps();
        for (x, out) in values.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<16>().0) {
            // SAFETY: sixteen numbers.
            let (codes, off) = lanes.codes(unsafe { _mm512_loadu_ps(x.as_ptr()) });
            worst = _mm512_max_ps(worst, off);
            // SAFETY: 16 bytes.
            unsafe { _mm_storeu_si128(out.as_mut_ptr().cast::<__m128i>(), codes) };
        }
        if !lanes.is_sure(worst) {
            return i;
        }
    }
    values.len()
}

/// The codes of less than a block. Whether all are certain.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn encode_rest(line: &Line, values: &[f32], out: &mut [u8]) -> bool {
    let lanes = Lanes::new(line);
    let mut worst = _mm512_setzero_ps();
    for (x, out) in values.chunks(16).zip(out.chunks_mut(16)) {
        let n = first(x.len().min(out.len()));
        // SAFETY: nothing is read but the numbers that there are; 0 in the other lanes is certain.
        let (codes, off) = lanes.codes(unsafe { _mm512_maskz_loadu_ps(n, x.as_ptr()) });
        worst = _mm512_max_ps(worst, off);
        // SAFETY: nothing is written but the bytes that there are.
        unsafe { _mm_mask_storeu_epi8(out.as_mut_ptr().cast(), n, codes) };
    }
    lanes.is_sure(worst)
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
