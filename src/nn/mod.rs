//! Networks: the architecture ([`Graph`]), running one from compressed weights ([`Network`]), training one in
//! its compressed form ([`Trainable`]), and what that needs: data, losses, optimizers, schedules.

mod accuracy;
mod attention;
mod augment;
mod channels;
mod check;
mod coded_inputs;
mod convolve;
mod data;
mod fold;
mod graph;
mod init;
mod layers;
mod leaf_param;
mod loss;
mod moving_codes;
mod network;
mod op;
mod optimizer;
mod param;
mod plan;
mod schedule;
mod state;
mod step_size;
mod support;
#[cfg(test)]
mod testing;
mod trainable;
#[cfg(all(test, feature = "train"))]
mod trainable_tests;
mod training;

pub(crate) use accuracy::{EVALUATION_BATCH, accuracy, right};
pub use attention::attention_transfer;
pub use augment::Augmented;
pub(crate) use channels::{Axis, ChannelGroup, Channels, Reader, Spread, activated};
pub(crate) use data::unbox;
pub use data::{Batch, Dataset, Examples, Input, Outputs, Target};
pub(crate) use fold::fold_batch_norm;
pub use graph::Graph;
pub(crate) use leaf_param::LeafParam;
pub use loss::{
    Loss, cross_entropy, cross_entropy_into, kl_divergence, mean_squared_error, soft_cross_entropy,
};
pub(crate) use loss::{in_dataset, kl_divergence_into, mean_squared_error_into};
pub use network::Network;
pub use op::{Conv2d, Op, Pool, Role};
pub use optimizer::{Adam, Optimizer, Sgd};
pub use schedule::Schedule;
pub use trainable::Trainable;
