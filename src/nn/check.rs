//! Does a graph fit its weights? Graphs come out of files written by strangers: nothing here may panic or
//! overflow, whatever they say.

use super::graph::{Graph, Node};
use super::op::Op;
use crate::{Error, Fault, GraphError, Result};

/// Nodes of a graph; more is refused before any work.
pub(crate) const MAX_NODES: usize = 100_000;
/// Largest stride, window or padding.
const MAX_STEP: usize = 65_535;

/// What is known of an output before there is an input.
#[derive(Clone, Copy, Default)]
pub(super) struct Known {
    /// Number of axes.
    pub axes: Option<usize>,
    /// Length of axis 1.
    channels: Option<usize>,
    /// Length of the last axis.
    width: Option<usize>,
}

impl Known {
    fn flat(width: Option<usize>) -> Self {
        Self { axes: Some(2), channels: width, width }
    }

    fn maps(channels: Option<usize>) -> Self {
        Self { axes: Some(4), channels, width: None }
    }
}

impl Graph {
    /// Whether the graph fits weights of these shapes. `shape_of` gives the shape of a weight, `None` where
    /// there is no such weight.
    ///
    /// The shape of the network's input is not known here, so that some misfits show only when it comes.
    ///
    /// # Errors
    /// [`Error::Graph`] when a weight is missing, a node takes its input from a later one, or a setting
    /// makes no sense; [`Error::Shape`] and [`Error::Weight`], naming the weight, when its shape does not
    /// fit or has an axis of length 0; [`Error::Graph`] when there are more than 100,000 nodes.
    pub fn check(&self, shape_of: &dyn Fn(&str) -> Option<Vec<usize>>) -> Result<()> {
        self.known(shape_of).map(drop)
    }

    /// What is known of each output, 0 being the input; errors as those of [`check`](Self::check).
    pub(super) fn known(&self, shape_of: &dyn Fn(&str) -> Option<Vec<usize>>) -> Result<Vec<Known>> {
        if self.nodes.len() > MAX_NODES {
            return Err(node_error(MAX_NODES, "the graph has more than 100000 nodes"));
        }
        let mut known = Vec::with_capacity(self.nodes.len() + 1);
        known.push(Known::default());
        for (i, node) in self.nodes.iter().enumerate() {
            let next = Checker { number: i + 1, shape_of }.node(i, node, &known)?;
            known.push(next);
        }
        Ok(known)
    }
}

fn node_error(node: usize, why: &'static str) -> Error {
    GraphError::Node { node, why }.into()
}

struct Checker<'a> {
    /// Of the node, from 1.
    number: usize,
    shape_of: &'a dyn Fn(&str) -> Option<Vec<usize>>,
}

