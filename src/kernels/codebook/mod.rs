//! k-means of numbers: a few shared values that stand for many, with the least sum of squared errors.
//!
//! On a line, a cluster is a run of the sorted values, so only values and their numbers matter, never places.
//! [`Points`] holds just that: the distinct values, or, where there are many, the bins of a [`Histogram`]. All
//! that searches (starting centres, Lloyd's iterations, the exact optimum) works on points; a pass over the
//! values makes the histogram, and a second one finds the codes.
//!
//! # Zero
//!
//! Where some value is exactly 0, so is the centre of the cluster that it lies in: quantizing keeps zeros.
//!
//! # What a histogram costs
//!
//! All values of a bin have the same sign and exponent and the same leading bits, so that they lie within
//! `h` times their size of each other: `h = 2^-9` for `f32`, `2^-8` for `f64`. A search on the bins is the
//! exact search on values of which each has moved within its bin: to the mean, or, where many centres make
//! bins look coarse, to one of a few points around it. So, by the triangle inequality, for any centres the
//! root of the sum of squared errors is the same up to `h |x|`, with `|x|` the root of the sum of squares of
//! all values; and the best centres for the bins are within twice that of the best ones for the values. Values
//! under the smallest normal number lie in bins of fixed width.

mod assign;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod decode;
mod histogram;
mod init;
mod lloyd;
mod optimal;
mod points;

pub use assign::{Bounds, largest};
pub use decode::decode;
pub use histogram::Histogram;
pub use init::{density, linear, plus_plus};
pub use lloyd::lloyd;
pub use optimal::optimal;
pub use points::Points;

/// What these kernels do for a number type; implemented for `f32` and `f64`.
pub trait Share: bytemuck::Pod + PartialOrd + Send + Sync {
    /// Bits of a number that say its bin: sign, exponent, and the first of the mantissa.
    #[doc(hidden)]
    const BIN_BITS: u32;
    /// Bits after those that are looked at, 16 at most: of a double, the rest makes no difference.
    #[doc(hidden)]
    const FINE_BITS: u32;
    /// Bits of the exponent.
    #[doc(hidden)]
    const EXPONENT_BITS: u32;
    /// The bin of the number, and how far into it the number lies, in units of the last of the fine bits.
    #[doc(hidden)]
    fn bin(self) -> (usize, u64);
    /// The number that lies `fine` units into a bin.
    #[doc(hidden)]
    fn from_bin(bin: usize, fine: f64) -> f64;
    /// See [`Bounds`].
    #[doc(hidden)]
    fn below(x: f64) -> Self;
    /// See [`Bounds::codes`].
    #[doc(hidden)]
    fn codes(values: &[Self], bounds: &[Self; assign::MOST], used: usize, out: &mut [u8]);
    /// In double precision: exact.
    #[doc(hidden)]
    fn wide(self) -> f64;
}

macro_rules! share {
    ($t:ident, $bits:ty, $bin:literal, $exponent:literal, $codes:ident) => {
        impl Share for $t {
            const BIN_BITS: u32 = $bin;
            const FINE_BITS: u32 = if <$bits>::BITS - $bin < 16 { <$bits>::BITS - $bin } else { 16 };
            const EXPONENT_BITS: u32 = $exponent;

            #[inline(always)]
            fn bin(self) -> (usize, u64) {
                const WHOLE: u32 = <$bits>::BITS - $bin;
                let bits = self.to_bits();
                let fine = (bits >> (WHOLE - Self::FINE_BITS)) as u64 & ((1 << Self::FINE_BITS) - 1);
                ((bits >> WHOLE) as usize, fine)
            }

            #[inline(always)]
            fn from_bin(bin: usize, fine: f64) -> f64 {
                const WHOLE: u32 = <$bits>::BITS - $bin;
                let low = (bin as $bits) << WHOLE;
                // Numbers of one exponent lie evenly.
                let second = low | 1 << (WHOLE - Self::FINE_BITS);
                let unit = f64::from($t::from_bits(second)) - f64::from($t::from_bits(low));
                f64::from($t::from_bits(low)) + fine * unit
            }

            fn below(x: f64) -> Self {
                let near = x as $t;
                if f64::from(near) > x { near.next_down() } else { near }
            }

            #[inline(always)]
            fn codes(values: &[Self], bounds: &[Self; assign::MOST], used: usize, out: &mut [u8]) {
                assign::$codes(values, bounds, used, out);
            }

            #[inline(always)]
            fn wide(self) -> f64 {
                f64::from(self)
            }
        }
    };
}

share!(f32, u32, 18, 8, codes_f32);
share!(f64, u64, 20, 11, codes_f64);

/// The sum of squared errors of values that are rounded to the nearest of `centres`, which ascend.
#[cfg(test)]
fn error<T: Share>(values: &[T], centres: &[f64]) -> f64 {
    let nearest = |x: f64| centres.iter().map(|c| (x - c).abs()).fold(f64::INFINITY, f64::min);
    values.iter().map(|x| nearest(x.wide()).powi(2)).sum()
}
