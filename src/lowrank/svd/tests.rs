//! The approximate and the single-precision decompositions against exact ones in double precision.

use super::{Factors, Keep, Svd, krylov};
use crate::Float;
use proptest::prelude::*;

fn backends() -> Vec<Svd> {
    [(cfg!(feature = "faer"), Svd::Faer), (cfg!(feature = "lapack"), Svd::Lapack)]
        .into_iter()
        .filter_map(|(there, svd)| there.then_some(svd))
        .collect()
}

fn uniform(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed | 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1 << 24) as f64 - 0.5
    };
    std::iter::repeat_with(next).take(n).collect()
}

/// A matrix with singular values that fall off as `spectrum` says, from two random bases.
fn matrix([m, n]: [usize; 2], seed: u64, spectrum: impl Fn(usize) -> f64) -> Vec<f64> {
    let k = m.min(n);
    let mut out = vec![0.0; m * n];
    let basis = |len, seed| {
        let mut columns: Vec<Vec<f64>> = Vec::new();
        for i in 0..k {
            let mut x = uniform(len, seed + 7 * i as u64);
            for _ in 0..2 {
                for column in &columns {
                    let dot: f64 = x.iter().zip(column).map(|(a, b)| a * b).sum();
                    x.iter_mut().zip(column).for_each(|(a, b)| *a -= dot * b);
                }
            }
            let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
            x.iter_mut().for_each(|x| *x /= norm);
            columns.push(x);
        }
        columns
    };
    for (i, (u, v)) in basis(m, seed).iter().zip(&basis(n, seed + 1_000_003)).enumerate() {
        let s = spectrum(i);
        for (row, a) in out.chunks_mut(n).zip(u) {
            row.iter_mut().zip(v).for_each(|(x, b)| *x += s * a * b);
        }
    }
    out
}

fn error<T: Float>(a: &[T], [m, n]: [usize; 2], factors: &Factors<T>) -> f64 {
    let r = factors.rank;
    assert_eq!((factors.u.len(), factors.v.len()), (m * r, r * n));
    let mut sum = 0.0;
    for i in 0..m {
        for j in 0..n {
            let x: f64 = (0..r).map(|t| factors.u[i * r + t].widen() * factors.v[t * n + j].widen()).sum();
            sum += (a[i * n + j].widen() - x).powi(2);
        }
    }
    sum.sqrt()
}

fn about<T: Float>(svd: Svd, a: &[T], shape: [usize; 2], rank: usize) -> Factors<T> {
    svd.factors(a, shape, Keep::About(rank)).unwrap().unwrap()
}

fn exact<T: Float>(svd: Svd, a: &[T], shape: [usize; 2], rank: usize) -> Factors<T> {
    svd.factors(a, shape, Keep::Chosen(&|_| Some(rank))).unwrap().unwrap()
}

fn narrow(a: &[f64]) -> Vec<f32> {
    a.iter().map(|x| *x as f32).collect()
}

/// The least error, from the singular values in double precision.
fn least(svd: Svd, a: &[f64], [m, n]: [usize; 2], rank: usize) -> f64 {
    let thin = svd.thin(a, [m, n]).unwrap();
    thin.singular[rank..].iter().map(|s| s * s).sum::<f64>().sqrt()
}

