//! Kept values to their places, eight entries at a time: a byte of a mask says where each of eight lanes
//! comes from.

use super::lanes::{fetch, products};
use super::{Bits, WORD, dot, expand, two_of_four_avx2};
use crate::kernels::cpu::Avx2;
use std::arch::x86_64::{
    __m256, __m256i, _mm_blendv_epi8, _mm_cvtsi64_si128, _mm_cvtsi128_si64, _mm_set1_epi8, _mm_shuffle_epi8,
    _mm256_add_ps, _mm256_blendv_ps, _mm256_castsi256_ps, _mm256_cvtepu8_epi32, _mm256_fmadd_ps,
    _mm256_permutevar8x32_ps, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps, _mm256_sllv_epi32,
};

/// For each byte of a mask, which of the next kept values each lane takes; 0 where it takes none.
static FLOATS: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut lane, mut taken) = (0, 0);
        while lane < 8 {
            if byte >> lane & 1 == 1 {
                table[byte] |= taken << (8 * lane);
                taken += 1;
            }
            lane += 1;
        }
        byte += 1;
    }
    table
};

/// The same for bytes; 0x80 where a lane takes none.
static BYTES: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut lane, mut taken) = (0, 0);
        while lane < 8 {
            if byte >> lane & 1 == 1 {
                table[byte] |= taken << (8 * lane);
                taken += 1;
            } else {
                table[byte] |= 0x80 << (8 * lane);
            }
            lane += 1;
        }
        byte += 1;
    }
    table
};

#[allow(unsafe_code)]
pub fn expand_floats(_: Avx2, bits: Bits<'_>, kept: &[f32], out: &mut [f32]) {
    // SAFETY: an `Avx2` exists, so the CPU has the instructions.
    unsafe { floats(bits, kept, out) }
}

#[allow(unsafe_code)]
pub fn expand_bytes(cpu: Avx2, bits: Bits<'_>, kept: &[u8], fill: u8, out: &mut [u8]) {
    let done = two_of_four_avx2::expand(cpu, bits.whole(), kept, fill, out);
    // SAFETY: an `Avx2` exists, so the CPU has the instructions.
    unsafe { spread(bits, done, &kept[done * WORD / 2..], fill, out) }
}

#[allow(unsafe_code)]
pub fn dot_row(_: Avx2, bits: Bits<'_>, kept: &[f32], x: &[f32]) -> f32 {
    // SAFETY: an `Avx2` exists, so the CPU has the instructions.
    unsafe { sum(bits, kept, x) }
}

/// `out` plus the sums of kept values with the rows of `x` at their places, of `V` vectors each; `S` values go on
/// side by side, as a sum must wait for the one before it.
#[allow(unsafe_code)]
pub fn add_products<const V: usize, const S: usize>(
    _: Avx2,
    places: &[u16],
    kept: &[f32],
    x: &[f32],
    out: &mut [f32],
) {
    // SAFETY: an `Avx2` exists, so the CPU has the instructions.
    unsafe { add::<V, S>(places, kept, x, out) }
}

