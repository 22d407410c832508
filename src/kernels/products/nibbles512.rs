//! Rows of 4-bit codes with one input, for AVX-512: a vector holds the codes of 128 columns, which is a step, or
//! several. Whoever holds a token has asked the CPU for it.
#![allow(unsafe_code)]

use super::nibbles::{Grids, Order, TOGETHER};
use crate::kernels::cpu::{Avx512, Vnni};
use std::arch::x86_64::{
    __m512, __m512i, _MM_HINT_T0, _mm_prefetch, _mm512_add_epi8, _mm512_add_epi32, _mm512_add_ps,
    _mm512_and_si512, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_maskz_loadu_ps, _mm512_permutex2var_epi64, _mm512_permutexvar_epi32, _mm512_permutexvar_ps,
    _mm512_reduce_add_ps, _mm512_set1_epi8, _mm512_set1_ps, _mm512_setr_epi32, _mm512_setr_epi64,
    _mm512_setr_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_srli_epi16,
    _mm512_srli_epi32, _mm512_storeu_si512, _mm512_sub_epi8, _mm512_sub_ps, _mm512_unpackhi_epi8,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi8, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};

/// Columns of a vector of codes.
pub(super) const COLUMNS: usize = 128;
/// Lanes of 32 bits.
const LANES: usize = 16;
/// A vector of codes.
type Codes = [u8; COLUMNS / 2];

/// The codes of even columns are those below in all bytes, of odd ones those above.
pub(super) const INTEGERS: Order = Order { together: COLUMNS, stride: 2 };
/// A lane holds eight codes.
pub(super) const FLOATS: Order = Order { together: COLUMNS, stride: 8 };

/// Bytes from codes to those that are brought near meanwhile. Integers are done with them sooner.
const AHEAD: usize = 1 << 13;
const AHEAD_OF_FLOATS: usize = 1 << 12;

/// Whether there are kernels for so many columns.
pub(super) fn takes(cols: usize, step: usize) -> bool {
    let parts = [2 * TOGETHER, TOGETHER].contains(&step);
    cols.is_multiple_of(COLUMNS) && (step.is_multiple_of(COLUMNS) || parts)
}

/// The same for floats: the codes of a vector have one zero point.
pub(super) fn takes_floats(cols: usize, step: usize, grids: Grids<'_, f32>) -> bool {
    takes(cols, step) && (grids.zeros.is_none() || step.is_multiple_of(COLUMNS))
}

/// See [`nibbles`](super::nibbles::nibbles).
pub(super) fn nibbles(
    cpu: Vnni,
    w: &[Codes],
    x: &[[i8; COLUMNS]],
    step: usize,
    offset: i32,
    sums: &mut [i32],
) {
    if offset < 0 {
        steps::<true>(cpu, w, x, step, offset, sums);
    } else {
        steps::<false>(cpu, w, x, step, offset, sums);
    }
}

/// The same for offsets that are all `NEGATIVE`, or none of them.
fn steps<const NEGATIVE: bool>(
    _: Vnni,
    w: &[Codes],
    x: &[[i8; COLUMNS]],
    step: usize,
    offset: i32,
    sums: &mut [i32],
) {
    // SAFETY: a `Vnni` exists, so the CPU has the instructions.
    unsafe {
        match COLUMNS / step {
            4 => nibble_steps::<4, 4, NEGATIVE>(w, x, 1, offset, sums),
            2 => nibble_steps::<2, 8, NEGATIVE>(w, x, 1, offset, sums),
            _ => nibble_steps::<1, LANES, NEGATIVE>(w, x, step / COLUMNS, offset, sums),
        }
    }
}

