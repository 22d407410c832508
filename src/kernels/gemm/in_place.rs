//! A product whose right operand is read where it lies, so that nothing is brought into panels: the columns of a
//! step are neighbours, and steps begin wherever they like. The windows of a convolution at stride 1 lie so.

use super::tile::at_places;
use super::vector::Vector;
use super::{Form, Lanes, out};
use bytemuck::Pod;
use num_traits::Float;
use std::ops::Range;

/// Numbers that are read past the last column, at most.
pub const PAST: usize = out::WIDTH;

/// Rows that lie along the sum, and a right operand: column `j` of step `k` is `values[places[k] + j]`.
///
/// Up to [`PAST`] numbers after the last column are read, and must be there; they may be any.
#[derive(Clone, Copy)]
pub struct InPlace<'a, T> {
    /// `[rows, places.len()]`
    pub left: &'a [T],
    pub values: &'a [T],
    pub places: &'a [usize],
    pub columns: usize,
}

/// Sums of a few rows and columns.
pub struct Tile<'a, T> {
    sums: &'a [T],
    apart: usize,
    /// Columns.
    pub width: usize,
}

impl<'a, T> Tile<'a, T> {
    /// The sums of each row.
    pub fn rows(&self) -> impl Iterator<Item = &'a [T]> {
        let width = self.width;
        self.sums.chunks_exact(self.apart).map(move |row| &row[..width])
    }
}

/// Where sums go: the first row and column of a tile, and the tile.
pub(super) type Put<'a, T> = dyn FnMut(usize, usize, Tile<'_, T>) + 'a;

impl<T: Lanes> InPlace<'_, T> {
    /// Computes some rows of the product, on this thread.
    pub fn rows(&self, rows: Range<usize>, mut put: impl FnMut(usize, usize, Tile<'_, T>)) {
        T::in_place(Form::best(), self, rows, &mut put);
    }
}

#[inline(always)]
pub(super) fn tiles<T, V, const HEIGHT: usize>(
    cpu: V::Cpu,
    product: &InPlace<'_, T>,
    rows: Range<usize>,
    put: &mut Put<'_, T>,
) where
    T: Float + Pod,
    V: Vector<T>,
{
    let steps = product.places.len();
    let mut tile = [T::zero(); out::HEIGHT * out::WIDTH];
    let width = 2 * V::LEN;
    // All rows meet the same columns, which stay near.
    for column in (0..product.columns).step_by(width) {
        let values = &product.values[column..];
        // Tiles that are about as high as each other.
        let count = rows.len().div_ceil(HEIGHT);
        let mut row = rows.start;
        for i in 0..count {
            let height = (rows.end - row).div_ceil(count - i);
            macro_rules! heights {
                ($($m:literal)*) => {
                    match height {
                        // What no tile is as high as is not compiled.
                        $($m if const { $m <= HEIGHT } => {
                            let mut left = [&[][..]; $m];
                            for i in 0..$m {
                                left[i] = &product.left[(row + i) * steps..][..steps];
                            }
                            let sums = at_places::<T, V, $m, 2>(cpu, left, values, product.places);
                            for i in 0..$m {
                                for w in 0..2 {
                                    sums[i][w].store(&mut tile[(2 * i + w) * V::LEN..]);
                                }
                            }
                        })*
                        _ => {}
                    }
                };
            }
            heights!(1 2 3 4 5 6 7 8 9 10 11 12);
            let sums = &tile[..height * width];
            put(row, column, Tile { sums, apart: width, width: width.min(product.columns - column) });
            row += height;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every form against the definition, for odd numbers of rows, steps and columns.
    #[test]
    fn equals_its_definition() {
        for [rows, steps, columns] in
            [[1, 1, 1], [13, 7, 33], [25, 40, 100], [3, 0, 5], [12, 9, 64], [0, 3, 3]]
        {
            let number = |i: usize| (i * 37 % 101) as f64 / 50.0 - 1.0;
            let left: Vec<f64> = (0..rows * steps).map(number).collect();
            let places: Vec<usize> = (0..steps).map(|k| k * 29 % 71).collect();
            let mut values: Vec<f64> = (0..columns + 71).map(|i| number(i + 5)).collect();
            // What is read beyond does not matter.
            values.extend([f64::NAN; PAST]);
            for form in Form::all() {
                let product = InPlace { left: &left, values: &values, places: &places, columns };
                let mut got = vec![f64::NAN; rows * columns];
                f64::in_place(form, &product, 0..rows, &mut |row, column, tile| {
                    for (i, sums) in tile.rows().enumerate() {
                        got[(row + i) * columns + column..][..sums.len()].copy_from_slice(sums);
                    }
                });
                for (i, got) in got.iter().enumerate() {
                    let (row, column) = (i / columns, i % columns);
                    let sum: f64 =
                        (0..steps).map(|k| left[row * steps + k] * values[places[k] + column]).sum();
                    assert!((got - sum).abs() < 1e-12, "{rows} {steps} {columns}: {got} {sum}");
                }
            }
        }
    }
}
