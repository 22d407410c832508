//! Which channels of a network hang together: removing one means removing it everywhere.
//!
//! The rows of a layer's matrix are channels of its output. They pass through activations, norms and pooling, meet
//! those of other layers in sums, and end as columns of the matrices that read them. Everything that must be cut
//! alike is a [`ChannelGroup`] (the dependency graph of arXiv 2301.12900).

use super::graph::{Graph, Node};
use super::layers::activation::Activation;
use super::op::Op;
use crate::{Float, LeftAlone, Result};
use std::collections::HashMap;

/// The groups of a network.
#[derive(Clone, Debug)]
pub(crate) struct Channels {
    pub groups: Vec<ChannelGroup>,
    /// The group of each output; 0 is the input.
    pub of: Vec<usize>,
}

/// Channels that are removed together.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChannelGroup {
    /// How many there are; 0 where the graph does not say (those of the input).
    pub len: usize,
    /// Matrices and kernels whose rows they are, depthwise kernels included.
    pub rows: Vec<String>,
    /// Biases, and the vectors of norms.
    pub vectors: Vec<(String, Spread)>,
    /// Scales of batch norms, which are among the vectors.
    pub scales: Vec<String>,
    /// Matrices and kernels whose columns they are.
    pub readers: Vec<Reader>,
    /// Nodes that are depthwise convolutions.
    pub depthwise: Vec<usize>,
    /// Whether a layer norm takes its statistics across them.
    pub normalized: bool,
    /// Why none can be removed.
    pub fixed: Option<LeftAlone>,
}

/// Along which axis of a weight its channels lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Axis {
    Rows,
    /// Inputs: axis 1.
    Columns,
    /// The only axis there is.
    Vector,
}

impl ChannelGroup {
    /// Every weight that has the channels along one of its axes, with that axis; twice where it has them along both.
    pub fn axes(&self) -> impl Iterator<Item = (&str, Axis)> {
        let rows = self.rows.iter().map(|name| (&**name, Axis::Rows));
        let columns = self.readers.iter().map(|reader| (&*reader.weight, Axis::Columns));
        let vectors = self.vectors.iter().map(|(name, _)| (&**name, Axis::Vector));
        rows.chain(columns).chain(vectors)
    }
}

/// A layer that reads channels.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    /// The output that it reads.
    pub output: usize,
    pub weight: String,
    pub bias: Option<String>,
    /// Whether it sees zeros beside its input.
    pub padded: bool,
    /// Where the channels are among its columns.
    pub spread: Spread,
}

/// Where channels lie along an axis: place `i` belongs to channel `i / inner % len`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub inner: usize,
    pub len: usize,
}

impl Spread {
    pub fn channel(self, place: usize) -> usize {
        place / self.inner.max(1) % self.len.max(1)
    }

    /// The places, of `total`, whose channels are kept.
    pub fn places(self, total: usize, kept: &[bool]) -> Vec<usize> {
        (0..total).filter(|i| kept.get(self.channel(*i)).is_none_or(|kept| *kept)).collect()
    }
}

/// Where the channels of an output are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    /// Axis 1 of feature maps.
    Maps,
    /// The last axis.
    Last,
    /// Runs along the last of two axes, one a channel: flattened maps.
    Runs,
    /// Again and again along the last of two axes: flattened sequences.
    Cycles,
}

/// Something that has channels along one of its axes.
enum Member {
    Rows(String),
    Vector { name: String, of_batch_norm: bool },
    Reader(Reader),
    Depthwise(usize),
}

struct Builder<'a> {
    shape_of: &'a dyn Fn(&str) -> Option<Vec<usize>>,
    uses: HashMap<&'a str, usize>,
    /// Groups that have been joined point to each other, up to one that points to itself.
    parent: Vec<usize>,
    len: Vec<Option<usize>>,
    normalized: Vec<bool>,
    fixed: Vec<Option<LeftAlone>>,
    /// With the group, and layout and length of the axis.
    members: Vec<(usize, Layout, usize, Member)>,
    /// Group and layout of each output.
    values: Vec<(usize, Layout)>,
    /// Number of axes of each output, where that is known.
    axes: Vec<Option<usize>>,
}

impl Channels {
    /// The groups of `graph` with weights of these shapes.
    ///
    /// # Errors
    /// As [`Graph::check`].
    pub fn new(graph: &Graph, shape_of: &dyn Fn(&str) -> Option<Vec<usize>>) -> Result<Self> {
        let axes = graph.known(shape_of)?.iter().map(|known| known.axes).collect();
        let mut uses = HashMap::new();
        graph.weights().for_each(|(name, _)| *uses.entry(name).or_default() += 1);
        let mut builder = Builder {
            shape_of,
            uses,
            parent: Vec::new(),
            len: Vec::new(),
            normalized: Vec::new(),
            fixed: Vec::new(),
            members: Vec::new(),
            values: Vec::new(),
            axes,
        };
        let input = builder.group(None);
        builder.fix(input, LeftAlone::Boundary);
        builder.values.push((input, Layout::Last));
        for (i, node) in graph.nodes.iter().enumerate() {
            let value = builder.node(i, node);
            builder.values.push(value);
        }
        builder.fix(builder.values[graph.len()].0, LeftAlone::Boundary);
        Ok(builder.finish())
    }

