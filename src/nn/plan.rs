//! A graph made ready to run: names resolved to slots, and the sizes of each layer for a given input.

use super::graph::Graph;
use super::layers::activation::Activation;
use super::layers::conv::Geometry;
use super::layers::norm::Maps;
use super::layers::pool::Window;
use super::op::{Op, Role};
use crate::{Error, GraphError, Result};
use std::collections::HashMap;

/// Architecture of a network, with weights by slot.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub layers: Vec<Layer>,
    /// Name, role and shape of the weight in each slot.
    pub slots: Vec<Slot>,
    /// Index of the last layer that takes each output; the output of the network is needed to the end.
    pub last_use: Vec<usize>,
}

#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub name: String,
    pub role: Role,
    pub shape: Vec<usize>,
}

#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub op: Op,
    /// Outputs it takes: 0 is the input of the network, `i + 1` comes from layer `i`.
    pub from: Vec<usize>,
    /// Slots of its weights, in the order of [`Op::weights`].
    pub slots: Vec<usize>,
    /// What to call it: the name of its weights up to the last dot, or its operation.
    pub label: String,
}

/// What a layer does to an input of known shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Work {
    /// `[n, cols]` to `[n, rows]`; `group` rows of the input belong to one sample.
    Linear {
        n: usize,
        cols: usize,
        rows: usize,
        group: usize,
    },
    Conv {
        n: usize,
        out: usize,
        geometry: Geometry,
    },
    BatchNorm {
        maps: Maps,
        epsilon: f64,
    },
    LayerNorm {
        epsilon: f64,
    },
    Activation(Activation),
    Max(Window),
    Average(Window),
    /// Mean over planes of this size.
    Global(usize),
    /// The same values.
    Flatten,
    Dropout(f64),
    Add,
}

impl Work {
    /// Whether there is enough to do that it is shared out: a pass then runs on one of the threads that do.
    pub fn is_large(&self) -> bool {
        self.products(1) >= SHARED
    }

    /// Multiplications of its products, as if there were at least so many inputs of a matrix.
    fn products(&self, least: usize) -> usize {
        match self {
            Self::Linear { n, cols, rows, .. } => (*n).max(least).saturating_mul(*cols).saturating_mul(*rows),
            Self::Conv { n, out, geometry } => {
                n.saturating_mul(geometry.windows() * out).saturating_mul(geometry.cols())
            }
            _ => 0,
        }
    }
}

/// How much all layers together have to do.
pub(crate) enum Size {
    /// So little that one thread is done before another has woken.
    Small,
    /// So little that falling asleep and waking counts.
    Middle,
    Large,
}

impl Size {
    /// Of layers, each with whether it runs on integers.
    pub fn of<'a>(layers: impl Iterator<Item = (&'a Work, bool)>) -> Self {
        let products =
            |(work, integers): (&Work, bool)| work.products(READ) / if integers { INTEGERS } else { 1 };
        match layers.map(products).fold(0, usize::saturating_add) {
            ..SMALL => Self::Small,
            SMALL..LARGE => Self::Middle,
            LARGE.. => Self::Large,
        }
    }
}

/// Multiplications of a layer's products from which it is worth more than one thread.
const SHARED: usize = 1 << 19;
/// Multiplications of a network from which it is worth more than one thread, and from which all of them.
const SMALL: usize = 1 << 22;
const LARGE: usize = 1 << 25;
/// Multiplications of integers that take as long as one of floats.
const INTEGERS: usize = 4;
/// Multiplications that take as long as reading a number of a matrix.
const READ: usize = 8;