/// `PARTS` steps a vector, or `each` so many vectors a step; the sums of `VECTORS` steps, or of steps of as many vectors,
/// fill a vector.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn nibble_steps<const PARTS: usize, const VECTORS: usize, const NEGATIVE: bool>(
    mut w: &[Codes],
    mut x: &[[i8; COLUMNS]],
    each: usize,
    offset: i32,
    mut sums: &mut [i32],
) {
    const { assert!(PARTS * VECTORS == LANES) };
    let (times, none) = (_mm512_set1_epi8(offset as i8), _mm512_setzero_si512());
    if each == 1 {
        let ((whole, w_left), (inputs, x_left)) = (w.as_chunks::<VECTORS>(), x.as_chunks::<VECTORS>());
        let (whole_sums, sums_left) = sums.as_chunks_mut::<LANES>();
        for ((w, x), sums) in whole.iter().zip(inputs).zip(whole_sums) {
            // Without a loop they stay in registers: that takes about half the time.
            macro_rules! all {
                ($($i:literal)*) => {[$(
                    if $i < VECTORS { add_products::<NEGATIVE>(none, &w[$i], &x[$i], times) } else { none }
                ),*]};
            }
            let all = all!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
            // SAFETY: room for 64 bytes.
            unsafe { _mm512_storeu_si512(sums.as_mut_ptr().cast(), sums_of_lanes::<PARTS>(all)) };
        }
        (w, x, sums) = (w_left, x_left, sums_left);
    }
    let together = VECTORS * each;
    for ((w, x), sums) in w.chunks(together).zip(x.chunks(together)).zip(sums.chunks_mut(LANES)) {
        let mut all = [none; LANES];
        for ((w, x), lanes) in w.chunks_exact(each).zip(x.chunks_exact(each)).zip(&mut all) {
            for (w, x) in w.iter().zip(x) {
                *lanes = add_products::<NEGATIVE>(*lanes, w, x, times);
            }
        }
        let mut found = [0; LANES];
        // SAFETY: room for 64 bytes.
        unsafe { _mm512_storeu_si512(found.as_mut_ptr().cast(), sums_of_lanes::<PARTS>(all)) };
        sums.copy_from_slice(&found[..sums.len()]);
    }
}

/// See [`Form::signed_nibbles`](super::quads::Form::signed_nibbles), for `each` vectors a step.
pub(super) fn signed(
    _: Vnni,
    w: &[Codes],
    each: usize,
    zeros: impl Fn(usize) -> u8,
    to: &mut [[i8; COLUMNS]],
    sums: &mut [i32],
) {
    debug_assert_eq!(w.len(), to.len());
    // SAFETY: a `Vnni` exists, so the CPU has the instructions.
    unsafe { signed_steps(w, each, zeros, to, sums) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn signed_steps(
    mut w: &[Codes],
    each: usize,
    zeros: impl Fn(usize) -> u8,
    mut to: &mut [[i8; COLUMNS]],
    mut sums: &mut [i32],
) {
    let (zero, none) = (|step| _mm512_set1_epi8(zeros(step) as i8), _mm512_setzero_si512());
    let mut step = 0;
    if each == 1 {
        let ((whole, w_left), (whole_to, to_left)) = (w.as_chunks::<LANES>(), to.as_chunks_mut::<LANES>());
        let (whole_sums, sums_left) = sums.as_chunks_mut::<LANES>();
        for ((w, to), sums) in whole.iter().zip(whole_to).zip(whole_sums) {
            // Without a loop they stay in registers, as above.
            macro_rules! all {
                ($($i:literal)*) => {[$(make_signed(none, &w[$i], zero(step + $i), &mut to[$i])),*]};
            }
            let all = all!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
            // SAFETY: room for 64 bytes.
            unsafe { _mm512_storeu_si512(sums.as_mut_ptr().cast(), sums_of_lanes::<1>(all)) };
            step += LANES;
        }
        (w, to, sums) = (w_left, to_left, sums_left);
    }
    let together = LANES * each;
    for ((w, to), sums) in w.chunks(together).zip(to.chunks_mut(together)).zip(sums.chunks_mut(LANES)) {
        let mut all = [none; LANES];
        for ((w, to), lanes) in w.chunks_exact(each).zip(to.chunks_exact_mut(each)).zip(&mut all) {
            for (w, to) in w.iter().zip(to) {
                *lanes = make_signed(*lanes, w, zero(step), to);
            }
            step += 1;
        }
        let mut found = [0; LANES];
        // SAFETY: room for 64 bytes.
        unsafe { _mm512_storeu_si512(found.as_mut_ptr().cast(), sums_of_lanes::<1>(all)) };
        sums.copy_from_slice(&found[..sums.len()]);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn make_signed(lanes: __m512i, w: &Codes, zero: __m512i, to: &mut [i8; COLUMNS]) -> __m512i {
    // SAFETY: 64 bytes.
    let w = unsafe { _mm512_loadu_si512(w.as_ptr().cast()) };
    let mask = _mm512_set1_epi8(15);
    let low = _mm512_sub_epi8(_mm512_and_si512(w, mask), zero);
    let high = _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16::<4>(w), mask), zero);
    // In turn, of eight bytes each; then these in order.
    let (first, last) = (_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high));
    let below = _mm512_permutex2var_epi64(first, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), last);
    let above = _mm512_permutex2var_epi64(first, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), last);
    // SAFETY: room for twice 64 bytes.
    unsafe {
        _mm512_storeu_si512(to.as_mut_ptr().cast(), below);
        _mm512_storeu_si512(to.as_mut_ptr().add(64).cast(), above);
    }
    _mm512_dpbusd_epi32(lanes, _mm512_set1_epi8(1), _mm512_add_epi8(low, high))
}

