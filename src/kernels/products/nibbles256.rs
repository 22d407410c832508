//! Rows of 4-bit codes in AVX2: a vector holds the codes of 64 columns, which is a step, or several, or a part of one.
//! Whoever holds a token has asked the CPU for it.
#![allow(unsafe_code)]

use super::nibbles::{Order, TOGETHER};
use crate::kernels::cpu::Avx2;
use std::arch::x86_64::{
    __m256i, _MM_HINT_T0, _mm_prefetch, _mm256_add_epi8, _mm256_add_epi16, _mm256_add_epi32,
    _mm256_add_epi64, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_maddubs_epi16, _mm256_permute2x128_si256, _mm256_permutevar8x32_epi32, _mm256_sad_epu8,
    _mm256_set1_epi8, _mm256_set1_epi16, _mm256_setr_epi32, _mm256_setzero_si256, _mm256_srli_epi16,
    _mm256_srlv_epi32, _mm256_storeu_si256, _mm256_sub_epi8, _mm256_unpackhi_epi8, _mm256_unpackhi_epi32,
    _mm256_unpackhi_epi64, _mm256_unpacklo_epi8, _mm256_unpacklo_epi32, _mm256_unpacklo_epi64,
};

/// Columns of a vector of codes.
pub(super) const COLUMNS: usize = 64;
/// A vector of codes.
type Codes = [u8; COLUMNS / 2];
/// Half of one.
type Half = [u8; TOGETHER / 2];
/// Lanes of 32 bits.
const LANES: usize = 8;
/// Vectors whose sums 16 bits hold: of each, products of two codes and an input and as many of an offset, twice.
const SHORT: usize = 2;
const _: () = assert!(SHORT * 4 * 2 * 15 * 128 <= i16::MAX as usize);

/// The codes of even columns are those below in all bytes, of odd ones those above.
pub(super) const INTEGERS: Order = Order { together: COLUMNS, stride: 2 };

/// Bytes from codes to those that are brought near meanwhile.
const AHEAD: usize = 1 << 13;

/// Whether there are kernels for so many columns.
pub(super) fn takes(cols: usize, step: usize) -> bool {
    cols.is_multiple_of(COLUMNS) && (step.is_multiple_of(COLUMNS) || step == TOGETHER)
}

/// See [`nibbles`](super::nibbles::nibbles).
pub(super) fn nibbles(
    cpu: Avx2,
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
    _: Avx2,
    w: &[Codes],
    x: &[[i8; COLUMNS]],
    step: usize,
    offset: i32,
    sums: &mut [i32],
) {
    // SAFETY: an `Avx2` exists, so the CPU has the instructions.
    unsafe {
        match (COLUMNS / step, step / COLUMNS) {
            (2, _) => nibble_steps::<2, 4, 1, NEGATIVE>(w, x, 1, offset, sums),
            (_, 2) => nibble_steps::<1, LANES, 2, NEGATIVE>(w, x, 2, offset, sums),
            (_, each) => nibble_steps::<1, LANES, 1, NEGATIVE>(w, x, each, offset, sums),
        }
    }
}

/// `PARTS` steps a vector, or `each` so many vectors a step; the sums of `VECTORS` steps, or of vectors of several,
/// fill a vector. Fast for `EACH` of them.
#[target_feature(enable = "avx2")]
fn nibble_steps<const PARTS: usize, const VECTORS: usize, const EACH: usize, const NEGATIVE: bool>(
    mut w: &[Codes],
    mut x: &[[i8; COLUMNS]],
    each: usize,
    offset: i32,
    mut sums: &mut [i32],
) {
    const { assert!(PARTS * VECTORS == LANES) };
    let (times, none) = (_mm256_set1_epi8(offset as i8), _mm256_setzero_si256());
    if each == EACH {
        let (whole, inputs) = (w.as_chunks::<EACH>().0, x.as_chunks::<EACH>().0);
        let (whole, inputs) = (whole.as_chunks::<VECTORS>().0, inputs.as_chunks::<VECTORS>().0);
        let (whole_sums, sums_left) = sums.as_chunks_mut::<LANES>();
        for ((w, x), sums) in whole.iter().zip(inputs).zip(whole_sums) {
            // Without a loop they stay in registers.
            macro_rules! all {
                ($($i:literal)*) => {[$(
                    if $i < VECTORS { sum_of_step::<NEGATIVE>(&w[$i % VECTORS], &x[$i % VECTORS], times) } else { none }
                ),*]};
            }
            *sums = sums_of_lanes::<PARTS>(all!(0 1 2 3 4 5 6 7));
        }
        let done = whole.len() * VECTORS * EACH;
        (w, x, sums) = (&w[done..], &x[done..], sums_left);
    }
    let together = VECTORS * each;
    for ((w, x), sums) in w.chunks(together).zip(x.chunks(together)).zip(sums.chunks_mut(LANES)) {
        let mut all = [none; LANES];
        for ((w, x), lanes) in w.chunks_exact(each).zip(x.chunks_exact(each)).zip(&mut all) {
            *lanes = sum_of_step::<NEGATIVE>(w, x, times);
        }
        sums.copy_from_slice(&sums_of_lanes::<PARTS>(all)[..sums.len()]);
    }
}

