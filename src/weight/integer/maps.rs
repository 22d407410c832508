//! Convolution in integers, of codes that lie as images: a window is not copied, but read where it is.
//!
//! Four neighbouring channels of a pixel are a quad. What one entry of a kernel meets in neighbouring windows are
//! then neighbouring quads, so that a strip of windows is a view of the image for each entry. It goes on from line to
//! line; the windows that would lie over an edge are computed with the others and left out. With a stride, the
//! pixels that one entry can meet are an image of their own.

use super::super::decoder::Decoder;
use super::super::{Coding, Leaf};
use super::{Activations, InputGrids, MIN_PARALLEL, SERIAL};
use crate::kernels::memory::{Aligned, with_scratch};
use crate::kernels::products::EXACT;
use crate::kernels::products::quads::{
    Form, Inputs, Known, LANES, Part, ROWS, SIGNED_WEIGHTS, Taps, WIDTH, Weights,
};
use crate::{Fault, Float, parallel};

/// Channels of a quad.
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

    /// Where the entries of a kernel find their pixels, quad by quad of channels; `None` where that is too far.
    fn taps(&self) -> Option<Taps> {
        let (phases, [height, width]) = (self.phases(), self.size());
        u32::try_from(self.quads().checked_mul(self.area())? + WIDTH).ok()?;
        let tap = |q: usize, i: usize, j: usize| {
            let image = i % self.stride[0] * phases[1] + j % self.stride[1];
            let at = (image * height + i / self.stride[0]) * width + j / self.stride[1];
            (q * self.area() + at) as u32
        };
        let [kh, kw] = self.kernel;
        let of_quad = |q| (0..kh).flat_map(move |i| (0..kw).map(move |j| (q, i, j)));
        Some(Taps::new((0..self.quads()).flat_map(of_quad).map(|(q, i, j)| tap(q, i, j)).collect()))
    }

    /// The pixels of a quad of channels, `codes [4, input]`, to their images.
    fn sort(&self, codes: &[u8], to: &mut [Inputs]) {
        let ([phases_y, phases_x], [height, width]) = (self.phases(), self.size());
        let ([h, w], plane) = (self.input, self.plane());
        for (phase, image) in to.chunks_exact_mut(height * width).enumerate().take(phases_y * phases_x) {
            let (phase_y, phase_x) = (phase / phases_x, phase % phases_x);
            // The first pixels of this image that are not padding.
            let first = self.padding[1].saturating_sub(phase_x).div_ceil(self.stride[1]);
            let left = first * self.stride[1] + phase_x - self.padding[1];
            for (i, line) in image.chunks_exact_mut(width).enumerate() {
                let y = (i * self.stride[0] + phase_y).checked_sub(self.padding[0]).filter(|y| *y < h);
                let (Some(y), Some(line)) = (y, line.get_mut(first..)) else { continue };
                let pixels = |c: usize| &codes[c * plane + y * w + left.min(w)..c * plane + (y + 1) * w];
                let [a, b, c, d] = [pixels(0), pixels(1), pixels(2), pixels(3)];
                if self.stride[1] == 1 {
                    let all = line.iter_mut().zip(a).zip(b).zip(c).zip(d);
                    all.for_each(|((((to, a), b), c), d)| *to = [*a, *b, *c, *d]);
                } else {
                    for (to, x) in line.iter_mut().zip((0..a.len()).step_by(self.stride[1])) {
                        *to = [a[x], b[x], c[x], d[x]];
                    }
                }
            }
        }
    }
}

impl<T: Float> Leaf<T> {
    /// See [`Weight::integer_maps`](crate::Weight::integer_maps).
    pub(in super::super) fn integer_maps(
        &self,
        (samples, n): (&[T], usize),
        how: Activations,
        windows: &Windows,
        bias: Option<&[T]>,
        maps: &mut [T],
    ) -> Result<bool, Fault> {
        if !self.is_coded()
            || self.codebook().is_some()
            || !(1..=EXACT).contains(&self.cols)
            || maps.is_empty()
        {
            return Ok(false);
        }
        // As it is in memory: in a file, pruned entries may be among the codes.
        let leaf = self.load()?;
        let Coding::Affine(affine) = &leaf.coding else { return Ok(false) };
        let decoder = Decoder::new(&leaf, affine)?;
        let Some(taps) = windows.taps().filter(|_| decoder.step(self.cols) == self.cols) else {
            return Ok(false);
        };
        let grids = InputGrids::new(samples, windows.sample(), 1, how)?;
        let mask = leaf.mask()?;
        let mut row = vec![0; self.cols];
        let mut w = vec![[0; TOGETHER]; self.rows.next_multiple_of(ROWS) * taps.count()];
        let mut parts = Vec::with_capacity(self.rows);
        for (r, w) in w.chunks_exact_mut(taps.count()).enumerate().take(self.rows) {
            decoder.signed(r * self.cols..(r + 1) * self.cols, mask.as_deref(), &mut row);
            sort_kernel(&row, windows.kernel[0] * windows.kernel[1], w);
            let scale = decoder.grid(r, 0).0.widen();
            let mut sum = [0];
            Form::best().sums(&row, self.cols, &mut sum);
            parts.push(Part { scale, sum: sum[0], zero: decoder.signed_zero(r, 0) });
        }
        let images = Images::new(samples, n, &grids, windows);
        let of_inputs = if decoder.is_centred() { Vec::new() } else { images.sums(&taps, &grids) };
        let work = self.rows * self.cols * windows.count() * n;
        let tiles: Vec<_> = maps
            .chunks_mut(self.rows * windows.count())
            .map(|maps| maps.chunks_mut(ROWS * windows.count()).enumerate())
            .enumerate()
            .flat_map(|(sample, maps)| maps.map(move |(tile, maps)| (sample, tile, maps)))
            .collect();
        let tile = |(sample, tile, maps): (usize, usize, &mut [T])| {
            let w: [_; ROWS] =
                std::array::from_fn(|r| &w[(tile * ROWS + r) * taps.count()..][..taps.count()]);
            let biases: [T; ROWS] = std::array::from_fn(|r| {
                bias.and_then(|bias| bias.get(tile * ROWS + r)).copied().unwrap_or(T::zero())
            });
            let parts = &parts[tile * ROWS..self.rows.min((tile + 1) * ROWS)];
            images.for_each_strip(sample, |form, first, lanes, x| {
                let mut sums = [[0; WIDTH]; ROWS];
                form.strip::<SIGNED_WEIGHTS>(w, x, &taps, lanes, &[], &mut sums);
                let mut known = Known { zeros: [grids.zero(sample); WIDTH], ..Known::default() };
                if let Some(of_inputs) = of_inputs.get(sample) {
                    known.sums = of_inputs[first / WIDTH];
                }
                let places = images.places(first, lanes);
                let scale = grids.scale(sample);
                let number = |r: usize, _, sum: f64| T::narrow(sum * scale) + biases[r];
                form.finish(&sums, parts, &known, number, |r, row| {
                    let map = &mut maps[r * windows.count()..][..windows.count()];
                    for (from, to) in places.clone() {
                        map[to..to + from.len()].copy_from_slice(&row[from]);
                    }
                });
            });
        };
        if work < MIN_PARALLEL {
            tiles.into_iter().for_each(tile);
        } else {
            parallel::for_each(tiles, tile);
        }
        Ok(true)
    }
}

