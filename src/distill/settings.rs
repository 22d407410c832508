//! What both kinds of training share.

use super::{Checkpoint, EarlyStop, Student, TrainStep};
use crate::nn::{Dataset, EVALUATION_BATCH, LeafParam, Optimizer, Schedule, accuracy, unbox};
use crate::{BoxError, Error, Fault, Float, GradualPruner, Invalid, Refusal, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

/// What runs after each step of a training.
pub type Hook<'a, T> =
    dyn Fn(&TrainStep, &mut dyn Student<T>) -> Result<ControlFlow<()>, BoxError> + Send + Sync + 'a;

/// Data, loop and optimizer.
#[derive(Clone)]
pub(crate) struct Settings<'a, T: Float> {
    pub train: &'a dyn Dataset<T>,
    pub validation: Option<&'a dyn Dataset<T>>,
    pub epochs: usize,
    pub batch_size: usize,
    pub rate: f64,
    /// Of students that the training makes itself; one that is given to it has its own.
    pub optimizer: Optimizer,
    pub schedule: Schedule,
    pub seed: u64,
    pub pruning: Option<GradualPruner>,
    pub learn_steps: bool,
    pub code_inputs: bool,
    /// Fraction of the training in which codes of codebooks move.
    pub moving: f64,
    pub stop_early: Option<EarlyStop>,
    pub checkpoint: Option<Checkpoint>,
    pub after_step: Option<Arc<Hook<'a, T>>>,
}

impl<'a, T: Float> Settings<'a, T> {
    pub fn new(train: &'a dyn Dataset<T>) -> Self {
        Self {
            train,
            validation: None,
            epochs: 1,
            batch_size: 128,
            rate: 1e-3,
            optimizer: Optimizer::default(),
            schedule: Schedule::default(),
            seed: 0,
            pruning: None,
            learn_steps: false,
            code_inputs: false,
            moving: 0.0,
            stop_early: None,
            checkpoint: None,
            after_step: None,
        }
    }

