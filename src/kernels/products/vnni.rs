//! Integer products for AVX-512 with its products of bytes. Whoever holds a [`Vnni`] has asked the CPU for them.
//!
//! `vpdpbusd` adds the products of four unsigned with four signed bytes to 32 bits, and rounds nothing off.
#![allow(unsafe_code)]

use super::avx2::sum4_integers;
use super::quads::{FEW_ROWS, Inputs, LANES, Meeting, Part, ROWS, Sums, WIDTH, Weights};
use crate::kernels::cpu::Vnni;
use std::arch::x86_64::{
    __m256i, __m512i, _MM_HINT_T0, _mm_prefetch, _mm256_add_epi32, _mm512_add_epi32, _mm512_add_pd,
    _mm512_and_si512, _mm512_castsi512_si256, _mm512_cvtepi32_pd, _mm512_dpbusd_epi32,
    _mm512_extracti64x4_epi64, _mm512_loadu_pd, _mm512_loadu_si512, _mm512_maskz_loadu_epi8,
    _mm512_maskz_loadu_epi32, _mm512_mul_pd, _mm512_mullo_epi32, _mm512_set1_epi8, _mm512_set1_epi32,
    _mm512_set1_pd, _mm512_setzero_pd, _mm512_setzero_si512, _mm512_storeu_pd, _mm512_storeu_si512,
    _mm512_sub_epi32, _mm512_xor_si512,
};

/// Bytes of a vector, and of a cache line.
const BYTES: usize = 64;
/// Bytes from codes of weights to those that are brought near meanwhile.
const AHEAD: usize = 1 << 13;

