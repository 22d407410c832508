//! What goes into a network and what is wanted of it.

use crate::{BoxError, Error, Float, Result, Tensor};
use std::ops::Deref;
use std::sync::Arc;

/// Input of a network for a batch of samples.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Input<T> {
    /// Numbers `[n, ..]`, `n` samples.
    Values(Tensor<T>),
    /// Token numbers `[n, ..]`, for teachers and students that look them up. [`Network`](super::Network)
    /// has no such layer yet.
    Ids(Tensor<i64>),
}

impl<T: Float> Input<T> {
    /// Lengths of the axes; the first is the number of samples.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Values(x) => x.shape(),
            Self::Ids(x) => x.shape(),
        }
    }

    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.shape().first().copied().unwrap_or(0)
    }

    /// The numbers.
    ///
    /// # Errors
    /// [`Error::Data`] when it holds token numbers.
    pub fn values(&self) -> Result<&Tensor<T>> {
        match self {
            Self::Values(x) => Ok(x),
            Self::Ids(_) => Err(Error::Data("token numbers, but the network takes values")),
        }
    }
}

impl<T> From<Tensor<T>> for Input<T> {
    fn from(values: Tensor<T>) -> Self {
        Self::Values(values)
    }
}

/// What is wanted for a batch of samples.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Target<T> {
    /// The class of each sample, counted from 0.
    Labels(Vec<u32>),
    /// Numbers `[n, outputs]`, trained towards by mean squared error.
    Values(Tensor<T>),
    /// Nothing is known: only a teacher can say.
    None,
}

/// Samples and what is wanted for them.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch<T> {
    /// The samples.
    pub input: Input<T>,
    /// What is wanted.
    pub target: Target<T>,
}

impl<T: Float> Default for Batch<T> {
    /// None yet.
    fn default() -> Self {
        Self { input: Input::Values(Tensor::zeros(&[0])), target: Target::None }
    }
}

/// What a network gives for a batch, or the gradient of a loss with respect to that.
#[derive(Clone, Debug, PartialEq)]
pub struct Outputs<T> {
    /// Output of the last layer, `[n, classes]` for a classifier.
    pub logits: Tensor<T>,
    /// Outputs of the layers that were asked for, in that order.
    pub taps: Vec<Tensor<T>>,
}

impl<T: Float> Default for Outputs<T> {
    /// None yet.
    fn default() -> Self {
        Self { logits: Tensor::zeros(&[0]), taps: Vec::new() }
    }
}

/// Samples that can be fetched by index, in any order, from any thread.
///
/// ```
/// use bantam::nn::{Batch, Dataset, Input, Target};
/// use bantam::{BoxError, Tensor};
///
/// /// The parity of a number, from its bits.
/// struct Parity;
///
/// impl Dataset for Parity {
///     fn len(&self) -> usize {
///         256
///     }
///
///     fn batch(&self, indices: &[usize]) -> Result<Batch<f32>, BoxError> {
///         let bits = indices.iter().flat_map(|i| (0..8).map(move |b| (i >> b & 1) as f32)).collect();
///         Ok(Batch {
///             input: Input::Values(Tensor::new(&[indices.len(), 8], bits)?),
///             target: Target::Labels(indices.iter().map(|i| i.count_ones() % 2).collect()),
///         })
///     }
/// }
/// ```
///
/// A dataset for `f32` and `f64` is `impl<T: Float> Dataset<T>`; its own calls then need the type
/// (`Dataset::<f32>::len(&data)`).
pub trait Dataset<T: Float = f32>: Send + Sync {
    /// Number of samples.
    fn len(&self) -> usize;

    /// The samples at `indices`, each below [`len`](Self::len), in that order.
    ///
    /// # Errors
    /// Whatever can go wrong in fetching them; it ends the training.
    fn batch(&self, indices: &[usize]) -> Result<Batch<T>, BoxError>;

    /// The same in the place of a batch that has been used, whose room may be used again; it holds anything after an
    /// error. Training fetches its batches so: those of [`Examples`] without an allocation.
    ///
    /// # Errors
    /// As [`batch`](Self::batch).
    fn batch_into(&self, indices: &[usize], batch: &mut Batch<T>) -> Result<(), BoxError> {
        *batch = self.batch(indices)?;
        Ok(())
    }

