//! The decomposition by LAPACK, through ndarray-linalg.

use super::Thin;
use crate::{Fault, Float};
use ndarray::ArrayView2;
use ndarray_linalg::{JobSvd, Lapack, SVDDC};

/// A number that LAPACK knows.
pub(super) trait Number: Lapack<Real: Float> {}

impl Number for f32 {}
impl Number for f64 {}

pub(super) fn thin<T: Float + Number>(a: &[T], rows: usize, cols: usize) -> Result<Thin<T>, Fault> {
    let a = ArrayView2::from_shape((rows, cols), a).map_err(|_| Fault::Form("not a matrix"))?;
    // Divide and conquer: the plain algorithm is many times slower.
    let (left, singular, right) = a.svddc(JobSvd::Some).map_err(|_| Fault::NoConvergence)?;
    let (Some(left), Some(right)) = (left, right) else { return Err(Fault::NoConvergence) };
    Ok(Thin {
        left: left.iter().copied().collect(),
        singular: singular.iter().map(|s| s.widen()).collect(),
        right: right.iter().copied().collect(),
    })
}
