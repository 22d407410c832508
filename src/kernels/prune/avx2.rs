//! The kernels for `f32` with AVX2: compares that become bits by `movmskps`, and moves by a table of
//! permutations. The compiler makes neither from the portable form.

use super::{AHEAD, Magnitude, portable};
use crate::kernels::cpu::Avx2;
use crate::kernels::memory::prefetch;
use std::arch::x86_64::{
    __m256i, _mm_cvtsi64_si128, _mm256_add_epi32, _mm256_and_si256, _mm256_andnot_si256, _mm256_castsi256_ps,
    _mm256_cmpgt_epi32, _mm256_cvtepu8_epi32, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_max_epi32,
    _mm256_movemask_ps, _mm256_permutevar8x32_epi32, _mm256_permutevar8x32_ps, _mm256_set1_epi32,
    _mm256_setr_epi32, _mm256_setzero_si256, _mm256_shuffle_epi32, _mm256_storeu_ps,
};

impl Avx2 {
    #[allow(unsafe_code)]
    pub fn at_least(self, values: &[f32], least: u32, chosen: &mut [u64]) -> bool {
        // SAFETY: an `Avx2` exists, so the CPU has the instructions.
        unsafe { at_least(values, least, chosen) }
    }

    #[allow(unsafe_code)]
    pub fn largest_of_groups(self, values: &[f32], n: usize, m: usize, chosen: &mut [u64]) -> bool {
        // SAFETY: an `Avx2` exists, so the CPU has the instructions.
        unsafe {
            match m {
                2 => largest_of_groups::<2>(values, n, chosen),
                4 => largest_of_fours(values, n, chosen),
                _ => largest_of_groups::<8>(values, n, chosen),
            }
        }
    }

    #[allow(unsafe_code)]
    pub fn tally(self, values: &[f32], low: u32, high: u32, inside: &mut Vec<u32>) -> Option<u64> {
        // SAFETY: an `Avx2` exists, so the CPU has the instructions.
        unsafe { tally(values, low, high, inside) }
    }

    #[allow(unsafe_code)]
    pub fn compact(self, values: &mut [f32], from: usize, chosen: &[u64], to: usize) -> usize {
        // SAFETY: an `Avx2` exists, so the CPU has the instructions.
        unsafe { compact(values, from, chosen, to) }
    }
}

/// Eight magnitudes.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
fn magnitudes(values: &[f32; 8]) -> __m256i {
    // SAFETY: eight values are there to be read; no alignment is asked for.
    #[allow(unsafe_code)]
    let x = unsafe { _mm256_loadu_si256(values.as_ptr().cast()) };
    _mm256_and_si256(x, _mm256_set1_epi32(i32::MAX))
}

/// A bit a lane.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
fn lanes(mask: __m256i) -> u64 {
    _mm256_movemask_ps(_mm256_castsi256_ps(mask)) as u64
}

/// The largest lane.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
fn largest(top: __m256i) -> u32 {
    let lanes: [u32; 8] = bytemuck::cast(top);
    lanes.into_iter().fold(0, u32::max)
}

#[target_feature(enable = "avx2,bmi1,popcnt")]
fn at_least(values: &[f32], least: u32, chosen: &mut [u64]) -> bool {
    let under = _mm256_set1_epi32(least as i32 - 1);
    let mut top = _mm256_setzero_si256();
    let (words, rest) = values.as_chunks::<64>();
    for (values, word) in words.iter().zip(chosen.iter_mut()) {
        prefetch(values, AHEAD);
        let mut bits = 0;
        for (i, values) in values.as_chunks::<8>().0.iter().enumerate() {
            let x = magnitudes(values);
            bits |= lanes(_mm256_cmpgt_epi32(x, under)) << (8 * i);
            top = _mm256_max_epi32(top, x);
        }
        *word = bits;
    }
    let finite = largest(top) < f32::INFINITE;
    let rest = portable::at_least(rest, least, chosen.get_mut(words.len()..).unwrap_or_default());
    finite && rest
}

