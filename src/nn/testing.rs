//! Networks for tests.

use super::data::Input;
use super::graph::Graph;
use super::layers::gradcheck::numbers;
use super::op::Role;
use crate::{Tensor, Weight};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) type Weights = BTreeMap<String, Arc<Weight<f64>>>;

/// Weights for `graph`: the matrices have the given shapes, and everything else what fits to them.
pub(crate) fn fixture(graph: &Graph, shapes: &[(&str, &[usize])]) -> Weights {
    let mut weights = Weights::new();
    let mut out = 0;
    for (i, (name, role)) in graph.weights().enumerate() {
        let shape = match role {
            Role::Linear | Role::Conv2d => shapes.iter().find(|s| s.0 == name).unwrap().1.to_vec(),
            _ => vec![out],
        };
        out = shape[0];
        let mut values = numbers(shape.iter().product(), i as u64 + 1);
        match role {
            Role::Variance | Role::Scale => values.iter_mut().for_each(|x| *x = x.abs() + 0.1),
            _ => values.iter_mut().for_each(|x| *x *= 0.3),
        }
        weights.insert(name.to_owned(), Arc::new(Tensor::new(&shape, values).unwrap().into()));
    }
    weights
}

pub(crate) fn lookup(weights: &Weights) -> impl Fn(&str) -> Option<Arc<Weight<f64>>> + '_ {
    |name| weights.get(name).cloned()
}

pub(crate) fn input(shape: &[usize]) -> Input<f64> {
    Input::Values(Tensor::new(shape, numbers(shape.iter().product(), 99)).unwrap())
}

pub(crate) fn close(a: &[f64], b: &[f64], tolerance: f64) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "[{i}]: {a} and {b}");
    }
}