    /// Whether there are no samples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Float, D: Dataset<T> + ?Sized> Dataset<T> for &D {
    fn len(&self) -> usize {
        (**self).len()
    }
    fn batch(&self, indices: &[usize]) -> Result<Batch<T>, BoxError> {
        (**self).batch(indices)
    }
    fn batch_into(&self, indices: &[usize], batch: &mut Batch<T>) -> Result<(), BoxError> {
        (**self).batch_into(indices, batch)
    }
}

impl<T: Float, D: Dataset<T> + ?Sized> Dataset<T> for Arc<D> {
    fn len(&self) -> usize {
        self.deref().len()
    }
    fn batch(&self, indices: &[usize]) -> Result<Batch<T>, BoxError> {
        self.deref().batch(indices)
    }
    fn batch_into(&self, indices: &[usize], batch: &mut Batch<T>) -> Result<(), BoxError> {
        self.deref().batch_into(indices, batch)
    }
}

/// A dataset in memory.
///
/// ```
/// use bantam::Tensor;
/// use bantam::nn::{Dataset, Examples};
///
/// let inputs = Tensor::new(&[4, 2], vec![0.0_f32, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0])?;
/// let xor = Examples::new(inputs, vec![0, 1, 1, 0])?;
/// assert_eq!(xor.len(), 4);
/// assert_eq!(xor.subset(1..3)?.labels(), Some(&[1, 1][..]));
/// # Ok::<(), bantam::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Examples<T: Float = f32> {
    inputs: Tensor<T>,
    target: Target<T>,
}

impl<T: Float> Examples<T> {
    /// Samples `[n, ..]`, each with the number of its class.
    ///
    /// # Errors
    /// [`Error::Shape`] when there are not as many labels as samples.
    pub fn new(inputs: Tensor<T>, labels: Vec<u32>) -> Result<Self> {
        same_count(&inputs, "labels", labels.len())?;
        Ok(Self { inputs, target: Target::Labels(labels) })
    }

    /// Samples `[n, ..]`, each with the numbers `[n, outputs]` that are wanted of the network.
    ///
    /// # Errors
    /// [`Error::Shape`] when the first axes differ.
    pub fn with_values(inputs: Tensor<T>, values: Tensor<T>) -> Result<Self> {
        same_count(&inputs, "targets", values.shape().first().copied().unwrap_or(0))?;
        Ok(Self { inputs, target: Target::Values(values) })
    }

    /// Samples `[n, ..]` alone, for distillation without labels.
    ///
    /// # Errors
    /// [`Error::Shape`] when `inputs` has no axis of samples.
    pub fn unlabelled(inputs: Tensor<T>) -> Result<Self> {
        same_count(&inputs, "inputs", inputs.shape().first().copied().unwrap_or(0))?;
        Ok(Self { inputs, target: Target::None })
    }

    /// All samples, `[n, ..]`.
    pub fn inputs(&self) -> &Tensor<T> {
        &self.inputs
    }

    /// The labels, where there are some.
    pub fn labels(&self) -> Option<&[u32]> {
        match &self.target {
            Target::Labels(labels) => Some(labels),
            _ => None,
        }
    }

    /// A copy of the samples at `indices`: a range, or any list.
    ///
    /// # Errors
    /// [`Error::Data`] when an index is out of range.
    pub fn subset(&self, indices: impl IntoIterator<Item = usize>) -> Result<Self> {
        let indices: Vec<usize> = indices.into_iter().collect();
        let inputs = rows(&self.inputs, &indices)?;
        let target = match &self.target {
            Target::Labels(labels) => Target::Labels(
                indices.iter().map(|i| labels.get(*i).copied()).collect::<Option<_>>().ok_or(OUT_OF_RANGE)?,
            ),
            Target::Values(values) => Target::Values(rows(values, &indices)?),
            Target::None => Target::None,
        };
        Ok(Self { inputs, target })
    }
}

/// An error of user code; one of our own that went through it comes out as it went in.
pub(crate) fn unbox(error: BoxError) -> Error {
    error.downcast::<Error>().map_or_else(Error::Other, |e| *e)
}

const OUT_OF_RANGE: Error = Error::Data("an index is out of range");

fn same_count<T: Float>(inputs: &Tensor<T>, what: &str, got: usize) -> Result<()> {
    match inputs.shape().first() {
        Some(n) if *n == got => Ok(()),
        n => Err(Error::shape(what, &[n.copied().unwrap_or(0)], &[got])),
    }
}