impl Plan {
    pub fn new(graph: &Graph, shape_of: &dyn Fn(&str) -> Option<Vec<usize>>) -> Result<Self> {
        graph.check(shape_of)?;
        let mut slots: Vec<Slot> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut layers = Vec::with_capacity(graph.len());
        let mut last_use = vec![0; graph.len() + 1];
        for (i, (op, from)) in graph.ops().enumerate() {
            let mut used = Vec::new();
            for (name, role) in op.weights() {
                let next = slots.len();
                let slot = *places.entry(name.to_owned()).or_insert(next);
                if slot == next {
                    let shape = shape_of(name).ok_or_else(|| GraphError::NoWeight(name.to_owned()))?;
                    slots.push(Slot { name: name.to_owned(), role, shape });
                }
                used.push(slot);
            }
            from.iter().for_each(|f| last_use[*f] = i);
            layers.push(Layer { op: op.clone(), from: from.into_owned(), slots: used, label: label(i, op) });
        }
        last_use[layers.len()] = layers.len();
        Ok(Self { layers, slots, last_use })
    }

    /// The output that a tap means: the name of a layer, or the index of an output as
    /// [`Graph::last`] gives it.
    pub fn tap(&self, name: &str) -> Result<usize> {
        output(self.layers.iter().map(|layer| layer.label.as_str()), name)
            .ok_or_else(|| Error::Other(format!("the network has no layer `{name}`").into()))
    }
}

/// The output of the layer called `name` among these, or with that index.
fn output<L: AsRef<str>>(labels: impl ExactSizeIterator<Item = L> + Clone, name: &str) -> Option<usize> {
    let layers = labels.len();
    match labels.enumerate().find(|(_, label)| label.as_ref() == name) {
        Some((layer, _)) => Some(layer + 1),
        None => name.parse().ok().filter(|i| *i <= layers),
    }
}

/// What to call the layer of a node.
fn label(node: usize, op: &Op) -> String {
    match op.weights().first() {
        Some((name, _)) => prefix(name).to_owned(),
        None => format!("node {} ({})", node + 1, op.name()),
    }
}

impl Graph {
    /// Whether there is a layer that a tap may mean.
    pub(crate) fn has_layer(&self, tap: &str) -> bool {
        let labels: Vec<String> = self.ops().enumerate().map(|(i, (op, _))| label(i, op)).collect();
        output(labels.iter(), tap).is_some()
    }
}

/// `fc1` of `fc1.weight`.
pub(crate) fn prefix(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(prefix, _)| prefix)
}

impl Layer {
    /// Work and shape of the output for `inputs` of these shapes.
    pub fn size(&self, slots: &[Slot], inputs: &[&[usize]]) -> Result<(Work, Vec<usize>)> {
        let (work, shape) = self.work(slots, inputs)?;
        // Zero samples must not hide sizes that overflow for one.
        let unrolled = match &work {
            Work::Conv { geometry, .. } => geometry.unrolled(),
            _ => Some(0),
        };
        let size = shape.iter().try_fold(size_of::<f64>(), |a, b| a.checked_mul((*b).max(1)));
        if unrolled.is_none() || size.is_none_or(|n| isize::try_from(n).is_err()) {
            return Err(self.misfit(&[], inputs.first().copied().unwrap_or(&[])));
        }
        Ok((work, shape))
    }

    /// Where the expected shape has a 0, any length does.
    fn misfit(&self, expected: &[usize], got: &[usize]) -> Error {
        Error::shape(format!("input of `{}`", self.label), expected, got)
    }

