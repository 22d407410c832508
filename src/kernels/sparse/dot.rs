//! The sum of the kept values of a row with one input at their places.

use super::{Bits, Bytes, WORD, expand_bytes};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512, two_of_four, two_of_four_avx2, vbmi2};
use crate::kernels::cpu::fast;
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::{Avx2, Vbmi2, Vnni};
#[cfg(target_arch = "x86_64")]
use crate::kernels::memory::Aligned;
use crate::kernels::memory::with_room;
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

/// Sums of rows of bytes with an input, in integers: for weights that they [`suit`](Self::suit), else slow.
pub struct ByteDots {
    x: Bytes,
    #[cfg(target_arch = "x86_64")]
    avx512: Option<(Vbmi2, Vnni)>,
    /// With the input in order for it, where there is nothing better.
    #[cfg(target_arch = "x86_64")]
    avx2: Option<(Avx2, Aligned<u8>)>,
}

impl ByteDots {
    /// Whether there is a way that is worth it for a weight with such a row.
    pub fn suit(row: Bits<'_>) -> bool {
        #[cfg(target_arch = "x86_64")]
        return Vbmi2::new().zip(Vnni::new()).is_some()
            || Avx2::new().is_some() && two_of_four::vectors(row).is_some();
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = row;
            false
        }
    }

    pub fn new(x: Bytes) -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx512 = Vbmi2::new().zip(Vnni::new());
            let avx2 = Avx2::new().filter(|_| avx512.is_none());
            let avx2 = avx2.map(|cpu| (cpu, two_of_four_avx2::sorted(x.get())));
            Self { x, avx512, avx2 }
        }
        #[cfg(not(target_arch = "x86_64"))]
        Self { x }
    }

    /// The exact sum of `(code - zero) * (x + offset)` over the kept entries of a row, with `x` at their places, for a
    /// `grid` of zero and offset: of as many as an `i32` holds. `kept` holds as many codes as bits are set, or more.
    pub fn sum(&self, bits: Bits<'_>, kept: &[u8], grid: (u8, i32)) -> i32 {
        let x = self.x.get();
        assert!(x.len() >= bits.cols);
        #[cfg(target_arch = "x86_64")]
        if let Some(cpu) = self.avx512 {
            return two_of_four::dot(cpu, bits, kept, grid, x)
                .unwrap_or_else(|| vbmi2::dot(cpu, bits, kept, grid, x));
        } else if let Some((cpu, x)) = &self.avx2
            && let Some(sum) = two_of_four_avx2::dot(*cpu, bits, kept, grid, x.get())
        {
            return sum;
        }
        spread_dot(bits, kept, grid, x)
    }
}

/// The portable form: of all entries of the row.
pub(super) fn spread_dot(bits: Bits<'_>, kept: &[u8], (zero, offset): (u8, i32), x: &[i8]) -> i32 {
    with_room(bits.cols, |all: &mut [u8]| {
        expand_bytes(bits, kept, zero, all);
        let (all, zero) = (all.iter().zip(x), i32::from(zero));
        fast(
            #[inline(always)]
            || all.map(|(code, x)| (i32::from(*code) - zero) * (i32::from(*x) + offset)).sum(),
        )
    })
}
