//! Layers as plain functions on slices: forward and backward side by side.
//!
//! Samples come first: `[n, features]`, or `[n, channels, height, width]`. Backward functions *add* to the
//! gradients they are given, so that an output that is used twice collects both. Results do not depend on
//! the number of threads: each value is summed in one place, in a fixed order, or over blocks of fixed
//! size, in order.

pub mod activation;
pub mod conv;
pub mod direct;
pub mod dropout;
#[cfg(test)]
pub mod gradcheck;
pub mod linear;
pub mod norm;
pub mod pool;
pub mod sparse;

/// Values that one thread works on at a time where the work on each is small.
pub const CHUNK: usize = 1 << 14;
