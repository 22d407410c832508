//! Convolution in integers, of codes that lie as images: a window is not copied, but read where it is.
//!
//! Four neighbouring channels of a pixel are a quad; where there is but one channel, four neighbouring pixels of a line.
//! What one entry of a kernel meets in neighbouring windows are then neighbouring quads, so that a strip of windows is
//! a view of the image for each entry. It goes on from line to line; the windows that would lie over an edge are
//! computed with the others and left out. With a stride, the pixels that one entry can meet are an image of their own.

use super::super::decoder::Decoder;
use super::super::{Coding, Leaf, Node, Weight, room_for_maps};
use super::{Activations, MIN_PARALLEL, SERIAL, grid_of};
use crate::kernels::cpu::fast;
use crate::kernels::memory::{by_chunks, with_room, with_scratch, zeroed};
use crate::kernels::products::EXACT;
use crate::kernels::products::maps::Run;
use crate::kernels::products::quads::{
    ALONE, Form, Inputs, LANES, Part, ROWS, SIGNED_WEIGHTS, Taps, WIDTH, Weights,
};
use crate::kernels::quantize::Steps;
use crate::{Fault, Float, parallel};
use std::ops::Range;

/// Channels, or pixels, of a quad.
const TOGETHER: usize = 4;

/// The windows of a convolution without groups: heights and widths.
pub(crate) struct Windows {
    pub channels: usize,
    pub input: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub padding: [usize; 2],
    pub output: [usize; 2],
}

impl Windows {
    fn count(&self) -> usize {
        self.output[0] * self.output[1]
    }

    fn sample(&self) -> usize {
        self.channels * self.plane()
    }

    /// Pixels of a channel.
    fn plane(&self) -> usize {
        self.input[0] * self.input[1]
    }

    /// Images of quads.
    fn quads(&self) -> usize {
        self.channels.div_ceil(TOGETHER)
    }

    /// Images that the pixels of a quad of channels are sorted into, along both axes.
    fn phases(&self) -> [usize; 2] {
        [self.stride[0].min(self.kernel[0]), self.stride[1].min(self.kernel[1])]
    }

    /// Height and width of such an image.
    fn size(&self) -> [usize; 2] {
        std::array::from_fn(|axis| (self.input[axis] + 2 * self.padding[axis]).div_ceil(self.stride[axis]))
    }

    /// Pixels of all images of a quad of channels.
    fn area(&self) -> usize {
        self.phases().iter().chain(&self.size()).product()
    }

    /// Where the quads of a kernel find their pixels, in the order of [`sort_kernel`]; `None` where that is too far.
    fn taps(&self) -> Option<Taps> {
        let (phases, [height, width]) = (self.phases(), self.size());
        u32::try_from(self.quads().checked_mul(self.area())?.checked_add(WIDTH)?).ok()?;
        let ([kh, kw], each) = (self.kernel, if self.channels == 1 { TOGETHER } else { 1 });
        let mut offsets = Vec::with_capacity(self.quads() * kh * kw);
        for q in 0..self.quads() {
            for i in 0..kh {
                for j in (0..kw).step_by(each) {
                    let image = i % self.stride[0] * phases[1] + j % self.stride[1];
                    let at = (image * height + i / self.stride[0]) * width + j / self.stride[1];
                    offsets.push((q * self.area() + at) as u32);
                }
            }
        }
        Some(Taps::new(offsets))
    }

    /// A sample's windows, and what lies between them, in strips.
    fn strips(&self) -> (Vec<Strip>, Vec<Run>) {
        let (pitch, [height, width]) = (self.size()[1], self.output);
        let last = (height - 1) * pitch + width;
        let mut runs = Vec::with_capacity(height + last.div_ceil(WIDTH));
        let strips = (0..last).step_by(WIDTH).map(|first| {
            let begin = runs.len();
            for line in first / pitch..height.min((first + WIDTH).div_ceil(pitch)) {
                let start = first.max(line * pitch);
                let end = (first + WIDTH).min(line * pitch + width);
                if start < end {
                    let place = line * width + start - line * pitch;
                    runs.push(Run { lane: start - first, place, len: end - start });
                }
            }
            let lanes = if last - first <= LANES { LANES } else { WIDTH };
            Strip { first, lanes, runs: begin..runs.len() }
        });
        let strips = strips.collect();
        (strips, runs)
    }

