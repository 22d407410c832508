//! Products with a weight, from its compressed form.
//!
//! Rows of a weight are decoded a few at a time, into a buffer that stays in a near cache, and meet all inputs
//! there: no dense matrix is written, except for small weights with more inputs than rows. The work is cut into
//! blocks of rows (of inputs, where these are more), so results do not depend on the number of threads.
//!
//! A sum of `k` products of floats is within `(k + 4) * eps * sum |w x|` of the exact one, `eps` half the
//! distance from 1 to the next number. A pruned weight whose mask is still in a file may add up in another order than
//! when it is loaded.

use super::codebook::{Lookup, kept_range};
use super::decoder::Decoder;
use super::leaf::{Coding, Support};
use super::mask::Mask;
use super::pruned::{with_many, with_one};
use super::{Activations, Leaf, Node, Weight, zeros};
use crate::kernels::by_columns::by_columns;
use crate::kernels::gemm::{Along, Prepared};
use crate::kernels::products::{Decode, HEIGHT, Panels, Rows, Source, TOGETHER};
use crate::kernels::sparse::WORD;
use crate::{Fault, Float, parallel};
use std::borrow::Cow;
use std::ops::Range;

/// Below this many multiplications a second thread costs more than it brings.
const MIN_PARALLEL: usize = 1 << 17;
/// Multiplications from which on a product is worth being taken to the threads as a whole.
const LARGE: usize = 1 << 20;
/// Multiplications that take as long as reading a number.
const READ: usize = 4;
/// Entries of a weight that is decoded as a whole where inputs are more than its rows.
pub(super) const SMALL: usize = 1 << 20;
/// A pruned weight runs on its kept entries for one input, and for more where less than a `DENSE_SHARE`th is
/// kept.
const DENSE_SHARE: usize = 3;
/// Rows of both sides from which on a product is worth bringing one into panels.
const MANY: usize = 32;
/// Rows of the side that is shared out that a thread takes at a time, at most, where both have many; and how many
/// such bands there are, if rows are few.
const BAND: usize = 96;
const BANDS: usize = 8;

