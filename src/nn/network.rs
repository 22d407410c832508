//! [`Network`]: a graph with weights, ready to run from their compressed form.

use super::accuracy::{accuracy, classes};
use super::convolve::convolve;
use super::data::{Dataset, Input, Outputs};
use super::graph::Graph;
use super::layers::norm::{Moments, layer_forward};
use super::layers::{linear, pool};
use super::op::{Op, Role};
use super::plan::{Layer, Plan, Size, Work};
use crate::weight::{MapKernel, zeros};
use crate::{Activations, Error, Fault, Float, GraphError, Result, Tensor, Weight, parallel};
use std::borrow::Cow;
use std::sync::Arc;

#[cfg(test)]
mod tests;

/// A network that runs from its compressed weights: pruned, quantized and factored weights are used as they
/// are, a few rows decoded at a time. Kernels of no more than 2^20 entries that run on integers are kept a second time,
/// in the order in which they meet their inputs: a byte for each entry, and 16 for each output channel. In that copy,
/// input channels are filled up to a multiple of 4 (the width, where there is one channel), and output channels to one
/// of 8: of few channels, these are up to 4 times and up to 8 times as many bytes.
///
/// Owns what it needs, so that it can be cloned, kept and used from many threads. Clones share the weights, and
/// so does the model where it has them in memory; weights in a file are loaded, still compressed, by each
/// [`Model::network`](crate::Model::network). Results do not depend on the number of threads.
#[derive(Clone, Debug)]
pub struct Network<T: Float = f32> {
    pub(super) plan: Arc<Plan>,
    pub(super) weights: Vec<Arc<Weight<T>>>,
    /// Biases, scales and statistics, decoded: they are small, and used value by value.
    pub(super) vectors: Vec<Option<Arc<[T]>>>,
    /// Small kernels that run on integers, ready for them.
    kernels: Vec<Option<Arc<MapKernel>>>,
}

/// Most entries of a kernel that is kept as integers need it, too.
const KEPT: usize = 1 << 20;

/// Sees the name of each matrix or kernel and the input of its layer, as the network runs; an error ends that.
pub(crate) type Observer<'a, T> = &'a mut dyn FnMut(&str, &[T]) -> Result<()>;

struct Value<'a, T: Float> {
    shape: Vec<usize>,
    data: Cow<'a, [T]>,
}

impl<T: Float> Network<T> {
    /// The network of `graph` with the weights that `weight` finds, loaded into memory but still compressed.
    ///
    /// # Errors
    /// As [`Graph::check`], and [`Error::Weight`] when a file cannot be read.
    pub(crate) fn bind(graph: &Graph, weight: &dyn Fn(&str) -> Option<Arc<Weight<T>>>) -> Result<Self> {
        let plan = Plan::new(graph, &|name| weight(name).map(|w| w.shape().to_vec()))?;
        let find = |name: &str| weight(name).ok_or_else(|| GraphError::NoWeight(name.to_owned()));
        let weights = plan.slots.iter().map(|slot| find(&slot.name)).collect::<Result<_, _>>()?;
        Self::with_weights(&Arc::new(plan), weights)
    }

    /// `weights` fit the slots of the plan.
    pub(super) fn with_weights(plan: &Arc<Plan>, mut weights: Vec<Arc<Weight<T>>>) -> Result<Self> {
        let mut vectors = Vec::with_capacity(weights.len());
        for (slot, weight) in plan.slots.iter().zip(&mut weights) {
            let fail = |fault| Error::weight(&slot.name, fault);
            *weight = Arc::new((**weight).clone().map_leaves(&mut |leaf| leaf.load()).map_err(fail)?);
            vectors.push(match slot.role {
                Role::Linear | Role::Conv2d => None,
                _ => Some(weight.dense_values().map_err(fail)?.into()),
            });
        }
        let mut kernels = vec![None; weights.len()];
        for layer in &plan.layers {
            if let (Op::Conv2d { groups: 1, .. }, Some(slot)) = (&layer.op, layer.slots.first())
                && weights[*slot].shape().iter().product::<usize>() <= KEPT
            {
                let kernel = weights[*slot].map_kernel();
                kernels[*slot] =
                    kernel.map_err(|fault| Error::weight(&plan.slots[*slot].name, fault))?.map(Arc::new);
            }
        }
        Ok(Self { plan: Arc::clone(plan), weights, vectors, kernels })
    }

    /// The output for `input`, dropout off and batch norms with their running statistics.
    ///
    /// # Errors
    /// [`Error::Shape`] naming the layer that the input does not fit; [`Error::Data`] for token numbers;
    /// [`Error::Weight`] when integers are asked for and a weight is not quantized, or the input of one is
    /// not finite.
    pub fn forward(&self, input: &Input<T>) -> Result<Tensor<T>> {
        Ok(self.run(input, Vec::new(), None)?.logits)
    }