type Spectrum = (&'static str, fn(usize) -> f64);

const SPECTRA: [Spectrum; 6] = [
    ("flat", |_| 1.0),
    ("linear", |i| 1.0 - i as f64 / 400.0),
    ("root", |i| (i as f64 + 1.0).powf(-0.5)),
    ("inverse", |i| 1.0 / (i as f64 + 1.0)),
    ("exponential", |i| (-(i as f64) / 20.0).exp()),
    ("step", |i| if i < 12 { 1.0 } else { 0.1 }),
];

#[test]
fn a_low_rank_is_within_one_percent_of_the_least_error() {
    for svd in backends() {
        for (name, spectrum) in SPECTRA {
            for (shape, rank) in [([300, 200], 8), ([200, 300], 14), ([230, 230], 16), ([120, 700], 4)] {
                assert!(krylov::pays(rank, shape));
                let a = matrix(shape, 3, spectrum);
                let least = least(svd, &a, shape, rank);
                let found = error(&a, shape, &about(svd, &a, shape, rank));
                assert!(found >= least * (1.0 - 1e-9), "{name} {shape:?}: {found} below {least}");
                assert!(found <= 1.01 * least, "{svd:?} {name} {shape:?}: {found} {least}");
                let single = narrow(&a);
                let found = error(&single, shape, &about(svd, &single, shape, rank));
                assert!(found <= 1.01 * least + 1e-5, "{svd:?} {name} {shape:?}, f32: {found} {least}");
            }
        }
        // Entries without structure, as those of an untrained layer.
        let (shape, rank) = ([500, 400], 32);
        let a = uniform(500 * 400, 9);
        let found = error(&a, shape, &about(svd, &a, shape, rank));
        assert!(found <= 1.01 * least(svd, &a, shape, rank));
    }
}

#[test]
fn single_precision_is_exact_to_its_roundings() {
    for svd in backends() {
        // LAPACK works in single precision throughout, so its error grows with the size of the matrix; ours is
        // that of rounding the factors.
        let roundings = if svd == Svd::Lapack { 50.0 } else { 10.0 };
        for (name, spectrum) in SPECTRA {
            for shape in [[60, 40], [40, 60], [216, 320], [150, 150]] {
                let a = narrow(&matrix(shape, 5, spectrum));
                let all = exact(svd, &a, shape, shape[0].min(shape[1]));
                let found = error(&a, shape, &all);
                let norm = a.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
                let most = roundings * f64::from(f32::EPSILON) * norm;
                assert!(found <= most, "{svd:?} {name} {shape:?}: {found}, at most {most}");
            }
        }
        let constant = vec![0.37_f32; 216 * 320];
        let one = exact(svd, &constant, [216, 320], 1);
        assert!(error(&constant, [216, 320], &one) <= 1e-5 * 97.0);
    }
}

#[test]
fn matrices_of_lower_rank_than_asked_for() {
    let shape = [260, 300];
    for svd in backends() {
        for rank in [0, 1, 3, 8] {
            let a = narrow(&matrix(shape, 11, |i| if i < rank { 1.0 } else { 0.0 }));
            let factors = about(svd, &a, shape, 20);
            assert_eq!(factors.rank, 20);
            assert!(factors.u.iter().chain(&factors.v).all(|x| x.is_finite()));
            assert!(error(&a, shape, &factors) <= 1e-5, "{svd:?} {rank}");
        }
        for x in [0.25_f32, f32::MAX / 4.0, 1e-40] {
            let constant = vec![x; 260 * 300];
            let factors = about(svd, &constant, shape, 9);
            let (u, v) = (&factors.u, &factors.v);
            let product = |i: usize, j: usize| -> f64 {
                (0..9).map(|t| f64::from(u[i * 9 + t]) * f64::from(v[t * 300 + j])).sum()
            };
            for (i, j) in [(0, 0), (259, 299), (100, 7)] {
                assert!((product(i, j) / f64::from(x) - 1.0).abs() < 1e-5, "{svd:?} {x} {}", product(i, j));
            }
        }
        // All but one entry zero.
        let mut a = vec![0.0_f64; 260 * 300];
        a[77 * 300 + 5] = -3.0;
        let factors = about(svd, &a, shape, 5);
        assert!(error(&a, shape, &factors) <= 1e-12);
    }
}

#[cfg(all(feature = "threads", feature = "faer"))]
#[test]
fn threads_do_not_matter() {
    let shape = [900, 700];
    let a = narrow(&uniform(900 * 700, 21));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (low, high) = (about(Svd::Faer, &a, shape, 40), exact(Svd::Faer, &a, shape, 40));
            [low.u, low.v, high.u, high.v]
        })
    };
    assert_eq!(run(1), run(3));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_shape_and_rank(m in 1_usize..260, n in 1_usize..260, rank in 1_usize..20, seed in any::<u64>(), ties in any::<bool>()) {
        let rank = rank.min(m).min(n);
        let mut a = uniform(m * n, seed);
        if ties {
            a.iter_mut().for_each(|x| *x = (*x * 4.0).round());
        }
        for svd in backends() {
            let least = least(svd, &a, [m, n], rank);
            let norm = a.iter().map(|x| x * x).sum::<f64>().sqrt();
            let single = narrow(&a);
            let found = error(&single, [m, n], &about(svd, &single, [m, n], rank));
            prop_assert!(found <= 1.01 * least + 1e-5 * norm, "{:?}: {} {}", svd, found, least);
            let found = error(&single, [m, n], &exact(svd, &single, [m, n], rank));
            prop_assert!((found - least).abs() <= 1e-5 * norm, "{:?}: {} {}", svd, found, least);
        }
    }
}
