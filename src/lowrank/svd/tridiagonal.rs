//! A symmetric matrix as a tridiagonal one between reflections: `A = Q T Q^T`.
//!
//! The blocked reduction of Dongarra, Sorensen and Hammarling (*Block reduction of matrices to condensed forms for
//! eigenvalue computations*, 1989; LAPACK's `sytrd`). The columns of a panel are reduced while the rest of the
//! matrix stays as it was before the panel: all that is needed of the rest is its product with one vector a column.
//! Then the rest gets the updates of the whole panel in a matrix product. So the matrix, of which only the lower
//! half is looked at, is read once a column, by all threads. Sums are taken in pieces that depend on the size alone.
//!
//! A reflection is `I - v v^T / tau` with `v` 1 in its first place and `tau = v^T v / 2`; where nothing is to be
//! reflected, `tau` is infinite. Cost: `4/3 n^3`.

#![allow(clippy::needless_range_loop, reason = "several arrays of one length, in step")]

use super::faer::PAR;
use crate::kernels::cpu::{fast, has_fused, multiply_add};
use crate::parallel;
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef};

/// Columns of a panel.
const PANEL: usize = 32;
/// Columns of the rest that a thread updates at a time.
const STRIP: usize = 128;
/// Pieces of the product with a vector, and the size from which it is cut.
const PIECES: usize = 4;
const MIN_CUT: usize = 384;
/// Columns that meet the vector together.
const TOGETHER: usize = 4;

pub(super) struct Tridiagonal {
    pub diagonal: Vec<f64>,
    /// Below the diagonal; one number less.
    pub beside: Vec<f64>,
    /// One for each of `beside`.
    pub taus: Vec<f64>,
}

/// Reduces the column-major `a [n, n]`, of which the lower triangle is given. The reflections take its place below
/// the diagonal.
pub(super) fn tridiagonal(a: &mut [f64], n: usize) -> Tridiagonal {
    let mut made = Tridiagonal { diagonal: vec![0.0; n], beside: Vec::new(), taus: Vec::new() };
    // The panel's other half: an update is `V W^T + W V^T`.
    let mut others = vec![0.0; n * PANEL];
    for first in (0..n).step_by(PANEL) {
        let last = n.min(first + PANEL);
        for k in first..last {
            let (done, rest) = a.split_at_mut(k * n);
            let (column, rest) = rest.split_at_mut(n);
            let (others, own) = others.split_at_mut((k - first) * n);
            // The columns of the panel so far, from row `row` on.
            let so_far = |row: usize| {
                let (v, w) = (done[first * n..].chunks(n), others.chunks(n));
                v.zip(w).map(move |(v, w)| (&v[row..], &w[row..]))
            };
            for (v, w) in so_far(k) {
                subtract(&mut column[k..], [w[0], v[0]], [v, w]);
            }
            made.diagonal[k] = column[k];
            if k + 1 == n {
                break;
            }
            let v = &mut column[k + 1..];
            let (beside, tau) = reflection(v);
            made.beside.push(beside);
            made.taus.push(tau);
            let w = &mut own[k + 1..n];
            let parts = pieces(w.len());
            let mut sums = parallel::map(parts.len(), |i| match parts.get(i + 1) {
                Some(end) => product(rest, n, parts[i]..*end, v),
                None => so_far(k + 1).flat_map(|(before, w)| [dot(w, v), dot(before, v)]).collect(),
            });
            let dots = sums.pop().unwrap_or_default();
            w.fill(0.0);
            for (first, sums) in parts.iter().zip(sums) {
                w[*first..].iter_mut().zip(sums).for_each(|(w, sum)| *w += sum);
            }
            for ((v, w_before), dots) in so_far(k + 1).zip(dots.as_chunks::<2>().0) {
                subtract(w, *dots, [v, w_before]);
            }
            w.iter_mut().for_each(|w| *w /= tau);
            let along = dot(w, v) / (2.0 * tau);
            w.iter_mut().zip(&*v).for_each(|(w, v)| *w -= along * v);
        }
        update(a, n, first..last, &others);
    }
    made
}

