//! The decomposition by faer.

use super::Thin;
use crate::{DType, Fault, Float, parallel};
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::matmul::matmul;
use faer::linalg::svd::{ComputeSvdVectors, svd, svd_scratch};
use faer::traits::RealField;
use faer::{Accum, Mat, MatMut, MatRef, Par};

/// One thread: faer's result differs in its last bits with the number of threads, and ours must not. Work is
/// divided around faer, into parts that are always the same, and weights are decomposed side by side.
pub(super) const PAR: Par = Par::Seq;

pub(super) fn thin<T: Float + RealField>(a: &[T], rows: usize, cols: usize) -> Result<Thin<T>, Fault> {
    let a = MatRef::from_row_major_slice(a, rows, cols);
    let k = rows.min(cols);
    let mut left = Mat::<T>::zeros(rows, k);
    let mut right = Mat::<T>::zeros(cols, k);
    let mut singular = faer::Col::<T>::zeros(k);
    let vectors = ComputeSvdVectors::Thin;
    let mut memory =
        MemBuffer::try_new(svd_scratch::<T>(rows, cols, vectors, vectors, PAR, Default::default()))
            .map_err(|_| Fault::Form("the decomposition does not fit in memory"))?;
    svd(
        a,
        singular.as_diagonal_mut(),
        Some(left.as_mut()),
        Some(right.as_mut()),
        PAR,
        MemStack::new(&mut memory),
        Default::default(),
    )
    .map_err(|_| Fault::NoConvergence)?;
    Ok(Thin {
        left: (0..rows).flat_map(|i| (0..k).map(move |j| (i, j))).map(|(i, j)| left[(i, j)]).collect(),
        singular: (0..k).map(|i| singular[i].widen()).collect(),
        right: (0..k).flat_map(|i| right.col(i).iter().copied().collect::<Vec<_>>()).collect(),
    })
}

/// `c [m, n] = op(a) [m, k] * op(b) [k, n]`, or `c` minus that where `subtract`; all row-major, `true` beside an operand
/// that is stored transposed.
pub(super) fn multiply<T: Float>(
    shape: [usize; 3],
    a: (&[T], bool),
    b: (&[T], bool),
    subtract: bool,
    c: &mut [T],
) {
    use bytemuck::{cast_slice, cast_slice_mut};
    if T::DTYPE == DType::F32 {
        let (a, b) = ((cast_slice(a.0), a.1), (cast_slice(b.0), b.1));
        multiply_as::<f32>(shape, a, b, subtract, cast_slice_mut(c));
    } else {
        let (a, b) = ((cast_slice(a.0), a.1), (cast_slice(b.0), b.1));
        multiply_as::<f64>(shape, a, b, subtract, cast_slice_mut(c));
    }
}

fn multiply_as<T: Float + RealField>(
    [m, k, n]: [usize; 3],
    (a, a_turned): (&[T], bool),
    (b, b_turned): (&[T], bool),
    subtract: bool,
    c: &mut [T],
) {
    /// Parts of the result: on whatever threads, always the same.
    const PARTS: usize = 8;
    const MIN_ROWS: usize = 64;
    let view = |values, rows, cols, turned| match turned {
        true => MatRef::from_column_major_slice(values, rows, cols),
        false => MatRef::from_row_major_slice(values, rows, cols),
    };
    let (a, b) = (view(a, m, k, a_turned), view(b, k, n, b_turned));
    let rows = m.div_ceil(PARTS).max(MIN_ROWS);
    let (accum, by) = if subtract { (Accum::Add, -T::one()) } else { (Accum::Replace, T::one()) };
    parallel::for_each_chunk(c, rows * n, |i, c| {
        let height = c.len() / n;
        let c = MatMut::from_row_major_slice_mut(c, height, n);
        matmul(c, accum, a.subrows(i * rows, height), b, by, PAR);
    });
}
