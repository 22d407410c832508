//! [`LeafParam`]: one matrix of a weight while it is trained.

use super::layers::linear;
use super::layers::sparse::Kept;
use super::moving_codes::Moving;
use super::optimizer::{Optimizer, State};
use super::step_size::Scales;
use crate::tensor::round_to;
use crate::weight::{Affine, Codebook, Codes, Coding, Grid, Mask, Values};
use crate::{DType, Fault, Float, Leaf};
use std::ops::Range;
use std::sync::Arc;

/// Owns exactly as many trained numbers as the leaf may change: its kept entries, or the values that these share.
/// A pruned entry has none, and so stays zero.
///
/// The products of a forward and a backward pass use `dense`, the matrix as it would be decoded. Where the
/// leaf is not pruned and not coded, `dense` is itself what is trained; otherwise `latent` is, and `dense`
/// is refreshed from it after each step. Where few entries of a matrix are kept, products meet only these.
///
/// # Codes
/// A coded leaf is trained by a straight-through estimator ("Estimating or Propagating Gradients Through
/// Stochastic Neurons", arXiv 1308.3432) on its fixed grid: scales and zero points stay. The forward pass
/// sees the latent numbers rounded to the grid, and their gradient goes to the latent numbers as if there
/// were no rounding. A latent number never leaves the range of its grid: a change that points further out
/// ends at the edge, and the next one that points back in takes effect at once. Latent numbers start at the
/// decoded values, so that a leaf whose numbers do not cross half a step keeps its codes.
///
/// Where the step sizes are [learned](super::step_size), latent numbers may lie outside, and have no gradient there.
///
/// # Codebooks
/// Of a leaf with a codebook, the values of the table are trained, each by the sum of the gradients of the
/// entries that share it ("Deep Compression", arXiv 1510.00149); the codes stay.
#[derive(Clone, Debug)]
pub(crate) struct LeafParam<T: Float> {
    /// What it was made of; once its support has changed, a leaf with the new one.
    pub(super) form: Leaf<T>,
    /// Places of the kept entries; `None` where all are kept.
    pub(super) positions: Option<Vec<usize>>,
    /// The same for products, where they meet only these.
    pub(super) sparse: Option<Kept>,
    /// Whether products may meet only the kept entries.
    pub(super) may_be_sparse: bool,
    /// The entries that were not pruned when the training began, where some were.
    pub(super) allowed: Option<Arc<Mask>>,
    pub dense: Vec<T>,
    pub(super) latent: Vec<T>,
    /// As large as `dense`; of the kept entries alone where products meet only these.
    pub(super) gradient: Vec<T>,
    /// Whether nothing has been added to the gradient since the last step. It then holds anything.
    pub(super) fresh: bool,
    gathered: Vec<T>,
    /// Of a coded leaf.
    pub(super) codes: Option<Trained<T>>,
    /// Of the grids of a coded leaf, where they are trained as well.
    pub(super) steps: Option<Scales<T>>,
    /// How the scales are stored.
    pub(super) scale_dtype: DType,
    pub(super) state: State<T>,
    /// Numbers of all entries at some time before.
    pub(super) remembered: Option<Vec<T>>,
    pub frozen: bool,
    /// Whether its numbers may differ from those it was made of.
    pub touched: bool,
}

/// How the latent numbers of a coded leaf stand for its entries.
#[derive(Clone, Debug)]
pub(super) enum Trained<T> {
    /// One for each kept entry, on the grids of these runs.
    Grids(Vec<Run<T>>),
    /// One for each value of the table, and the code of each kept entry.
    Table(Vec<u8>),
    /// One for each kept entry, which shares the value nearest to it.
    Moving(Moving<T>),
}

/// Kept entries that share a grid.
#[derive(Clone, Debug)]
pub(super) struct Run<T> {
    /// Which of the blocks that have a scale of their own.
    pub block: usize,
    /// Of the kept entries, in order.
    pub range: Range<usize>,
    pub grid: Grid<T>,
}

