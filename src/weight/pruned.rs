//! Products with the kept entries of a pruned weight alone.

use super::codebook::kept_range;
use super::mask::Mask;
use super::product::{Kept, by_rows, height};
use super::zeros;
use crate::kernels::memory;
use crate::kernels::products::HEIGHT;
use crate::kernels::sparse::{self, Beside, Dots, Offsets, WORD};
use crate::{Fault, Float, parallel};
use std::ops::Range;

/// Bytes of inputs that kept entries meet at a time: they stay in a near cache.
const NEAR: usize = 1 << 18;

/// Rows that are decoded at a time.
const DECODED: usize = 4;

/// `x w^T` for one input `x [k]` and a weight of `m` rows.
pub(super) fn with_one<T: Float>(
    kept: &Kept<'_, T>,
    mask: &Mask,
    x: &[T],
    [k, m]: [usize; 2],
) -> Result<Vec<T>, Fault> {
    let mut out = zeros(m, 1)?;
    let height = height(HEIGHT, k);
    if let Some(offsets) = mask.offsets(k) {
        let dots = Dots::new(offsets, x);
        parallel::for_each_chunk(&mut out, height, |i, out| {
            sums(kept, (mask, offsets), &dots, (i * height, k), out);
        });
        return Ok(out);
    }
    parallel::for_each_chunk(&mut out, height, |i, out| {
        let mut buffer = Vec::new();
        for (row, out) in (i * height..).zip(out) {
            let range = row * k..(row + 1) * k;
            let bits = mask.bits(range.clone());
            let of_codes = kept.whole_bytes(k).and_then(|(codes, decoder)| {
                let codes = codes.get(mask.rank(range.start)..)?;
                T::dot_codes(bits, codes, decoder.grid(row, 0), x)
            });
            *out = of_codes.unwrap_or_else(|| T::dot_dense(bits, kept.read(range, mask, &mut buffer), x));
        }
    });
    Ok(out)
}

/// The same of the rows from `first` on, by the places of their kept entries.
fn sums<T: Float>(
    kept: &Kept<'_, T>,
    (mask, offsets): (&Mask, &Offsets),
    dots: &Dots<'_, T>,
    (first, k): (usize, usize),
    out: &mut [T],
) {
    let rows = first..first + out.len();
    if let Kept::Values(values) = kept {
        return offsets.for_each_part(rows, values, |rows, values| {
            dots.sums(rows.start, values, &mut out[rows.start - first..rows.end - first]);
        });
    }
    let mut codes_met = false;
    if let Some((codes, decoder)) = kept.whole_bytes(k) {
        let (scales, zeros) = decoder.first_grids(rows.clone());
        codes_met = true;
        offsets.for_each_part(rows, codes, |rows, codes| {
            let own = rows.start - first..rows.end - first;
            codes_met &= dots.sums_of_codes(rows.start, codes, &zeros[own.clone()], &mut out[own]);
        });
        out.iter_mut().zip(scales).for_each(|(sum, scale)| *sum *= scale);
    }
    let mut buffer = Vec::new();
    let together = if codes_met { 1 } else { DECODED };
    for (i, out) in out.chunks_mut(together).enumerate() {
        // Of codes, a sum may have been too large only before it was scaled.
        if !codes_met || !out[0].is_finite() {
            let rows = first + i * together..first + i * together + out.len();
            dots.sums(rows.start, decoded(kept, mask, (rows, k), &mut buffer), out);
        }
    }
}

/// The kept values of some rows, and [`WORD`] more.
fn decoded<'b, T: Float>(
    kept: &Kept<'_, T>,
    mask: &Mask,
    (rows, k): (Range<usize>, usize),
    buffer: &'b mut Vec<T>,
) -> &'b [T] {
    buffer.resize(kept_range(&(rows.start * k..rows.end * k), Some(mask)).len() + WORD, T::zero());
    let mut end = 0;
    for row in rows {
        let range = row * k..(row + 1) * k;
        let to = end..end + kept_range(&range, Some(mask)).len();
        end = to.end;
        kept.values(range, Some(mask), &mut buffer[to]);
    }
    buffer
}

/// `x w^T` for several inputs `x [n, k]`.
pub(super) fn with_many<T: Float>(
    kept: &Kept<'_, T>,
    mask: &Mask,
    x: &[T],
    [n, k, m]: [usize; 3],
) -> Result<Vec<T>, Fault> {
    // As many inputs at a time as suit the vectors.
    match (n, size_of::<T>()) {
        (..=8, _) => side_by_side::<T, 8>(kept, mask, x, [n, k, m]),
        (17.., 4) => side_by_side::<T, 32>(kept, mask, x, [n, k, m]),
        _ => side_by_side::<T, 16>(kept, mask, x, [n, k, m]),
    }
}

