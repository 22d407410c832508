//! Matrix product of floats.
//!
//! The right operand is brought into panels of as many columns as fill two vectors, a block of steps at a time;
//! tiles of a few rows of the left one, read where it is, meet them (`tile`): as many as there are registers for
//! their sums. Either operand may take either side: the result is then written transposed.
//!
//! Each number of the result is summed in the same order whatever the cut, in blocks of steps, so that it does
//! not depend on the number of threads.

#![allow(clippy::needless_range_loop, reason = "several arrays of one length, in step")]

mod in_place;
mod out;
mod prepared;
#[cfg(test)]
mod tests;
mod tile;
mod vector;

pub use in_place::{InPlace, PAST};
pub use out::Out;
pub use prepared::Prepared;
pub use tile::{Across, Along, Left, Right, along};
pub use vector::Vector;

use super::cpu::fast;
#[cfg(not(target_arch = "x86_64"))]
use super::cpu::has_fused;
#[cfg(target_arch = "x86_64")]
use super::cpu::{Avx2, Avx512};
use super::memory::with_room;
use crate::parallel;
use bytemuck::Pod;
use in_place::{Put, tiles};
use num_traits::Float;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m256d, __m512, __m512d};
use std::ops::Range;
use vector::Array;
#[cfg(target_arch = "x86_64")]
use vector::Of;

/// Below this many multiplications a second thread costs more than it brings.
const MIN_PARALLEL: usize = 1 << 19;
/// Bytes of left rows that stay near while they meet all panels.
const LEFT: usize = 64 << 10;

/// The instructions that a product is made of.
#[derive(Clone, Copy)]
pub enum Form {
    /// Those of every CPU.
    Portable,
    /// A product and a sum are one instruction.
    #[cfg(not(target_arch = "x86_64"))]
    Fused,
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

impl Form {
    /// All that this CPU has.
    #[cfg(test)]
    fn all() -> impl Iterator<Item = Self> {
        let forms = [
            Some(Self::Portable),
            #[cfg(not(target_arch = "x86_64"))]
            has_fused().then_some(Self::Fused),
            #[cfg(target_arch = "x86_64")]
            Avx2::new().map(Self::Avx2),
            #[cfg(target_arch = "x86_64")]
            Avx512::new().map(Self::Avx512),
        ];
        forms.into_iter().flatten()
    }

    /// The fastest that this CPU has.
    fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        return match (Avx512::new(), Avx2::new()) {
            (Some(cpu), _) => Self::Avx512(cpu),
            (None, Some(cpu)) => Self::Avx2(cpu),
            (None, None) => Self::Portable,
        };
        #[cfg(not(target_arch = "x86_64"))]
        if has_fused() { Self::Fused } else { Self::Portable }
    }

    /// How a product is cut, for numbers of so many bytes. A panel stays in the nearest cache beside the rows
    /// that it meets, or in the next one where a tile is so high that it is not read often.
    fn cut(self, size: usize) -> Cut {
        let (height, vector, panel, panels) = match self {
            Self::Portable => (4, 16, 20 << 10, 100),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Fused => (6, 32, 20 << 10, 100),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => (6, 32, 20 << 10, 100),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => (12, 64, 64 << 10, 12),
        };
        let width = 2 * vector / size;
        Cut { height, width, steps: panel / (width * size), panels }
    }
}

/// How a product is cut.
struct Cut {
    /// Most rows of a tile.
    height: usize,
    /// Columns of a panel: two vectors.
    width: usize,
    /// Most steps of a block.
    steps: usize,
    /// Panels that are made at a time.
    panels: usize,
}

impl Cut {
    /// Steps of the longest of the blocks that so many steps are cut into; all are about as long.
    fn longest(&self, steps: usize) -> usize {
        steps.div_ceil(steps.div_ceil(self.steps).max(1))
    }

    /// Panels that are made at a time, of so many columns.
    fn panels(&self, columns: usize) -> usize {
        columns.div_ceil(self.width).clamp(1, self.panels)
    }
}

