//! Rows of weights with [`Panels`] of inputs: decoded where they are not numbers yet, a block of columns at a
//! time, into a buffer that stays near.

#[cfg(target_arch = "x86_64")]
use super::avx2;
use super::dots::{self, Tiles};
use super::plain::{Plain, PlainIntegers};
use super::panels::{Aligned, Block, FEW, Packed, Panels, Strip};
use super::{EXACT, Rows};
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::Avx2;
use crate::kernels::cpu::{fast, has_fused};
use std::ops::{AddAssign, Range};

/// Rows of weights that are decoded at a time.
pub const HEIGHT: usize = 24;
/// Rows of weights that meet a strip at a time: as many as leave registers for their operands.
const TILE: usize = 6;

/// Where rows of weights come from.
pub enum Source<'a, T> {
    /// They are numbers already.
    Rows(Rows<'a, T>),
    /// `(row, columns, values)`: decodes a part of a row.
    Decoded(&'a mut dyn FnMut(usize, Range<usize>, &mut [T])),
}

/// [`Tiles`] of rows of one kind, for inputs that lie side by side as well.
pub trait Strips: Tiles<X = <Self as Tiles>::W, W: Packed> {
    /// `sums[r * width + lane] +=` for `R` rows of weights and a strip of 8 or 16 lanes. `more`: what follows
    /// in the rows comes next.
    fn strip<const R: usize>(
        self,
        w: [&[Self::W]; R],
        x: &[Self::W],
        lanes: usize,
        sums: &mut [Self::Sum],
        width: usize,
        more: bool,
    );
}

/// `c [m, n] += w x^T`.
pub fn floats(w: Source<'_, f32>, x: &Panels<f32>, m: usize, c: &mut [f32]) {
    let add = &mut |_: &Range<usize>, sums: &[f32]| add_to(c, sums, x);
    #[cfg(target_arch = "x86_64")]
    if let Some(cpu) = Avx2::new() {
        return fast(
            #[inline(always)]
            || blocks(avx2::Floats(cpu), w, x, m, add),
        );
    }
    blocks(Plain::<f32, false>::default(), w, x, m, add);
}

/// The same in double precision.
pub fn doubles(w: Source<'_, f64>, x: &Panels<f64>, m: usize, c: &mut [f64]) {
    let add = &mut |_: &Range<usize>, sums: &[f64]| add_to(c, sums, x);
    if has_fused() {
        fast(
            #[inline(always)]
            || blocks(Plain::<f64, true>::default(), w, x, m, add),
        );
    } else {
        blocks(Plain::<f64, false>::default(), w, x, m, add);
    }
}

/// `add(columns, sums [m, x.width()])` for each step of columns, for weights and inputs within +-255. Steps
/// of more than [`EXACT`] columns are cut there. An input's sums stand at its number.
pub fn integers(w: Source<'_, i16>, x: &Panels<i16>, m: usize, add: &mut dyn FnMut(&Range<usize>, &[i32])) {
    #[cfg(target_arch = "x86_64")]
    if let Some(cpu) = Avx2::new() {
        return fast(
            #[inline(always)]
            || blocks(avx2::Integers(cpu), w, x, m, add),
        );
    }
    blocks(PlainIntegers, w, x, m, add);
}

/// `total += scale * sums`.
pub fn add_scaled(scale: f64, sums: &[i32], total: &mut [f64]) {
    fast(
        #[inline(always)]
        || total.iter_mut().zip(sums).for_each(|(total, sum)| *total += scale * f64::from(*sum)),
    );
}

fn add_to<T: Packed + AddAssign>(c: &mut [T], sums: &[T], x: &Panels<T>) {
    let n = x.inputs().max(1);
    for (c, sums) in c.chunks_exact_mut(n).zip(sums.chunks_exact(x.width().max(1))) {
        c.iter_mut().zip(sums).for_each(|(c, sum)| *c += *sum);
    }
}

#[inline(always)]
fn blocks<K: Strips>(
    kernel: K,
    mut w: Source<'_, K::W>,
    x: &Panels<K::W>,
    m: usize,
    add: &mut dyn FnMut(&Range<usize>, &[K::Sum]),
) {
    let (width, depth) = (x.width(), x.depth());
    let mut buffer = match w {
        Source::Rows(_) => Aligned::new(0),
        Source::Decoded(_) => Aligned::new(m * depth),
    };
    let in_place = matches!(w, Source::Rows(_));
    let mut sums = vec![K::Sum::default(); m * width];
    let mut first = 0;
    for block in x.blocks() {
        let columns = block.columns.clone();
        let rows = match &mut w {
            Source::Rows(rows) => Rows::new(&rows.values[columns.start.min(rows.values.len())..], rows.stride),
            Source::Decoded(decode) => {
                let buffer = buffer.get_mut();
                for (row, to) in buffer.chunks_exact_mut(depth).enumerate() {
                    // What is left of another block meets zeros, and must be a number.
                    to[columns.len()..].fill(K::W::default());
                    decode(row, columns.clone(), &mut to[..columns.len()]);
                }
                Rows::new(&*buffer, depth)
            }
        };
        multiply(kernel, rows, &block, x.strips(), m, (&mut sums, width), in_place);
        // Blocks are shorter than this by far, and are none the longer for being many.
        let full = columns.end + depth - first > EXACT;
        if block.ends || full {
            add(&(first..columns.end), &sums);
            sums.fill(K::Sum::default());
            first = columns.end;
        }
    }
}

/// `sums += w x^T` for a block of columns.
#[inline(always)]
fn multiply<K: Strips>(
    kernel: K,
    w: Rows<'_, K::W>,
    block: &Block<'_, K::W>,
    strips: &[Strip],
    m: usize,
    (sums, width): (&mut [K::Sum], usize),
    in_place: bool,
) {
    let len = block.padded();
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
            kernel.strip(w, block.strip($strip), $strip.lanes, sums, width, in_place && $strip.first == 0)
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
