//! Rows of weights with [`Panels`] of inputs: decoded where they are not numbers yet, a block of columns at a
//! time, into a buffer that stays near.

use super::Rows;
use super::dots::{self, Tiles};
use super::panels::{Block, FEW, Panels, Strip};
use super::plain::Plain;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::{Avx2, Avx512};
use crate::kernels::cpu::{fast, has_fused};
use crate::kernels::memory::Aligned;
use bytemuck::Pod;
use std::ops::{AddAssign, Range};

/// Rows of weights that are decoded at a time.
pub const HEIGHT: usize = 24;
/// Rows of weights that meet a strip at a time: as many as leave registers for their operands.
const TILE: usize = 6;

/// Where rows of weights come from.
pub enum Source<'a, T> {
    /// They are numbers already.
    Rows(Rows<'a, T>),
    /// They are made of something else.
    Decoded(Box<dyn Decode<T> + 'a>),
}

/// Decodes rows of weights.
pub trait Decode<T> {
    /// The values of some columns of a row.
    fn decode(&mut self, row: usize, columns: Range<usize>, to: &mut [T]);
    /// What they are decoded from, to be brought near before it is needed; nothing where there is no such row.
    fn source(&self, row: usize, columns: Range<usize>) -> &[u8];
}

impl<T, F: FnMut(usize, Range<usize>, &mut [T])> Decode<T> for F {
    fn decode(&mut self, row: usize, columns: Range<usize>, to: &mut [T]) {
        self(row, columns, to);
    }

    fn source(&self, _: usize, _: Range<usize>) -> &[u8] {
        &[]
    }
}

impl<T: Pod> Source<'_, T> {
    fn bytes(&self, row: usize, columns: Range<usize>) -> &[u8] {
        match self {
            Self::Rows(rows) => {
                let start = row * rows.stride + columns.start;
                bytemuck::cast_slice(rows.values.get(start..start + columns.len()).unwrap_or(&[]))
            }
            Self::Decoded(decode) => decode.source(row, columns),
        }
    }
}

/// [`Tiles`] of rows of one kind, for inputs that lie side by side as well.
pub trait Strips: Tiles<X = <Self as Tiles>::W, W: Pod + Default> {
    /// `sums[r * width + lane] +=` for `R` rows of weights and a strip of 8 or 16 lanes. What is `ahead` for each
    /// row will be wanted next, and is brought near meanwhile.
    fn strip<const R: usize>(
        self,
        w: [&[Self::W]; R],
        x: &[Self::W],
        lanes: usize,
        sums: &mut [Self::Sum],
        width: usize,
        ahead: [&[u8]; R],
    );
}

/// `c [m, n] += w x^T`.
pub fn floats(w: Source<'_, f32>, x: &Panels<f32>, m: usize, c: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(cpu) = Avx2::new() {
        return match Avx512::new() {
            Some(wide) => floats_by(avx512::Floats(wide, cpu), w, x, m, c),
            None => floats_by(avx2::Floats(cpu), w, x, m, c),
        };
    }
    floats_by(Plain::<f32, false>::default(), w, x, m, c);
}

/// [`floats`] in one of its forms.
pub(super) fn floats_by<K: Strips<W = f32, Sum = f32>>(
    kernel: K,
    w: Source<'_, f32>,
    x: &Panels<f32>,
    m: usize,
    c: &mut [f32],
) {
    let add = &mut |rows: Range<usize>, _: Range<usize>, sums: &[f32]| add_to(c, rows, sums, x);
    fast(
        #[inline(always)]
        || blocks(kernel, w, x, m, add),
    );
}

/// The same in double precision.
pub fn doubles(w: Source<'_, f64>, x: &Panels<f64>, m: usize, c: &mut [f64]) {
    let add = &mut |rows: Range<usize>, _: Range<usize>, sums: &[f64]| add_to(c, rows, sums, x);
    if has_fused() {
        fast(
            #[inline(always)]
            || blocks(Plain::<f64, true>::default(), w, x, m, add),
        );
    } else {
        blocks(Plain::<f64, false>::default(), w, x, m, add);
    }
}

fn add_to<T: Pod + Default + AddAssign>(c: &mut [T], rows: Range<usize>, sums: &[T], x: &Panels<T>) {
    let n = x.inputs().max(1);
    for (c, sums) in
        c[rows.start * n..rows.end * n].chunks_exact_mut(n).zip(sums.chunks_exact(x.width().max(1)))
    {
        c.iter_mut().zip(sums).for_each(|(c, sum)| *c += *sum);
    }
}

