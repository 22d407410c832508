//! Learned step sizes: the scales of a coded leaf are trained with its latent numbers (Esser et al., *Learned step
//! size quantization*, arXiv 1902.08153).
//!
//! With `w` a latent number, `s` the scale of its grid and `l..=h` its codes, counted from the zero point, the number
//! that the products see is `s * clamp(round(w / s), l, h)`. Its gradient goes
//!
//! ```text
//! to w:  as it is where l <= round(w / s) <= h, and not at all beyond
//! to s:  times round(w / s) - w / s inside, and l or h beyond; summed over the entries of the grid,
//!        divided by sqrt(entries * the larger of -l and h)
//! ```
//!
//! # Steps
//! The paper descends along the gradient, at a rate of its own. Here the optimizer is shared with the weights: it gets
//! the gradient divided by the scale, and the scale is multiplied by the exponential of the step that comes out. For
//! plain gradient descent this is the paper's step (to first order); Adam, whose steps are as large as the rate whatever
//! the gradient is, changes a scale by that *fraction* of it. A step is at most a factor of e, and there is no decay: a
//! smaller scale is no simpler.
//!
//! A scale is used in the precision in which it is stored, and stays a positive number.

use super::leaf_param::{LeafParam, Run, Trained};
use super::optimizer::{Optimizer, State};
use super::trainable::Trainable;
use crate::format::Store;
use crate::tensor::round_to;
use crate::weight::{Affine, Values};
use crate::{Fault, Float, Result};
use wildmatch::WildMatch;

/// Scales while they are trained.
#[derive(Clone, Debug)]
pub(super) struct Scales<T> {
    values: Vec<T>,
    /// Room for the gradients, over the scales, and for the steps that the optimizer makes of them.
    slopes: Vec<T>,
    moves: Vec<T>,
    state: State<T>,
}

impl<T: Float> Scales<T> {
    pub fn new(values: Vec<T>) -> Self {
        Self { values, slopes: Vec::new(), moves: Vec::new(), state: State::default() }
    }

    pub fn values(&mut self) -> &mut [T] {
        &mut self.values
    }

    /// Writes or reads `len` of them and what the optimizer remembers.
    pub fn visit(&mut self, name: &str, store: &mut Store, len: usize) -> Result<()> {
        store.numbers(name, &mut self.values, &[len])?;
        self.state.visit(store, len)
    }

    /// One step along the gradients. A scale may come out too small or too large to be one.
    pub fn step(&mut self, optimizer: &Optimizer, rate: f64, gradients: impl Iterator<Item = f64>) {
        let Self { values, slopes, moves, state } = self;
        slopes.clear();
        slopes.extend(gradients.zip(&*values).map(|(g, scale)| T::narrow(g / scale.widen())));
        // What starts at zero each time has nothing to decay.
        moves.clear();
        moves.resize(values.len(), T::zero());
        optimizer.update(rate, moves, slopes, state);
        for (scale, step) in values.iter_mut().zip(moves) {
            *scale = T::narrow(scale.widen() * step.widen().clamp(-1.0, 1.0).exp());
        }
    }
}

impl<T: Float> LeafParam<T> {
    /// Whether there are scales to train.
    pub fn has_steps(&self) -> bool {
        !self.frozen && matches!(&self.codes, Some(Trained::Grids(runs)) if !runs.is_empty())
    }

    /// Trains the scales as well, from now on. Gives whether there are some.
    pub fn train_steps(&mut self) -> bool {
        if let (true, Some(Trained::Grids(runs))) = (self.has_steps(), &self.codes) {
            self.steps.get_or_insert_with(|| Scales::new(runs.iter().map(|run| run.grid.scale).collect()));
        }
        self.has_steps()
    }

    /// Writes or reads the scales and what the optimizer remembers of them, where they are trained.
    pub(super) fn visit_steps(&mut self, store: &mut Store) -> Result<()> {
        let mut learns = self.steps.is_some();
        store.flags("learns", [&mut learns])?;
        let Some(Trained::Grids(runs)) = &mut self.codes else { return Ok(()) };
        if !learns {
            return Ok(());
        }
        let steps = self.steps.get_or_insert_with(|| Scales::new(Vec::new()));
        steps.visit("scales", store, runs.len())?;
        if store.is_reading() {
            for (run, scale) in runs.iter_mut().zip(steps.values()) {
                run.grid = run.grid.with_scale(round_to(self.scale_dtype, *scale));
                if !run.grid.is_sound() || !crate::weight::Grid::is_far_from_overflow(run.grid.scale) {
                    return Err(store.fault("scales", "one is not a positive number"));
                }
            }
        }
        Ok(())
    }