    /// The images of a quad of channels, `codes [4, input]`, or of a single one; what is not there is `zero`.
    #[inline(always)]
    fn sort(&self, codes: &[u8], zero: u8, to: &mut [Inputs]) {
        to.fill([zero; TOGETHER]);
        let ([phases_y, phases_x], [height, width]) = (self.phases(), self.size());
        for (phase, image) in to.chunks_exact_mut(height * width).enumerate().take(phases_y * phases_x) {
            let (phase_y, phase_x) = (phase / phases_x, phase % phases_x);
            for (i, line) in image.chunks_exact_mut(width).enumerate() {
                let y = (i * self.stride[0] + phase_y).checked_sub(self.padding[0]);
                if let Some(y) = y.filter(|y| *y < self.input[0]) {
                    match self.channels {
                        1 => self.neighbours(&codes[y * self.input[1]..], phase_x, zero, line),
                        _ => self.channels_of(codes, y, phase_x, line),
                    }
                }
            }
        }
    }

    /// A line of an image: of each pixel its channels.
    #[inline(always)]
    fn channels_of(&self, codes: &[u8], y: usize, phase: usize, line: &mut [Inputs]) {
        let ([_, w], [_, stride], plane) = (self.input, self.stride, self.plane());
        // The first pixel that is not padding.
        let first = self.padding[1].saturating_sub(phase).div_ceil(stride);
        let left = (first * stride + phase - self.padding[1]).min(w);
        let Some(line) = line.get_mut(first..) else { return };
        let pixels = |c: usize| &codes[c * plane + y * w + left..c * plane + (y + 1) * w];
        let [a, b, c, d] = [pixels(0), pixels(1), pixels(2), pixels(3)];
        if stride == 1 {
            let all = line.iter_mut().zip(a).zip(b).zip(c).zip(d);
            all.for_each(|((((to, a), b), c), d)| *to = [*a, *b, *c, *d]);
        } else {
            for (to, x) in line.iter_mut().zip((0..a.len()).step_by(stride)) {
                *to = [a[x], b[x], c[x], d[x]];
            }
        }
    }

    /// A line of an image: each pixel of the only channel, with those that follow.
    #[inline(always)]
    fn neighbours(&self, pixels: &[u8], phase: usize, zero: u8, line: &mut [Inputs]) {
        let (w, padding) = (self.input[1], self.padding[1]);
        with_scratch(w + 2 * padding + TOGETHER, |padded| {
            padded.fill(zero);
            padded[padding..padding + w].copy_from_slice(&pixels[..w]);
            for (to, x) in line.iter_mut().zip((phase..padded.len() - 3).step_by(self.stride[1])) {
                *to = [padded[x], padded[x + 1], padded[x + 2], padded[x + 3]];
            }
        });
    }
}

/// Windows that are computed together.
struct Strip {
    /// The first of them, lines of an image one after the other.
    first: usize,
    lanes: usize,
    /// The number of those of its runs.
    runs: Range<usize>,
}

/// A kernel that is ready for convolutions in integers.
#[derive(Debug)]
pub(crate) struct MapKernel {
    how: Activations,
    bits: u8,
    /// Inputs of a window.
    cols: usize,
    /// Of all rows, and some more that fill up the last few: `[rows, quads]`.
    w: Vec<Weights>,
    parts: Vec<Part>,
    /// A row that sums its window; none where nothing needs the sum.
    ones: Vec<Weights>,
}

impl<T: Float> Weight<T> {
    /// What convolutions with this kernel begin with; `None` where it does not run on integers, or a row has several
    /// scales: the windows must be made first then.
    pub(crate) fn map_kernel(&self) -> Result<Option<MapKernel>, Fault> {
        match (&self.node, self.activations, &self.shape[..]) {
            (_, Activations::Float, _) => Ok(None),
            (Node::Leaf(leaf), how, [_, channels, kh, kw]) => leaf.map_kernel(how, *channels, [*kh, *kw]),
            _ => Ok(None),
        }
    }
}

