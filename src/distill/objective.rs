//! What a training minimizes.

use super::Student;
use crate::nn::{Batch, Outputs, Target, Trainable, cross_entropy, mean_squared_error};
use crate::{Error, Float, Result, Tensor};
use std::collections::BTreeMap;

/// A batch, and what the student gives for it.
pub(super) struct Seen<'b, T> {
    /// The samples of the batch, in the dataset.
    pub indices: &'b [usize],
    pub batch: &'b Batch<T>,
    pub outputs: &'b Outputs<T>,
}

/// A loss, and what learns besides the student.
pub(super) trait Objective<T: Float> {
    /// Layers of the student whose outputs it wants.
    fn taps(&self) -> Vec<&str> {
        Vec::new()
    }

    /// Finds what does not fit by the first batch; nothing has changed yet.
    fn prepare(&mut self, first: &Seen<'_, T>, student: &mut dyn Student<T>) -> Result<()>;

    /// The loss of a batch at a step of so many, and its gradient with respect to what the student gave.
    fn loss(&mut self, at: (usize, usize), seen: &Seen<'_, T>) -> Result<(f64, Outputs<T>)>;

    /// What learns with the student.
    fn learners(&mut self) -> Vec<&mut Trainable<T>> {
        Vec::new()
    }

    /// What tells it from another, by name.
    fn identity(&self) -> BTreeMap<String, String>;

    /// What a teacher says of the first samples.
    fn witness(&self) -> Option<&Tensor<T>> {
        None
    }
}

/// Labels or values of the data alone.
pub(super) struct Targets;

impl<T: Float> Objective<T> for Targets {
    fn prepare(&mut self, first: &Seen<'_, T>, _: &mut dyn Student<T>) -> Result<()> {
        self.loss((0, 1), first).map(drop)
    }

    fn loss(&mut self, _: (usize, usize), seen: &Seen<'_, T>) -> Result<(f64, Outputs<T>)> {
        let logits = &seen.outputs.logits;
        let (loss, logits) = match &seen.batch.target {
            Target::Labels(labels) => cross_entropy(logits, labels)?,
            Target::Values(values) => mean_squared_error(logits, values)?,
            Target::None => return Err(Error::Data("fine-tuning needs labels or values")),
        };
        Ok((loss, Outputs { logits, taps: Vec::new() }))
    }

    fn identity(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("objective".to_owned(), "targets".to_owned())])
    }
}
