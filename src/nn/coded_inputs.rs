//! Training with inputs as a product on integers codes them ([`Activations`]): the forward pass sees the numbers that
//! the codes stand for, the gradient passes through as if there were no rounding, and not at all where a fixed range
//! clips. The scale of a fixed range can be learned with the step sizes of weights (arXiv 1902.08153, see
//! [`super::step_size`]); its zero point stays.

use super::optimizer::Optimizer;
use super::param::Param;
use super::plan::Work;
use super::step_size::Scales;
use super::trainable::Trainable;
use super::training::Run;
use crate::format::Store;
use crate::weight::{Activations, Grid, input_steps, range};
use crate::{Error, Fault, Float, Result};
use wildmatch::WildMatch;

/// How the inputs of a layer are coded while it is trained.
#[derive(Clone, Debug)]
pub(super) struct CodedInputs<T> {
    how: Activations,
    /// Of a fixed range that is learned: its scale, and the gradient of that since the last step.
    scale: Option<Scales<T>>,
    gradient: f64,
    /// Values of a sample. The paper scales the gradient by these alone: a loss is a mean over the samples already.
    features: usize,
}

impl<T: Float> CodedInputs<T> {
    pub fn new(how: Activations) -> Self {
        Self { how, scale: None, gradient: 0.0, features: 0 }
    }

    /// Writes or reads a fixed range and what the optimizer remembers of its scale, where that is learned.
    pub fn visit(&mut self, store: &mut Store) -> Result<()> {
        let mut learns = self.scale.is_some();
        store.flags("learns", [&mut learns])?;
        if !learns {
            return Ok(());
        }
        let Activations::Int8Static { low, high } = &mut self.how else {
            return Err(store.fault("learns", "the inputs have no fixed range"));
        };
        let mut ends = vec![*low, *high];
        store.numbers("range", &mut ends, &[2])?;
        self.scale.get_or_insert_with(|| Scales::new(vec![T::one()])).visit("scale", store, 1)?;
        (*low, *high) = (ends[0], ends[1]);
        if !self.how.is_sane() {
            return Err(store.fault("range", "it is not a range of numbers"));
        }
        Ok(())
    }

    /// The grid of a fixed range.
    fn fixed(&self) -> Option<Grid<T>> {
        let Activations::Int8Static { low, high } = self.how else { return None };
        let steps = input_steps(low, high);
        Some(Grid::new(8, false, steps.scale, steps.zero))
    }

    /// Learns the scale of a fixed range from now on. Gives whether there is one.
    pub fn learn(&mut self) -> bool {
        let Some(grid) = self.fixed() else { return false };
        self.scale.get_or_insert_with(|| Scales::new(vec![grid.scale]));
        true
    }

    /// How the trained layer codes its inputs.
    pub fn activations(&self) -> Activations {
        self.how
    }

    /// What the codes of `x` stand for, of samples of `size` values.
    fn encode(&self, x: &[T], size: usize, out: &mut [T]) -> Result<(), Fault> {
        let size = size.max(1);
        for (i, (sample, out)) in x.chunks(size).zip(out.chunks_mut(size)).enumerate() {
            let (low, high) = range(sample).ok_or_else(|| Fault::input(x, i * size))?;
            let grid = self.fixed().unwrap_or_else(|| {
                let steps = input_steps(low, high);
                Grid::new(8, false, steps.scale, steps.zero)
            });
            out.iter_mut().zip(sample).for_each(|(out, x)| *out = grid.value(grid.code(*x)));
        }
        Ok(())
    }

    /// Takes the gradient from inputs that were clipped, and notes that of the scale. A sample has `size` values.
    fn backward(&mut self, x: &[T], size: usize, dx: &mut [T]) {
        let Some(grid) = self.fixed() else { return };
        let mut sum = 0.0;
        for (x, dx) in x.iter().zip(dx) {
            let (slope, inside) = grid.slope(*x);
            sum += dx.widen() * slope;
            if !inside {
                *dx = T::zero();
            }
        }
        self.gradient += sum;
        self.features = size;
    }

    /// One step of the scale, which stays a positive number.
    pub fn step(&mut self, optimizer: &Optimizer, rate: f64) {
        let (Some(grid), Some(scales)) = (self.fixed(), &mut self.scale) else { return };
        let share = (self.features as f64 * f64::from(grid.reach())).sqrt();
        let gradient = if share > 0.0 { self.gradient / share } else { 0.0 };
        scales.step(optimizer, rate, std::iter::once(gradient));
        self.gradient = 0.0;
        let [scale] = scales.values() else { return };
        let zero = f64::from(grid.zero);
        let range = |scale: f64| Activations::Int8Static { low: -zero * scale, high: (255.0 - zero) * scale };
        let learned = range(scale.widen());
        if *scale > T::zero() && Grid::is_far_from_overflow(*scale) && learned.is_sane() {
            self.how = learned;
        } else {
            *scale = grid.scale;
        }
    }
}

