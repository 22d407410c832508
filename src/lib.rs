//! Make trained neural networks smaller and faster.
#![deny(unsafe_code)]

pub mod distill;
mod error;
mod kernels;
pub mod nn;
mod parallel;
mod random;
mod tensor;
mod weight;

pub use error::*;
pub use tensor::{DType, Element, Float, Tensor};
pub use weight::{Activations, Form, Granularity, Leaf, Weight};
pub use ndarray;
