//! [`Trainable`]: a network that learns, in the compressed form it has.

use super::data::{Input, Outputs};
use super::network::Network;
use super::optimizer::Optimizer;
use super::param::Param;
use super::plan::{Plan, Work};
use super::training::{Saved, Scratch, put};
use crate::random::Random;
use crate::weight::zeros;
use crate::{Error, Float, Result, Tensor, Weight, parallel};
use std::sync::Arc;
use wildmatch::WildMatch;

/// A network that learns without leaving its compressed form: a pruned entry stays exactly zero, a factor
/// stays a factor, a code stays on its grid.
///
/// | form of a leaf | what is trained |
/// | --- | --- |
/// | dense | every entry |
/// | pruned | the kept entries; there is nothing to train for the others |
/// | quantized | the codes, through latent floats kept inside the range of their grid (straight-through estimator, arXiv 1308.3432); scales as well after [`learn_step_sizes`](Self::learn_step_sizes); zero points stay |
/// | codebook | the shared values, each by the sum of the gradients of its entries; codes as well after [`move_codes`](Self::move_codes) |
/// | product | both factors |
/// | sum | every term |
///
/// Each leaf has a stable path: `fc1.weight`, or `fc1.weight.u` and `fc1.weight.v` for factors, or
/// `fc1.weight.0`, `.1`, .. for the terms of a sum.
///
/// Training runs on floats, whatever [`Weight::activations`] say, unless
/// [`code_inputs`](Self::code_inputs) is called; batch norms use and measure the
/// statistics of the batch (momentum 0.1 and the unbiased variance for the running ones, as in PyTorch; a
/// batch with a single value a channel uses the running ones). Results do not depend on the number of
/// threads.
///
/// ```no_run
/// # fn example(network: &bantam::nn::Network, input: &bantam::nn::Input<f32>) -> bantam::Result<()> {
/// use bantam::nn::{Optimizer, Outputs, cross_entropy};
///
/// let mut student = network.trainable(Optimizer::adam().into())?;
/// let out = student.forward(input, &[])?;
/// let (loss, gradient) = cross_entropy(&out.logits, &[0, 1, 2])?;
/// student.backward(&Outputs { logits: gradient, taps: vec![] })?;
/// student.step(1e-3)?;
/// for (name, weight) in student.into_weights()? {
///     println!("{name}: {}", weight.form());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Trainable<T: Float = f32> {
    pub(super) plan: Arc<Plan>,
    pub(super) params: Vec<Param<T>>,
    pub(super) optimizer: Optimizer,
    pub(super) random: Random,
    /// Shape, work, values and leftovers of each output; 0 is the input.
    shapes: Vec<Vec<usize>>,
    works: Vec<Work>,
    values: Vec<Vec<T>>,
    saved: Vec<Saved<T>>,
    gradients: Vec<Vec<T>>,
    /// Whether a trained number depends on each output, and whether its gradient still holds anything.
    needed: Vec<bool>,
    fresh: Vec<bool>,
    /// Whether there is enough to do that it is shared out.
    large: bool,
    scratch: Scratch<T>,
    taps: Vec<usize>,
    /// Whether somebody asks for the gradient of the input.
    input_gradient: bool,
    /// Whether the last forward pass was one for training, so that there is a way back.
    ready: bool,
}

impl<T: Float> Network<T> {
    /// The same network, able to learn.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the feature `train` is off; [`Error::Weight`] when a weight does not fit
    /// in memory decoded, or has an entry that is NaN or infinite.
    pub fn trainable(&self, optimizer: Optimizer) -> Result<Trainable<T>> {
        Trainable::new(self, optimizer)
    }
}

impl<T: Float> Trainable<T> {
    /// See [`Network::trainable`].
    ///
    /// # Errors
    /// As there.
    pub fn new(network: &Network<T>, optimizer: Optimizer) -> Result<Self> {
        let plan = Arc::clone(&network.plan);
        let params = plan.slots.iter().zip(&network.weights).map(|(slot, w)| Param::new(slot, w));
        Ok(Self {
            params: params.collect::<Result<_>>()?,
            optimizer,
            random: Random::new(0)?,
            shapes: vec![Vec::new(); plan.layers.len() + 1],
            works: Vec::with_capacity(plan.layers.len()),
            values: vec![Vec::new(); plan.layers.len() + 1],
            saved: vec![Saved::default(); plan.layers.len()],
            gradients: vec![Vec::new(); plan.layers.len() + 1],
            needed: Vec::with_capacity(plan.layers.len() + 1),
            fresh: Vec::with_capacity(plan.layers.len() + 1),
            large: false,
            scratch: Scratch::default(),
            taps: Vec::new(),
            input_gradient: false,
            ready: false,
            plan,
        })
    }

