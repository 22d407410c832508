//! Make trained neural networks smaller and faster.
#![deny(unsafe_code)]

pub mod distill;
mod error;
mod format;
mod kernels;
mod log;
mod lowrank;
mod model;
pub mod nn;
mod parallel;
mod pipeline;
mod prune;
mod quantize;
mod random;
mod recipe;
mod report;
mod tensor;
mod weight;

pub use compressor::{Compressor, Decision, Outcome, Reach, Step, Survey, WeightCompressor};
pub use distill::{Distiller, FineTuner};
pub use error::{BoxError, Error, Fault, FormatError, GraphError, Invalid, LeftAlone, Refusal, Result};
pub use format::Layout;
pub use log::{Log, Progress};
pub use lowrank::{LowRankFactorizer, Svd};
pub use model::{Kind, Model, Outline, OutlineWeight, Select, WeightInfo};
pub use ndarray;
pub use pipeline::{Compressed, Pipeline};
pub use prune::MagnitudePruner;
pub use quantize::{AffineQuantizer, Calibrator, Range};
pub use recipe::{Recipe, RecipeStep};
pub use report::{Report, StepReport, WeightReport};
pub use tensor::{DType, Element, Float, Tensor};
pub use weight::{Activations, Form, Granularity, Leaf, Weight};
