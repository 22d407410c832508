//! A part of a weight: some of its rows and columns, in the form that the weight has.

use super::affine::{Affine, Granularity};
use super::codes::{Codes, Packer};
use super::leaf::{Coding, Leaf, Support};
use super::mask::Mask;
use super::values::Values;
use super::{Node, Weight, fold};
use crate::{Fault, Float};
use std::ops::Range;
use std::sync::Arc;

impl<T: Float> Weight<T> {
    /// The weight of `shape` made of some rows and columns of the matrix that this one is seen as, in ascending
    /// order; `None` for all. Masks, codes, scales and factors are those of the entries that stay.
    ///
    /// # Errors
    /// [`Fault::Form`] when the cut goes through groups of inputs that share a scale: see
    /// [`splits_groups`](Self::splits_groups); [`Fault::Io`] when values cannot be read.
    pub(crate) fn select(
        &self,
        rows: Option<&[usize]>,
        cols: Option<&[usize]>,
        shape: &[usize],
    ) -> Result<Self, Fault> {
        let (height, width) = fold(self.shape());
        let (m, n) = (rows.map_or(height, <[_]>::len), cols.map_or(width, <[_]>::len));
        debug_assert_eq!(fold(shape), (m, n));
        let node = match self.node() {
            Node::Leaf(leaf) => Node::Leaf(leaf.select(rows, cols)?),
            Node::Product(u, v) => {
                let rank = fold(v.shape()).0;
                let u = u.select(rows, None, &[m, rank])?;
                Node::Product(Box::new(u), Box::new(v.select(None, cols, &[rank, n])?))
            }
            Node::Sum(parts) => Node::Sum(
                parts.iter().map(|part| part.select(rows, cols, &[m, n])).collect::<Result<_, _>>()?,
            ),
        };
        Ok(Self::from_node(shape, node).with_activations(self.activations()))
    }

    /// Whether a cut along the columns, in aligned runs of `run`, may go through groups of inputs that share a
    /// scale.
    pub(crate) fn splits_groups(&self, run: usize) -> bool {
        match self.node() {
            Node::Leaf(leaf) => match &leaf.coding {
                Coding::Affine(Affine { granularity: Granularity::Group { size }, .. }) => {
                    *size > 0 && !run.is_multiple_of(*size)
                }
                _ => false,
            },
            Node::Product(_, v) => v.splits_groups(run),
            Node::Sum(parts) => parts.iter().any(|part| part.splits_groups(run)),
        }
    }
}

/// Takes where the numbers of a row are, and which of them stay.
type OfChosen<'f> = &'f mut dyn FnMut(Range<usize>, &[usize]) -> Result<(), Fault>;

impl<T: Float> Leaf<T> {
    fn select(&self, rows: Option<&[usize]>, cols: Option<&[usize]>) -> Result<Self, Fault> {
        if rows.is_none() && cols.is_none() {
            return Ok(self.clone());
        }
        let leaf = self.load()?;
        let all = |n: usize| (0..n).collect::<Vec<_>>();
        let (all_rows, all_cols) = (all(self.rows), all(self.cols));
        let (rows, cols) = (rows.unwrap_or(&all_rows), cols.unwrap_or(&all_cols));
        let mask = leaf.mask()?;
        let cut = Cut::new(self.cols, rows, cols, mask.as_deref());
        let (support, kept) = cut.support();
        let coding = match &leaf.coding {
            Coding::Float(values) => {
                let mut data = Vec::with_capacity(kept);
                cut.each_row(&mut |held, chosen| {
                    let row = values.read(held)?;
                    data.extend(chosen.iter().map(|i| row[*i]));
                    Ok(())
                })?;
                Coding::Float(Values::selected(data, values.dtype()))
            }
            Coding::Affine(affine) => {
                let scales = affine.scales_of(self.cols, rows, cols)?;
                Coding::Affine(Affine { codes: cut.codes(&affine.codes)?, ..scales })
            }
            Coding::Codebook(book) => Coding::Codebook(book.with_codes(cut.codes(book.codes())?)),
        };
        Ok(Self { rows: rows.len(), cols: cols.len(), support, coding })
    }
}