    /// Starts the random numbers of dropout again, from `seed` (0 at first).
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the feature `train` is off.
    pub fn seed(&mut self, seed: u64) -> Result<()> {
        self.random = Random::new(seed)?;
        Ok(())
    }

    /// The optimizer.
    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// Another optimizer from the next step on.
    pub fn set_optimizer(&mut self, optimizer: Optimizer) {
        self.optimizer = optimizer;
    }

    /// Holds every leaf whose path matches `pattern` (`*` and `?` stand for any text and any character), and
    /// running statistics whose name does. Gives how many there are.
    pub fn freeze(&mut self, pattern: &str) -> usize {
        let pattern = WildMatch::new(pattern);
        let mut count = 0;
        for param in &mut self.params {
            let measured = param.is_measured();
            let mut held = false;
            param.for_each_leaf(&mut |path, leaf| {
                if pattern.matches(path) && (measured || !leaf.frozen) {
                    leaf.frozen = true;
                    held = measured;
                    count += 1;
                }
            });
            param.held |= held;
        }
        count
    }

    /// Paths of the leaves that a step may change, and how many numbers each may change.
    pub fn trained(&self) -> impl Iterator<Item = (String, usize)> {
        let leaves = self.params.iter().flat_map(Param::leaves);
        leaves.filter(|(_, leaf)| !leaf.frozen).map(|(path, leaf)| (path, leaf.values().len()))
    }

    /// Paths of the leaves that no step changes: frozen ones, running statistics, and biases or norms in a
    /// form that cannot be trained.
    pub fn untrained(&self) -> impl Iterator<Item = String> {
        let leaves = self.params.iter().flat_map(Param::leaves);
        leaves.filter(|(_, leaf)| leaf.frozen).map(|(path, _)| path)
    }

    /// The trained numbers of the leaf at `path`: its kept entries in row-major order. For a coded leaf they
    /// are the latent floats.
    pub fn values(&self, path: &str) -> Option<&[T]> {
        let mut leaves = self.params.iter().flat_map(Param::leaves);
        leaves.find(|(p, _)| p == path).map(|(_, leaf)| leaf.values())
    }

    /// Their gradients since the last step.
    pub fn gradient(&self, path: &str) -> Option<Vec<T>> {
        let mut leaves = self.params.iter().flat_map(Param::leaves);
        leaves.find(|(p, _)| p == path).map(|(_, leaf)| leaf.kept_gradient())
    }

    /// Lets `f` change the trained numbers of the leaf at `path`. Gives whether there is such a leaf.
    pub fn edit(&mut self, path: &str, f: impl FnOnce(&mut [T])) -> bool {
        let mut f = Some(f);
        for param in &mut self.params {
            param.for_each_leaf(&mut |p, leaf| {
                if p == path
                    && let Some(f) = f.take()
                {
                    leaf.edit(f);
                }
            });
        }
        f.is_none()
    }

    /// The weights that changed, each in the form, the stored precision and with the
    /// [`activations`](Weight::activations) it had, and in no more bytes: where a file holds pruned entries as
    /// zeros, an entry that was trained to exactly zero is among them from here on.
    ///
    /// # Errors
    /// [`Error::Weight`] when a number of a weight has become NaN or infinite, in the precision in which it is
    /// stored, or when its codes cannot be read.
    pub fn weights(&self) -> Result<Vec<(String, Weight<T>)>> {
        let touched = self.params.iter().filter(|p| p.is_touched());
        touched.map(|p| Ok((p.name.clone(), Arc::unwrap_or_clone(p.weight()?)))).collect()
    }

    /// Whether training can change anything at all.
    pub(crate) fn can_learn(&self) -> bool {
        self.params.iter().any(Param::can_learn)
    }

    /// Whether [`weights`](Self::weights) would find a number that is NaN or infinite.
    pub(crate) fn check(&self) -> Result<()> {
        self.params.iter().try_for_each(Param::check)
    }

    /// As [`weights`](Self::weights), at the end of the training.
    ///
    /// # Errors
    /// As there.
    pub fn into_weights(self) -> Result<Vec<(String, Weight<T>)>> {
        self.weights()
    }

    /// The network as it is now.
    ///
    /// # Errors
    /// As [`weights`](Self::weights).
    pub fn network(&self) -> Result<Network<T>> {
        let weights: Vec<Arc<Weight<T>>> = self.params.iter().map(Param::weight).collect::<Result<_>>()?;
        Network::with_weights(&self.plan, weights)
    }