impl<T: Float> Leaf<T> {
    fn map_kernel(
        &self,
        how: Activations,
        channels: usize,
        kernel: [usize; 2],
    ) -> Result<Option<MapKernel>, Fault> {
        if !(1..=EXACT).contains(&self.cols) {
            return Ok(None);
        }
        // As it is in memory: in a file, pruned entries may be among the codes.
        let leaf = self.load()?;
        let Coding::Affine(affine) = &leaf.coding else { return Ok(None) };
        let decoder = Decoder::new(&leaf, affine)?;
        if decoder.step(self.cols) != self.cols {
            return Ok(None);
        }
        let mask = leaf.mask()?;
        let quads = quads(channels, kernel);
        let w = self.rows.checked_next_multiple_of(ROWS).and_then(|rows| zeroed(rows.checked_mul(quads)?));
        let mut w: Vec<Weights> = w.ok_or(Fault::Form("the kernel does not fit in memory"))?;
        let some = (SERIAL / self.cols).max(1);
        parallel::for_each_chunk(&mut w[..self.rows * quads], some * quads, |i, w| {
            with_room(self.cols, |row: &mut [i8]| {
                for (r, w) in (i * some..).zip(w.chunks_exact_mut(quads)) {
                    decoder.signed(r * self.cols..(r + 1) * self.cols, mask.as_deref(), row);
                    sort_kernel(row, channels, kernel, w);
                }
            });
        });
        let mut sums = vec![0; self.rows];
        Form::best().sums(w.as_flattened(), quads * TOGETHER, &mut sums);
        let part =
            |(r, sum)| Part { scale: decoder.grid(r, 0).0.widen(), sum, zero: decoder.signed_zero(r, 0) };
        let parts = sums.into_iter().enumerate().map(part).collect();
        let mut ones = Vec::new();
        if !decoder.is_centred() {
            ones.resize(quads, [0; TOGETHER]);
            sort_kernel(&vec![1; self.cols], channels, kernel, &mut ones);
        }
        Ok(Some(MapKernel { how, bits: decoder.bits(), cols: self.cols, w, parts, ones }))
    }
}

/// Quads of a row of a kernel.
fn quads(channels: usize, [kh, kw]: [usize; 2]) -> usize {
    if channels == 1 { kh * kw.div_ceil(TOGETHER) } else { channels.div_ceil(TOGETHER) * kh * kw }
}

/// A row of a kernel, `[channels, height, width]`, in quads of channels: `[quads, height, width]`; of a single
/// channel in quads of neighbours: `[height, quads]`. What fills up a quad stays as it is.
fn sort_kernel(row: &[i8], channels: usize, [kh, kw]: [usize; 2], to: &mut [Weights]) {
    let places = kh * kw;
    if channels == 1 || places == 1 {
        // In order as they are, line by line.
        let line = if channels == 1 { kw } else { channels };
        let lines = row.chunks_exact(line).zip(to.chunks_exact_mut(line.div_ceil(TOGETHER)));
        return lines.for_each(|(row, to)| to.as_flattened_mut()[..line].copy_from_slice(row));
    }
    fast(
        #[inline(always)]
        || {
            for (row, to) in row.chunks(TOGETHER * places).zip(to.chunks_exact_mut(places)) {
                let mut channels = row.chunks_exact(places);
                let mut next = || channels.next();
                if let (Some(a), Some(b), Some(c), Some(d)) = (next(), next(), next(), next()) {
                    let all = to.iter_mut().zip(a).zip(b).zip(c).zip(d);
                    all.for_each(|((((to, a), b), c), d)| *to = [*a, *b, *c, *d]);
                } else {
                    for (c, row) in row.chunks_exact(places).enumerate() {
                        to.iter_mut().zip(row).for_each(|(to, w)| to[c] = *w);
                    }
                }
            }
        },
    );
}