/// Runs `f`, compiled for AVX-512.
#[inline(always)]
pub fn run<R>(_: Vnni, f: impl FnOnce() -> R) -> R {
    // SAFETY: a `Vnni` exists, so the CPU has the instructions.
    unsafe { compiled(f) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni")]
#[target_feature(enable = "avx2,fma,bmi1,bmi2,f16c,popcnt,lzcnt")]
fn compiled<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// See [`Form::strip`](super::quads::Form::strip); gives the sums of the rows if it is to.
pub(super) fn strip<const S: bool, const OF_ROWS: bool>(
    _: Vnni,
    meeting: Meeting<'_>,
    sums: &mut Sums,
) -> [i32; ROWS] {
    // SAFETY: a `Vnni` exists, so the CPU has the instructions; there are as many lanes.
    unsafe {
        if meeting.lanes == WIDTH {
            vectors::<2, S, OF_ROWS>(meeting, sums)
        } else {
            vectors::<1, S, OF_ROWS>(meeting, sums)
        }
    }
}

/// # Safety
/// There are no fewer lanes than `V` vectors have.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2")]
unsafe fn vectors<const V: usize, const S: bool, const OF_ROWS: bool>(
    Meeting { w, x, offsets, ahead, .. }: Meeting<'_>,
    sums: &mut Sums,
) -> [i32; ROWS] {
    debug_assert!(w.iter().all(|w| w.len() == offsets.len()));
    let mut acc = [[_mm512_setzero_si512(); V]; ROWS];
    let mut of_rows = [_mm512_setzero_si512(); ROWS];
    let lines = ahead.len().div_ceil(BYTES).div_ceil(offsets.len().div_ceil(LANES).max(1));
    let mut first = 0;
    for (i, offsets) in offsets.chunks(LANES).enumerate() {
        for line in i * lines..(i + 1) * lines {
            _mm_prefetch::<_MM_HINT_T0>(ahead.as_ptr().wrapping_add(BYTES * line).cast());
        }
        for (j, offset) in offsets.iter().enumerate() {
            // SAFETY: as many inputs lie there as there are lanes, which are `V` vectors.
            let x: [_; V] = std::array::from_fn(|v| unsafe {
                _mm512_loadu_si512(x.as_ptr().add(*offset as usize + v * LANES).cast())
            });
            for (acc, w) in acc.iter_mut().zip(w) {
                // SAFETY: `first + j` counts the offsets, and a row has as many quads.
                let w = _mm512_set1_epi32(bytemuck::cast(*unsafe { w.get_unchecked(first + j) }));
                for (acc, x) in acc.iter_mut().zip(x) {
                    *acc = if S { _mm512_dpbusd_epi32(*acc, w, x) } else { _mm512_dpbusd_epi32(*acc, x, w) };
                }
            }
        }
        if OF_ROWS {
            // While they are in the nearest cache anyway.
            for (sum, w) in of_rows.iter_mut().zip(w) {
                let mask = u16::MAX >> (LANES - offsets.len());
                // SAFETY: nothing is read but the quads of these offsets, which a row has.
                let w = unsafe { _mm512_maskz_loadu_epi32(mask, w.as_ptr().add(first).cast()) };
                *sum = add_bytes::<S>(*sum, w);
            }
        }
        first += offsets.len();
    }
    for (sums, acc) in sums.iter_mut().zip(acc) {
        for (sums, acc) in sums.as_chunks_mut::<LANES>().0.iter_mut().zip(acc) {
            // SAFETY: room for 64 bytes.
            unsafe { _mm512_storeu_si512(sums.as_mut_ptr().cast(), acc) };
        }
    }
    let [a, b, c, d, e, f, g, h] = of_rows;
    bytemuck::cast([sum4([a, b, c, d]), sum4([e, f, g, h])])
}

/// `acc` and the bytes of each lane: unsigned ones, if `S`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn add_bytes<const S: bool>(acc: __m512i, bytes: __m512i) -> __m512i {
    let ones = _mm512_set1_epi8(1);
    if S { _mm512_dpbusd_epi32(acc, bytes, ones) } else { _mm512_dpbusd_epi32(acc, ones, bytes) }
}

/// See [`Form::blocks`](super::quads::Form::blocks), which has seen that all rows have as many quads, and that there is
/// a vector of inputs for each.
pub(super) fn blocks(
    _: Vnni,
    w: [&[Weights]; ROWS],
    x: &[[Inputs; LANES]],
    (each, zeros): (usize, &[i32; LANES]),
    parts: &[[Part; ROWS]],
    ahead: &[u8],
    (total, stride): (&mut [f64], usize),
) {
    // SAFETY: a `Vnni` exists, so the CPU has the instructions.
    unsafe { add_blocks(w, x, each, zeros, parts, ahead, (total, stride)) }
}

#[target_feature(enable = "avx512f,avx512dq,avx512vnni")]
fn add_blocks(
    w: [&[Weights]; ROWS],
    x: &[[Inputs; LANES]],
    each: usize,
    zeros: &[i32; LANES],
    parts: &[[Part; ROWS]],
    ahead: &[u8],
    (total, stride): (&mut [f64], usize),
) {
    assert!(w.iter().all(|w| w.len() == x.len()));
    // SAFETY: 16 integers.
    let zeros = unsafe { _mm512_loadu_si512(zeros.as_ptr().cast()) };
    // Both halves of a row, in registers.
    let mut sums = [[_mm512_setzero_pd(); 2]; ROWS];
    for (sums, total) in sums.iter_mut().zip(total.chunks(stride)) {
        let total = &total[..LANES];
        // SAFETY: twice 8 numbers.
        *sums = unsafe { [_mm512_loadu_pd(total.as_ptr()), _mm512_loadu_pd(total.as_ptr().add(8))] };
    }
    let lines = ahead.len().div_ceil(BYTES).div_ceil(parts.len().max(1));
    let mut quad = 0;
    for (i, (x, parts)) in x.chunks(each).zip(parts).enumerate() {
        for line in i * lines..(i + 1) * lines {
            _mm_prefetch::<_MM_HINT_T0>(ahead.as_ptr().wrapping_add(BYTES * line).cast());
        }
        let mut acc = [_mm512_setzero_si512(); ROWS];
        for x in x {
            // SAFETY: 64 bytes.
            let x = unsafe { _mm512_loadu_si512(x.as_ptr().cast()) };
            for (acc, w) in acc.iter_mut().zip(w) {
                // SAFETY: `quad` counts the vectors of inputs, and a row has as many quads.
                let w = _mm512_set1_epi32(bytemuck::cast(*unsafe { w.get_unchecked(quad) }));
                *acc = _mm512_dpbusd_epi32(*acc, x, w);
            }
            quad += 1;
        }
        for ((sums, acc), part) in sums.iter_mut().zip(acc).zip(parts) {
            let sum = _mm512_sub_epi32(acc, _mm512_mullo_epi32(zeros, _mm512_set1_epi32(part.sum)));
            let scale = _mm512_set1_pd(part.scale);
            let halves = [_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64::<1>(sum)];
            // Rounded twice, as everywhere.
            for (sum, half) in sums.iter_mut().zip(halves) {
                *sum = _mm512_add_pd(*sum, _mm512_mul_pd(scale, _mm512_cvtepi32_pd(half)));
            }
        }
    }
    for (sums, total) in sums.iter().zip(total.chunks_mut(stride)) {
        let total = &mut total[..LANES];
        // SAFETY: room for twice 8 numbers.
        unsafe {
            _mm512_storeu_pd(total.as_mut_ptr(), sums[0]);
            _mm512_storeu_pd(total.as_mut_ptr().add(8), sums[1]);
        }
    }
}

/// See [`Form::dots`](super::quads::Form::dots), which has seen that all rows are as long.
pub(super) fn dots(_: Vnni, w: [&[u8]; FEW_ROWS], flip: u8, x: &[u8]) -> [[i32; 2]; FEW_ROWS] {
    // SAFETY: a `Vnni` exists, so the CPU has the instructions.
    unsafe { dot_rows(w, flip, x) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2")]
fn dot_rows(w: [&[u8]; FEW_ROWS], flip: u8, x: &[u8]) -> [[i32; 2]; FEW_ROWS] {
    // One row after the other, as they lie in memory; written out, since closures of arrays would be calls.
    let [a, b, c, d] =
        [dot_row(w[0], flip, x), dot_row(w[1], flip, x), dot_row(w[2], flip, x), dot_row(w[3], flip, x)];
    let (first, last) = (sum4([a[0], a[1], b[0], b[1]]), sum4([c[0], c[1], d[0], d[1]]));
    bytemuck::cast([first, last])
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn dot_row(w: &[u8], flip: u8, x: &[u8]) -> [__m512i; 2] {
    assert_eq!(w.len(), x.len());
    let (flips, ones) = (_mm512_set1_epi8(flip as i8), _mm512_set1_epi8(1));
    let mut acc = [_mm512_setzero_si512(); 2];
    let ((w, w_rest), (x, x_rest)) = (w.as_chunks::<BYTES>(), x.as_chunks::<BYTES>());
    for (w, x) in w.iter().zip(x) {
        _mm_prefetch::<_MM_HINT_T0>(w.as_ptr().wrapping_add(AHEAD).cast());
        // SAFETY: 64 bytes.
        let (w, x) =
            unsafe { (_mm512_loadu_si512(w.as_ptr().cast()), _mm512_loadu_si512(x.as_ptr().cast())) };
        let w = _mm512_xor_si512(w, flips);
        acc = [_mm512_dpbusd_epi32(acc[0], x, w), _mm512_dpbusd_epi32(acc[1], ones, w)];
    }
    if !x_rest.is_empty() {
        let mask = (1 << x_rest.len()) - 1;
        // SAFETY: nothing is read but what the mask has: the bytes up to the end.
        let load = |x: &[u8]| unsafe { _mm512_maskz_loadu_epi8(mask, x.as_ptr().cast()) };
        let (w, x) = (_mm512_xor_si512(load(w_rest), flips), load(x_rest));
        let ones = _mm512_and_si512(ones, load_mask(mask));
        acc = [_mm512_dpbusd_epi32(acc[0], x, w), _mm512_dpbusd_epi32(acc[1], ones, w)];
    }
    acc
}

/// All bits of the bytes of a mask.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_mask(mask: u64) -> __m512i {
    std::arch::x86_64::_mm512_movm_epi8(mask)
}

/// The sums of the lanes of four vectors.
#[inline]
#[target_feature(enable = "avx512f,avx2")]
fn sum4(x: [__m512i; 4]) -> [i32; 4] {
    sum4_integers(x.map(|x| halves_added(x)))
}

#[inline]
#[target_feature(enable = "avx512f,avx2")]
fn halves_added(x: __m512i) -> __m256i {
    _mm256_add_epi32(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64::<1>(x))
}

/// See [`Form::sums`](super::quads::Form::sums).
pub(super) fn sums(_: Vnni, w: &[i8], len: usize, sums: &mut [i32]) {
    // SAFETY: a `Vnni` exists, so the CPU has the instructions.
    unsafe { sums_of_bytes(w, len.max(1), sums) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2")]
fn sums_of_bytes(w: &[i8], len: usize, sums: &mut [i32]) {
    // Four together: their lanes are summed at once.
    for (w, sums) in w.chunks(4 * len).zip(sums.chunks_mut(4)) {
        let part = |i: usize| sum_lanes(w.get(i * len..w.len().min((i + 1) * len)).unwrap_or(&[]));
        let all = sum4([part(0), part(1), part(2), part(3)]);
        sums.iter_mut().zip(all).for_each(|(to, sum)| *to = sum);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn sum_lanes(w: &[i8]) -> __m512i {
    // Side by side: a sum must wait for the one before it.
    let mut acc = [_mm512_setzero_si512(); 4];
    let (vectors, rest) = w.as_chunks::<BYTES>();
    for w in vectors.chunks(4) {
        for (acc, w) in acc.iter_mut().zip(w) {
            // SAFETY: 64 bytes.
            *acc = add_bytes::<false>(*acc, unsafe { _mm512_loadu_si512(w.as_ptr().cast()) });
        }
    }
    if !rest.is_empty() {
        // SAFETY: nothing is read but what the mask has: the bytes up to the end.
        let w = unsafe { _mm512_maskz_loadu_epi8((1 << rest.len()) - 1, rest.as_ptr()) };
        acc[0] = add_bytes::<false>(acc[0], w);
    }
    let [a, b, c, d] = acc;
    _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d))
}
