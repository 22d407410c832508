//! [`Panels`]: the inputs of a product, cut so that what is used together lies together.

use super::Rows;
use std::ops::Range;

/// Inputs that lie side by side in a strip, where there are many.
pub const LANES: usize = 16;
/// Inputs up to which each is a strip of its own: it then lies as it came.
pub const FEW: usize = 4;
/// Columns of a block: those of a strip stay in the nearest cache.
const COLUMNS: usize = 512;

/// A number that inputs are made of.
pub trait Packed: Copy + Default + Send + Sync {
    /// Neighbouring columns of one input that stay together in a strip.
    const TOGETHER: usize;
}

impl Packed for f32 {
    const TOGETHER: usize = 1;
}
impl Packed for f64 {
    const TOGETHER: usize = 1;
}
impl Packed for i16 {
    const TOGETHER: usize = 2;
}

/// Rows of an input, in blocks of columns; in a block, strips of inputs; in a strip, column by column (or by
/// [`Packed::TOGETHER`] of them) the values of its inputs. What is missing at the ends is filled up with zeros.
pub struct Panels<T> {
    values: Aligned<T>,
    blocks: Vec<Range<usize>>,
    strips: Vec<Strip>,
    n: usize,
    k: usize,
    step: usize,
    /// Columns that each block has room for.
    depth: usize,
}

/// Some neighbouring inputs.
#[derive(Clone, Copy)]
pub struct Strip {
    /// The first of them.
    pub first: usize,
    /// How many there is room for: 1, 8 or 16.
    pub lanes: usize,
}

/// A block of columns.
pub struct Block<'a, T> {
    pub columns: Range<usize>,
    /// Its last column is the last of a step.
    pub ends: bool,
    values: &'a [T],
    depth: usize,
}

impl<'a, T: Packed> Block<'a, T> {
    /// The values of a strip: as many columns as there are, filled up to whole groups.
    #[inline(always)]
    pub fn strip(&self, strip: Strip) -> &'a [T] {
        &self.values[strip.first * self.depth..][..self.padded() * strip.lanes]
    }

    /// Columns with what fills them up.
    pub fn padded(&self) -> usize {
        self.columns.len().next_multiple_of(T::TOGETHER)
    }
}

impl<T: Packed> Panels<T> {
    /// Of `n` rows `x` of `k` columns. No block crosses a multiple of `step` columns.
    pub fn new(x: Rows<'_, T>, k: usize, n: usize, step: usize) -> Self {
        Self::by(k, n, step, |row, columns, to| to.copy_from_slice(x.part(row, columns)))
    }

    /// The same of rows that `fill(row, columns, values)` makes.
    pub fn by(k: usize, n: usize, step: usize, mut fill: impl FnMut(usize, Range<usize>, &mut [T])) -> Self {
        let step = step.clamp(1, k.max(1));
        let columns = if n <= FEW { LANES * COLUMNS / FEW } else { COLUMNS };
        let block = |first: usize, last: usize| {
            (first..last).step_by(columns).map(move |first| first..last.min(first + columns))
        };
        let blocks: Vec<_> = (0..k).step_by(step).flat_map(|first| block(first, k.min(first + step))).collect();
        let depth = step.min(columns).next_multiple_of(T::TOGETHER);
        let strips = strips(n);
        let width = strips.last().map_or(0, |strip| strip.first + strip.lanes);
        let mut values = Aligned::new(blocks.len() * width * depth);
        let all = values.get_mut();
        let mut row = vec![T::default(); depth];
        for (i, columns) in blocks.iter().enumerate() {
            for strip in &strips {
                let to = &mut all[(i * width + strip.first) * depth..][..depth * strip.lanes];
                for lane in 0..strip.lanes.min(n - strip.first) {
                    let row = &mut row[..columns.len()];
                    fill(strip.first + lane, columns.clone(), row);
                    place(row, lane, strip.lanes, to);
                }
            }
        }
        Self { values, blocks, strips, n, k, step, depth }
    }

    pub fn inputs(&self) -> usize {
        self.n
    }

    pub fn strips(&self) -> &[Strip] {
        &self.strips
    }

    /// Room for one value of each input, strip after strip.
    pub fn width(&self) -> usize {
        self.strips.last().map_or(0, |strip| strip.first + strip.lanes)
    }

    /// Columns that a block has room for.
    pub fn depth(&self) -> usize {
        self.depth
    }

    pub fn blocks(&self) -> impl Iterator<Item = Block<'_, T>> {
        let values = self.values.get().chunks((self.width() * self.depth).max(1));
        self.blocks.iter().zip(values).map(|(columns, values)| Block {
            columns: columns.clone(),
            ends: columns.end.is_multiple_of(self.step) || columns.end == self.k,
            values,
            depth: self.depth,
        })
    }
}

/// Few inputs are a strip each; more are cut into strips of [`LANES`], and the last ones may share half a one.
fn strips(n: usize) -> Vec<Strip> {
    if n <= FEW {
        return (0..n).map(|first| Strip { first, lanes: 1 }).collect();
    }
    let lanes = |first: usize| if n - first <= LANES / 2 { LANES / 2 } else { LANES };
    (0..n).step_by(LANES).map(|first| Strip { first, lanes: lanes(first) }).collect()
}

/// Puts the values of one input to their places in a strip.
fn place<T: Packed>(row: &[T], lane: usize, lanes: usize, to: &mut [T]) {
    if lanes == 1 {
        to[..row.len()].copy_from_slice(row);
        return;
    }
    if T::TOGETHER == 1 {
        to.chunks_exact_mut(lanes).zip(row).for_each(|(to, x)| to[lane] = *x);
        return;
    }
    let (pairs, last) = row.as_chunks::<2>();
    let mut places = to.chunks_exact_mut(2 * lanes);
    // Pairs first, or a place is lost where they end.
    for (pair, to) in pairs.iter().zip(places.by_ref()) {
        to[2 * lane..2 * lane + 2].copy_from_slice(pair);
    }
    last.iter().zip(places).for_each(|(x, to)| to[2 * lane] = *x);
}

/// Values that begin where a cache line does.
pub struct Aligned<T> {
    values: Vec<T>,
    first: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    pub fn new(len: usize) -> Self {
        let values = vec![T::default(); len + 64 / size_of::<T>()];
        // No more than the slack for any address of a number.
        let first = values.as_ptr().align_offset(64).min(64 / size_of::<T>());
        Self { values, first, len }
    }

    pub fn get(&self) -> &[T] {
        &self.values[self.first..][..self.len]
    }

    pub fn get_mut(&mut self) -> &mut [T] {
        &mut self.values[self.first..][..self.len]
    }
}
