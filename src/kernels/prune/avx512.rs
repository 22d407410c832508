//! The kernels for `f32` with AVX-512: compares give the bits of a choice as they are, and `vpcompressd` moves
//! the chosen lanes together.

use super::avx2::{push_chosen, ranked_fours};
use super::{AHEAD, portable};
use crate::kernels::cpu::Avx512;
use crate::kernels::memory::prefetch;
use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_and_si512, _mm512_cmpge_epi32_mask, _mm512_cmpgt_epi32_mask,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_cmple_epi32_mask, _mm512_maskz_compress_ps,
    _mm512_max_epi32, _mm512_reduce_max_epi32, _mm512_set1_epi32, _mm512_set4_epi32, _mm512_setzero_si512,
    _mm512_shuffle_epi32, _mm512_storeu_ps,
};

impl Avx512 {
    #[allow(unsafe_code)]
    pub fn at_least(self, values: &[f32], least: u32, chosen: &mut [u64]) -> bool {
        // SAFETY: an `Avx512` exists, so the CPU has the instructions.
        unsafe { at_least(values, least, chosen) }
    }

    #[allow(unsafe_code)]
    pub fn largest_of_fours(self, values: &[f32], n: usize, chosen: &mut [u64]) -> bool {
        // SAFETY: an `Avx512` exists, so the CPU has the instructions.
        unsafe { largest_of_fours(values, n, chosen) }
    }

    #[allow(unsafe_code)]
    pub fn tally(self, values: &[f32], low: u32, high: u32, inside: &mut Vec<u32>) -> Option<u64> {
        // SAFETY: an `Avx512` exists, so the CPU has the instructions.
        unsafe { tally(values, low, high, inside) }
    }

    #[allow(unsafe_code)]
    pub fn compact(self, values: &mut [f32], from: usize, chosen: &[u64], to: usize) -> usize {
        // SAFETY: an `Avx512` exists, so the CPU has the instructions.
        unsafe { compact(values, from, chosen, to) }
    }
}

/// Sixteen magnitudes.
#[inline]
#[target_feature(enable = "avx512f,avx2,bmi1,popcnt")]
fn magnitudes(values: &[f32; 16]) -> __m512i {
    // SAFETY: sixteen values are there to be read; no alignment is asked for.
    #[allow(unsafe_code)]
    let x = unsafe { _mm512_loadu_si512(values.as_ptr().cast()) };
    _mm512_and_si512(x, _mm512_set1_epi32(i32::MAX))
}

#[inline]
#[target_feature(enable = "avx512f,avx2,bmi1,popcnt")]
fn is_finite(top: __m512i) -> bool {
    _mm512_reduce_max_epi32(top) < f32::INFINITY.to_bits() as i32
}

#[target_feature(enable = "avx512f,avx2,bmi1,popcnt")]
fn at_least(values: &[f32], least: u32, chosen: &mut [u64]) -> bool {
    let least_lanes = _mm512_set1_epi32(least as i32);
    let mut top = _mm512_setzero_si512();
    let (words, rest) = values.as_chunks::<64>();
    for (values, word) in words.iter().zip(chosen.iter_mut()) {
        prefetch(values, AHEAD);
        let mut bits = 0;
        for (i, values) in values.as_chunks::<16>().0.iter().enumerate() {
            let x = magnitudes(values);
            bits |= u64::from(_mm512_cmpge_epi32_mask(x, least_lanes)) << (16 * i);
            top = _mm512_max_epi32(top, x);
        }
        *word = bits;
    }
    let rest = portable::at_least(rest, least, chosen.get_mut(words.len()..).unwrap_or_default());
    is_finite(top) && rest
}

#[target_feature(enable = "avx512f,avx2,bmi1,popcnt")]
fn tally(values: &[f32], low: u32, high: u32, inside: &mut Vec<u32>) -> Option<u64> {
    let (low_lanes, high_lanes) = (_mm512_set1_epi32(low as i32), _mm512_set1_epi32(high as i32));
    let mut top = _mm512_setzero_si512();
    let mut below = 0;
    let (words, rest) = values.as_chunks::<64>();
    for values in words {
        let (mut from_low, mut bits) = (0_u64, 0_u64);
        for (i, values) in values.as_chunks::<16>().0.iter().enumerate() {
            let x = magnitudes(values);
            let lanes = _mm512_cmpge_epi32_mask(x, low_lanes);
            from_low |= u64::from(lanes) << (16 * i);
            bits |= u64::from(_mm512_mask_cmple_epi32_mask(lanes, x, high_lanes)) << (16 * i);
            top = _mm512_max_epi32(top, x);
        }
        below += u64::from(from_low.count_zeros());
        if bits != 0 {
            push_chosen(values, bits, inside);
        }
    }
    if !is_finite(top) {
        return None;
    }
    Some(below + portable::tally(rest, low, high, inside)?)
}

/// See [`ranked_fours`].
#[target_feature(enable = "avx512f,avx2,bmi1,popcnt")]
fn largest_of_fours(values: &[f32], n: usize, chosen: &mut [u64]) -> bool {
    // Of equals, the later one is ranked above, which one more on its side does.
    let later = [_mm512_set4_epi32(0, 1, 1, 1), _mm512_set4_epi32(0, 0, 1, 1)];
    let mut top = _mm512_setzero_si512();
    let (words, rest) = values.as_chunks::<64>();
    for (values, word) in words.iter().zip(chosen.iter_mut()) {
        prefetch(values, AHEAD);
        let (mut next, mut second) = (0, 0);
        for (i, values) in values.as_chunks::<16>().0.iter().enumerate() {
            let x = magnitudes(values);
            let other = _mm512_add_epi32(_mm512_shuffle_epi32::<0b00_11_10_01>(x), later[0]);
            next |= u64::from(_mm512_cmpgt_epi32_mask(other, x)) << (16 * i);
            let other = _mm512_add_epi32(_mm512_shuffle_epi32::<0b01_00_11_10>(x), later[1]);
            second |= u64::from(_mm512_cmpgt_epi32_mask(other, x)) << (16 * i);
            top = _mm512_max_epi32(top, x);
        }
        *word = ranked_fours(next, second, n);
    }
    let chosen = chosen.get_mut(words.len()..).unwrap_or_default();
    portable::largest_of_groups(rest, n, 4, 1, chosen) && is_finite(top)
}

#[target_feature(enable = "avx512f,avx2,bmi1,popcnt")]
fn compact(values: &mut [f32], from: usize, chosen: &[u64], to: usize) -> usize {
    assert!(to <= from && from <= values.len());
    let mut out = to;
    let whole = ((values.len() - from) / 64).min(chosen.len());
    for (i, bits) in chosen[..whole].iter().enumerate() {
        let first = from + 64 * i;
        for j in 0..4 {
            let choice = (bits >> (16 * j)) as u16;
            // SAFETY: the sixteen values from `first + 16 * j` on exist, as `whole` counts only whole words; so do
            // those from `out` on, as no more have been chosen than were passed: `out <= first + 16 * j`.
            #[allow(unsafe_code)]
            unsafe {
                let at = values.as_mut_ptr();
                let x = _mm512_loadu_ps(at.add(first + 16 * j));
                _mm512_storeu_ps(at.add(out), _mm512_maskz_compress_ps(choice, x));
            }
            out += choice.count_ones() as usize;
        }
    }
    out - to + portable::compact(values, from + 64 * whole, &chosen[whole..], out)
}