/// Brings columns into a panel: see [`Right::pack`].
type Pack<'a, T> = dyn Fn(Range<usize>, usize, usize, usize, &mut [T]) + 'a;

/// The right operand of a part.
#[derive(Clone, Copy)]
pub enum Operand<'a, T> {
    /// Is brought into panels when they are needed.
    Loose(&'a Pack<'a, T>),
    /// Is in panels already: all columns, in no more steps than a block has.
    Packed(&'a [T]),
}

/// Brings the columns from `column` on into a panel, of as many lanes as that needs.
fn fill_panel<T: Pod>(pack: &Pack<'_, T>, steps: Range<usize>, column: usize, end: usize, panel: &mut [T]) {
    let n = panel.len() / steps.len();
    let width = n.min(end - column);
    let lanes = if width > n / 2 { n } else { n / 2 };
    let len = steps.len() * lanes;
    pack(steps, column, width, lanes, &mut panel[..len]);
}

/// A number type, with the lanes of a panel and of the narrower last one.
pub trait Lanes: Float + Pod + Send + Sync {
    /// Computes a part of a product on this thread.
    #[doc(hidden)]
    fn block<L: Left<Self>, R: Right<Self>>(left: L, right: R, part: &Part<Self>, out: &mut Out<'_, Self>) {
        // Called once a panel, and so not compiled again for each left operand.
        Self::tiles(
            Form::best(),
            left,
            Operand::Loose(&|steps, first, width, lanes, panel| {
                fast(
                    #[inline(always)]
                    || right.pack(steps, first, width, lanes, panel),
                );
            }),
            part,
            out,
        );
    }

    #[doc(hidden)]
    fn tiles<L: Left<Self>>(
        form: Form,
        left: L,
        right: Operand<'_, Self>,
        part: &Part<Self>,
        out: &mut Out<'_, Self>,
    );

    #[doc(hidden)]
    fn in_place(form: Form, product: &InPlace<'_, Self>, rows: Range<usize>, put: &mut Put<'_, Self>);
}

macro_rules! lanes {
    ($t:ty, $short:literal, $long:literal, $avx2:ty, $avx512:ty) => {
        impl Lanes for $t {
            fn tiles<L: Left<Self>>(
                form: Form,
                left: L,
                right: Operand<'_, Self>,
                part: &Part<Self>,
                out: &mut Out<'_, Self>,
            ) {
                let cut = form.cut(size_of::<Self>());
                let room = match right {
                    Operand::Loose(_) => cut.panels(part.columns.len()) * cut.width * cut.longest(part.steps),
                    Operand::Packed(_) => 0,
                };
                with_room(room, |room: &mut [Self]| match form {
                    Form::Portable => {
                        blocks::<Self, Array<$t, $short, false>, L, 4>(
                            (),
                            left,
                            right,
                            part,
                            out,
                            room,
                            &cut,
                        );
                    }
                    #[cfg(not(target_arch = "x86_64"))]
                    Form::Fused => {
                        blocks::<Self, Array<$t, $long, true>, L, 6>((), left, right, part, out, room, &cut);
                    }
                    #[cfg(target_arch = "x86_64")]
                    Form::Avx2(cpu) => fast(
                        #[inline(always)]
                        || blocks::<Self, Of<$avx2>, L, 6>(cpu, left, right, part, out, room, &cut),
                    ),
                    #[cfg(target_arch = "x86_64")]
                    Form::Avx512(cpu) => cpu.run(
                        #[inline(always)]
                        || blocks::<Self, Of<$avx512>, L, 12>(cpu, left, right, part, out, room, &cut),
                    ),
                });
            }

            fn in_place(
                form: Form,
                product: &InPlace<'_, Self>,
                rows: Range<usize>,
                put: &mut Put<'_, Self>,
            ) {
                match form {
                    Form::Portable => tiles::<Self, Array<$t, $short, false>, 4>((), product, rows, put),
                    #[cfg(not(target_arch = "x86_64"))]
                    Form::Fused => tiles::<Self, Array<$t, $long, true>, 6>((), product, rows, put),
                    #[cfg(target_arch = "x86_64")]
                    Form::Avx2(cpu) => fast(
                        #[inline(always)]
                        || tiles::<Self, Of<$avx2>, 6>(cpu, product, rows, put),
                    ),
                    #[cfg(target_arch = "x86_64")]
                    Form::Avx512(cpu) => cpu.run(
                        #[inline(always)]
                        || tiles::<Self, Of<$avx512>, 12>(cpu, product, rows, put),
                    ),
                }
            }
        }
    };
}
lanes!(f32, 4, 8, __m256, __m512);
lanes!(f64, 2, 4, __m256d, __m512d);

