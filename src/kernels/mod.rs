//! Inner loops on slices. Nothing here knows of tensors, weights or models.
//!
//! Results never depend on the number of threads: work is cut into blocks of fixed size, and a sum is
//! always taken within one block or over blocks in order.

#[cfg(target_arch = "x86_64")]
mod avx2;
pub mod codebook;
pub mod cpu;
pub mod dots;
mod gemm;
pub mod memory;
pub mod prune;
pub mod quantize;
pub mod sparse;
pub mod unpack;

use dots::{Panels, Rows};
use std::ops::Range;

/// What the kernels do for a number type; implemented for `f32` and `f64`.
pub trait Kernels: prune::Magnitude + quantize::Quantize + codebook::Share {
    /// `c [m, n] = alpha * op(a) * op(b) + beta * c`, row-major.
    #[doc(hidden)]
    fn gemm(
        shape: [usize; 3],
        alpha: Self,
        a: (&[Self], bool),
        b: (&[Self], bool),
        beta: Self,
        c: &mut [Self],
    );
    /// `out[i] = scale * integers[i]`, rounded once.
    #[doc(hidden)]
    fn scale_integers(scale: Self, integers: &[i16], out: &mut [Self]);
    /// `c [m, n] += w [m, k] x [n, k]^T` on this thread, for `[m, k, n]`.
    #[doc(hidden)]
    fn dots(w: Rows<'_, Self>, x: Rows<'_, Self>, shape: [usize; 3], c: &mut [Self]);
    /// The same for up to [`dots::ROWS`] rows of weights that `fill(row, columns, values)` decodes.
    #[doc(hidden)]
    fn blocked_dots(fill: impl FnMut(usize, Range<usize>, &mut [Self]), x: &Panels<Self>, c: &mut [Self]);
}

impl Kernels for f32 {
    fn gemm(
        shape: [usize; 3],
        alpha: Self,
        a: (&[Self], bool),
        b: (&[Self], bool),
        beta: Self,
        c: &mut [Self],
    ) {
        gemm::gemm(shape, alpha, a, b, beta, c);
    }

    fn scale_integers(scale: Self, integers: &[i16], out: &mut [Self]) {
        cpu::fast(
            #[inline(always)]
            || out.iter_mut().zip(integers).for_each(|(out, i)| *out = f32::from(*i) * scale),
        );
    }

    fn dots(w: Rows<'_, Self>, x: Rows<'_, Self>, shape: [usize; 3], c: &mut [Self]) {
        dots::floats(w, x, shape, c);
    }

    fn blocked_dots(fill: impl FnMut(usize, Range<usize>, &mut [Self]), x: &Panels<Self>, c: &mut [Self]) {
        dots::blocked_floats(fill, x, c);
    }
}

impl Kernels for f64 {
    fn gemm(
        shape: [usize; 3],
        alpha: Self,
        a: (&[Self], bool),
        b: (&[Self], bool),
        beta: Self,
        c: &mut [Self],
    ) {
        gemm::gemm(shape, alpha, a, b, beta, c);
    }

    fn scale_integers(scale: Self, integers: &[i16], out: &mut [Self]) {
        cpu::fast(
            #[inline(always)]
            || out.iter_mut().zip(integers).for_each(|(out, i)| *out = f64::from(*i) * scale),
        );
    }

    fn dots(w: Rows<'_, Self>, x: Rows<'_, Self>, shape: [usize; 3], c: &mut [Self]) {
        gemm::rows(w, x, shape, c);
    }

    fn blocked_dots(fill: impl FnMut(usize, Range<usize>, &mut [Self]), x: &Panels<Self>, c: &mut [Self]) {
        dots::blocked_by(fill, x, c, gemm::rows);
    }
}