impl<T: Float> Run<'_, T> {
    /// The weight whose inputs are coded, and the values of a sample that share a range.
    pub(super) fn coded(&self) -> Option<(usize, usize)> {
        let size = match self.work {
            Work::Linear { cols, group, .. } => cols * group.max(1),
            Work::Conv { geometry, .. } if geometry.groups == 1 => geometry.sample(),
            _ => return None,
        };
        let slot = *self.layer.slots.first()?;
        self.params[slot].inputs.as_ref().map(|_| (slot, size))
    }

    /// The input as the layer sees it, where that is not the one it is given.
    pub(super) fn code_input(&mut self, x: &[T]) -> Result<Option<Vec<T>>> {
        let Some((slot, size)) = self.coded() else { return Ok(None) };
        let mut coded = std::mem::take(&mut self.saved.coded);
        coded.resize(x.len(), T::zero());
        if let Some(inputs) = &self.params[slot].inputs {
            inputs
                .encode(x, size, &mut coded)
                .map_err(|fault| Error::weight(&self.params[slot].name, fault))?;
        }
        Ok(Some(coded))
    }

    /// [`backward`](Self::backward) of a layer with coded inputs, as [`coded`](Self::coded) says: the gradient of these
    /// first.
    pub(super) fn backward_coded(
        &mut self,
        (slot, size): (usize, usize),
        x: &[T],
        dy: &[T],
        gradients: &mut [Vec<T>],
        needed: &mut [bool],
        fresh: &mut [bool],
    ) -> Result<()> {
        let from = self.layer.from[0];
        let coded = std::mem::take(&mut self.saved.coded);
        let learns = self.params[slot].inputs.as_ref().is_some_and(|inputs| inputs.scale.is_some());
        let wanted = needed[from];
        let mut before = std::mem::take(&mut self.saved.before);
        if wanted || learns {
            before.resize(x.len(), T::zero());
            std::mem::swap(&mut gradients[from], &mut before);
            let was_fresh = std::mem::replace(&mut fresh[from], true);
            needed[from] = true;
            let result = self.backward_plain(&[&coded], dy, gradients, needed, fresh);
            needed[from] = wanted;
            result?;
            std::mem::swap(&mut gradients[from], &mut before);
            if let Some(inputs) = &mut self.params[slot].inputs {
                inputs.backward(x, size, &mut before);
            }
            if wanted {
                super::training::put(&before, was_fresh, &mut gradients[from]);
            } else {
                fresh[from] = was_fresh;
            }
        } else {
            self.backward_plain(&[&coded], dy, gradients, needed, fresh)?;
        }
        (self.saved.coded, self.saved.before) = (coded, before);
        Ok(())
    }
}

impl<T: Float> Trainable<T> {
    /// Whether there is a layer whose inputs can be [coded](Self::code_inputs).
    pub(crate) fn may_code_inputs(&self) -> bool {
        self.params.iter().any(Param::may_code_inputs)
    }

    /// From now on, layers whose weight says so ([`Weight::activations`](crate::Weight::activations)) see their inputs
    /// in training as the product on integers will: those whose name matches `pattern`, of a single matrix, and not
    /// convolutions in groups. Gives how many there are.
    pub fn code_inputs(&mut self, pattern: &str) -> usize {
        let pattern = WildMatch::new(pattern);
        let mut count = 0;
        for param in self.params.iter_mut().filter(|p| pattern.matches(&p.name) && p.may_code_inputs()) {
            let how = param.activations();
            param.inputs.get_or_insert_with(|| CodedInputs::new(how));
            count += 1;
        }
        count
    }
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use super::*;
    use crate::nn::layers::gradcheck::numbers;
    use crate::nn::testing::{close, fixture, input, lookup};
    use crate::nn::{Conv2d, Graph, Input, Network, Outputs};
    use crate::{AffineQuantizer, Tensor, WeightCompressor};
    use std::sync::Arc;

    fn network(how: Activations) -> Network<f64> {
        let graph = Graph::new().conv2d("c", Conv2d::default()).relu().flatten().linear("a");
        let mut weights = fixture(&graph, &[("c.weight", &[3, 2, 3, 3]), ("a.weight", &[4, 27])]);
        for name in ["c.weight", "a.weight"] {
            let coded = AffineQuantizer::bits(8).per_channel().apply((*weights[name]).clone()).unwrap();
            weights.insert(name.to_owned(), Arc::new(coded.with_activations(how)));
        }
        Network::bind(&graph, &lookup(&weights)).unwrap()
    }

