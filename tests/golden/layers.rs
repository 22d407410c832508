//! Outputs of layers and of two networks against PyTorch.
//!
//! Sums run in another order there, so floats agree to rounding: of the size of what is summed, not of the
//! result. Where nothing is summed (max pooling, flatten, relu) they agree exactly.

use crate::support::{Arrays, assert_close};
use bantam::nn::{Conv2d, Graph, Input, Op};
use bantam::{Float, Tensor};

/// A few ulp of the largest value of an output, after sums of up to 100 terms.
const F32_ERROR: f64 = 1e-6;
const F64_ERROR: f64 = 2e-15;

fn forward<T: Float>(data: &Arrays, case: &str, graph: &Graph) -> Tensor<T> {
    let network = data.model::<T>(case, graph.clone()).network().unwrap();
    network.forward(&Input::Values(data.tensor(&format!("{case}.x")))).unwrap()
}

fn check<T: Float>(data: &Arrays, case: &str, graph: &Graph, expected: &str, error: f64) {
    let y = forward::<T>(data, case, graph);
    let key = format!("{case}.{expected}");
    assert_eq!(y.shape(), data.shape(&key), "{key}");
    let y: Vec<f64> = y.iter().map(|y| y.widen()).collect();
    let expected = data.numbers(&key);
    let largest = expected.iter().fold(0.0_f64, |a, x| a.max(x.abs()));
    assert_close(&key, &y, &expected, error, largest);
}

fn case(name: &str, graph: Graph) {
    let data = Arrays::golden("layers");
    check::<f32>(&data, name, &graph, "y32", F32_ERROR);
    check::<f64>(&data, name, &graph, "y64", F64_ERROR);
}

#[test]
fn linear() {
    case("linear", Graph::new().linear("layer"));
    case("linear_3d", Graph::new().linear_without_bias("layer"));
}

#[test]
fn convolutions() {
    let conv = |settings: Conv2d| Graph::new().conv2d("layer", settings);
    case("conv", conv(Conv2d::default()));
    case("conv_strided", conv(Conv2d::default().strides([2, 3]).paddings([1, 2])));
    case("conv_grouped", conv(Conv2d::default().padding(1).groups(2).without_bias()));
    case("conv_depthwise", conv(Conv2d::default().stride(2).padding(1).groups(4)));
    case("conv_pointwise", conv(Conv2d::default()));
}

#[test]
fn norms() {
    case("batch_norm", Graph::new().batch_norm("layer"));
    case("batch_norm_flat", Graph::new().batch_norm("layer"));
    case("layer_norm", Graph::new().layer_norm("layer"));
}

/// Each value by itself, down to where they vanish: relative to their own size.
#[test]
fn activations() {
    let data = Arrays::golden("layers");
    for (name, graph) in [
        ("relu", Graph::new().relu()),
        ("gelu", Graph::new().gelu()),
        ("silu", Graph::new().silu()),
        ("tanh", Graph::new().tanh()),
        ("sigmoid", Graph::new().sigmoid()),
    ] {
        let y32: Vec<f64> = forward::<f32>(&data, name, &graph).iter().map(|y| f64::from(*y)).collect();
        let y64 = forward::<f64>(&data, name, &graph).into_vec();
        let (t32, t64) = (data.numbers(&format!("{name}.y32")), data.numbers(&format!("{name}.y64")));
        // 1 + erf cancels where gelu vanishes, and PyTorch computes it so.
        let cancels = if name == "gelu" { 1.0 } else { f64::MIN_POSITIVE };
        assert_close(name, &y64, &t64, 4e-15, cancels);
        assert_close(name, &y32, &t32, 6e-7, cancels);
        // Ours in single precision is as good as the double one to a few ulp.
        assert_close(name, &y32, &t64, 1e-6, cancels.max(1e-37));
    }
}

#[test]
fn pools() {
    // Windows that are not square have no builder.
    let (size, stride, padding) = ([3, 2], [2, 1], [1, 1]);
    let max = || Graph::new().node(Op::MaxPool { size, stride, padding }, &[0]);
    let average = || Graph::new().node(Op::AveragePool { size, stride, padding }, &[0]);
    case("max_pool", Graph::new().max_pool(2));
    case("max_pool_padded", max());
    case("average_pool", Graph::new().average_pool(2));
    case("average_pool_padded", average());
    case("global_average_pool", Graph::new().global_average_pool());
    case("flatten", Graph::new().flatten());
    let data = Arrays::golden("layers");
    for (name, graph) in [
        ("max_pool", Graph::new().max_pool(2)),
        ("max_pool_padded", max()),
        ("flatten", Graph::new().flatten()),
        ("relu", Graph::new().relu()),
    ] {
        check::<f32>(&data, name, &graph, "y32", 0.0);
        check::<f64>(&data, name, &graph, "y64", 0.0);
    }
}

#[test]
fn whole_networks() {
    let lenet = Graph::new()
        .conv2d("conv1", Conv2d::default().padding(2))
        .relu()
        .max_pool(2)
        .conv2d("conv2", Conv2d::default())
        .relu()
        .max_pool(2)
        .flatten()
        .linear("fc1")
        .relu()
        .linear("fc2")
        .relu()
        .linear("fc3");
    case("lenet", lenet);
    let conv = || Conv2d::default().padding(1).without_bias();
    let stem = Graph::new().conv2d("stem", conv()).batch_norm("bn0").relu();
    let skip = stem.last();
    let residual = stem
        .conv2d("conv1", conv())
        .batch_norm("bn1")
        .relu()
        .conv2d("conv2", conv())
        .batch_norm("bn2")
        .add(skip)
        .relu()
        .global_average_pool()
        .linear("head");
    case("residual", residual);
}