/// Adds the products of codes with their inputs, and each code `times` what all are multiplied with besides: up to 128,
/// for which an unsigned byte has room, or `NEGATIVE`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn add_products<const NEGATIVE: bool>(
    lanes: __m512i,
    w: &Codes,
    x: &[i8; COLUMNS],
    times: __m512i,
) -> __m512i {
    let mask = _mm512_set1_epi8(15);
    _mm_prefetch::<_MM_HINT_T0>(w.as_ptr().cast::<i8>().wrapping_add(AHEAD));
    // SAFETY: 64 bytes, and twice 64.
    let (w, even, odd) = unsafe {
        let x = x.as_ptr();
        (
            _mm512_loadu_si512(w.as_ptr().cast()),
            _mm512_loadu_si512(x.cast()),
            _mm512_loadu_si512(x.add(64).cast()),
        )
    };
    // What comes from the neighbouring byte is masked away.
    let (low, high) = (_mm512_and_si512(w, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(w), mask));
    let both = _mm512_add_epi8(low, high);
    let lanes = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(lanes, low, even), high, odd);
    // Unsigned bytes meet signed ones; two codes are no more than 30, which both kinds hold.
    if NEGATIVE { _mm512_dpbusd_epi32(lanes, both, times) } else { _mm512_dpbusd_epi32(lanes, times, both) }
}

/// The sums of each 16, 8 or 4 neighbouring lanes of all vectors, of which the first 16, 8 or 4 are used.
#[inline]
#[target_feature(enable = "avx512f")]
fn sums_of_lanes<const PARTS: usize>(all: [__m512i; LANES]) -> __m512i {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = all;
    let first = sums_of_fours([a, b, c, d]);
    if PARTS == 4 {
        let turned = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        return _mm512_permutexvar_epi32(turned, first);
    }
    let first = neighbours_added(first, sums_of_fours([e, f, g, h]));
    if PARTS == 2 {
        let turned = _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
        return _mm512_permutexvar_epi32(turned, first);
    }
    let last = neighbours_added(sums_of_fours([i, j, k, l]), sums_of_fours([m, n, o, p]));
    neighbours_added(first, last)
}

/// Of each four neighbouring lanes, the sums of all vectors side by side.
#[inline]
#[target_feature(enable = "avx512f")]
fn sums_of_fours([a, b, c, d]: [__m512i; 4]) -> __m512i {
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
}

