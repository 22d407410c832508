//! Products with a few inputs: rows of codes are read where they are, once.

use super::super::zeros;
use super::{FLIP, MIN_PARALLEL, Product, by_rows};
use crate::kernels::products::quads::{FEW_ROWS, Form};
use crate::kernels::products::{self, EXACT, Grids, Sorted};
use crate::{Fault, Float, parallel};
use std::ops::Range;

impl<T: Float> Product<'_, T> {
    /// `[n, m]` for a few inputs, with codes of a byte where they are.
    pub(super) fn few(&self) -> Result<Vec<T>, Fault> {
        let Self { decoder, k, n, step, .. } = self;
        let (k, n, form) = (*k, *n, Form::best());
        let in_place = decoder.packed(8).filter(|_| self.mask.is_none());
        let mut codes = vec![0; n * k];
        codes.chunks_exact_mut(k).enumerate().for_each(|(b, codes)| self.encode(b, codes));
        // Of each step, the parts that an `i32` holds.
        let steps: Vec<Vec<Range<usize>>> =
            (0..k).step_by(*step).map(|first| cut(first, k.min(first + step)).collect()).collect();
        let of_input = |b: usize, parts: &Vec<Range<usize>>| -> i64 {
            parts.iter().map(|part| i64::from(self.of_input(b, &codes[b * k..][part.clone()]))).sum()
        };
        let of_inputs: Vec<Vec<i64>> = if decoder.is_centred() {
            vec![vec![0; steps.len()]; n]
        } else {
            (0..n).map(|b| steps.iter().map(|parts| of_input(b, parts)).collect()).collect()
        };
        by_rows([n, self.m], self.height(FEW_ROWS, MIN_PARALLEL / 4), |start, out| {
            let mut buffer = vec![0; if in_place.is_some() { 0 } else { FEW_ROWS * k }];
            for (j, out) in out.chunks_mut(FEW_ROWS * n).enumerate() {
                let (first, count) = (start + j * FEW_ROWS, out.len() / n);
                let (w, flip) = match in_place {
                    Some(codes) => (&codes[first * k..(first + count) * k], FLIP),
                    None => {
                        for (row, w) in (first..first + count).zip(buffer.chunks_exact_mut(k)) {
                            decoder.signed(row * k..(row + 1) * k, self.mask, w);
                        }
                        (bytemuck::cast_slice(&buffer[..count * k]), 0)
                    }
                };
                // What is missing is computed again.
                let rows: [_; FEW_ROWS] = std::array::from_fn(|r| &w[r.min(count - 1) * k..][..k]);
                for b in 0..n {
                    let (x, zero) = (&codes[b * k..][..k], i64::from(self.grids.zero(b)));
                    let mut total = [0.0; FEW_ROWS];
                    for (number, (parts, of_input)) in steps.iter().zip(&of_inputs[b]).enumerate() {
                        let mut long = [0_i64; FEW_ROWS];
                        for part in parts {
                            let sums = form.dots(rows.map(|w| &w[part.clone()]), flip, &x[part.clone()]);
                            for (long, [sum, of_row]) in long.iter_mut().zip(sums) {
                                *long += i64::from(sum) - zero * i64::from(of_row);
                            }
                        }
                        for (r, (total, long)) in total.iter_mut().zip(long).enumerate().take(count) {
                            let sum = long - i64::from(decoder.signed_zero(first + r, number)) * of_input;
                            *total += decoder.grid(first + r, number).0.widen() * sum as f64;
                        }
                    }
                    let scale = self.grids.scale(b);
                    for (out, total) in out.chunks_exact_mut(n).zip(total) {
                        out[b] = T::narrow(total * scale);
                    }
                }
            }
        })
    }

    /// One input with 4-bit codes. For the kernel the input's codes are around 128, so that they are signed.
    pub(super) fn nibbles(&self, w: &[u8]) -> Result<Vec<T>, Fault> {
        let Self { decoder, k, step, .. } = self;
        let (k, step, form) = (*k, *step, Form::best());
        let mut codes = vec![0; k];
        self.encode(0, &mut codes);
        let x: Vec<i8> = codes.iter().map(|code| (code ^ FLIP) as i8).collect();
        let x = Sorted::integers(form, &x, step);
        let of_inputs: Vec<i32> = codes.chunks(step).map(|codes| self.of_input(0, codes)).collect();
        let (offset, scale) = (128 - self.grids.zero(0), self.grids.scale(0));
        let middle = i32::from(decoder.grids(0).middle);
        let mut out = zeros::<T>(self.m, 1)?;
        let height = self.height(1, MIN_PARALLEL / 4);
        let centred: Vec<i32> = of_inputs.iter().map(|of_input| middle * of_input).collect();
        parallel::for_each_chunk(&mut out, height, |i, out| {
            let (mut sums, mut less) = (vec![0; of_inputs.len()], centred.clone());
            for (row, out) in (i * height..).zip(out) {
                products::nibbles(form, &w[row * k / 2..][..k / 2], &x, step, offset, &mut sums);
                let Grids { scales, zeros, .. } = decoder.grids(row);
                let total = form.run(
                    #[inline(always)]
                    || {
                        let zeros = zeros.unwrap_or_default().iter().zip(&of_inputs);
                        less.iter_mut().zip(zeros).for_each(|(less, (zero, of_input))| {
                            *less = i32::from(*zero) * of_input;
                        });
                        scaled(scales, &sums, &less)
                    },
                );
                *out = T::narrow(total * scale);
            }
        });
        Ok(out)
    }
}

/// `first..end` in parts whose sums an `i32` holds.
fn cut(first: usize, end: usize) -> impl Iterator<Item = Range<usize>> {
    (first..end).step_by(EXACT).map(move |first| first..end.min(first + EXACT))
}

/// `sum of scale * (sum - less)` over the steps of a row.
#[inline(always)]
fn scaled<T: Float>(scales: &[T], sums: &[i32], less: &[i32]) -> f64 {
    const SIDE: usize = 16;
    // Side by side: a sum must wait for the one before it.
    let mut total = [0.0; SIDE];
    let ((sums, more), (less, more_less)) = (sums.as_chunks::<SIDE>(), less.as_chunks::<SIDE>());
    let (scales, more_scales) = scales.as_chunks::<SIDE>();
    for ((scales, sums), less) in scales.iter().zip(sums).zip(less) {
        for i in 0..SIDE {
            total[i] += scales[i].widen() * f64::from(sums[i] - less[i]);
        }
    }
    let more = more.iter().zip(more_less).map(|(sum, less)| f64::from(sum - less));
    let rest: f64 = more.zip(more_scales).map(|(sum, scale)| scale.widen() * sum).sum();
    total.iter().sum::<f64>() + rest
}
