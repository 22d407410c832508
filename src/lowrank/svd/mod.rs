//! Singular value decompositions: one interface, two backends.

#[cfg(feature = "faer")]
mod faer;
#[cfg(feature = "faer")]
mod gram;
mod krylov;
#[cfg(feature = "lapack")]
mod lapack;
#[cfg(feature = "faer")]
mod tridiagonal;

use crate::{DType, Fault, Float};
use serde::{Deserialize, Serialize};

/// Who computes a singular value decomposition. Chosen as a value, so that one build can have both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Svd {
    /// The crate faer: pure Rust. Needs the feature `faer`, which is on by default.
    #[default]
    Faer,
    /// LAPACK's `gesdd` through ndarray-linalg and the system's OpenBLAS. Needs the feature `lapack`. Its
    /// last bits depend on the machine's BLAS.
    Lapack,
}

/// Matrices whose largest entry is within `4^-15` to `4^15` are decomposed as they are.
const MAX_EXPONENT: i32 = 15;

/// Of the singular values, largest first, how many to keep; `None` where no factors are wanted.
pub(super) type Choose<'a> = &'a dyn Fn(&[f64]) -> Option<usize>;

/// How many singular values to keep.
pub(super) enum Keep<'a> {
    /// So many, fewer than there are. May be approximate, within 1 % of the least error.
    About(usize),
    /// As many as the singular values say, exactly.
    Chosen(Choose<'a>),
}

/// `U [m, r]` and `V [r, n]`, row-major, each with the square roots of the singular values.
#[derive(Debug)]
pub(super) struct Factors<T> {
    pub rank: usize,
    pub u: Vec<T>,
    pub v: Vec<T>,
}

impl<T: Float> Factors<T> {
    /// The same product with columns and rows of zeros up to `rank`.
    fn padded(self, rank: usize, [m, n]: [usize; 2]) -> Self {
        if self.rank >= rank {
            return self;
        }
        let mut u = vec![T::zero(); m * rank];
        if self.rank > 0 {
            for (to, row) in u.chunks_mut(rank).zip(self.u.chunks(self.rank)) {
                to[..self.rank].copy_from_slice(row);
            }
        }
        let mut v = self.v;
        v.resize(rank * n, T::zero());
        Self { rank, u, v }
    }

    /// Of factors of a matrix that was divided by `4^exponent`, those of the matrix.
    fn scaled(mut self, exponent: i32) -> Self {
        if exponent != 0 {
            let scale = |x: &mut T| *x = T::narrow(libm::ldexp(x.widen(), exponent));
            self.u.iter_mut().for_each(scale);
            self.v.iter_mut().for_each(scale);
        }
        self
    }
}

/// A thin decomposition of an `m` x `n` matrix, `k = min(m, n)`.
#[derive(Debug)]
struct Thin<T> {
    /// Left singular vectors `[m, k]`, row-major.
    left: Vec<T>,
    /// Singular values, largest first.
    singular: Vec<f64>,
    /// Right singular vectors, transposed: `[k, n]`, row-major.
    right: Vec<T>,
}

impl<T: Float> Thin<T> {
    fn split(&self, rank: usize) -> Factors<T> {
        let k = self.singular.len().max(1);
        let roots: Vec<T> = self.singular[..rank].iter().map(|s| T::narrow(s.max(0.0).sqrt())).collect();
        let u = self.left.chunks(k).flat_map(|row| row.iter().zip(&roots).map(|(x, s)| *x * *s)).collect();
        let n = self.right.len() / k;
        let v = self
            .right
            .chunks(n.max(1))
            .zip(&roots)
            .flat_map(|(row, s)| row.iter().map(|x| *x * *s))
            .collect();
        Factors { rank, u, v }
    }
}

impl Svd {
    /// Factors of the finite, row-major matrix `a` of this shape, neither side 0; `None` where the choice is
    /// to have none.
    pub(super) fn factors<T: Float>(
        self,
        a: &[T],
        shape: [usize; 2],
        keep: Keep<'_>,
    ) -> Result<Option<Factors<T>>, Fault> {
        self.available()?;
        let largest = a.iter().fold(T::zero(), |most, x| most.max(x.abs()));
        let exponent = if largest > T::zero() { libm::ilogb(largest.widen()) / 2 } else { 0 };
        if exponent.abs() <= MAX_EXPONENT {
            return self.factors_of_scaled(a, shape, keep);
        }
        let a: Vec<T> = a.iter().map(|x| T::narrow(libm::ldexp(x.widen(), -2 * exponent))).collect();
        Ok(self.factors_of_scaled(&a, shape, keep)?.map(|factors| factors.scaled(exponent)))
    }

