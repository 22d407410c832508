//! Products with inputs that lie side by side: rows of a weight are decoded a few at a time, and meet all of them.

use super::super::zeros;
use super::{MIN_PARALLEL, Product};
use crate::kernels::memory::{Aligned, with_room, with_scratch};
use crate::kernels::products::quads::{Form, Inputs, Known, LANES, Part, ROWS, Taps, WIDTH, Weights};
use crate::{Fault, Float, parallel};
use std::ops::Range;

/// Bytes of a cache line.
const LINE: usize = 64;

impl<T: Float> Product<'_, T> {
    /// `[m, n]` for inputs that lie side by side.
    pub(super) fn many(&self) -> Result<Vec<T>, Fault> {
        let Self { decoder, k, n, step, .. } = self;
        let (k, n, form) = (*k, *n, Form::best());
        // Few inputs wait for the memory: rows are then read on end, the next ones while these are computed.
        let on_end = n <= WIDTH;
        let (least, deep) = if on_end { (2 * ROWS, 4096) } else { (6 * ROWS, 2048) };
        let columns = Columns::new(k, *step, deep);
        let beside = Beside::new(self, &columns);
        // A row's scale, if it is one, counts at the end: until then its sums are integers.
        let single = *step == k;
        let centred = decoder.is_centred();
        let width = if n <= LANES { LANES } else { beside.strips.len() * WIDTH };
        let pitch = columns.longest + LANES;
        let mut out = zeros::<T>(self.m, n)?;
        let height = self.height(least, MIN_PARALLEL);
        let block = |first: usize,
                     total: &mut [f64],
                     w: &mut [Weights],
                     (parts, of_rows): (&mut [[Part; ROWS]], &mut [i32]),
                     out: &mut [T]| {
            let count = out.len() / n;
            total[..count * width].fill(0.0);
            for span in &columns.spans {
                let blocks = &columns.blocks[span.clone()];
                let start = blocks[0].first;
                for (r, w) in w.chunks_exact_mut(pitch).take(count).enumerate() {
                    let of_rows = &mut of_rows[..blocks.len()];
                    self.decode(form, first + r, blocks, w, of_rows);
                    let scales = decoder.grids(first + r).scales;
                    let parts = &mut parts[r / ROWS * columns.most..];
                    for ((parts, block), sum) in parts.iter_mut().zip(blocks).zip(of_rows) {
                        let zero = if centred { 0 } else { decoder.signed_zero(first + r, block.step) };
                        let scale = if single { 1.0 } else { scales[block.step].widen() };
                        parts[r % ROWS] = Part { scale, sum: *sum, zero };
                    }
                }
                // Of the rows that come next, a part for each of some blocks, while the first inputs are met.
                let ahead = |strip: &SideStrip, r: usize, some: Range<usize>| {
                    if strip.first > 0 {
                        return &[][..];
                    }
                    let next = (first + count + r) * k..(first + count + r + ROWS) * k;
                    let (all, number) = (columns.blocks.len(), span.start);
                    let next = decoder.bytes(next, self.mask);
                    &next[next.len() * (number + some.start) / all..next.len() * (number + some.end) / all]
                };
                // Sums of few inputs stay where they are from block to block.
                let at_once = width == LANES && centred && blocks.len() > 1;
                for strip in &beside.strips {
                    let taps = &beside.taps[strip.lanes / WIDTH];
                    for i in (0..blocks.len()).step_by(if at_once { blocks.len() } else { 1 }) {
                        let some = if at_once { 0..blocks.len() } else { i..i + 1 };
                        let (block, known) = (&blocks[i], strip.known(&blocks[i]));
                        let quads = blocks[some.clone()].iter().map(Block::quads).sum();
                        let x = beside.inputs(strip, block, quads);
                        for (r, parts) in (0..count).step_by(ROWS).zip(parts.chunks_exact(columns.most)) {
                            let row = |i: usize| &w[(r + i).min(count - 1) * pitch + block.first - start..];
                            let rows = std::array::from_fn(|i| &row(i)[..quads]);
                            let (parts, ahead) = (&parts[some.clone()], ahead(strip, r, some.clone()));
                            let total = &mut total[r * width + strip.first..];
                            if at_once {
                                form.blocks(rows, x, (taps, block.quads()), (parts, known), ahead, total);
                                continue;
                            }
                            let mut sums = [[0; WIDTH]; ROWS];
                            form.strip(rows, x, taps, strip.lanes, ahead, &mut sums);
                            let parts = &parts[0][..ROWS.min(count - r)];
                            form.add_scaled(&sums, parts, known, strip.lanes, (total, width));
                        }
                    }
                }
            }
            for (r, (out, total)) in out.chunks_exact_mut(n).zip(total.chunks_exact(width)).enumerate() {
                let scale = if single { decoder.grid(first + r, 0).0.widen() } else { 1.0 };
                let sums = total.iter().zip(&beside.scales);
                out.iter_mut().zip(sums).for_each(|(out, (sum, of))| *out = T::narrow(scale * sum * of));
            }
        };
        parallel::for_each_chunk(&mut out, height * n, |i, out| {
            let mut parts = vec![[Part::default(); ROWS]; least / ROWS * columns.most];
            let mut of_rows = vec![0; columns.most];
            with_room(least * width, |total| {
                with_room(least * pitch, |w| {
                    for (j, out) in out.chunks_mut(least * n).enumerate() {
                        block(i * height + j * least, total, w, (&mut parts, &mut of_rows), out);
                    }
                });
            });
        });
        Ok(out)
    }

    /// A row of the weight in some blocks, which follow each other, and the sum of each.
    fn decode(&self, form: Form, row: usize, blocks: &[Block], w: &mut [Weights], sums: &mut [i32]) {
        let start = blocks[0].first;
        // All as long but the last.
        let len = 4 * blocks[0].quads();
        let quads = blocks.iter().map(Block::quads).sum();
        if let (None, Some(codes)) = (self.mask, self.decoder.packed(4))
            && len == self.step
            && self.k.is_multiple_of(len)
        {
            let grids = self.decoder.grids(row);
            let (first, to) = (row * self.k + blocks[0].columns.start, w[..quads].as_flattened_mut());
            let codes = &codes[first / 2..];
            if form.signed_nibbles(codes, len, |step| grids.zero(blocks[0].step + step), to, sums) {
                return;
            }
        }
        let all = blocks[0].columns.start..blocks[blocks.len() - 1].columns.end;
        let together = blocks[..blocks.len() - 1].iter().all(|block| block.columns.len().is_multiple_of(4));
        let each = blocks.iter().map(|block| (block.first - start, block.columns.clone()));
        let parts = std::iter::once((0, all)).filter(|_| together).chain(each.filter(|_| !together));
        for (quad, columns) in parts {
            let to = w[quad..quad + columns.len().div_ceil(4)].as_flattened_mut();
            let (to, rest) = to.split_at_mut(columns.len());
            rest.fill(0);
            self.decoder.signed(row * self.k + columns.start..row * self.k + columns.end, self.mask, to);
        }
        form.sums(w[..quads].as_flattened(), len, sums);
    }
}