    /// One step of the scales. Takes the gradient from the latent numbers that lie beyond the ends.
    pub(super) fn learn_steps(&mut self, optimizer: &Optimizer, rate: f64) {
        let Self { steps: Some(steps), codes: Some(Trained::Grids(runs)), positions, .. } = self else {
            return;
        };
        let place = |j: usize| positions.as_ref().map_or(j, |p| p[j]);
        let gradients = runs.iter().map(|Run { range, grid, .. }| {
            let mut sum = 0.0;
            for j in range.clone() {
                let gradient = &mut self.gradient[place(j)];
                let (slope, inside) = grid.slope(self.latent[j]);
                sum += gradient.widen() * slope;
                if !inside {
                    *gradient = T::zero();
                }
            }
            let share = (range.len() as f64 * f64::from(grid.reach())).sqrt();
            if share > 0.0 { sum / share } else { 0.0 }
        });
        steps.step(optimizer, rate, gradients);
        for (run, scale) in runs.iter_mut().zip(steps.values()) {
            // One that is too small or too large to be stored stays what it was.
            let stored = round_to(self.scale_dtype, *scale);
            if stored > T::zero() && crate::weight::Grid::is_far_from_overflow(stored) {
                run.grid = run.grid.with_scale(stored);
            } else {
                *scale = run.grid.scale;
            }
        }
    }

    /// The scales to store: those of blocks that are not trained stay.
    pub(super) fn trained_scales(&self, affine: &Affine<T>, runs: &[Run<T>]) -> Result<Values<T>, Fault> {
        if self.steps.is_none() {
            return Ok(affine.scale.clone());
        }
        let mut scales = affine.scale.clone().into_vec()?;
        for run in runs {
            scales[run.block] = run.grid.scale;
        }
        Ok(Values::rounded(scales, affine.scale.dtype()))
    }
}

impl<T: Float> Trainable<T> {
    /// Trains the scales of all coded leaves whose path matches `pattern` together with their codes (learned step
    /// sizes, arXiv 1902.08153), and those of fixed ranges of inputs that are [coded](Self::code_inputs). Each step
    /// changes a scale by a fraction of it: with Adam, by about the rate. Frozen leaves, codebooks and floats have none.
    /// Gives how many leaves there are.
    pub fn learn_step_sizes(&mut self, pattern: &str) -> usize {
        let inputs = WildMatch::new(pattern);
        for param in self.params.iter_mut().filter(|p| inputs.matches(&p.name)) {
            param.inputs.as_mut().map(super::coded_inputs::CodedInputs::learn);
        }
        self.count_leaves(pattern, LeafParam::train_steps)
    }
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use super::*;
    use crate::nn::param::Param;
    use crate::nn::testing::{close, fixture, input, lookup};
    use crate::nn::{Graph, Network, Outputs};
    use crate::{AffineQuantizer, Error, MagnitudePruner, Tensor, Weight, WeightCompressor};
    use std::sync::Arc;

    const PATH: &str = "a.weight";

    fn student(how: &AffineQuantizer, sparsity: f64, optimizer: Optimizer) -> (Weight<f64>, Trainable<f64>) {
        let graph = Graph::new().linear("a");
        let mut weights = fixture(&graph, &[(PATH, &[6, 8])]);
        let sparse = MagnitudePruner::sparsity(sparsity).apply((*weights[PATH]).clone()).unwrap();
        let coded = how.apply(sparse).unwrap();
        weights.insert(PATH.to_owned(), Arc::new(coded.clone()));
        let network = Network::bind(&graph, &lookup(&weights)).unwrap();
        (coded, network.trainable(optimizer).unwrap())
    }

