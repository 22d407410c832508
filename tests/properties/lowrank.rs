//! Statement 4: truncated decompositions.

use crate::cases::*;
use bantam::{Error, LeftAlone, LowRankFactorizer, Pipeline, Refusal, WeightCompressor};
use proptest::prelude::*;

/// Eigenvalues of a symmetric matrix by Jacobi rotations, largest first.
fn eigenvalues(mut a: Vec<f64>, n: usize) -> Vec<f64> {
    for _ in 0..60 {
        for p in 0..n {
            for q in p + 1..n {
                if a[p * n + q].abs() < 1e-300 {
                    continue;
                }
                let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * a[p * n + q]);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let t = if theta == 0.0 { 1.0 } else { t };
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for k in 0..n {
                    let (x, y) = (a[k * n + p], a[k * n + q]);
                    (a[k * n + p], a[k * n + q]) = (c * x - s * y, s * x + c * y);
                }
                for k in 0..n {
                    let (x, y) = (a[p * n + k], a[q * n + k]);
                    (a[p * n + k], a[q * n + k]) = (c * x - s * y, s * x + c * y);
                }
            }
        }
    }
    let mut values: Vec<f64> = (0..n).map(|i| a[i * n + i].max(0.0)).collect();
    values.sort_by(|a, b| b.total_cmp(a));
    values
}

/// Squared singular values of a matrix.
fn energies(a: &[f64], m: usize, n: usize) -> Vec<f64> {
    let gram: Vec<f64> =
        (0..n * n).map(|i| (0..m).map(|r| a[r * n + i / n] * a[r * n + i % n]).sum()).collect();
    eigenvalues(gram, n)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn statement_4_the_error_is_the_discarded_energy(
        m in 2_usize..16, n in 2_usize..12, rank in 1_usize..12, seed in any::<u64>(),
        look in prop::sample::select(vec![Look::Mixed, Look::Ties, Look::Constant, Look::Distinct]),
    ) {
        let case = Case { shape: vec![m, n], look, seed };
        let before = case.tensor::<f64>();
        let after = LowRankFactorizer::rank(rank).apply(before.clone()).unwrap();
        if rank * (m + n) >= m * n {
            prop_assert!(!after.form().factored);
            return Ok(());
        }
        prop_assert_eq!(after.rank(), Some(rank));
        let error: f64 = before.iter().zip(after.to_dense().unwrap().iter()).map(|(a, b)| (a - b) * (a - b)).sum();
        let energies = energies(before.as_slice(), m, n);
        let (all, discarded): (f64, f64) = (energies.iter().sum(), energies[rank.min(n)..].iter().sum());
        prop_assert!((error - discarded).abs() <= 1e-9 * all, "{} {}", error, discarded);
    }

    #[test]
    fn statement_4_energy_keeps_the_smallest_rank_that_is_enough(
        m in 4_usize..16, n in 4_usize..12, fraction in 0.1_f64..0.99, seed in any::<u64>(),
    ) {
        let case = Case { shape: vec![m, n], look: Look::Mixed, seed };
        let before = case.tensor::<f64>();
        let after = LowRankFactorizer::energy(fraction).apply(before.clone()).unwrap();
        let energies = energies(before.as_slice(), m, n);
        let all: f64 = energies.iter().sum();
        let kept = |r: usize| energies[..r].iter().sum::<f64>() / all;
        match after.rank() {
            Some(r) => prop_assert!(kept(r) >= fraction - 1e-9 && (r == 1 || kept(r - 1) < fraction + 1e-9)),
            None => {
                let r = (1..=n).find(|r| kept(*r) >= fraction - 1e-9).unwrap_or(n);
                prop_assert!((r + 1) * (m + n) >= m * n);
            }
        }
    }

    #[test]
    fn statement_4_factors_of_awkward_tensors_are_finite(case in any_case(), rank in 1_usize..6) {
        let before = case.tensor::<f32>();
        let after = LowRankFactorizer::rank(rank).apply(before.clone()).unwrap();
        for leaf in after.leaves() {
            prop_assert!(leaf.to_vec().unwrap().iter().all(|x| x.is_finite()), "{:?}", after.rank());
        }
        if case.look == Look::Zero || case.look == Look::Constant {
            // A decomposition in f32 errs by a few roundings of the largest singular value.
            let norm = before.iter().map(|x| x * x).sum::<f32>().sqrt();
            for (a, b) in before.iter().zip(after.to_dense().unwrap().iter()) {
                prop_assert!((a - b).abs() <= 4.0 * f32::EPSILON * norm, "{} {} of {}", a, b, norm);
            }
        }
    }

    #[test]
    fn statement_4_break_even_leaves_the_weight_and_says_so(m in 1_usize..20, n in 1_usize..20, rank in 1_usize..20) {
        let case = Case { shape: vec![m, n], look: Look::Distinct, seed: 7 };
        let steps = || Pipeline::new().factorize(rank);
        let after = steps().run(case.tensor::<f32>()).unwrap();
        let row = &after.report.weights[0];
        let strict = steps().strict().run(case.tensor::<f32>());
        if rank * (m + n) >= m * n {
            prop_assert_eq!(&row.form, "dense");
            prop_assert_eq!(row.left[0].why, LeftAlone::BreakEven);
            let refused = matches!(strict, Err(Error::Plan { why: Refusal::BreakEven { .. }, .. }));
            prop_assert!(refused);
        } else {
            prop_assert_eq!(row.rank, Some(rank));
            prop_assert!(strict.is_ok());
        }
    }
}

#[test]
fn statement_4_break_even_that_shows_late_is_an_error_when_strict() {
    let case = Case { shape: vec![12, 12], look: Look::Distinct, seed: 3 };
    let steps = || Pipeline::new().factorize(LowRankFactorizer::energy(1.0));
    assert_eq!(
        steps().run(case.tensor::<f32>()).unwrap().report.weights[0].left[0].why,
        LeftAlone::BreakEven
    );
    let error = steps().strict().run(case.tensor::<f32>()).unwrap_err();
    assert!(matches!(error, Error::Left { why: LeftAlone::BreakEven, .. }), "{error}");
}
