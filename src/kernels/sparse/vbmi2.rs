//! Kept bytes to their places, or what is at their places to them, 64 entries at a time.
#![allow(unsafe_code)]

use super::lanes::fetch;
use super::{Bits, WORD, two_of_four};
use crate::kernels::cpu::{Vbmi2, Vnni};
use bytemuck::NoUninit;
use std::arch::x86_64::{
    __m512i, _bzhi_u64, _mm512_add_epi32, _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_mask_expand_epi8,
    _mm512_mask_storeu_epi8, _mm512_maskz_compress_epi8, _mm512_maskz_loadu_epi8, _mm512_mullo_epi32,
    _mm512_reduce_add_epi32, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_storeu_si512,
    _mm512_sub_epi32,
};

/// Words that are gone through at a time.
const GROUP: usize = 4;

/// See [`expand_bytes`](super::expand_bytes).
pub(super) fn expand(cpu: Vbmi2, bits: Bits<'_>, kept: &[u8], fill: u8, out: &mut [u8]) {
    let done = two_of_four::expand(cpu, bits.whole(), kept, fill, out);
    // SAFETY: a `Vbmi2` exists, so the CPU has the instructions.
    unsafe { words(bits, kept, fill, out, done) }
}

/// From word `first` on: each before it keeps half of its entries.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt,bmi1,bmi2")]
fn words(bits: Bits<'_>, kept: &[u8], fill: u8, out: &mut [u8], first: usize) {
    let fill = _mm512_set1_epi8(fill as i8);
    let (mut at, mut done) = (first * WORD / 2, first);
    let groups = out[first * WORD..].as_chunks_mut::<{ GROUP * WORD }>().0;
    for (words, out) in bits.whole()[first..].as_chunks::<GROUP>().0.iter().zip(groups) {
        let Some(next) = kept[at..].first_chunk() else { break };
        at += spread(words, next, fill, out);
        done += GROUP;
    }
    for (i, out) in out.chunks_mut(WORD).enumerate().skip(done) {
        let word = bits.word(i);
        let (next, count) = next(word, &kept[at..]);
        let entries = _mm512_mask_expand_epi8(fill, word, next);
        // SAFETY: nothing is written but the bytes that there are, 64 of them or as many as the mask has.
        unsafe {
            match out.len() {
                WORD => _mm512_storeu_si512(out.as_mut_ptr().cast(), entries),
                len => _mm512_mask_storeu_epi8(out.as_mut_ptr().cast(), lowest(len), entries),
            }
        }
        at += count;
    }
}

/// Spreads what some words keep, and says how many bytes that is.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt")]
fn spread(
    words: &[u64; GROUP],
    kept: &[u8; GROUP * WORD],
    fill: __m512i,
    out: &mut [u8; GROUP * WORD],
) -> usize {
    let mut at = 0;
    for (word, out) in words.iter().zip(out.as_chunks_mut::<WORD>().0) {
        fetch(kept.as_ptr().wrapping_add(at));
        // SAFETY: each word before this one has kept at most 64 bytes, so that as many are left; 64 are written.
        unsafe {
            let next = _mm512_loadu_si512(kept.as_ptr().add(at).cast());
            _mm512_storeu_si512(out.as_mut_ptr().cast(), _mm512_mask_expand_epi8(fill, *word, next));
        }
        at += word.count_ones() as usize;
    }
    at
}