impl Checker<'_> {
    fn fail<X>(&self, why: &'static str) -> Result<X> {
        Err(node_error(self.number, why))
    }

    fn ensure(&self, holds: bool, why: &'static str) -> Result<()> {
        if holds { Ok(()) } else { self.fail(why) }
    }

    /// The shape of a weight. None of its axes may be empty: such a weight costs a file nothing, and its other
    /// axes, which set the sizes of outputs, could have any length.
    fn shape(&self, name: &str) -> Result<Vec<usize>> {
        let shape = (self.shape_of)(name).ok_or_else(|| GraphError::NoWeight(name.to_owned()))?;
        if shape.contains(&0) {
            return Err(form(
                name,
                "a weight of a network needs an entry, and this one has an axis of length 0",
            ));
        }
        Ok(shape)
    }

    fn vector(&self, name: &str, len: usize) -> Result<()> {
        let got = self.shape(name)?;
        if got == [len] { Ok(()) } else { Err(Error::shape(name, &[len], &got)) }
    }

    fn node(&self, index: usize, node: &Node, known: &[Known]) -> Result<Known> {
        let from = node.inputs(index);
        self.ensure(from.len() == node.op.arity(), "wrong number of inputs")?;
        if let Some(from) = from.iter().copied().find(|f| *f > index) {
            return Err(GraphError::Order { node: self.number, from }.into());
        }
        let x = from.first().and_then(|f| known.get(*f)).copied().unwrap_or_default();
        let y = from.get(1).and_then(|f| known.get(*f)).copied().unwrap_or_default();
        self.op(&node.op, x, y)
    }

    fn op(&self, op: &Op, x: Known, other: Known) -> Result<Known> {
        match op {
            Op::Linear { weight, bias } => {
                let shape = self.shape(weight)?;
                let [out, inputs] = shape[..] else {
                    return Err(form(weight, "a linear layer needs a weight of two axes, [out, in]"));
                };
                if let Some(width) = x.width.filter(|w| *w != inputs) {
                    return Err(Error::shape(weight, &[out, width], &shape));
                }
                bias.as_ref().map_or(Ok(()), |b| self.vector(b, out))?;
                let channels = if x.axes == Some(2) { Some(out) } else { x.channels };
                Ok(Known { channels, width: Some(out), ..x })
            }
            Op::Conv2d { weight, bias, stride, padding, groups } => {
                self.maps(x, "a convolution needs an input [n, channels, height, width]")?;
                let shape = self.shape(weight)?;
                let [out, group_channels, kh, kw] = shape[..] else {
                    return Err(form(weight, "a convolution needs a weight [out, in / groups, kh, kw]"));
                };
                self.steps(*stride)?;
                self.ensure(padding[0] <= kh && padding[1] <= kw, "padding above the kernel's size")?;
                let cols = [group_channels, kh, kw].iter().try_fold(1_usize, |a, b| a.checked_mul(*b));
                if cols.is_none() {
                    return Err(form(weight, "a kernel that is too large"));
                }
                let divides = *groups > 0 && out % groups == 0;
                self.ensure(divides, "groups must be at least 1 and divide the output channels")?;
                let channels = group_channels.checked_mul(*groups);
                if channels.is_none() || x.channels.is_some_and(|c| Some(c) != channels) {
                    let wanted = x.channels.unwrap_or(0) / groups;
                    return Err(Error::shape(weight, &[out, wanted, kh, kw], &shape));
                }
                bias.as_ref().map_or(Ok(()), |b| self.vector(b, out))?;
                Ok(Known::maps(Some(out)))
            }
            Op::BatchNorm { weight, bias, mean, variance, epsilon } => {
                self.epsilon(*epsilon)?;
                let len = self.norm(weight, x.channels)?;
                [bias, mean, variance].into_iter().try_for_each(|name| self.vector(name, len))?;
                let width = if x.axes == Some(2) { Some(len) } else { x.width };
                Ok(Known { channels: Some(len), width, ..x })
            }
            Op::LayerNorm { weight, bias, epsilon } => {
                self.epsilon(*epsilon)?;
                let len = self.norm(weight, x.width)?;
                self.vector(bias, len)?;
                let channels = if x.axes == Some(2) { Some(len) } else { x.channels };
                Ok(Known { channels, width: Some(len), ..x })
            }
            Op::Relu | Op::Gelu | Op::Silu | Op::Tanh | Op::Sigmoid => Ok(x),
            Op::MaxPool { size, stride, padding } | Op::AveragePool { size, stride, padding } => {
                self.maps(x, "pooling needs an input [n, channels, height, width]")?;
                self.steps(*stride)?;
                self.ensure(
                    size.iter().all(|s| (1..=MAX_STEP).contains(s)),
                    "a window of size 0 or too large",
                )?;
                let half = padding[0] <= size[0] / 2 && padding[1] <= size[1] / 2;
                self.ensure(half, "padding above half the window")?;
                Ok(Known::maps(x.channels))
            }
            Op::GlobalAveragePool => {
                self.maps(x, "pooling needs an input [n, channels, height, width]")?;
                Ok(Known::flat(x.channels))
            }
            Op::Flatten => Ok(Known::flat(if x.axes == Some(2) { x.width } else { None })),
            Op::Dropout { probability } => {
                self.ensure((0.0..1.0).contains(probability), "the probability of dropout must be in 0..1")?;
                Ok(x)
            }
            Op::Add => {
                let agree = |a: Option<usize>, b: Option<usize>| a.is_none() || b.is_none() || a == b;
                let fits = agree(x.axes, other.axes)
                    && agree(x.channels, other.channels)
                    && agree(x.width, other.width);
                self.ensure(fits, "adds two outputs of different shapes")?;
                Ok(Known {
                    axes: x.axes.or(other.axes),
                    channels: x.channels.or(other.channels),
                    width: x.width.or(other.width),
                })
            }
        }
    }

    /// Length of the scale of a normalization, which must be what is `known` of the axis.
    fn norm(&self, weight: &str, known: Option<usize>) -> Result<usize> {
        let shape = self.shape(weight)?;
        match (shape[..].first().copied(), shape.len(), known) {
            (Some(len), 1, None) => Ok(len),
            (Some(len), 1, Some(known)) if len == known => Ok(len),
            (_, _, known) => Err(Error::shape(weight, &[known.unwrap_or(0)], &shape)),
        }
    }

    fn maps(&self, x: Known, why: &'static str) -> Result<()> {
        self.ensure(x.axes.is_none_or(|n| n == 4), why)
    }

    fn steps(&self, stride: [usize; 2]) -> Result<()> {
        self.ensure(stride.iter().all(|s| (1..=MAX_STEP).contains(s)), "a stride of 0 or too large")
    }

    fn epsilon(&self, epsilon: f64) -> Result<()> {
        self.ensure((0.0..=1e3).contains(&epsilon), "epsilon must be in 0..=1000")
    }
}

