//! The training loop.

use super::{Settings, Student};
use crate::nn::{Batch, Input, Loss, Outputs, Target, accuracy, in_dataset, unbox};
use crate::random::Random;
use crate::{Error, Fault, Float, Invalid, Refusal, Result, Tensor};
use serde::Serialize;
use std::cell::Cell;

/// What a training did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Training {
    /// One entry an epoch; the last one may be cut short by a hook.
    pub epochs: Vec<Epoch>,
}

/// What one pass over the data did.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
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
    /// Multiplies the scheduled rate of every step to come: 0.5 halves it. Calls add up.
    pub fn scale_rate(&self, factor: f64) {
        self.factor.set(self.factor.get() * factor);
    }
}

/// Loss of a batch (the samples at the given indices) and its gradient with respect to the logits.
pub(super) type BatchLoss<'a, T> = &'a mut dyn FnMut(&[usize], &Batch<T>, &Tensor<T>) -> Result<Loss<T>>;

/// Trains `student`. `progress` gets the steps done and the steps in total, and may end it with an error.
pub(super) fn fit<T: Float>(
    settings: &Settings<'_, T>,
    loss: BatchLoss<'_, T>,
    student: &mut dyn Student<T>,
    progress: &mut dyn FnMut(usize, usize) -> Result<()>,
) -> Result<Training> {
    let mut random = Random::new(settings.seed)?;
    if let Some(trainable) = student.as_trainable() {
        if !trainable.can_learn() {
            let why = "every entry of every weight is pruned or frozen";
            return Err(Error::weight("*", Fault::Refused(Refusal::NothingToTrain(why))));
        }
        trainable.seed(settings.seed)?;
        settings.pruning.as_ref().map_or(Ok(()), |pruner| pruner.check(trainable))?;
        if settings.code_inputs && trainable.code_inputs("*") == 0 {
            return Err(Error::Data("there are no inputs to code: no weight says that its inputs are"));
        }
        if settings.learn_steps && trainable.learn_step_sizes("*") == 0 {
            return Err(Error::Data("there are no step sizes to learn: no weight is quantized"));
        }
        if settings.moving > 0.0 && trainable.move_codes("*") == 0 {
            return Err(Error::Data("there are no codes to move: no weight has a codebook"));
        }
    } else if settings.pruning.is_some()
        || settings.learn_steps
        || settings.code_inputs
        || settings.moving > 0.0
    {
        return Err(Error::Data("only a `Trainable` can be pruned, or learn step sizes and codes"));
    }
    let n = settings.train.len();
    if n == 0 {
        return Err(Error::Data("there is nothing to train on: it has no samples"));
    }
    let mut order: Vec<usize> = (0..n).collect();
    let per_epoch = n.div_ceil(settings.batch_size);
    let steps = per_epoch.checked_mul(settings.epochs).ok_or(Error::Data("too many steps"))?;

    // Whatever does not fit is found before anything has changed.
    let first = &order[..settings.batch_size.min(n)];
    let batch = fetch(settings, first)?;
    let logits = student.predict(&batch.input).map_err(unbox)?;
    loss(first, &batch, &logits).map_err(|e| in_dataset(e, first))?;
    drop((batch, logits));

    progress(0, steps)?;
    let mut training = Training::default();
    let (mut step, mut factor) = (0, 1.0);
    for epoch in 0..settings.epochs {
        random.shuffle(&mut order);
        let mut sums = Sums::default();
        let mut stopped = false;
        for indices in order.chunks(settings.batch_size) {
            let batch = fetch(settings, indices)?;
            let outputs = student.forward(&batch.input, &[]).map_err(unbox)?;
            let (value, gradient) =
                loss(indices, &batch, &outputs.logits).map_err(|e| in_dataset(e, indices))?;
            if !value.is_finite() {
                return Err(Error::Diverged { epoch, step, loss: value });
            }
            sums.add(value, indices.len(), &batch.target, &outputs.logits);
            student.backward(&Outputs { logits: gradient, taps: Vec::new() }).map_err(unbox)?;
            if let (Some(pruner), Some(student)) = (&settings.pruning, student.as_trainable()) {
                pruner.before_step(step, steps, student)?;
            }
            if settings.moving > 0.0
                && step == (settings.moving * steps as f64) as usize
                && let Some(student) = student.as_trainable()
            {
                student.hold_codes("*");
            }
            let rate = settings.rate * settings.schedule.factor(step, steps) * factor;
            student.step(rate).map_err(unbox)?;
            let done = TrainStep { epoch, step, steps, loss: value, rate, factor: Cell::new(factor) };
            step += 1;
            progress(step, steps)?;
            if let Some(hook) = &settings.after_step {
                stopped = hook(&done, &mut *student).map_err(unbox)?.is_break();
                factor = done.factor.get();
            }
            if stopped {
                break;
            }
        }
        let validation = match settings.validation {
            Some(data) => {
                let forward = &mut |input: &Input<T>| student.predict(input).map_err(unbox);
                Some(accuracy(data, forward)?)
            }
            None => None,
        };
        training.epochs.push(sums.epoch(validation));
        if stopped {
            break;
        }
    }
    // No loss has seen what the last step did.
    student.as_trainable().map_or(Ok(()), |trainable| trainable.check())?;
    Ok(training)
}

/// Settings are checked wherever a training starts, in a pipeline or not.
pub(super) fn checked(step: &str, result: Result<(), Invalid>) -> Result<()> {
    result.map_err(|invalid| Error::Setting { index: 0, step: step.to_owned(), invalid })
}

pub(super) fn fetch<T: Float>(settings: &Settings<'_, T>, indices: &[usize]) -> Result<Batch<T>> {
    let batch = settings.train.batch(indices).map_err(unbox)?;
    if batch.input.samples() == indices.len() {
        return Ok(batch);
    }
    let mut expected = batch.input.shape().to_vec();
    if let Some(first) = expected.first_mut() {
        *first = indices.len();
    }
    Err(Error::shape("batch of the dataset", &expected, batch.input.shape()))
}

#[derive(Default)]
struct Sums {
    loss: f64,
    samples: usize,
    labelled: usize,
    right: usize,
}

impl Sums {
    fn add<T: Float>(&mut self, loss: f64, samples: usize, target: &Target<T>, logits: &Tensor<T>) {
        self.loss += loss * samples as f64;
        self.samples += samples;
        if let (Target::Labels(labels), Ok(found)) = (target, crate::nn::classes(logits)) {
            self.labelled += labels.len();
            self.right += labels.iter().zip(&found).filter(|(a, b)| a == b).count();
        }
    }

    fn epoch(&self, validation: Option<f64>) -> Epoch {
        let accuracy = (self.labelled > 0).then(|| self.right as f64 / self.labelled as f64);
        Epoch { loss: self.loss / self.samples.max(1) as f64, accuracy, validation }
    }
}
