//! [`Leaf`]: one matrix of a weight: its support (which entries are kept) and their coding.

use super::affine::Affine;
use super::codebook::{Codebook, NO_ZEROS};
use super::mask::Mask;
use super::storage::StoredMask;
use super::values::Values;
use crate::kernels::memory;
use crate::{DType, Fault, Float, parallel};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Entries that are decoded at a time: small enough to stay in a core's cache.
pub(super) const BLOCK: usize = 1 << 16;

/// One matrix of a [`Weight`](crate::Weight), `[rows, cols]` = `[out, in]`.
///
/// Holds numbers for its kept entries only: a pruned entry has no place in which to be anything but zero.
#[derive(Clone, Debug)]
pub struct Leaf<T: Float = f32> {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) support: Support,
    pub(crate) coding: Coding<T>,
}

/// Which entries are kept.
#[derive(Clone, Debug)]
pub(crate) enum Support {
    All,
    Kept(Arc<Mask>),
    /// In a file, not read yet.
    Stored(Arc<StoredMask>),
    /// In a file whose values hold all entries, pruned ones as zeros; this many are not zero.
    Zeros(usize),
}

/// How the kept entries are held, row-major over the support.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Coding<T: Float> {
    Float(Values<T>),
    Affine(Affine<T>),
    Codebook(Codebook<T>),
}

/// A run of entries of a leaf, as [`Leaf::map_blocks`] hands it out.
pub(crate) struct Block<'a, T: Float> {
    /// Flat positions of the entries.
    pub range: Range<usize>,
    /// The kept ones, in order.
    pub kept: Cow<'a, [T]>,
    pub mask: Option<&'a Mask>,
}

impl<T: Float> Block<'_, T> {
    /// Flat positions of the kept entries.
    pub fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        let all = match self.mask {
            None => self.range.clone(),
            Some(_) => 0..0,
        };
        all.chain(self.mask.into_iter().flat_map(|m| m.positions(self.range.clone())))
    }

    /// All entries of the run, zeros where they are pruned.
    pub fn dense(&self) -> Cow<'_, [T]> {
        match self.mask {
            None => Cow::Borrowed(&self.kept),
            Some(_) => Cow::Owned(scatter(self.positions(), &self.kept, &self.range)),
        }
    }
}

impl<T: Float> Leaf<T> {
    /// A dense float matrix, `values` row-major.
    pub(crate) fn dense(rows: usize, cols: usize, values: Values<T>) -> Self {
        debug_assert_eq!(rows * cols, values.len());
        Self { rows, cols, support: Support::All, coding: Coding::Float(values) }
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Entries, pruned ones included.
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether it has no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries that are not pruned.
    pub fn kept(&self) -> usize {
        match &self.support {
            Support::All => self.len(),
            Support::Kept(mask) => mask.kept(),
            Support::Stored(mask) => mask.kept(),
            Support::Zeros(kept) => *kept,
        }
    }

    /// Whether some entries have been pruned. A value that happens to be zero does not count.
    pub fn is_pruned(&self) -> bool {
        !matches!(self.support, Support::All)
    }

    /// Whether the entries are held as codes.
    pub fn is_coded(&self) -> bool {
        !matches!(self.coding, Coding::Float(_))
    }

    /// The mask, read from its file where it has not been yet.
    pub(crate) fn mask(&self) -> Result<Option<Arc<Mask>>, Fault> {
        match &self.support {
            Support::All => Ok(None),
            Support::Kept(mask) => Ok(Some(Arc::clone(mask))),
            Support::Stored(mask) => mask.read().map(Arc::new).map(Some),
            Support::Zeros(kept) => {
                let words = self.map_ranges(1, |range| {
                    let mut words = vec![0_u64; range.len().div_ceil(64)];
                    for (i, kept) in self.stored_nonzero(range)?.into_iter().enumerate() {
                        words[i / 64] |= u64::from(kept) << (i % 64);
                    }
                    Ok(words)
                })?;
                let mask = Mask::new(words.concat(), self.len());
                if mask.kept() != *kept {
                    return Err(Fault::Form("it has another number of zeros than declared"));
                }
                Ok(Some(Arc::new(mask)))
            }
        }
    }

    /// Bits of a code, where the entries are held as codes.
    pub fn code_bits(&self) -> Option<u8> {
        match &self.coding {
            Coding::Float(_) => None,
            Coding::Affine(affine) => Some(affine.bits()),
            Coding::Codebook(book) => Some(book.bits()),
        }
    }

    /// Precision in which floats of this leaf are stored: its values, or the scales or the table of its codes.
    pub fn float_dtype(&self) -> DType {
        match &self.coding {
            Coding::Float(values) => values.dtype(),
            Coding::Affine(affine) => affine.scale.dtype(),
            Coding::Codebook(book) => book.table.dtype(),
        }
    }

    /// The kept entries with flat positions in `range`.
    pub(crate) fn read_kept(&self, range: Range<usize>, mask: Option<&Mask>) -> Result<Cow<'_, [T]>, Fault> {
        match (&self.support, mask) {
            (Support::Zeros(_), Some(mask)) => {
                let all = self.read_coded(range.clone(), None)?;
                Ok(mask.positions(range.clone()).map(|i| all[i - range.start]).collect::<Vec<_>>().into())
            }
            _ => self.read_coded(range, mask),
        }
    }

