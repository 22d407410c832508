//! A right operand that is brought into panels once, for many rows of the left one.

use super::{Along, Form, Lanes, Operand, Out, Part, Right, cut, fill_panel};
use crate::kernels::cpu::fast;
use crate::kernels::memory::{with_room, zeroed};
use crate::kernels::products::Source;
use crate::parallel;
use std::ops::Range;

/// Bytes of decoded rows, which meet all panels while they are near.
const NEAR: usize = 64 << 10;

/// A right operand in panels, a block of steps after the other.
pub struct Prepared<T> {
    values: Vec<T>,
    steps: usize,
    columns: usize,
}

impl<T: Lanes> Prepared<T> {
    /// `right`, of so many steps and columns; `None` where there is not so much memory.
    pub fn new(right: impl Right<T>, steps: usize, columns: usize) -> Option<Self> {
        let cut = cut::<T>();
        let (width, longest) = (columns.next_multiple_of(cut.width), cut.longest(steps).max(1));
        let mut values = zeroed(width.checked_mul(steps)?)?;
        let mut panels = Vec::new();
        for (first, block) in (0..steps).step_by(longest).zip(values.chunks_mut(width.max(1) * longest)) {
            let steps = first..steps.min(first + longest);
            let all = block.chunks_mut(steps.len() * cut.width);
            panels.extend(
                (0..columns).step_by(cut.width).zip(all).map(|(first, to)| (steps.clone(), first, to)),
            );
        }
        let pack = |steps: Range<usize>, first, width, lanes, panel: &mut [T]| {
            fast(
                #[inline(always)]
                || right.pack(steps, first, width, lanes, panel),
            );
        };
        parallel::for_each(panels, |(steps, first, to)| fill_panel(&pack, steps, first, columns, to));
        Some(Self { values, steps, columns })
    }

    /// Rows of `left` times this, on this thread, in place of the zeros `out [rows, columns]`.
    pub fn product(&self, left: &mut Source<'_, T>, rows: usize, out: &mut [T]) {
        let Self { values, steps, columns } = self;
        let (form, cut) = (Form::best(), cut::<T>());
        let (width, longest) = (columns.next_multiple_of(cut.width), cut.longest(*steps).max(1));
        // Rows that are numbers already meet the panels where they are.
        let (band, room) = match left {
            Source::Rows(_) => (rows.max(1), 0),
            Source::Decoded(_) => {
                let band = (NEAR / (longest * size_of::<T>()) / cut.height).max(1) * cut.height;
                (band, band * longest)
            }
        };
        with_room(room, |buffer: &mut [T]| {
            for first in (0..*steps).step_by(longest) {
                let now = first..(*steps).min(first + longest);
                let right = Operand::Packed(&values[first * width..now.end * width]);
                for (i, out) in out.chunks_mut((band * columns).max(1)).enumerate() {
                    let rows = i * band..i * band + out.len() / columns;
                    let along = match left {
                        Source::Rows(all) => Along(&all.values[now.start..], all.stride),
                        Source::Decoded(decode) => {
                            for (row, to) in rows.clone().zip(buffer.chunks_exact_mut(now.len())) {
                                decode.decode(row, now.clone(), to);
                            }
                            Along(&*buffer, now.len())
                        }
                    };
                    let beta = if first == 0 { T::zero() } else { T::one() };
                    let (rows, columns) = (0..rows.len(), 0..*columns);
                    let part = Part { rows, columns, steps: now.len(), alpha: T::one(), beta };
                    let mut out = Out { values: out, stride: self.columns, turned: false };
                    T::tiles(form, along, right, &part, &mut out);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::products::Rows;

    fn numbers(n: usize, seed: usize) -> Vec<f64> {
        (0..n).map(|i| ((i * 7919 + seed * 31) % 1013) as f64 / 506.5 - 1.0).collect()
    }

    fn check<T: Lanes + num_traits::NumCast>(bound: f64) {
        let narrow = |x: &[f64]| x.iter().map(|x| T::from(*x).unwrap()).collect::<Vec<T>>();
        // More than a block of steps, than a tile, than the panels that are made at a time; and none.
        for [m, k, n] in [[33, 1, 33], [97, 319, 200], [30, 1100, 40], [13, 530, 500], [5, 0, 7]] {
            let (left, right) = (numbers(m * k, 1), numbers(n * k, 2));
            let (a, b) = (narrow(&left), narrow(&right));
            let prepared = Prepared::new(Along(&b, k), k, n).unwrap();
            let decode = |row: usize, columns: Range<usize>, to: &mut [T]| {
                to.copy_from_slice(&a[row * k..][columns]);
            };
            for mut source in [Source::Rows(Rows::new(&a, k)), Source::Decoded(Box::new(decode))] {
                let mut out = vec![T::zero(); m * n];
                prepared.product(&mut source, m, &mut out);
                for (i, got) in out.iter().enumerate() {
                    let terms = left[i / n * k..][..k].iter().zip(&right[i % n * k..][..k]);
                    let wanted: f64 = terms.map(|(a, b)| a * b).sum();
                    let got = got.to_f64().unwrap();
                    assert!((got - wanted).abs() <= bound * (k + 1) as f64, "{m} {k} {n}: {got} {wanted}");
                }
            }
        }
    }

    #[test]
    fn equals_its_definition() {
        check::<f32>(1e-6);
        check::<f64>(1e-14);
    }
}