/// Some rows and columns of a matrix with a mask.
struct Cut<'a> {
    /// Columns of the matrix.
    width: usize,
    rows: &'a [usize],
    cols: &'a [usize],
    /// Where each column of the matrix goes.
    place: Vec<Option<usize>>,
    mask: Option<&'a Mask>,
}

impl<'a> Cut<'a> {
    fn new(width: usize, rows: &'a [usize], cols: &'a [usize], mask: Option<&'a Mask>) -> Self {
        let mut place = vec![None; width];
        cols.iter().enumerate().for_each(|(new, old)| place[*old] = Some(new));
        Self { width, rows, cols, place, mask }
    }

    fn range(&self, row: usize) -> Range<usize> {
        row * self.width..(row + 1) * self.width
    }

    /// The support of what stays, and its kept entries.
    fn support(&self) -> (Support, usize) {
        let len = self.rows.len() * self.cols.len();
        let Some(mask) = self.mask else { return (Support::All, len) };
        let mut words = vec![0_u64; len.div_ceil(64)];
        for (r, row) in self.rows.iter().enumerate() {
            let range = self.range(*row);
            let stay = mask.positions(range.clone()).filter_map(|i| self.place[i - range.start]);
            for bit in stay.map(|column| r * self.cols.len() + column) {
                words[bit / 64] |= 1 << (bit % 64);
            }
        }
        let mask = Mask::new(words, len);
        let kept = mask.kept();
        // A matrix none of whose entries is pruned is not a pruned one.
        (if kept < len { Support::Kept(Arc::new(mask)) } else { Support::All }, kept)
    }

    /// Calls `f` for each row: where its numbers are among those that are held, and which of them stay.
    fn each_row(&self, f: OfChosen<'_>) -> Result<(), Fault> {
        let mut chosen = Vec::new();
        for row in self.rows {
            let range = self.range(*row);
            let Some(mask) = self.mask else {
                f(range, self.cols)?;
                continue;
            };
            chosen.clear();
            let kept = mask.positions(range.clone()).enumerate();
            chosen.extend(kept.filter(|(_, i)| self.place[i - range.start].is_some()).map(|(n, _)| n));
            f(mask.rank(range.start)..mask.rank(range.end), &chosen)?;
        }
        Ok(())
    }

    fn codes(&self, all: &Codes) -> Result<Codes, Fault> {
        let mut packer = Packer::new(all.bits());
        let mut stay = Vec::new();
        self.each_row(&mut |held, chosen| {
            let row = all.read(held)?;
            stay.clear();
            stay.extend(chosen.iter().map(|i| row[*i]));
            packer.extend(&stay);
            Ok(())
        })?;
        Ok(packer.finish())
    }
}

impl<T: Float> Affine<T> {
    /// The same with the scales and zero points of some rows and columns only.
    fn scales_of(&self, width: usize, rows: &[usize], cols: &[usize]) -> Result<Self, Fault> {
        let blocks: Vec<usize> = match self.granularity {
            Granularity::Tensor => return Ok(self.clone()),
            Granularity::Channel => rows.to_vec(),
            Granularity::Group { size } => {
                let size = size.max(1);
                let whole = |run: &[usize]| {
                    run.len() == size
                        && run[0].is_multiple_of(size)
                        && run.windows(2).all(|two| two[1] == two[0] + 1)
                };
                if !cols.chunks(size).all(whole) {
                    return Err(Fault::Form(
                        "its scales belong to groups of inputs, which a cut would split",
                    ));
                }
                let groups: Vec<usize> = cols.iter().step_by(size).map(|first| first / size).collect();
                let across = width / size;
                rows.iter().flat_map(|row| groups.iter().map(move |group| row * across + group)).collect()
            }
        };
        let scale = self.scale.read(0..self.scale.len())?;
        let scale = Values::selected(blocks.iter().map(|block| scale[*block]).collect(), self.scale.dtype());
        let zero = match &self.zero {
            None => None,
            Some(zero) => {
                let all = zero.read(0..zero.len())?;
                Some(Codes::pack(zero.bits(), &blocks.iter().map(|block| all[*block]).collect::<Vec<_>>()))
            }
        };
        Ok(Self { scale, zero, ..self.clone() })
    }
}
