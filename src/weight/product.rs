//! Products with a weight, from its compressed form.
//!
//! Rows of a weight are decoded a few at a time, into a buffer that stays in a near cache, and meet all inputs
//! there: the dense matrix is never written. The work is cut into blocks of rows (of inputs, where these are
//! more), so results do not depend on the number of threads.
//!
//! A sum of `k` products of floats is within `(k + 4) * eps * sum |w x|` of the exact one, `eps` half the
//! distance from 1 to the next number.

use super::codebook::Lookup;
use super::decoder::Decoder;
use super::leaf::{Coding, Support};
use super::mask::Mask;
use super::{Activations, Leaf, Node, Weight, zeros};
use crate::kernels::dots::{MANY, Panels, ROWS, Rows};
use crate::kernels::sparse::{self, Beside, Bits, Spaced};
use crate::{Fault, Float, parallel};
use std::borrow::Cow;
use std::ops::Range;

/// Rows of one side that a thread takes at a time.
const BLOCK: usize = 2 * ROWS;
/// Below this many multiplications a second thread costs more than it brings.
const MIN_PARALLEL: usize = 1 << 17;
/// Entries of a weight that is decoded as a whole where inputs are more than its rows.
pub(super) const SMALL: usize = 1 << 20;
/// A pruned weight runs on its kept entries for this few inputs, and for more where less than a
/// `DENSE_SHARE`th is kept.
const DENSE_INPUTS: usize = 2;
const DENSE_SHARE: usize = 3;
/// Columns that are transposed at a time: numbers of a cache line.
const LINE: usize = 16;

impl<T: Float> Weight<T> {
    /// `x [n, cols]` times the transposed weight, `[n, rows]`. Each run of `group` rows of `x` shares one
    /// range where activations are quantized dynamically.
    pub(crate) fn product_with(&self, x: &[T], n: usize, group: usize) -> Result<Vec<T>, Fault> {
        match &self.node {
            Node::Leaf(leaf) => match self.activations {
                Activations::Float => leaf.product(x, n),
                integer => leaf.integer_product(x, n, group, integer),
            },
            Node::Product(u, v) => {
                let hidden = v.in_place_of(self.activations).product_with(x, n, group)?;
                let y = u.in_place_of(self.activations).product_with(&hidden, n, group);
                y.map_err(|fault| match fault {
                    // Its place would be one in the rank, which the caller does not see.
                    Fault::Input { .. } => Fault::Form("the output of its inner factor is not finite"),
                    other => other,
                })
            }
            Node::Sum(parts) => {
                let mut out = Vec::new();
                for part in parts {
                    let y = part.in_place_of(self.activations).product_with(x, n, group)?;
                    if out.is_empty() {
                        out = y;
                    } else {
                        out.iter_mut().zip(y).for_each(|(a, b)| *a += b);
                    }
                }
                Ok(out)
            }
        }
    }

    /// A part of a weight runs on floats when the whole does, else as it says itself; where it says
    /// nothing, with dynamic ranges.
    fn in_place_of(&self, whole: Activations) -> Cow<'_, Self> {
        let wanted = match (whole, self.activations) {
            (Activations::Float, _) => Activations::Float,
            (_, Activations::Float) => Activations::Int8,
            (_, own) => own,
        };
        if wanted == self.activations {
            Cow::Borrowed(self)
        } else {
            Cow::Owned(self.clone().with_activations(wanted))
        }
    }
}

impl<T: Float> Leaf<T> {
    /// `x [n, cols]` times the transposed leaf, `[n, rows]`.
    pub(super) fn product(&self, x: &[T], n: usize) -> Result<Vec<T>, Fault> {
        let (rows, cols) = (self.rows, self.cols);
        if let (Support::All, Coding::Float(values)) = (&self.support, &self.coding) {
            let w = values.read(0..values.len())?;
            return dense(&w, x, [n, cols, rows]);
        }
        // Compressed as it is; no more than handles where it is in memory already.
        let leaf = self.load()?;
        let mask = leaf.mask()?;
        let kept = Kept::new(&leaf)?;
        match mask.as_deref() {
            Some(mask) if n <= DENSE_INPUTS || leaf.kept() < leaf.len() / DENSE_SHARE => {
                sparse_product(&kept, mask, x, [n, cols, rows])
            }
            mask => {
                let fill = |row: usize, columns: Range<usize>, to: &mut [T]| {
                    let range = row * cols + columns.start..row * cols + columns.end;
                    kept.spread(range, mask, to);
                };
                decoded(fill, x, [n, cols, rows])
            }
        }
    }
}

