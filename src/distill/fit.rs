//! The training loop.

use super::checkpoint::{self, Keeper, State};
use super::objective::{Objective, Seen};
use super::witness::Witnesses;
use super::{Settings, Student};
use crate::nn::{Batch, Dataset, Outputs, Target, in_dataset, right, unbox};
use crate::random::Random;
use crate::{Error, Fault, Float, Invalid, Result, Tensor};
use serde::{Deserialize, Serialize};
use std::cell::Cell;

/// What a training did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Training {
    /// One entry an epoch; the last one may be cut short by a hook.
    pub epochs: Vec<Epoch>,
    /// The epoch, from 0, whose weights the student has in the end, where an [`EarlyStop`](super::EarlyStop) chose
    /// one.
    pub best: Option<usize>,
}

/// What one pass over the data did.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Epoch {
    /// Mean of the loss over the samples, each at the time when it was seen.
    pub loss: f64,
    /// Fraction of the samples put into the class of their label, at the same time; `None` without labels.
    pub accuracy: Option<f64>,
    /// Accuracy on the validation data at the end of the epoch, where there are some.
    pub validation: Option<f64>,
}

/// One step of a training, for a hook.
#[derive(Debug)]
#[non_exhaustive]
pub struct TrainStep {
    /// Epoch, from 0.
    pub epoch: usize,
    /// Step within the whole training, from 0.
    pub step: usize,
    /// Steps of the whole training.
    pub steps: usize,
    /// Loss of the batch.
    pub loss: f64,
    /// Rate of the step.
    pub rate: f64,
    factor: Cell<f64>,
}

impl TrainStep {
    /// Multiplies the scheduled rate of every step to come: 0.5 halves it, and a second call quarters it.
    pub fn scale_rate(&self, factor: f64) {
        self.factor.set(self.factor.get() * factor);
    }
}

