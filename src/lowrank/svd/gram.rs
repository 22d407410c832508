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

use super::faer::PAR;
use super::tridiagonal::{Tridiagonal, blocks, tridiagonal};
use super::{Choose, Factors};
use crate::{Fault, Float, parallel};
use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd_scratch, tridiagonal_self_adjoint_evd};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch as reflect_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj as reflect,
};
use faer::linalg::matmul::matmul;
use faer::linalg::qr::no_pivoting::factor::recommended_block_size;
use faer::{Accum, ColMut, ColRef, Conj, Mat, MatMut, MatRef};

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
    let eigen = Eigen::new(gram(tall), tall.ncols())?;
    let singular: Vec<f64> = eigen.values.iter().rev().map(|x| x.max(0.0).sqrt()).collect();
    let Some(rank) = choose(&singular) else { return Ok(None) };
    let mut short = eigen.vectors(rank)?;
    let n = tall.ncols();
    let is_tall = rows >= cols;
    let mut long = project(tall, MatRef::from_column_major_slice(&short, n, rank), is_tall);
    let norms = match is_tall {
        true => column_norms(&long, rank),
        false => parallel::map(rank, |t| column_norms(&long[t * cols..][..cols], 1)[0]),
    };
    // Half of each singular value goes to either side; what has none is zero on both.
    let scales: Vec<f64> = norms.iter().map(|norm| norm.sqrt()).collect();
    let over: Vec<f64> = scales.iter().map(|s| if *s > 0.0 { 1.0 / s } else { 0.0 }).collect();
    parallel::for_each_chunk(&mut short, n, |t, row| row.iter_mut().for_each(|x| *x *= scales[t]));
    let narrow = |values: &[f64]| -> Vec<T> { values.iter().map(|x| T::narrow(*x)).collect() };
    let (u, v) = if is_tall {
        parallel::for_each_chunk(&mut long, PANEL * rank, |_, rows| {
            rows.chunks_mut(rank).for_each(|row| row.iter_mut().zip(&over).for_each(|(x, s)| *x *= s));
        });
        (narrow(&long), narrow(&short))
    } else {
        parallel::for_each_chunk(&mut long, cols, |t, row| row.iter_mut().for_each(|x| *x *= over[t]));
        (super::transposed(&short, rows, |x| T::narrow(x)), narrow(&long))
    };
    Ok(Some(Factors { rank, u, v }))
}

/// The norms of the columns of row-major `values`.
fn column_norms(values: &[f64], width: usize) -> Vec<f64> {
    let parts: Vec<&[f64]> = values.chunks(PANEL * width.max(1)).collect();
    let squares = parallel::map(parts.len(), |i| {
        let mut sums = vec![0.0; width];
        for row in parts[i].chunks(width) {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * x);
        }
        sums
    });
    let mut sums = vec![0.0; width];
    squares.iter().for_each(|part| sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += x));
    sums.iter().map(|sum: &f64| sum.sqrt()).collect()
}

/// The lower triangle of `a^T a`, column-major.
fn gram(a: MatRef<'_, f64>) -> Vec<f64> {
    let n = a.ncols();
    let mut values = vec![0.0; n * n];
    parallel::for_each_chunk(&mut values, PANEL * n, |i, panel| {
        let (first, width) = (i * PANEL, panel.len() / n);
        let panel = MatMut::from_column_major_slice_mut(panel, n, width);
        let below = panel.subrows_mut(first, n - first);
        let (left, right) = (a.subcols(first, n - first), a.subcols(first, width));
        matmul(below, Accum::Replace, left.transpose(), right, 1.0, PAR);
    });
    values
}

/// The eigenvalues of a symmetric matrix, smallest first, and what its eigenvectors are made from: those of a
/// tridiagonal matrix, and the reflections that lead from there.
struct Eigen {
    values: Vec<f64>,
    inner: Mat<f64>,
    /// Column-major, below the diagonal.
    reflections: Vec<f64>,
    /// Of the reflections, in blocks of as many as it has rows.
    factors: Mat<f64>,
}

impl Eigen {
    /// Of the column-major matrix of which the lower triangle is given.
    fn new(mut a: Vec<f64>, n: usize) -> Result<Self, Fault> {
        let Tridiagonal { diagonal, mut beside, taus } = tridiagonal(&mut a, n);
        let factors = blocks(&a, n, &taus, recommended_block_size::<f64>(n, n));
        beside.push(0.0);
        let mut inner = Mat::<f64>::zeros(n, n);
        let mut values = vec![0.0; n];
        let vectors = ComputeEigenvectors::Yes;
        let mut memory = room(self_adjoint_evd_scratch::<f64>(n, vectors, PAR, Default::default()))?;
        tridiagonal_self_adjoint_evd(
            ColRef::from_slice(&diagonal).as_diagonal(),
            ColRef::from_slice(&beside).as_diagonal(),
            ColMut::from_slice_mut(&mut values).as_diagonal_mut(),
            Some(inner.as_mut()),
            PAR,
            MemStack::new(&mut memory),
            Default::default(),
        )
        .map_err(|_| Fault::NoConvergence)?;
        Ok(Self { values, inner, reflections: a, factors })
    }

    /// Eigenvectors of the `rank` largest eigenvalues, largest first, one after the other.
    fn vectors(&self, rank: usize) -> Result<Vec<f64>, Fault> {
        let n = self.inner.nrows();
        let mut vectors: Vec<f64> =
            (0..rank).flat_map(|t| self.inner.col(n - 1 - t).iter().copied()).collect();
        let reflections = MatRef::from_column_major_slice(&self.reflections, n, n);
        let reflections = reflections.submatrix(1, 0, n - 1, n - 1);
        parallel::try_map_vec(vectors.chunks_mut(PANEL * n).collect(), |columns| {
            let width = columns.len() / n;
            let mut memory = room(reflect_scratch::<f64>(n - 1, self.factors.nrows(), width))?;
            let stack = MemStack::new(&mut memory);
            let columns = MatMut::from_column_major_slice_mut(columns, n, width).subrows_mut(1, n - 1);
            reflect(reflections, self.factors.as_ref(), Conj::No, columns, PAR, stack);
            Ok::<_, Fault>(())
        })?;
        Ok(vectors)
    }
}

fn room(need: StackReq) -> Result<MemBuffer, Fault> {
    MemBuffer::try_new(need).map_err(|_| Fault::Form("the decomposition does not fit in memory"))
}

/// `a vectors`, row-major, or its transpose.
fn project(a: MatRef<'_, f64>, vectors: MatRef<'_, f64>, by_row: bool) -> Vec<f64> {
    let (left, right) = if by_row { (a, vectors) } else { (vectors.transpose(), a.transpose()) };
    let width = right.ncols();
    let mut values = vec![0.0; left.nrows() * width];
    let panel = PANEL.min(left.nrows());
    parallel::for_each_chunk(&mut values, panel * width, |i, rows| {
        let height = rows.len() / width;
        let rows = MatMut::from_row_major_slice_mut(rows, height, width);
        matmul(rows, Accum::Replace, left.subrows(i * panel, height), right, 1.0, PAR);
    });
    values
}
