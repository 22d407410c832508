//! Students of every form, for tests.

use crate::nn::{Conv2d, Examples, Graph, Network, Optimizer, Trainable};
use crate::random::Random;
use crate::weight::Weight;
use crate::{
    Activations, AffineQuantizer, CodebookQuantizer, Float, MagnitudePruner, Model, Tensor, WeightCompressor,
};

pub(super) fn noise<T: Float>(shape: &[usize], scale: f64, seed: u64) -> Tensor<T> {
    let mut random = Random::new(seed).unwrap();
    let values = (0..shape.iter().product()).map(|_| T::narrow(random.normal() * scale)).collect();
    Tensor::new(shape, values).unwrap()
}

/// Images `[n, 1, 6, 6]` of three classes: where the bright spot is.
pub(super) fn images(n: usize, seed: u64) -> Examples {
    let mut x = noise::<f32>(&[n, 1, 6, 6], 0.3, seed);
    let labels: Vec<u32> = (0..n).map(|i| (i % 3) as u32).collect();
    for (image, label) in x.as_mut_slice().chunks_mut(36).zip(&labels) {
        let at = [7, 16, 25][*label as usize];
        [at, at + 1, at + 6, at + 7].into_iter().for_each(|p| image[p] += 1.5);
    }
    Examples::new(x, labels).unwrap()
}

/// A convolution, a batch norm, dropout and two linear layers, the first of which is large enough for products that
/// meet kept entries only.
pub(super) fn model(dropout: f64) -> Model {
    let graph = Graph::new()
        .conv2d("conv", Conv2d::default().without_bias())
        .batch_norm("bn")
        .relu()
        .flatten()
        .linear("fc1")
        .relu()
        .dropout(dropout)
        .linear("fc2");
    let shapes: &[(&str, &[usize])] = &[
        ("conv.weight", &[4, 1, 3, 3]),
        ("bn.weight", &[4]),
        ("bn.bias", &[4]),
        ("bn.running_mean", &[4]),
        ("bn.running_var", &[4]),
        ("fc1.weight", &[64, 64]),
        ("fc1.bias", &[64]),
        ("fc2.weight", &[3, 64]),
        ("fc2.bias", &[3]),
    ];
    Model::initialized(graph, shapes, 5).unwrap()
}

/// What makes a form of a dense matrix.
pub(super) type Form = fn(Weight) -> Weight;

/// The forms of a matrix, by name.
pub(super) fn forms() -> Vec<(&'static str, Form)> {
    fn masked(weight: Weight, sparsity: f64) -> Weight {
        MagnitudePruner::sparsity(sparsity).apply(weight).unwrap()
    }
    let mut forms: Vec<(&'static str, Form)> = vec![
        ("dense", |weight| weight),
        ("masked", |weight| masked(weight, 0.6)),
        ("sparse", |weight| masked(weight, 0.9)),
        ("affine", |weight| AffineQuantizer::bits(4).per_channel().apply(weight).unwrap()),
        ("masked affine", |weight| {
            AffineQuantizer::bits(3).group(16).asymmetric().apply(masked(weight, 0.5)).unwrap()
        }),
        ("coded inputs", |weight| {
            let how = Activations::Int8Static { low: -1.0, high: 3.0 };
            AffineQuantizer::bits(8).apply(weight).unwrap().with_activations(how)
        }),
        ("codebook", |weight| CodebookQuantizer::values(16).apply(weight).unwrap()),
        ("masked codebook", |weight| CodebookQuantizer::values(16).apply(masked(weight, 0.7)).unwrap()),
    ];
    #[cfg(feature = "faer")]
    {
        use crate::LowRankFactorizer;
        forms.push(("factored", |weight| LowRankFactorizer::rank(2).apply(weight).unwrap()));
        forms.push(("residual", |weight| {
            LowRankFactorizer::rank(2).residual(AffineQuantizer::bits(4)).apply(weight).unwrap()
        }));
        forms.push(("quantized factors", |weight| {
            let factors = LowRankFactorizer::rank(2).apply(weight).unwrap();
            AffineQuantizer::bits(6).apply(factors).unwrap()
        }));
    }
    forms
}

/// The network with both matrices in one form.
pub(super) fn network(form: Form, dropout: f64) -> Network {
    let mut model = model(dropout);
    for name in ["fc1.weight", "fc2.weight"] {
        let weight = form(model.weight(name).unwrap().clone());
        model.set(name, weight).unwrap();
    }
    model.network().unwrap()
}

pub(super) fn student(form: Form) -> Trainable {
    network(form, 0.2).trainable(Optimizer::adam().into()).unwrap()
}

pub(super) fn quiet(_: usize, _: usize) -> crate::Result<()> {
    Ok(())
}