products! {
    #[target_feature(enable = "avx2,fma")]
    add, 8, _mm256_setzero_ps, _mm256_set1_ps, load, _mm256_fmadd_ps, _mm256_add_ps, bytemuck::cast::<_, [f32; 8]>
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(x: &[f32; 8]) -> __m256 {
    bytemuck::cast(*x)
}

/// Calls `f(j, byte, mask, kept)` for each byte of a word, with the sign bits of `mask` as its bits, and the
/// eight kept values that come next.
#[inline]
#[target_feature(enable = "avx2,fma,popcnt")]
fn bytes<'a, T>(word: u64, kept: &'a [T; WORD], mut f: impl FnMut(usize, u8, __m256i, &'a [T; 8])) {
    let shifts: [__m256i; 4] = std::array::from_fn(|j| {
        bytemuck::cast(std::array::from_fn::<u32, 8, _>(|lane| (31 - 8 * j - lane) as u32))
    });
    // Two lines of floats: half of a word's.
    fetch(kept);
    fetch(&kept[WORD / 4]);
    let mut at = 0;
    for half in 0..2 {
        let half_word = _mm256_set1_epi32((word >> (32 * half)) as i32);
        for (j, shift) in shifts.iter().enumerate() {
            let j = 4 * half + j;
            let byte = (word >> (8 * j)) as u8;
            // SAFETY: no byte has more than eight bits, so at most 8 * j values lie before, for j up to 7.
            #[allow(unsafe_code)]
            let next = unsafe { &*kept.as_ptr().add(at).cast::<[T; 8]>() };
            f(j, byte, _mm256_sllv_epi32(half_word, *shift), next);
            at += byte.count_ones() as usize;
        }
    }
}

/// Eight entries.
#[inline]
#[target_feature(enable = "avx2,fma,popcnt")]
fn entries(byte: u8, mask: __m256i, kept: &[f32; 8]) -> __m256 {
    let kept: __m256 = bytemuck::cast(*kept);
    let from = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(FLOATS[usize::from(byte)] as i64));
    let moved = _mm256_permutevar8x32_ps(kept, from);
    _mm256_blendv_ps(_mm256_setzero_ps(), moved, _mm256_castsi256_ps(mask))
}

#[target_feature(enable = "avx2,fma,popcnt")]
fn floats(bits: Bits<'_>, mut kept: &[f32], out: &mut [f32]) {
    for (i, out) in out.chunks_mut(WORD).enumerate() {
        let word = bits.word(i);
        match (kept.first_chunk(), out.as_chunks_mut::<8>().0) {
            (Some(kept), out @ [_, _, _, _, _, _, _, _]) => bytes(word, kept, |j, byte, mask, kept| {
                out[j] = bytemuck::cast(entries(byte, mask, kept));
            }),
            _ => expand::word(word, kept, 0.0, out),
        }
        kept = &kept[kept.len().min(word.count_ones() as usize)..];
    }
}

/// From word `first` on.
#[target_feature(enable = "avx2,fma,popcnt")]
fn spread(bits: Bits<'_>, first: usize, mut kept: &[u8], fill: u8, out: &mut [u8]) {
    let fills = _mm_set1_epi8(fill as i8);
    for (i, out) in out.chunks_mut(WORD).enumerate().skip(first) {
        let word = bits.word(i);
        match (kept.first_chunk(), out.as_chunks_mut::<8>().0) {
            (Some(kept), out @ [_, _, _, _, _, _, _, _]) => bytes(word, kept, |j, byte, _, kept| {
                let from = _mm_cvtsi64_si128(BYTES[usize::from(byte)] as i64);
                let kept = _mm_cvtsi64_si128(i64::from_le_bytes(*kept));
                let moved = _mm_blendv_epi8(_mm_shuffle_epi8(kept, from), fills, from);
                out[j] = _mm_cvtsi128_si64(moved).to_le_bytes();
            }),
            _ => expand::word(word, kept, fill, out),
        }
        kept = &kept[kept.len().min(word.count_ones() as usize)..];
    }
}

#[target_feature(enable = "avx2,fma,popcnt")]
fn sum(bits: Bits<'_>, mut kept: &[f32], x: &[f32]) -> f32 {
    let (mut even, mut odd, mut last) = (_mm256_setzero_ps(), _mm256_setzero_ps(), 0.0);
    for (i, x) in x.chunks(WORD).enumerate() {
        let word = bits.word(i);
        match (kept.first_chunk(), x.as_chunks::<8>().0) {
            (Some(kept), x @ [_, _, _, _, _, _, _, _]) => bytes(word, kept, |j, byte, mask, kept| {
                let entries = entries(byte, mask, kept);
                let sum = if j % 2 == 0 { &mut even } else { &mut odd };
                *sum = _mm256_fmadd_ps(entries, bytemuck::cast(x[j]), *sum);
            }),
            _ => last += dot::word(word, kept, x),
        }
        kept = &kept[kept.len().min(word.count_ones() as usize)..];
    }
    let lanes: [f32; 8] = bytemuck::cast(_mm256_add_ps(even, odd));
    lanes.iter().sum::<f32>() + last
}
