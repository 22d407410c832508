//! [`Tiles`] and [`Strips`] in AVX2. Whoever holds an [`Avx2`] has asked the CPU for it.

use super::dots::{ALONG, Tiles};
use super::nibbles::{Codes, Grids, TOGETHER};
use super::panels::{FEW, LANES};
use super::quads::{FEW_ROWS, plain_dot};
use super::strips::Strips;
use crate::kernels::cpu::Avx2;
use std::arch::x86_64::{
    __m128i, __m256, __m256i, _MM_HINT_T0, _mm_add_epi32, _mm_add_ps, _mm_and_si128, _mm_loadu_si128,
    _mm_prefetch, _mm_set1_epi8, _mm_srli_epi16, _mm_srli_si128, _mm_sub_epi8, _mm_xor_si128,
    _mm256_add_epi32, _mm256_castps256_ps128, _mm256_castsi256_si128, _mm256_cvtepi8_epi16,
    _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi16, _mm256_extractf128_ps,
    _mm256_extracti128_si256, _mm256_fmadd_ps, _mm256_hadd_epi32, _mm256_hadd_ps, _mm256_loadu_ps,
    _mm256_madd_epi16, _mm256_set1_epi16, _mm256_set1_ps, _mm256_setzero_ps, _mm256_setzero_si256,
};

/// `f32` times `f32`.
#[derive(Clone, Copy)]
pub struct Floats(pub Avx2);
impl Tiles for Floats {
    type W = f32;
    type X = f32;
    type Sum = f32;
    #[inline(always)]
    #[allow(unsafe_code)]
    fn tile<const R: usize, const B: usize>(self, w: [&[f32]; R], x: [&[f32]; B]) -> [[f32; FEW]; R] {
        // SAFETY: an `Avx2` exists, so the CPU has the instructions.
        unsafe { float_tile(w, x) }
    }