    /// As [`forward`](Self::forward), with the outputs of layers in between. A tap is the name of a layer
    /// (`"fc1"` for the layer with the weight `fc1.weight`) or the index of an output as
    /// [`Graph::last`] gives it (`"2"`).
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and [`Error::Other`] when there is no such layer.
    pub fn outputs(&self, input: &Input<T>, taps: &[&str]) -> Result<Outputs<T>> {
        let taps = taps.iter().map(|t| self.plan.tap(t)).collect::<Result<_>>()?;
        self.run(input, taps, None)
    }

    /// As [`outputs`](Self::outputs), with taps by the index of the output alone: a layer may be called "2".
    pub(crate) fn outputs_at(&self, input: &Input<T>, taps: &[usize]) -> Result<Outputs<T>> {
        self.run(input, taps.to_vec(), None)
    }

    /// As [`forward`](Self::forward); `observe` sees the input of each layer with a matrix or a kernel (for
    /// a convolution the feature maps, not their unrolled windows).
    pub(crate) fn forward_observed(&self, input: &Input<T>, observe: Observer<'_, T>) -> Result<Tensor<T>> {
        Ok(self.run(input, Vec::new(), Some(observe))?.logits)
    }

    /// The class of each sample: the index of its largest output, the first where several are equal.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and [`Error::Shape`] when the output is not `[n, classes]`.
    pub fn classify(&self, input: &Input<T>) -> Result<Vec<u32>> {
        classes(&self.forward(input)?)
    }

    /// Fraction of the samples of `data` whose class is their label, from 0 to 1; 0 for no samples.
    ///
    /// # Errors
    /// As [`classify`](Self::classify), what the dataset returns, [`Error::Data`] when it has no labels, and
    /// [`Error::Label`] when one of them is not the number of an output.
    pub fn accuracy(&self, data: &dyn Dataset<T>) -> Result<f64> {
        accuracy(data, usize::MAX, &mut |input| self.forward(input))
    }

    /// Names of the weights, in the order in which the graph first uses them.
    pub fn weight_names(&self) -> impl Iterator<Item = &str> {
        self.plan.slots.iter().map(|s| s.name.as_str())
    }

    /// The weight called `name`.
    pub fn weight(&self, name: &str) -> Option<&Weight<T>> {
        let slot = self.plan.slots.iter().position(|s| s.name == name)?;
        self.weights.get(slot).map(|w| &**w)
    }

    fn run(
        &self,
        input: &Input<T>,
        taps: Vec<usize>,
        observe: Option<Observer<'_, T>>,
    ) -> Result<Outputs<T>> {
        let x = input.values()?;
        let sizes = self.sizes(x.shape())?;
        match observe {
            None => match self.size(&sizes) {
                Size::Small => parallel::alone(|| self.pass(x, sizes, &taps, None)),
                Size::Middle => parallel::helped(|| self.pass(x, sizes, &taps, None)),
                Size::Large => parallel::inside(|| self.pass(x, sizes, &taps, None)),
            },
            observe => self.pass(x, sizes, &taps, observe),
        }
    }

    fn size(&self, sizes: &[(Work, Vec<usize>)]) -> Size {
        let integers = |slot: &usize| self.weights[*slot].activations() != Activations::Float;
        let layers = self.plan.layers.iter().zip(sizes);
        Size::of(layers.map(|(layer, (work, _))| (work, layer.slots.first().is_some_and(integers))))
    }

    /// Work and shape of each layer's output for an input of this shape.
    fn sizes(&self, shape: &[usize]) -> Result<Vec<(Work, Vec<usize>)>> {
        let mut sizes: Vec<(Work, Vec<usize>)> = Vec::with_capacity(self.plan.layers.len());
        for layer in &self.plan.layers {
            let of = |from: &usize| if *from == 0 { shape } else { &sizes[from - 1].1[..] };
            let inputs: Vec<&[usize]> = layer.from.iter().map(of).collect();
            sizes.push(layer.size(&self.plan.slots, &inputs)?);
        }
        Ok(sizes)
    }