    /// The graph with its depthwise convolutions fitted to `kept(group)` channels; `None` where all are kept.
    pub fn refit(&self, graph: &Graph, kept: impl Fn(usize) -> Option<usize>) -> Graph {
        let mut graph = graph.clone();
        for (i, group) in self.groups.iter().enumerate() {
            for node in &group.depthwise {
                if let (Op::Conv2d { groups, .. }, Some(kept)) = (&mut graph.nodes[*node].op, kept(i)) {
                    *groups = kept;
                }
            }
        }
        graph
    }
}

impl<'a> Builder<'a> {
    fn group(&mut self, len: Option<usize>) -> usize {
        self.parent.push(self.parent.len());
        self.len.push(len);
        self.normalized.push(false);
        self.fixed.push(None);
        self.parent.len() - 1
    }

    fn root(&self, mut group: usize) -> usize {
        while self.parent[group] != group {
            group = self.parent[group];
        }
        group
    }

    /// None of the channels can be removed. That they are the network's own is the reason above all others: no
    /// setting and no other graph would change it.
    fn fix(&mut self, group: usize, why: LeftAlone) {
        let root = self.root(group);
        let fixed = &mut self.fixed[root];
        if fixed.is_none() || why == LeftAlone::Boundary {
            *fixed = Some(why);
        }
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        if a == b {
            return;
        }
        if let (Some(x), Some(y)) = (self.len[a], self.len[b])
            && x != y
        {
            self.fix(a, LeftAlone::Axes);
            self.fix(b, LeftAlone::Axes);
            return;
        }
        self.parent[b] = a;
        self.len[a] = self.len[a].or(self.len[b]);
        self.normalized[a] |= self.normalized[b];
        if let Some(why) = self.fixed[b] {
            self.fix(a, why);
        }
    }

    fn shape(&self, name: &str) -> Vec<usize> {
        (self.shape_of)(name).unwrap_or_default()
    }

    fn member(&mut self, group: usize, layout: Layout, total: usize, name: &str, member: Member) {
        if self.uses.get(name).is_some_and(|n| *n > 1) {
            self.fix(group, LeftAlone::Shared);
        }
        self.members.push((group, layout, total, member));
    }

    /// The rows of a layer and its bias.
    fn rows(&mut self, group: usize, out: usize, weight: &str, bias: Option<&String>) {
        self.member(group, Layout::Last, out, weight, Member::Rows(weight.to_owned()));
        if let Some(name) = bias {
            self.vectors(group, Layout::Last, out, &[name], false);
        }
    }

    fn vectors(&mut self, group: usize, layout: Layout, total: usize, names: &[&String], scale: bool) {
        for (i, name) in names.iter().enumerate() {
            let member = Member::Vector { name: (*name).clone(), of_batch_norm: scale && i == 0 };
            self.member(group, layout, total, name, member);
        }
    }