    fn work(&self, slots: &[Slot], inputs: &[&[usize]]) -> Result<(Work, Vec<usize>)> {
        let x = inputs.first().copied().unwrap_or(&[]);
        let weight = || self.slots.first().map_or(&[][..], |s| &slots[*s].shape);
        let same = |work| Ok((work, x.to_vec()));
        match &self.op {
            Op::Linear { .. } => {
                let [rows, cols] = *weight() else { return Err(self.misfit(&[], x)) };
                match x {
                    [n, middle @ .., last] if *last == cols => {
                        let group = middle.iter().product();
                        let mut shape = x.to_vec();
                        shape.pop();
                        shape.push(rows);
                        Ok((Work::Linear { n: n * group, cols, rows, group }, shape))
                    }
                    _ => Err(self.misfit(&[0, cols], x)),
                }
            }
            Op::Conv2d { stride, padding, groups, .. } => {
                let [out, group_channels, kh, kw] = *weight() else { return Err(self.misfit(&[], x)) };
                let channels = group_channels * groups;
                let expected = [
                    0,
                    channels,
                    kh.saturating_sub(padding[0].saturating_mul(2)),
                    kw.saturating_sub(padding[1].saturating_mul(2)),
                ];
                let [n, c, h, w] = *x else { return Err(self.misfit(&expected, x)) };
                let output = windows([h, w], [kh, kw], *stride, *padding);
                let (Some(output), true) = (output, c == channels) else {
                    return Err(self.misfit(&expected, x));
                };
                let geometry = Geometry {
                    channels,
                    input: [h, w],
                    kernel: [kh, kw],
                    stride: *stride,
                    padding: *padding,
                    groups: *groups,
                    output,
                };
                Ok((Work::Conv { n, out, geometry }, vec![n, out, output[0], output[1]]))
            }
            Op::BatchNorm { epsilon, .. } => {
                let len = weight().iter().product();
                match x {
                    [_, channels, rest @ ..] if *channels == len => {
                        let maps = Maps { channels: len, plane: rest.iter().product() };
                        same(Work::BatchNorm { maps, epsilon: *epsilon })
                    }
                    _ => Err(self.misfit(&[0, len], x)),
                }
            }
            Op::LayerNorm { epsilon, .. } => {
                let len = weight().iter().product();
                match x {
                    [_, .., last] if *last == len => same(Work::LayerNorm { epsilon: *epsilon }),
                    _ => Err(self.misfit(&[0, len], x)),
                }
            }
            Op::Relu => same(Work::Activation(Activation::Relu)),
            Op::Gelu => same(Work::Activation(Activation::Gelu)),
            Op::Silu => same(Work::Activation(Activation::Silu)),
            Op::Tanh => same(Work::Activation(Activation::Tanh)),
            Op::Sigmoid => same(Work::Activation(Activation::Sigmoid)),
            Op::MaxPool { size, stride, padding } | Op::AveragePool { size, stride, padding } => {
                let expected = [
                    0,
                    0,
                    size[0].saturating_sub(padding[0].saturating_mul(2)),
                    size[1].saturating_sub(padding[1].saturating_mul(2)),
                ];
                let [n, c, h, w] = *x else { return Err(self.misfit(&expected, x)) };
                let Some(output) = windows([h, w], *size, *stride, *padding) else {
                    return Err(self.misfit(&expected, x));
                };
                let (size, stride, padding) = (*size, *stride, *padding);
                let window = Window { size, stride, padding, input: [h, w], output };
                let max = matches!(self.op, Op::MaxPool { .. });
                let work = if max { Work::Max(window) } else { Work::Average(window) };
                Ok((work, vec![n, c, output[0], output[1]]))
            }
            Op::GlobalAveragePool => match *x {
                [n, c, h, w] if h * w > 0 => Ok((Work::Global(h * w), vec![n, c])),
                _ => Err(self.misfit(&[0, 0, 1, 1], x)),
            },
            Op::Flatten => match x {
                [n, rest @ ..] => Ok((Work::Flatten, vec![*n, rest.iter().product()])),
                [] => Err(self.misfit(&[0], x)),
            },
            Op::Dropout { probability } => same(Work::Dropout(*probability)),
            Op::Add => {
                let other = inputs.get(1).copied().unwrap_or(&[]);
                if other == x { same(Work::Add) } else { Err(self.misfit(x, other)) }
            }
        }
    }
}

/// Height and width of the output of windows that move over an input; `None` where none fits.
fn windows(
    input: [usize; 2],
    size: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
) -> Option<[usize; 2]> {
    let along = |a: usize| {
        let room = padding[a].checked_mul(2)?.checked_add(input[a])?.checked_sub(size[a])?;
        room.checked_div(stride[a]).map(|n| n + 1)
    };
    if input.contains(&0) { None } else { Some([along(0)?, along(1)?]) }
}