/// The same from `L` inputs at a time.
fn side_by_side<T: Float, const L: usize>(
    kept: &Kept<'_, T>,
    mask: &Mask,
    x: &[T],
    [n, k, m]: [usize; 3],
) -> Result<Vec<T>, Fault> {
    let side = |s: usize| Beside::<T, L>::new(&x[s * L * k..n.min((s + 1) * L) * k], k);
    let sides = parallel::map(n.div_ceil(L), side);
    let width = (NEAR / (L * size_of::<T>())).next_multiple_of(sparse::BLOCK).min(sparse::LONGEST);
    let height = height(HEIGHT, k * n);
    let room = sparse::places_room(width.min(k)) * height;
    let offsets = mask.offsets(k);
    by_rows([n, m], height, |first, out| {
        memory::with_room(room, |places| {
            some_rows(kept, (mask, offsets), (&sides, width), first, places, [n, k], out);
        });
    })
}

/// `out [.., n]` for rows from `top` on; `places` is room for theirs in `width` columns.
fn some_rows<T: Float, const L: usize>(
    kept: &Kept<'_, T>,
    (mask, offsets): (&Mask, Option<&Offsets>),
    (sides, width): (&[Beside<T, L>], usize),
    top: usize,
    places: &mut [u16],
    [n, k]: [usize; 2],
    out: &mut [T],
) {
    let mut buffer = Vec::new();
    // Of each row, where its places and its kept numbers lie.
    let mut rows = Vec::with_capacity(out.len() / n);
    for first in (0..k).step_by(width) {
        let last = k.min(first + width);
        rows.clear();
        let mut end = 0;
        for row in (top..).take(out.len() / n) {
            let (start, to) = (mask.rank(row * k + first), &mut places[end..]);
            let found = match offsets {
                Some(offsets) => offsets.places(row, first..last, start, to),
                None => sparse::places(mask.bits(row * k + first..row * k + last), to),
            };
            rows.push((end..end + found, start));
            end += found;
        }
        if !matches!(kept, Kept::Values(_)) {
            buffer.resize(end, T::zero());
            for (row, (range, _)) in (top..).zip(&rows) {
                kept.values(row * k + first..row * k + last, Some(mask), &mut buffer[range.clone()]);
            }
        }
        for (side, x) in sides.iter().enumerate() {
            for ((range, start), out) in rows.iter().zip(out.chunks_mut(n)) {
                let values = match kept {
                    Kept::Values(values) => &values[*start..][..range.len()],
                    _ => &buffer[range.clone()],
                };
                let out = &mut out[side * L..n.min((side + 1) * L)];
                T::add_products::<L>(&places[range.clone()], values, (x, first), out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{AffineQuantizer, MagnitudePruner, Tensor, Weight, WeightCompressor};

    fn weight([rows, cols]: [usize; 2]) -> Weight {
        let values: Vec<f32> = (0..rows * cols).map(|i| ((i * 7919) % 1009) as f32 / 1009.0 - 0.5).collect();
        let dense = Tensor::new(&[rows, cols], values).unwrap();
        MagnitudePruner::sparsity(0.9).apply(Weight::from(dense)).unwrap()
    }

    #[cfg(feature = "threads")]
    #[test]
    fn products_of_one_weight_may_begin_at_once_on_all_threads() {
        const WEIGHTS: usize = 24;
        let x = Tensor::new(&[1, 256], vec![1.0; 256]).unwrap();
        let weights: Vec<Weight> = (0..WEIGHTS).map(|_| weight([4096, 256])).collect();
        let wanted = weight([4096, 256]).matmul(&x).unwrap();
        // Where a thread waits for another's part of the work, it goes on with what comes from here.
        std::thread::scope(|scope| {
            for first in 0..8 {
                let (weights, x, wanted) = (&weights, &x, &wanted);
                scope.spawn(move || {
                    for i in 0..WEIGHTS {
                        let weight = &weights[(i + first / 2) % WEIGHTS];
                        assert_eq!(weight.matmul(x).unwrap(), *wanted);
                    }
                });
            }
        });
    }

    #[test]
    fn sums_that_are_too_large_only_before_they_are_scaled_are_found() {
        const COLS: usize = 1000;
        // A row that stays small, one that is too large, and one that is too large by its codes alone.
        let sizes = [1e-30_f32, 1e3, 1e-2];
        let values = (0..3 * COLS).map(|i| if i % 16 == 3 { sizes[i / COLS] } else { 0.0 }).collect();
        let pruned =
            MagnitudePruner::threshold(1e-37).apply(Tensor::new(&[3, COLS], values).unwrap()).unwrap();
        assert!(pruned.sparsity() > 0.9);
        let weight = AffineQuantizer::bits(8).per_channel().apply(pruned).unwrap();
        let y = weight.matmul(&Tensor::new(&[1, COLS], vec![1e38; COLS]).unwrap()).unwrap();
        let kept = |row: usize| (row * COLS..(row + 1) * COLS).filter(|i| i % 16 == 3).count() as f32;
        assert!((y.as_slice()[0] / (kept(0) * 1e8) - 1.0).abs() < 1e-5, "{y:?}");
        assert_eq!(y.as_slice()[1], f32::INFINITY);
        assert!((y.as_slice()[2] / (kept(2) * 1e36) - 1.0).abs() < 1e-5, "{y:?}");
    }
}