    fn pass(
        &self,
        x: &Tensor<T>,
        sizes: Vec<(Work, Vec<usize>)>,
        taps: &[usize],
        mut observe: Option<Observer<'_, T>>,
    ) -> Result<Outputs<T>> {
        let mut values: Vec<Option<Value<'_, T>>> = Vec::with_capacity(self.plan.layers.len() + 1);
        values.push(Some(Value { shape: x.shape().to_vec(), data: Cow::Borrowed(x.as_slice()) }));
        for (i, (layer, (work, shape))) in self.plan.layers.iter().zip(sizes).enumerate() {
            let inputs: Vec<&Value<'_, T>> = layer.from.iter().filter_map(|f| values[*f].as_ref()).collect();
            if let (Some(observe), Work::Linear { .. } | Work::Conv { .. }) = (&mut observe, work) {
                observe(&self.plan.slots[layer.slots[0]].name, &inputs[0].data)?;
            }
            let data = self.layer(layer, work, &shape, &inputs)?;
            let data = match data {
                Some(data) => data,
                None => {
                    // The values stay; they move on where nobody else needs them.
                    let from = layer.from[0];
                    let last = self.plan.last_use[from] == i && !taps.contains(&from);
                    let value = if last { values[from].take().map(|v| v.data) } else { None };
                    value.or_else(|| values[from].as_ref().map(|v| v.data.clone())).unwrap_or_default()
                }
            };
            values.push(Some(Value { shape, data }));
            for from in &layer.from {
                if self.plan.last_use[*from] == i && !taps.contains(from) {
                    values[*from] = None;
                }
            }
        }
        let tensor = |value: &Option<Value<'_, T>>| match value {
            Some(v) => Tensor::new(&v.shape, v.data.to_vec()),
            None => Tensor::new(&[0], Vec::new()),
        };
        let taps = taps.iter().map(|t| tensor(&values[*t])).collect::<Result<_>>()?;
        let logits = match values.pop().flatten() {
            Some(v) => Tensor::new(&v.shape, v.data.into_owned())?,
            None => tensor(&None)?,
        };
        Ok(Outputs { logits, taps })
    }

    fn vector(&self, layer: &Layer, place: usize) -> &[T] {
        layer.slots.get(place).and_then(|s| self.vectors[*s].as_deref()).unwrap_or(&[])
    }

    /// Values of a layer's output; `None` where they are those of its first input.
    fn layer(
        &self,
        layer: &Layer,
        work: Work,
        shape: &[usize],
        inputs: &[&Value<'_, T>],
    ) -> Result<Option<Cow<'static, [T]>>> {
        let x = &inputs[0].data[..];
        let fail = |fault| {
            let fault = match fault {
                // Its place was one in the rows that a convolution makes of its input.
                Fault::Input { .. } => Fault::input(x, 0),
                other => other,
            };
            Error::weight(&layer.label, fault)
        };
        let len: usize = shape.iter().product();
        let blank = || zeros::<T>(1, len).map_err(fail);
        let y = match work {
            Work::Flatten | Work::Dropout(_) => return Ok(None),
            Work::Linear { n, group, .. } => {
                let mut y = self.weights[layer.slots[0]].product_with(x, n, group).map_err(fail)?;
                if layer.slots.len() > 1 {
                    linear::add_bias(self.vector(layer, 1), &mut y);
                }
                y
            }
            Work::Conv { n, out, geometry } => {
                let slot = layer.slots[0];
                let weight = (&*self.weights[slot], self.kernels[slot].as_deref());
                convolve(weight, &geometry, [n, out], x, self.vector(layer, 1)).map_err(fail)?
            }
            Work::BatchNorm { maps, epsilon } => {
                let moments: Vec<Moments> = (self.vector(layer, 2).iter().zip(self.vector(layer, 3)))
                    .map(|(mean, variance)| Moments::new(mean.widen(), variance.widen(), epsilon))
                    .collect();
                let mut y = blank()?;
                maps.forward(&moments, self.vector(layer, 0), self.vector(layer, 1), x, &mut y);
                y
            }
            Work::LayerNorm { epsilon } => {
                let mut y = blank()?;
                let (weight, bias) = (self.vector(layer, 0), self.vector(layer, 1));
                layer_forward(epsilon, weight, bias, x, &mut y, &mut Vec::new());
                y
            }
            Work::Activation(f) => {
                let mut y = blank()?;
                f.forward(x, &mut y);
                y
            }
            Work::Max(window) => {
                let mut y = blank()?;
                pool::max_values(&window, x, &mut y);
                y
            }
            Work::Average(window) => {
                let mut y = blank()?;
                pool::average_forward(&window, x, &mut y);
                y
            }
            Work::Global(size) => {
                let mut y = blank()?;
                pool::global_forward(size, x, &mut y);
                y
            }
            Work::Add => x.iter().zip(inputs[1].data.iter()).map(|(a, b)| *a + *b).collect(),
        };
        Ok(Some(Cow::Owned(y)))
    }
}
