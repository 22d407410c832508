//! The codes of inputs that lie side by side.

use super::Product;
use crate::kernels::memory::{Aligned, with_scratch};
use crate::kernels::products::quads::{Inputs, Known, LANES, Taps, WIDTH};
use crate::kernels::transpose::transpose;
use crate::{Float, parallel};
use std::ops::Range;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Columns of a row whose sums go on together.
pub struct Block {
    pub columns: Range<usize>,
    /// The number of their scale.
    pub step: usize,
    /// How many are before it, and their quads.
    pub number: usize,
    pub first: usize,
}

impl Block {
    #[inline]
    pub fn quads(&self) -> usize {
        self.columns.len().div_ceil(4)
    }
}

/// The columns of a row in blocks, and these in spans, which are decoded together.
pub struct Columns {
    pub blocks: Vec<Block>,
    pub spans: Vec<Range<usize>>,
    /// Quads of all of them.
    pub quads: usize,
    /// Quads that a span has at most.
    pub longest: usize,
    /// Blocks that a span has at most.
    pub most: usize,
}

impl Columns {
    /// Of `k` columns with a scale for each `step`; a span has `deep` or a few less.
    pub fn new(k: usize, step: usize, deep: usize) -> Self {
        let mut blocks = Vec::new();
        let mut quads = 0;
        for first in (0..k).step_by(step) {
            let end = k.min(first + step);
            for start in (first..end).step_by(deep) {
                let block = Block {
                    columns: start..end.min(start + deep),
                    step: first / step,
                    number: blocks.len(),
                    first: quads,
                };
                quads += block.quads();
                blocks.push(block);
            }
        }
        let most = (deep / step).max(1);
        let n = blocks.len();
        let spans: Vec<_> = (0..n).step_by(most).map(|first| first..n.min(first + most)).collect();
        let longest = spans.iter().map(|span| blocks[span.clone()].iter().map(Block::quads).sum()).max();
        Self { spans, quads, longest: longest.unwrap_or(0), most, blocks }
    }
}

/// The codes of inputs, side by side in strips.
pub struct Beside {
    /// Strip after strip; in a strip, quad after quad.
    values: Aligned<Inputs>,
    pub strips: Vec<SideStrip>,
    /// Inputs of all strips together, with what fills up the last one.
    pub width: usize,
    /// For strips of half and of full width.
    pub taps: [Taps; 2],
    quads: usize,
}

pub struct SideStrip {
    /// The number of its first input.
    pub first: usize,
    pub lanes: usize,
    pub scales: [f64; WIDTH],
    /// For each block of columns, or one for all where no weight needs the sums.
    pub known: Vec<Known>,
}

impl SideStrip {
    pub fn known(&self, block: &Block) -> &Known {
        &self.known[block.number.min(self.known.len() - 1)]
    }
}

impl Beside {
    /// In strips of `most` inputs. Their sums are known, if asked for, and their codes are bytes that are `flip`ped.
    pub fn new<T: Float>(
        product: &Product<'_, T>,
        columns: &Columns,
        most: usize,
        with_sums: bool,
        flip: u8,
    ) -> Self {
        let (n, k, quads) = (product.n, product.k, columns.quads);
        let lanes = |first: usize| if n - first <= LANES { LANES } else { most };
        let width = (n - 1) / most * most + lanes((n - 1) / most * most);
        let mut values = Aligned::new(width * quads);
        let strip = |first: usize, to: &mut [Inputs]| {
            let (lanes, count) = (lanes(first), most.min(n - first));
            // Not as far apart as lines of the caches that share a place.
            let pitch = k.next_multiple_of(LINE) + LINE;
            let zero = |i: usize| if i < count { product.grids.zero(first + i) - i32::from(flip) } else { 0 };
            let zeros = std::array::from_fn(zero);
            let scale = |i: usize| if i < count { product.grids.scale(first + i) } else { 0.0 };
            let scales = std::array::from_fn(scale);
            let mut known = Vec::new();
            with_scratch(count * pitch, |codes| {
                for (b, codes) in codes.chunks_exact_mut(pitch).enumerate() {
                    product.encode(first + b, &mut codes[..k]);
                }
                for block in columns.blocks.iter().filter(|_| with_sums) {
                    let mut sums = [0; WIDTH];
                    for (b, (sum, codes)) in sums.iter_mut().zip(codes.chunks_exact(pitch)).enumerate() {
                        *sum = product.of_input(first + b, &codes[block.columns.clone()]);
                    }
                    known.push(Known { zeros, sums });
                }
                if flip > 0 {
                    codes.iter_mut().for_each(|code| *code ^= flip);
                }
                for block in &columns.blocks {
                    let to = &mut to[block.first * lanes..][..block.quads() * lanes];
                    quads_beside(&codes[block.columns.start..], pitch, block.columns.len(), (to, lanes));
                }
            });
            if known.is_empty() {
                known.push(Known { zeros, ..Known::default() });
            }
            SideStrip { first, lanes, scales, known }
        };
        let parts: Vec<_> = values.get_mut().chunks_mut((most * quads).max(1)).enumerate().collect();
        let strips = parallel::map_vec(parts, |(i, to)| strip(i * most, to));
        let taps = [LANES, WIDTH].map(|lanes| Taps::every(columns.longest, lanes));
        Self { values, strips, width, taps, quads }
    }

    /// What `quads` from the `first` on meet.
    pub fn inputs(&self, strip: &SideStrip, first: usize, quads: usize) -> &[Inputs] {
        &self.values.get()[strip.first * self.quads + first * strip.lanes..][..quads * strip.lanes]
    }
}

/// `to [quads, lanes]` of some inputs' codes, `len` of each, that are `pitch` apart. What is missing of the last quad
/// stays as it is.
fn quads_beside(codes: &[u8], pitch: usize, len: usize, (to, lanes): (&mut [Inputs], usize)) {
    let (whole, rest) = (len / 4, len % 4);
    let count = codes.len().div_ceil(pitch);
    // `pitch` is so many quads.
    let quads: &[Inputs] = codes.as_chunks().0;
    transpose((quads, pitch / 4), [count, whole], (to, lanes));
    if rest > 0 {
        for (to, codes) in to[whole * lanes..].iter_mut().zip(codes.chunks(pitch)) {
            to[..rest].copy_from_slice(&codes[4 * whole..][..rest]);
        }
    }
}