    /// The output for `input` in training: dropout on, batch norms with the statistics of the batch. `taps`
    /// as in [`Network::outputs`].
    ///
    /// # Errors
    /// As [`Network::outputs`].
    pub fn forward(&mut self, input: &Input<T>, taps: &[&str]) -> Result<Outputs<T>> {
        let mut outputs = Outputs::default();
        self.forward_into(input, taps, &mut outputs)?;
        Ok(outputs)
    }

    /// As [`forward`](Self::forward), into outputs that are there already: with input of the same shape as
    /// before, a training step allocates nothing.
    ///
    /// # Errors
    /// As there.
    pub fn forward_into(&mut self, input: &Input<T>, taps: &[&str], outputs: &mut Outputs<T>) -> Result<()> {
        self.taps.clear();
        for tap in taps {
            self.taps.push(self.plan.tap(tap)?);
        }
        self.pass(input, true)?;
        self.ready = true;
        outputs.taps.resize_with(taps.len(), || Tensor::zeros(&[0]));
        for (tap, to) in self.taps.iter().zip(&mut outputs.taps) {
            self.output_into(*tap, to)?;
        }
        self.output_into(self.plan.layers.len(), &mut outputs.logits)
    }

    /// The output for `input` as inference gives it: dropout off, batch norms with their running statistics.
    ///
    /// # Errors
    /// As [`Network::forward`].
    pub fn predict(&mut self, input: &Input<T>) -> Result<Tensor<T>> {
        self.pass(input, false)?;
        self.output(self.plan.layers.len())
    }

    /// As [`predict`](Self::predict), with the outputs of layers in between. `taps` as in [`Network::outputs`].
    ///
    /// # Errors
    /// As there.
    pub fn outputs(&mut self, input: &Input<T>, taps: &[&str]) -> Result<Outputs<T>> {
        let taps: Vec<usize> = taps.iter().map(|tap| self.plan.tap(tap)).collect::<Result<_>>()?;
        let logits = self.predict(input)?;
        Ok(Outputs { logits, taps: taps.into_iter().map(|tap| self.output(tap)).collect::<Result<_>>()? })
    }

    fn output(&self, index: usize) -> Result<Tensor<T>> {
        Tensor::new(&self.shapes[index], self.values[index].clone())
    }

    fn output_into(&self, index: usize, to: &mut Tensor<T>) -> Result<()> {
        if to.shape() == self.shapes[index] {
            to.as_mut_slice().copy_from_slice(&self.values[index]);
        } else {
            *to = self.output(index)?;
        }
        Ok(())
    }

    /// An output of the last forward pass, and its gradient after the way back: empty where nothing that is trained
    /// comes before it.
    pub(crate) fn values_at(&self, output: usize) -> (&[T], &[T]) {
        (&self.values[output], &self.gradients[output])
    }

    fn pass(&mut self, input: &Input<T>, training: bool) -> Result<()> {
        self.ready = false;
        let x = input.values()?;
        // A scalar has the shape that there is before the first pass.
        let same = self.shapes[0] == x.shape() && self.values[0].len() == x.len();
        if !same || self.works.len() < self.plan.layers.len() {
            self.size(x.shape())?;
        }
        self.values[0].copy_from_slice(x.as_slice());
        if self.large { parallel::inside(|| self.layers(training)) } else { self.layers(training) }
    }

    /// Work and room of each layer for an input of this shape.
    fn size(&mut self, shape: &[usize]) -> Result<()> {
        self.works.clear();
        self.large = false;
        self.shapes[0] = shape.to_vec();
        resize(&mut self.values[0], shape.iter().product(), "input")?;
        for (i, layer) in self.plan.layers.iter().enumerate() {
            let inputs: Vec<&[usize]> = layer.from.iter().map(|f| &self.shapes[*f][..]).collect();
            let (work, shape) = layer.size(&self.plan.slots, &inputs)?;
            resize(&mut self.values[i + 1], shape.iter().product(), &layer.label)?;
            self.large |= work.is_large();
            self.shapes[i + 1] = shape;
            self.works.push(work);
        }
        Ok(())
    }

    fn layers(&mut self, training: bool) -> Result<()> {
        for (i, layer) in self.plan.layers.iter().enumerate() {
            let (before, after) = self.values.split_at_mut(i + 1);
            let mut run = super::training::Run {
                layer,
                work: self.works[i],
                params: &mut self.params,
                saved: &mut self.saved[i],
                scratch: &mut self.scratch,
            };
            let random = if training { Some(&mut self.random) } else { None };
            run.forward(&inputs(before, &layer.from), &mut after[0], random)?;
        }
        Ok(())
    }