    #[test]
    fn training_sees_what_the_integers_give() {
        for how in [Activations::Int8, Activations::Int8Static { low: -0.5, high: 0.9 }] {
            let network = network(how);
            let x = input(&[3, 2, 5, 5]);
            let mut student = network.trainable(Optimizer::sgd().into()).unwrap();
            let exact = network.forward(&x).unwrap();
            let floats = student.predict(&x).unwrap();
            assert_eq!(student.code_inputs("*"), 2);
            let coded = student.predict(&x).unwrap();
            close(coded.as_slice(), exact.as_slice(), 1e-9);
            assert!(floats.iter().zip(coded.iter()).any(|(a, b)| (a - b).abs() > 1e-6));
        }
        let floats = network(Activations::Float);
        assert_eq!(floats.trainable(Optimizer::sgd().into()).unwrap().code_inputs("*"), 0);
        let mut student = network(Activations::Int8).trainable(Optimizer::sgd().into()).unwrap();
        student.code_inputs("*");
        let mut x = numbers(150, 1);
        x[77] = f64::NAN;
        let bad = Input::Values(Tensor::new(&[3, 2, 5, 5], x).unwrap());
        let error = student.predict(&bad).unwrap_err().to_string();
        assert!(error.contains("77"), "{error}");
    }

    /// The gradient passes where nothing is clipped, and nowhere else.
    #[test]
    fn clipped_inputs_have_no_gradient_and_scales_that_of_the_paper() {
        let graph = Graph::new().linear("f").linear("a");
        let weights = fixture(&graph, &[("f.weight", &[5, 4]), ("a.weight", &[3, 5])]);
        let mut weights = weights;
        let how = Activations::Int8Static { low: -0.3, high: 0.2 };
        let coded = AffineQuantizer::bits(8).apply((*weights["a.weight"]).clone()).unwrap();
        weights.insert("a.weight".to_owned(), Arc::new(coded.with_activations(how)));
        let network = Network::bind(&graph, &lookup(&weights)).unwrap();
        let mut student = network.trainable(Optimizer::sgd().into()).unwrap();
        assert_eq!((student.code_inputs("*"), student.learn_step_sizes("a*")), (1, 1));
        let x = input(&[6, 4]);
        let out = student.forward(&x, &["f"]).unwrap();
        let hidden = out.taps[0].as_slice().to_vec();
        let dy = numbers(18, 8);
        student
            .backward(&Outputs { logits: Tensor::new(&[6, 3], dy.clone()).unwrap(), taps: vec![] })
            .unwrap();
        let w = network.weight("a.weight").unwrap().to_dense().unwrap();
        let steps = input_steps::<f64>(-0.3, 0.2);
        let (mut wanted, mut slope, mut clipped) = (vec![0.0; 5], 0.0, 0);
        for s in 0..6 {
            for (c, wanted) in wanted.iter_mut().enumerate() {
                let d: f64 = (0..3).map(|r| dy[s * 3 + r] * w.as_slice()[r * 5 + c]).sum();
                let at = hidden[s * 5 + c] / steps.scale;
                let zero = f64::from(steps.zero);
                let code = at.round_ties_even().clamp(-zero, 255.0 - zero);
                let inside = code == at.round_ties_even();
                clipped += usize::from(!inside);
                *wanted += if inside { d } else { 0.0 };
                slope += d * if inside { code - at } else { code };
            }
        }
        assert!(clipped > 3 && clipped < 27);
        close(&student.gradient("f.bias").unwrap(), &wanted, 1e-12);
        student.step(1e-5).unwrap();
        let after = student.weights().unwrap();
        let after = &after.iter().find(|(name, _)| name == "a.weight").unwrap().1;
        let Activations::Int8Static { low, high } = after.activations() else { panic!() };
        let reach = f64::from(steps.zero.max(255 - steps.zero));
        // Of the six samples, each has five values.
        let scale = steps.scale * (-1e-5 * slope / (5.0 * reach).sqrt() / steps.scale).exp();
        assert!(((high - low) / 255.0 - scale).abs() < 1e-12, "{low} {high} {scale}");
        // What is trained with is what runs.
        let y = student.predict(&x).unwrap();
        close(y.as_slice(), student.network().unwrap().forward(&x).unwrap().as_slice(), 1e-9);
    }
}
