//! The sum of the kept values of a row with one input at their places.

use super::{Bits, Sparse, WORD};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512, vbmi2};
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::{Avx2, Vbmi2, Vnni};
use crate::kernels::cpu::{fast, has_fused, multiply_add};
use num_traits::{Float, NumAssign};

/// A row is gone through entry by entry where more than a `MANY_SHARE`th is kept, bit by bit otherwise.
const MANY_SHARE: usize = 5;
/// Words are short where less than a `THIN_SHARE`th is kept: then they rarely have more than twice as many bits.
const THIN_SHARE: usize = 7;

/// An input, ready to meet rows.
pub enum Dots<'a, T> {
    /// Words of a mask are taken as they are.
    Whole(&'a [T]),
    /// Words of which about so many bits are set go from bit to bit.
    Bits(Spaced<T>, usize),
}

impl<'a, T: Sparse + Float + NumAssign> Dots<'a, T> {
    /// For rows that keep `kept` of `len` entries altogether.
    pub fn new(x: &'a [T], kept: usize, len: usize) -> Self {
        if T::takes_words() || kept > len / MANY_SHARE {
            Self::Whole(x)
        } else {
            Self::Bits(Spaced::new(x), (kept * WORD).div_ceil(len.max(1)))
        }
    }

    /// The sum of the kept values of a row with the input at their places.
    pub fn sum(&self, bits: Bits<'_>, kept: &[T]) -> T {
        match self {
            Self::Whole(x) => T::dot_dense(bits, kept, x),
            Self::Bits(x, usual) => dot(bits, kept, x, *usual),
        }
    }

    /// The same of `scale * (code - zero)` for codes of a byte, where they need not become numbers first.
    pub fn sum_of_codes(&self, bits: Bits<'_>, codes: &[u8], grid: (T, u8)) -> Option<T> {
        match self {
            Self::Whole(x) => T::dot_codes(bits, codes, grid, x),
            Self::Bits(..) => None,
        }
    }
}

/// An input with a zero after each `WORD` values: where a word has no bit left, it points there.
pub struct Spaced<T>(Vec<[T; WORD + 1]>);

impl<T: Float> Spaced<T> {
    pub(super) fn new(x: &[T]) -> Self {
        let space = |x: &[T]| {
            let mut out = [T::zero(); WORD + 1];
            out[..x.len()].copy_from_slice(x);
            out
        };
        Self(x.chunks(WORD).map(space).collect())
    }
}

/// For rows with few kept values, about `usual` of each word: goes from bit to bit.
pub(super) fn dot<T: Float + NumAssign>(bits: Bits<'_>, kept: &[T], x: &Spaced<T>, usual: usize) -> T {
    let sum = if has_fused() {
        fast(
            #[inline(always)]
            || some::<T, true>(bits, kept, x, usual),
        )
    } else {
        some::<T, false>(bits, kept, x, usual)
    };
    // A value that is not finite has met zeros that are not its own.
    if sum.is_finite() { sum } else { plain(bits, kept, x.0.as_flattened(), WORD + 1) }
}

/// Some words have more than is usual; to look whether a word is through costs a wrong guess.
#[inline(always)]
fn some<T: Float + NumAssign, const FUSED: bool>(
    bits: Bits<'_>,
    kept: &[T],
    x: &Spaced<T>,
    usual: usize,
) -> T {
    match usual {
        0..=1 => quick::<T, 4, FUSED>(bits, kept, x),
        2..=3 => quick::<T, 6, FUSED>(bits, kept, x),
        4..=5 => quick::<T, 8, FUSED>(bits, kept, x),
        6..=7 => quick::<T, 10, FUSED>(bits, kept, x),
        8..=9 => quick::<T, 12, FUSED>(bits, kept, x),
        _ => quick::<T, 16, FUSED>(bits, kept, x),
    }
}

/// Takes `S` bits of a word, whether there are as many or not, and then what is left.
#[inline(always)]
fn quick<T: Float + NumAssign, const S: usize, const FUSED: bool>(
    bits: Bits<'_>,
    kept: &[T],
    x: &Spaced<T>,
) -> T {
    let mut sums = [T::zero(); S];
    let mut at = 0;
    let whole = bits.whole();
    for (word, x) in whole.iter().zip(&x.0) {
        at += quick_word::<T, S, FUSED>(*word, &kept[at.min(kept.len())..], x, &mut sums);
    }
    for (i, x) in x.0.iter().enumerate().take(bits.len()).skip(whole.len()) {
        at += quick_word::<T, S, FUSED>(bits.word(i), &kept[at.min(kept.len())..], x, &mut sums);
    }
    sums.into_iter().fold(T::zero(), |a, b| a + b)
}

/// Adds one word, and says how many values it took.
#[inline(always)]
fn quick_word<T: Float + NumAssign, const S: usize, const FUSED: bool>(
    bits: u64,
    kept: &[T],
    x: &[T; WORD + 1],
    sums: &mut [T; S],
) -> usize {
    let mut left = bits;
    if let Some(values) = kept.first_chunk::<S>() {
        for (sum, value) in sums.iter_mut().zip(values) {
            // 64, where no bit is left.
            *sum = multiply_add::<T, FUSED>(*value, x[left.trailing_zeros() as usize], *sum);
            left &= left.wrapping_sub(1);
        }
        if left != 0 {
            sums[0] += word(left, &kept[S..], x);
        }
    } else {
        sums[0] += word(left, kept, x);
    }
    bits.count_ones() as usize
}

/// `stride` values of the input for each word.
fn plain<T: Float + NumAssign>(bits: Bits<'_>, mut kept: &[T], x: &[T], stride: usize) -> T {
    let mut sum = T::zero();
    for (i, x) in x.chunks(stride).enumerate().take(bits.len()) {
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

/// For rows with many kept values: goes from entry to entry.
pub(super) fn dot_dense<T: Float + NumAssign>(bits: Bits<'_>, kept: &[T], x: &[T]) -> T {
    plain(bits, kept, x, WORD)
}

/// Whether rows with few kept values need no form of their own.
pub(super) fn takes_words() -> bool {
    #[cfg(target_arch = "x86_64")]
    return Vbmi2::new().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    false
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
    /// Whether few bits of a word are set.
    thin: bool,
    #[cfg(target_arch = "x86_64")]
    cpu: (Vbmi2, Vnni),
    #[cfg(not(target_arch = "x86_64"))]
    cpu: std::convert::Infallible,
}

impl ByteDots {
    /// For rows that keep `kept` of `len` entries altogether.
    pub fn new(kept: usize, len: usize) -> Option<Self> {
        let thin = kept < len / THIN_SHARE;
        #[cfg(target_arch = "x86_64")]
        return Some(Self { thin, cpu: (Vbmi2::new()?, Vnni::new()?) });
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = thin;
            None
        }
    }

    /// The exact sum of `(code - zero) * (x + offset)` over the kept entries of a row, with `x` at their places, for a
    /// `grid` of zero and offset: of as many as an `i32` holds. `x` is filled up to whole words, and `kept` holds as many
    /// codes as bits are set, or more.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    pub fn sum(self, bits: Bits<'_>, kept: &[u8], grid: (u8, i32), x: &[i8]) -> i32 {
        assert_eq!(x.len(), bits.len() * WORD);
        #[cfg(target_arch = "x86_64")]
        return vbmi2::dot(self.cpu, bits, kept, grid, x, self.thin);
        #[cfg(not(target_arch = "x86_64"))]
        match self.cpu {}
    }
}