impl<T: Float> LeafParam<T> {
    /// `leaf` is in memory, and none of its entries NaN or infinite. `linear` says that it is used by whole
    /// products alone.
    pub fn new(leaf: &Leaf<T>, linear: bool) -> Result<Self, Fault> {
        let mask = leaf.mask()?;
        let dense = leaf.to_vec()?;
        finite(dense.iter().copied().enumerate())?;
        let positions: Option<Vec<usize>> = mask.as_ref().map(|m| m.positions(0..leaf.len()).collect());
        let codes = match &leaf.coding {
            Coding::Float(_) => None,
            Coding::Affine(affine) => Some(Trained::Grids(runs(affine, leaf, positions.as_deref())?)),
            Coding::Codebook(book) => Some(Trained::Table(book.read(0..book.codes().len())?.into_owned())),
        };
        let latent = match (&leaf.coding, &positions, &codes) {
            // A table that nobody uses is nothing to train.
            (Coding::Codebook(book), ..) if book.codes().len() > 0 => book.table.clone().into_vec()?,
            (Coding::Codebook(_), ..) | (_, None, None) => Vec::new(),
            (_, None, Some(_)) => dense.clone(),
            (_, Some(positions), _) => positions.iter().map(|i| dense[*i]).collect(),
        };
        let sparse = match (&positions, &codes) {
            (Some(positions), None) if linear => Kept::new(leaf.rows(), leaf.cols(), positions),
            _ => None,
        };
        let trained = if sparse.is_some() { latent.len() } else { dense.len() };
        Ok(Self {
            form: leaf.clone(),
            gradient: vec![T::zero(); trained],
            fresh: true,
            may_be_sparse: linear,
            sparse,
            gathered: Vec::new(),
            state: State::default(),
            remembered: None,
            steps: None,
            scale_dtype: match &leaf.coding {
                Coding::Affine(affine) => affine.scale.dtype(),
                _ => T::DTYPE,
            },
            frozen: false,
            touched: false,
            positions,
            allowed: mask,
            dense,
            latent,
            codes,
        })
    }

    pub(super) fn is_direct(&self) -> bool {
        self.positions.is_none() && self.codes.is_none()
    }

    /// The trained numbers: one for each kept entry, in row-major order, or those of a table.
    pub fn values(&self) -> &[T] {
        if self.is_direct() { &self.dense } else { &self.latent }
    }

    /// Lets `f` change the trained numbers.
    pub fn edit(&mut self, f: impl FnOnce(&mut [T])) {
        f(if self.is_direct() { &mut self.dense } else { &mut self.latent });
        self.refresh();
    }

    /// Gradients of the trained numbers since the last step.
    pub fn kept_gradient(&self) -> Vec<T> {
        let mut gathered = Vec::new();
        if self.fresh {
            gathered.resize(self.values().len(), T::zero());
        } else {
            self.gather(&mut gathered);
        }
        gathered
    }

    /// The gradient of something that is used value by value, to be added to.
    pub fn gradient(&mut self) -> &mut [T] {
        if std::mem::take(&mut self.fresh) {
            self.gradient.fill(T::zero());
        }
        &mut self.gradient
    }

    /// The gradient of all entries, and what it is to be multiplied by before more is added; `None` where they
    /// are not trained.
    pub fn gradient_of_all(&mut self) -> Option<(T, &mut [T])> {
        if self.frozen {
            return None;
        }
        let beta = if std::mem::take(&mut self.fresh) { T::zero() } else { T::one() };
        Some((beta, &mut self.gradient))
    }

    /// The gradients of the trained numbers.
    fn gather(&self, out: &mut Vec<T>) {
        out.clear();
        let place = |j: usize| self.positions.as_ref().map_or(j, |p| p[j]);
        match (&self.codes, &self.positions) {
            (Some(Trained::Table(codes)), _) => {
                let mut sums = [0.0; 256];
                for (j, code) in codes.iter().enumerate() {
                    sums[usize::from(*code)] += self.gradient[place(j)].widen();
                }
                out.extend(sums[..self.latent.len()].iter().map(|sum| T::narrow(*sum)));
            }
            (_, Some(positions)) if self.sparse.is_none() => {
                out.extend(positions.iter().map(|i| self.gradient[*i]));
            }
            _ => out.extend_from_slice(&self.gradient),
        }
    }

