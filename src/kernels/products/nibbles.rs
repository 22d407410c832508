//! Rows of 4-bit codes with one input, read where they are: a byte holds the codes of an even column, below,
//! and of the odd one after it.

use super::quads::Form;
#[cfg(target_arch = "x86_64")]
use super::{avx2, nibbles512};
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::{Avx2, Avx512};
use num_traits::{Float, NumAssign};
use std::iter::Sum;

/// Columns that are read at a time: a step must be a multiple of it.
pub const TOGETHER: usize = 32;

/// An input with the values of each [`TOGETHER`] columns sorted: first those of even ones.
pub struct Sorted<T>(Vec<[T; TOGETHER]>);

impl<T: Copy + Default> Sorted<T> {
    /// Of whole groups of columns; more are left out.
    pub fn new(x: &[T]) -> Self {
        let sort = |x: &[T; TOGETHER]| {
            std::array::from_fn(|i| x[if i < TOGETHER / 2 { 2 * i } else { 2 * i + 1 - TOGETHER }])
        };
        Self(x.as_chunks().0.iter().map(sort).collect())
    }
}

/// The grid of a step of columns.
#[derive(Clone, Copy, Debug, Default)]
pub struct Grid<T> {
    pub scale: T,
    pub zero: u8,
}

/// Groups of [`TOGETHER`] columns whose sums 16 bits hold, `8 * 2 * 15 * 128`, and whose codes 8 bits do.
pub(super) const SHORT_SUM: usize = 8;

/// Bytes of [`TOGETHER`] codes.
pub type Codes = [u8; TOGETHER / 2];

/// For each step of a row, the sum of its codes with the input, and that of the codes themselves. `step` columns,
/// no more than [`EXACT`](super::EXACT).
pub fn nibbles(form: Form, w: &[u8], x: &Sorted<i8>, step: usize, sums: &mut [i32], of_codes: &mut [i32]) {
    let (groups, w) = (step / TOGETHER, w.as_chunks().0);
    match form {
        #[cfg(target_arch = "x86_64")]
        Form::Vnni(cpu) if groups.is_multiple_of(2) => {
            nibbles512::nibbles(cpu, w, &x.0, groups, sums, of_codes);
        }
        #[cfg(target_arch = "x86_64")]
        Form::Vnni(cpu) => avx2::nibbles(cpu.avx2(), w, &x.0, groups, sums, of_codes),
        #[cfg(target_arch = "x86_64")]
        Form::Avx2(cpu) => avx2::nibbles(cpu, w, &x.0, groups, sums, of_codes),
        Form::Plain => plain(w, &x.0, groups, sums, of_codes),
    }
}

fn plain(w: &[Codes], x: &[[i8; TOGETHER]], groups: usize, sums: &mut [i32], of_codes: &mut [i32]) {
    let sum = |(w, x): (&Codes, &[i8; TOGETHER])| -> i32 {
        let (even, odd) = x.split_at(TOGETHER / 2);
        let codes = w.iter().zip(even).zip(odd);
        codes.map(|((w, e), o)| i32::from(w & 15) * i32::from(*e) + i32::from(w >> 4) * i32::from(*o)).sum()
    };
    let steps = w.chunks_exact(groups).zip(x.chunks_exact(groups));
    for ((w, x), (to, to_codes)) in steps.zip(sums.iter_mut().zip(of_codes)) {
        *to = w.iter().zip(x).map(sum).sum();
        *to_codes = w.as_flattened().iter().map(|w| i32::from(w & 15) + i32::from(w >> 4)).sum();
    }
}

/// The sum of a row's numbers, `scale * (code - zero)`, with the input; a grid for each `step` of columns.
pub fn nibbles_f32(w: &[u8], grids: &[Grid<f32>], x: &Sorted<f32>, step: usize) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if let Some(cpu) = Avx512::new() {
        return nibbles512::nibble_floats(cpu, w.as_chunks().0, grids, &x.0, step / TOGETHER);
    } else if let Some(cpu) = Avx2::new() {
        return avx2::nibble_floats(cpu, w.as_chunks().0, grids, &x.0, step / TOGETHER);
    }
    plain_floats(w, grids, x, step)
}

