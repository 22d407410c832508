//! What a tensor may hold ([`Element`]) and what bantam computes in ([`Float`]). Both are sealed: a
//! foreign type could not be stored in a file or reach the kernels.

use super::DType;
use crate::kernels::Kernels;
use half::{bf16, f16};
use std::borrow::Cow;
use std::fmt::{Debug, Display};
use std::iter::Sum;

pub(crate) mod sealed {
    /// Plain old data with a fixed little-endian form on disk.
    pub trait Sealed: bytemuck::Pod {
        fn swap_bytes(self) -> Self;
    }
}

/// A number that a [`Tensor`](crate::Tensor) can hold: `f32`, `f64`, `f16`, `bf16`, `i8`, `u8`, `i32`, `i64`.
pub trait Element: Copy + Debug + Default + PartialEq + Send + Sync + 'static + sealed::Sealed {
    /// Its type in a file.
    const DTYPE: DType;
}

macro_rules! element {
    ($($t:ty => $dtype:ident, $swap:expr;)*) => { $(
        impl sealed::Sealed for $t {
            fn swap_bytes(self) -> Self { $swap(self) }
        }
        impl Element for $t { const DTYPE: DType = DType::$dtype; }
    )* };
}

element! {
    f32 => F32, |x: f32| f32::from_bits(x.to_bits().swap_bytes());
    f64 => F64, |x: f64| f64::from_bits(x.to_bits().swap_bytes());
    f16 => F16, |x: f16| f16::from_bits(x.to_bits().swap_bytes());
    bf16 => Bf16, |x: bf16| bf16::from_bits(x.to_bits().swap_bytes());
    i8 => I8, |x: i8| x;
    u8 => U8, |x: u8| x;
    i32 => I32, i32::swap_bytes;
    i64 => I64, i64::swap_bytes;
}

/// The little-endian bytes of `values`: borrowed where the machine is little-endian itself.
pub(crate) fn to_le_bytes<E: Element>(values: &[E]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        Cow::Borrowed(bytemuck::cast_slice(values))
    } else {
        let swapped: Vec<E> = values.iter().map(|x| x.swap_bytes()).collect();
        Cow::Owned(bytemuck::cast_slice(&swapped).to_vec())
    }
}

/// Lets `fill` write little-endian bytes straight into `values`, without a second buffer.
pub(crate) fn fill_le_bytes<E: Element, R>(values: &mut [E], fill: impl FnOnce(&mut [u8]) -> R) -> R {
    let result = fill(bytemuck::cast_slice_mut(values));
    if cfg!(target_endian = "big") {
        values.iter_mut().for_each(|x| *x = x.swap_bytes());
    }
    result
}

/// A number that bantam computes in: `f32` or `f64`.
///
/// Arithmetic comes from [`num_traits`]; conversions that cannot fail are here, so that generic code needs
/// no `unwrap`.
pub trait Float:
    Element + num_traits::Float + num_traits::NumAssign + Sum + Display + Debug + Default + Kernels
{
    /// The nearest value to `x`.
    fn narrow(x: f64) -> Self;
    /// The same value in double precision: exact.
    fn widen(self) -> f64;
}

impl Float for f32 {
    fn narrow(x: f64) -> Self {
        x as f32
    }
    fn widen(self) -> f64 {
        f64::from(self)
    }
}

impl Float for f64 {
    fn narrow(x: f64) -> Self {
        x
    }
    fn widen(self) -> f64 {
        self
    }
}

/// Converts little-endian bytes of a float `dtype` into `out`. `bytes` holds exactly `out.len()` numbers.
pub(crate) fn decode_floats<T: Float>(dtype: DType, bytes: &[u8], out: &mut [T]) {
    debug_assert_eq!(bytes.len() * 8, out.len() * dtype.bits());
    match dtype {
        DType::F64 => each(bytes, out, |b| T::narrow(f64::from_le_bytes(b))),
        DType::F32 => each(bytes, out, |b| T::narrow(f64::from(f32::from_le_bytes(b)))),
        DType::F16 => each(bytes, out, |b| T::narrow(f16::from_le_bytes(b).to_f64())),
        DType::Bf16 => each(bytes, out, |b| T::narrow(bf16::from_le_bytes(b).to_f64())),
        // Weights are only ever made from the four types above.
        _ => debug_assert!(false, "{dtype} is not a float"),
    }
}

fn each<const N: usize, T>(bytes: &[u8], out: &mut [T], convert: impl Fn([u8; N]) -> T) {
    for (x, b) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *x = convert(*b);
    }
}

/// Appends the little-endian bytes of `values`, rounded to `dtype`.
pub(crate) fn encode_floats<T: Float>(dtype: DType, values: &[T], out: &mut Vec<u8>) {
    if dtype == T::DTYPE {
        return out.extend_from_slice(&to_le_bytes(values));
    }
    match dtype {
        DType::F64 => values.iter().for_each(|x| out.extend(x.widen().to_le_bytes())),
        DType::F32 => values.iter().for_each(|x| out.extend((x.widen() as f32).to_le_bytes())),
        DType::F16 => values.iter().for_each(|x| out.extend(f16::from_f64(x.widen()).to_le_bytes())),
        DType::Bf16 => values.iter().for_each(|x| out.extend(bf16::from_f64(x.widen()).to_le_bytes())),
        _ => debug_assert!(false, "{dtype} is not a float"),
    }
}

/// `x` rounded to what `dtype` can hold.
pub(crate) fn round_to<T: Float>(dtype: DType, x: T) -> T {
    match dtype {
        DType::F32 => T::narrow(f64::from(x.widen() as f32)),
        DType::F16 => T::narrow(f16::from_f64(x.widen()).to_f64()),
        DType::Bf16 => T::narrow(bf16::from_f64(x.widen()).to_f64()),
        _ => x,
    }
}
