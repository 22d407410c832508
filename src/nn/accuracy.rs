//! Which class an output says, and how often that is right.

use super::data::{Dataset, Input, Target, unbox};
use super::loss::{check_labels, in_dataset, matrix};
use crate::{Error, Float, Result, Tensor};

/// Samples that are looked at together.
pub(crate) const EVALUATION_BATCH: usize = 256;

/// Index of the largest value of a row.
fn best<T: Float>(row: &[T]) -> usize {
    let mut at = 0;
    row.iter().enumerate().for_each(|(i, x)| {
        if *x > row[at] {
            at = i;
        }
    });
    at
}

/// The same of each row of `[n, classes]`.
pub(crate) fn classes<T: Float>(logits: &Tensor<T>) -> Result<Vec<u32>> {
    let (_, width) = matrix(logits)?;
    Ok(logits.as_slice().chunks(width).map(|row| best(row) as u32).collect())
}

/// How many rows of `[n, classes]` are largest at their label.
pub(crate) fn right<T: Float>(logits: &Tensor<T>, labels: &[u32]) -> Result<usize> {
    let (_, width) = matrix(logits)?;
    let rows = logits.as_slice().chunks(width);
    Ok(rows.zip(labels).filter(|(row, label)| best(row) == **label as usize).count())
}

/// How many of the samples at `indices` `forward` puts into the class of their label.
fn right_among<T: Float>(
    data: &dyn Dataset<T>,
    indices: &[usize],
    forward: &mut dyn FnMut(&Input<T>) -> Result<Tensor<T>>,
) -> Result<usize> {
    let batch = data.batch(indices).map_err(unbox)?;
    let Target::Labels(labels) = &batch.target else {
        return Err(Error::Data("accuracy needs labels"));
    };
    let logits = forward(&batch.input)?;
    let (n, width) = matrix(&logits)?;
    if n != labels.len() {
        return Err(Error::shape("labels", &[n], &[labels.len()]));
    }
    check_labels(labels, width).map_err(|e| in_dataset(e, indices))?;
    right(&logits, labels)
}

/// Fraction of samples that `forward` puts into the class of their label; of the first `most` alone.
pub(crate) fn accuracy<T: Float>(
    data: &dyn Dataset<T>,
    most: usize,
    forward: &mut dyn FnMut(&Input<T>) -> Result<Tensor<T>>,
) -> Result<f64> {
    let n = data.len().min(most);
    let (mut right, mut indices) = (0, Vec::new());
    for first in (0..n).step_by(EVALUATION_BATCH) {
        indices.clear();
        indices.extend(first..n.min(first.saturating_add(EVALUATION_BATCH)));
        right += right_among(data, &indices, forward)?;
    }
    Ok(right as f64 / n.max(1) as f64)
}
