//! Inner loops on slices. Nothing here knows of tensors, weights or models.
//!
//! Results never depend on the number of threads: work is cut into blocks of fixed size, and a sum is
//! always taken within one block or over blocks in order.

pub mod cpu;
mod gemm;
pub mod int8;
pub mod prune;

/// What the kernels do for a number type; implemented for `f32` and `f64`.
pub trait Kernels: prune::Magnitude {
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
}