    #[inline(always)]
    #[allow(unsafe_code)]
    fn row(self, w: &[f32], x: &[f32]) -> f32 {
        // SAFETY: an `Avx2` exists, so the CPU has the instructions.
        unsafe { float_row(w, x) }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn float_row(w: &[f32], x: &[f32]) -> f32 {
    assert_eq!(w.len(), x.len());
    let (w, w_rest) = w.as_chunks::<{ ALONG * 8 }>();
    let (x, x_rest) = x.as_chunks::<{ ALONG * 8 }>();
    let mut acc = [_mm256_setzero_ps(); ALONG];
    for (w, x) in w.iter().zip(x) {
        let (w, x) = (w.as_chunks().0, x.as_chunks().0);
        for (acc, (w, x)) in acc.iter_mut().zip(w.iter().zip(x)) {
            *acc = _mm256_fmadd_ps(load8(w), load8(x), *acc);
        }
    }
    let [a, b, c, d] = sum4_floats(acc);
    let sum = (a + b) + (c + d);
    if w_rest.is_empty() { sum } else { sum + float_tile([w_rest], [x_rest])[0][0] }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn float_tile<const R: usize, const B: usize>(w: [&[f32]; R], x: [&[f32]; B]) -> [[f32; FEW]; R] {
    let (w, w_tail) = split::<_, 8, R>(w);
    let (x, x_tail) = split::<_, 8, B>(x);
    let mut acc = [[_mm256_setzero_ps(); B]; R];
    for i in 0..w[0].len() {
        // SAFETY: `split` cuts all rows to as many vectors as the first one has.
        #[allow(unsafe_code)]
        let (w, x) = unsafe { (w.map(|w| at(w, i)), x.map(|x| at(x, i))) };
        float_step(&w, &x, &mut acc);
    }
    if let (Some(w), Some(x)) = (w_tail, x_tail) {
        float_step(&w.each_ref(), &x.each_ref(), &mut acc);
    }
    acc.map(|acc| sum4_floats(std::array::from_fn(|b| acc.get(b).copied().unwrap_or(_mm256_setzero_ps()))))
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn float_step<const R: usize, const B: usize>(
    w: &[&[f32; 8]; R],
    x: &[&[f32; 8]; B],
    acc: &mut [[__m256; B]; R],
) {
    let w = w.map(|w| load8(w));
    for (b, x) in x.iter().enumerate() {
        let x = load8(x);
        for (acc, w) in acc.iter_mut().zip(w) {
            acc[b] = _mm256_fmadd_ps(w, x, acc[b]);
        }
    }
}

/// Bytes from codes of weights to those that are brought near meanwhile: a few rows on. Memory guesses no
/// further than to the end of a page, which a row may be.
const AHEAD: usize = 1 << 14;

/// Has what lies `ahead` of some codes brought near: a hint, which never faults, wherever it points.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn fetch(w: &[u8], ahead: usize) {
    _mm_prefetch::<_MM_HINT_T0>(w.as_ptr().wrapping_add(ahead).cast());
}

/// The whole vectors of some rows.
type Whole<'a, T, const L: usize, const R: usize> = [&'a [[T; L]]; R];

/// Rows as whole vectors, all as many, and what is left over, filled up with zeros.
#[inline(always)]
fn split<T: Copy + Default, const L: usize, const R: usize>(
    rows: [&[T]; R],
) -> (Whole<'_, T, L, R>, Option<[[T; L]; R]>) {
    let len = rows[0].len();
    let whole = rows.map(|row| &row[..len].as_chunks::<L>().0[..len / L]);
    let tail = (!len.is_multiple_of(L)).then(|| {
        rows.map(|row| {
            let mut tail = [T::default(); L];
            let rest = row[..len].as_chunks::<L>().1;
            tail[..rest.len()].copy_from_slice(rest);
            tail
        })
    });
    (whole, tail)
}

/// `row[i]`.
///
/// # Safety
/// `i` is less than the length.
#[inline(always)]
#[allow(unsafe_code)]
pub unsafe fn at<T>(row: &[T], i: usize) -> &T {
    debug_assert!(i < row.len());
    // SAFETY: as the caller promises.
    unsafe { row.get_unchecked(i) }
}

#[inline]
#[target_feature(enable = "avx2")]
#[allow(unsafe_code)]
fn load8(x: &[f32; 8]) -> __m256 {
    // SAFETY: the array holds the 32 bytes that are read; the load takes any alignment.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

/// The sums of the lanes of four vectors.
#[inline]
#[target_feature(enable = "avx2")]
fn sum4_floats([a, b, c, d]: [__m256; 4]) -> [f32; 4] {
    let sums = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    let sums = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums));
    bytemuck::cast(std::array::from_fn::<_, 1, _>(|_| sums))
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sum4_integers([a, b, c, d]: [__m256i; 4]) -> [i32; 4] {
    let sums = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    let sums = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    bytemuck::cast(std::array::from_fn::<_, 1, _>(|_| sums))
}

impl Strips for Floats {
    #[inline(always)]
    #[allow(unsafe_code)]
    fn strip<const R: usize>(
        self,
        w: [&[f32]; R],
        x: &[f32],
        lanes: usize,
        sums: &mut [f32],
        width: usize,
        ahead: [&[u8]; R],
    ) {
        // SAFETY: an `Avx2` exists, so the CPU has the instructions.
        unsafe {
            if lanes == LANES {
                float_strip::<R, 2>(w, x, sums, width, ahead);
            } else {
                float_strip::<R, 1>(w, x, sums, width, ahead);
            }
        }
    }
}

/// Columns, as many as lie in a cache line of what is ahead, and the number of that line.
#[inline(always)]
pub fn lines<'a, X>(x: &'a [X], ahead: &[u8]) -> impl Iterator<Item = (usize, &'a [X])> {
    let lines = ahead.len().div_ceil(LINE).max(1);
    x.chunks((x.len() / lines).max(1)).enumerate()
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Has a line of each row brought near: a hint, which never faults, wherever it points.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub fn prefetch<const R: usize>(ahead: [&[u8]; R], line: usize) {
    for row in ahead {
        _mm_prefetch::<_MM_HINT_T0>(row.as_ptr().wrapping_add(LINE * line).cast());
    }
}

/// `V` vectors of inputs for each column.
#[target_feature(enable = "avx2,fma")]
fn float_strip<const R: usize, const V: usize>(
    w: [&[f32]; R],
    x: &[f32],
    sums: &mut [f32],
    width: usize,
    ahead: [&[u8]; R],
) {
    let x = x.as_chunks::<8>().0.as_chunks::<V>().0;
    let w = w.map(|w| &w[..x.len()]);
    let mut acc = [[_mm256_setzero_ps(); V]; R];
    let mut i = 0;
    for (line, x) in lines(x, ahead[0]) {
        prefetch(ahead, line);
        for x in x {
            let x = x.each_ref().map(|x| load8(x));
            for (acc, w) in acc.iter_mut().zip(w) {
                // SAFETY: all rows are as long as there are columns, which `i` counts.
                #[allow(unsafe_code)]
                let w = _mm256_set1_ps(*unsafe { at(w, i) });
                for (acc, x) in acc.iter_mut().zip(x) {
                    *acc = _mm256_fmadd_ps(w, x, *acc);
                }
            }
            i += 1;
        }
    }
    for (r, acc) in acc.iter().enumerate() {
        let sums = sums[r * width..].as_chunks_mut::<8>().0;
        for (sums, acc) in sums[..V].iter_mut().zip(acc) {
            let acc: [f32; 8] = bytemuck::cast(*acc);
            sums.iter_mut().zip(acc).for_each(|(sum, acc)| *sum += acc);
        }
    }
}

/// See [`Form::dots`](super::quads::Form::dots), which has seen that all rows are as long.
#[allow(unsafe_code)]
pub(super) fn dots(_: Avx2, w: [&[u8]; FEW_ROWS], flip: u8, x: &[u8]) -> [[i32; 2]; FEW_ROWS] {
    // SAFETY: an `Avx2` exists, so the CPU has the instructions.
    unsafe { dot_rows(w, flip, x) }
}

#[target_feature(enable = "avx2,fma")]
fn dot_rows(w: [&[u8]; FEW_ROWS], flip: u8, x: &[u8]) -> [[i32; 2]; FEW_ROWS] {
    let (x, x_rest) = x.as_chunks::<16>();
    let whole = w.map(|w| &w.as_chunks::<16>().0[..x.len()]);
    let (flips, ones) = (_mm_set1_epi8(flip as i8), _mm256_set1_epi16(1));
    let mut acc = [[_mm256_setzero_si256(); 2]; FEW_ROWS];
    for (i, x) in x.iter().enumerate() {
        let x = _mm256_cvtepu8_epi16(bytemuck::cast(*x));
        for (acc, w) in acc.iter_mut().zip(whole) {
            // SAFETY: all rows are cut to as many vectors as the input has.
            #[allow(unsafe_code)]
            let w = unsafe { at(w, i) };
            fetch(w, AHEAD);
            let w = _mm256_cvtepi8_epi16(_mm_xor_si128(bytemuck::cast(*w), flips));
            acc[0] = _mm256_add_epi32(acc[0], _mm256_madd_epi16(w, x));
            acc[1] = _mm256_add_epi32(acc[1], _mm256_madd_epi16(w, ones));
        }
    }
    let [a, b, c, d] = acc;
    let first = sum4_integers([a[0], a[1], b[0], b[1]]);
    let last = sum4_integers([c[0], c[1], d[0], d[1]]);
    let mut sums: [[i32; 2]; FEW_ROWS] = bytemuck::cast([first, last]);
    for (sums, w) in sums.iter_mut().zip(w) {
        let rest = plain_dot(&w[16 * x.len()..], flip, x_rest);
        *sums = [sums[0] + rest[0], sums[1] + rest[1]];
    }
    sums
}

/// The sum of a row of 4-bit codes, on a grid for each step of `groups`, with an input.
#[allow(unsafe_code)]
pub fn nibble_floats(
    _: Avx2,
    w: &[Codes],
    grids: Grids<'_, f32>,
    x: &[[f32; TOGETHER]],
    groups: usize,
) -> f32 {
    // SAFETY: an `Avx2` exists, so the CPU has the instructions.
    unsafe { nibble_float_steps(w, grids, x, groups) }
}

#[target_feature(enable = "avx2,fma")]
fn nibble_float_steps(w: &[Codes], grids: Grids<'_, f32>, x: &[[f32; TOGETHER]], groups: usize) -> f32 {
    let mut total = [_mm256_setzero_ps(); 4];
    for (i, (w, x)) in w.chunks_exact(groups).zip(x.chunks_exact(groups)).enumerate() {
        fetch(w.as_flattened(), AHEAD / 2);
        let zero = _mm_set1_epi8(grids.zero(i) as i8);
        let mut acc = [_mm256_setzero_ps(); 4];
        for (w, x) in w.iter().zip(x) {
            let [a, b, c, d] = x.as_chunks::<8>().0 else { continue };
            let (low, high) = halves(w);
            let (low, high) = (_mm_sub_epi8(low, zero), _mm_sub_epi8(high, zero));
            acc[0] = _mm256_fmadd_ps(widen8(low), load8(a), acc[0]);
            acc[1] = _mm256_fmadd_ps(widen8(_mm_srli_si128::<8>(low)), load8(b), acc[1]);
            acc[2] = _mm256_fmadd_ps(widen8(high), load8(c), acc[2]);
            acc[3] = _mm256_fmadd_ps(widen8(_mm_srli_si128::<8>(high)), load8(d), acc[3]);
        }
        let scale = _mm256_set1_ps(grids.scales[i]);
        for (total, acc) in total.iter_mut().zip(acc) {
            *total = _mm256_fmadd_ps(scale, acc, *total);
        }
    }
    sum4_floats(total).iter().sum()
}

/// The codes of even columns, and of odd ones.
#[inline]
#[target_feature(enable = "avx2")]
#[allow(unsafe_code)]
fn halves(w: &Codes) -> (__m128i, __m128i) {
    // SAFETY: the array holds the 16 bytes that are read; the load takes any alignment.
    let w = unsafe { _mm_loadu_si128(w.as_ptr().cast()) };
    let mask = _mm_set1_epi8(15);
    (_mm_and_si128(w, mask), _mm_and_si128(_mm_srli_epi16::<4>(w), mask))
}

/// The first eight bytes as floats.
#[inline]
#[target_feature(enable = "avx2")]
fn widen8(x: __m128i) -> __m256 {
    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x))
}