fn form(weight: &str, why: &'static str) -> Error {
    Error::weight(weight, Fault::Form(why))
}

#[cfg(test)]
mod tests {
    use super::super::op::{Conv2d, Pool};
    use super::*;
    use proptest::prelude::*;

    fn shapes(name: &str) -> Option<Vec<usize>> {
        Some(match name {
            "fc.weight" => vec![10, 20],
            "wide.weight" => vec![10, 21],
            "fc.bias" | "wide.bias" | "bn10.weight" | "bn10.bias" => vec![10],
            "bn10.running_mean" | "bn10.running_var" => vec![10],
            "conv.weight" => vec![20, 3, 3, 3],
            "conv.bias" => vec![20],
            "none.weight" => vec![],
            "high.weight" => vec![60_000_000, 0],
            "large.weight" => vec![1, 0, 60_000, 60_000],
            "void.weight" | "void.bias" => vec![0],
            "huge.weight" => vec![10, usize::MAX, 3, 3],
            "huge.bias" => vec![10],
            _ => return None,
        })
    }

    fn message(graph: Graph) -> String {
        graph.check(&shapes).map_or_else(|e| e.to_string(), |()| "fits".into())
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let conv = |c: Conv2d| Graph::new().conv2d("conv", c);
        let plain = || conv(Conv2d::default());
        for (graph, wanted) in [
            (plain().relu().max_pool(2).global_average_pool().linear("fc"), "fits"),
            (plain().flatten().linear("fc").batch_norm("bn10"), "fits"),
            (plain().global_average_pool().linear("wide"), "wide.weight: expected shape [10, 20]"),
            (Graph::new().linear("nowhere"), "no weight `nowhere.weight`"),
            (Graph::new().linear("none"), "`none.weight`: a linear layer needs"),
            (Graph::new().linear_without_bias("high"), "`high.weight`: a weight of a network needs an entry"),
            (Graph::new().conv2d("large", Conv2d::default().padding(60_000)), "`large.weight`: a weight of"),
            (Graph::new().layer_norm("void"), "`void.weight`: a weight of"),
            (Graph::new().linear("fc").conv2d("conv", Conv2d::default()), "fits"),
            (Graph::new().flatten().conv2d("conv", Conv2d::default()), "node 2: a convolution needs"),
            (plain().conv2d("conv", Conv2d::default()), "conv.weight: expected shape [20, 20, 3, 3]"),
            (conv(Conv2d::default().stride(0)), "node 1: a stride"),
            (conv(Conv2d::default().groups(0)), "node 1: groups"),
            (conv(Conv2d::default().groups(3)), "node 1: groups"),
            (conv(Conv2d::default().padding(usize::MAX)), "node 1: padding"),
            (Graph::new().conv2d("huge", Conv2d::default().groups(10)), "huge.weight"),
            (plain().batch_norm("bn10"), "bn10.weight: expected shape [20]"),
            (Graph::new().dropout(1.0), "node 1: the probability"),
            (Graph::new().dropout(f64::NAN), "node 1: the probability"),
            (Graph::new().max_pool(0), "node 1: a stride"),
            (Graph::new().max_pool(Pool::new(2).padding(2)), "node 1: padding above"),
            (Graph::new().node(Op::Relu, &[1]), "node 1 takes its input from 1"),
            (Graph::new().node(Op::Relu, &[2]), "node 1 takes its input from 2"),
            (Graph::new().node(Op::Add, &[0]), "node 1: wrong number"),
            (Graph::new().linear("fc").add(7), "node 2 takes its input from 7"),
            (plain().global_average_pool().add(1), "adds two outputs"),
        ] {
            let got = message(graph);
            assert!(got.contains(wanted), "wanted {wanted:?}, got {got:?}");
        }
        let norm = |epsilon| {
            let name = |s: &str| format!("bn10.{s}");
            let (weight, bias) = (name("weight"), name("bias"));
            Graph::new().node(Op::LayerNorm { weight, bias, epsilon }, &[0])
        };
        assert_eq!(message(norm(0.0)), "fits");
        assert!(message(norm(f64::NAN)).contains("epsilon"));
        assert!(message(norm(-1.0)).contains("epsilon"));
    }