/// The same for any steps of whole groups of [`TOGETHER`] columns, of which an input has the even ones first.
pub(super) fn grouped(
    _: Avx2,
    w: &[Half],
    x: &[[i8; TOGETHER]],
    groups: usize,
    offset: i32,
    sums: &mut [i32],
) {
    // SAFETY: an `Avx2` exists, so the CPU has the instructions.
    unsafe { group_steps(w, x, groups, offset, sums) }
}

#[target_feature(enable = "avx2")]
fn group_steps(w: &[Half], x: &[[i8; TOGETHER]], groups: usize, offset: i32, sums: &mut [i32]) {
    /// Groups whose sums 16 bits hold, and whose codes 8 bits do.
    const SHORT: usize = 8;
    const { assert!(SHORT * 2 * 15 * 128 <= i16::MAX as usize && SHORT * 15 <= u8::MAX as usize) };
    for ((w, x), to) in w.chunks_exact(groups).zip(x.chunks_exact(groups)).zip(sums) {
        let (mut all, mut all_codes) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        for (w, x) in w.chunks(SHORT).zip(x.chunks(SHORT)) {
            let (mut short, mut codes) = (_mm256_setzero_si256(), _mm256_setzero_si256());
            for (w, x) in w.iter().zip(x) {
                _mm_prefetch::<_MM_HINT_T0>(w.as_ptr().cast::<i8>().wrapping_add(AHEAD));
                // The codes of even columns, and behind them those of odd ones.
                let w = _mm256_broadcastsi128_si256(bytemuck::cast(*w));
                let w = _mm256_srlv_epi32(w, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));
                let w = _mm256_and_si256(w, _mm256_set1_epi8(15));
                short = _mm256_add_epi16(short, _mm256_maddubs_epi16(w, bytemuck::cast(*x)));
                codes = _mm256_add_epi8(codes, w);
            }
            all = _mm256_add_epi32(all, _mm256_madd_epi16(short, _mm256_set1_epi16(1)));
            all_codes = _mm256_add_epi32(all_codes, _mm256_sad_epu8(codes, _mm256_setzero_si256()));
        }
        let [sum, of_codes] =
            [all, all_codes].map(|all| bytemuck::cast::<_, [i32; LANES]>(all).iter().sum::<i32>());
        *to = sum + offset * of_codes;
    }
}

/// In lanes, the sums of the products of codes with their inputs, and of each code `times` what all are multiplied with
/// besides: up to 128, for which an unsigned byte has room, or `NEGATIVE`.
#[inline]
#[target_feature(enable = "avx2")]
fn sum_of_step<const NEGATIVE: bool>(w: &[Codes], x: &[[i8; COLUMNS]], times: __m256i) -> __m256i {
    let mut all = _mm256_setzero_si256();
    for (w, x) in w.chunks(SHORT).zip(x.chunks(SHORT)) {
        let (mut short, mut codes) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        for (w, x) in w.iter().zip(x) {
            _mm_prefetch::<_MM_HINT_T0>(w.as_ptr().cast::<i8>().wrapping_add(AHEAD));
            let (low, high) = halves(w);
            // SAFETY: twice 32 bytes.
            let (even, odd) = unsafe {
                let x = x.as_ptr();
                (_mm256_loadu_si256(x.cast()), _mm256_loadu_si256(x.add(COLUMNS / 2).cast()))
            };
            short = _mm256_add_epi16(short, _mm256_maddubs_epi16(low, even));
            short = _mm256_add_epi16(short, _mm256_maddubs_epi16(high, odd));
            codes = _mm256_add_epi8(codes, _mm256_add_epi8(low, high));
        }
        // Unsigned bytes meet signed ones; four codes are no more than 60, which both kinds hold.
        let more =
            if NEGATIVE { _mm256_maddubs_epi16(codes, times) } else { _mm256_maddubs_epi16(times, codes) };
        let pairs = _mm256_madd_epi16(_mm256_add_epi16(short, more), _mm256_set1_epi16(1));
        all = _mm256_add_epi32(all, pairs);
    }
    all
}

