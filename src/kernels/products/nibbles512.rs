//! Rows of 4-bit codes with one input, for AVX-512. Whoever holds a token has asked the CPU for it.
#![allow(unsafe_code)]

use super::nibbles::{Codes, Grid, TOGETHER};
use super::vnni::sum4;
use crate::kernels::cpu::{Avx512, Vnni};
use std::arch::x86_64::{
    __m512i, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm256_loadu_si256, _mm512_add_ps, _mm512_and_si512,
    _mm512_castsi256_si512, _mm512_cvtepu8_epi32, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mul_ps, _mm512_permutexvar_epi64, _mm512_permutexvar_ps, _mm512_reduce_add_ps,
    _mm512_set1_epi8, _mm512_set1_ps, _mm512_setr_epi32, _mm512_setr_epi64, _mm512_setr_ps,
    _mm512_setzero_ps, _mm512_setzero_si512, _mm512_srli_epi32, _mm512_srlv_epi32, _mm512_sub_ps,
};

/// Bytes from codes to those that are brought near meanwhile.
const AHEAD: usize = 1 << 13;

/// As [`avx2::nibbles`](super::avx2::nibbles), for steps of an even number of groups.
pub(super) fn nibbles(
    _: Vnni,
    w: &[Codes],
    x: &[[i8; TOGETHER]],
    groups: usize,
    sums: &mut [i32],
    of_codes: &mut [i32],
) {
    // SAFETY: a `Vnni` exists, so the CPU has the instructions.
    unsafe { nibble_steps(w, x, groups, sums, of_codes) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2")]
fn nibble_steps(w: &[Codes], x: &[[i8; TOGETHER]], groups: usize, sums: &mut [i32], of_codes: &mut [i32]) {
    let (w, x) = (w.as_chunks::<2>().0, x.as_chunks::<2>().0);
    let (w, x) = (w.chunks_exact(groups / 2), x.chunks_exact(groups / 2));
    let mut steps = w.zip(x).zip(sums.iter_mut().zip(of_codes));
    // Four steps together: their sums are made at once.
    while let Some(((w, x), to)) = steps.next() {
        let (first, rest) = (nibble_step(w, x), [steps.next(), steps.next(), steps.next()]);
        let [b, c, d] = rest
            .each_ref()
            .map(|step| step.as_ref().map_or([_mm512_setzero_si512(); 2], |((w, x), _)| nibble_step(w, x)));
        let sums = sum4([first[0], b[0], c[0], d[0]]);
        let of_codes = sum4([first[1], b[1], c[1], d[1]]);
        let places = std::iter::once(to).chain(rest.into_iter().flatten().map(|(_, to)| to));
        for ((sum, of_code), (to, to_codes)) in sums.into_iter().zip(of_codes).zip(places) {
            (*to, *to_codes) = (sum, of_code);
        }
    }
}

/// The sums of a step with its input, and of its codes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2")]
fn nibble_step(w: &[[Codes; 2]], x: &[[[i8; TOGETHER]; 2]]) -> [__m512i; 2] {
    let (mut products, mut codes) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    for (w, x) in w.iter().zip(x) {
        let w = both_halves(w);
        // SAFETY: 64 bytes.
        let x = unsafe { _mm512_loadu_si512(x.as_ptr().cast()) };
        products = _mm512_dpbusd_epi32(products, w, x);
        codes = _mm512_dpbusd_epi32(codes, w, _mm512_set1_epi8(1));
    }
    [products, codes]
}

/// Of both, the codes of even columns, and behind them those of odd ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn both_halves(w: &[Codes; 2]) -> __m512i {
    _mm_prefetch::<_MM_HINT_T0>(w.as_ptr().cast::<i8>().wrapping_add(AHEAD));
    // SAFETY: 32 bytes.
    let w = unsafe { _mm256_loadu_si256(w.as_ptr().cast()) };
    let twice = _mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3);
    let w = _mm512_permutexvar_epi64(twice, _mm512_castsi256_si512(w));
    // What comes from the neighbouring byte is masked away.
    let shifted = _mm512_srlv_epi32(w, _mm512_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4));
    _mm512_and_si512(shifted, _mm512_set1_epi8(15))
}

/// As [`avx2::nibble_floats`](super::avx2::nibble_floats), from the numbers that the codes of a step stand for.
pub(super) fn nibble_floats(
    _: Avx512,
    w: &[Codes],
    grids: &[Grid<f32>],
    x: &[[f32; TOGETHER]],
    groups: usize,
) -> f32 {
    // SAFETY: an `Avx512` exists, so the CPU has the instructions.
    unsafe { nibble_float_steps(w, grids, x, groups) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
fn nibble_float_steps(w: &[Codes], grids: &[Grid<f32>], x: &[[f32; TOGETHER]], groups: usize) -> f32 {
    let codes =
        _mm512_setr_ps(0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0);
    // Side by side: a sum must wait for the one before it.
    let mut acc = [[_mm512_setzero_ps(); 2]; 2];
    for ((w, x), grid) in w.chunks_exact(groups).zip(x.chunks_exact(groups)).zip(grids) {
        let numbers = _mm512_sub_ps(codes, _mm512_set1_ps(f32::from(grid.zero)));
        let numbers = _mm512_mul_ps(numbers, _mm512_set1_ps(grid.scale));
        for (i, (w, x)) in w.iter().zip(x).enumerate() {
            _mm_prefetch::<_MM_HINT_T0>(w.as_ptr().cast::<i8>().wrapping_add(AHEAD));
            // SAFETY: 16 bytes, and twice 16 numbers.
            let (w, even, odd) = unsafe {
                let (even, odd) = (x.as_ptr(), x.as_ptr().add(TOGETHER / 2));
                (_mm_loadu_si128(w.as_ptr().cast()), _mm512_loadu_ps(even), _mm512_loadu_ps(odd))
            };
            // Of a lane the lowest four bits say which number.
            let low = _mm512_cvtepu8_epi32(w);
            let high = _mm512_srli_epi32::<4>(low);
            let acc = &mut acc[i % 2];
            acc[0] = _mm512_fmadd_ps(_mm512_permutexvar_ps(low, numbers), even, acc[0]);
            acc[1] = _mm512_fmadd_ps(_mm512_permutexvar_ps(high, numbers), odd, acc[1]);
        }
    }
    let [[a, b], [c, d]] = acc;
    _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)))
}