/// The kept numbers of a leaf, in memory.
enum Kept<'a, T: Float> {
    Values(Cow<'a, [T]>),
    Codes(Decoder<'a, T>),
    Shared(Box<Lookup<'a, T>>),
}

impl<'a, T: Float> Kept<'a, T> {
    fn new(leaf: &'a Leaf<T>) -> Result<Self, Fault> {
        Ok(match &leaf.coding {
            Coding::Float(values) => Self::Values(values.read(0..values.len())?),
            Coding::Affine(affine) => Self::Codes(Decoder::new(leaf, affine)?),
            Coding::Codebook(book) => Self::Shared(Box::new(Lookup::new(book)?)),
        })
    }

    /// The kept numbers of the flat `range`, which lies in one row; `buffer` is room for them.
    fn read<'b>(&'b self, range: Range<usize>, mask: Option<&Mask>, buffer: &'b mut Vec<T>) -> &'b [T] {
        match self {
            Self::Values(values) => &values[kept_range(&range, mask)],
            Self::Codes(decoder) => {
                buffer.clear();
                buffer.resize(kept_range(&range, mask).len(), T::zero());
                decoder.values(range, mask, buffer);
                buffer
            }
            Self::Shared(book) => {
                buffer.clear();
                buffer.resize(kept_range(&range, mask).len(), T::zero());
                book.values(range, mask, buffer);
                buffer
            }
        }
    }

    /// All entries of the flat `range`, which lies in one row: pruned ones are zeros.
    fn spread(&self, range: Range<usize>, mask: Option<&Mask>, to: &mut [T]) {
        match (self, mask) {
            (Self::Values(values), None) => to.copy_from_slice(&values[range]),
            (Self::Codes(decoder), None) => decoder.values(range, None, to),
            (Self::Shared(book), None) => book.values(range, None, to),
            (kept, Some(mask)) => {
                let mut buffer = Vec::new();
                let kept = kept.read(range.clone(), Some(mask), &mut buffer);
                to.fill(T::zero());
                mask.positions(range.clone()).zip(kept).for_each(|(i, x)| to[i - range.start] = *x);
            }
        }
    }
}

/// Where the kept entries of the flat `range` lie among all that are kept.
fn kept_range(range: &Range<usize>, mask: Option<&Mask>) -> Range<usize> {
    let rank = |i: usize| mask.map_or(i, |m| m.rank(i));
    rank(range.start)..rank(range.end)
}

/// `x w^T` for `x [n, k]` and `w [m, k]`.
fn dense<T: Float>(w: &[T], x: &[T], [n, k, m]: [usize; 3]) -> Result<Vec<T>, Fault> {
    let (w, x) = (Rows::new(w, k), Rows::new(x, k));
    // The longer side is shared out, and the other one stays near.
    if n > m { beside(x, w, [n, k, m]) } else { transposed(beside(w, x, [m, k, n])?, m, n) }
}

/// `a b^T` for `a [p, k]` and `b [q, k]`: blocks of rows of `a` with all of `b`.
fn beside<T: Float>(a: Rows<'_, T>, b: Rows<'_, T>, [p, k, q]: [usize; 3]) -> Result<Vec<T>, Fault> {
    if q > MANY {
        let fill = |row: usize, columns: Range<usize>, to: &mut [T]| to.copy_from_slice(a.part(row, columns));
        return blocks(fill, &Panels::new(b, k, q, k), [p, k, q]);
    }
    let mut out = zeros(p, q)?;
    let height = height(BLOCK, k * q);
    parallel::for_each_chunk(&mut out, height * q, |i, out| {
        T::dots(a.skip_columns(i * height * a.stride), b, [out.len() / q, k, q], out);
    });
    Ok(out)
}

/// `x w^T` for the `w [m, k]` whose rows `fill(row, columns, to)` decodes.
fn decoded<T: Float>(
    fill: impl Fn(usize, Range<usize>, &mut [T]) + Sync + Send,
    x: &[T],
    [n, k, m]: [usize; 3],
) -> Result<Vec<T>, Fault> {
    if n > m && m * k <= SMALL {
        let mut w = zeros(m, k)?;
        w.chunks_mut(k.max(1)).enumerate().for_each(|(row, to)| fill(row, 0..k, to));
        return dense(&w, x, [n, k, m]);
    }
    transposed(blocks(fill, &Panels::new(Rows::new(x, k), k, n, k), [m, k, n])?, m, n)
}

/// Decoded rows with all of `x [n, k]`: `[m, n]`.
fn blocks<T: Float>(
    fill: impl Fn(usize, Range<usize>, &mut [T]) + Sync + Send,
    x: &Panels<T>,
    [m, k, n]: [usize; 3],
) -> Result<Vec<T>, Fault> {
    let mut out = zeros(m, n)?;
    let height = height(ROWS, k * n);
    parallel::for_each_chunk(&mut out, height * n, |i, out| {
        for (j, out) in out.chunks_mut((ROWS * n).max(1)).enumerate() {
            let first = i * height + j * ROWS;
            T::blocked_dots(|row, columns, to| fill(first + row, columns, to), x, out);
        }
    });
    Ok(out)
}

/// The same from the kept entries alone.
fn sparse_product<T: Float>(
    kept: &Kept<'_, T>,
    mask: &Mask,
    x: &[T],
    [n, k, m]: [usize; 3],
) -> Result<Vec<T>, Fault> {
    let bits = |row: usize| Bits { words: mask.words(0..mask.len()), start: row * k, cols: k };
    let range = |row: usize| row * k..(row + 1) * k;
    let mut out = zeros(m, n)?;
    let height = height(BLOCK, k * n);
    if n == 1 {
        let x = Spaced::new(x);
        parallel::for_each_chunk(&mut out, height, |i, out| {
            let mut buffer = Vec::new();
            for (row, out) in (i * height..).zip(out) {
                *out = sparse::dot(bits(row), kept.read(range(row), Some(mask), &mut buffer), &x);
            }
        });
        return Ok(out);
    }
    // As many inputs at a time as suit the vectors.
    let sums = |narrow: bool, out: &mut [T]| match (narrow, size_of::<T>()) {
        (true, _) => side_by_side::<T, 4>(kept, mask, x, [n, k, m], height, out),
        (false, 4) if n > 16 => side_by_side::<T, 64>(kept, mask, x, [n, k, m], height, out),
        _ => side_by_side::<T, 16>(kept, mask, x, [n, k, m], height, out),
    };
    sums(n <= 4, &mut out);
    transposed(out, m, n)
}

/// `out [m, n]` from `L` inputs at a time.
fn side_by_side<T: Float, const L: usize>(
    kept: &Kept<'_, T>,
    mask: &Mask,
    x: &[T],
    [n, k, _]: [usize; 3],
    height: usize,
    out: &mut [T],
) {
    let sides: Vec<Beside<T, L>> = x.chunks((L * k).max(1)).map(|x| Beside::new(x, k)).collect();
    parallel::for_each_chunk(out, height * n, |i, out| {
        let (mut buffer, mut places) = (Vec::new(), Vec::new());
        for (row, out) in (i * height..).zip(out.chunks_mut(n)) {
            sparse::places(Bits { words: mask.words(0..mask.len()), start: row * k, cols: k }, &mut places);
            let kept = kept.read(row * k..(row + 1) * k, Some(mask), &mut buffer);
            for (x, out) in sides.iter().zip(out.chunks_mut(L)) {
                out.copy_from_slice(&sparse::dots(&places, kept, x)[..out.len()]);
            }
        }
    });
}

/// Rows that one thread takes at a time: a multiple of `least`, and more where a row is little work, so that
/// a block is worth a thread. Depends on the shape alone.
pub(super) fn height(least: usize, work: usize) -> usize {
    (MIN_PARALLEL / work.max(1)).next_multiple_of(least).max(least)
}

/// `[m, n]` to `[n, m]`.
pub(super) fn transposed<T: Float>(values: Vec<T>, m: usize, n: usize) -> Result<Vec<T>, Fault> {
    if n == 1 || m == 1 {
        return Ok(values);
    }
    let mut out = zeros(n, m)?;
    parallel::for_each_chunk(&mut out, LINE * m, |i, out| {
        for (r, row) in values.chunks_exact(n.max(1)).enumerate() {
            for (b, out) in out.chunks_exact_mut(m).enumerate() {
                out[r] = row[i * LINE + b];
            }
        }
    });
    Ok(out)
}
