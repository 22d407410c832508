//! What a training minimizes.

use super::Student;
use super::witness::Witnesses;
use crate::nn::{Batch, Outputs, Target, Trainable, cross_entropy_into, mean_squared_error_into};
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

    /// The loss of a batch at a step of so many. Its gradient with respect to what the student gave goes into
    /// `gradients`, which has been used before.
    fn loss(&mut self, at: (usize, usize), seen: &Seen<'_, T>, gradients: &mut Outputs<T>) -> Result<f64>;

    /// What learns with the student.
    fn learners(&mut self) -> Vec<&mut Trainable<T>> {
        Vec::new()
    }

    /// What tells it from another, by name.
    fn identity(&self) -> BTreeMap<String, String>;

    /// What a teacher says of a few samples.
    fn witness(&self, _of: &Witnesses<T>) -> Result<Option<Tensor<T>>> {
        Ok(None)
    }
}

/// Labels or values of the data alone.
pub(super) struct Targets;

impl<T: Float> Objective<T> for Targets {
    fn prepare(&mut self, first: &Seen<'_, T>, _: &mut dyn Student<T>) -> Result<()> {
        self.loss((0, 1), first, &mut Outputs::default()).map(drop)
    }

    fn loss(&mut self, _: (usize, usize), seen: &Seen<'_, T>, gradients: &mut Outputs<T>) -> Result<f64> {
        let logits = &seen.outputs.logits;
        match &seen.batch.target {
            Target::Labels(labels) => cross_entropy_into(logits, labels, &mut gradients.logits),
            Target::Values(values) => mean_squared_error_into(logits, values, &mut gradients.logits),
            Target::None => Err(Error::Data("fine-tuning needs labels or values")),
        }
    }

    fn identity(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("objective".to_owned(), "targets".to_owned())])
    }
}