    pub fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_in(1.0.., "epochs", self.epochs as f64, "at least 1")?;
        Invalid::unless_in(1.0.., "batch_size", self.batch_size as f64, "at least 1")?;
        Invalid::unless_in(f64::MIN_POSITIVE..f64::INFINITY, "rate", self.rate, "above 0")?;
        Invalid::unless_in(0.0..=1.0, "move_codes_until", self.moving, "in 0..=1")?;
        self.pruning.as_ref().map_or(Ok(()), |pruner| pruner.over(self.epochs)?.validate())?;
        if let Some(rule) = &self.stop_early {
            rule.validate()?;
            if self.validation.is_none() {
                return Err(Invalid::new("stop_early", "without data", "with data to `validate_on`"));
            }
        }
        if let Some(steps) = self.checkpoint.as_ref().and_then(|c| c.every) {
            Invalid::unless_in(1.0.., "every", steps as f64, "at least 1")?;
        }
        self.optimizer.validate()?;
        self.schedule.validate()
    }

    /// The same with all that happens at some time in fractions of the training.
    pub fn in_fractions(&self) -> Result<Self, Invalid> {
        let pruning = self.pruning.as_ref().map(|pruner| pruner.over(self.epochs)).transpose()?;
        Ok(Self { pruning, ..self.clone() })
    }

    /// How many samples there are: at least one.
    pub fn samples(&self) -> Result<usize> {
        match self.train.len() {
            0 => Err(Error::Data("there is nothing to train on: it has no samples")),
            n => Ok(n),
        }
    }

    /// Whether the student can be trained so. It stays as it is.
    pub fn check(&self, student: &mut dyn Student<T>) -> Result<()> {
        let Some(trainable) = student.as_trainable() else {
            let inside = self.pruning.is_some() || self.learn_steps || self.code_inputs || self.moving > 0.0;
            let why = "only a `Trainable` can be pruned, or learn step sizes and codes";
            return if inside { Err(Error::Data(why)) } else { Ok(()) };
        };
        if !trainable.can_learn() {
            let why = "every entry of every weight is pruned or frozen";
            return Err(Error::weight("*", Fault::Refused(Refusal::NothingToTrain(why))));
        }
        self.pruning.as_ref().map_or(Ok(()), |pruner| pruner.check(trainable))?;
        if self.code_inputs && !trainable.may_code_inputs() {
            return Err(Error::Data("there are no inputs to code: no weight says that its inputs are"));
        }
        if self.learn_steps && !trainable.any_leaf(LeafParam::has_steps) {
            return Err(Error::Data("there are no step sizes to learn: no weight is quantized"));
        }
        if self.moving > 0.0 && !trainable.any_leaf(LeafParam::has_table) {
            return Err(Error::Data("there are no codes to move: no weight has a codebook"));
        }
        Ok(())
    }

    /// Whether the student can be measured on the validation data, by the first of them.
    pub fn check_validation(&self, student: &mut dyn Student<T>) -> Result<()> {
        let Some(data) = self.validation else { return Ok(()) };
        if data.is_empty() {
            return Err(Error::Data("there is nothing to validate on: it has no samples"));
        }
        self.accuracy(data, EVALUATION_BATCH, student).map(drop)
    }

    /// The accuracy on the validation data, where there are some.
    pub fn validate_on(&self, student: &mut dyn Student<T>) -> Result<Option<f64>> {
        self.validation.map(|data| self.accuracy(data, usize::MAX, student)).transpose()
    }

    fn accuracy(&self, data: &dyn Dataset<T>, most: usize, student: &mut dyn Student<T>) -> Result<f64> {
        accuracy(data, most, &mut |input| student.predict(input).map_err(unbox))
    }

    /// Makes a student that has been [checked](Self::check) ready for its first step.
    pub fn begin(&self, student: &mut dyn Student<T>) -> Result<()> {
        let Some(trainable) = student.as_trainable() else { return Ok(()) };
        trainable.seed(self.seed)?;
        if self.code_inputs {
            trainable.code_inputs("*");
        }
        if self.learn_steps {
            trainable.learn_step_sizes("*");
        }
        if self.moving > 0.0 {
            trainable.move_codes("*");
        }
        Ok(())
    }

    /// The step before which codes are held.
    fn holding(&self, steps: usize) -> usize {
        (self.moving * steps as f64) as usize
    }

    /// What is to be done before the optimizer's step, when the gradients are there.
    pub fn before_step(&self, step: usize, steps: usize, student: &mut dyn Student<T>) -> Result<()> {
        let Some(student) = student.as_trainable() else { return Ok(()) };
        if let Some(pruner) = &self.pruning {
            pruner.before_step(step, steps, student)?;
        }
        if self.moving > 0.0 && step == self.holding(steps) {
            student.hold_codes("*");
        }
        Ok(())
    }

    /// Whether, after so many of the steps, the student has the form that it will keep.
    pub fn is_settled(&self, done: usize, steps: usize) -> bool {
        let pruned = self.pruning.as_ref().is_none_or(|pruner| done > pruner.last_step(steps));
        pruned && (self.moving == 0.0 || done == steps || done > self.holding(steps))
    }

    /// What tells it from the settings of another training, by name. Where checkpoints are kept does not.
    pub fn identity(&self) -> BTreeMap<String, String> {
        let samples = |data: &dyn Dataset<T>| data.len();
        let named: [(&str, &dyn fmt::Debug); 13] = [
            ("samples", &self.train.len()),
            ("validation", &self.validation.map(samples)),
            ("epochs", &self.epochs),
            ("batch_size", &self.batch_size),
            ("rate", &self.rate),
            ("optimizer", &self.optimizer),
            ("schedule", &self.schedule),
            ("seed", &self.seed),
            ("pruning", &self.pruning),
            ("learn_step_sizes", &self.learn_steps),
            ("code_inputs", &self.code_inputs),
            ("move_codes_until", &self.moving),
            ("stop_early", &self.stop_early),
        ];
        named.iter().map(|(name, value)| ((*name).to_owned(), format!("{value:?}"))).collect()
    }

    /// For `Debug`: data and hooks have no text.
    pub fn debug<'f, 'b>(&self, out: &mut fmt::DebugStruct<'f, 'b>) {
        for (name, value) in self.identity() {
            out.field(&name, &format_args!("{value}"));
        }
        out.field("checkpoint", &self.checkpoint).field("after_step", &self.after_step.is_some());
    }
}