    /// `y = beta * y + x W^T` for `x [n, cols]` and the given rows of `W`.
    pub fn product(&self, x: &[T], n: usize, rows: &Range<usize>, beta: T, y: &mut [T]) {
        let cols = self.form.cols();
        if let Some(kept) = &self.sparse {
            return kept.forward(n, x, &self.latent, beta, y);
        }
        linear::forward([n, cols, rows.len()], x, &self.dense[band(rows, cols)], beta, y);
    }

    /// Adds to the gradient; `dx = beta * dx + dy W` where it is wanted.
    pub fn backward(&mut self, x: &[T], dy: &[T], n: usize, rows: &Range<usize>, dx: Option<(T, &mut [T])>) {
        let cols = self.form.cols();
        let (shape, band) = ([n, cols, rows.len()], band(rows, cols));
        if rows.len() < self.form.rows() {
            self.gradient();
        }
        let kept = self.sparse.take();
        if let Some((beta, gradient)) = self.gradient_of_all() {
            match &kept {
                Some(kept) => kept.backward_weight(n, x, dy, beta, gradient),
                None => linear::backward_weight(shape, x, dy, beta, &mut gradient[band.clone()]),
            }
        }
        if let Some((beta, dx)) = dx {
            match &kept {
                Some(kept) => kept.backward_input(n, dy, &self.latent, beta, dx),
                None => linear::backward_input(shape, dy, &self.dense[band], beta, dx),
            }
        }
        self.sparse = kept;
    }

    /// One step along the gradient, which starts again at zero.
    pub fn step(&mut self, optimizer: &Optimizer, rate: f64) {
        if self.frozen {
            return;
        }
        self.gradient();
        self.learn_steps(optimizer, rate);
        let direct = self.is_direct();
        let coded =
            self.positions.is_none() && matches!(self.codes, Some(Trained::Grids(_) | Trained::Moving(_)));
        let whole = direct || coded || self.sparse.is_some();
        if !whole {
            let mut gathered = std::mem::take(&mut self.gathered);
            self.gather(&mut gathered);
            self.gathered = gathered;
        }
        let gradient = if whole { &self.gradient } else { &self.gathered };
        let values = if direct { &mut self.dense } else { &mut self.latent };
        optimizer.update(rate, values, gradient, &mut self.state);
        self.fresh = true;
        self.refresh();
    }

    /// Brings `dense` up to date with numbers that have changed.
    pub(super) fn refresh(&mut self) {
        self.touched = true;
        if let Some(Trained::Moving(moving)) = &mut self.codes {
            moving.follow(&self.latent);
        }
        self.spread();
    }

    /// Puts into `dense` what the latent numbers stand for.
    pub(super) fn spread(&mut self) {
        let Self { positions, latent, dense, codes, steps, .. } = self;
        let place = |j: usize| positions.as_ref().map_or(j, |p| p[j]);
        let runs = match codes {
            Some(Trained::Grids(runs)) => runs,
            Some(Trained::Table(codes)) => {
                return codes.iter().enumerate().for_each(|(j, c)| dense[place(j)] = latent[usize::from(*c)]);
            }
            Some(Trained::Moving(Moving { codes, table, .. })) => {
                for ((j, code), x) in codes.iter().enumerate().zip(latent.iter()) {
                    // NaN has no nearest value, and must not pass for a number.
                    dense[place(j)] = if x.is_nan() { *x } else { table[usize::from(*code)] };
                }
                return;
            }
            None => {
                if let Some(positions) = positions {
                    positions.iter().zip(latent.iter()).for_each(|(i, x)| dense[*i] = *x);
                }
                return;
            }
        };
        for Run { range, grid, .. } in runs {
            for j in range.clone() {
                let x = if steps.is_some() { latent[j] } else { grid.clamp(latent[j]) };
                latent[j] = x;
                // There is no code for NaN, which must not pass for a number.
                dense[place(j)] = if x.is_nan() { x } else { grid.value(grid.code(x)) };
            }
        }
    }

