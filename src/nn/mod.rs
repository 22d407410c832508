//! Networks.

mod graph;
mod layers;
mod op;

pub use graph::Graph;
pub use op::{Conv2d, Op, Pool, Role};