/// A row of a weight, `[channels, places]`, in quads of channels: `[quads, places]`.
fn sort_kernel(row: &[i8], places: usize, to: &mut [Weights]) {
    for (row, to) in row.chunks(TOGETHER * places).zip(to.chunks_exact_mut(places)) {
        for (c, row) in row.chunks_exact(places).enumerate() {
            to.iter_mut().zip(row).for_each(|(to, w)| to[c] = *w);
        }
    }
}

/// The codes of samples as images of quads.
struct Images<'a> {
    values: Aligned<Inputs>,
    windows: &'a Windows,
    samples: usize,
}

impl<'a> Images<'a> {
    fn new<T: Float>(samples: &[T], n: usize, grids: &InputGrids<T>, windows: &'a Windows) -> Self {
        let (quads, area, plane) = (windows.quads(), windows.area(), windows.plane());
        let used = n * quads * area;
        // A strip may reach past the end.
        let mut values = Aligned::new(used + WIDTH);
        let together = (SERIAL / area.max(1)).clamp(1, (n * quads).max(1));
        parallel::for_each_chunk(&mut values.get_mut()[..used], together * area, |i, images| {
            with_scratch(TOGETHER * plane, |codes| {
                for (j, images) in images.chunks_exact_mut(area).enumerate() {
                    let (sample, quad) = ((i * together + j) / quads, (i * together + j) % quads);
                    let grid = grids.of(sample);
                    let from = &samples[sample * windows.sample()..][..windows.sample()];
                    let from = &from[quad * TOGETHER * plane..from.len().min((quad + 1) * TOGETHER * plane)];
                    grid.encode(from, &mut codes[..from.len()]);
                    codes[from.len()..].fill(grid.zero);
                    images.fill([grid.zero; TOGETHER]);
                    windows.sort(codes, images);
                }
            });
        });
        Self { values, windows, samples: n }
    }

    /// Calls `f(form, first, lanes, inputs)` for each strip of a sample's windows, and what lies between them.
    fn for_each_strip(&self, sample: usize, mut f: impl FnMut(Form, usize, usize, &[Inputs])) {
        let form = Form::best();
        let ([height, width], start) =
            (self.windows.output, sample * self.windows.quads() * self.windows.area());
        let last = (height - 1) * self.windows.size()[1] + width;
        for first in (0..last).step_by(WIDTH) {
            let lanes = if last - first <= LANES { LANES } else { WIDTH };
            f(form, first, lanes, &self.values.get()[start + first..]);
        }
    }

    /// Which lanes of a strip are windows, and where these begin.
    fn places(
        &self,
        first: usize,
        lanes: usize,
    ) -> impl Iterator<Item = (std::ops::Range<usize>, usize)> + Clone {
        let (pitch, [height, width]) = (self.windows.size()[1], self.windows.output);
        let lines = first / pitch..height.min((first + lanes).div_ceil(pitch));
        lines.filter_map(move |line| {
            let start = first.max(line * pitch);
            let end = (first + lanes).min(line * pitch + width);
            (start < end).then(|| (start - first..end - first, line * width + start - line * pitch))
        })
    }

    /// For each sample and strip the sums of the windows without their zero points.
    fn sums<T: Float>(&self, taps: &Taps, grids: &InputGrids<T>) -> Vec<Vec<[i32; WIDTH]>> {
        let ones = vec![[1; TOGETHER]; taps.count()];
        let padded = taps.count() * TOGETHER;
        parallel::map(self.samples, |sample| {
            let mut all = Vec::new();
            self.for_each_strip(sample, |form, _, lanes, x| {
                let mut sums = [[0; WIDTH]; ROWS];
                form.strip::<SIGNED_WEIGHTS>([&ones; ROWS], x, taps, lanes, &[], &mut sums);
                // Channels that fill up a quad are zeros, too.
                all.push(sums[0].map(|sum| sum - grids.zero(sample) * padded as i32));
            });
            all
        })
    }
}
