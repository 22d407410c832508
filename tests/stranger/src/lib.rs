//! What a user of bantam writes: compression steps of their own, a dataset, and a student of another runtime.
//!
//! Everything here uses the public documentation of bantam only. The tests beside it are examples as well:
//! each file is one subject.

mod steps;
mod training;

pub use steps::{ClipOutliers, Equalize, Forgetful};
pub use training::{Blobs, SoftmaxRegression};

use bantam::nn::Graph;
use bantam::{Float, Model, Result};

/// A perceptron with ReLUs and random weights: `mlp(&[8, 16, 3], 0)` has layers `fc1` (`[16, 8]`) and `fc2`.
///
/// # Errors
///
/// None for lists of sizes that make a network.
pub fn mlp<T: Float>(sizes: &[usize], seed: u64) -> Result<Model<T>> {
    let mut graph = Graph::new();
    let mut shapes = Vec::new();
    for (i, pair) in sizes.windows(2).enumerate() {
        if i > 0 {
            graph = graph.relu();
        }
        let layer = format!("fc{}", i + 1);
        graph = graph.linear(&layer);
        shapes.push((format!("{layer}.weight"), vec![pair[1], pair[0]]));
        shapes.push((format!("{layer}.bias"), vec![pair[1]]));
    }
    let shapes: Vec<(&str, &[usize])> = shapes.iter().map(|(n, s)| (n.as_str(), s.as_slice())).collect();
    Model::initialized(graph, &shapes, seed)
}