/// What one thread computes: `beta * out + alpha * left * right` for some rows of the left operand and some
/// columns of the right one.
#[derive(Clone, Debug)]
pub struct Part<T> {
    pub rows: Range<usize>,
    pub columns: Range<usize>,
    pub steps: usize,
    pub alpha: T,
    pub beta: T,
}

#[inline(always)]
fn blocks<T, V, L, const HEIGHT: usize>(
    cpu: V::Cpu,
    left: L,
    right: Operand<'_, T>,
    part: &Part<T>,
    out: &mut Out<'_, T>,
    room: &mut [T],
    cut: &Cut,
) where
    T: Float + Pod,
    V: Vector<T>,
    L: Left<T>,
{
    let Part { rows, columns, steps, alpha, beta } = part;
    if *steps == 0 {
        return out.scale(rows.len(), columns.len(), *beta);
    }
    let (longest, panels, n) = (cut.longest(*steps), cut.panels(columns.len()), 2 * V::LEN);
    let near = (LEFT / (longest * size_of::<T>())).max(1).next_multiple_of(HEIGHT);
    let mut tile = [T::zero(); out::HEIGHT * out::WIDTH];
    for first in columns.clone().step_by(panels * n) {
        let some = first..columns.end.min(first + panels * n);
        for step in (0..*steps).step_by(longest) {
            let now = step..(*steps).min(step + longest);
            let beta = if step == 0 { *beta } else { T::one() };
            let made = match right {
                Operand::Loose(pack) => {
                    for (column, panel) in some.clone().step_by(n).zip(room.chunks_exact_mut(now.len() * n)) {
                        fill_panel(pack, now.clone(), column, some.end, panel);
                    }
                    &*room
                }
                Operand::Packed(all) => &all[(first - columns.start) * longest..],
            };
            for band in rows.clone().step_by(near) {
                let band = band..rows.end.min(band + near);
                for (column, panel) in some.clone().step_by(n).zip(made.chunks_exact(now.len() * n)) {
                    let width = n.min(some.end - column);
                    // Tiles that are about as high as each other.
                    let tiles = band.len().div_ceil(HEIGHT);
                    let mut row = band.start;
                    for i in 0..tiles {
                        let height = (band.end - row).div_ceil(tiles - i);
                        macro_rules! tile {
                            ($m:literal, $w:literal) => {{
                                let mut sums = [[V::zero(cpu); $w]; $m];
                                let panel = &panel[..now.len() * $w * V::LEN];
                                left.tile::<V, $m, $w>(cpu, row, now.clone(), panel, &mut sums);
                                for i in 0..$m {
                                    for w in 0..$w {
                                        sums[i][w].store(&mut tile[(i * $w + w) * V::LEN..]);
                                    }
                                }
                            }};
                        }
                        macro_rules! heights {
                            ($w:tt: $($m:literal)*) => {
                                match height {
                                    // What no tile is as high as is not compiled.
                                    $($m if const { $m <= HEIGHT } => tile!($m, $w),)*
                                    _ => {}
                                }
                            };
                        }
                        let apart = if width > V::LEN {
                            heights!(2: 1 2 3 4 5 6 7 8 9 10 11 12);
                            n
                        } else {
                            heights!(1: 1 2 3 4 5 6 7 8 9 10 11 12);
                            V::LEN
                        };
                        let at = (row - rows.start, column - columns.start);
                        out.put(at, width, (*alpha, beta), (&tile[..height * apart], apart));
                        row += height;
                    }
                }
            }
        }
    }
}

