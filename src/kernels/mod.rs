//! Inner loops on slices, and what else needs `unsafe`. Nothing here knows of tensors, weights or models.
//!
//! Results never depend on the number of threads: work is cut into blocks of fixed size, and a sum is
//! always taken within one block or over blocks in order.

pub mod by_columns;
pub mod codebook;
pub mod cpu;
#[cfg(feature = "files")]
pub mod disk;
pub mod gemm;
pub mod memory;
pub mod products;
pub mod prune;
pub mod quantize;
pub mod sparse;
pub mod transpose;

use products::{Grids, Panels, Sorted, Source};

/// What the kernels do for a number type; implemented for `f32` and `f64`.
pub trait Kernels:
    prune::Magnitude + quantize::Quantize + sparse::Sparse + codebook::Share + gemm::Lanes
{
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
    /// `c [m, n] += w x^T` on this thread, for `m` rows of weights.
    #[doc(hidden)]
    fn products(w: Source<'_, Self>, x: &Panels<Self>, m: usize, c: &mut [Self]);
    /// An input for [`nibbles`](Self::nibbles) with weights on such grids.
    #[doc(hidden)]
    fn sorted(x: &[Self], step: usize, grids: Grids<'_, Self>) -> Sorted<Self>;
    /// See [`products::nibbles_f32`].
    #[doc(hidden)]
    fn nibbles(w: &[u8], grids: Grids<'_, Self>, x: &Sorted<Self>, step: usize) -> Self;
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

    fn products(w: Source<'_, Self>, x: &Panels<Self>, m: usize, c: &mut [Self]) {
        products::floats(w, x, m, c);
    }

    fn sorted(x: &[Self], step: usize, grids: Grids<'_, Self>) -> Sorted<Self> {
        Sorted::floats(x, step, grids)
    }

    fn nibbles(w: &[u8], grids: Grids<'_, Self>, x: &Sorted<Self>, step: usize) -> Self {
        products::nibbles_f32(w, grids, x, step)
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

    fn products(w: Source<'_, Self>, x: &Panels<Self>, m: usize, c: &mut [Self]) {
        products::doubles(w, x, m, c);
    }

    fn sorted(x: &[Self], _: usize, _: Grids<'_, Self>) -> Sorted<Self> {
        Sorted::doubles(x)
    }

    fn nibbles(w: &[u8], grids: Grids<'_, Self>, x: &Sorted<Self>, step: usize) -> Self {
        products::nibbles_any(w, grids, x, step)
    }
}