    fn factors_of_scaled<T: Float>(
        self,
        a: &[T],
        shape: [usize; 2],
        keep: Keep<'_>,
    ) -> Result<Option<Factors<T>>, Fault> {
        match keep {
            Keep::About(rank) if krylov::pays(rank, shape) => {
                // A rounding of `T` is all that is asked of the small decomposition.
                let small = |a: &[f64], shape, rank| {
                    let factors = self.exact(a, shape, T::DTYPE, &|_| Some(rank))?;
                    factors.ok_or(Fault::NoConvergence)
                };
                krylov::factors(a, shape, rank, small).map(Some)
            }
            Keep::About(rank) => self.exact(a, shape, T::DTYPE, &|_| Some(rank)),
            Keep::Chosen(choose) => self.exact(a, shape, T::DTYPE, choose),
        }
    }

    /// By the whole decomposition, to the precision of `precision`.
    fn exact<T: Float>(
        self,
        a: &[T],
        shape: [usize; 2],
        precision: DType,
        choose: Choose<'_>,
    ) -> Result<Option<Factors<T>>, Fault> {
        #[cfg(feature = "faer")]
        if precision == DType::F32 && matches!(self, Self::Faer) {
            // faer's own decomposition in f32 is off by a hundred roundings, and takes longer.
            return gram::factors(a, shape, choose);
        }
        let _ = precision;
        let thin = self.thin(a, shape)?;
        Ok(choose(&thin.singular).map(|rank| thin.split(rank)))
    }

    fn thin<T: Float>(self, a: &[T], [rows, cols]: [usize; 2]) -> Result<Thin<T>, Fault> {
        // The backends know f32 and f64, and `T` is one of them.
        if T::DTYPE == DType::F32 {
            self.run::<f32>(bytemuck::cast_slice(a), rows, cols).map(cast)
        } else {
            self.run::<f64>(bytemuck::cast_slice(a), rows, cols).map(cast)
        }
    }

    /// An error before any work, where this build cannot do it.
    fn available(self) -> Result<(), Fault> {
        let feature = match self {
            Self::Faer if !cfg!(feature = "faer") => "faer",
            Self::Lapack if !cfg!(feature = "lapack") => "lapack",
            Self::Faer | Self::Lapack => return Ok(()),
        };
        Err(Fault::Unsupported { what: "this singular value decomposition", feature })
    }

    fn run<T: Backend>(self, a: &[T], rows: usize, cols: usize) -> Result<Thin<T>, Fault> {
        match self {
            #[cfg(feature = "faer")]
            Self::Faer => faer::thin(a, rows, cols),
            #[cfg(feature = "lapack")]
            Self::Lapack => lapack::thin(a, rows, cols),
            #[cfg(not(all(feature = "faer", feature = "lapack")))]
            _ => {
                let _ = (a, rows, cols);
                self.available().and(Err(Fault::NoConvergence))
            }
        }
    }
}

/// The product of row-major matrices, by the fastest there is: see [`faer::multiply`].
#[cfg(feature = "faer")]
use faer::multiply;

/// The same without it.
#[cfg(not(feature = "faer"))]
fn multiply<T: Float>(shape: [usize; 3], a: (&[T], bool), b: (&[T], bool), subtract: bool, c: &mut [T]) {
    let (alpha, beta) = if subtract { (-T::one(), T::one()) } else { (T::one(), T::zero()) };
    T::gemm(shape, alpha, a, b, beta, c);
}

/// What `f` makes of the row-major `values [rows, cols]`, transposed.
fn transposed<A: Copy, B: Copy + Default>(values: &[A], cols: usize, f: impl Fn(A) -> B) -> Vec<B> {
    /// Numbers of a column that are written together: a line of the caches.
    const TILE: usize = 16;
    let mut out = vec![B::default(); values.len()];
    let rows = values.len() / cols.max(1);
    for first in (0..rows).step_by(TILE) {
        let some = &values[first * cols..rows.min(first + TILE) * cols];
        for (t, column) in out.chunks_mut(rows).enumerate() {
            let to = column[first..].iter_mut();
            to.zip(some.chunks(cols)).for_each(|(to, row)| *to = f(row[t]));
        }
    }
    out
}

