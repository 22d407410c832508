//! Singular value decompositions: one interface, two backends.

#[cfg(feature = "faer")]
mod faer;
#[cfg(feature = "lapack")]
mod lapack;

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

/// A thin decomposition of an `m` x `n` matrix, `k = min(m, n)`, divided by `4^exponent`.
#[derive(Debug)]
pub(super) struct Thin<T> {
    /// Keeps squares of very large and very small entries within the number type; usually 0.
    pub exponent: i32,
    /// Left singular vectors `[m, k]`, row-major.
    pub left: Vec<T>,
    /// Singular values, largest first.
    pub singular: Vec<f64>,
    /// Right singular vectors, transposed: `[k, n]`, row-major.
    pub right: Vec<T>,
}

impl<T: Float> Thin<T> {
    /// The factors of rank `r`: `U [m, r]` and `V [r, n]`, each with the square roots of the singular
    /// values.
    pub fn split(&self, rank: usize) -> (Vec<T>, Vec<T>) {
        let k = self.singular.len().max(1);
        let roots: Vec<T> = self.singular[..rank]
            .iter()
            .map(|s| T::narrow(libm::ldexp(s.max(0.0).sqrt(), self.exponent)))
            .collect();
        let u = self.left.chunks(k).flat_map(|row| row.iter().zip(&roots).map(|(x, s)| *x * *s)).collect();
        let n = self.right.len() / k;
        let v = self
            .right
            .chunks(n.max(1))
            .zip(&roots)
            .flat_map(|(row, s)| row.iter().map(|x| *x * *s))
            .collect();
        (u, v)
    }
}

impl Svd {
    /// The thin decomposition of the finite, row-major matrix `a [rows, cols]`, neither of them 0.
    pub(super) fn thin<T: Float>(self, a: &[T], rows: usize, cols: usize) -> Result<Thin<T>, Fault> {
        let largest = a.iter().fold(T::zero(), |most, x| most.max(x.abs()));
        let exponent = if largest > T::zero() { libm::ilogb(largest.widen()) / 2 } else { 0 };
        if exponent.abs() > MAX_EXPONENT {
            let a: Vec<T> = a.iter().map(|x| T::narrow(libm::ldexp(x.widen(), -2 * exponent))).collect();
            return Ok(Thin { exponent, ..self.decompose(&a, rows, cols)? });
        }
        self.decompose(a, rows, cols)
    }

    fn decompose<T: Float>(self, a: &[T], rows: usize, cols: usize) -> Result<Thin<T>, Fault> {
        // The backends know f32 and f64, and `T` is one of them.
        #[cfg(feature = "faer")]
        if T::DTYPE == DType::F32 && matches!(self, Self::Faer) {
            // faer in f32 can be off by a thousand roundings (2.5e-4 of the largest singular value for a
            // constant 216 x 320), so it works in f64 here.
            let wide: Vec<f64> = a.iter().map(|x| x.widen()).collect();
            let thin = self.run::<f64>(&wide, rows, cols)?;
            let narrow = |x: Vec<f64>| x.into_iter().map(T::narrow).collect();
            return Ok(Thin {
                exponent: thin.exponent,
                left: narrow(thin.left),
                singular: thin.singular,
                right: narrow(thin.right),
            });
        }
        if T::DTYPE == DType::F32 {
            self.run::<f32>(bytemuck::cast_slice(a), rows, cols).map(cast)
        } else {
            self.run::<f64>(bytemuck::cast_slice(a), rows, cols).map(cast)
        }
    }

    fn run<T: Backend>(self, a: &[T], rows: usize, cols: usize) -> Result<Thin<T>, Fault> {
        match self {
            #[cfg(feature = "faer")]
            Self::Faer => faer::thin(a, rows, cols),
            #[cfg(feature = "lapack")]
            Self::Lapack => lapack::thin(a, rows, cols),
            #[cfg(not(feature = "faer"))]
            Self::Faer => missing(a, rows, cols, "faer"),
            #[cfg(not(feature = "lapack"))]
            Self::Lapack => missing(a, rows, cols, "lapack"),
        }
    }
}

#[cfg(not(all(feature = "faer", feature = "lapack")))]
fn missing<T>(_: &[T], _: usize, _: usize, feature: &'static str) -> Result<Thin<T>, Fault> {
    Err(Fault::Unsupported { what: "this singular value decomposition", feature })
}

fn cast<A: bytemuck::Pod, B: bytemuck::Pod>(thin: Thin<A>) -> Thin<B> {
    Thin {
        exponent: thin.exponent,
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
                let thin = svd.thin(&a, m, n).unwrap();
                let k = m.min(n);
                prop_assert_eq!(thin.singular.len(), k);
                prop_assert!(thin.singular.windows(2).all(|w| w[0] >= w[1]));
                let rank = r.min(k);
                let (u, v) = thin.split(rank);
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
                let (u, v) = svd.thin(&[x; 12], 3, 4).unwrap().split(1);
                let product = f64::from(u[0]) * f64::from(v[0]);
                assert!((product / f64::from(x) - 1.0).abs() < 1e-5, "{svd:?} {x}: {product}");
            }
        }
    }

    #[test]
    fn rank_deficient_and_zero_matrices_decompose() {
        for svd in backends() {
            let thin = svd.thin(&[0.0_f32; 12], 3, 4).unwrap();
            assert!(thin.singular.iter().all(|s| *s == 0.0));
            let ones = svd.thin(&[1.0_f32; 12], 4, 3).unwrap();
            assert!((ones.singular[0] - 12_f64.sqrt()).abs() < 1e-5 && ones.singular[1] < 1e-5);
        }
    }
}
