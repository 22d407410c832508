//! Low rank: a matrix as the product of two thin ones.
//!
//! `W [out, in]` becomes `U [out, r]` times `V [r, in]`, from the truncated singular value decomposition,
//! which has the least squared error of all products of that rank (Eckart and Young, 1936):
//!
//! ```text
//! W = A S B^T      U = A_r sqrt(S_r)      V = sqrt(S_r) B_r^T      |W - U V|^2 = sum of the discarded s_i^2
//! ```
//!
//! The singular values are split between the factors, so that both have entries of like size: good for
//! training them, and for quantizing them. A layer that was factored runs as two products (Denton et al.,
//! *Exploiting Linear Structure Within Convolutional Networks for Efficient Evaluation*, arXiv 1404.0736). A
//! convolution kernel `[out, in, kh, kw]` is factored as the matrix `[out, in * kh * kw]`.

mod recipe;
mod svd;

pub use svd::Svd;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub use svd::thin_svd;
use svd::{Factors, Keep};

use crate::compressor::{Compressor, Outcome, Reach, Step, WeightCompressor};
use crate::log::Log;
use crate::model::{Model, Outline, OutlineWeight, Select, WeightInfo, select_setters};
use crate::recipe::RecipeStep;
use crate::weight::{Leaf, Node, Values, fold};
use crate::{AffineQuantizer, Fault, Float, Invalid, LeftAlone, Refusal, Result, Weight};
use serde::{Deserialize, Serialize};

/// Replaces matrices by products of low rank.
///
/// | constructor | rank of an `m` x `n` matrix | range |
/// | --- | --- | --- |
/// | [`rank(r)`](Self::rank) | `r` | at least 1 |
/// | [`energy(e)`](Self::energy) | the smallest that keeps the fraction `e` of the sum of squared singular values | above 0, up to 1 |
/// | [`parameters(p)`](Self::parameters) | the largest with at most `p * m * n` parameters, at least 1 | above 0, up to 1 |
///
/// | setting | default | meaning |
/// | --- | --- | --- |
/// | [`residual`](Self::residual) | none | what the product leaves out, quantized and added: `W ~ U V + Q` |
/// | [`svd`](Self::svd) | [`Svd::Faer`] | who computes the decomposition |
/// | [`exact`](Self::exact) | no | the least error to rounding, whatever it costs |
///
/// A rank that is given, and below about a seventh of the smaller side of the matrix, is reached by block
/// Krylov iteration (arXiv 1504.05477), many times faster than the whole decomposition. Its error is at most
/// 1 % above the least possible one, which the whole decomposition has, and far closer where the singular
/// values decay; the same matrix always gives the same factors. [`exact`](Self::exact) asks for the whole
/// decomposition; a rank by energy always has it.
///
/// A rank at or above break-even, `r (m + n) >= m n`, would save nothing: the weight is left as it was, and
/// the report says so (an error in a strict pipeline). Weights with fewer than two axes are left. Pruned or
/// quantized weights are refused: factoring would undo that. Factors of 16-bit weights are rounded to 16
/// bits.
///
/// ```
/// use bantam::{LowRankFactorizer, Tensor, Weight, WeightCompressor};
///
/// // The outer product of two vectors has rank 1.
/// let values = (0..64).map(|i| (i / 8 + 1) as f32 * (i % 8 + 1) as f32).collect();
/// let weight = LowRankFactorizer::rank(1).apply(Tensor::new(&[8, 8], values)?)?;
/// assert_eq!(weight.rank(), Some(1));
/// assert!((weight.to_dense()?.as_slice()[63] - 64.0).abs() < 1e-3);
/// # Ok::<(), bantam::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "recipe::Settings", into = "recipe::Settings")]
pub struct LowRankFactorizer {
    amount: Amount,
    residual: Option<AffineQuantizer>,
    svd: Svd,
    exact: bool,
    select: Select,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Amount {
    Rank(usize),
    Energy(f64),
    Parameters(f64),
}

impl LowRankFactorizer {
    fn new(amount: Amount) -> Self {
        Self { amount, residual: None, svd: Svd::default(), exact: false, select: Select::default() }
    }

