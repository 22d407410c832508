//! What both kinds of training share.

use super::{Student, TrainStep};
use crate::nn::{Dataset, Optimizer, Schedule};
use crate::{BoxError, Float, Invalid};
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
            after_step: None,
        }
    }

    pub fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_in(1.0.., "epochs", self.epochs as f64, "at least 1")?;
        Invalid::unless_in(1.0.., "batch_size", self.batch_size as f64, "at least 1")?;
        Invalid::unless_in(f64::MIN_POSITIVE..f64::INFINITY, "rate", self.rate, "above 0")?;
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
            .field("after_step", &self.after_step.is_some());
    }
}
