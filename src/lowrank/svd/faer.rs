//! The decomposition by faer.

use super::Thin;
use crate::{Fault, Float};
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::svd::{ComputeSvdVectors, svd, svd_scratch};
use faer::traits::RealField;
use faer::{Mat, MatRef, Par};

/// One thread: faer's result differs in its last bits with the number of threads, and ours must not.
/// Weights are decomposed side by side instead.
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
