//! Affine codes of 1 to 8 bits: ranges, codes, packing, and back.
//!
//! Every function here gives the same results whatever the instruction set.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod decode;
mod encode;
mod ends;
mod error;
pub mod pack;

pub use decode::decode_runs;
pub use encode::{Steps, encode_runs};
pub use ends::{ends, ends_of};
pub use error::{GRIDS, squared_errors};

/// What these kernels do for a number type; implemented for `f32` and `f64`.
pub trait Quantize: bytemuck::Pod + PartialOrd + Send + Sync {
    /// See [`ends`].
    #[doc(hidden)]
    fn ends(values: &[Self]) -> Option<(Self, Self)>;
    /// See [`ends_of`].
    #[doc(hidden)]
    fn ends_of(values: &[Self], chosen: &[u64]) -> Option<(Self, Self)>;
    /// See [`Steps::encode`]; values `ahead` of these will be wanted next, unless that is 0.
    #[doc(hidden)]
    fn encode(values: &[Self], steps: &Steps<Self>, ahead: usize, out: &mut [u8]);
    /// See [`squared_errors`].
    #[doc(hidden)]
    fn squared_errors(values: &[Self], grids: &[Steps<Self>; GRIDS]) -> [f64; GRIDS];
    /// See [`decode_runs`].
    #[doc(hidden)]
    fn decode(codes: &[u8], scale: Self, zero: u8, out: &mut [Self]);
    /// The same of packed 4-bit codes, as far as there is a kernel for it: how many were decoded, an even number.
    #[doc(hidden)]
    fn decode_nibbles(_packed: &[u8], _scale: Self, _zero: u8, _out: &mut [Self]) -> usize {
        0
    }
}

impl Quantize for f32 {
    #[inline(always)]
    fn ends(values: &[Self]) -> Option<(Self, Self)> {
        ends::ends_f32(values)
    }
    #[inline(always)]
    fn ends_of(values: &[Self], chosen: &[u64]) -> Option<(Self, Self)> {
        ends::ends_of_f32(values, chosen)
    }
    #[inline(always)]
    fn encode(values: &[Self], steps: &Steps<Self>, ahead: usize, out: &mut [u8]) {
        encode::encode_f32(values, steps, ahead, out);
    }
    #[inline(always)]
    fn squared_errors(values: &[Self], grids: &[Steps<Self>; GRIDS]) -> [f64; GRIDS] {
        error::squared_errors_f32(values, grids)
    }
    #[inline(always)]
    fn decode(codes: &[u8], scale: Self, zero: u8, out: &mut [Self]) {
        decode::decode_f32(codes, scale, zero, out);
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn decode_nibbles(packed: &[u8], scale: Self, zero: u8, out: &mut [Self]) -> usize {
        decode::decode_nibbles_f32(packed, scale, zero, out)
    }
}

impl Quantize for f64 {
    #[inline(always)]
    fn ends(values: &[Self]) -> Option<(Self, Self)> {
        ends::ends_f64(values)
    }
    #[inline(always)]
    fn ends_of(values: &[Self], chosen: &[u64]) -> Option<(Self, Self)> {
        ends::ends_of_f64(values, chosen)
    }
    #[inline(always)]
    fn encode(values: &[Self], steps: &Steps<Self>, _: usize, out: &mut [u8]) {
        encode::encode_f64(values, steps, out);
    }
    #[inline(always)]
    fn squared_errors(values: &[Self], grids: &[Steps<Self>; GRIDS]) -> [f64; GRIDS] {
        error::squared_errors_f64(values, grids)
    }
    #[inline(always)]
    fn decode(codes: &[u8], scale: Self, zero: u8, out: &mut [Self]) {
        decode::decode_f64(codes, scale, zero, out);
    }
}