    /// The entries with flat positions in `range`, zeros where they are pruned.
    pub(crate) fn read_dense(&self, range: Range<usize>, mask: Option<&Mask>) -> Result<Cow<'_, [T]>, Fault> {
        let kept = self.read_kept(range.clone(), mask)?;
        Ok(match mask {
            None => kept,
            Some(mask) => Cow::Owned(scatter(mask.positions(range.clone()), &kept, &range)),
        })
    }

    /// Which of the stored numbers are not zero. In `T`, one that is not may become zero.
    fn stored_nonzero(&self, range: Range<usize>) -> Result<Vec<bool>, Fault> {
        match &self.coding {
            Coding::Float(values) => values.nonzero(range),
            Coding::Affine(affine) => {
                let block = affine.granularity.block(self.rows, self.cols);
                Ok(affine.decode_integers(range, block, None)?.into_iter().map(|code| code != 0).collect())
            }
            Coding::Codebook(_) => Err(NO_ZEROS),
        }
    }

    /// The entries with flat positions in `range` for which the coding holds numbers.
    fn read_coded(&self, range: Range<usize>, mask: Option<&Mask>) -> Result<Cow<'_, [T]>, Fault> {
        match &self.coding {
            Coding::Float(values) => {
                let rank = |i: usize| mask.map_or(i, |m| m.rank(i));
                values.read(rank(range.start)..rank(range.end))
            }
            Coding::Affine(affine) => {
                let block = affine.granularity.block(self.rows, self.cols);
                affine.decode(range, block, mask).map(Cow::Owned)
            }
            Coding::Codebook(book) => book.decode(range, mask).map(Cow::Owned),
        }
    }

    /// Cuts the leaf into runs of whole multiples of `align` entries (and of 64, so that masks and codes of
    /// a dense leaf split at byte boundaries), and gives what `f` makes of each, in order. Runs are decoded
    /// as they are needed, on all threads; the cut depends on nothing but the shape and `align`.
    pub(crate) fn map_blocks<R: Send>(
        &self,
        mask: Option<&Mask>,
        align: usize,
        f: impl Fn(Block<'_, T>) -> Result<R, Fault> + Sync + Send,
    ) -> Result<Vec<R>, Fault> {
        self.map_ranges(align, |range| self.with_block(range, mask, &f))
    }

    /// Calls `f` with the run of entries with flat positions in `range`.
    pub(crate) fn with_block<R>(
        &self,
        range: Range<usize>,
        mask: Option<&Mask>,
        f: impl FnOnce(Block<'_, T>) -> Result<R, Fault>,
    ) -> Result<R, Fault> {
        match (&self.support, &self.coding) {
            (Support::All | Support::Kept(_), Coding::Float(values)) => {
                let rank = |i: usize| mask.map_or(i, |m| m.rank(i));
                values.with(rank(range.start)..rank(range.end), |kept| {
                    f(Block { range, kept: Cow::Borrowed(kept), mask })
                })
            }
            _ => {
                let kept = self.read_kept(range.clone(), mask)?;
                f(Block { range, kept, mask })
            }
        }
    }

    /// The cut of [`map_blocks`](Self::map_blocks), without the decoding.
    pub(crate) fn map_ranges<R: Send>(
        &self,
        align: usize,
        f: impl Fn(Range<usize>) -> Result<R, Fault> + Sync + Send,
    ) -> Result<Vec<R>, Fault> {
        parallel::try_map_vec(self.ranges(align).collect(), f)
    }

    /// The cut itself.
    pub(crate) fn ranges(&self, align: usize) -> impl Iterator<Item = Range<usize>> + use<T> {
        let (size, n) = (run_length(align, BLOCK), self.len());
        (0..n.div_ceil(size)).map(move |i| i * size..((i + 1) * size).min(n))
    }

    /// Calls `f` with each row, decoded; pruned entries are zeros.
    ///
    /// # Errors
    /// [`Fault::Io`] when the values are in a file that cannot be read, and what `f` returns.
    pub fn for_each_row(&self, mut f: impl FnMut(usize, &[T]) -> Result<(), Fault>) -> Result<(), Fault> {
        let mask = self.mask()?;
        let mask = mask.as_deref();
        let height = (BLOCK / self.cols.max(1)).max(1);
        for first in (0..self.rows).step_by(height) {
            let last = (first + height).min(self.rows);
            let range = first * self.cols..last * self.cols;
            let kept = self.read_kept(range.clone(), mask)?;
            let block = Block { range, kept, mask };
            let dense = block.dense();
            if self.cols == 0 {
                (first..last).try_for_each(|r| f(r, &[]))?;
            }
            for (r, row) in dense.chunks(self.cols.max(1)).enumerate() {
                f(first + r, row)?;
            }
        }
        Ok(())
    }

    /// All entries, row-major; zeros where they are pruned.
    pub fn to_vec(&self) -> Result<Vec<T>, Fault> {
        if let (Support::All, Coding::Float(values)) = (&self.support, &self.coding) {
            return Ok(values.read(0..values.len())?.into_owned());
        }
        if self.is_empty() {
            // There may be any number of rows without entries.
            return Ok(Vec::new());
        }
        let mut out = memory::reserve(self.len())
            .map_err(|_| Fault::Form("the dense tensor does not fit in memory"))?;
        let pieces = self.ranges(1).map(|range| (range.len(), range));
        match (&self.support, &self.coding) {
            (Support::All, Coding::Affine(affine)) => {
                let block = affine.granularity.block(self.rows, self.cols);
                out = memory::fill(out, pieces, |range, slot| affine.decode_to(range, block, None, slot))?.0;
                return Ok(out);
            }
            (Support::All, Coding::Codebook(book)) => {
                return Ok(memory::fill(out, pieces, |range, slot| book.decode_to(range, None, slot))?.0);
            }
            _ => {}
        }
        self.for_each_row(|_, row| {
            out.extend_from_slice(row);
            Ok(())
        })?;
        Ok(out)
    }

    /// Puts `f(x)` in the place of every kept value `x`; what is pruned stays pruned. Values are held in the
    /// precision that they had: those of a 16-bit tensor are rounded to it.
    ///
    /// # Errors
    /// [`Fault::Form`] when the values are held as codes, [`Fault::NotFinite`] when `f` makes one that is NaN
    /// or infinite (its place among the kept values), [`Fault::Io`] when they cannot be read.
    pub fn map_values(self, f: impl Fn(T) -> T + Sync + Send) -> Result<Self, Fault> {
        let leaf = self.settled()?;
        let Coding::Float(values) = leaf.coding else {
            return Err(Fault::Form("its values are held as codes and cannot be changed one by one"));
        };
        let dtype = values.dtype();
        let mut data = values.into_vec()?;
        data.iter_mut().for_each(|x| *x = f(*x));
        let values = Values::rounded(data, dtype);
        if let Some((index, x)) =
            values.read(0..values.len())?.iter().enumerate().find(|(_, x)| !x.is_finite())
        {
            return Err(Fault::NotFinite { index, value: x.to_string() });
        }
        Ok(Self { coding: Coding::Float(values), ..leaf })
    }

    /// The first entry that is NaN or infinite is an error.
    pub(crate) fn check_finite(block: &Block<'_, T>) -> Result<(), Fault> {
        match block.positions().zip(block.kept.iter()).find(|(_, x)| !x.is_finite()) {
            Some((index, x)) => Err(Fault::NotFinite { index, value: x.to_string() }),
            None => Ok(()),
        }
    }

    /// Moves along the coding axis only: the same support with its kept entries held as `coding`. The leaf
    /// is [`settled`](Self::settled).
    pub(crate) fn recoded(self, coding: Coding<T>) -> Self {
        Self { coding, ..self }
    }
}

impl<T: Float> PartialEq for Leaf<T> {
    /// Equal support and equal numbers in equal coding, wherever they are.
    fn eq(&self, other: &Self) -> bool {
        if matches!(self.support, Support::Zeros(_)) || matches!(other.support, Support::Zeros(_)) {
            return matches!((self.load(), other.load()), (Ok(a), Ok(b)) if a == b);
        }
        self.rows == other.rows
            && self.cols == other.cols
            && matches!((self.mask(), other.mask()), (Ok(a), Ok(b)) if a == b)
            && self.coding == other.coding
    }
}

/// The kept entries of a run at their places, zeros elsewhere.
fn scatter<E: Copy + Default>(
    positions: impl Iterator<Item = usize>,
    kept: &[E],
    range: &Range<usize>,
) -> Vec<E> {
    let mut out = vec![E::default(); range.len()];
    for (i, x) in positions.zip(kept) {
        out[i - range.start] = *x;
    }
    out
}

/// The length of a run of about `target` entries: a multiple of `align` and of 64.
pub(super) fn run_length(align: usize, target: usize) -> usize {
    let align = align.max(1);
    let unit = align << 6_u32.saturating_sub(align.trailing_zeros());
    unit * (target / unit).max(1)
}