/// The whole decomposition as factors, for the benches: their number of entries.
///
/// # Errors
/// What is wrong with it.
#[cfg(feature = "bench")]
pub fn thin_svd(a: &[f32], rows: usize, cols: usize) -> Result<usize, Fault> {
    let factors = Svd::default().factors(a, [rows, cols], Keep::Chosen(&|all| Some(all.len())))?;
    Ok(factors.map_or(0, |factors| factors.u.len() + factors.v.len()))
}

fn cast<A: bytemuck::Pod, B: bytemuck::Pod>(thin: Thin<A>) -> Thin<B> {
    Thin {
        left: bytemuck::allocation::cast_vec(thin.left),
        singular: thin.singular,
        right: bytemuck::allocation::cast_vec(thin.right),
    }
}

/// What the backends that are compiled in ask of a number.
#[cfg(all(feature = "faer", feature = "lapack"))]
trait Backend: Float + ::faer::traits::RealField + lapack::Number {}
#[cfg(all(feature = "faer", not(feature = "lapack")))]
trait Backend: Float + ::faer::traits::RealField {}
#[cfg(all(not(feature = "faer"), feature = "lapack"))]
trait Backend: Float + lapack::Number {}
#[cfg(not(any(feature = "faer", feature = "lapack")))]
trait Backend: Float {}

impl Backend for f32 {}
impl Backend for f64 {}

#[cfg(all(test, any(feature = "faer", feature = "lapack")))]
#[path = "tests.rs"]
mod against_double;

#[cfg(all(test, any(feature = "faer", feature = "lapack")))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn backends() -> Vec<Svd> {
        let mut all = Vec::new();
        if cfg!(feature = "faer") {
            all.push(Svd::Faer);
        }
        if cfg!(feature = "lapack") {
            all.push(Svd::Lapack);
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn the_error_is_the_discarded_energy(m in 1_usize..20, n in 1_usize..20, seed in any::<u64>(), r in 1_usize..20) {
            let mut state = seed | 1;
            let a: Vec<f64> = (0..m * n).map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 40) as f64 / (1 << 24) as f64 - 0.5
            }).collect();
            for svd in backends() {
                let thin = svd.thin(&a, [m, n]).unwrap();
                let k = m.min(n);
                prop_assert_eq!(thin.singular.len(), k);
                prop_assert!(thin.singular.windows(2).all(|w| w[0] >= w[1]));
                let rank = r.min(k);
                let Factors { u, v, .. } = thin.split(rank);
                let mut error = 0.0;
                for i in 0..m {
                    for j in 0..n {
                        let x: f64 = (0..rank).map(|t| u[i * rank + t] * v[t * n + j]).sum();
                        error += (a[i * n + j] - x).powi(2);
                    }
                }
                let discarded: f64 = thin.singular[rank..].iter().map(|s| s * s).sum();
                prop_assert!((error - discarded).abs() < 1e-10, "{svd:?}: {error} {discarded}");
            }
        }
    }

    #[test]
    fn very_large_and_very_small_matrices_decompose() {
        for svd in backends() {
            for x in [f32::MAX, f32::MIN_POSITIVE, 1e-43] {
                let factors = svd.factors(&[x; 12], [3, 4], Keep::About(1)).unwrap().unwrap();
                let product = f64::from(factors.u[0]) * f64::from(factors.v[0]);
                assert!((product / f64::from(x) - 1.0).abs() < 1e-5, "{svd:?} {x}: {product}");
            }
        }
    }

    #[test]
    fn rank_deficient_and_zero_matrices_decompose() {
        for svd in backends() {
            let all = |a: &[f32], shape, expected: f64| {
                let keep = |singular: &[f64]| {
                    assert!((singular[0] - expected).abs() < 1e-5 && singular[1] < 1e-5);
                    Some(singular.len())
                };
                svd.factors(a, shape, Keep::Chosen(&keep)).unwrap().unwrap()
            };
            let zero = all(&[0.0; 12], [3, 4], 0.0);
            assert!(zero.u.iter().all(|x| *x == 0.0) && zero.v.iter().all(|x| *x == 0.0));
            let ones = all(&[1.0; 12], [4, 3], 12_f64.sqrt());
            assert!((ones.u[0] * ones.v[0] - 1.0).abs() < 1e-5);
        }
    }
}
