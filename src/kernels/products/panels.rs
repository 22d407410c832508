//! [`Panels`]: the inputs of a product, cut so that what is used together lies together.

use super::Rows;
use crate::kernels::memory::Aligned;
use crate::kernels::transpose::transpose;
use bytemuck::Pod;
use std::ops::Range;

/// Inputs that lie side by side in a strip, where there are many.
pub const LANES: usize = 16;
/// Inputs up to which each is a strip of its own: it then lies as it came.
pub const FEW: usize = 4;
/// Columns that are decoded at a time where strips are many: those of one stay in the nearest cache, for some
/// rows of weights.
const SHORT: usize = 512;
/// The same where they are few: the longer a row is read on end, the better memory knows what comes.
const LONG: usize = 4096;
/// Strips up to which they are few.
const FEW_STRIPS: usize = 2;

/// Rows of an input, in blocks of columns; in a block, strips of inputs; in a strip, column by column the values of
/// its inputs. Lanes without an input hold zeros.
pub struct Panels<T> {
    values: Aligned<T>,
    blocks: Vec<Range<usize>>,
    strips: Vec<Strip>,
    n: usize,
    k: usize,
    step: usize,
    /// Columns that each block has room for.
    depth: usize,
    /// Columns of which rows of weights are decoded at a time: whole blocks.
    span: usize,
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

impl<'a, T: Pod> Block<'a, T> {
    /// The values of a strip.
    #[inline(always)]
    pub fn strip(&self, strip: Strip) -> &'a [T] {
        &self.values[strip.first * self.depth..][..self.columns.len() * strip.lanes]
    }
}

impl<T: Pod + Default> Panels<T> {
    /// Of `n` rows `x` of `k` columns. No block crosses a multiple of `step` columns.
    pub fn new(x: Rows<'_, T>, k: usize, n: usize, step: usize) -> Self {
        Self::by(k, n, step, |row, columns, to| to.copy_from_slice(x.part(row, columns)))
    }

    /// The same of rows that `fill(row, columns, values)` makes.
    pub fn by(k: usize, n: usize, step: usize, mut fill: impl FnMut(usize, Range<usize>, &mut [T])) -> Self {
        let step = step.clamp(1, k.max(1));
        // Not in two parts where the second would be short.
        let longest = if n <= FEW_STRIPS * LANES || k <= 2 * SHORT { LONG } else { SHORT };
        // Short steps are decoded together, long ones in parts.
        let span = if step < longest { longest / step * step } else { longest }.min(k.div_ceil(step) * step);
        let block = |first: usize, last: usize| {
            (first..last).step_by(longest).map(move |first| first..last.min(first + longest))
        };
        let blocks: Vec<_> =
            (0..k).step_by(step).flat_map(|first| block(first, k.min(first + step))).collect();
        let depth = step.min(longest);
        let strips = strips(n);
        let width = strips.last().map_or(0, |strip| strip.first + strip.lanes);
        let mut values = Aligned::new(blocks.len() * width * depth);
        let all = values.get_mut();
        let mut rows = vec![T::default(); depth * n.min(LANES)];
        for (i, columns) in blocks.iter().enumerate() {
            for strip in &strips {
                let to = &mut all[(i * width + strip.first) * depth..][..depth * strip.lanes];
                if strip.lanes == 1 {
                    fill(strip.first, columns.clone(), &mut to[..columns.len()]);
                    continue;
                }
                let count = strip.lanes.min(n - strip.first);
                for (lane, row) in rows.chunks_exact_mut(depth).take(count).enumerate() {
                    fill(strip.first + lane, columns.clone(), &mut row[..columns.len()]);
                }
                transpose((&rows, depth), [count, columns.len()], (to, strip.lanes));
            }
        }
        Self { values, blocks, strips, n, k, step, depth, span }
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

    /// Whether blocks are long: rows of weights are then gone through one after the other, not block by block.
    pub fn is_long(&self) -> bool {
        self.strips.len() <= FEW_STRIPS || self.n <= FEW
    }

    /// Columns that a span has at most.
    pub fn longest_span(&self) -> usize {
        self.span
    }

    /// Spans of columns, each with its blocks.
    pub fn spans(&self) -> impl Iterator<Item = (Range<usize>, impl Iterator<Item = Block<'_, T>>)> {
        let same = |a: &Range<usize>, b: &Range<usize>| {
            // Steps longer than a span are spans of their own.
            if self.step > self.span { false } else { a.start / self.span == b.start / self.span }
        };
        let mut done = 0;
        self.blocks.chunk_by(same).map(move |blocks| {
            let first = done;
            done += blocks.len();
            let span = blocks[0].start..blocks[blocks.len() - 1].end;
            (span, blocks.iter().enumerate().map(move |(i, columns)| self.block(first + i, columns)))
        })
    }

    fn block(&self, i: usize, columns: &Range<usize>) -> Block<'_, T> {
        let len = self.width() * self.depth;
        Block {
            columns: columns.clone(),
            ends: columns.end.is_multiple_of(self.step) || columns.end == self.k,
            values: &self.values.get()[i * len..(i + 1) * len],
            depth: self.depth,
        }
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
