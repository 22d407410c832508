//! Integer products in AVX2 of weights that are small: `vpmaddubsw` never cuts off sums of two of their products, and
//! some more of them fit 16 bits together.
#![allow(unsafe_code)]

use super::{Inputs, Meeting, Part, ROWS, SMALL, Sums, WIDTH, Weights};
use crate::kernels::cpu::Avx2;
use std::arch::x86_64::{
    __m256i, _MM_HINT_T0, _mm_prefetch, _mm256_add_epi16, _mm256_add_epi32, _mm256_add_pd,
    _mm256_castsi256_si128, _mm256_cvtepi32_pd, _mm256_extracti128_si256, _mm256_loadu_pd,
    _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_pd, _mm256_mullo_epi32,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_pd, _mm256_setzero_pd, _mm256_setzero_si256,
    _mm256_sub_epi32,
};

/// Inputs of a vector.
const LANES: usize = 8;
/// Quads whose products 16 bits hold together.
const SHORT: usize = 4;
const _: () = assert!(SHORT * 2 * 255 * SMALL <= i16::MAX as usize);
/// Rows of weights that meet a vector at a time.
const HALF: usize = ROWS / 2;
/// Bytes of a cache line.
const LINE: usize = 64;

/// See [`Form::strip`](super::Form::strip).
pub(super) fn strip(_: Avx2, Meeting { w, x, offsets, lanes, ahead }: Meeting<'_>, sums: &mut Sums) {
    let mut ahead = parts_of(ahead, 2 * (lanes / LANES));
    for first in (0..lanes).step_by(LANES) {
        for half in [0, HALF] {
            prefetch(ahead.next());
            let rows = std::array::from_fn(|r| w[half + r]);
            let x = x.as_ptr().wrapping_add(first);
            // SAFETY: an `Avx2` exists, so the CPU has the instructions; as many inputs as there are lanes lie at each offset,
            // 8 of them from `first` on, and there are as many quads as offsets.
            unsafe { few_rows(rows, x, offsets, first, &mut sums[half..]) };
        }
    }
}

/// The sums from `first` on.
///
/// # Safety
/// As [`sums_of`].
#[target_feature(enable = "avx2")]
unsafe fn few_rows(
    w: [&[Weights]; HALF],
    x: *const Inputs,
    offsets: &[u32],
    first: usize,
    sums: &mut [[i32; WIDTH]],
) {
    // SAFETY: as the caller says.
    let found = unsafe { sums_of(w, 0, offsets, x) };
    for (sums, found) in sums.iter_mut().zip(bytemuck::cast::<_, [[i32; LANES]; HALF]>(found)) {
        sums[first..first + LANES].copy_from_slice(&found);
    }
}

/// See [`Form::blocks`](super::Form::blocks).
///
/// # Safety
/// The rows are as long as all blocks together, which have `each` quads, but for the last one. `x` holds 16 inputs for each
/// of these, and `offsets` of `each` quads count them. There are as many parts as blocks, and rows of `total`.
pub(super) unsafe fn blocks(
    _: Avx2,
    w: [&[Weights]; ROWS],
    x: &[Inputs],
    offsets: &[u32],
    (parts, zeros): (&[[Part; ROWS]], &[i32; 2 * LANES]),
    ahead: &[u8],
    (total, stride): (&mut [f64], usize),
) {
    let mut ahead = parts_of(ahead, 4);
    for (first, zeros) in (0..).step_by(LANES).zip(zeros.as_chunks().0) {
        for half in [0, HALF] {
            prefetch(ahead.next());
            let rows = std::array::from_fn(|r| w[half + r]);
            let total = &mut total[half * stride + first..];
            // SAFETY: an `Avx2` exists, so the CPU has the instructions; the rest is as the caller promises.
            unsafe {
                add_blocks(
                    rows,
                    x.as_ptr().wrapping_add(first),
                    offsets,
                    (parts, half, zeros),
                    (total, stride),
                );
            }
        }
    }
}