/// The portable form.
pub fn plain_floats<T: Float + NumAssign + From<i16> + Sum>(
    w: &[u8],
    grids: &[Grid<T>],
    x: &Sorted<T>,
    step: usize,
) -> T {
    const LANES: usize = 8;
    let groups = step / TOGETHER;
    let mut total = [T::zero(); LANES];
    for ((w, x), grid) in w.as_chunks().0.chunks_exact(groups).zip(x.0.chunks_exact(groups)).zip(grids) {
        let mut sums = [T::zero(); LANES];
        let value = |code: u8| <T as From<i16>>::from(i16::from(code) - i16::from(grid.zero));
        for (w, x) in w.iter().zip(x) {
            let w: &Codes = w;
            let (even, odd) = x.split_at(TOGETHER / 2);
            for (i, ((w, e), o)) in w.iter().zip(even).zip(odd).enumerate() {
                sums[i % LANES] += value(w & 15) * *e + value(w >> 4) * *o;
            }
        }
        total.iter_mut().zip(sums).for_each(|(total, sum)| *total += grid.scale * sum);
    }
    total.into_iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_give_the_sums(rows in 0_usize..6, groups in 1_usize..20, steps in 0_usize..4, seed in any::<u32>()) {
            let (step, cols) = (groups * TOGETHER, steps * groups * TOGETHER);
            let random = |i: usize| (i as u32 + 1).wrapping_mul(seed | 1).wrapping_mul(2_654_435_761) >> 16;
            let codes: Vec<u8> = (0..rows * cols).map(|i| random(i) as u8 & 15).collect();
            let packed: Vec<u8> = codes.as_chunks::<2>().0.iter().map(|[a, b]| a | b << 4).collect();
            let x: Vec<i8> = (0..cols).map(|i| if random(i + 7) % 3 == 0 { -128 } else { random(i + 7) as i8 }).collect();
            for form in Form::all() {
                for row in 0..rows {
                    let (mut sums, mut of_codes) = (vec![9; steps], vec![9; steps]);
                    let w = &packed[row * cols / 2..][..cols / 2];
                    nibbles(form, w, &Sorted::new(&x), step, &mut sums, &mut of_codes);
                    for (i, (sum, of_codes)) in sums.iter().zip(&of_codes).enumerate() {
                        let codes = &codes[row * cols + i * step..][..step];
                        let x = &x[i * step..][..step];
                        let wanted: i32 = codes.iter().zip(x).map(|(c, x)| i32::from(*c) * i32::from(*x)).sum();
                        prop_assert_eq!(*sum, wanted);
                        prop_assert_eq!(*of_codes, codes.iter().map(|c| i32::from(*c)).sum::<i32>());
                    }
                }
            }
            let floats: Vec<f32> = x.iter().map(|x| f32::from(*x) * 0.37).collect();
            let grid = |s: usize| Grid { scale: 0.1 * (s + 1) as f32, zero: (s * 5 % 16) as u8 };
            let sorted = Sorted::new(&floats);
            for row in 0..rows {
                let w = &packed[row * cols / 2..][..cols / 2];
                let grids: Vec<_> = (0..steps).map(grid).collect();
                let mut found = vec![nibbles_f32(w, &grids, &sorted, step), plain_floats(w, &grids, &sorted, step)];
                #[cfg(target_arch = "x86_64")]
                found.extend(Avx2::new().map(|cpu| avx2::nibble_floats(cpu, w.as_chunks().0, &grids, &sorted.0, groups)));
                let (mut wanted, mut size) = (0.0, 0.0);
                for (i, x) in floats.iter().enumerate() {
                    let grid = grid(i / step);
                    let w = f64::from(grid.scale) * (f64::from(codes[row * cols + i]) - f64::from(grid.zero));
                    wanted += w * f64::from(*x);
                    size += (w * f64::from(*x)).abs();
                }
                for sum in found {
                    prop_assert!((f64::from(sum) - wanted).abs() <= (cols as f64 + 4.0) * f64::from(f32::EPSILON) / 2.0 * size);
                }
            }
        }
    }
}
