//! Rows that keep two of each four entries, on CPUs without AVX-512: tables of 16 tell where kept entries are, for 32
//! of them at a time.
#![allow(unsafe_code)]

use super::lanes::fetch;
use super::two_of_four::{FIRST_KEPT, GROUPS, PLACES, keeps_two_of_four, lasts, vectors};
use super::{Bits, WORD};
use crate::kernels::cpu::Avx2;
use crate::kernels::memory::Aligned;
use std::arch::x86_64::{
    __m128i, __m256i, _mm256_add_epi32, _mm256_and_si256, _mm256_blend_epi32, _mm256_blendv_epi8,
    _mm256_broadcastsi128_si256, _mm256_cmpeq_epi8, _mm256_madd_epi16, _mm256_movemask_epi8, _mm256_or_si256,
    _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_epi64x, _mm256_setzero_si256,
    _mm256_shuffle_epi8, _mm256_slli_epi16, _mm256_srli_epi16, _mm256_sub_epi8, _mm256_sub_epi16,
    _mm256_unpackhi_epi8, _mm256_unpacklo_epi8,
};

/// Bytes of a vector, and entries that half of them keep.
const LANES: usize = 32;
const HALF: usize = LANES / 2;

/// The inputs of [`WORD`] entries, of which [`LANES`] are kept: the first and the third 16, then the others.
type Inputs = [[u8; LANES]; 2];

/// The input as [`dot`] wants it: unsigned, and with the second and the third 16 of each 64 codes swapped, so that a
/// lane of two vectors has those of 16 kept entries that follow each other.
pub(super) fn sorted(x: &[i8]) -> Aligned<u8> {
    let mut sorted = Aligned::new(x.len());
    sorted.get_mut().iter_mut().zip(x).for_each(|(to, x)| *to = (*x as u8) ^ (1 << 7));
    sorted.get_mut().as_chunks_mut::<HALF>().0.as_chunks_mut().0.iter_mut().for_each(|[_, a, b, _]| {
        std::mem::swap(a, b);
    });
    sorted
}

/// See [`ByteDots::sum`](super::ByteDots::sum), for a [`sorted`] input; `None` where not each four entries keep two, or
/// the row is not made of whole vectors.
pub(super) fn dot(_: Avx2, bits: Bits<'_>, kept: &[u8], grid: (u8, i32), x: &[u8]) -> Option<i32> {
    let (words, codes) = (vectors(bits)?, kept.get(..bits.cols / 2)?);
    let (codes, x) = (codes.as_chunks().0, x.as_chunks().0.as_chunks().0.as_chunks().0);
    // SAFETY: an `Avx2` exists, so the CPU has the instructions.
    unsafe { sum(words, codes.as_chunks().0, grid, x) }
}