impl MapKernel {
    /// The products with the windows of `n` samples, and a bias for each row: `[n, rows, windows]`. `None` where an
    /// image is too large for it.
    pub fn maps<T: Float>(
        &self,
        samples: &[T],
        n: usize,
        windows: &Windows,
        bias: Option<&[T]>,
    ) -> Result<Option<Vec<T>>, Fault> {
        let map = windows.count();
        let (rows, sample) = (self.parts.len(), windows.sample());
        let (Some(taps), true) = (windows.taps(), n > 0 && rows > 0 && map > 0) else { return Ok(None) };
        let size = rows.saturating_mul(map);
        let (strips, runs) = windows.strips();
        let layer = Layer { kernel: self, windows, taps, strips, runs, bias };
        let room = room_for_maps(n, size)?;
        let (tiles, together) = worth_a_thread(rows.div_ceil(ROWS), n, [size, self.cols]);
        let chunk = (tiles * ROWS).saturating_mul(map);
        if n == 1 {
            let maps = layer.coded(samples, |coded| {
                by_chunks(room, size, chunk, |i, maps| {
                    layer.tiles(i * tiles, coded, maps);
                    Ok::<_, Fault>(())
                })
            });
            return maps.ok_or_else(|| Fault::input(samples, 0))?.map(Some);
        }
        let maps = by_chunks(room, n * size, together * size, |i, maps| {
            for (j, maps) in (i * together..).zip(maps.chunks_exact_mut(size)) {
                let coded = layer.coded(&samples[j * sample..(j + 1) * sample], |coded| {
                    parallel::for_each_chunk(maps, chunk, |i, maps| layer.tiles(i * tiles, coded, maps));
                });
                coded.ok_or_else(|| Fault::input(samples, j * sample))?;
            }
            Ok(())
        });
        maps.map(Some)
    }
}

/// Of the `tiles` of a sample, and of `n` samples, as many as are worth a thread, where a sample is `size` sums of
/// `cols`.
fn worth_a_thread(tiles: usize, n: usize, [size, cols]: [usize; 2]) -> (usize, usize) {
    let work = size.saturating_mul(cols);
    ((tiles.saturating_mul(MIN_PARALLEL) / work).clamp(1, tiles), (MIN_PARALLEL / work).clamp(1, n))
}

/// A kernel and where it moves.
struct Layer<'a, T> {
    kernel: &'a MapKernel,
    windows: &'a Windows,
    taps: Taps,
    strips: Vec<Strip>,
    runs: Vec<Run>,
    bias: Option<&'a [T]>,
}

/// The codes of a sample.
struct Coded<'a, T> {
    images: &'a [Inputs],
    grid: Steps<T>,
    /// For each strip the sums of the windows without their zero points, or nothing where these do not count.
    of_windows: Vec<[i32; WIDTH]>,
}