/// `to -= by[0] * of[0] + by[1] * of[1]`.
fn subtract(to: &mut [f64], by: [f64; 2], of: [&[f64]; 2]) {
    fast(
        #[inline(always)]
        || {
            for ((to, x), y) in to.iter_mut().zip(of[0]).zip(of[1]) {
                *to -= by[0] * x + by[1] * y;
            }
        },
    );
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    const LANES: usize = 16;
    fast(
        #[inline(always)]
        || {
            let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
            let mut sums = [0.0; LANES];
            for (x, y) in x.iter().zip(y) {
                for i in 0..LANES {
                    sums[i] += x[i] * y[i];
                }
            }
            let rest: f64 = x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum();
            sums.iter().sum::<f64>() + rest
        },
    )
}

/// Makes of `x` the vector of the reflection that leaves only its first number, and gives that and `tau`.
fn reflection(x: &mut [f64]) -> (f64, f64) {
    let (head, tail) = x.split_at_mut(1);
    let squares = dot(tail, tail);
    let first = std::mem::replace(&mut head[0], 1.0);
    if squares == 0.0 {
        return (first, f64::INFINITY);
    }
    let norm = (first * first + squares).sqrt();
    let left = if first > 0.0 { -norm } else { norm };
    let over = 1.0 / (first - left);
    tail.iter_mut().for_each(|x| *x *= over);
    (left, (1.0 + squares * over * over) / 2.0)
}

/// The columns at which a triangle of `len` columns is cut into pieces of about as many numbers, and its end.
fn pieces(len: usize) -> Vec<usize> {
    let pieces = if len < MIN_CUT { 1 } else { PIECES };
    let cut = |i: usize| len as f64 * (1.0 - (1.0 - i as f64 / pieces as f64).sqrt());
    let mut cuts: Vec<usize> = (0..pieces).map(|i| cut(i) as usize / TOGETHER * TOGETHER).collect();
    cuts.push(len);
    cuts
}

/// What the lower triangle `a` and its mirror image add to its product with `v` by way of some columns, from the
/// first of these on. Columns are `stride` apart, and the first number of each column of the triangle is on the
/// diagonal of the matrix whose last rows it has.
fn product(a: &[f64], stride: usize, columns: std::ops::Range<usize>, v: &[f64]) -> Vec<f64> {
    let mut sums = vec![0.0; v.len() - columns.start];
    if has_fused() {
        fast(
            #[inline(always)]
            || add_product::<true>(a, stride, columns, v, &mut sums),
        );
    } else {
        add_product::<false>(a, stride, columns, v, &mut sums);
    }
    sums
}

#[inline(always)]
fn add_product<const FUSED: bool>(
    a: &[f64],
    stride: usize,
    columns: std::ops::Range<usize>,
    v: &[f64],
    sums: &mut [f64],
) {
    const LANES: usize = 4;
    let start = columns.start;
    for first in columns.clone().step_by(TOGETHER) {
        let width = TOGETHER.min(columns.end - first);
        // Rows of which the triangle has some of these columns only.
        let corner = TOGETHER.min(v.len() - first);
        let mut below = [&[][..]; TOGETHER];
        for i in 0..width {
            let column = &a[(first + i) * stride..][stride - v.len() + first..stride];
            sums[first + i - start] += column[i] * v[first + i];
            for j in i + 1..corner {
                sums[first + j - start] += column[j] * v[first + i];
                sums[first + i - start] += column[j] * v[first + j];
            }
            below[i] = &column[corner..];
        }
        if width < TOGETHER {
            // The last columns: nothing is below.
            continue;
        }
        let by = [v[first], v[first + 1], v[first + 2], v[first + 3]];
        let v = &v[first + corner..];
        let (own, rest) = sums[first - start..].split_at_mut(corner);
        let (vs, v_rest) = v.as_chunks::<LANES>();
        let (tos, to_rest) = rest.as_chunks_mut::<LANES>();
        let chunks = below.map(|column| column.as_chunks::<LANES>());
        let mut dots = [[0.0; LANES]; TOGETHER];
        let [a, b, c, d] = chunks.map(|(whole, _)| &whole[..vs.len()]);
        for (i, (v, to)) in vs.iter().zip(&mut *tos).enumerate() {
            for l in 0..LANES {
                let numbers = [a[i][l], b[i][l], c[i][l], d[i][l]];
                let mut sum = to[l];
                for j in 0..TOGETHER {
                    sum = multiply_add::<f64, FUSED>(numbers[j], by[j], sum);
                    dots[j][l] = multiply_add::<f64, FUSED>(numbers[j], v[l], dots[j][l]);
                }
                to[l] = sum;
            }
        }
        for j in 0..TOGETHER {
            let mut dot: f64 = dots[j].iter().sum();
            for ((x, v), to) in chunks[j].1.iter().zip(v_rest).zip(&mut *to_rest) {
                dot += x * v;
                *to += x * by[j];
            }
            own[j] += dot;
        }
    }
}

