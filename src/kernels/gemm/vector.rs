//! Vectors of numbers. So many of them as a tile needs, the compiler does not reliably find by itself.

use crate::kernels::cpu::multiply_add;
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::{Avx2, Avx512};
use num_traits::Float;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256, __m256d, __m512, __m512d, _mm256_fmadd_pd, _mm256_fmadd_ps, _mm256_loadu_pd, _mm256_loadu_ps,
    _mm256_set1_pd, _mm256_set1_ps, _mm256_storeu_pd, _mm256_storeu_ps, _mm512_fmadd_pd, _mm512_fmadd_ps,
    _mm512_loadu_pd, _mm512_loadu_ps, _mm512_set1_pd, _mm512_set1_ps, _mm512_storeu_pd, _mm512_storeu_ps,
};

/// `LEN` numbers side by side.
pub trait Vector<T>: Copy {
    const LEN: usize;
    /// The proof that the CPU has the instructions.
    type Cpu: Copy;

    fn zero(cpu: Self::Cpu) -> Self;
    /// The first `LEN` numbers, of which there must be so many.
    fn load(cpu: Self::Cpu, from: &[T]) -> Self;
    /// `self + a * b`.
    fn add_product(self, a: T, b: Self) -> Self;
    /// The inverse of [`load`](Self::load).
    fn store(self, to: &mut [T]);
}

/// The portable form. `FUSED`: a product and a sum are rounded once.
#[derive(Clone, Copy)]
pub struct Array<T, const N: usize, const FUSED: bool>([T; N]);

impl<T: Float, const N: usize, const FUSED: bool> Vector<T> for Array<T, N, FUSED> {
    const LEN: usize = N;
    type Cpu = ();

    #[inline(always)]
    fn zero((): ()) -> Self {
        Self([T::zero(); N])
    }

    #[inline(always)]
    fn load((): (), from: &[T]) -> Self {
        let mut values = [T::zero(); N];
        values.copy_from_slice(&from[..N]);
        Self(values)
    }

    #[inline(always)]
    fn add_product(mut self, a: T, b: Self) -> Self {
        for (sum, b) in self.0.iter_mut().zip(b.0) {
            *sum = multiply_add::<T, FUSED>(a, b, *sum);
        }
        self
    }

    #[inline(always)]
    fn store(self, to: &mut [T]) {
        to[..N].copy_from_slice(&self.0);
    }
}

/// A vector of an instruction set. There is one only where the CPU has that.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub struct Of<V>(V);

#[cfg(target_arch = "x86_64")]
macro_rules! vector {
    ($t:ty, $n:literal, $cpu:ty, $v:ty, $load:ident, $splat:ident, $fma:ident, $store:ident) => {
        #[allow(unsafe_code)]
        impl Vector<$t> for Of<$v> {
            const LEN: usize = $n;
            type Cpu = $cpu;

            #[inline(always)]
            fn zero(_: $cpu) -> Self {
                // SAFETY: the token says that the CPU has the instruction.
                Self(unsafe { $splat(0.0) })
            }

            #[inline(always)]
            fn load(_: $cpu, from: &[$t]) -> Self {
                let from = &from[..$n];
                // SAFETY: there are so many numbers, and the token says that the CPU has the instruction.
                Self(unsafe { $load(from.as_ptr()) })
            }

            #[inline(always)]
            fn add_product(self, a: $t, b: Self) -> Self {
                // SAFETY: a vector exists, so the CPU has the instructions.
                Self(unsafe { $fma($splat(a), b.0, self.0) })
            }

            #[inline(always)]
            fn store(self, to: &mut [$t]) {
                let to = &mut to[..$n];
                // SAFETY: there is room for so many numbers, and a vector exists, so the CPU has the instruction.
                unsafe { $store(to.as_mut_ptr(), self.0) }
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
vector!(f32, 8, Avx2, __m256, _mm256_loadu_ps, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_storeu_ps);
#[cfg(target_arch = "x86_64")]
vector!(f64, 4, Avx2, __m256d, _mm256_loadu_pd, _mm256_set1_pd, _mm256_fmadd_pd, _mm256_storeu_pd);
#[cfg(target_arch = "x86_64")]
vector!(f32, 16, Avx512, __m512, _mm512_loadu_ps, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_storeu_ps);
#[cfg(target_arch = "x86_64")]
vector!(f64, 8, Avx512, __m512d, _mm512_loadu_pd, _mm512_set1_pd, _mm512_fmadd_pd, _mm512_storeu_pd);