    #[test]
    fn too_many_nodes_are_refused() {
        let json = format!("[{}]", vec![r#"{"op":"relu"}"#; MAX_NODES + 1].join(","));
        assert!(message(serde_json::from_str(&json).unwrap()).contains("100000"));
    }

    fn any_op() -> impl Strategy<Value = Op> {
        let size = prop_oneof![0_usize..4, Just(usize::MAX), any::<usize>()];
        let two = prop::array::uniform2(size.clone());
        let name = prop_oneof![
            Just("fc.weight"),
            Just("conv.weight"),
            Just("huge.weight"),
            Just("none.weight"),
            Just("x")
        ]
        .prop_map(str::to_owned);
        prop_oneof![
            name.clone().prop_map(|weight| Op::Linear { weight, bias: None }),
            (name.clone(), two.clone(), two.clone(), size).prop_map(|(weight, stride, padding, groups)| {
                Op::Conv2d { weight, bias: None, stride, padding, groups }
            }),
            (two.clone(), two.clone(), two).prop_map(|(size, stride, padding)| Op::MaxPool {
                size,
                stride,
                padding
            }),
            any::<f64>().prop_map(|probability| Op::Dropout { probability }),
            (name.clone(), name, any::<f64>()).prop_map(|(weight, bias, epsilon)| Op::LayerNorm {
                weight,
                bias,
                epsilon
            }),
            Just(Op::Add),
            Just(Op::Flatten),
            Just(Op::GlobalAveragePool),
            Just(Op::Relu),
        ]
    }

    proptest! {
        #[test]
        fn no_graph_panics(nodes in prop::collection::vec((any_op(), prop::collection::vec(0_usize..8, 0..3)), 0..8)) {
            let graph = Graph { nodes: nodes.into_iter().map(|(op, from)| Node { op, from }).collect() };
            let _ = graph.check(&shapes);
        }
    }
}