    fn scales(weight: &Weight<f64>) -> Vec<f64> {
        match &weight.leaves()[0].coding {
            crate::weight::Coding::Affine(affine) => affine.scale.clone().into_vec().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn trained(student: &Trainable<f64>) -> Weight<f64> {
        student.weights().unwrap().into_iter().find(|(name, _)| name == PATH).unwrap().1
    }

    /// The gradient of `sum(y^2) / 2` with respect to the scales, with codes held, is what inner entries get.
    #[test]
    fn the_gradient_is_that_of_the_paper() {
        for (how, blocks) in [
            (AffineQuantizer::bits(3).symmetric(), 1),
            (AffineQuantizer::bits(4).per_channel(), 6),
            (AffineQuantizer::bits(2).group(4).asymmetric(), 12),
        ] {
            for sparsity in [0.0, 0.5] {
                let (before, mut student) = student(&how, sparsity, Optimizer::sgd().into());
                assert_eq!(student.learn_step_sizes("*"), 1);
                // Off the grid, and some of them beyond its ends.
                student.edit(PATH, |latent| {
                    latent.iter_mut().enumerate().for_each(|(i, x)| *x *= 0.8 + 0.1 * (i % 7) as f64);
                });
                let latent = student.values(PATH).unwrap().to_vec();
                let y = student.forward(&input(&[5, 8]), &[]).unwrap().logits;
                student.backward(&Outputs { logits: y, taps: vec![] }).unwrap();
                let gradient = student.gradient(PATH).unwrap();
                let places: Vec<usize> = student.entries(PATH).unwrap().map(|(i, _)| i).collect();
                let old = scales(&before);
                assert_eq!(old.len(), blocks);
                let block = 48 / blocks;
                student.step(1e-4).unwrap();
                let new = scales(&trained(&student));
                let grids = match &before.leaves()[0].coding {
                    crate::weight::Coding::Affine(affine) => crate::weight::Grid::of(affine, blocks).unwrap(),
                    other => panic!("{other:?}"),
                };
                let mut beyond = 0;
                for b in 0..blocks {
                    let (mut sum, mut n) = (0.0, 0);
                    let zero = f64::from(grids[b].zero);
                    let ends =
                        [0, 255].map(|c| f64::from(grids[b].code(if c == 0 { -1e9 } else { 1e9 })) - zero);
                    for (j, place) in places.iter().enumerate().filter(|(_, p)| *p / block == b) {
                        let at = latent[j] / old[b];
                        let inside = (ends[0]..=ends[1]).contains(&at.round_ties_even());
                        let slope =
                            if inside { at.round_ties_even() - at } else { at.clamp(ends[0], ends[1]) };
                        beyond += usize::from(!inside);
                        sum += gradient[j] * slope;
                        n += 1;
                        let moved = student.values(PATH).unwrap()[j] - latent[j];
                        let wanted = if inside { -1e-4 * gradient[j] } else { 0.0 };
                        assert!((moved - wanted).abs() < 1e-12, "{place}");
                    }
                    let reach = (-ends[0]).max(ends[1]);
                    let slope = if n > 0 { sum / (f64::from(n) * reach).sqrt() } else { 0.0 };
                    let wanted = old[b] * (-1e-4 * slope / old[b]).exp();
                    let step = 1e-4 * slope;
                    assert!((wanted - (old[b] - step)).abs() <= step * step / old[b], "the paper's step");
                    // Scales of an f64 model are stored as they are.
                    assert!((new[b] - wanted).abs() < 1e-7 * old[b], "{how:?} {b}: {} {wanted}", new[b]);
                }
                assert!(beyond > 0);
            }
        }
    }

    #[test]
    fn learned_steps_fit_better_than_fixed_ones_and_are_what_is_saved() {
        let run = |learn: bool| {
            // Two bits with a scale made for the largest entry: far too wide.
            let how = AffineQuantizer::bits(2).symmetric();
            let (before, mut student) = student(&how, 0.4, Optimizer::adam().into());
            let wanted: Vec<f64> = (0..30).map(|i| (f64::from(i) * 0.9).sin()).collect();
            assert_eq!(if learn { student.learn_step_sizes(PATH) } else { 1 }, 1);
            let mut loss = 0.0;
            for i in 0..400 {
                let y = student.forward(&input(&[5, 8]), &[]).unwrap().logits;
                let d: Vec<f64> = y.iter().zip(&wanted).map(|(y, w)| y - w).collect();
                loss = d.iter().map(|d| d * d).sum();
                student
                    .backward(&Outputs { logits: Tensor::new(&[5, 6], d).unwrap(), taps: vec![] })
                    .unwrap();
                student.step(0.02 * (1.0 - f64::from(i) / 400.0)).unwrap();
            }
            let after = trained(&student);
            assert_eq!((after.form(), after.sparsity()), (before.form(), before.sparsity()));
            assert_eq!(scales(&after) != scales(&before), learn);
            // What was trained with is what is saved.
            let y = student.predict(&input(&[5, 8])).unwrap();
            let again = student.network().unwrap().forward(&input(&[5, 8])).unwrap();
            close(y.as_slice(), again.as_slice(), 1e-9);
            loss
        };
        let (fixed, learned) = (run(false), run(true));
        assert!(learned < 0.9 * fixed, "{learned} {fixed}");
    }

    /// With the settings that nobody changes, on a grid fine enough that its step is no larger than the rate.
    #[test]
    fn fine_grids_are_not_torn_and_end_no_worse() {
        for optimizer in [Optimizer::adam(), Optimizer::adam_w().weight_decay(0.3)] {
            let run = |learn: bool| {
                let graph = Graph::new().linear("a");
                let mut weights = fixture(&graph, &[(PATH, &[4, 100])]);
                let coded = AffineQuantizer::bits(8).per_channel().apply((*weights[PATH]).clone()).unwrap();
                let old = scales(&coded);
                weights.insert(PATH.to_owned(), Arc::new(coded));
                let network = Network::bind(&graph, &lookup(&weights)).unwrap();
                let mut student = network.trainable(optimizer.into()).unwrap();
                assert_eq!(if learn { student.learn_step_sizes("*") } else { 1 }, 1);
                let x = input(&[30, 100]);
                let mut loss = 0.0;
                for i in 0..300 {
                    let y = student.forward(&x, &[]).unwrap().logits;
                    let d = y.iter().enumerate().map(|(j, y)| y - (j as f64 * 0.9).sin());
                    let d: Vec<f64> = d.collect();
                    loss = d.iter().map(|d| d * d).sum::<f64>();
                    let logits = Tensor::new(&[30, 4], d).unwrap();
                    student.backward(&Outputs { logits, taps: vec![] }).unwrap();
                    student.step(1e-3 * (1.0 - f64::from(i) / 300.0)).unwrap();
                    if i == 0 && learn {
                        for (new, old) in scales(&trained(&student)).iter().zip(&old) {
                            assert!((new / old - 1.0).abs() < 1.001e-3, "{old} became {new}");
                        }
                    }
                }
                let new = scales(&trained(&student));
                let far = new.iter().zip(&old).map(|(new, old)| (new / old).ln().abs()).fold(0.0, f64::max);
                assert!(far < 0.2 && (far > 0.0) == learn, "{old:?} became {new:?}");
                loss
            };
            let (fixed, learned) = (run(false), run(true));
            assert!(learned < 1.02 * fixed, "{optimizer:?}: {learned} {fixed}");
        }
    }

    #[test]
    fn there_is_nothing_to_learn_in_floats_and_scales_stay_positive() {
        let graph = Graph::new().linear("a");
        let weights = fixture(&graph, &[(PATH, &[6, 8])]);
        let mut plain =
            Network::bind(&graph, &lookup(&weights)).unwrap().trainable(Optimizer::adam().into()).unwrap();
        assert_eq!(plain.learn_step_sizes("*"), 0);
        let (_, mut student) = student(&AffineQuantizer::bits(4), 0.0, Optimizer::sgd().into());
        assert_eq!(student.learn_step_sizes("b*"), 0);
        assert_eq!(student.learn_step_sizes("a*"), 1);
        let mut sizes = Vec::new();
        for rate in [1e3, 1e200, 1e300] {
            let y = student.forward(&input(&[5, 8]), &[]).unwrap().logits;
            student.backward(&Outputs { logits: y, taps: vec![] }).unwrap();
            student.step(rate).unwrap();
            let leaf =
                student.params.iter().flat_map(Param::leaves).find(|(path, _)| path == PATH).unwrap().1;
            let Some(Trained::Grids(runs)) = &leaf.codes else { panic!("no grids") };
            sizes.extend(runs.iter().map(|run| run.grid.scale));
        }
        assert!(sizes.iter().all(|s| *s > 0.0 && s.is_finite()), "{sizes:?}");
        // The numbers on the grid are lost, and that is said.
        let error = student.weights().unwrap_err();
        assert!(matches!(error, Error::Weight { fault: Fault::NotFinite { .. }, .. }), "{error}");
        student.freeze("*");
        assert_eq!(student.learn_step_sizes("*"), 0);
    }
}