/// Trains `student`. `progress` gets the steps done and the steps in total, and may end it with an error.
pub(super) fn fit<T: Float>(
    settings: &Settings<'_, T>,
    objective: &mut dyn Objective<T>,
    student: &mut dyn Student<T>,
    progress: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<Training> {
    let settings = &checked("prune", settings.in_fractions())?;
    let random = Random::new(settings.seed)?;
    let n = settings.samples()?;
    let per_epoch = n.div_ceil(settings.batch_size);
    let steps = per_epoch.checked_mul(settings.epochs).ok_or(Error::Data("too many steps"))?;
    let mut order: Vec<usize> = Vec::new();
    order.try_reserve_exact(n).map_err(|_| Error::Data("too many samples for a list of them"))?;
    order.extend(0..n);

    // Whatever does not fit is found before anything has changed.
    settings.check(student)?;
    let (first, mut batch) = (&order[..settings.batch_size.min(n)], Batch::default());
    fetch(settings.train, first, &mut batch)?;
    let outputs = student.outputs(&batch.input, &objective.taps()).map_err(unbox)?;
    let seen = Seen { indices: first, batch: &batch, outputs: &outputs };
    objective.prepare(&seen, student).map_err(|e| in_dataset(e, first))?;
    settings.check_validation(student)?;
    if settings.stop_early.is_some() || settings.checkpoint.is_some() {
        checkpoint::state_of(student)?;
    }
    let mut state = State { factor: 1.0, ..State::default() };
    let (mut keeper, mut kept) = (None, None);
    if let Some(how) = &settings.checkpoint {
        let witnesses = Witnesses::of(settings.train)?;
        let mut identity = checkpoint::identity(settings, student, &witnesses)?;
        identity.extend(objective.identity());
        let keeper = keeper.insert(Keeper::new(how, identity, objective.witness(&witnesses)?)?);
        if let Some((then, student)) = keeper.resume(objective.learners(), steps)? {
            (state, kept) = (then, Some(student));
        }
    }
    progress(state.step, steps)?;
    match (&keeper, kept) {
        (Some(keeper), Some(kept)) => keeper.restore(student, &kept)?,
        _ => settings.begin(student)?,
    }
    let mut run = Run {
        settings,
        objective,
        student,
        per_epoch,
        steps,
        state,
        keeper,
        last: (0, f64::NAN),
        batch,
        outputs,
        gradients: Outputs::default(),
    };
    let done = run.all(order, random, progress);
    done.map_err(|error| run.diverged(error))
}

/// A training that goes on.
struct Run<'r, 's, T: Float> {
    settings: &'r Settings<'s, T>,
    objective: &'r mut dyn Objective<T>,
    student: &'r mut dyn Student<T>,
    per_epoch: usize,
    steps: usize,
    state: State,
    keeper: Option<Keeper<'r>>,
    /// The step that was begun last, and the last loss.
    last: (usize, f64),
    /// Room that each step uses again.
    batch: Batch<T>,
    outputs: Outputs<T>,
    gradients: Outputs<T>,
}

impl<T: Float> Run<'_, '_, T> {
    fn all(
        &mut self,
        mut order: Vec<usize>,
        mut random: Random,
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<Training> {
        // The order of an epoch is made of that of the one before.
        (0..self.state.step.div_ceil(self.per_epoch)).for_each(|_| random.shuffle(&mut order));
        while !self.state.done && self.state.step < self.steps {
            let place = self.state.step % self.per_epoch;
            if place == 0 {
                random.shuffle(&mut order);
            }
            let batch = self.settings.batch_size;
            let last = (place + 1).saturating_mul(batch).min(order.len());
            let step = self.step(&order[place * batch..last])?;
            progress(self.state.step, self.steps)?;
            self.after(&step)?;
        }
        // No loss has seen what the last step did.
        self.student.as_trainable().map_or(Ok(()), |trainable| trainable.check())?;
        if let Some(best) = &self.state.best {
            self.student.set_state(best).map_err(unbox)?;
        }
        let best = self.state.best.as_ref().and(self.state.watch.best).map(|(epoch, _)| epoch);
        Ok(Training { epochs: std::mem::take(&mut self.state.epochs), best })
    }

    /// An error of a number that is none any more, as one of the training, with its last checkpoint.
    fn diverged(&self, error: Error) -> Error {
        match error {
            Error::Weight { fault: Fault::NotFinite { .. } | Fault::Input { .. }, .. } => {
                self.divergence(Some(Box::new(error)))
            }
            other => other,
        }
    }

    fn divergence(&self, source: Option<Box<Error>>) -> Error {
        let ((step, loss), checkpoint) = (self.last, self.keeper.as_ref().and_then(Keeper::last));
        Error::Diverged { epoch: step / self.per_epoch, step, loss, source, checkpoint }
    }

    fn step(&mut self, indices: &[usize]) -> Result<TrainStep> {
        let (step, steps) = (self.state.step, self.steps);
        self.last.0 = step;
        let Self { settings, objective, student, batch, outputs, gradients, .. } = self;
        fetch(settings.train, indices, batch)?;
        student.forward_into(&batch.input, &objective.taps(), outputs).map_err(unbox)?;
        let seen = Seen { indices, batch, outputs };
        let loss = objective.loss((step, steps), &seen, gradients).map_err(|e| in_dataset(e, indices))?;
        self.last.1 = loss;
        if !loss.is_finite() {
            return Err(self.divergence(None));
        }
        let Self { settings, objective, student, state, .. } = self;
        state.sums.add(loss, indices.len(), &self.batch.target, &self.outputs.logits);
        student.backward(&self.gradients).map_err(unbox)?;
        settings.before_step(step, steps, &mut **student)?;
        let rate = settings.rate * settings.schedule.factor(step, steps) * state.factor;
        student.step(rate).map_err(unbox)?;
        objective.learners().into_iter().try_for_each(|learner| learner.step(rate))?;
        state.step += 1;
        let (epoch, factor) = (step / self.per_epoch, Cell::new(state.factor));
        Ok(TrainStep { epoch, step, steps, loss, rate, factor })
    }

    /// What follows a step: the hook, the end of an epoch, a checkpoint.
    fn after(&mut self, step: &TrainStep) -> Result<()> {
        if let Some(hook) = &self.settings.after_step {
            self.state.done = hook(step, &mut *self.student).map_err(unbox)?.is_break();
            self.state.factor = step.factor.get();
        }
        let ends_epoch = self.state.step.is_multiple_of(self.per_epoch);
        if ends_epoch || self.state.done {
            self.end_epoch()?;
        }
        let is_over = self.state.done || self.state.step == self.steps;
        match &mut self.keeper {
            Some(keeper) if is_over || keeper.is_due(self.state.step, ends_epoch) => {
                keeper.save(&self.state, self.student, self.objective.learners())
            }
            _ => Ok(()),
        }
    }

    fn end_epoch(&mut self) -> Result<()> {
        let Self { settings, student, state, .. } = self;
        let validation = settings.validate_on(&mut **student)?;
        let epoch = state.epochs.len();
        state.epochs.push(std::mem::take(&mut state.sums).epoch(validation));
        if let (Some(rule), Some(accuracy)) = (&settings.stop_early, validation)
            && settings.is_settled(state.step, self.steps)
        {
            let seen = state.watch.see(rule, epoch, accuracy);
            if seen.is_best {
                student.as_trainable().map_or(Ok(()), |trainable| trainable.check())?;
                state.best = Some(checkpoint::state_of(&mut **student)?);
            }
            state.done |= seen.stops;
        }
        Ok(())
    }
}

/// Settings are checked wherever a training starts, in a pipeline or not.
pub(super) fn checked<X>(step: &str, result: Result<X, Invalid>) -> Result<X> {
    result.map_err(|invalid| Error::Setting { index: 0, step: step.to_owned(), invalid })
}

/// Samples of a dataset in the place of others.
pub(super) fn fetch<T: Float>(data: &dyn Dataset<T>, indices: &[usize], batch: &mut Batch<T>) -> Result<()> {
    data.batch_into(indices, batch).map_err(unbox)?;
    if batch.input.samples() == indices.len() {
        return Ok(());
    }
    let mut expected = batch.input.shape().to_vec();
    if let Some(first) = expected.first_mut() {
        *first = indices.len();
    }
    Err(Error::shape("batch of the dataset", &expected, batch.input.shape()))
}

/// What an epoch has seen so far.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Sums {
    loss: f64,
    samples: usize,
    labelled: usize,
    right: usize,
}

impl Sums {
    fn add<T: Float>(&mut self, loss: f64, samples: usize, target: &Target<T>, logits: &Tensor<T>) {
        self.loss += loss * samples as f64;
        self.samples += samples;
        if let Target::Labels(labels) = target
            && let Ok(right) = right(logits, labels)
        {
            self.labelled += labels.len();
            self.right += right;
        }
    }

    fn epoch(&self, validation: Option<f64>) -> Epoch {
        let accuracy = (self.labelled > 0).then(|| self.right as f64 / self.labelled as f64);
        Epoch { loss: self.loss / self.samples.max(1) as f64, accuracy, validation }
    }
}
