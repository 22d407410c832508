//! Products of matrices whose rows both run along the sum: `c [m, n] += w [m, k] x [n, k]^T`.
//!
//! Weights and inputs lie like that as they are. A few rows of weights are decoded at a time, or read where
//! they are, and meet all inputs, a block of columns after the other. Few inputs are summed along their
//! lanes (`dots`); more of them lie side by side, one a lane, and each weight meets a vector of them
//! (`strips`). Sums are taken in blocks of fixed length, one after the other, so that they depend on
//! nothing but the shape. Integers have kernels of their own (`quads`).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod dots;
pub mod maps;
mod nibbles;
#[cfg(target_arch = "x86_64")]
mod nibbles256;
#[cfg(target_arch = "x86_64")]
mod nibbles512;
mod panels;
mod plain;
pub mod quads;
mod strips;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod vnni;

pub use nibbles::{Grids, Sorted, TOGETHER, nibbles, nibbles_f32, plain_floats as nibbles_any};
pub use panels::{FEW, Panels};
pub use strips::{Decode, HEIGHT, Source, doubles, floats};

use std::ops::Range;

/// Products that an `i32` holds for certain, zero points taken away or not: 16,384 * 255 * 255 < 2^31.
pub const EXACT: usize = 1 << 14;

/// Rows of equal length, `stride` values apart.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a, T> {
    pub values: &'a [T],
    pub stride: usize,
}

impl<'a, T> Rows<'a, T> {
    pub fn new(values: &'a [T], stride: usize) -> Self {
        Self { values, stride }
    }

    /// The same rows without their first `columns` values.
    pub fn skip_columns(self, columns: usize) -> Self {
        Self { values: self.values.get(columns..).unwrap_or(&[]), ..self }
    }

    #[inline(always)]
    pub fn part(&self, row: usize, columns: Range<usize>) -> &'a [T] {
        &self.values[row * self.stride..][columns]
    }
}
