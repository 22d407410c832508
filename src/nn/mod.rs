//! Networks: the architecture ([`Graph`]), running one from compressed weights ([`Network`]), and data.

mod check;
mod data;
mod fold;
mod graph;
mod layers;
mod network;
mod op;
mod plan;
#[cfg(test)]
mod testing;

pub use data::{Batch, Dataset, Examples, Input, Outputs, Target};
pub(crate) use fold::fold_batch_norm;
pub use graph::Graph;
pub use network::Network;
pub use op::{Conv2d, Op, Pool, Role};
