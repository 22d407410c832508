//! Rows that keep two of each four entries: 128 entries of a mask tell at once where the inputs of 64 kept ones are.
#![allow(unsafe_code)]

use super::lanes::fetch;
use super::vbmi2::{load, total};
use super::{Bits, WORD};
use crate::kernels::cpu::{Vbmi2, Vnni};
use std::arch::x86_64::{
    __m512i, _mm_loadu_si128, _mm256_loadu_si256, _mm512_add_epi8, _mm512_add_epi32, _mm512_castsi256_si512,
    _mm512_cvtepu16_epi64, _mm512_dpbusd_epi32, _mm512_mask_permutexvar_epi8, _mm512_movepi8_mask,
    _mm512_multishift_epi64_epi8, _mm512_or_si512, _mm512_permutex2var_epi8, _mm512_permutexvar_epi8,
    _mm512_set1_epi8, _mm512_set1_epi16, _mm512_setzero_si512, _mm512_storeu_si512,
    _mm512_ternarylogic_epi32,
};

/// Entries that are kept of [`ENTRIES`] ones: as many bytes as a vector has.
const KEPT: usize = 64;
const ENTRIES: usize = 2 * KEPT;
/// Entries of a group.
const GROUP: usize = 4;

/// See [`ByteDots::sum`](super::ByteDots::sum); `None` where not each four entries keep two, or the row is not made of
/// whole vectors.
pub(super) fn dot(_: (Vbmi2, Vnni), bits: Bits<'_>, kept: &[u8], grid: (u8, i32), x: &[i8]) -> Option<i32> {
    let (words, codes) = (vectors(bits)?, kept.get(..bits.cols / 2)?);
    // SAFETY: both tokens exist, so the CPU has the instructions.
    unsafe {
        let sums = sums(words, codes.as_chunks().0, bytemuck::cast_slice(x).as_chunks().0)?;
        Some(total(sums, codes.len(), grid))
    }
}

/// The bits of a row that is made of whole vectors, and begins with two of each four entries: most rows that are pruned
/// otherwise do not.
pub(super) fn vectors(bits: Bits<'_>) -> Option<&[[u64; 2]]> {
    let (words, rest) = bits.whole().as_chunks::<2>();
    let whole = rest.is_empty() && words.len() * ENTRIES == bits.cols;
    let begun = words.first().is_none_or(|[first, _]| keeps_two_of_four(*first));
    Some(words).filter(|_| whole && begun)
}

/// Each lowest bit of two, and of four.
const PAIRS: u64 = u64::MAX / 0b11;
const FOURS: u64 = u64::MAX / 0b1111;

#[inline(always)]
pub(super) fn keeps_two_of_four(word: u64) -> bool {
    let counts = word - (word >> 1 & PAIRS);
    let counts = (counts & (3 * FOURS)) + (counts >> 2 & (3 * FOURS));
    counts == 2 * FOURS
}

/// The last bit of each four that keep two.
#[inline(always)]
pub(super) fn lasts(word: u64) -> u64 {
    // No group is empty, so none borrows from the next one: its lowest bit goes.
    word & (word - FOURS)
}

/// For four bits the place of the first one of two, and from 16 on of the second one.
pub(super) static PLACES: [u8; 64] = {
    let mut places = [0; 64];
    let mut bits = 0_u8;
    while bits < 16 {
        let two = bits.count_ones() == 2;
        places[bits as usize] = if two { bits.trailing_zeros() as u8 } else { OTHER };
        places[bits as usize + 16] = if two { 7 - bits.leading_zeros() as u8 } else { OTHER };
        bits += 1;
    }
    places
};
/// Where there are not two: a bit that does not count in a place among 128.
const OTHER: u8 = 0x80;
/// For eight kept entries the first one of their group, of 16, which is where its bits begin, too.
pub(super) static GROUPS: [u8; KEPT] = {
    let mut groups = [0; KEPT];
    let mut i = 0;
    while i < KEPT {
        groups[i] = (i % 8 / 2 * GROUP) as u8;
        i += 1;
    }
    groups
};
/// The first entry of the group of each kept one.
static FIRSTS: [u8; KEPT] = {
    let mut firsts = [0; KEPT];
    let mut i = 0;
    while i < KEPT {
        firsts[i] = (i / 2 * GROUP) as u8;
        i += 1;
    }
    firsts
};