/// `c [m, n] = alpha * op(a) [m, k] * op(b) [k, n] + beta * c`, all row-major; `true` beside an operand
/// means that it is stored transposed.
pub fn gemm<T: Lanes>(
    [m, k, n]: [usize; 3],
    alpha: T,
    a: (&[T], bool),
    b: (&[T], bool),
    beta: T,
    c: &mut [T],
) {
    debug_assert!(a.0.len() == m * k && b.0.len() == k * n && c.len() == m * n);
    if m == 0 || n == 0 {
        return;
    }
    let work = Work { m, k, n, alpha, beta };
    if work.turns(a.1, b.1) {
        // c^T = b^T a^T: the rows of b^T are the columns of b.
        match (a, b) {
            ((a, false), (b, false)) => work.turned(Across(b, n), Along(a, k), c),
            ((a, false), (b, true)) => work.turned(Along(b, k), Along(a, k), c),
            ((a, true), (b, false)) => work.turned(Across(b, n), Across(a, m), c),
            ((a, true), (b, true)) => work.turned(Along(b, k), Across(a, m), c),
        }
    } else {
        match (a, b) {
            ((a, false), (b, false)) => work.straight(Along(a, k), Across(b, n), c),
            ((a, false), (b, true)) => work.straight(Along(a, k), Along(b, k), c),
            ((a, true), (b, false)) => work.straight(Across(a, m), Across(b, n), c),
            ((a, true), (b, true)) => work.straight(Across(a, m), Along(b, k), c),
        }
    }
}

/// How products are cut on this CPU.
fn cut<T>() -> Cut {
    Form::best().cut(size_of::<T>())
}

#[derive(Clone, Copy)]
struct Work<T> {
    m: usize,
    k: usize,
    n: usize,
    alpha: T,
    beta: T,
}

impl<T: Lanes> Work<T> {
    /// Whether it is less work to bring `a` into panels than `b`. Turning rows into panels takes about four
    /// times as long as copying them, and so does writing the result transposed.
    fn turns(self, a_transposed: bool, b_transposed: bool) -> bool {
        let Self { m, k, n, .. } = self;
        let pack = |rows: usize, along: bool| k * rows * if along { 4 } else { 1 };
        let written = m * n * k.div_ceil(cut::<T>().steps).max(1);
        pack(m, !a_transposed) + 4 * written < pack(n, b_transposed) + written
    }

    /// Rows of `c` that one thread computes at a time, a multiple of `unit`.
    fn rows(self, unit: usize) -> usize {
        let Self { m, k, n, .. } = self;
        let threads = parallel::threads();
        let operations = m * k * n;
        let parts = match operations / MIN_PARALLEL {
            0 | 1 => 1,
            // Many parts even out what threads do differently fast; each packs for itself.
            2..32 => threads,
            32..512 => 2 * threads,
            _ => 4 * threads,
        };
        m.div_ceil(parts).next_multiple_of(unit)
    }

    fn straight<L: Left<T>, R: Right<T>>(self, left: L, right: R, c: &mut [T]) {
        let Self { k, n, alpha, beta, .. } = self;
        let rows = self.rows(cut::<T>().height);
        parallel::for_each_chunk(c, rows * n, |i, values| {
            let rows = i * rows..i * rows + values.len() / n;
            let part = Part { rows, columns: 0..n, steps: k, alpha, beta };
            T::block(left, right, &part, &mut Out { values, stride: n, turned: false });
        });
    }

    fn turned<L: Left<T>, R: Right<T>>(self, left: L, right: R, c: &mut [T]) {
        let Self { k, n, alpha, beta, .. } = self;
        let columns = self.rows(cut::<T>().width);
        parallel::for_each_chunk(c, columns * n, |i, values| {
            let columns = i * columns..i * columns + values.len() / n;
            let part = Part { rows: 0..n, columns, steps: k, alpha, beta };
            T::block(left, right, &part, &mut Out { values, stride: n, turned: true });
        });
    }
}