/// The codes of even columns, and of odd ones.
#[inline]
#[target_feature(enable = "avx2")]
fn halves(w: &Codes) -> (__m256i, __m256i) {
    // SAFETY: 32 bytes.
    let w = unsafe { _mm256_loadu_si256(w.as_ptr().cast()) };
    let mask = _mm256_set1_epi8(15);
    // What comes from the neighbouring byte is masked away.
    (_mm256_and_si256(w, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(w), mask))
}

/// The sums of each 8 or 4 neighbouring lanes of all vectors, of which the first 8 or 4 are used.
#[inline]
#[target_feature(enable = "avx2")]
fn sums_of_lanes<const PARTS: usize>([a, b, c, d, e, f, g, h]: [__m256i; LANES]) -> [i32; LANES] {
    let first = sums_of_fours([a, b, c, d]);
    bytemuck::cast(if PARTS == 2 {
        _mm256_permutevar8x32_epi32(first, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
    } else {
        let last = sums_of_fours([e, f, g, h]);
        _mm256_add_epi32(
            _mm256_permute2x128_si256::<0x20>(first, last),
            _mm256_permute2x128_si256::<0x31>(first, last),
        )
    })
}

/// Of each four neighbouring lanes, the sums of all vectors side by side.
#[inline]
#[target_feature(enable = "avx2")]
fn sums_of_fours([a, b, c, d]: [__m256i; 4]) -> __m256i {
    let ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd))
}

/// See [`Form::signed_nibbles`](super::quads::Form::signed_nibbles), for `each` vectors a step.
pub(super) fn signed(
    _: Avx2,
    w: &[Codes],
    each: usize,
    zeros: impl Fn(usize) -> u8,
    to: &mut [[i8; COLUMNS]],
    sums: &mut [i32],
) {
    debug_assert_eq!(w.len(), to.len());
    // SAFETY: an `Avx2` exists, so the CPU has the instructions.
    unsafe { signed_steps(w, each, zeros, to, sums) }
}

#[target_feature(enable = "avx2")]
fn signed_steps(
    w: &[Codes],
    each: usize,
    zeros: impl Fn(usize) -> u8,
    to: &mut [[i8; COLUMNS]],
    sums: &mut [i32],
) {
    for (step, ((w, to), sum)) in w.chunks(each).zip(to.chunks_mut(each)).zip(sums).enumerate() {
        let zero = _mm256_set1_epi8(zeros(step) as i8);
        let mut all = _mm256_setzero_si256();
        for (w, to) in w.iter().zip(to) {
            let (low, high) = halves(w);
            all = _mm256_add_epi64(all, _mm256_sad_epu8(_mm256_add_epi8(low, high), _mm256_setzero_si256()));
            let (low, high) = (_mm256_sub_epi8(low, zero), _mm256_sub_epi8(high, zero));
            // In turn, of 16 columns each; then these in order.
            let (first, last) = (_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high));
            // SAFETY: room for twice 32 bytes.
            unsafe {
                let to = to.as_mut_ptr();
                _mm256_storeu_si256(to.cast(), _mm256_permute2x128_si256::<0x20>(first, last));
                _mm256_storeu_si256(
                    to.add(COLUMNS / 2).cast(),
                    _mm256_permute2x128_si256::<0x31>(first, last),
                );
            }
        }
        let codes: i64 = bytemuck::cast::<_, [i64; 4]>(all).iter().sum();
        *sum = codes as i32 - i32::from(zeros(step)) * (w.len() * COLUMNS) as i32;
    }
}
