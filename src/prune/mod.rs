//! Pruning: which entries of a weight are kept.
//!
//! Magnitude pruning removes the entries that matter least by their absolute value (Han et al., *Learning
//! both Weights and Connections for Efficient Neural Networks*, arXiv 1506.02626). What remains is usually
//! retrained: [`FineTuner`](crate::FineTuner) trains the kept entries only, and the pruned ones stay zero.

mod bracket;
mod gradual;
mod rank;
mod recipe;
mod structured;
mod unstructured;

pub use gradual::{GradualPruner, Saliency, SparsitySchedule};
pub(crate) use structured::norm;

use crate::compressor::{Compressor, Outcome, Reach, Step, Survey, WeightCompressor};
use crate::log::Log;
use crate::model::{Model, Outline, Select, WeightInfo, select_setters};
use crate::recipe::RecipeStep;
use crate::weight::Leaf;
use crate::{Fault, Float, Invalid, LeftAlone, Refusal, Result, Weight, parallel};
use serde::{Deserialize, Serialize};

/// Prunes the entries of smallest magnitude.
///
/// | constructor | prunes | range |
/// | --- | --- | --- |
/// | [`threshold(t)`](Self::threshold) | every entry with an absolute value under `t` | finite, at least 0 |
/// | [`sparsity(s)`](Self::sparsity) | the smallest, until `round(s * n)` of the `n` entries of each matrix are pruned | 0 to 1 |
/// | [`sparsity(s).global()`](Self::global) | the same over all selected weights together, in one ranking | 0 to 1 |
/// | [`n_of_m(n, m)`](Self::n_of_m) | all but the `n` largest of every `m` neighbours along the input axis | `1 <= n < m`, `m` one of 2, 4, 8, 16, dividing the inputs |
/// | [`channels(f)`](Self::channels) | whole output rows of smallest norm, until `round(f * rows)` are empty | 0 to 1 |
///
/// *Sparsity* is always the fraction of **all** entries that is zero: entries that were pruned before count,
/// and stay pruned. In a ranking, the first of equals are pruned first (in a global one, by name of the
/// weight and then by place). Factors of a factored weight are pruned each like a matrix.
/// `round` takes halves away from zero.
///
/// `torch.nn.utils.prune` makes the same masks, but rounds halves to even, promises nothing for equals, and
/// prunes a fraction of what is *left* when it prunes again.
///
/// Takes matrices, kernels, tables and lone tensors unless told otherwise; never biases or norms.
///
/// ```
/// use bantam::{MagnitudePruner, Tensor, WeightCompressor};
///
/// let tensor = Tensor::new(&[1, 4], vec![0.5_f32, -0.1, 0.3, -2.0])?;
/// let pruned = MagnitudePruner::n_of_m(2, 4).apply(tensor)?;
/// assert_eq!(pruned.to_dense()?.as_slice(), [0.5, 0.0, 0.0, -2.0]);
/// # Ok::<(), bantam::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "recipe::Settings", into = "recipe::Settings")]
pub struct MagnitudePruner {
    amount: Amount,
    global: bool,
    select: Select,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Amount {
    Threshold(f64),
    Sparsity(f64),
    Pattern { n: usize, m: usize },
    Channels(f64),
}

impl MagnitudePruner {
    fn new(amount: Amount) -> Self {
        Self { amount, global: false, select: Select::default() }
    }

    /// Prunes every entry with an absolute value under `threshold`, which is rounded to the number type
    /// first.
    pub fn threshold(threshold: f64) -> Self {
        Self::new(Amount::Threshold(threshold))
    }

    /// Prunes the smallest entries of each matrix, until this fraction of its entries is zero.
    pub fn sparsity(fraction: f64) -> Self {
        Self::new(Amount::Sparsity(fraction))
    }

    /// Keeps the `n` largest of every `m` neighbours along the input axis, as in 2:4 sparsity (Mishra et
    /// al., arXiv 2104.08378).
    pub fn n_of_m(n: usize, m: usize) -> Self {
        Self::new(Amount::Pattern { n, m })
    }

    /// Prunes whole output rows, those of smallest Euclidean norm, until this fraction of the rows is zero.
    /// The shape stays as it is.
    pub fn channels(fraction: f64) -> Self {
        Self::new(Amount::Channels(fraction))
    }

    /// Ranks the entries of all selected weights together. Goes with [`sparsity`](Self::sparsity) only: the
    /// other ways do not rank across weights, and are then refused.
    pub fn global(mut self) -> Self {
        self.global = true;
        self
    }

    select_setters!();

