//! Places from masks of AVX-512: 64 bits of a mask become places in one instruction (VBMI2).
//!
//! Values are better spread by the tables of AVX2: the instruction of this set that does it (`expand`) takes several
//! times as long as one that compresses.

use super::lanes::{fetch, products};
use super::{Bits, WORD, dot};
use crate::kernels::cpu::Vbmi2;
use std::arch::x86_64::{
    __m512, __m512i, _bzhi_u32, _mm_loadu_si128, _mm256_add_epi16, _mm256_cvtepu8_epi16, _mm256_set1_epi16,
    _mm256_setzero_si256, _mm256_storeu_si256, _mm512_add_ps, _mm512_castsi512_si128, _mm512_cvtepi32_ps,
    _mm512_cvtepu8_epi32, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_blend_ps,
    _mm512_mask3_fmadd_ps, _mm512_maskz_compress_epi8, _mm512_permutex2var_ps, _mm512_reduce_add_ps,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_shuffle_i64x2, _mm512_storeu_ps,
    _mm512_sub_epi32, _mm512_test_epi32_mask,
};

/// Numbers of a vector.
const LANES: usize = 16;

#[allow(unsafe_code)]
pub fn dot_floats(_: Vbmi2, bits: Bits<'_>, kept: &[f32], x: &[f32]) -> f32 {
    // SAFETY: a `Vbmi2` exists, so the CPU has the instructions.
    unsafe { sum_floats(bits, kept, x) }
}

/// The sum of `(code - zero) * x`.
#[allow(unsafe_code)]
pub fn dot_codes(_: Vbmi2, bits: Bits<'_>, codes: &[u8], zero: u8, x: &[f32]) -> f32 {
    // SAFETY: a `Vbmi2` exists, so the CPU has the instructions.
    unsafe { sum_codes(bits, codes, zero, x) }
}

#[allow(unsafe_code)]
pub fn places(_: Vbmi2, bits: Bits<'_>, out: &mut [u16]) -> usize {
    // SAFETY: a `Vbmi2` exists, so the CPU has the instructions.
    unsafe { all_places(bits, out) }
}

/// See [`avx2::add_products`](super::avx2::add_products).
#[allow(unsafe_code)]
pub fn add_products<const V: usize, const S: usize>(
    _: Vbmi2,
    places: &[u16],
    kept: &[f32],
    x: &[f32],
    out: &mut [f32],
) {
    // SAFETY: a `Vbmi2` exists, so the CPU has the instructions.
    unsafe { add::<V, S>(places, kept, x, out) }
}

products! {
    #[target_feature(enable = "avx512f")]
    add, LANES, _mm512_setzero_ps, _mm512_set1_ps, load, _mm512_fmadd_ps, _mm512_add_ps, store
}

/// `0, 1, 2, ..`
static BYTES: [u8; 64] = {
    let mut all = [0; 64];
    let mut i = 0;
    while i < 64 {
        all[i] = i as u8;
        i += 1;
    }
    all
};

#[inline]
#[target_feature(enable = "avx512f")]
#[allow(unsafe_code)]
fn load(x: &[f32; LANES]) -> __m512 {
    // SAFETY: the array holds the 64 bytes that are read; the load takes any alignment.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
#[allow(unsafe_code)]
fn store(x: __m512) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    // SAFETY: the array holds the 64 bytes that are written; the store takes any alignment.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), x) };
    out
}

#[inline]
#[target_feature(enable = "avx512f")]
#[allow(unsafe_code)]
fn load_bytes(x: &[u8; 64]) -> __m512i {
    // SAFETY: the array holds the 64 bytes that are read; the load takes any alignment.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

#[target_feature(enable = "avx512vbmi2,popcnt,bmi1,bmi2")]
fn sum_floats(bits: Bits<'_>, kept: &[f32], x: &[f32]) -> f32 {
    sum(bits, kept, x, |kept| load(kept), dot::word)
}

#[target_feature(enable = "avx512vbmi2,popcnt,bmi1,bmi2")]
fn sum_codes(bits: Bits<'_>, codes: &[u8], zero: u8, x: &[f32]) -> f32 {
    let zeros = _mm512_set1_epi32(i32::from(zero));
    let numbers = |codes: &[u8; LANES]| {
        // SAFETY: the array holds the 16 bytes that are read; the load takes any alignment.
        #[allow(unsafe_code)]
        let codes = unsafe { _mm_loadu_si128(codes.as_ptr().cast()) };
        _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_cvtepu8_epi32(codes), zeros))
    };
    sum(bits, codes, x, numbers, |word, codes, x| {
        dot::word_by(word, codes, x, |code| f32::from(*code) - f32::from(zero))
    })
}

