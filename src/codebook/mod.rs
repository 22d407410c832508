//! Weight sharing: the entries of a weight are places in a short table of values.
//!
//! Song Han, Huizi Mao, William J. Dally: *Deep Compression: Compressing Deep Neural Networks with Pruning, Trained
//! Quantization and Huffman Coding*, arXiv 1510.00149, section 3. The table is found by k-means over the kept
//! entries, one table a matrix:
//!
//! ```text
//! minimize over table and codes   sum of (w_i - table[code_i])^2   over the kept entries
//! ```
//!
//! Pruned entries have no code. Where a kept entry happens to be exactly 0, one value of the table is 0, so that it
//! stays so; the paper has no such entries, because it prunes them.
//!
//! # How it is found
//!
//! Up to 65,536 kept entries, the search works on the values themselves. Beyond that it takes two passes: one for
//! a histogram, on which the search works, and one for the codes, each that of the nearest value in the table. The
//! bins are `2^-9` of a value wide (`2^-8` for `f64`), so that, with `|w|` the root of the sum of squares, the root
//! of the sum of squared errors is within `2^-9 |w|` (`2^-8 |w|`) of what the search sees, and the best table for
//! the bins is within twice that of the best for the values. Results do not depend on the number of threads.

mod encode;
mod recipe;
#[cfg(test)]
mod tests;

use crate::compressor::{Compressor, Outcome, Reach, Step, WeightCompressor};
use crate::log::Log;
use crate::model::{Model, Outline, Select, WeightInfo, select_setters};
use crate::recipe::RecipeStep;
use crate::{Activations, Fault, Float, Invalid, Leaf, Refusal, Result, Weight};
use serde::{Deserialize, Serialize};

/// Holds each entry of a weight as its place in a table of a few shared values (weight sharing, arXiv
/// 1510.00149), found by k-means.
///
/// | setting | default | meaning |
/// | --- | --- | --- |
/// | [`bits(b)`](Self::bits) | | 1 to 8: a table of `2^b` values |
/// | [`values(n)`](Self::values) | | 2 to 256: a table of `n` values |
/// | [`init`](Self::init) | [`CodebookInit::Linear`] | where k-means starts |
/// | [`iterations(n)`](Self::iterations) | 300 | at most so many iterations of k-means; it ends before when nothing changes any more. 0 keeps the start |
/// | [`optimal`](Self::optimal) | no | the table with the least error there is, instead of k-means from a start |
///
/// A code takes as many bits as tell the values apart; the table takes 4 bytes a value (8 for `f64` models). Values
/// that no entry needs are left out of the table. Pruned entries stay pruned and get no code, 0 stays 0, and
/// factors get a table each. Products run on floats, not on integers ([`Activations`]).
///
/// Training ([`FineTuner`](crate::FineTuner)) moves the values of the table, each by the sum of the gradients of
/// all entries that share it; codes stay as they are, unless they
/// [move](crate::FineTuner::move_codes_until) first.
///
/// ```
/// use bantam::{CodebookQuantizer, Tensor, WeightCompressor};
///
/// let values = (0..4096).map(|i| (i as f32 * 0.37).sin()).collect();
/// let shared = CodebookQuantizer::values(16).apply(Tensor::<f32>::new(&[64, 64], values)?)?;
/// assert_eq!(shared.form().to_string(), "codebook 16");
/// assert_eq!(shared.stored_bytes(), 64 * 64 / 2 + 16 * 4);
/// # Ok::<(), bantam::Error>(())
/// ```
///
/// # Errors
/// A table with more values than the matrix (or a factor) has kept entries is [`Refusal::CodebookTooLarge`]: before
/// any work where the shape says so, else as [`Fault::Refused`] with the weight's name. An entry that is NaN or
/// infinite is [`Fault::NotFinite`]. A weight that is quantized already, by either quantizer, and one whose inputs
/// are coded are refused before any work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "recipe::Settings", into = "recipe::Settings")]
pub struct CodebookQuantizer {
    size: Size,
    init: CodebookInit,
    iterations: usize,
    optimal: bool,
    select: Select,
}

/// Length of the table, as the user said it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Size {
    Bits(u8),
    Values(usize),
}

/// Where k-means starts.
///
/// | value | the start | use it |
/// | --- | --- | --- |
/// | `Linear` (default) | at equal distances from the smallest to the largest entry | what arXiv 1510.00149 found best: large entries are few, and matter |
/// | `Density` | with as many entries between each value and the next | the least error in the middle of the range, at the cost of its ends |
/// | `PlusPlus { seed }` | at random, far from each other (k-means++) | several clumps with gaps; to try several seeds |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CodebookInit {
    /// Values at equal distances.
    #[default]
    Linear,
    /// Quantiles.
    Density,
    /// k-means++ from a seed.
    PlusPlus {
        /// The same seed gives the same start, in every build and for any number of threads.
        seed: u64,
    },
}