/// Takes the updates of a panel from the lower triangle of what comes after it.
fn update(a: &mut [f64], n: usize, panel: std::ops::Range<usize>, others: &[f64]) {
    let (done, rest) = a.split_at_mut(panel.end * n);
    let v = MatRef::from_column_major_slice(&done[panel.start * n..], n, panel.len());
    let w = MatRef::from_column_major_slice(&others[..panel.len() * n], n, panel.len());
    parallel::for_each_chunk(rest, STRIP * n, |i, columns| {
        let (first, width) = (panel.end + i * STRIP, columns.len() / n);
        let columns = MatMut::from_column_major_slice_mut(columns, n, width);
        let mut below = columns.subrows_mut(first, n - first);
        for (left, right) in [(v, w), (w, v)] {
            let (left, right) = (left.subrows(first, n - first), right.subrows(first, width));
            matmul(below.as_mut(), Accum::Add, left, right.transpose(), -1.0, PAR);
        }
    });
}

/// The reflections of `a` in blocks of `size` for faer, which wants for each block the upper triangle of `V^T V` with
/// the `taus` on its diagonal.
pub(super) fn blocks(a: &[f64], n: usize, taus: &[f64], size: usize) -> Mat<f64> {
    let mut factors = Mat::<f64>::zeros(size, taus.len());
    for first in (0..taus.len()).step_by(size) {
        let width = size.min(taus.len() - first);
        let below = |i: usize, j: usize| if i < j { 0.0 } else { a[(first + j) * n + first + 1 + i] };
        let v = Mat::from_fn(n - 1 - first, width, below);
        let mut block = factors.as_mut().submatrix_mut(0, first, width, width);
        matmul(block.as_mut(), Accum::Replace, v.transpose(), v.as_ref(), 1.0, PAR);
        (0..width).for_each(|i| block[(i, i)] = taus[first + i]);
    }
    factors
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// `A v` for all `v`, by undoing the reflections one by one.
        #[test]
        fn reflections_lead_back(n in prop_oneof![1_usize..80, 380_usize..500], seed in any::<u64>(), sparse in any::<bool>()) {
            let mut state = seed | 1;
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let x = (state >> 40) as f64 / (1 << 24) as f64 - 0.5;
                if sparse && state >> 33 & 7 > 0 { 0.0 } else { x }
            };
            let mut full = vec![0.0; n * n];
            for j in 0..n {
                for i in j..n {
                    full[j * n + i] = next();
                    full[i * n + j] = full[j * n + i];
                }
            }
            let mut a = full.clone();
            // The upper triangle is not looked at.
            (0..n).for_each(|j| a[j * n..j * n + j].fill(f64::NAN));
            let Tridiagonal { diagonal, beside, taus } = tridiagonal(&mut a, n);
            let x: Vec<f64> = (0..n).map(|_| next()).collect();
            let reflect = |x: &mut [f64], k: usize| {
                let v = &a[k * n + k + 1..(k + 1) * n];
                let by = dot(v, &x[k + 1..]) / taus[k];
                x[k + 1..].iter_mut().zip(v).for_each(|(x, v)| *x -= by * v);
            };
            let mut y = x.clone();
            (0..taus.len()).for_each(|k| reflect(&mut y, k));
            let mut z: Vec<f64> = (0..n).map(|i| diagonal[i] * y[i]).collect();
            for (i, beside) in beside.iter().enumerate() {
                z[i] += beside * y[i + 1];
                z[i + 1] += beside * y[i];
            }
            (0..taus.len()).rev().for_each(|k| reflect(&mut z, k));
            for i in 0..n {
                let wanted: f64 = (0..n).map(|j| full[j * n + i] * x[j]).sum();
                prop_assert!((z[i] - wanted).abs() <= 1e-12 * n as f64, "{}: {} {}", i, z[i], wanted);
            }
        }
    }
}