    /// Products of this rank.
    pub fn rank(rank: usize) -> Self {
        Self::new(Amount::Rank(rank))
    }

    /// For each matrix the smallest rank that keeps this fraction of the energy, the sum of the squared
    /// singular values. 0.9 to 0.99 is usual.
    pub fn energy(fraction: f64) -> Self {
        Self::new(Amount::Energy(fraction))
    }

    /// For each matrix the largest rank whose factors have at most this fraction of its parameters.
    pub fn parameters(fraction: f64) -> Self {
        Self::new(Amount::Parameters(fraction))
    }

    /// Adds what the product leaves out, quantized: low rank for the large structure, few bits for the
    /// rest (as in LQER, arXiv 2402.02446, without its scaling by activations). Of the quantizer, its
    /// activations and its selection cannot be used here, and are refused.
    pub fn residual(mut self, quantizer: AffineQuantizer) -> Self {
        self.residual = Some(quantizer);
        self
    }

    /// Who computes the decomposition.
    pub fn svd(mut self, svd: Svd) -> Self {
        self.svd = svd;
        self
    }

    /// The least error of all factors of that rank, to rounding, instead of one that is at most 1 % above
    /// it. Takes many times longer for a large matrix and a low rank.
    pub fn exact(mut self) -> Self {
        self.exact = true;
        self
    }

    select_setters!();

    /// The rank for a matrix, where it does not depend on the values.
    fn known_rank(&self, [rows, cols]: [usize; 2]) -> Option<usize> {
        match self.amount {
            Amount::Rank(rank) => Some(rank),
            Amount::Energy(_) => None,
            Amount::Parameters(p) => {
                let (m, n) = (rows as f64, cols as f64);
                Some(((p * m * n / (m + n)) as usize).max(1))
            }
        }
    }
}

impl From<usize> for LowRankFactorizer {
    fn from(rank: usize) -> Self {
        Self::rank(rank)
    }
}

/// Whether factors of this rank have at least as many entries as the matrix.
fn is_break_even(rank: usize, rows: usize, cols: usize) -> bool {
    rank.saturating_mul(rows.saturating_add(cols)) >= rows * cols
}

impl Step for LowRankFactorizer {
    fn name(&self) -> &str {
        "factorize"
    }

    fn validate(&self) -> Result<(), Invalid> {
        match self.amount {
            Amount::Rank(0) => return Err(Invalid::new("rank", 0, "at least 1")),
            Amount::Rank(_) => {}
            Amount::Energy(e) => {
                Invalid::unless_in(f64::MIN_POSITIVE..=1.0, "energy", e, "above 0 and at most 1")?;
            }
            Amount::Parameters(p) => {
                Invalid::unless_in(f64::MIN_POSITIVE..=1.0, "parameters", p, "above 0 and at most 1")?;
            }
        }
        let Some(residual) = &self.residual else { return Ok(()) };
        if !residual.is_plain() {
            let allowed = "without activations, only, except and kinds: it goes where the product goes";
            return Err(Invalid::new("residual", format!("{residual:?}"), allowed));
        }
        residual.validate()
    }

    fn plan(&self, outline: &mut Outline) -> Result<(), (String, Refusal)> {
        let strict = outline.is_strict();
        outline.for_each_selected(&self.select, |weight| self.plan_weight(weight, strict))
    }

    fn recipe(&self) -> Option<RecipeStep> {
        Some(RecipeStep::Factorize(self.clone()))
    }
}

impl LowRankFactorizer {
    fn plan_weight(&self, weight: &mut OutlineWeight, strict: bool) -> Result<(), Refusal> {
        let step = "factorize";
        if weight.form.factored {
            return Err(Refusal::Already("factored"));
        }
        if weight.form.pruned {
            return Err(Refusal::TooLate { done: "pruned", step });
        }
        if weight.form.quantized {
            return Err(Refusal::TooLate { done: "quantized", step });
        }
        let matrix @ [rows, cols] = weight.matrix();
        if weight.info.shape.len() < 2 {
            return Ok(());
        }
        let rank = self.known_rank(matrix);
        if let Some(rank) = rank
            && is_break_even(rank, rows, cols)
        {
            return if strict { Err(Refusal::BreakEven { rank, rows, cols }) } else { Ok(()) };
        }
        weight.form.factored = true;
        weight.matrices = match rank {
            Some(rank) if !weight.may_shrink => vec![Some([rows, rank]), Some([rank, cols])],
            _ => vec![None, None],
        };
        if let Some(quantizer) = &self.residual {
            let residual = (!weight.may_shrink).then_some(matrix);
            residual.map_or(Ok(()), |_| quantizer.check_inputs(cols))?;
            weight.form.quantized = true;
            weight.matrices.push(residual);
        }
        Ok(())
    }

