//! Kept bytes to their places, 64 entries at a time.
#![allow(unsafe_code)]

use super::{Bits, WORD};
use crate::kernels::cpu::Vbmi2;
use std::arch::x86_64::{
    _MM_HINT_T0, _mm_prefetch, _mm512_loadu_si512, _mm512_mask_expand_epi8, _mm512_mask_storeu_epi8,
    _mm512_maskz_loadu_epi8, _mm512_set1_epi8, _mm512_storeu_si512,
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
        let count = (word.count_ones() as usize).min(kept.len());
        _mm_prefetch::<_MM_HINT_T0>(kept.as_ptr().wrapping_add(AHEAD).cast());
        // SAFETY: nothing is read but 64 bytes, or the first `count`, where there are as many.
        let next = unsafe {
            match kept.len() {
                WORD.. => _mm512_loadu_si512(kept.as_ptr().cast()),
                _ => _mm512_maskz_loadu_epi8(lowest(count), kept.as_ptr().cast()),
            }
        };
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

/// The lowest `n` bits, up to 64.
#[inline]
fn lowest(n: usize) -> u64 {
    u64::MAX.checked_shr(64 - n as u32).unwrap_or(0)
}
