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

/// A network that runs from its compressed weights: pruned, quantized and factored weights are used as they
/// are, a few rows decoded at a time. Kernels of no more than 2^20 entries that run on integers are kept a second time,
/// as a byte for each entry, in the order in which they meet their inputs.
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

/// Entries of a kernel that is kept as integers need it: a byte for each, and a few more.
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

#[cfg(test)]
mod tests {
    use super::super::fold::fold_batch_norm;
    use super::super::layers::gradcheck::numbers;
    use super::super::op::{Conv2d, Op, Pool};
    use super::super::testing::{close, fixture, input, lookup};
    use super::*;
    use crate::{Activations, AffineQuantizer, WeightCompressor};

    #[test]
    fn misfits_name_the_layer() {
        let graph = Graph::new().conv2d("c", Conv2d::default()).relu().flatten().linear("fc");
        let weights = fixture(&graph, &[("c.weight", &[2, 3, 3, 3]), ("fc.weight", &[5, 8])]);
        let net = Network::bind(&graph, &lookup(&weights)).unwrap();
        assert_eq!(net.forward(&input(&[6, 3, 4, 4])).unwrap().shape(), [6, 5]);
        assert_eq!(net.forward(&input(&[0, 3, 4, 4])).unwrap().shape(), [0, 5]);
        for (shape, layer) in [
            (&[6, 2, 4, 4][..], "`c`"),
            (&[6, 3, 2, 4], "`c`"),
            (&[6, 3], "`c`"),
            (&[], "`c`"),
            (&[6, 3, 5, 4], "`fc`"),
        ] {
            let message = net.forward(&input(shape)).unwrap_err().to_string();
            assert!(message.contains(layer), "{message}");
        }
        let ids = Input::Ids(Tensor::new(&[1, 1], vec![1]).unwrap());
        assert!(matches!(net.forward(&ids), Err(Error::Data(_))));
    }

    #[test]
    fn taps_and_observers_see_what_is_between() {
        let graph = Graph::new().linear("a").relu().linear("b").add(2).dropout(0.5);
        let weights = fixture(&graph, &[("a.weight", &[4, 3]), ("b.weight", &[4, 4])]);
        let net = Network::bind(&graph, &lookup(&weights)).unwrap();
        let x = input(&[2, 3]);
        let out = net.outputs(&x, &["a", "2", "0"]).unwrap();
        let (a, relu) = (&out.taps[0], &out.taps[1]);
        assert!(a.iter().zip(relu.iter()).all(|(a, r)| a.max(0.0) == *r));
        assert_eq!(&out.taps[2], x.values().unwrap());
        assert_eq!(out.logits, net.forward(&x).unwrap());
        assert!(net.outputs(&x, &["nothing"]).is_err());
        assert!(net.outputs(&x, &["6"]).is_err());
        let mut seen = Vec::new();
        let mut see = |name: &str, x: &[f64]| {
            seen.push((name.to_owned(), x.to_vec()));
            Ok(())
        };
        net.forward_observed(&x, &mut see).unwrap();
        assert_eq!(seen[0], ("a.weight".to_owned(), x.values().unwrap().as_slice().to_vec()));
        assert_eq!(seen[1], ("b.weight".to_owned(), relu.as_slice().to_vec()));
    }

    #[test]
    fn groups_equal_separate_convolutions() {
        let graph = |groups| Graph::new().conv2d("c", Conv2d::default().padding(1).stride(2).groups(groups));
        let weights = fixture(&graph(2), &[("c.weight", &[4, 3, 3, 3])]);
        let (w, b) = (weights["c.weight"].to_dense().unwrap(), weights["c.bias"].to_dense().unwrap());
        let x = input(&[2, 6, 5, 5]);
        let whole = Network::bind(&graph(2), &lookup(&weights)).unwrap().forward(&x).unwrap();
        for group in 0..2 {
            let mut part = weights.clone();
            let half = |v: &[f64], n: usize| v[group * n..(group + 1) * n].to_vec();
            let w = Tensor::new(&[2, 3, 3, 3], half(w.as_slice(), 54)).unwrap();
            part.insert("c.weight".into(), Arc::new(w.into()));
            part.insert("c.bias".into(), Arc::new(Tensor::new(&[2], half(b.as_slice(), 2)).unwrap().into()));
            let net = Network::bind(&graph(1), &lookup(&part)).unwrap();
            let samples = x.values().unwrap().as_slice().chunks(150);
            let own: Vec<f64> = samples.flat_map(|s| half(s, 75)).collect();
            let y = net.forward(&Input::Values(Tensor::new(&[2, 3, 5, 5], own).unwrap())).unwrap();
            let wanted: Vec<f64> = whole.as_slice().chunks(36).flat_map(|s| half(s, 18)).collect();
            close(y.as_slice(), &wanted, 1e-12);
        }
    }