impl<T: Float> Weight<T> {
    /// `x [n, cols]` times the transposed weight, `[n, rows]`. Each run of `group` rows of `x` shares one
    /// range where activations are quantized dynamically.
    pub(crate) fn product_with(&self, x: &[T], n: usize, group: usize) -> Result<Vec<T>, Fault> {
        match &self.node {
            Node::Leaf(leaf) => {
                let product = || match self.activations {
                    Activations::Float => leaf.product(x, n),
                    integer => leaf.integer_product(x, n, group, integer),
                };
                // While one thread prepares what all work on, the others would fall asleep if it were none of them.
                if leaf.len().saturating_mul(n) < LARGE { product() } else { parallel::inside(product) }
            }
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

/// Rows of an input that are made of samples: the windows of images.
pub(crate) trait Gather: Sync {
    /// Some columns of a row.
    fn gather<C: Copy + Default>(&self, samples: &[C], row: usize, columns: Range<usize>, to: &mut [C]);
    /// The column of the weight that a column of these rows belongs to.
    fn column(&self, column: usize) -> usize;
}

impl<T: Float> Weight<T> {
    /// All entries, for products on floats with so many inputs that decoding costs little: `None` where kept
    /// entries are few, or decoding takes much memory.
    pub(crate) fn dense_entries(&self) -> Result<Option<Cow<'_, [T]>>, Fault> {
        let Node::Leaf(leaf) = &self.node else { return Ok(None) };
        let thin = leaf.kept() < leaf.len() / DENSE_SHARE;
        let plain = matches!((&leaf.support, &leaf.coding), (Support::All, Coding::Float(_)));
        if self.activations != Activations::Float || thin || !plain && leaf.len() > SMALL {
            return Ok(None);
        }
        let mask = leaf.mask()?;
        leaf.read_dense(0..leaf.len(), mask.as_deref()).map(Some)
    }

    /// The product with `n` rows that are made of samples: `[n, rows]`. `None` where a weight is too large for that,
    /// runs on less than all of its entries, or on integers: the rows must be made first then.
    pub(crate) fn product_of(
        &self,
        samples: &[T],
        n: usize,
        make: &impl Gather,
    ) -> Result<Option<Vec<T>>, Fault> {
        let Node::Leaf(leaf) = &self.node else { return Ok(None) };
        let thin = leaf.kept() < leaf.len() / DENSE_SHARE;
        if leaf.len() > SMALL || thin || self.activations != Activations::Float {
            return Ok(None);
        }
        leaf.float_product_of(samples, n, make).map(Some)
    }
}

impl<T: Float> Leaf<T> {
    fn float_product_of(&self, samples: &[T], n: usize, make: &impl Gather) -> Result<Vec<T>, Fault> {
        let (m, k) = (self.rows, self.cols);
        let mask = self.mask()?;
        let w = self.read_dense(0..self.len(), mask.as_deref())?;
        let panels = Panels::by(k, m, k, |row, columns, to| {
            columns.zip(to).for_each(|(column, to)| *to = w[row * k + make.column(column)]);
        });
        let mut out = zeros(n, m)?;
        let height = height(2 * HEIGHT, k * m);
        parallel::for_each_chunk(&mut out, height * m, |i, out| {
            let rows = |row: usize, columns: Range<usize>, to: &mut [T]| {
                make.gather(samples, i * height + row, columns, to);
            };
            T::products(Source::Decoded(Box::new(rows)), &panels, out.len() / m, out);
        });
        Ok(out)
    }

    /// `x [n, cols]` times the transposed leaf, `[n, rows]`.
    pub(super) fn product(&self, x: &[T], n: usize) -> Result<Vec<T>, Fault> {
        let (rows, cols) = (self.rows, self.cols);
        if let (Support::All, Coding::Float(values)) = (&self.support, &self.coding) {
            let w = values.read(0..values.len())?;
            return dense(&w, x, [n, cols, rows]);
        }
        let leaf = self.for_product()?;
        let mask = leaf.mask()?;
        let kept = Kept::new(&leaf)?;
        match mask.as_deref() {
            Some(mask) if n == 1 => with_one(&kept, mask, x, [cols, rows]),
            Some(mask) if leaf.kept() < leaf.len() / DENSE_SHARE => {
                with_many(&kept, mask, x, [n, cols, rows])
            }
            mask => {
                if n == 1
                    && mask.is_none()
                    && let Some(y) = kept.nibbles(x, [cols, rows])?
                {
                    return Ok(y);
                }
                if n > rows && leaf.len() <= SMALL {
                    return dense(&leaf.read_dense(0..leaf.len(), mask)?, x, [n, cols, rows]);
                }
                let decoded = |first| Source::Decoded(Box::new(Decoded { kept: &kept, mask, cols, first }));
                weights_with_inputs(decoded, x, [n, cols, rows])
            }
        }
    }
}

/// The kept numbers of a leaf, in memory.
pub(super) enum Kept<'a, T: Float> {
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

    /// The kept numbers of the flat `range`, which lies in one row, and maybe more; `buffer` is room for them.
    pub fn read<'b>(&'b self, range: Range<usize>, mask: &Mask, buffer: &'b mut Vec<T>) -> &'b [T] {
        let kept = kept_range(&range, Some(mask));
        if let Self::Values(values) = self {
            return &values[kept.start..];
        }
        // More than a kernel looks at.
        buffer.resize(kept.len() + WORD, T::zero());
        self.values(range, Some(mask), &mut buffer[..kept.len()]);
        buffer
    }

    /// The kept numbers of the flat `range`, which lies in one row.
    pub fn values(&self, range: Range<usize>, mask: Option<&Mask>, to: &mut [T]) {
        match self {
            Self::Values(values) => to.copy_from_slice(&values[kept_range(&range, mask)]),
            Self::Codes(decoder) => decoder.values(range, mask, to),
            Self::Shared(book) => book.values(range, mask, to),
        }
    }

    /// All entries of the flat `range`, which lies in one row: pruned ones are zeros.
    fn spread(&self, range: Range<usize>, mask: Option<&Mask>, to: &mut [T]) {
        let Some(mask) = mask else { return self.values(range, None, to) };
        let mut buffer = Vec::new();
        T::expand(mask.bits(range.clone()), self.read(range, mask, &mut buffer), to);
    }

    /// The codes of all kept entries, where they are bytes, and each row of `k` entries has one scale.
    pub fn whole_bytes(&self, k: usize) -> Option<(&[u8], &Decoder<'a, T>)> {
        match self {
            Self::Codes(decoder) if decoder.step(k) == k => Some((decoder.packed(8)?, decoder)),
            _ => None,
        }
    }

    /// The bytes that hold the kept numbers of the flat `range`; none where it lies past the end.
    fn bytes(&self, range: Range<usize>, mask: Option<&Mask>) -> &[u8] {
        match self {
            Self::Values(values) => bytemuck::cast_slice(values.get(kept_range(&range, mask)).unwrap_or(&[])),
            Self::Codes(decoder) => decoder.bytes(range, mask),
            Self::Shared(book) => book.bytes(range, mask),
        }
    }

    /// The product with one input `x [k]` of 4-bit codes, if that is what they are, and lie as a kernel wants.
    fn nibbles(&self, x: &[T], [k, m]: [usize; 2]) -> Result<Option<Vec<T>>, Fault> {
        let Self::Codes(decoder) = self else { return Ok(None) };
        let step = decoder.step(k);
        let Some(codes) =
            decoder.packed(4).filter(|_| k.is_multiple_of(step) && step.is_multiple_of(TOGETHER))
        else {
            return Ok(None);
        };
        let x = T::sorted(x, step, decoder.grids(0));
        let mut out = zeros(m, 1)?;
        let height = height(HEIGHT, k);
        parallel::for_each_chunk(&mut out, height, |i, out| {
            for (row, out) in (i * height..).zip(out) {
                *out = T::nibbles(&codes[row * k / 2..][..k / 2], decoder.grids(row), &x, step);
            }
        });
        Ok(Some(out))
    }
}

/// `x w^T` for `x [n, k]` and `w [m, k]`.
fn dense<T: Float>(w: &[T], x: &[T], [n, k, m]: [usize; 3]) -> Result<Vec<T>, Fault> {
    let rows = Rows::new(w, k);
    if n <= m {
        return weights_with_inputs(|first| Source::Rows(rows.skip_columns(first * k)), x, [n, k, m]);
    }
    // The longer side is shared out, and the other one stays near.
    let inputs = |first: usize| Source::Rows(Rows::new(&x[first * k..], k));
    let mut out = zeros(n, m)?;
    if m > MANY {
        let w = Prepared::new(Along(w, k), k, m)
            .ok_or(Fault::Form("its entries do not fit in memory a second time"))?;
        let band = band(n);
        parallel::for_each_chunk(&mut out, band * m, |i, out| {
            w.product(&mut inputs(i * band), out.len() / m, out);
        });
    } else {
        let w = Panels::new(rows, k, m, k);
        let height = height(2 * HEIGHT, k * m);
        parallel::for_each_chunk(&mut out, height * m, |i, out| {
            T::products(inputs(i * height), &w, out.len() / m, out);
        });
    }
    Ok(out)
}

/// `x w^T` for the `w [m, k]` whose rows from one on `weights(first)` gives.
fn weights_with_inputs<'a, T: Float>(
    weights: impl Fn(usize) -> Source<'a, T> + Sync + Send,
    x: &[T],
    [n, k, m]: [usize; 3],
) -> Result<Vec<T>, Fault> {
    if n > MANY {
        let x = Prepared::new(Along(x, k), k, n)
            .ok_or(Fault::Form("the input does not fit in memory a second time"))?;
        return by_rows([n, m], band(m), |first, out| x.product(&mut weights(first), out.len() / n, out));
    }
    let x = Panels::new(Rows::new(x, k), k, n, k);
    // For one input, rows take as long as they are read.
    by_rows([n, m], height(2 * HEIGHT, k * n.max(READ)), |first, out| {
        T::products(weights(first), &x, out.len() / n, out);
    })
}