    /// How many of the singular values, largest first, are kept.
    fn choose(&self, singular: &[f64], matrix: [usize; 2]) -> usize {
        let rank = self.known_rank(matrix).unwrap_or_else(|| {
            let Amount::Energy(fraction) = self.amount else { return 1 };
            let total: f64 = singular.iter().map(|s| s * s).sum();
            let mut kept = 0.0;
            let enough = singular.iter().position(|s| {
                kept += s * s;
                kept >= fraction * total
            });
            enough.map_or(singular.len(), |i| i + 1)
        });
        rank.clamp(1, singular.len().max(1))
    }
}

impl<T: Float> Compressor<T> for LowRankFactorizer {
    fn compress(&self, model: &mut Model<T>, log: &Log<'_>) -> Result<()> {
        crate::pipeline::each_weight(self, model, log)
    }

    fn reach(&self) -> Reach<'_, T> {
        Reach::Weight(self)
    }
}

impl<T: Float> WeightCompressor<T> for LowRankFactorizer {
    fn select(&self) -> &Select {
        &self.select
    }

    fn compress_weight(&self, _: &WeightInfo, weight: Weight<T>) -> Result<Outcome<T>, Fault> {
        self.validate()?;
        let (rows, cols) = fold(weight.shape());
        let dtype = match weight.node() {
            Node::Leaf(leaf) if !leaf.is_pruned() && !leaf.is_coded() => leaf.float_dtype(),
            _ => return Ok(Outcome::left(weight, LeftAlone::Already)),
        };
        if weight.is_empty() {
            return Ok(Outcome::left(weight, LeftAlone::Empty));
        }
        if weight.shape().len() < 2 {
            return Ok(Outcome::left(weight, LeftAlone::NotAMatrix));
        }
        if self.known_rank([rows, cols]).is_some_and(|rank| is_break_even(rank, rows, cols)) {
            return Ok(Outcome::left(weight, LeftAlone::BreakEven));
        }
        let dense = weight.dense_values()?;
        if let Some(index) = dense.iter().position(|x| !x.is_finite()) {
            return Err(Fault::NotFinite { index, value: dense[index].to_string() });
        }
        let choose = |singular: &[f64]| {
            let rank = self.choose(singular, [rows, cols]);
            (!is_break_even(rank, rows, cols)).then_some(rank)
        };
        let keep = match self.known_rank([rows, cols]) {
            Some(rank) if !self.exact => Keep::About(rank),
            _ => Keep::Chosen(&choose),
        };
        let Some(Factors { rank, u, v }) = self.svd.factors(&dense, [rows, cols], keep)? else {
            return Ok(Outcome::left(weight, LeftAlone::BreakEven));
        };
        let u = Leaf::dense(rows, rank, Values::rounded(u, dtype));
        let v = Leaf::dense(rank, cols, Values::rounded(v, dtype));
        let product = Weight::product(
            weight.shape(),
            Weight::from_leaf(&[rows, rank], u),
            Weight::from_leaf(&[rank, cols], v),
        );
        let activations = weight.activations();
        let after = match &self.residual {
            None => product,
            Some(quantizer) => {
                let mut rest = dense;
                for (a, b) in rest.iter_mut().zip(product.dense_values()?) {
                    *a -= b;
                }
                let rest = quantizer.encode(Leaf::dense(rows, cols, Values::new(rest)))?;
                let rest = Weight::from_leaf(weight.shape(), rest);
                Weight::from_node(weight.shape(), Node::Sum(vec![product, rest]))
            }
        };
        Ok(Outcome::smaller(weight, after.with_activations(activations)))
    }
}