/// Columns of a row whose sums go on together.
struct Block {
    columns: Range<usize>,
    /// The number of their scale.
    step: usize,
    /// How many are before it, and their quads.
    number: usize,
    first: usize,
}

impl Block {
    #[inline]
    fn quads(&self) -> usize {
        self.columns.len().div_ceil(4)
    }
}

/// The columns of a row in blocks, and these in spans, which are decoded together.
struct Columns {
    blocks: Vec<Block>,
    spans: Vec<Range<usize>>,
    /// Quads of all of them.
    quads: usize,
    /// Quads that a span has at most.
    longest: usize,
    /// Blocks that a span has at most.
    most: usize,
}

impl Columns {
    /// Of `k` columns with a scale for each `step`; a span has `deep` or a few less.
    fn new(k: usize, step: usize, deep: usize) -> Self {
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
struct Beside {
    /// Strip after strip; in a strip, quad after quad.
    values: Aligned<Inputs>,
    strips: Vec<SideStrip>,
    /// For strips of half and of full width.
    taps: [Taps; 2],
    scales: Vec<f64>,
    quads: usize,
}

struct SideStrip {
    /// The number of its first input.
    first: usize,
    lanes: usize,
    /// For each block of columns, or one for all where no weight needs the sums.
    known: Vec<Known>,
}

impl SideStrip {
    fn known(&self, block: &Block) -> &Known {
        &self.known[block.number.min(self.known.len() - 1)]
    }
}

impl Beside {
    fn new<T: Float>(product: &Product<'_, T>, columns: &Columns) -> Self {
        let (n, k, quads) = (product.n, product.k, columns.quads);
        let lanes = |first: usize| if n - first <= LANES { LANES } else { WIDTH };
        let width = (n - 1) / WIDTH * WIDTH + lanes((n - 1) / WIDTH * WIDTH);
        let mut values = Aligned::new(width * quads);
        let strip = |first: usize, to: &mut [Inputs]| {
            let (lanes, count) = (lanes(first), WIDTH.min(n - first));
            // Not as far apart as lines of the caches that share a place.
            let pitch = k.next_multiple_of(LINE) + LINE;
            let zero = |i: usize| if i < count { product.grids.zero(first + i) } else { 0 };
            let zeros = std::array::from_fn(zero);
            let mut known = Vec::new();
            with_scratch(count * pitch, |codes| {
                for (b, codes) in codes.chunks_exact_mut(pitch).enumerate() {
                    product.encode(first + b, &mut codes[..k]);
                }
                for block in &columns.blocks {
                    let to = &mut to[block.first * lanes..][..block.quads() * lanes];
                    for (i, to) in to.chunks_exact_mut(lanes).enumerate() {
                        let start = block.columns.start + 4 * i;
                        let len = 4.min(block.columns.end - start);
                        for (to, codes) in to.iter_mut().zip(codes.chunks_exact(pitch)) {
                            match codes[start..].first_chunk() {
                                Some(quad) if len == 4 => *to = *quad,
                                _ => to[..len].copy_from_slice(&codes[start..start + len]),
                            }
                        }
                    }
                    if !product.decoder.is_centred() {
                        let mut sums = [0; WIDTH];
                        for (b, (sum, codes)) in sums.iter_mut().zip(codes.chunks_exact(pitch)).enumerate() {
                            *sum = product.of_input(first + b, &codes[block.columns.clone()]);
                        }
                        known.push(Known { zeros, sums });
                    }
                }
            });
            if known.is_empty() {
                known.push(Known { zeros, ..Known::default() });
            }
            SideStrip { first, lanes, known }
        };
        let parts: Vec<_> = values.get_mut().chunks_mut((WIDTH * quads).max(1)).enumerate().collect();
        let strips = parallel::map_vec(parts, |(i, to)| strip(i * WIDTH, to));
        let taps = [LANES, WIDTH].map(|lanes| Taps::every(columns.longest, lanes));
        Self { values, strips, taps, scales: (0..n).map(|b| product.grids.scale(b)).collect(), quads }
    }

    /// What some quads from the first of a block on meet.
    fn inputs(&self, strip: &SideStrip, block: &Block, quads: usize) -> &[Inputs] {
        &self.values.get()[strip.first * self.quads + block.first * strip.lanes..][..quads * strip.lanes]
    }
}