    /// Whether its numbers are finite in the precision in which they will be stored: a step may make one
    /// that is not, and 16 bits end at 65504.
    ///
    /// # Errors
    /// [`Fault::NotFinite`] with the flat position of the first that is not.
    pub fn check(&self) -> Result<(), Fault> {
        if !self.touched {
            return Ok(());
        }
        let place = |j: usize| self.positions.as_ref().map_or(j, |p| p[j]);
        let dtype = self.form.float_dtype();
        let narrow = dtype.bits() < T::DTYPE.bits();
        let stored = |x: T| if narrow { round_to(dtype, x) } else { x };
        match &self.codes {
            None => finite(self.values().iter().enumerate().map(|(j, x)| (place(j), stored(*x)))),
            Some(Trained::Grids(runs)) => {
                finite(runs.iter().flat_map(|run| run.range.clone()).map(|j| (place(j), self.latent[j])))
            }
            Some(Trained::Moving(_)) => {
                finite(self.latent.iter().enumerate().map(|(j, x)| (place(j), stored(*x))))
            }
            // The place of a value is that of the first entry that has it.
            Some(Trained::Table(codes)) => finite(self.latent.iter().enumerate().map(|(i, x)| {
                (codes.iter().position(|c| usize::from(*c) == i).map_or(0, place), stored(*x))
            })),
        }
    }

    /// The leaf with the trained numbers, in the form and the stored precision it had.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn leaf(&self) -> Result<Leaf<T>, Fault> {
        if !self.touched {
            return Ok(self.form.clone());
        }
        self.check()?;
        let coding = match (&self.form.coding, &self.codes) {
            (Coding::Affine(affine), Some(Trained::Grids(runs))) => {
                // Entries of a run without a grid keep the codes they came with.
                let mut codes = affine.codes.unpack(0..affine.codes.len())?;
                for Run { range, grid, .. } in runs {
                    for j in range.clone() {
                        codes[j] = grid.code(self.latent[j]);
                    }
                }
                let scale = self.trained_scales(affine, runs)?;
                Coding::Affine(Affine { scale, codes: Codes::pack(affine.bits(), &codes), ..affine.clone() })
            }
            (Coding::Codebook(book), Some(Trained::Moving(moving))) => {
                let table = Values::rounded(moving.table.clone(), book.table.dtype());
                Coding::Codebook(Codebook::new(table, Codes::pack(book.bits(), &moving.codes)))
            }
            (Coding::Codebook(book), _) if self.latent.is_empty() => Coding::Codebook(book.clone()),
            (Coding::Codebook(book), Some(Trained::Table(codes))) => {
                let table = Values::rounded(self.latent.clone(), book.table.dtype());
                Coding::Codebook(Codebook::new(table, Codes::pack(book.bits(), codes)))
            }
            _ => Coding::Float(Values::rounded(self.values().to_vec(), self.form.float_dtype())),
        };
        Ok(Leaf { coding, ..self.form.clone() })
    }
}

/// The first number that is NaN or infinite is an error that names its place.
fn finite<T: Float>(mut numbers: impl Iterator<Item = (usize, T)>) -> Result<(), Fault> {
    match numbers.find(|(_, x)| !x.is_finite()) {
        Some((index, x)) => Err(Fault::NotFinite { index, value: x.to_string() }),
        None => Ok(()),
    }
}

fn band(rows: &Range<usize>, cols: usize) -> Range<usize> {
    rows.start * cols..rows.end * cols
}

/// The runs of a coded leaf. A scale that is not a positive number (a hostile file) makes none: its entries
/// stay as they are.
pub(super) fn runs<T: Float>(
    affine: &Affine<T>,
    leaf: &Leaf<T>,
    positions: Option<&[usize]>,
) -> Result<Vec<Run<T>>, Fault> {
    let block = affine.granularity.block(leaf.rows(), leaf.cols()).max(1);
    let mut start = 0;
    let runs = Grid::of(affine, leaf.len().div_ceil(block))?.into_iter().enumerate().map(|(b, grid)| {
        let last = ((b + 1) * block).min(leaf.len());
        let end = positions.map_or(last, |p| p.partition_point(|i| *i < last));
        let range = start..end;
        start = end;
        Run { block: b, range, grid }
    });
    Ok(runs.filter(|run| run.grid.is_sound()).collect())
}
