//! The networks that the examples train.

use bantam::nn::Graph;
use bantam::{Model, Result};

/// A multilayer perceptron with random weights: `[784, 300, 100, 10]` is LeNet-300-100. `dropout` is the
/// probability with which a hidden unit is left out in training.
pub fn perceptron(widths: &[usize], dropout: f64, seed: u64) -> Result<Model> {
    let mut graph = Graph::new().flatten();
    let mut shapes = Vec::new();
    for (i, pair) in widths.windows(2).enumerate() {
        let name = format!("fc{}", i + 1);
        if i > 0 {
            graph = graph.relu();
            if dropout > 0.0 {
                graph = graph.dropout(dropout);
            }
        }
        graph = graph.linear(&name);
        shapes.push((format!("{name}.weight"), vec![pair[1], pair[0]]));
        shapes.push((format!("{name}.bias"), vec![pair[1]]));
    }
    let shapes: Vec<(&str, &[usize])> = shapes.iter().map(|(n, s)| (n.as_str(), s.as_slice())).collect();
    Model::initialized(graph, &shapes, seed)
}