    /// Group and layout of the output of a node.
    fn node(&mut self, index: usize, node: &Node) -> (usize, Layout) {
        let from = node.inputs(index);
        let output = from[0];
        let (group, layout) = self.values[output];
        match &node.op {
            Op::Linear { weight, bias } => {
                let shape = self.shape(weight);
                let (out, cols) = (shape[0], shape[1]);
                let next = self.group(Some(out));
                self.rows(next, out, weight, bias.as_ref());
                if layout == Layout::Maps {
                    // Its columns are the width of the maps, and the channels are still in axis 1.
                    self.fix(group, LeftAlone::Axes);
                    self.fix(next, LeftAlone::Axes);
                }
                self.reader(group, layout, cols, weight, bias.as_ref(), (output, false));
                (next, Layout::Last)
            }
            Op::Conv2d { weight, bias, padding, groups, .. } => {
                let shape = self.shape(weight);
                let (out, of_group) = (shape[0], shape[1]);
                if layout != Layout::Maps {
                    self.fix(group, LeftAlone::Axes);
                }
                if *groups > 1 && of_group == 1 && out == *groups {
                    self.rows(group, out, weight, bias.as_ref());
                    self.members.push((group, Layout::Last, out, Member::Depthwise(index)));
                    return (group, Layout::Maps);
                }
                let next = self.group(Some(out));
                self.rows(next, out, weight, bias.as_ref());
                if *groups > 1 {
                    self.fix(group, LeftAlone::Grouped);
                    self.fix(next, LeftAlone::Grouped);
                }
                let cols = shape[1..].iter().product();
                self.reader(group, layout, cols, weight, bias.as_ref(), (output, *padding != [0, 0]));
                (next, Layout::Maps)
            }
            Op::BatchNorm { weight, bias, mean, variance, .. } => {
                let len = self.shape(weight).iter().product();
                if layout == Layout::Maps || self.axes[output] == Some(2) {
                    self.vectors(group, layout, len, &[weight, bias, mean, variance], true);
                } else {
                    self.fix(group, LeftAlone::Axes);
                }
                (group, layout)
            }
            Op::LayerNorm { weight, bias, .. } => {
                let len = self.shape(weight).iter().product();
                // Over the width of maps it treats all channels alike.
                if layout != Layout::Maps {
                    let root = self.root(group);
                    self.normalized[root] = true;
                    self.vectors(group, layout, len, &[weight, bias], false);
                }
                (group, layout)
            }
            Op::MaxPool { .. } | Op::AveragePool { .. } | Op::GlobalAveragePool => {
                if layout != Layout::Maps {
                    self.fix(group, LeftAlone::Axes);
                }
                let global = matches!(node.op, Op::GlobalAveragePool);
                (group, if global { Layout::Last } else { Layout::Maps })
            }
            Op::Flatten => {
                let flat = match layout {
                    Layout::Maps => Layout::Runs,
                    Layout::Last if self.axes[output] != Some(2) => Layout::Cycles,
                    same => same,
                };
                (group, flat)
            }
            Op::Add => {
                let (other, other_layout) = self.values[from[1]];
                // The layout of the input says nothing; its group is fixed all the same.
                if layout != other_layout {
                    self.fix(group, LeftAlone::Axes);
                    self.fix(other, LeftAlone::Axes);
                }
                self.join(group, other);
                (group, if from[0] == 0 { other_layout } else { layout })
            }
            Op::Relu | Op::Gelu | Op::Silu | Op::Tanh | Op::Sigmoid | Op::Dropout { .. } => (group, layout),
        }
    }

    fn reader(
        &mut self,
        group: usize,
        layout: Layout,
        cols: usize,
        weight: &str,
        bias: Option<&String>,
        (output, padded): (usize, bool),
    ) {
        let spread = Spread { inner: 1, len: 0 };
        let reader = Reader { output, weight: weight.to_owned(), bias: bias.cloned(), padded, spread };
        self.member(group, layout, cols, weight, Member::Reader(reader));
    }

    fn finish(mut self) -> Channels {
        let mut place = HashMap::new();
        let mut groups: Vec<ChannelGroup> = Vec::new();
        for group in 0..self.parent.len() {
            let root = self.root(group);
            place.entry(root).or_insert_with(|| {
                groups.push(ChannelGroup {
                    len: self.len[root].unwrap_or(0),
                    normalized: self.normalized[root],
                    fixed: self.fixed[root],
                    ..ChannelGroup::default()
                });
                groups.len() - 1
            });
        }
        for (group, layout, total, member) in std::mem::take(&mut self.members) {
            let group = &mut groups[place[&self.root(group)]];
            let len = group.len;
            let inner = match (layout, &member) {
                (_, Member::Reader(_)) if layout == Layout::Maps => total / len.max(1),
                (Layout::Runs, _) => total / len.max(1),
                _ => 1,
            };
            let spread = Spread { inner: inner.max(1), len };
            let fits = match layout {
                Layout::Cycles | Layout::Runs => len > 0 && total % len == 0,
                Layout::Maps | Layout::Last => total == inner * len,
            };
            if !fits && group.fixed.is_none() {
                group.fixed = Some(LeftAlone::Axes);
            }
            match member {
                Member::Rows(name) => group.rows.push(name),
                Member::Vector { name, of_batch_norm } => {
                    if of_batch_norm {
                        group.scales.push(name.clone());
                    }
                    group.vectors.push((name, spread));
                }
                Member::Reader(reader) => group.readers.push(Reader { spread, ..reader }),
                Member::Depthwise(node) => group.depthwise.push(node),
            }
        }
        let of = self.values.iter().map(|(group, _)| place[&self.root(*group)]).collect();
        Channels { groups, of }
    }
}

/// What an activation makes of `x`; `None` for other operations.
pub(crate) fn activated<T: Float>(op: &Op, x: T) -> Option<T> {
    let f = match op {
        Op::Relu => Activation::Relu,
        Op::Gelu => Activation::Gelu,
        Op::Silu => Activation::Silu,
        Op::Tanh => Activation::Tanh,
        Op::Sigmoid => Activation::Sigmoid,
        _ => return None,
    };
    let mut y = [T::zero()];
    f.forward(&[x], &mut y);
    Some(y[0])
}
