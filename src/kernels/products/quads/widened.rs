//! Integer products in AVX2 with many inputs. It has no products of bytes that are exact: `vpmaddubsw` cuts off sums of
//! two that 16 bits do not hold. So bytes are widened; for small weights see [`small`](super::small).
#![allow(unsafe_code)]

use super::{Inputs, Meeting, ROWS, Sums, Weights};
use crate::kernels::cpu::Avx2;
use std::arch::x86_64::{
    __m128i, __m256i, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm_setr_epi8, _mm_shuffle_epi8,
    _mm_storeu_si128, _mm256_add_epi32, _mm256_add_epi64, _mm256_and_si256, _mm256_castsi256_si128,
    _mm256_cvtepi8_epi16, _mm256_cvtepu8_epi16, _mm256_extracti128_si256, _mm256_loadu_si256,
    _mm256_madd_epi16, _mm256_sad_epu8, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32,
    _mm256_setzero_si256, _mm256_slli_epi16, _mm256_srai_epi16, _mm256_srli_epi16, _mm256_xor_si256,
};
use std::mem::MaybeUninit;

/// Inputs of a vector.
const LANES: usize = 8;
/// Quads of weights that are widened at a time: few enough to stay near.
const CHUNK: usize = 64;
/// Bytes of a cache line.
const LINE: usize = 64;

/// See [`Form::strip`](super::Form::strip); gives the sums of the rows if it is to.
pub(super) fn strip<const S: bool, const OF_ROWS: bool>(
    _: Avx2,
    meeting: Meeting<'_>,
    sums: &mut Sums,
) -> [i32; ROWS] {
    // SAFETY: an `Avx2` exists, so the CPU has the instructions.
    unsafe { wide::<S, OF_ROWS>(meeting, sums) }
}

/// For each quad of a row the even columns, or the odd ones, in 16 bits. Apart: what lies side by side would be loaded
/// together, and then taken apart. Not filled with zeros, which takes as long as some products.
type Pairs = [MaybeUninit<[i16; 2]>; CHUNK];

#[target_feature(enable = "avx2")]
fn wide<const S: bool, const OF_ROWS: bool>(
    Meeting { w, x, offsets, lanes, ahead }: Meeting<'_>,
    sums: &mut Sums,
) -> [i32; ROWS] {
    let mut near: [[Pairs; 2]; ROWS] = [[[MaybeUninit::uninit(); CHUNK]; 2]; ROWS];
    let mut of_rows = [_mm256_setzero_si256(); ROWS];
    let groups = lanes / LANES;
    let lines = ahead.len().div_ceil(LINE).div_ceil(offsets.len().div_ceil(CHUNK).max(1) * groups);
    let mut line = 0;
    sums.iter_mut().for_each(|sums| sums[..lanes].fill(0));
    for (i, offsets) in offsets.chunks(CHUNK).enumerate() {
        for ((w, near), of_row) in w.iter().zip(&mut near).zip(&mut of_rows) {
            *of_row = widen::<S, OF_ROWS>(&w[i * CHUNK..][..offsets.len()], near, *of_row);
        }
        for first in (0..lanes).step_by(LANES) {
            for line in line..line + lines {
                _mm_prefetch::<_MM_HINT_T0>(ahead.as_ptr().wrapping_add(LINE * line).cast());
            }
            line += lines;
            // SAFETY: as many inputs as there are lanes lie at each offset, 8 of them from `first` on, and as many quads
            // have just been widened in each row.
            unsafe { add_products::<S>(&near, &x[first..], offsets, first, sums) };
        }
    }
    let mut found = [0; ROWS];
    for (found, of_row) in found.iter_mut().zip(of_rows) {
        *found = bytemuck::cast::<_, [i32; LANES]>(of_row).iter().sum();
    }
    found
}

