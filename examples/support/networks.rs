//! The networks that the examples train.

use bantam::nn::{Conv2d, Graph};
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

/// LeNet-5 as Caffe has it: 20 and 50 maps of 5x5, 500, 10.
#[allow(dead_code, reason = "not every example has convolutions")]
pub fn lenet_5(seed: u64) -> Result<Model> {
    let graph = Graph::new()
        .conv2d("conv1", Conv2d::default())
        .max_pool(2)
        .conv2d("conv2", Conv2d::default())
        .max_pool(2)
        .flatten()
        .linear("fc1")
        .relu()
        .linear("fc2");
    let shapes: [(&str, &[usize]); 8] = [
        ("conv1.weight", &[20, 1, 5, 5]),
        ("conv1.bias", &[20]),
        ("conv2.weight", &[50, 20, 5, 5]),
        ("conv2.bias", &[50]),
        ("fc1.weight", &[500, 800]),
        ("fc1.bias", &[500]),
        ("fc2.weight", &[10, 500]),
        ("fc2.bias", &[10]),
    ];
    Model::initialized(graph, &shapes, seed)
}

/// A convolutional network with batch norms and dropout: a teacher for smaller ones.
#[allow(dead_code, reason = "not every example has a teacher")]
pub fn convolutional(seed: u64) -> Result<Model> {
    let graph = Graph::new()
        .conv2d("conv1", Conv2d::default())
        .batch_norm("norm1")
        .max_pool(2)
        .relu()
        .conv2d("conv2", Conv2d::default())
        .batch_norm("norm2")
        .max_pool(2)
        .relu()
        .flatten()
        .linear("fc1")
        .relu()
        .dropout(0.3)
        .linear("fc2");
    let mut shapes: Vec<(String, Vec<usize>)> = Vec::new();
    for (i, shape) in [[16, 1, 5, 5], [48, 16, 5, 5]].into_iter().enumerate() {
        shapes.push((format!("conv{}.weight", i + 1), shape.to_vec()));
        shapes.push((format!("conv{}.bias", i + 1), vec![shape[0]]));
        for part in ["weight", "bias", "running_mean", "running_var"] {
            shapes.push((format!("norm{}.{part}", i + 1), vec![shape[0]]));
        }
    }
    for (name, shape) in [("fc1", [128, 768]), ("fc2", [10, 128])] {
        shapes.push((format!("{name}.weight"), shape.to_vec()));
        shapes.push((format!("{name}.bias"), vec![shape[0]]));
    }
    let shapes: Vec<(&str, &[usize])> = shapes.iter().map(|(n, s)| (n.as_str(), s.as_slice())).collect();
    Model::initialized(graph, &shapes, seed)
}