/// Spreads the kept bytes of whole words, up to the first one that does not keep two of each four: how many words
/// these are.
pub(super) fn expand(_: Avx2, words: &[u64], kept: &[u8], fill: u8, out: &mut [u8]) -> usize {
    let (kept, out) = (kept.as_chunks().0.as_chunks().0, out.as_chunks_mut().0.as_chunks_mut().0);
    // SAFETY: an `Avx2` exists, so the CPU has the instructions.
    unsafe { spread(words, kept, fill, out) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(x: &[u8; LANES]) -> __m256i {
    bytemuck::cast(*x)
}

/// The same 16 bytes in both lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn twice(x: &[u8; HALF]) -> __m256i {
    _mm256_broadcastsi128_si256(bytemuck::cast::<_, __m128i>(*x))
}

/// Which of 16 bytes of a mask each lane has, with a zero after each: those of the first and the third eight groups in
/// the one, the others in the other.
static ORDER: [u8; LANES] = {
    let mut order = [0x80; LANES];
    let mut byte = 0;
    while byte < 16 {
        order[byte / 4 % 2 * HALF + (byte / 8 * 4 + byte % 4) * 2] = byte as u8;
        byte += 1;
    }
    order
};

/// For the kept entries of two words where their inputs are among those of 16 entries; `all` gets a highest bit where
/// four do not keep two.
#[inline]
#[target_feature(enable = "avx2")]
fn places(words: &[u64; 2], all: &mut __m256i) -> [__m256i; 2] {
    let bytes = _mm256_shuffle_epi8(twice(bytemuck::cast_ref(words)), load(&ORDER));
    // Four bits in each byte, of each group in turn.
    let groups = _mm256_or_si256(bytes, _mm256_slli_epi16::<4>(bytes));
    let groups = _mm256_and_si256(groups, _mm256_set1_epi8(15));
    let [first, second] = [0, 1].map(|i| _mm256_shuffle_epi8(twice(&PLACES.as_chunks().0[i]), groups));
    *all = _mm256_or_si256(*all, first);
    [_mm256_unpacklo_epi8(first, second), _mm256_unpackhi_epi8(first, second)]
        .map(|places| _mm256_or_si256(places, load(&GROUPS.as_chunks().0[0])))
}

#[target_feature(enable = "avx2")]
fn sum(
    words: &[[u64; 2]],
    codes: &[[[u8; LANES]; 2]],
    (zero, offset): (u8, i32),
    x: &[[Inputs; 2]],
) -> Option<i32> {
    // An input that is unsigned and less this is `x + offset`.
    let (zero, less) = (_mm256_set1_epi16(i16::from(zero)), _mm256_set1_epi16((128 - offset) as i16));
    let low = _mm256_set1_epi16(0xff);
    let mut all = _mm256_setzero_si256();
    // Side by side: a sum must wait for the one before it.
    let mut sums = [_mm256_setzero_si256(); 4];
    for ((words, codes), x) in words.iter().zip(codes).zip(x) {
        fetch(codes);
        fetch(words);
        let places = places(words, &mut all);
        for i in 0..2 {
            let [a, b] = x[i].each_ref().map(|x| _mm256_shuffle_epi8(load(x), places[i]));
            let (x, codes) = (_mm256_blend_epi32::<0b11001100>(a, b), load(&codes[i]));
            // Widened: two products of bytes may add up to more than 16 bits hold.
            let even = [_mm256_and_si256(codes, low), _mm256_and_si256(x, low)];
            let odd = [_mm256_srli_epi16::<8>(codes), _mm256_srli_epi16::<8>(x)];
            for (sum, [codes, x]) in sums[2 * i..].iter_mut().zip([even, odd]) {
                let (codes, x) = (_mm256_sub_epi16(codes, zero), _mm256_sub_epi16(x, less));
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(codes, x));
            }
        }
    }
    let [a, b, c, d] = sums;
    let sums = _mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d));
    let sum = bytemuck::cast::<_, [i32; 8]>(sums).into_iter().sum();
    (_mm256_movemask_epi8(all) == 0).then_some(sum)
}

/// The byte of 32 bits that has the one of each entry.
static BYTES: [u8; LANES] = {
    let mut bytes = [0; LANES];
    let mut i = 0;
    while i < LANES {
        bytes[i] = (i / 8) as u8;
        i += 1;
    }
    bytes
};

/// Bytes of ones where there are bits.
#[inline]
#[target_feature(enable = "avx2")]
fn ones(bits: u32) -> __m256i {
    let own = _mm256_set1_epi64x(i64::from_le_bytes([1, 2, 4, 8, 16, 32, 64, 128]));
    let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(bits as i32), load(&BYTES));
    _mm256_cmpeq_epi8(_mm256_and_si256(bytes, own), own)
}

#[target_feature(enable = "avx2,popcnt,bmi1,bmi2")]
fn spread(words: &[u64], kept: &[[[u8; HALF]; 2]], fill: u8, out: &mut [[[u8; LANES]; 2]]) -> usize {
    let fill = _mm256_set1_epi8(fill as i8);
    let first = load(&FIRST_KEPT.as_chunks().0[0]);
    for (i, ((word, kept), out)) in words.iter().zip(kept).zip(&mut *out).enumerate() {
        fetch(kept);
        if !keeps_two_of_four(*word) {
            return i;
        }
        let lasts = lasts(*word);
        for half in 0..2 {
            let [on, last] = [*word, lasts].map(|word| ones((word >> (WORD / 2 * half)) as u32));
            // One more where there are ones: minus one.
            let entries = _mm256_shuffle_epi8(twice(&kept[half]), _mm256_sub_epi8(first, last));
            out[half] = bytemuck::cast(_mm256_blendv_epi8(fill, entries, on));
        }
    }
    words.len().min(kept.len()).min(out.len())
}
