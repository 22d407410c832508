//! Choosing values by magnitude, and keeping the chosen ones.
//!
//! A choice is a bit for each value, least significant first, in words of 64: what a mask is made of. Bits
//! past the last value are zero. Magnitudes are compared as integers, which order as absolute values do,
//! with infinities and NaN on top; so the results are the same on all instruction sets.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod bits;
#[cfg(any(test, feature = "bench"))]
mod dense;
mod pieces;
mod portable;
#[cfg(test)]
mod tests;

pub use bits::{deposit, extract, uniform_groups};
#[cfg(any(test, feature = "bench"))]
pub use dense::clear_others;
pub use pieces::{close_up, collect};

#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::{Avx2, Avx512};

/// Values by which memory is ahead of what is looked at: between two looks, what is chosen is moved.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 1 << 11;

/// A float that is ranked by the bits of its absolute value.
pub trait Magnitude: Copy + Default + Send + Sync + 'static {
    /// An integer that holds a magnitude.
    type Bits: Copy + Ord + Default + Send + Sync + Into<u64> + std::fmt::Debug;

    /// Bits of a magnitude.
    const BITS: u32;
    /// The least magnitude that is not finite.
    const INFINITE: Self::Bits;
    /// The largest magnitude: of a NaN.
    const LARGEST: Self::Bits;

    /// Of this value.
    fn magnitude(self) -> Self::Bits;

    /// A magnitude of this type, the largest where `bits` is beyond it.
    fn capped(bits: u64) -> Self::Bits;

    /// Chooses the values with a magnitude of at least `least`. Whether all values are finite.
    fn at_least(values: &[Self], least: Self::Bits, chosen: &mut [u64]) -> bool;

    /// Chooses, in each group of `m` values that lie `stride` apart, the `n` largest; of equals, those that
    /// come last. `m * stride` divides the number of values. Whether all values are finite.
    fn largest_of_groups(values: &[Self], n: usize, m: usize, stride: usize, chosen: &mut [u64]) -> bool;

    /// Appends the magnitudes from `low` to `high`, both included, in order. How many lie below, or `None`
    /// where a value is not finite.
    fn tally(values: &[Self], low: Self::Bits, high: Self::Bits, inside: &mut Vec<Self::Bits>)
    -> Option<u64>;

    /// Copies the chosen ones of `values[from..]`, as far as there are bits, to `values[to..]`, for
    /// `to <= from`; how many. What lay between is overwritten.
    fn compact(values: &mut [Self], from: usize, chosen: &[u64], to: usize) -> usize;
}

impl Magnitude for f32 {
    type Bits = u32;

    const BITS: u32 = 31;
    const INFINITE: u32 = Self::INFINITY.to_bits();
    const LARGEST: u32 = u32::MAX >> 1;

    #[inline(always)]
    fn magnitude(self) -> u32 {
        self.to_bits() & Self::LARGEST
    }

    fn capped(bits: u64) -> u32 {
        u32::try_from(bits).map_or(Self::LARGEST, |bits| bits.min(Self::LARGEST))
    }

    fn at_least(values: &[Self], least: u32, chosen: &mut [u64]) -> bool {
        #[cfg(target_arch = "x86_64")]
        if let Some(cpu) = Avx512::new() {
            return cpu.at_least(values, least, chosen);
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(cpu) = Avx2::new() {
            return cpu.at_least(values, least, chosen);
        }
        portable::at_least(values, least, chosen)
    }

    fn largest_of_groups(values: &[Self], n: usize, m: usize, stride: usize, chosen: &mut [u64]) -> bool {
        #[cfg(target_arch = "x86_64")]
        if let (Some(cpu), 1, 4) = (Avx512::new(), stride, m) {
            return cpu.largest_of_fours(values, n, chosen);
        }
        #[cfg(target_arch = "x86_64")]
        if let (Some(cpu), 1, 2 | 4 | 8) = (Avx2::new(), stride, m) {
            return cpu.largest_of_groups(values, n, m, chosen);
        }
        portable::largest_of_groups(values, n, m, stride, chosen)
    }

    fn tally(values: &[Self], low: u32, high: u32, inside: &mut Vec<u32>) -> Option<u64> {
        #[cfg(target_arch = "x86_64")]
        if let Some(cpu) = Avx512::new() {
            return cpu.tally(values, low, high, inside);
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(cpu) = Avx2::new() {
            return cpu.tally(values, low, high, inside);
        }
        portable::tally(values, low, high, inside)
    }

    fn compact(values: &mut [Self], from: usize, chosen: &[u64], to: usize) -> usize {
        #[cfg(target_arch = "x86_64")]
        if let Some(cpu) = Avx512::new() {
            return cpu.compact(values, from, chosen, to);
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(cpu) = Avx2::new() {
            return cpu.compact(values, from, chosen, to);
        }
        portable::compact(values, from, chosen, to)
    }
}

impl Magnitude for f64 {
    type Bits = u64;

    const BITS: u32 = 63;
    const INFINITE: u64 = Self::INFINITY.to_bits();
    const LARGEST: u64 = u64::MAX >> 1;

    #[inline(always)]
    fn magnitude(self) -> u64 {
        self.to_bits() & Self::LARGEST
    }

    fn capped(bits: u64) -> u64 {
        bits.min(Self::LARGEST)
    }

    fn at_least(values: &[Self], least: u64, chosen: &mut [u64]) -> bool {
        portable::at_least(values, least, chosen)
    }

    fn largest_of_groups(values: &[Self], n: usize, m: usize, stride: usize, chosen: &mut [u64]) -> bool {
        portable::largest_of_groups(values, n, m, stride, chosen)
    }

    fn tally(values: &[Self], low: u64, high: u64, inside: &mut Vec<u64>) -> Option<u64> {
        portable::tally(values, low, high, inside)
    }

    fn compact(values: &mut [Self], from: usize, chosen: &[u64], to: usize) -> usize {
        portable::compact(values, from, chosen, to)
    }
}

/// Chooses the `n` largest keys of each group; see [`Magnitude::largest_of_groups`].
pub fn largest_keys_of_groups(keys: &[u64], n: usize, m: usize, stride: usize, chosen: &mut [u64]) {
    portable::largest_keys(keys, n, m, stride, chosen);
}
