//! Make trained neural networks smaller and faster.
#![deny(unsafe_code)]

mod error;
mod kernels;
mod parallel;
mod tensor;
mod weight;

pub use error::*;
pub use tensor::{DType, Element, Float, Tensor};
pub use weight::{Activations, Form, Granularity, Leaf, Weight};
pub use ndarray;