#[target_feature(enable = "avx2,bmi1,popcnt")]
fn tally(values: &[f32], low: u32, high: u32, inside: &mut Vec<u32>) -> Option<u64> {
    let under_low = _mm256_set1_epi32(low as i32 - 1);
    let above = _mm256_set1_epi32(high as i32);
    let mut top = _mm256_setzero_si256();
    // Minus the number of those that are not below, lane by lane.
    let mut not_below = _mm256_setzero_si256();
    let (words, rest) = values.as_chunks::<64>();
    for values in words {
        let mut bits = 0;
        for (i, values) in values.as_chunks::<8>().0.iter().enumerate() {
            let x = magnitudes(values);
            let from_low = _mm256_cmpgt_epi32(x, under_low);
            not_below = _mm256_add_epi32(not_below, from_low);
            bits |= lanes(_mm256_andnot_si256(_mm256_cmpgt_epi32(x, above), from_low)) << (8 * i);
            top = _mm256_max_epi32(top, x);
        }
        if bits != 0 {
            push_chosen(values, bits, inside);
        }
    }
    if largest(top) >= f32::INFINITE {
        return None;
    }
    let not_below: [u32; 8] = bytemuck::cast(not_below);
    let not_below: u64 = not_below.iter().map(|n| u64::from(n.wrapping_neg())).sum();
    let below = (words.len() * 64) as u64 - not_below;
    Some(below + portable::tally(rest, low, high, inside)?)
}

/// Appends the magnitudes of the chosen ones of 64 values, a few at a time without asking how many there are.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
pub(super) fn push_chosen(values: &[f32; 64], mut bits: u64, out: &mut Vec<u32>) {
    const STEP: usize = 4;
    out.reserve(64 + STEP);
    let mut left = bits.count_ones() as usize;
    loop {
        let free = out.spare_capacity_mut();
        for slot in &mut free[..STEP] {
            slot.write(values[bits.trailing_zeros() as usize & 63].magnitude());
            bits &= bits.wrapping_sub(1);
        }
        let new = left.min(STEP);
        // SAFETY: `STEP` values have just been written behind the last one.
        #[allow(unsafe_code)]
        unsafe {
            out.set_len(out.len() + new);
        }
        left -= new;
        if left == 0 {
            return;
        }
    }
}

/// The bits of the `n` largest of each group of four, from where the `next` of its group, and the `second` next, in
/// a circle, is ranked above a value. The one before it is where the value is not ranked above that one.
#[inline]
pub(super) fn ranked_fours(next: u64, second: u64, n: usize) -> u64 {
    const FIRST: u64 = 0x1111_1111_1111_1111;
    let before = !(next << 1 & !FIRST | next >> 3 & FIRST);
    !match n {
        0 => u64::MAX,
        1 => next | second | before,
        2 => next & second | (next | second) & before,
        _ => next & second & before,
    }
}

/// See [`ranked_fours`].
#[target_feature(enable = "avx2,bmi1,popcnt")]
fn largest_of_fours(values: &[f32], n: usize, chosen: &mut [u64]) -> bool {
    // Of equals, the later one is ranked above, which one more on its side does.
    let later = [_mm256_setr_epi32(1, 1, 1, 0, 1, 1, 1, 0), _mm256_setr_epi32(1, 1, 0, 0, 1, 1, 0, 0)];
    let mut top = _mm256_setzero_si256();
    let (words, rest) = values.as_chunks::<64>();
    for (values, word) in words.iter().zip(chosen.iter_mut()) {
        prefetch(values, AHEAD);
        let (mut next, mut second) = (0, 0);
        for (i, values) in values.as_chunks::<8>().0.iter().enumerate() {
            let x = magnitudes(values);
            let other = _mm256_add_epi32(_mm256_shuffle_epi32::<0b00_11_10_01>(x), later[0]);
            next |= lanes(_mm256_cmpgt_epi32(other, x)) << (8 * i);
            let other = _mm256_add_epi32(_mm256_shuffle_epi32::<0b01_00_11_10>(x), later[1]);
            second |= lanes(_mm256_cmpgt_epi32(other, x)) << (8 * i);
            top = _mm256_max_epi32(top, x);
        }
        *word = ranked_fours(next, second, n);
    }
    let finite = largest(top) < f32::INFINITE;
    let chosen = chosen.get_mut(words.len()..).unwrap_or_default();
    portable::largest_of_groups(rest, n, 4, 1, chosen) && finite
}

