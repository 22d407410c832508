//! Decomposition of single-precision matrices through the eigenvalues of their Gram matrix.
//!
//! For `A [m, n]` with `m >= n`, the eigenvectors of `A^T A [n, n]` are the right singular vectors and its
//! eigenvalues the squared singular values. Squaring halves the digits: an eigenvalue is right to a rounding of
//! the largest one, so a singular value `s_i` is right to about `sqrt(eps) s_1`. In double precision that is
//! 1.5e-8, less than one rounding of the single-precision entries, and the vectors are orthogonal to double
//! precision. Therefore this is as exact as a decomposition in single precision, and its work is in matrix
//! products. It is not used for double precision.
//!
//! The other side follows as `A V`, so that the product of the factors is `A V V^T`: a projection of `A`,
//! whatever the error of small singular values. Cost: `m n^2` for the Gram matrix, about `9 n^3` for the
//! eigenvectors, `2 m n r` for the other side.

use super::{Choose, Factors};
use crate::{Fault, Float, parallel};
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::matmul::matmul;
use faer::{Accum, Col, Mat, MatMut, MatRef, Par};

/// Columns of the Gram matrix, and rows of the projection, that one thread computes at a time.
const PANEL: usize = 128;

/// Factors of the finite `a [rows, cols]` with as many singular values as `choose` wants; `None` where it
/// wants none.
pub(super) fn factors<T: Float>(
    a: &[T],
    [rows, cols]: [usize; 2],
    choose: Choose<'_>,
) -> Result<Option<Factors<T>>, Fault> {
    let wide: Vec<f64> = a.iter().map(|x| x.widen()).collect();
    let a = MatRef::from_row_major_slice(&wide, rows, cols);
    let tall = if rows >= cols { a } else { a.transpose() };
    let (values, vectors) = eigen(gram(tall))?;
    let singular: Vec<f64> = values.iter().map(|x| x.max(0.0).sqrt()).collect();
    let Some(rank) = choose(&singular) else { return Ok(None) };
    let vectors = vectors.as_ref().reverse_cols().subcols(0, rank);
    let projected = project(tall, vectors);
    let scales: Vec<f64> = projected
        .chunks(tall.nrows().max(1))
        .map(|row| row.iter().map(|x| x * x).sum::<f64>().sqrt().sqrt())
        .collect();
    // Half of each singular value goes to either side; what has none is zero on both.
    let over = |s: f64| if s > 0.0 { 1.0 / s } else { 0.0 };
    let long = |i: usize, t: usize| T::narrow(projected[t * tall.nrows() + i] * over(scales[t]));
    let short = |i: usize, t: usize| T::narrow(vectors[(i, t)] * scales[t]);
    let is_tall = rows >= cols;
    let u = (0..rows * rank).map(|at| (at / rank, at % rank));
    let u = u.map(|(i, t)| if is_tall { long(i, t) } else { short(i, t) }).collect();
    let v = (0..rank * cols).map(|at| (at / cols, at % cols));
    let v = v.map(|(t, j)| if is_tall { short(j, t) } else { long(j, t) }).collect();
    Ok(Some(Factors { rank, u, v }))
}

/// The lower triangle of `a^T a`, column-major.
fn gram(a: MatRef<'_, f64>) -> Mat<f64> {
    let n = a.ncols();
    let mut values = vec![0.0; n * n];
    parallel::for_each_chunk(&mut values, PANEL * n, |i, panel| {
        let (first, width) = (i * PANEL, panel.len() / n);
        let panel = MatMut::from_column_major_slice_mut(panel, n, width);
        let below = panel.subrows_mut(first, n - first);
        let (left, right) = (a.subcols(first, n - first), a.subcols(first, width));
        matmul(below, Accum::Replace, left.transpose(), right, 1.0, Par::Seq);
    });
    MatRef::from_column_major_slice(&values, n, n).to_owned()
}

/// Eigenvalues, largest first, and eigenvectors, in the other order, of a symmetric matrix of which the lower
/// triangle is given.
fn eigen(a: Mat<f64>) -> Result<(Vec<f64>, Mat<f64>), Fault> {
    let n = a.nrows();
    let mut vectors = Mat::<f64>::zeros(n, n);
    let mut values = Col::<f64>::zeros(n);
    let scratch =
        self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, super::faer::PAR, Default::default());
    let mut memory =
        MemBuffer::try_new(scratch).map_err(|_| Fault::Form("the decomposition does not fit in memory"))?;
    self_adjoint_evd(
        a.as_ref(),
        values.as_diagonal_mut(),
        Some(vectors.as_mut()),
        super::faer::PAR,
        MemStack::new(&mut memory),
        Default::default(),
    )
    .map_err(|_| Fault::NoConvergence)?;
    Ok((values.iter().rev().copied().collect(), vectors))
}

/// `vectors^T a^T`, row-major.
fn project(a: MatRef<'_, f64>, vectors: MatRef<'_, f64>) -> Vec<f64> {
    let (long, rank) = (a.nrows(), vectors.ncols());
    let mut values = vec![0.0; rank * long];
    parallel::for_each_chunk(&mut values, PANEL.min(rank) * long, |i, rows| {
        let height = rows.len() / long;
        let rows = MatMut::from_row_major_slice_mut(rows, height, long);
        let left = vectors.subcols(i * PANEL.min(rank), height).transpose();
        matmul(rows, Accum::Replace, left, a.transpose(), 1.0, Par::Seq);
    });
    values
}
