//! Kept bytes to their places, 64 entries at a time.
#![allow(unsafe_code)]

use super::{Bits, WORD};
use crate::kernels::cpu::{Vbmi2, Vnni};
use std::arch::x86_64::{
    __m512i, _MM_HINT_T0, _mm_prefetch, _mm512_add_epi32, _mm512_add_epi64, _mm512_dpbusd_epi32,
    _mm512_loadu_si512, _mm512_mask_expand_epi8, _mm512_mask_storeu_epi8, _mm512_maskz_loadu_epi8,
    _mm512_reduce_add_epi32, _mm512_reduce_add_epi64, _mm512_sad_epu8, _mm512_set1_epi8,
    _mm512_setzero_si512, _mm512_storeu_si512,
};

/// Bytes from kept ones to those that are brought near meanwhile.
const AHEAD: usize = 1 << 12;

/// See [`expand_bytes`](super::expand_bytes).
pub(super) fn expand(_: Vbmi2, bits: Bits<'_>, kept: &[u8], fill: u8, out: &mut [u8]) {
    // SAFETY: a `Vbmi2` exists, so the CPU has the instructions.
    unsafe { words(bits, kept, fill, out) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt,bmi1,bmi2")]
fn words(bits: Bits<'_>, mut kept: &[u8], fill: u8, out: &mut [u8]) {
    let fill = _mm512_set1_epi8(fill as i8);
    for (i, out) in out.chunks_mut(WORD).enumerate() {
        let word = bits.word(i);
        let (next, count) = next(word, kept);
        let entries = _mm512_mask_expand_epi8(fill, word, next);
        // SAFETY: nothing is written but the bytes that there are, 64 of them or as many as the mask has.
        unsafe {
            match out.len() {
                WORD => _mm512_storeu_si512(out.as_mut_ptr().cast(), entries),
                len => _mm512_mask_storeu_epi8(out.as_mut_ptr().cast(), lowest(len), entries),
            }
        }
        kept = &kept[count..];
    }
}

/// The kept bytes of a word, and how many they are; others may follow them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,popcnt")]
fn next(word: u64, kept: &[u8]) -> (__m512i, usize) {
    let count = (word.count_ones() as usize).min(kept.len());
    _mm_prefetch::<_MM_HINT_T0>(kept.as_ptr().wrapping_add(AHEAD).cast());
    // SAFETY: nothing is read but 64 bytes, or the first `count`, where there are as many.
    let next = unsafe {
        match kept.len() {
            WORD.. => _mm512_loadu_si512(kept.as_ptr().cast()),
            _ => _mm512_maskz_loadu_epi8(lowest(count), kept.as_ptr().cast()),
        }
    };
    (next, count)
}

/// See [`ByteDots::sum`](super::ByteDots::sum).
pub(super) fn dot(_: (Vbmi2, Vnni), bits: Bits<'_>, kept: &[u8], fill: u8, x: &[i8]) -> (i32, i32) {
    // SAFETY: both tokens exist, so the CPU has the instructions.
    unsafe { sums(bits, kept, fill, x) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,avx512vnni,popcnt,bmi1,bmi2")]
fn sums(bits: Bits<'_>, kept: &[u8], fill: u8, x: &[i8]) -> (i32, i32) {
    let spread = _mm512_set1_epi8(fill as i8);
    let mut sums = [_mm512_setzero_si512(); 2];
    let (whole, mut rest) = (bits.whole(), kept);
    for (i, x) in x.as_chunks::<WORD>().0.iter().enumerate().take(bits.len()) {
        let word = whole.get(i).map_or_else(|| bits.word(i), |word| *word);
        let (next, count) = next(word, rest);
        // SAFETY: an array of 64 bytes.
        let x = unsafe { _mm512_loadu_si512(x.as_ptr().cast()) };
        // Side by side: a sum must wait for the one before it.
        sums[0] = _mm512_dpbusd_epi32(sums[0], _mm512_mask_expand_epi8(spread, word, next), x);
        sums.swap(0, 1);
        rest = &rest[count..];
    }
    let own = &kept[..kept.len() - rest.len()];
    let mut of_kept = _mm512_setzero_si512();
    for bytes in own.chunks(WORD) {
        // SAFETY: nothing is read but the bytes that there are.
        let bytes = unsafe { _mm512_maskz_loadu_epi8(lowest(bytes.len()), bytes.as_ptr().cast()) };
        of_kept = _mm512_add_epi64(of_kept, _mm512_sad_epu8(bytes, _mm512_setzero_si512()));
    }
    let of_pruned = (bits.cols - own.len()) as i32 * i32::from(fill);
    let of_kept = _mm512_reduce_add_epi64(of_kept) as i32;
    (_mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1])), of_kept + of_pruned)
}

/// The lowest `n` bits, up to 64.
#[inline]
fn lowest(n: usize) -> u64 {
    u64::MAX.checked_shr(64 - n as u32).unwrap_or(0)
}