/// Puts the weights of some quads to their pairs; adds them up, too.
#[inline]
#[target_feature(enable = "avx2")]
fn widen<const S: bool, const OF_ROWS: bool>(
    w: &[Weights],
    [even, odd]: &mut [Pairs; 2],
    mut sum: __m256i,
) -> __m256i {
    let mut put = |w: &[u8; 16], even: &mut [MaybeUninit<_>; 4], odd: &mut [MaybeUninit<_>; 4]| {
        let order = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
        let w = _mm_shuffle_epi8(load16(w), order);
        let w = if S { _mm256_cvtepu8_epi16(w) } else { _mm256_cvtepi8_epi16(w) };
        if OF_ROWS {
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(w, _mm256_set1_epi16(1)));
        }
        // SAFETY: room for 16 bytes, twice.
        unsafe {
            _mm_storeu_si128(even.as_mut_ptr().cast(), _mm256_castsi256_si128(w));
            _mm_storeu_si128(odd.as_mut_ptr().cast(), _mm256_extracti128_si256::<1>(w));
        }
    };
    let (whole, rest) = bytemuck::cast_slice(w.as_flattened()).as_chunks();
    let (even, odd) = (even.as_chunks_mut().0, odd.as_chunks_mut().0);
    whole.iter().zip(&mut *even).zip(&mut *odd).for_each(|((w, even), odd)| put(w, even, odd));
    if !rest.is_empty() {
        let mut last = [0; 16];
        last[..rest.len()].copy_from_slice(rest);
        put(&last, &mut even[whole.len()], &mut odd[whole.len()]);
    }
    sum
}

/// Adds products with 8 inputs to the sums from `first` on.
///
/// # Safety
/// For each offset `x` holds 8 inputs, and as many pairs of each row of `w` have been written as there are offsets.
#[target_feature(enable = "avx2")]
unsafe fn add_products<const S: bool>(
    w: &[[Pairs; 2]; ROWS],
    x: &[Inputs],
    offsets: &[u32],
    first: usize,
    sums: &mut Sums,
) {
    let mut acc = [_mm256_setzero_si256(); ROWS];
    for (acc, sums) in acc.iter_mut().zip(&*sums) {
        let sums = &sums[first..first + LANES];
        // SAFETY: 8 integers.
        *acc = unsafe { _mm256_loadu_si256(sums.as_ptr().cast()) };
    }
    for (i, offset) in offsets.iter().enumerate() {
        // SAFETY: 8 inputs lie there, as the caller promises.
        let x = unsafe { _mm256_loadu_si256(x.as_ptr().add(*offset as usize).cast()) };
        // The bytes of a pair apart.
        let (even, odd) = if S {
            (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x)), _mm256_srai_epi16::<8>(x))
        } else {
            (_mm256_and_si256(x, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(x))
        };
        for (acc, [w_even, w_odd]) in acc.iter_mut().zip(w) {
            // SAFETY: as many pairs as offsets have been written, as the caller promises.
            let (w_even, w_odd) =
                unsafe { (w_even.get_unchecked(i).assume_init(), w_odd.get_unchecked(i).assume_init()) };
            let (w_even, w_odd) = (bytemuck::cast(w_even), bytemuck::cast(w_odd));
            *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(_mm256_set1_epi32(w_even), even));
            *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(_mm256_set1_epi32(w_odd), odd));
        }
    }
    for (acc, sums) in acc.iter().zip(sums) {
        sums[first..first + LANES].copy_from_slice(&bytemuck::cast::<_, [i32; LANES]>(*acc));
    }
}

/// See [`Form::sums`](super::Form::sums).
pub(super) fn sums(_: Avx2, w: &[i8], len: usize, sums: &mut [i32]) {
    for (sum, w) in sums.iter_mut().zip(w.chunks(len.max(1))) {
        // SAFETY: an `Avx2` exists, so the CPU has the instructions.
        *sum = unsafe { sum_of_bytes(w) };
    }
}

#[target_feature(enable = "avx2")]
fn sum_of_bytes(w: &[i8]) -> i32 {
    const BYTES: usize = 32;
    let (whole, rest) = w.as_chunks::<BYTES>();
    let mut sums = _mm256_setzero_si256();
    for w in whole {
        // SAFETY: the array holds the 32 bytes that are read; the load takes any alignment.
        let w = unsafe { _mm256_loadu_si256(w.as_ptr().cast()) };
        // Unsigned, as what is summed must be: each is 128 more.
        let w = _mm256_xor_si256(w, _mm256_set1_epi8(i8::MIN));
        sums = _mm256_add_epi64(sums, _mm256_sad_epu8(w, _mm256_setzero_si256()));
    }
    let all: i64 = bytemuck::cast::<_, [i64; 4]>(sums).iter().sum();
    (all - 128 * (whole.len() * BYTES) as i64) as i32 + rest.iter().map(|w| i32::from(*w)).sum::<i32>()
}

#[inline]
#[target_feature(enable = "avx2")]
fn load16(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: the array holds the 16 bytes that are read; the load takes any alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}