/// What both kinds of training let a user set, of their field `settings`.
macro_rules! setters {
    ($training:ident) => {
        impl<'a, T: Float> $training<'a, T> {
            /// Passes over the data.
            pub fn epochs(mut self, epochs: usize) -> Self {
                self.settings.epochs = epochs;
                self
            }

            /// Samples of one step; the last batch of an epoch may be smaller.
            pub fn batch_size(mut self, samples: usize) -> Self {
                self.settings.batch_size = samples;
                self
            }

            /// Rate of a step, before the schedule.
            pub fn rate(mut self, rate: f64) -> Self {
                self.settings.rate = rate;
                self
            }

            /// Optimizer of the student that a pipeline makes of a model. A student given to
            /// [`fit`](Self::fit) has its own.
            pub fn optimizer(mut self, optimizer: impl Into<Optimizer>) -> Self {
                self.settings.optimizer = optimizer.into();
                self
            }

            /// How the rate changes.
            pub fn schedule(mut self, schedule: Schedule) -> Self {
                self.settings.schedule = schedule;
                self
            }

            /// Seed of the order of the samples and of dropout.
            pub fn seed(mut self, seed: u64) -> Self {
                self.settings.seed = seed;
                self
            }

            /// Prunes the student while it is trained.
            pub fn prune(mut self, pruner: crate::GradualPruner) -> Self {
                self.settings.pruning = Some(pruner);
                self
            }

            /// Trains the scales of quantized weights as well
            /// ([`Trainable::learn_step_sizes`](crate::nn::Trainable::learn_step_sizes)).
            pub fn learn_step_sizes(mut self) -> Self {
                self.settings.learn_steps = true;
                self
            }

            /// Shows layers with coded inputs ([`Activations`](crate::Activations)) these in training as well
            /// ([`Trainable::code_inputs`](crate::nn::Trainable::code_inputs)).
            pub fn code_inputs(mut self) -> Self {
                self.settings.code_inputs = true;
                self
            }

            /// For this fraction of the training, entries of weights with a codebook may come to share other values
            /// ([`Trainable::move_codes`](crate::nn::Trainable::move_codes)); after it the values themselves are
            /// trained. Default: 0.
            pub fn move_codes_until(mut self, fraction: f64) -> Self {
                self.settings.moving = fraction;
                self
            }

            /// Measures the accuracy on `data` after each epoch.
            pub fn validate_on(mut self, data: &'a dyn Dataset<T>) -> Self {
                self.settings.validation = Some(data);
                self
            }

            /// Ends when the accuracy on the validation data rises no more, and goes back to the best weights:
            /// `.stop_early(5)` after five epochs without a gain. Needs [`validate_on`](Self::validate_on).
            pub fn stop_early(mut self, rule: impl Into<crate::distill::EarlyStop>) -> Self {
                self.settings.stop_early = Some(rule.into());
                self
            }

            /// Keeps a file from which the training goes on after an interruption, to the same bytes:
            /// `.checkpoint(Checkpoint::at("run.checkpoint").resume())`.
            pub fn checkpoint(mut self, checkpoint: impl Into<crate::distill::Checkpoint>) -> Self {
                self.settings.checkpoint = Some(checkpoint.into());
                self
            }

            /// Runs `hook` after each step: to change the rate ([`TrainStep::scale_rate`]), to look at the
            /// student or change it ([`Student::as_trainable`]), or to stop early with [`ControlFlow::Break`].
            pub fn after_step(
                mut self,
                hook: impl Fn(&TrainStep, &mut dyn Student<T>) -> Result<ControlFlow<()>, BoxError>
                + Send
                + Sync
                + 'a,
            ) -> Self {
                self.settings.after_step = Some(Arc::new(hook));
                self
            }

            pub(crate) fn settings(&self) -> &Settings<'a, T> {
                &self.settings
            }
        }
    };
}
pub(super) use setters;