impl<T: Float> Layer<'_, T> {
    /// `f` of the codes of a sample; `None` where it is not finite.
    fn coded<R>(&self, x: &[T], f: impl FnOnce(&Coded<'_, T>) -> R) -> Option<R> {
        let grid = grid_of(x, self.kernel.how)?;
        let used = self.windows.quads() * self.windows.area();
        // A strip may reach past the end.
        Some(with_room(used + WIDTH, |images: &mut [Inputs]| {
            self.encode(x, &grid, &mut images[..used]);
            let of_windows = self.sums(images, grid.zero);
            f(&Coded { images, grid, of_windows })
        }))
    }

    /// The codes of a sample as images of quads.
    fn encode(&self, x: &[T], grid: &Steps<T>, images: &mut [Inputs]) {
        let (windows, area) = (self.windows, self.windows.area());
        let together = (SERIAL / area.max(1)).max(1);
        let of_quad = TOGETHER * windows.plane();
        parallel::for_each_chunk(images, together * area, |i, images| {
            with_scratch(of_quad, |codes| {
                for (quad, images) in (i * together..).zip(images.chunks_exact_mut(area)) {
                    let from = &x[quad * of_quad..x.len().min((quad + 1) * of_quad)];
                    grid.encode(from, &mut codes[..from.len()]);
                    codes[from.len()..].fill(grid.zero);
                    fast(
                        #[inline(always)]
                        || windows.sort(codes, grid.zero, images),
                    );
                }
            });
        });
    }

    fn sums(&self, images: &[Inputs], zero: u8) -> Vec<[i32; WIDTH]> {
        let (form, ones) = (Form::best(), &self.kernel.ones[..]);
        if ones.is_empty() {
            return Vec::new();
        }
        let of_strip = |strip: &Strip| {
            let mut sums = [[0; WIDTH]; ROWS];
            form.strip::<SIGNED_WEIGHTS, ALONE>(
                [ones; ROWS],
                &images[strip.first..],
                &self.taps,
                strip.lanes,
                &[],
                &mut sums,
            );
            sums[0].map(|sum| sum - i32::from(zero) * self.kernel.cols as i32)
        };
        self.strips.iter().map(of_strip).collect()
    }

    /// The maps of some tiles of rows, from `first_tile` on.
    fn tiles(&self, first_tile: usize, coded: &Coded<'_, T>, maps: &mut [T]) {
        let (form, quads, map) = (Form::for_bits(self.kernel.bits), self.taps.count(), self.windows.count());
        let (scale, zero) = (coded.grid.scale.widen(), i32::from(coded.grid.zero));
        let (mut sums, mut numbers) = ([[0; WIDTH]; ROWS], [[T::zero(); 2 * WIDTH]; ROWS]);
        for (first, maps) in (first_tile * ROWS..).step_by(ROWS).zip(maps.chunks_mut(ROWS * map)) {
            let w: [_; ROWS] = std::array::from_fn(|r| &self.kernel.w[(first + r) * quads..][..quads]);
            let bias = |r: usize| self.bias.and_then(|bias| bias.get(first + r)).copied();
            let biases: [T; ROWS] = std::array::from_fn(|r| bias(r).unwrap_or(T::zero()));
            let parts = &self.kernel.parts[first..self.kernel.parts.len().min(first + ROWS)];
            for (i, strip) in self.strips.iter().enumerate() {
                form.strip::<SIGNED_WEIGHTS, ALONE>(
                    w,
                    &coded.images[strip.first..],
                    &self.taps,
                    strip.lanes,
                    &[],
                    &mut sums,
                );
                form.to_maps(
                    (&sums, parts),
                    (zero, coded.of_windows.get(i).unwrap_or(&[0; WIDTH])),
                    #[inline(always)]
                    |r, sum| T::narrow(sum * scale) + biases[r],
                    &mut numbers,
                    &self.runs[strip.runs.clone()],
                    (&mut *maps, map),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn kernels_are_sorted_into_quads(channels in 1_usize..14, kernel in [1_usize..6, 1_usize..6], seed in any::<i8>()) {
            let [kh, kw] = kernel;
            let row: Vec<i8> = (0..channels * kh * kw).map(|i| (i as i8).wrapping_mul(37) ^ seed).collect();
            let mut sorted = vec![[0; TOGETHER]; quads(channels, kernel)];
            sort_kernel(&row, channels, kernel, &mut sorted);
            let mut wanted = vec![[0; TOGETHER]; sorted.len()];
            for (i, w) in row.iter().enumerate() {
                let (channel, y, x) = (i / (kh * kw), i / kw % kh, i % kw);
                let (quad, place) = match channels {
                    1 => (y * kw.div_ceil(TOGETHER) + x / TOGETHER, x % TOGETHER),
                    _ => ((channel / TOGETHER * kh + y) * kw + x, channel % TOGETHER),
                };
                wanted[quad][place] = *w;
            }
            prop_assert_eq!(sorted, wanted);
        }

        /// However large all is: the root of what can be counted, too, whose square is counted as 0.
        #[test]
        fn something_is_always_worth_a_thread(tiles in 1_usize.., n in 1_usize.., sums in [1_usize.., 1_usize..]) {
            for sums in [sums, [1; 2], [1 << (usize::BITS / 2); 2], [usize::MAX; 2]] {
                let (some, together) = worth_a_thread(tiles, n, sums);
                prop_assert!((1..=tiles).contains(&some) && (1..=n).contains(&together));
            }
        }
    }

    #[test]
    fn images_that_cannot_be_counted_are_refused() {
        // Quads of 5 pixels each: together as many as can be counted, of which a strip may not read past the end.
        let channels = usize::MAX / 5 * TOGETHER;
        let one = [1, 1];
        let windows =
            Windows { channels, input: [1, 5], kernel: one, stride: one, padding: [0, 0], output: [1, 5] };
        assert_eq!(windows.quads() * windows.area(), usize::MAX);
        assert!(windows.taps().is_none());
    }
}
