//! A few samples by which data and a teacher are known again.

use super::fit::fetch;
use crate::format::Hash;
use crate::nn::{Batch, Dataset, Input, Target};
use crate::{Float, Result};

/// At most so many.
const MOST: usize = 64;
/// How much logits may differ that are the same but for rounding, as a part of the largest.
const ROUNDING: f64 = 1e-3;

/// Samples spread over a dataset, the first and the last among them.
pub(super) struct Witnesses<T> {
    pub indices: Vec<usize>,
    pub batch: Batch<T>,
}

impl<T: Float> Witnesses<T> {
    pub fn of(data: &dyn Dataset<T>) -> Result<Self> {
        let (indices, mut batch) = (spread(data.len()), Batch::default());
        fetch(data, &indices, &mut batch)?;
        Ok(Self { indices, batch })
    }

    /// A hash of the samples alone.
    pub fn inputs(&self) -> Hash {
        let mut hash = Hash::new();
        let input = &self.batch.input;
        input.shape().iter().for_each(|n| hash.add(&(*n as u64).to_le_bytes()));
        match input {
            Input::Values(x) => hash.numbers(x.as_slice()),
            Input::Ids(x) => hash.numbers(x.as_slice()),
        }
        hash
    }

    /// A hash of the samples and of what is wanted for them.
    pub fn all(&self) -> Hash {
        let mut hash = self.inputs();
        match &self.batch.target {
            Target::Labels(labels) => {
                hash.numbers(&labels.iter().map(|label| i64::from(*label)).collect::<Vec<_>>());
            }
            Target::Values(values) => hash.numbers(values.as_slice()),
            Target::None => {}
        }
        hash
    }
}

fn spread(n: usize) -> Vec<usize> {
    let m = n.min(MOST);
    (0..m).map(|i| (i as u128 * (n as u128 - 1) / (m as u128 - 1).max(1)) as usize).collect()
}

/// Whether logits are those of the same teacher: alike but for rounding, which another processor does in another way.
pub(super) fn alike<T: Float>(a: &[T], b: &[T]) -> bool {
    let finite = a.iter().map(|x| x.widen().abs()).filter(|x| x.is_finite());
    let bound = ROUNDING * finite.fold(0.0, f64::max);
    let same = |a: T, b: T| a == b || (a.is_nan() && b.is_nan()) || (a.widen() - b.widen()).abs() <= bound;
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(*a, *b))
}