/// All entries of some rows, from `first` on.
struct Decoded<'a, T: Float> {
    kept: &'a Kept<'a, T>,
    mask: Option<&'a Mask>,
    cols: usize,
    first: usize,
}

impl<T: Float> Decoded<'_, T> {
    fn range(&self, row: usize, columns: Range<usize>) -> Range<usize> {
        let start = (self.first + row) * self.cols;
        start + columns.start..start + columns.end
    }
}

impl<T: Float> Decode<T> for Decoded<'_, T> {
    fn decode(&mut self, row: usize, columns: Range<usize>, to: &mut [T]) {
        self.kept.spread(self.range(row, columns), self.mask, to);
    }

    fn source(&self, row: usize, columns: Range<usize>) -> &[u8] {
        self.kept.bytes(self.range(row, columns), self.mask)
    }
}

/// Rows of so many that one thread takes at a time, where a row is much work. Depends on the shape alone.
fn band(rows: usize) -> usize {
    rows.div_ceil(BANDS).next_multiple_of(HEIGHT).clamp(HEIGHT, BAND)
}

/// Rows that one thread takes at a time: a multiple of `least`, and more where a row is little work, so that
/// a block is worth a thread. Depends on the shape alone.
pub(super) fn height(least: usize, work: usize) -> usize {
    (MIN_PARALLEL / work.max(1)).next_multiple_of(least).max(least)
}

/// `y [n, m]`, to which `f(first, rows)` adds `rows [.., n]` for some rows of a weight at a time.
pub(super) fn by_rows<T: Float>(
    [n, m]: [usize; 2],
    height: usize,
    f: impl Fn(usize, &mut [T]) + Sync + Send,
) -> Result<Vec<T>, Fault> {
    if n == 1 {
        let mut y = zeros(1, m)?;
        parallel::for_each_chunk(&mut y, height, |i, rows| f(i * height, rows));
        return Ok(y);
    }
    by_columns([n, m], height, f).ok_or(Fault::Form("the dense tensor does not fit in memory"))
}
