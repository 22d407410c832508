//! The twelve statements of what always holds, each a property test named after it.
//!
//! Not here: what statements 1, 8 and 12 say about training and distillation is tested with the training
//! itself, and statement 9 across instruction sets with the kernels.

mod cases;
mod codebook;
#[path = "../common/mod.rs"]
mod common;
mod files;
mod lowrank;
mod products;
mod prune;
mod quantize;
mod refusals;
mod same_bytes;
mod zeros;
