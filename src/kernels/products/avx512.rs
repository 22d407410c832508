//! AVX-512 forms of the products of floats: a strip of inputs is one vector.

use super::avx2::{self, at, lines, prefetch};
use super::dots::{ALONG, Tiles};
use super::panels::{FEW, LANES};
use super::strips::Strips;
use crate::kernels::cpu::{Avx2, Avx512};
use std::arch::x86_64::{
    __m512, _MM_HINT_T0, _mm_prefetch, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_maskz_loadu_ps, _mm512_reduce_add_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

/// `f32` times `f32`.
#[derive(Clone, Copy)]
pub struct Floats(pub Avx512, pub Avx2);

impl Tiles for Floats {
    type W = f32;
    type X = f32;
    type Sum = f32;
    #[inline(always)]
    #[allow(unsafe_code)]
    fn tile<const R: usize, const B: usize>(self, w: [&[f32]; R], x: [&[f32]; B]) -> [[f32; FEW]; R] {
        // SAFETY: an `Avx512` exists, so the CPU has the instructions.
        unsafe { tile(w, x) }
    }

    #[inline(always)]
    #[allow(unsafe_code)]
    fn row(self, w: &[f32], x: &[f32]) -> f32 {
        // SAFETY: an `Avx512` exists, so the CPU has the instructions.
        unsafe { row(w, x) }
    }
}

/// Bytes from weights to those of the same row, or the next, that are brought near meanwhile.
const AHEAD: usize = 1 << 12;

#[target_feature(enable = "avx512f")]
#[allow(unsafe_code)]
fn tile<const R: usize, const B: usize>(w: [&[f32]; R], x: [&[f32]; B]) -> [[f32; FEW]; R] {
    let len = w[0].len();
    assert!(w.iter().chain(&x).all(|row| row.len() == len));
    let mut acc = [[_mm512_setzero_ps(); B]; R];
    for at in (0..len).step_by(LANES) {
        let mask = u16::MAX >> LANES.saturating_sub(len - at);
        // SAFETY: nothing is read but what the mask has: values up to the end of the row.
        let load = |row: &[f32]| unsafe { _mm512_maskz_loadu_ps(mask, row.as_ptr().add(at)) };
        let mut now = [_mm512_setzero_ps(); B];
        now.iter_mut().zip(x).for_each(|(now, x)| *now = load(x));
        for (acc, w) in acc.iter_mut().zip(w) {
            _mm_prefetch::<_MM_HINT_T0>(w.as_ptr().wrapping_add(at).cast::<i8>().wrapping_add(AHEAD));
            let w = load(w);
            for (acc, x) in acc.iter_mut().zip(now) {
                *acc = _mm512_fmadd_ps(w, x, *acc);
            }
        }
    }
    acc.map(|acc| std::array::from_fn(|b| acc.get(b).map_or(0.0, |acc| _mm512_reduce_add_ps(*acc))))
}

#[target_feature(enable = "avx512f")]
#[allow(unsafe_code)]
fn row(w: &[f32], x: &[f32]) -> f32 {
    assert_eq!(w.len(), x.len());
    let (w, w_rest) = w.as_chunks::<{ ALONG * LANES }>();
    let (x, x_rest) = x.as_chunks::<{ ALONG * LANES }>();
    let mut acc = [_mm512_setzero_ps(); ALONG];
    for (w, x) in w.iter().zip(x) {
        let (w, x) = (w.as_chunks::<LANES>().0, x.as_chunks::<LANES>().0);
        for (acc, (w, x)) in acc.iter_mut().zip(w.iter().zip(x)) {
            _mm_prefetch::<_MM_HINT_T0>(w.as_ptr().cast::<i8>().wrapping_add(AHEAD));
            // SAFETY: arrays of 64 bytes.
            *acc = unsafe { _mm512_fmadd_ps(_mm512_loadu_ps(w.as_ptr()), _mm512_loadu_ps(x.as_ptr()), *acc) };
        }
    }
    let [a, b, c, d] = acc;
    let sum = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)));
    if w_rest.is_empty() { sum } else { sum + tile([w_rest], [x_rest])[0][0] }
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
        if lanes != LANES {
            return avx2::Floats(self.1).strip(w, x, lanes, sums, width, ahead);
        }
        // SAFETY: an `Avx512` and an `Avx2` exist, so the CPU has the instructions.
        unsafe { strip(w, x, sums, width, ahead) }
    }
}

/// Columns whose sums go on side by side: an instruction need not wait for the one before.
const SIDE: usize = 2;

#[target_feature(enable = "avx512f,avx2,fma")]
fn strip<const R: usize>(w: [&[f32]; R], x: &[f32], sums: &mut [f32], width: usize, ahead: [&[u8]; R]) {
    let x = x.as_chunks::<LANES>().0;
    let w = w.map(|w| &w[..x.len()]);
    let mut acc = [[_mm512_setzero_ps(); R]; SIDE];
    let mut i = 0;
    for (line, x) in lines(x, ahead[0]) {
        prefetch(ahead, line);
        let (sides, rest) = x.as_chunks::<SIDE>();
        for x in sides {
            for (acc, x) in acc.iter_mut().zip(x) {
                // SAFETY: all rows are as long as there are columns, which `i` counts.
                #[allow(unsafe_code)]
                unsafe {
                    add_column(w, i, x, acc);
                }
                i += 1;
            }
        }
        for x in rest {
            // SAFETY: the same.
            #[allow(unsafe_code)]
            unsafe {
                add_column(w, i, x, &mut acc[0]);
            }
            i += 1;
        }
    }
    for r in 0..R {
        let sums = &mut sums[r * width..][..LANES];
        // SAFETY: there are that many sums.
        #[allow(unsafe_code)]
        unsafe {
            let sum = _mm512_add_ps(_mm512_loadu_ps(sums.as_ptr()), _mm512_add_ps(acc[0][r], acc[1][r]));
            _mm512_storeu_ps(sums.as_mut_ptr(), sum);
        }
    }
}

/// `acc += w[..][i] * x`.
///
/// # Safety
/// `i` is less than the length of each row.
#[inline]
#[target_feature(enable = "avx512f")]
#[allow(unsafe_code)]
unsafe fn add_column<const R: usize>(w: [&[f32]; R], i: usize, x: &[f32; LANES], acc: &mut [__m512; R]) {
    // SAFETY: the array holds the 64 bytes that are read.
    let x = unsafe { _mm512_loadu_ps(x.as_ptr()) };
    for (acc, w) in acc.iter_mut().zip(w) {
        // SAFETY: as the caller promises.
        *acc = _mm512_fmadd_ps(_mm512_set1_ps(*unsafe { at(w, i) }), x, *acc);
    }
}
