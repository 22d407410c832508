//! [`Graph`]: the architecture of a network.

use super::op::{Conv2d, Op, Pool, Role};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The architecture of a network: operations, how they are connected, and the names of their weights. No
/// values, no number type, no size that the shape of a weight says already.
///
/// Output 0 is the input of the network and output `i + 1` is that of node `i`; the last one is the output
/// of the network. Each builder method appends a node that takes the latest output.
///
/// ```
/// use bantam::nn::{Conv2d, Graph};
///
/// let mlp = Graph::new().flatten().linear("fc1").relu().linear("fc2");
///
/// // A residual block: `from` of `add` is what `last` gave before.
/// let stem = Graph::new().conv2d("stem", Conv2d::default().padding(1)).relu();
/// let skip = stem.last();
/// let net = stem
///     .conv2d("conv1", Conv2d::default().padding(1).without_bias())
///     .batch_norm("bn1")
///     .add(skip)
///     .relu()
///     .global_average_pool()
///     .linear("head");
/// assert_eq!(net.len(), 8);
/// assert_eq!(mlp.weights().next().unwrap().0, "fc1.weight");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Graph {
    pub(super) nodes: Vec<Node>,
}

/// One node: an operation and where its inputs come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Node {
    pub op: Op,
    /// Empty for "the output before this node", so that a plain chain takes no room in a file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<usize>,
}

/// Epsilon of normalizations that are made by name, as in PyTorch.
const EPSILON: f64 = 1e-5;

impl Graph {
    /// A graph without nodes: the identity.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether it has no nodes.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Index of the latest output: 0 while there are no nodes.
    pub fn last(&self) -> usize {
        self.nodes.len()
    }

    /// The operations in order, each with the outputs it takes.
    pub fn ops(&self) -> impl Iterator<Item = (&Op, Cow<'_, [usize]>)> {
        self.nodes.iter().enumerate().map(|(i, node)| (&node.op, node.inputs(i)))
    }

    /// The same connections with other operations.
    pub(crate) fn map_ops(&self, f: impl Fn(Op) -> Op) -> Self {
        let nodes = self.nodes.iter().cloned();
        Self { nodes: nodes.map(|node| Node { op: f(node.op), from: node.from }).collect() }
    }

    /// Names of the weights and what each is for, in the order of the nodes. A weight that two nodes share
    /// comes twice.
    pub fn weights(&self) -> impl Iterator<Item = (&str, Role)> {
        self.nodes.iter().flat_map(|node| node.op.weights())
    }

    /// Appends `op` with explicit inputs: indices of outputs, two for [`Op::Add`], else one.
    pub fn node(mut self, op: Op, from: &[usize]) -> Self {
        // One form for one graph, however it was built.
        let from = if from == [self.last()] { Vec::new() } else { from.to_vec() };
        self.nodes.push(Node { op, from });
        self
    }

    fn then(self, op: Op) -> Self {
        let last = self.last();
        self.node(op, &[last])
    }

    /// A linear layer with the weights `NAME.weight` and `NAME.bias`.
    pub fn linear(self, name: &str) -> Self {
        self.then(Op::Linear { weight: format!("{name}.weight"), bias: Some(format!("{name}.bias")) })
    }

    /// A linear layer with the weight `NAME.weight` alone.
    pub fn linear_without_bias(self, name: &str) -> Self {
        self.then(Op::Linear { weight: format!("{name}.weight"), bias: None })
    }

    /// A convolution with the weights `NAME.weight` and, unless it is switched off, `NAME.bias`.
    pub fn conv2d(self, name: &str, settings: Conv2d) -> Self {
        let Conv2d { stride, padding, groups, bias } = settings;
        self.then(Op::Conv2d {
            weight: format!("{name}.weight"),
            bias: bias.then(|| format!("{name}.bias")),
            stride,
            padding,
            groups,
        })
    }

