//! Make trained neural networks smaller and faster: prune, quantize, factorize and distil, in any sensible
//! order, keep the accuracy, save in a format that other runtimes load, run from the compressed form.
//!
//! ```
//! use bantam::{Model, Pipeline, Tensor};
//!
//! # fn main() -> bantam::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = |name: &str| folder.path().join(name);
//! # let values = (0..4096).map(|i| (i as f32 * 0.37).sin()).collect();
//! # Model::from_tensors([("fc.weight", Tensor::new(&[64, 64], values)?)])?.save(path("model.safetensors"))?;
//! let model = Model::open(path("model.safetensors"))?;
//! let small = Pipeline::new().prune(0.1).quantize(8).run(&model)?;
//! small.model.save(path("small.safetensors"))?;
//! println!("{}", small.report);
//! # Ok(())
//! # }
//! ```
//!
//! # The idea
//!
//! A weight is described along three independent axes, and a network adds a fourth. Each technique moves
//! along exactly one of them, which is why they compose.
//!
//! | axis | question | changed by |
//! | --- | --- | --- |
//! | support | which entries are kept | [`MagnitudePruner`] |
//! | coding | how a kept entry is held | [`AffineQuantizer`], [`CodebookQuantizer`] |
//! | structure | is the matrix held itself, or as a product | [`LowRankFactorizer`] |
//! | architecture | which network computes the function | [`Distiller`], [`ChannelPruner`] |
//!
//! A [`Weight`] holds numbers for kept entries only: a pruned entry stays zero because there is no place in
//! which it could be anything else. Training ([`FineTuner`], [`Distiller`]) works on the compressed form: kept
//! entries move, both factors move, codes move on their grid, shared values move together.
//!
//! # Which technique?
//!
//! | you have | start with | it costs |
//! | --- | --- | --- |
//! | no data, and want 4 times smaller | `quantize(AffineQuantizer::bits(8).per_channel())` | next to no accuracy; 4 bits in groups of 32 to 128 for 7 times |
//! | a model to ship, with the file as small as it gets | `prune(..)`, training, then `codebook(CodebookQuantizer::bits(4))` | products run on floats; 3 to 5 bits an entry where a grid needs a scale for every group |
//! | a CPU with integer units, and speed in mind | the same with [`Activations::Int8`] | a little accuracy in the activations |
//! | training data | `prune(MagnitudePruner::sparsity(0.9))` and a [`FineTuner`] | minutes of training; over-parametrised layers give most |
//! | a network pruned so far that whole channels are empty | [`slim(ChannelPruner::dead())`](ChannelPruner::dead) | nothing: the same function from a smaller dense network |
//! | training data, and dense kernels to run on | `slim(ChannelPruner::ratio(0.5))` and a [`FineTuner`] | more accuracy than single entries cost at the same size; faster on any hardware |
//! | wide layers with fast decaying singular values | `factorize(LowRankFactorizer::energy(0.95))` and a [`FineTuner`] | compute falls with the rank, on any hardware |
//! | freedom to change the architecture | [`Distiller::student`] | a training from scratch, with the largest gain in compute |
//!
//! In a sequence: distil or factorize first, prune, slim, train, and quantize last. Orders that would undo
//! something are refused before any work.
//!
//! # Errors and hostile input
//!
//! Settings, shapes and orders are checked before any work ([`Pipeline::plan`]). Files are taken to come from
//! strangers: whatever they claim is checked against what they hold before memory is asked for. Saving is
//! atomic. Nothing is skipped silently: a weight left as it was is in the [`Report`], and an error where the
//! pipeline is [`strict`](Pipeline::strict).
//!
//! # The same bytes
//!
//! The same input, settings, seed and instruction set give the same bytes, for any number of threads, streamed
//! ([`Pipeline::run_to`]) or in memory.
//!
//! # Crate features
//!
//! | feature | default | what it brings |
//! | --- | --- | --- |
//! | `faer` | yes | factorization, in pure Rust |
//! | `lapack` | no | factorization through the system's OpenBLAS ([`Svd::Lapack`]) |
//! | `files` | yes | saving to files, atomically |
//! | `threads` | yes | all cores, through rayon's current pool |
//! | `toml` | yes | recipes in TOML |
//! | `train` | yes | fine-tuning and distillation |
//! | `cli` | no | the `bantam` command |
//!
//! Types and settings are there in every build; what is switched off says
//! [`Unsupported`](Error::Unsupported) and names the feature.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod codebook;
mod compressor;
pub mod distill;
mod error;
mod format;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod kernels;
#[cfg(not(feature = "bench"))]
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
pub mod report;
mod sensitivity;
mod slim;
mod tensor;
mod weight;

pub use codebook::{CodebookInit, CodebookQuantizer};
pub use compressor::{Compressor, Decision, Outcome, Reach, Step, Survey, WeightCompressor};
pub use distill::{Distiller, FineTuner};
pub use error::{BoxError, Error, Fault, FormatError, GraphError, Invalid, LeftAlone, Refusal, Result};
pub use format::Layout;
pub use log::{Log, Progress};
#[cfg(feature = "bench")]
#[doc(hidden)]
pub use lowrank::thin_svd;
pub use lowrank::{LowRankFactorizer, Svd};
pub use model::{Carried, Kind, Model, Outline, OutlineWeight, Select, WeightInfo};
pub use ndarray;
pub use pipeline::{Compressed, Pipeline};
pub use prune::{GradualPruner, MagnitudePruner, Saliency, SparsitySchedule};
pub use quantize::{AffineQuantizer, Calibrator, Range};
pub use recipe::{Recipe, RecipeStep};
pub use report::Report;
pub use sensitivity::{Sensitivity, SensitivityScan, WeightSensitivity};
pub use slim::{ChannelPruner, Importance, MeasuredChannelPruner};
pub use tensor::{DType, Element, Float, Tensor};
pub use weight::{Activations, Form, Granularity, Leaf, Weight};

/// The example of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