/// 64 entries at a time: a mask becomes the places of what is kept, and these pick its inputs.
#[inline]
#[target_feature(enable = "avx512vbmi2,popcnt,bmi1,bmi2")]
fn sum<T>(
    bits: Bits<'_>,
    kept: &[T],
    x: &[f32],
    numbers: impl Fn(&[T; LANES]) -> __m512,
    rest: impl Fn(u64, &[T], &[f32]) -> f32,
) -> f32 {
    let (all, half) = (load_bytes(&BYTES), _mm512_set1_epi32(WORD as i32 / 2));
    let (mut sums, mut at, mut done) = ([_mm512_setzero_ps(); 2], 0, 0);
    let whole = bits.whole();
    for (i, x) in x.as_chunks::<WORD>().0.iter().enumerate() {
        let word = whole.get(i).map_or_else(|| bits.word(i), |word| *word);
        if at + WORD > kept.len() {
            break;
        }
        // SAFETY: that many values are left, as was just asked.
        #[allow(unsafe_code)]
        let next: &[[T; LANES]; 4] = unsafe { &*kept.as_ptr().add(at).cast() };
        let [a, b, c, d] = bytemuck::cast_ref::<_, [[f32; LANES]; 4]>(x).each_ref().map(|x| load(x));
        let mut places = _mm512_maskz_compress_epi8(word, all);
        let mut left = word.count_ones();
        at += left as usize;
        for next in next {
            fetch(next);
            let from = _mm512_cvtepu8_epi32(_mm512_castsi512_si128(places));
            let low = _mm512_permutex2var_ps(a, from, b);
            let high = _mm512_permutex2var_ps(c, from, d);
            let x = _mm512_mask_blend_ps(_mm512_test_epi32_mask(from, half), low, high);
            let own = _bzhi_u32(0xffff, left) as u16;
            sums[0] = _mm512_mask3_fmadd_ps(numbers(next), x, sums[0], own);
            sums.swap(0, 1);
            if left <= LANES as u32 {
                break;
            }
            left -= LANES as u32;
            places = _mm512_shuffle_i64x2::<0b00_11_10_01>(places, places);
        }
        done = i + 1;
    }
    let mut last = 0.0;
    for (i, x) in x.chunks(WORD).enumerate().skip(done) {
        let word = bits.word(i);
        let kept = &kept[at.min(kept.len())..];
        last += rest(word, kept, x);
        at += word.count_ones() as usize;
    }
    _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1])) + last
}

#[target_feature(enable = "avx512vbmi2,popcnt,bmi1,bmi2")]
fn all_places(bits: Bits<'_>, out: &mut [u16]) -> usize {
    let all = load_bytes(&BYTES);
    let whole = bits.whole();
    let (mut first, mut at) = (_mm256_setzero_si256(), 0);
    for i in 0..bits.len() {
        let word = whole.get(i).map_or_else(|| bits.word(i), |word| *word);
        let mut places = _mm512_maskz_compress_epi8(word, all);
        let mut left = word.count_ones() as usize;
        loop {
            let found = _mm256_add_epi16(_mm256_cvtepu8_epi16(_mm512_castsi512_si128(places)), first);
            let to: &mut [u16] = &mut out[at..at + LANES];
            // SAFETY: the slice holds the 32 bytes that are written; the store takes any alignment.
            #[allow(unsafe_code)]
            unsafe {
                _mm256_storeu_si256(to.as_mut_ptr().cast(), found);
            }
            at += left.min(LANES);
            if left <= LANES {
                break;
            }
            left -= LANES;
            places = _mm512_shuffle_i64x2::<0b00_11_10_01>(places, places);
        }
        first = _mm256_add_epi16(first, _mm256_set1_epi16(WORD as i16));
    }
    at
}