/// What is done with sums `[rows, x.width()]`: `(rows, columns, sums)`.
type Add<'a, T> = &'a mut dyn FnMut(Range<usize>, Range<usize>, &[T]);

#[inline(always)]
fn blocks<K: Strips>(kernel: K, mut w: Source<'_, K::W>, x: &Panels<K::W>, m: usize, add: Add<'_, K::Sum>) {
    // What is decoded stays near until it has met all inputs.
    let few = x.inputs() <= FEW;
    let height = if few {
        2 * dots::HEIGHT
    } else if x.is_long() {
        TILE
    } else {
        HEIGHT
    };
    let (width, depth) = (x.width(), x.longest_span());
    let mut buffer = match w {
        Source::Rows(_) => Aligned::new(0),
        Source::Decoded(_) => Aligned::new(height.min(m) * depth),
    };
    let mut sums = vec![K::Sum::default(); m * width];
    let mut begun = 0;
    for (span, span_blocks) in x.spans() {
        let span_blocks: Vec<_> = span_blocks.collect();
        let mut next = begun;
        for (i, sums) in sums.chunks_mut((height * width).max(1)).enumerate() {
            let rows = i * height..i * height + sums.len() / width;
            let values = match &mut w {
                Source::Rows(all) => {
                    let start = rows.start * all.stride + span.start;
                    Rows::new(all.values.get(start..).unwrap_or(&[]), all.stride)
                }
                Source::Decoded(decode) => {
                    let buffer = buffer.get_mut();
                    for (row, to) in rows.clone().zip(buffer.chunks_exact_mut(depth.max(1))) {
                        decode.decode(row, span.clone(), &mut to[..span.len()]);
                    }
                    Rows::new(&*buffer, depth)
                }
            };
            next = begun;
            for block in &span_blocks {
                // The next rows, or the next columns of the same.
                let columns = block.columns.clone();
                let ahead = |row: usize| match x.is_long() {
                    true => w.bytes(rows.end + row, columns.clone()),
                    false => w.bytes(rows.start + row, columns.start + span.len()..columns.end + span.len()),
                };
                let values = values.skip_columns(columns.start - span.start);
                multiply(kernel, values, block, x.strips(), rows.len(), (&mut *sums, width), ahead);
                if block.ends {
                    add(rows.clone(), next..columns.end, sums);
                    sums.fill(K::Sum::default());
                    next = columns.end;
                }
            }
        }
        begun = next;
    }
}

/// `sums += w x^T` for a block of columns.
#[inline(always)]
fn multiply<'a, K: Strips>(
    kernel: K,
    w: Rows<'_, K::W>,
    block: &Block<'_, K::W>,
    strips: &[Strip],
    m: usize,
    (sums, width): (&mut [K::Sum], usize),
    ahead: impl Fn(usize) -> &'a [u8],
) {
    let len = block.columns.len();
    let row = |r: usize| w.part(r, 0..len);
    if strips.last().is_none_or(|strip| strip.lanes == 1) {
        let mut xs = [&[][..]; FEW];
        strips.iter().zip(&mut xs).for_each(|(strip, x)| *x = block.strip(*strip));
        let xs = &xs[..strips.len()];
        return dots::each(kernel, row, xs, m, |r, b, sum| sums[r * width + b] += sum);
    }
    macro_rules! tile {
        ($r:expr, $strip:expr, $height:literal) => {{
            let w: [_; $height] = std::array::from_fn(|i| row($r + i));
            let sums = &mut sums[$r * width + $strip.first..];
            let ahead = std::array::from_fn(|i| if $strip.first == 0 { ahead($r + i) } else { &[] });
            kernel.strip(w, block.strip($strip), $strip.lanes, sums, width, ahead)
        }};
    }
    for strip in strips.iter().copied() {
        for r in (0..m).step_by(TILE) {
            match m - r {
                1 => tile!(r, strip, 1),
                2 => tile!(r, strip, 2),
                3 => tile!(r, strip, 3),
                4 => tile!(r, strip, 4),
                5 => tile!(r, strip, 5),
                _ => tile!(r, strip, 6),
            }
        }
    }
}
