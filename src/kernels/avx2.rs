//! Tiles of [`dots`](super::dots) in AVX2. Whoever holds an [`Avx2`] has asked the CPU for it.

use super::cpu::Avx2;
use super::dots::Tiles;
use std::arch::x86_64::{
    __m128i, __m256, __m256i, _mm_add_epi32, _mm_add_ps, _mm_loadu_si128, _mm256_add_epi32,
    _mm256_castps256_ps128, _mm256_castsi256_si128, _mm256_cvtepu8_epi16, _mm256_extractf128_ps,
    _mm256_extracti128_si256, _mm256_fmadd_ps, _mm256_hadd_epi32, _mm256_hadd_ps, _mm256_loadu_ps,
    _mm256_loadu_si256, _mm256_madd_epi16, _mm256_setzero_ps, _mm256_setzero_si256,
};

/// `f32` times `f32`.
#[derive(Clone, Copy)]
pub struct Floats(pub Avx2);
/// `i16` times `i16`.
#[derive(Clone, Copy)]
pub struct Integers(pub Avx2);
/// `u8` times `i16`.
#[derive(Clone, Copy)]
pub struct Bytes(pub Avx2);

impl Tiles for Floats {
    type W = f32;
    type X = f32;
    type Sum = f32;
    const HEIGHT: usize = 3;
    #[inline(always)]
    #[allow(unsafe_code)]
    fn tile<const R: usize, const B: usize>(self, w: [&[f32]; R], x: [&[f32]; B]) -> [[f32; 4]; R] {
        // SAFETY: an `Avx2` exists, so the CPU has the instructions.
        unsafe { float_tile(w, x) }
    }
}

impl Tiles for Integers {
    type W = i16;
    type X = i16;
    type Sum = i32;
    const HEIGHT: usize = 2;
    #[inline(always)]
    #[allow(unsafe_code)]
    fn tile<const R: usize, const B: usize>(self, w: [&[i16]; R], x: [&[i16]; B]) -> [[i32; 4]; R] {
        // SAFETY: an `Avx2` exists, so the CPU has the instructions.
        unsafe { integer_tile(w, x, |w| load16(w)) }
    }
}

impl Tiles for Bytes {
    type W = u8;
    type X = i16;
    type Sum = i32;
    const HEIGHT: usize = 2;
    #[inline(always)]
    #[allow(unsafe_code)]
    fn tile<const R: usize, const B: usize>(self, w: [&[u8]; R], x: [&[i16]; B]) -> [[i32; 4]; R] {
        // SAFETY: an `Avx2` exists, so the CPU has the instructions.
        unsafe { integer_tile(w, x, |w| widen16(w)) }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn float_tile<const R: usize, const B: usize>(w: [&[f32]; R], x: [&[f32]; B]) -> [[f32; 4]; R] {
    let (w, w_tail) = split::<_, 8, R>(w);
    let (x, x_tail) = split::<_, 8, B>(x);
    let mut acc = [[_mm256_setzero_ps(); B]; R];
    for i in 0..w[0].len() {
        float_step(&w.map(|w| at(w, i)), &x.map(|x| at(x, i)), &mut acc);
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

#[inline]
#[target_feature(enable = "avx2,fma")]
fn integer_tile<W: Copy + Default, const R: usize, const B: usize>(
    w: [&[W]; R],
    x: [&[i16]; B],
    load: impl Fn(&[W; 16]) -> __m256i,
) -> [[i32; 4]; R] {
    let (w, w_tail) = split::<_, 16, R>(w);
    let (x, x_tail) = split::<_, 16, B>(x);
    let mut acc = [[_mm256_setzero_si256(); B]; R];
    for i in 0..w[0].len() {
        integer_step(&w.map(|w| load(at(w, i))), &x.map(|x| at(x, i)), &mut acc);
    }
    if let (Some(w), Some(x)) = (w_tail, x_tail) {
        integer_step(&w.each_ref().map(&load), &x.each_ref(), &mut acc);
    }
    acc.map(|acc| {
        sum4_integers(std::array::from_fn(|b| acc.get(b).copied().unwrap_or(_mm256_setzero_si256())))
    })
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn integer_step<const R: usize, const B: usize>(
    w: &[__m256i; R],
    x: &[&[i16; 16]; B],
    acc: &mut [[__m256i; B]; R],
) {
    for (b, x) in x.iter().enumerate() {
        let x = load16(x);
        for (acc, w) in acc.iter_mut().zip(w) {
            acc[b] = _mm256_add_epi32(acc[b], _mm256_madd_epi16(*w, x));
        }
    }
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

/// A vector of a row. All rows of a tile have as many, and `i` counts those of the first.
#[inline(always)]
#[allow(unsafe_code)]
fn at<T>(row: &[T], i: usize) -> &T {
    debug_assert!(i < row.len());
    // SAFETY: `split` cuts all rows to the same number of vectors, and its callers count up to it.
    unsafe { row.get_unchecked(i) }
}

#[inline]
#[target_feature(enable = "avx2")]
#[allow(unsafe_code)]
fn load8(x: &[f32; 8]) -> __m256 {
    // SAFETY: the array holds the 32 bytes that are read; the load takes any alignment.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2")]
#[allow(unsafe_code)]
fn load16(x: &[i16; 16]) -> __m256i {
    // SAFETY: the array holds the 32 bytes that are read; the load takes any alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
#[allow(unsafe_code)]
fn widen16(x: &[u8; 16]) -> __m256i {
    // SAFETY: the array holds the 16 bytes that are read; the load takes any alignment.
    let x: __m128i = unsafe { _mm_loadu_si128(x.as_ptr().cast()) };
    _mm256_cvtepu8_epi16(x)
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
fn sum4_integers([a, b, c, d]: [__m256i; 4]) -> [i32; 4] {
    let sums = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    let sums = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    bytemuck::cast(std::array::from_fn::<_, 1, _>(|_| sums))
}