/// For each value, counts those of its group that are ranked above it: group by group a lane looks at the
/// others of its group in turn. Of equals, the later one is ranked above, which one more on its side does.
#[target_feature(enable = "avx2,bmi1,popcnt")]
fn largest_of_groups<const M: usize>(values: &[f32], n: usize, chosen: &mut [u64]) -> bool {
    let mut others = [_mm256_setzero_si256(); M];
    let mut later = [_mm256_setzero_si256(); M];
    for r in 1..M {
        let other = |lane: usize| lane / M * M + (lane + r) % M;
        let lanes: [usize; 8] = std::array::from_fn(|lane| lane);
        others[r] = bytemuck::cast(lanes.map(|lane| other(lane) as u32));
        later[r] = bytemuck::cast(lanes.map(|lane| u32::from(other(lane) > lane)));
    }
    // Counts are kept as minus the number.
    let bound = _mm256_set1_epi32(-(n as i32));
    let mut top = _mm256_setzero_si256();
    let (words, rest) = values.as_chunks::<64>();
    for (values, word) in words.iter().zip(chosen.iter_mut()) {
        let mut bits = 0;
        for (i, values) in values.as_chunks::<8>().0.iter().enumerate() {
            let x = magnitudes(values);
            let mut above = _mm256_setzero_si256();
            for r in 1..M {
                let other = _mm256_permutevar8x32_epi32(x, others[r]);
                let other = _mm256_add_epi32(other, later[r]);
                above = _mm256_add_epi32(above, _mm256_cmpgt_epi32(other, x));
            }
            bits |= lanes(_mm256_cmpgt_epi32(above, bound)) << (8 * i);
            top = _mm256_max_epi32(top, x);
        }
        *word = bits;
    }
    let finite = largest(top) < f32::INFINITE;
    let chosen = chosen.get_mut(words.len()..).unwrap_or_default();
    portable::largest_of_groups(rest, n, M, 1, chosen) && finite
}

/// For each choice of eight, the lanes of the chosen ones, a byte each, the first lowest.
static FRONT: [u64; 256] = {
    let mut table = [0; 256];
    let mut choice = 0;
    while choice < 256 {
        let (mut lane, mut found) = (0, 0);
        while lane < 8 {
            if choice >> lane & 1 == 1 {
                table[choice] |= lane << (8 * found);
                found += 1;
            }
            lane += 1;
        }
        choice += 1;
    }
    table
};

/// Chosen ones of 64 up to which they are moved one by one.
const FEW: u32 = 16;

#[target_feature(enable = "avx2,bmi1,popcnt")]
fn compact(values: &mut [f32], from: usize, chosen: &[u64], to: usize) -> usize {
    assert!(to <= from && from <= values.len());
    let mut out = to;
    let whole = ((values.len() - from) / 64).min(chosen.len());
    for (i, bits) in chosen[..whole].iter().enumerate() {
        let first = from + 64 * i;
        let count = bits.count_ones();
        if count <= FEW {
            let (mut bits, mut at) = (*bits, out);
            // In steps of fixed length: what is written too much lies before what is still to be read.
            for step in 0..FEW / 4 {
                if count <= 4 * step {
                    break;
                }
                for _ in 0..4 {
                    values[at] = values[first + (bits.trailing_zeros() as usize & 63)];
                    bits &= bits.wrapping_sub(1);
                    at += 1;
                }
            }
            out += count as usize;
            continue;
        }
        for j in 0..8 {
            let choice = (bits >> (8 * j)) as u8;
            let lanes = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(FRONT[usize::from(choice)] as i64));
            // SAFETY: the eight values from `first + 8 * j` on exist, as `whole` counts only whole words; so do
            // those from `out` on, as no more have been chosen than were passed: `out <= first + 8 * j`.
            #[allow(unsafe_code)]
            unsafe {
                let at = values.as_mut_ptr();
                let x = _mm256_loadu_ps(at.add(first + 8 * j));
                _mm256_storeu_ps(at.add(out), _mm256_permutevar8x32_ps(x, lanes));
            }
            out += choice.count_ones() as usize;
        }
    }
    out - to + portable::compact(values, from + 64 * whole, &chosen[whole..], out)
}
