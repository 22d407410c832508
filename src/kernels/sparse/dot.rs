//! The sum of the kept values of a row with one input at their places.

use super::{Bits, Bytes, WORD};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512, two_of_four, vbmi2};
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::{Avx2, Vbmi2, Vnni};
use num_traits::{Float, NumAssign};

/// For rows with many kept values: goes from entry to entry.
pub(super) fn dot_dense<T: Float + NumAssign>(bits: Bits<'_>, mut kept: &[T], x: &[T]) -> T {
    let mut sum = T::zero();
    for (i, x) in x.chunks(WORD).enumerate().take(bits.len()) {
        let bits = bits.word(i);
        sum += word(bits, kept, x);
        kept = &kept[kept.len().min(bits.count_ones() as usize)..];
    }
    sum
}

/// The sum of the kept values of one word.
pub(super) fn word<T: Float + NumAssign>(bits: u64, kept: &[T], x: &[T]) -> T {
    word_by(bits, kept, x, |value| *value)
}

/// The same of what stands for them.
pub(super) fn word_by<K, T: Float + NumAssign>(
    mut bits: u64,
    kept: &[K],
    x: &[T],
    number: impl Fn(&K) -> T,
) -> T {
    let mut sum = T::zero();
    for value in kept.iter().take(bits.count_ones() as usize) {
        sum += number(value) * x[bits.trailing_zeros() as usize];
        bits &= bits - 1;
    }
    sum
}

pub(super) fn dot_dense_f32(bits: Bits<'_>, kept: &[f32], x: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if let Some(cpu) = Vbmi2::new() {
        return avx512::dot_floats(cpu, bits, kept, x);
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(cpu) = Avx2::new() {
        let sum = avx2::dot_row(cpu, bits, kept, x);
        // Pruned entries have met the input: not finite where that is not.
        if sum.is_finite() {
            return sum;
        }
    }
    dot_dense(bits, kept, x)
}

pub(super) fn dot_codes_f32(
    bits: Bits<'_>,
    codes: &[u8],
    (scale, zero): (f32, u8),
    x: &[f32],
) -> Option<f32> {
    #[cfg(target_arch = "x86_64")]
    if let Some(cpu) = Vbmi2::new() {
        // Not finite where the sum alone is too large: the numbers themselves may be small enough.
        return Some(scale * avx512::dot_codes(cpu, bits, codes, zero, x)).filter(|sum| sum.is_finite());
    }
    let _ = (bits, codes, scale, zero, x);
    None
}

/// Sums of rows of bytes, in integers: on CPUs that have a way which is worth it.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub struct ByteDots {
    #[cfg(target_arch = "x86_64")]
    cpu: (Vbmi2, Vnni),
    #[cfg(not(target_arch = "x86_64"))]
    cpu: std::convert::Infallible,
}

impl ByteDots {
    pub fn new() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        return Some(Self { cpu: (Vbmi2::new()?, Vnni::new()?) });
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    /// The exact sum of `(code - zero) * (x + offset)` over the kept entries of a row, with `x` at their places, for a
    /// `grid` of zero and offset: of as many as an `i32` holds. `kept` holds as many codes as bits are set, or more.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    pub fn sum(self, bits: Bits<'_>, kept: &[u8], grid: (u8, i32), x: &Bytes) -> i32 {
        assert!(x.get().len() >= bits.cols);
        #[cfg(target_arch = "x86_64")]
        return two_of_four::dot(self.cpu, bits, kept, grid, x.get())
            .unwrap_or_else(|| vbmi2::dot(self.cpu, bits, kept, grid, x.get()));
        #[cfg(not(target_arch = "x86_64"))]
        match self.cpu {}
    }
}