    #[test]
    fn folding_a_batch_norm_changes_nothing() {
        let graph = Graph::new()
            .conv2d("c1", Conv2d::default().without_bias())
            .batch_norm("bn1")
            .relu()
            .conv2d("c2", Conv2d::default().padding(1))
            .batch_norm("bn2")
            .add(3)
            .batch_norm("bn3")
            .max_pool(Pool::new(2))
            .flatten()
            .linear("fc")
            .batch_norm("bn4");
        let weights = fixture(
            &graph,
            &[("c1.weight", &[3, 2, 2, 2]), ("c2.weight", &[3, 3, 3, 3]), ("fc.weight", &[5, 12])],
        );
        let (folded, changed) = fold_batch_norm(&graph, &lookup(&weights)).unwrap();
        let left = folded.ops().filter(|(op, _)| matches!(op, Op::BatchNorm { .. })).count();
        // The third takes a sum, which cannot hold it.
        assert_eq!((folded.len(), left), (8, 1));
        let mut new = weights.clone();
        changed.into_iter().for_each(|(name, w)| drop(new.insert(name, Arc::new(w))));
        let x = input(&[3, 2, 5, 5]);
        let before = Network::bind(&graph, &lookup(&weights)).unwrap().forward(&x).unwrap();
        let after = Network::bind(&folded, &lookup(&new)).unwrap().forward(&x).unwrap();
        close(before.as_slice(), after.as_slice(), 1e-10);
    }

    #[test]
    fn a_batch_norm_is_folded_into_a_linear_layer_only_where_there_are_two_axes() {
        let graph = Graph::new().linear("a").batch_norm("bn");
        let weights = fixture(&graph, &[("a.weight", &[4, 3])]);
        // Axis 1 of `[n, 4, 3]` has the length of the norm, which then works on it and not on the last.
        for (t, rows) in [(2, 4), (4, 4), (4, 5)] {
            let mut weights = weights.clone();
            let a = |shape: &[usize]| {
                Arc::new(Tensor::new(shape, numbers(shape.iter().product(), 8)).unwrap().into())
            };
            weights.insert("a.weight".into(), a(&[rows, 3]));
            weights.insert("a.bias".into(), a(&[rows]));
            let (folded, changed) = fold_batch_norm(&graph, &lookup(&weights)).unwrap();
            assert_eq!((&folded, changed.len()), (&graph, 0));
            let run = |graph| Network::bind(graph, &lookup(&weights)).unwrap().forward(&input(&[2, t, 3]));
            assert_eq!(run(&folded).ok(), run(&graph).ok());
        }
        let flat = Graph::new().flatten().linear("a").batch_norm("bn");
        let (folded, changed) = fold_batch_norm(&flat, &lookup(&weights)).unwrap();
        assert_eq!((folded, changed.len()), (Graph::new().flatten().linear("a"), 2));
    }

    #[test]
    fn integers_are_honoured_and_refused_for_floats() {
        let graph = Graph::new().linear("fc");
        let mut weights = fixture(&graph, &[("fc.weight", &[4, 3])]);
        let int8 = (*weights["fc.weight"]).clone().with_activations(Activations::Int8);
        weights.insert("fc.weight".into(), Arc::new(int8));
        let net = Network::bind(&graph, &lookup(&weights)).unwrap();
        assert!(matches!(net.forward(&input(&[2, 3])), Err(Error::Weight { weight, .. }) if weight == "fc"));
    }

    #[test]
    fn an_input_that_has_no_code_is_named_by_its_place() {
        let graph = Graph::new().conv2d("c", Conv2d::default().padding(1)).flatten().linear("fc");
        let mut weights = fixture(&graph, &[("c.weight", &[2, 3, 3, 3]), ("fc.weight", &[40, 32])]);
        for name in ["c.weight", "fc.weight"] {
            let quantizer = AffineQuantizer::bits(8).activations(Activations::Int8);
            let coded = quantizer.apply((*weights[name]).clone()).unwrap();
            weights.insert(name.into(), Arc::new(coded));
        }
        let net = Network::bind(&graph, &lookup(&weights)).unwrap();
        let mut x = input(&[5, 3, 4, 4]).values().unwrap().clone();
        assert!(net.forward(&Input::Values(x.clone())).is_ok());
        for bad in [f64::NAN, f64::INFINITY] {
            x.as_mut_slice()[163] = bad;
            let Err(Error::Weight { weight, fault }) = net.forward(&Input::Values(x.clone())) else {
                panic!()
            };
            assert_eq!((&*weight, fault.to_string()), ("c", format!("input entry 163 is {bad}")));
        }
    }

    #[test]
    fn accuracy_counts() {
        let graph = Graph::new().relu();
        let net = Network::<f64>::bind(&graph, &|_| None).unwrap();
        let x = Tensor::new(&[300, 2], numbers(600, 1)).unwrap();
        let labels: Vec<u32> =
            x.as_slice().chunks(2).map(|r| u32::from(r[1].max(0.0) > r[0].max(0.0))).collect();
        let data = super::super::Examples::new(x.clone(), labels.clone()).unwrap();
        assert_eq!(net.accuracy(&data).unwrap(), 1.0);
        assert_eq!(net.classify(&Input::Values(x)).unwrap(), labels);
        assert_eq!(net.accuracy(&data.subset([]).unwrap()).unwrap(), 0.0);
        // No output can be right about it.
        let mut wrong = labels;
        wrong[290] = 2;
        let wrong = super::super::Examples::new(data.inputs().clone(), wrong).unwrap();
        let error = net.accuracy(&wrong).unwrap_err();
        assert!(matches!(error, Error::Label { label: 2, sample: 290, classes: 2 }), "{error}");
    }
}