/// The kept bytes of a word, and how many they are; others may follow them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,popcnt,bmi2")]
fn next(word: u64, kept: &[u8]) -> (__m512i, usize) {
    let count = (word.count_ones() as usize).min(kept.len());
    fetch(kept.as_ptr());
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
pub(super) fn dot(_: (Vbmi2, Vnni), bits: Bits<'_>, kept: &[u8], grid: (u8, i32), x: &[i8]) -> i32 {
    // SAFETY: both tokens exist, so the CPU has the instructions.
    unsafe { sum(bits, kept, grid, x) }
}

/// The inputs of kept entries are brought together, and not codes apart: so both are short where few are kept.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,avx512vnni,popcnt,bmi1,bmi2")]
fn sum(bits: Bits<'_>, kept: &[u8], (zero, offset): (u8, i32), x: &[i8]) -> i32 {
    let x = x.as_chunks::<WORD>().0;
    let mut sums = Sums { products: [_mm512_setzero_si512(); 2], inputs: [_mm512_setzero_si512(); 2] };
    let (mut at, mut done) = (0, 0);
    for (words, x) in bits.whole().as_chunks::<GROUP>().0.iter().zip(x.as_chunks::<GROUP>().0) {
        let Some(next) = kept[at..].first_chunk() else { break };
        at += sums.group(words, next, x);
        done += GROUP;
    }
    for (i, x) in (done..bits.len()).zip(&x[done..]) {
        let word = bits.word(i);
        let (codes, count) = next(word, &kept[at..]);
        sums.add(codes, _mm512_maskz_compress_epi8(word, load(x)));
        at += count;
    }
    let [products, inputs] = [sums.products, sums.inputs].map(|[a, b]| _mm512_add_epi32(a, b));
    total([products, inputs, sum_of(&kept[..at])], at, (zero, offset))
}

/// The sum of bytes, in lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,bmi2")]
pub(super) fn sum_of(bytes: &[u8]) -> __m512i {
    let (mut sums, ones) = ([_mm512_setzero_si512(); 2], _mm512_set1_epi8(1));
    let (vectors, rest) = bytes.as_chunks::<WORD>();
    for bytes in vectors {
        sums = [sums[1], _mm512_dpbusd_epi32(sums[0], load(bytes), ones)];
    }
    // SAFETY: nothing is read but the bytes that there are.
    let rest = unsafe { _mm512_maskz_loadu_epi8(lowest(rest.len()), rest.as_ptr().cast()) };
    _mm512_add_epi32(sums[1], _mm512_dpbusd_epi32(sums[0], rest, ones))
}

/// The sum of `(code - zero) * (x + offset)` of some codes from those of `code * x`, of `x` and of `code`, in lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn total([products, inputs, codes]: [__m512i; 3], count: usize, (zero, offset): (u8, i32)) -> i32 {
    let (zero, all) = (i32::from(zero), _mm512_set1_epi32);
    let less = _mm512_mullo_epi32(all(zero), inputs);
    let more = _mm512_mullo_epi32(all(offset), codes);
    let sums = _mm512_add_epi32(_mm512_sub_epi32(products, less), more);
    // The whole is exact, whatever is in between.
    _mm512_reduce_add_epi32(sums).wrapping_sub(offset.wrapping_mul(zero).wrapping_mul(count as i32))
}

/// Side by side: a sum must wait for the one before it.
struct Sums {
    products: [__m512i; 2],
    inputs: [__m512i; 2],
}

impl Sums {
    /// Adds the products of codes, more of which may follow, with inputs that are followed by zeros.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn add(&mut self, codes: __m512i, x: __m512i) {
        self.products[0] = _mm512_dpbusd_epi32(self.products[0], codes, x);
        self.inputs[0] = _mm512_dpbusd_epi32(self.inputs[0], _mm512_set1_epi8(1), x);
        self.products.swap(0, 1);
        self.inputs.swap(0, 1);
    }

    /// Adds some words, and says how many bytes they keep.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,avx512vnni,popcnt")]
    fn group(&mut self, words: &[u64; GROUP], kept: &[u8; GROUP * WORD], x: &[[i8; WORD]; GROUP]) -> usize {
        let mut at = 0;
        for (word, x) in words.iter().zip(x) {
            fetch(kept.as_ptr().wrapping_add(at));
            // SAFETY: each word before this one has kept at most 64 bytes, so that as many are left.
            let codes = unsafe { _mm512_loadu_si512(kept.as_ptr().add(at).cast()) };
            self.add(codes, _mm512_maskz_compress_epi8(*word, load(x)));
            at += word.count_ones() as usize;
        }
        at
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load<T: NoUninit>(x: &[T; WORD]) -> __m512i {
    const { assert!(size_of::<T>() == 1) };
    // SAFETY: 64 values of a byte.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

/// The lowest `n` bits, all from 64 on: of up to 255.
#[inline]
#[target_feature(enable = "bmi2")]
pub(super) fn lowest(n: usize) -> u64 {
    _bzhi_u64(u64::MAX, n as u32)
}