/// The samples of `tensor [n, ..]` at `indices`.
fn rows<T: Float>(tensor: &Tensor<T>, indices: &[usize]) -> Result<Tensor<T>> {
    let mut out = Tensor::zeros(&[0]);
    rows_into(tensor, indices, &mut out)?;
    Ok(out)
}

/// The same in the place of a tensor that may have that shape already.
fn rows_into<T: Float>(tensor: &Tensor<T>, indices: &[usize], out: &mut Tensor<T>) -> Result<()> {
    let n = tensor.shape().first().copied().unwrap_or(0);
    if indices.iter().any(|i| *i >= n) {
        return Err(OUT_OF_RANGE);
    }
    let fits = match (out.shape(), tensor.shape()) {
        ([first, rest @ ..], [_, wanted @ ..]) => *first == indices.len() && rest == wanted,
        _ => false,
    };
    if !fits {
        let mut shape = tensor.shape().to_vec();
        if let Some(first) = shape.first_mut() {
            *first = indices.len();
        }
        *out = Tensor::zeros(&shape);
    }
    let size = tensor.len().checked_div(n).unwrap_or(0).max(1);
    for (to, i) in out.as_mut_slice().chunks_mut(size).zip(indices) {
        to.copy_from_slice(&tensor.as_slice()[i * size..(i + 1) * size]);
    }
    Ok(())
}

impl<T: Float> Dataset<T> for Examples<T> {
    fn len(&self) -> usize {
        self.inputs.shape().first().copied().unwrap_or(0)
    }

    fn batch(&self, indices: &[usize]) -> Result<Batch<T>, BoxError> {
        let mut batch = Batch::default();
        self.batch_into(indices, &mut batch)?;
        Ok(batch)
    }

    fn batch_into(&self, indices: &[usize], batch: &mut Batch<T>) -> Result<(), BoxError> {
        match &mut batch.input {
            Input::Values(values) => rows_into(&self.inputs, indices, values)?,
            input @ Input::Ids(_) => *input = Input::Values(rows(&self.inputs, indices)?),
        }
        // There are as many labels as samples, so that the indices are those of labels as well.
        match (&self.target, &mut batch.target) {
            (Target::Labels(all), Target::Labels(labels)) => {
                labels.clear();
                labels.extend(indices.iter().map(|i| all[*i]));
            }
            (Target::Labels(all), target) => {
                *target = Target::Labels(indices.iter().map(|i| all[*i]).collect());
            }
            (Target::Values(all), Target::Values(values)) => rows_into(all, indices, values)?,
            (Target::Values(all), target) => *target = Target::Values(rows(all, indices)?),
            (Target::None, target) => *target = Target::None,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Tensor<f32> {
        Tensor::new(&[3, 2], (0..6).map(|i| i as f32).collect()).unwrap()
    }

    #[test]
    fn batches_come_in_the_order_asked_for() {
        let data = Examples::new(three(), vec![7, 8, 9]).unwrap();
        let batch = data.batch(&[2, 0]).unwrap();
        assert_eq!(batch.input.values().unwrap().as_slice(), [4.0, 5.0, 0.0, 1.0]);
        assert_eq!(batch.target, Target::Labels(vec![9, 7]));
        // In the place of another: of other samples, of another kind, of other data.
        let values = Examples::with_values(three(), three()).unwrap();
        let wide = Examples::unlabelled(Tensor::<f32>::zeros(&[2, 5])).unwrap();
        let mut used = Batch { input: Input::Ids(Tensor::zeros(&[1])), target: Target::None };
        for (data, indices) in
            [(&data, &[1, 1][..]), (&values, &[2, 0]), (&wide, &[1]), (&values, &[0]), (&data, &[2])]
        {
            data.batch_into(indices, &mut used).unwrap();
            assert_eq!(used, data.batch(indices).unwrap());
        }
        assert!(data.batch_into(&[3], &mut used).is_err());
        assert_eq!((&data as &dyn Dataset).len(), Arc::new(data.clone()).len());
    }

    #[test]
    fn misfits_are_errors() {
        assert!(Examples::new(three(), vec![0; 4]).is_err());
        assert!(Examples::with_values(three(), Tensor::zeros(&[2, 1])).is_err());
        assert!(Examples::unlabelled(Tensor::<f32>::zeros(&[])).is_err());
        let data = Examples::new(three(), vec![0; 3]).unwrap();
        assert!(data.subset(2..4).is_err());
        assert!(data.batch(&[3]).is_err());
        assert!(data.subset([]).unwrap().is_empty());
    }
}