/// Spreads the kept bytes of whole words, up to the first one that does not keep two of each four: how many words
/// these are.
pub(super) fn expand(_: Vbmi2, words: &[u64], kept: &[u8], fill: u8, out: &mut [u8]) -> usize {
    // SAFETY: a `Vbmi2` exists, so the CPU has the instructions.
    unsafe { spread(words, kept.as_chunks().0, fill, out.as_chunks_mut().0) }
}

/// For each entry the first kept one of its group.
pub(super) static FIRST_KEPT: [u8; WORD] = {
    let mut places = [0; WORD];
    let mut i = 0;
    while i < WORD {
        places[i] = (i / GROUP * 2) as u8;
        i += 1;
    }
    places
};

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx2,popcnt,bmi1,bmi2")]
fn spread(words: &[u64], kept: &[[u8; WORD / 2]], fill: u8, out: &mut [[u8; WORD]]) -> usize {
    let fill = _mm512_set1_epi8(fill as i8);
    let first = load(&FIRST_KEPT);
    let last = _mm512_add_epi8(first, _mm512_set1_epi8(1));
    for (i, ((word, kept), out)) in words.iter().zip(kept).zip(&mut *out).enumerate() {
        fetch(kept);
        if !keeps_two_of_four(*word) {
            return i;
        }
        let lasts = lasts(*word);
        // SAFETY: 32 bytes.
        let kept = _mm512_castsi256_si512(unsafe { _mm256_loadu_si256(kept.as_ptr().cast()) });
        let entries = _mm512_mask_permutexvar_epi8(fill, word ^ lasts, first, kept);
        let entries = _mm512_mask_permutexvar_epi8(entries, lasts, last, kept);
        // SAFETY: room for 64 bytes.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), entries) };
    }
    words.len().min(kept.len()).min(out.len())
}

/// The sums of products, of inputs and of codes, in lanes.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
fn sums(words: &[[u64; 2]], codes: &[[u8; KEPT]], x: &[[[u8; KEPT]; 2]]) -> Option<[__m512i; 3]> {
    let (shifts, firsts, places) = (load(&GROUPS), load(&FIRSTS), load(&PLACES));
    let (low, second, one) = (_mm512_set1_epi8(15), _mm512_set1_epi16(16 << 8), _mm512_set1_epi8(1));
    // Side by side: a sum must wait for the one before it.
    let (mut products, mut inputs) = ([_mm512_setzero_si512(); 2], [_mm512_setzero_si512(); 2]);
    let (mut of_codes, mut all) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    for ((words, next), [a, b]) in words.iter().zip(codes).zip(x) {
        fetch(next);
        fetch(words);
        // SAFETY: the array holds the 16 bytes that are read; the load takes any alignment.
        let words = unsafe { _mm_loadu_si128(words.as_ptr().cast()) };
        let codes = load(next);
        let groups = _mm512_multishift_epi64_epi8(shifts, _mm512_cvtepu16_epi64(words));
        // Those of `low` in `groups`, and all of `second`.
        let groups = _mm512_ternarylogic_epi32::<0b11101010>(groups, low, second);
        let found = _mm512_permutexvar_epi8(groups, places);
        all = _mm512_or_si512(all, found);
        let x = _mm512_permutex2var_epi8(load(a), _mm512_or_si512(found, firsts), load(b));
        products[0] = _mm512_dpbusd_epi32(products[0], codes, x);
        inputs[0] = _mm512_dpbusd_epi32(inputs[0], one, x);
        of_codes = _mm512_dpbusd_epi32(of_codes, codes, one);
        products.swap(0, 1);
        inputs.swap(0, 1);
    }
    let [products, inputs] = [products, inputs].map(|[a, b]| _mm512_add_epi32(a, b));
    (_mm512_movepi8_mask(all) == 0).then_some([products, inputs, of_codes])
}