/// # Safety
/// As [`blocks`], with 8 inputs from `x` on.
#[target_feature(enable = "avx2")]
unsafe fn add_blocks(
    w: [&[Weights]; HALF],
    x: *const Inputs,
    offsets: &[u32],
    (parts, half, zeros): (&[[Part; ROWS]], usize, &[i32; LANES]),
    (total, stride): (&mut [f64], usize),
) {
    // SAFETY: 8 integers.
    let zeros = unsafe { _mm256_loadu_si256(zeros.as_ptr().cast()) };
    let mut sums = [[_mm256_setzero_pd(); 2]; HALF];
    for (sums, total) in sums.iter_mut().zip(total.chunks(stride)) {
        let total = &total[..LANES];
        // SAFETY: twice 4 numbers.
        *sums = unsafe { [_mm256_loadu_pd(total.as_ptr()), _mm256_loadu_pd(total.as_ptr().add(4))] };
    }
    let each = offsets.len();
    for (i, parts) in parts.iter().enumerate() {
        let first = i * each;
        let offsets = &offsets[..each.min(w[0].len() - first)];
        let x = x.wrapping_add(2 * LANES * first);
        // SAFETY: as many inputs and quads as the caller promises.
        let found = unsafe { sums_of(w, first, offsets, x) };
        for ((sums, found), part) in sums.iter_mut().zip(found).zip(&parts[half..]) {
            let sum = _mm256_sub_epi32(found, _mm256_mullo_epi32(zeros, _mm256_set1_epi32(part.sum)));
            let scale = _mm256_set1_pd(part.scale);
            let (low, high) = (_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
            // Rounded twice, as everywhere.
            sums[0] = _mm256_add_pd(sums[0], _mm256_mul_pd(scale, _mm256_cvtepi32_pd(low)));
            sums[1] = _mm256_add_pd(sums[1], _mm256_mul_pd(scale, _mm256_cvtepi32_pd(high)));
        }
    }
    for (sums, total) in sums.iter().zip(total.chunks_mut(stride)) {
        total[..LANES].copy_from_slice(&bytemuck::cast::<_, [f64; LANES]>(*sums));
    }
}

/// The sums of the weights from quad `first` on with 8 inputs, which lie at `offsets` from `x`.
///
/// # Safety
/// They lie there, and each row holds as many quads.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn sums_of(w: [&[Weights]; HALF], first: usize, offsets: &[u32], x: *const Inputs) -> [__m256i; HALF] {
    let [a, b, c, d] = [w[0].as_ptr(), w[1].as_ptr(), w[2].as_ptr(), w[3].as_ptr()];
    let mut acc = [_mm256_setzero_si256(); HALF];
    macro_rules! add {
        ($offsets:expr, $quad:expr) => {{
            let mut short = [_mm256_setzero_si256(); HALF];
            for (j, offset) in $offsets.iter().enumerate() {
                let quad = $quad + j;
                // SAFETY: the caller promises that 8 inputs lie there, and so many quads.
                unsafe {
                    let x = _mm256_loadu_si256(x.add(*offset as usize).cast());
                    short[0] = _mm256_add_epi16(short[0], _mm256_maddubs_epi16(x, weights(a.add(quad))));
                    short[1] = _mm256_add_epi16(short[1], _mm256_maddubs_epi16(x, weights(b.add(quad))));
                    short[2] = _mm256_add_epi16(short[2], _mm256_maddubs_epi16(x, weights(c.add(quad))));
                    short[3] = _mm256_add_epi16(short[3], _mm256_maddubs_epi16(x, weights(d.add(quad))));
                }
            }
            for (acc, short) in acc.iter_mut().zip(short) {
                *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(short, _mm256_set1_epi16(1)));
            }
        }};
    }
    let (whole, rest) = offsets.as_chunks::<SHORT>();
    for (i, offsets) in whole.iter().enumerate() {
        add!(offsets, first + i * SHORT);
    }
    add!(rest, first + whole.len() * SHORT);
    acc
}

/// A quad, for each input.
///
/// # Safety
/// There is one.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn weights(quad: *const Weights) -> __m256i {
    // SAFETY: as the caller says; four bytes, wherever they are.
    _mm256_set1_epi32(unsafe { quad.cast::<i32>().read_unaligned() })
}

/// Up to `n` parts that are about as long.
fn parts_of(bytes: &[u8], n: usize) -> impl Iterator<Item = &[u8]> {
    bytes.chunks(bytes.len().div_ceil(n).max(1))
}

/// Has all of it brought near: hints, which never fault.
fn prefetch(ahead: Option<&[u8]>) {
    for line in ahead.unwrap_or_default().chunks(LINE) {
        // SAFETY: every x86-64 has the instruction.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}