/// Quarters of both vectors, each added to the one after it.
#[inline]
#[target_feature(enable = "avx512f")]
fn neighbours_added(a: __m512i, b: __m512i) -> __m512i {
    _mm512_add_epi32(_mm512_shuffle_i32x4::<0b1000_1000>(a, b), _mm512_shuffle_i32x4::<0b1101_1101>(a, b))
}

/// See [`nibbles_f32`](super::nibbles::nibbles_f32).
pub(super) fn nibble_floats(
    _: Avx512,
    w: &[Codes],
    grids: Grids<'_, f32>,
    x: &[[f32; COLUMNS]],
    step: usize,
) -> f32 {
    // SAFETY: an `Avx512` exists, so the CPU has the instructions.
    unsafe {
        match COLUMNS / step {
            4 => nibble_float_steps::<4>(w, grids, x, 1),
            2 => nibble_float_steps::<2>(w, grids, x, 1),
            _ => nibble_float_steps::<1>(w, grids, x, step / COLUMNS),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn nibble_float_steps<const PARTS: usize>(
    w: &[Codes],
    grids: Grids<'_, f32>,
    x: &[[f32; COLUMNS]],
    each: usize,
) -> f32 {
    let codes =
        _mm512_setr_ps(0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0);
    // Side by side: a sum must wait for the one before it.
    let mut total = [_mm512_setzero_ps(); 2];
    let steps = w.chunks_exact(each).zip(x.chunks_exact(each)).zip(grids.scales.chunks_exact(PARTS));
    for (i, ((w, x), scales)) in steps.enumerate() {
        let zero = if PARTS == 1 { grids.zero(i) } else { grids.middle };
        let numbers = _mm512_sub_ps(codes, _mm512_set1_ps(f32::from(zero)));
        let mut sums = [_mm512_setzero_ps(); 2];
        for (w, x) in w.iter().zip(x) {
            sums = add_numbers(sums, numbers, w, x);
        }
        let scale = one_for_each_part::<PARTS>(scales);
        total = [_mm512_fmadd_ps(scale, sums[0], total[0]), _mm512_fmadd_ps(scale, sums[1], total[1])];
    }
    _mm512_reduce_add_ps(_mm512_add_ps(total[0], total[1]))
}

/// What codes stand for, times an input.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_numbers(mut sums: [__m512; 2], numbers: __m512, w: &Codes, x: &[f32; COLUMNS]) -> [__m512; 2] {
    _mm_prefetch::<_MM_HINT_T0>(w.as_ptr().cast::<i8>().wrapping_add(AHEAD_OF_FLOATS));
    // SAFETY: 64 bytes.
    let w = unsafe { _mm512_loadu_si512(w.as_ptr().cast()) };
    macro_rules! add {
        ($($i:literal)*) => {$(
            // SAFETY: eight times 16 numbers.
            let input = unsafe { _mm512_loadu_ps(x.as_ptr().add(LANES * $i)) };
            // Of a lane the lowest four bits say which number.
            let number = _mm512_permutexvar_ps(_mm512_srli_epi32::<{ 4 * $i }>(w), numbers);
            sums[$i % 2] = _mm512_fmadd_ps(number, input, sums[$i % 2]);
        )*};
    }
    add!(0 1 2 3 4 5 6 7);
    sums
}

/// `PARTS` scales, each in as many lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn one_for_each_part<const PARTS: usize>(scales: &[f32]) -> __m512 {
    if PARTS == 1 {
        return _mm512_set1_ps(scales[0]);
    }
    let place = if PARTS == 2 {
        _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1)
    } else {
        _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3)
    };
    assert_eq!(scales.len(), PARTS);
    // SAFETY: nothing is read but what the mask has: all scales.
    let scales = unsafe { _mm512_maskz_loadu_ps((1 << PARTS) - 1, scales.as_ptr()) };
    _mm512_permutexvar_ps(place, scales)
}