impl CodebookQuantizer {
    const ITERATIONS: usize = 300;

    /// A table of `2^bits` values, for codes of `bits` bits, 1 to 8.
    pub fn bits(bits: u8) -> Self {
        Self::of(Size::Bits(bits))
    }

    /// A table of so many values, 2 to 256.
    pub fn values(values: usize) -> Self {
        Self::of(Size::Values(values))
    }

    fn of(size: Size) -> Self {
        Self {
            size,
            init: CodebookInit::Linear,
            iterations: Self::ITERATIONS,
            optimal: false,
            select: Select::default(),
        }
    }

    /// Where k-means starts. Default: [`CodebookInit::Linear`]. Without a meaning for the optimum.
    pub fn init(mut self, init: CodebookInit) -> Self {
        self.init = init;
        self
    }

    /// Iterations of k-means at most. Default: 300, which is seldom reached. Without a meaning for the optimum.
    pub fn iterations(mut self, iterations: usize) -> Self {
        self.iterations = iterations;
        self
    }

    /// The table with the least sum of squared errors there is, by dynamic programming: exact up to 65,536 kept
    /// entries, beyond that the optimum of a histogram. Takes `k n log n` steps for `n` distinct entries or bins,
    /// where k-means takes `n` for an iteration: a few seconds for 256 values, and a few hundredths for 16.
    pub fn optimal(mut self) -> Self {
        self.optimal = true;
        self
    }

    select_setters!();

    /// Length of the table.
    fn len(&self) -> usize {
        match self.size {
            Size::Bits(bits) => 1_usize.checked_shl(bits.into()).unwrap_or(usize::MAX),
            Size::Values(values) => values,
        }
    }

    /// Whether there are enough entries to share the values.
    fn check_kept(&self, kept: usize) -> Result<(), Refusal> {
        let values = self.len();
        if values > kept { Err(Refusal::CodebookTooLarge { values, kept }) } else { Ok(()) }
    }
}

const CODED_INPUTS: &str = "its inputs are coded, and a codebook runs on floats: use quantize instead";

impl From<usize> for CodebookQuantizer {
    fn from(values: usize) -> Self {
        Self::values(values)
    }
}

impl Step for CodebookQuantizer {
    fn name(&self) -> &str {
        "codebook"
    }

    fn validate(&self) -> Result<(), Invalid> {
        match self.size {
            Size::Bits(bits) if !(1..=8).contains(&bits) => Err(Invalid::new("bits", bits, "in 1..=8")),
            Size::Values(values) if !(2..=256).contains(&values) => {
                Err(Invalid::new("values", values, "in 2..=256"))
            }
            _ => Ok(()),
        }
    }

    fn plan(&self, outline: &mut Outline) -> Result<(), (String, Refusal)> {
        outline.for_each_selected(&self.select, |weight| {
            if weight.form.quantized && !weight.form.factored {
                return Err(Refusal::Already("quantized"));
            }
            if weight.activations != Activations::Float {
                return Err(Refusal::Other(CODED_INPUTS.to_owned()));
            }
            // A residual that is coded already stays as it is; it is as large as the weight. One without
            // entries is left alone.
            let entries = weight.matrices.iter().flatten().map(|[rows, cols]| rows.saturating_mul(*cols));
            entries.filter(|n| *n > 0).try_for_each(|n| self.check_kept(n))?;
            weight.form.quantized = true;
            weight.form.codebook = Some(self.len());
            Ok(())
        })
    }

    fn recipe(&self) -> Option<RecipeStep> {
        Some(RecipeStep::Codebook(self.clone()))
    }
}

impl<T: Float> Compressor<T> for CodebookQuantizer {
    fn compress(&self, model: &mut Model<T>, log: &Log<'_>) -> Result<()> {
        crate::pipeline::each_weight(self, model, log)
    }

    fn reach(&self) -> Reach<'_, T> {
        Reach::Weight(self)
    }
}

impl<T: Float> WeightCompressor<T> for CodebookQuantizer {
    fn select(&self) -> &Select {
        &self.select
    }

    fn compress_weight(&self, _: &WeightInfo, weight: Weight<T>) -> Result<Outcome<T>, Fault> {
        self.validate()?;
        if !weight.is_empty() && weight.activations() != Activations::Float {
            return Err(Fault::Form(CODED_INPUTS));
        }
        let code = |leaf: Leaf<T>| {
            // What pruning has left is known only now.
            self.check_kept(leaf.kept()).map_err(Fault::Refused)?;
            encode::encode(leaf, self)
        };
        Outcome::coded(weight, code, |weight| weight)
    }
}
