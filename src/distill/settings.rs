//! What both kinds of training share.

use super::{Student, TrainStep};
use crate::nn::{Dataset, Optimizer, Schedule};
use crate::{BoxError, Float, GradualPruner, Invalid};
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
            after_step: None,
        }
    }

    pub fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_in(1.0.., "epochs", self.epochs as f64, "at least 1")?;
        Invalid::unless_in(1.0.., "batch_size", self.batch_size as f64, "at least 1")?;
        Invalid::unless_in(f64::MIN_POSITIVE..f64::INFINITY, "rate", self.rate, "above 0")?;
        Invalid::unless_in(0.0..=1.0, "move_codes_until", self.moving, "in 0..=1")?;
        self.pruning.as_ref().map_or(Ok(()), GradualPruner::validate)?;
        self.optimizer.validate()?;
        self.schedule.validate()
    }

    /// For `Debug`: data and hooks have no text.
    pub fn debug<'f, 'b>(&self, out: &mut fmt::DebugStruct<'f, 'b>) {
        out.field("samples", &self.train.len())
            .field("validation", &self.validation.map(|v| v.len()))
            .field("epochs", &self.epochs)
            .field("batch_size", &self.batch_size)
            .field("rate", &self.rate)
            .field("optimizer", &self.optimizer)
            .field("schedule", &self.schedule)
            .field("seed", &self.seed)
            .field("pruning", &self.pruning)
            .field("learn_step_sizes", &self.learn_steps)
            .field("code_inputs", &self.code_inputs)
            .field("move_codes_until", &self.moving)
            .field("after_step", &self.after_step.is_some());
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

            /// Runs `hook` after each step: to change the rate ([`TrainStep::scale_rate`]), to look at the
            /// student or change it ([`Student::as_trainable`]), to keep a checkpoint, or to stop early
            /// with [`ControlFlow::Break`].
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
