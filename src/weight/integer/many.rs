//! Products with inputs that lie side by side: rows of a weight are decoded a few at a time, and meet all of them.

use super::beside::{Beside, Block, Columns, SideStrip};
use super::{MIN_PARALLEL, Product, by_rows};
use crate::kernels::memory::with_room;
use crate::kernels::products::quads::{ALONE, Form, LANES, Part, ROWS, SIGNED_WEIGHTS, WIDTH, Weights};
use crate::{Fault, Float};
use std::ops::Range;

impl<T: Float> Product<'_, T> {
    /// `[n, m]` for inputs that lie side by side.
    pub(super) fn many(&self) -> Result<Vec<T>, Fault> {
        let Self { decoder, k, n, step, .. } = self;
        let (k, n, form) = (*k, *n, Form::for_bits(decoder.bits()));
        // Few inputs wait for the memory: rows are then read on end, the next ones while these are computed.
        let on_end = n <= WIDTH;
        let (least, deep) = if on_end { (2 * ROWS, 4096) } else { (6 * ROWS, 2048) };
        let columns = Columns::new(k, *step, deep);
        // A row's scale, if it is one, counts at the end: until then its sums are integers.
        let single = *step == k;
        let centred = decoder.is_centred();
        // Where a kernel keeps the sums of a strip from block to block, that takes less than to meet wider ones.
        let at_once = centred && columns.most > 1 && columns.blocks.len() > 1;
        let beside = Beside::new(self, &columns, if at_once { LANES } else { WIDTH }, !centred, 0);
        let width = beside.width;
        let pitch = columns.longest + LANES;
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
                for strip in &beside.strips {
                    let taps = &beside.taps[strip.lanes / WIDTH];
                    for i in (0..blocks.len()).step_by(if at_once { blocks.len() } else { 1 }) {
                        let some = if at_once { 0..blocks.len() } else { i..i + 1 };
                        let (block, known) = (&blocks[i], strip.known(&blocks[i]));
                        let quads = blocks[some.clone()].iter().map(Block::quads).sum();
                        let x = beside.inputs(strip, block.first, quads);
                        for (r, parts) in (0..count).step_by(ROWS).zip(parts.chunks_exact(columns.most)) {
                            let row = |i: usize| &w[(r + i).min(count - 1) * pitch + block.first - start..];
                            let rows = std::array::from_fn(|i| &row(i)[..quads]);
                            let (parts, ahead) = (&parts[some.clone()], ahead(strip, r, some.clone()));
                            let total = &mut total[r * width + strip.first..];
                            if at_once {
                                form.blocks(
                                    rows,
                                    x,
                                    (taps, block.quads()),
                                    (parts, known),
                                    ahead,
                                    (total, width),
                                );
                                continue;
                            }
                            let mut sums = [[0; WIDTH]; ROWS];
                            form.strip::<SIGNED_WEIGHTS, ALONE>(rows, x, taps, strip.lanes, ahead, &mut sums);
                            let parts = &parts[0][..ROWS.min(count - r)];
                            form.add_scaled(&sums, parts, known, strip.lanes, (total, width));
                        }
                    }
                }
            }
            for (r, (out, total)) in out.chunks_exact_mut(n).zip(total.chunks_exact(width)).enumerate() {
                let scale = if single { decoder.grid(first + r, 0).0.widen() } else { 1.0 };
                let sums =
                    total.iter().zip(beside.strips.iter().flat_map(|strip| &strip.scales[..strip.lanes]));
                out.iter_mut().zip(sums).for_each(|(out, (sum, of))| *out = T::narrow(scale * sum * of));
            }
        };
        by_rows([n, self.m], self.height(least, MIN_PARALLEL), |start, out| {
            let mut parts = vec![[Part::default(); ROWS]; least / ROWS * columns.most];
            let mut of_rows = vec![0; columns.most];
            with_room(least * width, |total| {
                with_room(least * pitch, |w| {
                    for (j, out) in out.chunks_mut(least * n).enumerate() {
                        block(start + j * least, total, w, (&mut parts, &mut of_rows), out);
                    }
                });
            });
        })
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