    /// Makes the gradient of the input on the way back, too, for [`values_at`](Self::values_at).
    pub(crate) fn keep_input_gradient(&mut self) {
        self.input_gradient = true;
    }

    /// As if no forward pass had been made.
    pub(super) fn forget_pass(&mut self) {
        self.ready = false;
    }

    /// Adds the gradient of a loss, given with respect to what the last [`forward`](Self::forward) returned,
    /// to the gradients of all leaves. `taps` may be empty, and so may any one of them where the loss does
    /// not depend on it.
    ///
    /// # Errors
    /// [`Error::Shape`] when a gradient has another shape than its output; [`Error::Other`] without a
    /// forward pass before.
    pub fn backward(&mut self, gradients: &Outputs<T>) -> Result<()> {
        if !self.ready {
            return Err(Error::Other("there is no forward pass to go back through".into()));
        }
        self.find_needed();
        self.fresh.clear();
        self.fresh.resize(self.values.len(), true);
        for (i, gradient) in self.gradients.iter_mut().enumerate() {
            let len = if self.needed[i] { self.values[i].len() } else { 0 };
            if gradient.len() != len {
                resize(gradient, len, "gradient")?;
            }
        }
        let logits = [(self.plan.layers.len(), &gradients.logits)];
        let taps = self.taps.iter().copied().zip(&gradients.taps);
        for (index, gradient) in taps.filter(|(_, g)| !g.is_empty()).chain(logits) {
            if gradient.shape() != self.shapes[index] {
                return Err(Error::shape("gradient", &self.shapes[index], gradient.shape()));
            }
            // Nobody asks for the gradient of an output that nothing trained leads to.
            if self.needed[index] {
                put(gradient.as_slice(), std::mem::take(&mut self.fresh[index]), &mut self.gradients[index]);
            }
        }
        if self.large { parallel::inside(|| self.layers_back()) } else { self.layers_back() }
    }

    fn layers_back(&mut self) -> Result<()> {
        for (i, layer) in self.plan.layers.iter().enumerate().rev() {
            if !self.needed[i + 1] {
                continue;
            }
            let (before, after) = self.gradients.split_at_mut(i + 1);
            if std::mem::take(&mut self.fresh[i + 1]) {
                after[0].fill(T::zero());
            }
            let mut run = super::training::Run {
                layer,
                work: self.works[i],
                params: &mut self.params,
                saved: &mut self.saved[i],
                scratch: &mut self.scratch,
            };
            let inputs = inputs(&self.values, &layer.from);
            run.backward(&inputs, &after[0], before, &mut self.needed, &mut self.fresh)?;
        }
        Ok(())
    }

    /// For each output, whether the gradient of a trained number depends on its gradient.
    fn find_needed(&mut self) {
        self.needed.clear();
        self.needed.push(self.input_gradient);
        for layer in &self.plan.layers {
            let needed = layer.from.iter().any(|f| self.needed[*f])
                || layer.slots.iter().any(|s| self.params[*s].is_trained());
            self.needed.push(needed);
        }
    }

    /// One step of the optimizer at `rate`. Gradients start again at zero.
    ///
    /// # Errors
    /// None now; callers should not rely on it.
    pub fn step(&mut self, rate: f64) -> Result<()> {
        let Self { params, optimizer, .. } = self;
        let each = || {
            for param in params {
                param.each_leaf(&mut |leaf| leaf.step(optimizer, rate));
                if let Some(inputs) = &mut param.inputs {
                    inputs.step(optimizer, rate);
                }
            }
        };
        if self.large {
            parallel::inside(each);
        } else {
            each();
        }
        Ok(())
    }
}

/// What a layer takes: no more than two outputs.
fn inputs<'v, T>(values: &'v [Vec<T>], from: &[usize]) -> [&'v [T]; 2] {
    [0, 1].map(|i| from.get(i).map_or(&[][..], |f| &values[*f][..]))
}

/// `len` zeros, in the room that is there already where it is enough.
fn resize<T: Float>(values: &mut Vec<T>, len: usize, what: &str) -> Result<()> {
    if values.capacity() < len {
        *values = zeros(1, len).map_err(|fault| Error::weight(what, fault))?;
    }
    values.clear();
    values.resize(len, T::zero());
    Ok(())
}