    /// Whether a leaf certainly takes no more bytes once it is pruned.
    fn shrinks<T: Float>(&self, leaf: &Leaf<T>) -> Result<bool, Fault> {
        Ok(match self.amount {
            Amount::Threshold(t) => unstructured::shrinks(leaf, unstructured::least::<T>(t))?,
            Amount::Sparsity(fraction) => leaf.shrinks_by(unstructured::newly(leaf, fraction)),
            // Of entries that are pruned already, nobody knows yet where they lie.
            Amount::Pattern { n, m } => !leaf.is_pruned() && leaf.shrinks_by(leaf.len() / m * (m - n)),
            Amount::Channels(_) => false,
        })
    }

    fn prune<T: Float>(&self, weight: Weight<T>) -> Result<Outcome<T>, Fault> {
        let before = unstructured::kept_unless(&weight, |leaf| self.shrinks(leaf))?;
        let stride = if weight.is_leaf() { weight.stride() } else { 1 };
        let after = match self.amount {
            Amount::Threshold(t) => weight.map_leaves(&mut |leaf| unstructured::by_threshold(leaf, t))?,
            Amount::Sparsity(fraction) => {
                weight.map_leaves(&mut |leaf| unstructured::by_fraction(leaf, fraction))?
            }
            Amount::Pattern { n, m } => {
                weight.map_leaves(&mut |leaf| {
                    // The rank of a factor may be known only now.
                    if leaf.cols() % (m * stride) != 0 {
                        return Err(Fault::Form("the pattern does not divide the inputs of a factor"));
                    }
                    structured::n_of_m(leaf, n, m, stride)
                })?
            }
            Amount::Channels(fraction) => structured::rows(weight, fraction)?,
        };
        Ok(unstructured::outcome(before, after))
    }
}

impl From<f64> for MagnitudePruner {
    fn from(threshold: f64) -> Self {
        Self::threshold(threshold)
    }
}

impl Step for MagnitudePruner {
    fn name(&self) -> &str {
        "prune"
    }

    fn validate(&self) -> Result<(), Invalid> {
        match self.amount {
            Amount::Threshold(_) | Amount::Pattern { .. } | Amount::Channels(_) if self.global => {
                Err(Invalid::new("global", true, "used with sparsity only"))
            }
            Amount::Threshold(t) => {
                Invalid::unless_in(0.0..f64::INFINITY, "threshold", t, "finite and at least 0")
            }
            Amount::Sparsity(fraction) => Invalid::unless_in(0.0..=1.0, "sparsity", fraction, "in 0..=1"),
            Amount::Channels(fraction) => Invalid::unless_in(0.0..=1.0, "channels", fraction, "in 0..=1"),
            Amount::Pattern { n, m } if n >= 1 && n < m && [2, 4, 8, 16].contains(&m) => Ok(()),
            Amount::Pattern { n, m } => Err(Invalid::new(
                "pattern",
                format!("{n}:{m}"),
                "N:M with 1 <= N < M and M one of 2, 4, 8, 16",
            )),
        }
    }

    fn plan(&self, outline: &mut Outline) -> Result<(), (String, Refusal)> {
        outline.for_each_selected(&self.select, |weight| {
            if let Amount::Pattern { m, .. } = self.amount {
                let leaf = !weight.form.factored;
                let shape = &weight.info.shape;
                let whole = if weight.may_shrink {
                    Vec::new()
                } else if leaf && shape.len() > 2 {
                    vec![Some([shape[0], shape[1]])]
                } else {
                    weight.matrices.clone()
                };
                if let Some([_, inputs]) = whole.into_iter().flatten().find(|[_, inputs]| inputs % m != 0) {
                    return Err(Refusal::DoesNotDivide { what: "a pattern", size: m, inputs });
                }
            }
            weight.form.pruned = true;
            Ok(())
        })
    }

    fn recipe(&self) -> Option<RecipeStep> {
        Some(RecipeStep::Prune(self.clone()))
    }
}

impl<T: Float> Compressor<T> for MagnitudePruner {
    fn compress(&self, model: &mut Model<T>, log: &Log<'_>) -> Result<()> {
        crate::pipeline::each_weight(self, model, log)
    }

    fn reach(&self) -> Reach<'_, T> {
        Reach::Weight(self)
    }
}

impl<T: Float> WeightCompressor<T> for MagnitudePruner {
    fn select(&self) -> &Select {
        &self.select
    }

    fn survey<'a>(&'a self) -> Option<Box<dyn Survey<'a, T> + 'a>> {
        match self.amount {
            Amount::Sparsity(fraction) if self.global => {
                Some(Box::new(unstructured::GlobalSurvey::new(&self.select, fraction)))
            }
            _ => None,
        }
    }

    fn compress_weight(&self, _: &WeightInfo, weight: Weight<T>) -> Result<Outcome<T>, Fault> {
        self.validate()?;
        if weight.is_empty() {
            return Ok(Outcome::left(weight, LeftAlone::Empty));
        }
        parallel::alone_if(weight.len() < parallel::FEW_VALUES, || self.prune(weight))
    }
}
