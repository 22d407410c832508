//! Networks with random weights, to be trained.

use super::{Graph, Role};
use crate::model::{Kind, Model};
use crate::random::Random;
use crate::{Error, Float, GraphError, Result, Tensor};

impl<T: Float> Model<T> {
    /// A network with random weights: `graph` with weights of the given names and shapes, in that order.
    ///
    /// Matrices and kernels get the uniform distribution on `+-1 / sqrt(inputs)` that PyTorch starts with,
    /// scales and variances 1, everything else 0. The same seed gives the same weights.
    ///
    /// # Errors
    /// [`Error::Graph`] and [`Error::Shape`] when names or shapes do not fit the graph;
    /// [`Error::Unsupported`] without the feature `train`.
    pub fn initialized(graph: Graph, shapes: &[(&str, &[usize])], seed: u64) -> Result<Self> {
        let mut random = Random::new(seed)?;
        let mut model = Self::default();
        for (name, shape) in shapes {
            let role = graph.weights().find(|(n, _)| n == name).map(|(_, role)| role);
            let role = role.ok_or_else(|| GraphError::NoWeight((*name).to_owned()))?;
            let n = shape.iter().try_fold(1_usize, |n, d| n.checked_mul(*d));
            let n = n.ok_or_else(|| Error::shape(*name, &[], shape))?;
            let values = match role {
                Role::Linear | Role::Conv2d => {
                    let inputs: usize = shape.iter().skip(1).product();
                    let end = 1.0 / (inputs.max(1) as f64).sqrt();
                    (0..n).map(|_| T::narrow((2.0 * random.uniform() - 1.0) * end)).collect()
                }
                Role::Scale | Role::Variance => vec![T::one(); n],
                Role::Bias | Role::Shift | Role::Mean => vec![T::zero(); n],
            };
            model.push(name, Kind::of(role), Tensor::new(shape, values)?.into())?;
        }
        model.with_graph(graph)
    }
}
