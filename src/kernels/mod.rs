//! Inner loops on slices. Nothing here knows of tensors, weights or models.
//!
//! Results never depend on the number of threads: work is cut into blocks of fixed size, and a sum is
//! always taken within one block or over blocks in order.

pub mod cpu;
mod gemm;
pub mod int8;
pub mod memory;
pub mod quantize;

/// What the kernels do for a number type; implemented for `f32` and `f64`.
pub trait Kernels: Sized + quantize::Quantize {
    /// Bits of a magnitude.
    #[doc(hidden)]
    const MAGNITUDE_BITS: u32;
    /// The bits of the absolute value: ordered as absolute values are, infinities and NaN on top.
    #[doc(hidden)]
    fn magnitude(self) -> u64;
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
    const MAGNITUDE_BITS: u32 = 31;

    fn magnitude(self) -> u64 {
        u64::from(self.to_bits() & !(1 << 31))
    }

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
    const MAGNITUDE_BITS: u32 = 63;

    fn magnitude(self) -> u64 {
        self.to_bits() & !(1 << 63)
    }

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