    /// A batch norm with `NAME.weight`, `.bias`, `.running_mean` and `.running_var`, epsilon 1e-5.
    pub fn batch_norm(self, name: &str) -> Self {
        self.then(Op::BatchNorm {
            weight: format!("{name}.weight"),
            bias: format!("{name}.bias"),
            mean: format!("{name}.running_mean"),
            variance: format!("{name}.running_var"),
            epsilon: EPSILON,
        })
    }

    /// A layer norm over the last axis with `NAME.weight` and `NAME.bias`, epsilon 1e-5.
    pub fn layer_norm(self, name: &str) -> Self {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        self.then(Op::LayerNorm { weight, bias, epsilon: EPSILON })
    }

    /// See [`Op::Relu`].
    pub fn relu(self) -> Self {
        self.then(Op::Relu)
    }

    /// See [`Op::Gelu`].
    pub fn gelu(self) -> Self {
        self.then(Op::Gelu)
    }

    /// See [`Op::Silu`].
    pub fn silu(self) -> Self {
        self.then(Op::Silu)
    }

    /// See [`Op::Tanh`].
    pub fn tanh(self) -> Self {
        self.then(Op::Tanh)
    }

    /// See [`Op::Sigmoid`].
    pub fn sigmoid(self) -> Self {
        self.then(Op::Sigmoid)
    }

    /// See [`Op::MaxPool`]. `max_pool(2)` halves height and width.
    pub fn max_pool(self, pool: impl Into<Pool>) -> Self {
        let Pool { size, stride, padding } = pool.into();
        self.then(Op::MaxPool { size, stride, padding })
    }

    /// See [`Op::AveragePool`].
    pub fn average_pool(self, pool: impl Into<Pool>) -> Self {
        let Pool { size, stride, padding } = pool.into();
        self.then(Op::AveragePool { size, stride, padding })
    }

    /// See [`Op::GlobalAveragePool`].
    pub fn global_average_pool(self) -> Self {
        self.then(Op::GlobalAveragePool)
    }

    /// See [`Op::Flatten`].
    pub fn flatten(self) -> Self {
        self.then(Op::Flatten)
    }

    /// See [`Op::Dropout`].
    pub fn dropout(self, probability: f64) -> Self {
        self.then(Op::Dropout { probability })
    }

    /// Adds output `from` (see [`last`](Self::last)) to the latest output.
    #[allow(clippy::should_implement_trait, reason = "a layer, named as all the others")]
    pub fn add(self, from: usize) -> Self {
        let last = self.last();
        self.node(Op::Add, &[from, last])
    }
}

impl Node {
    /// Indices of the outputs it takes; `index` is its own place.
    pub fn inputs(&self, index: usize) -> Cow<'_, [usize]> {
        if self.from.is_empty() { Cow::Owned(vec![index]) } else { Cow::Borrowed(&self.from) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_survives_json_and_a_chain_is_short() {
        let g = Graph::new().flatten().linear("fc1").relu().dropout(0.5).linear_without_bias("fc2").add(3);
        let json = serde_json::to_string(&g).unwrap();
        assert_eq!(serde_json::from_str::<Graph>(&json).unwrap(), g);
        assert!(json.starts_with(r#"[{"op":"flatten"},{"op":{"linear":{"weight":"fc1.weight""#), "{json}");
        assert!(json.ends_with(r#"{"op":"add","from":[3,5]}]"#), "{json}");
    }

    #[test]
    fn explicit_inputs_have_one_form() {
        assert_eq!(Graph::new().relu().node(Op::Tanh, &[1]), Graph::new().relu().tanh());
        assert_ne!(Graph::new().relu().node(Op::Tanh, &[0]), Graph::new().relu().tanh());
    }

    #[test]
    fn names_follow_pytorch() {
        let g = Graph::new().conv2d("c", Conv2d::default()).batch_norm("bn");
        let names: Vec<_> = g.weights().map(|(n, _)| n.to_owned()).collect();
        assert_eq!(
            names,
            ["c.weight", "c.bias", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"]
        );
    }
}
