//! Statement 3: which entries are pruned.

use crate::cases::*;
use bantam::{Float, LeftAlone, MagnitudePruner, Model, Pipeline, Tensor, Weight, WeightCompressor};
use proptest::prelude::*;

/// The `drop` smallest magnitudes, first of equals first, are zero; the others as they were.
fn without_smallest<T: Float>(values: &[T], drop: usize) -> Vec<T> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].abs().partial_cmp(&values[*b].abs()).unwrap());
    let mut out = values.to_vec();
    order[..drop].iter().for_each(|i| out[*i] = T::zero());
    out
}

fn target(fraction: f64, n: usize) -> usize {
    (fraction * n as f64).round() as usize
}

fn kept<T: Float>(weight: &Weight<T>) -> usize {
    weight.leaves().iter().map(|l| l.kept()).sum()
}

fn exact<T: Float>(case: &Case, fraction: f64, again: f64) {
    let tensor = case.tensor::<T>();
    let n = tensor.len();
    let run = |model: &Model<T>, s: f64| {
        Pipeline::default().prune(MagnitudePruner::sparsity(s)).run(model).unwrap()
    };
    let first = run(&tensor.clone().into(), fraction);
    let weight = first.model.weight("weight").unwrap();
    if first.report.weights[0].left.is_empty() {
        assert_eq!(n - kept(weight), target(fraction, n));
        let expected = without_smallest(tensor.as_slice(), target(fraction, n));
        assert_eq!(weight.to_dense().unwrap().as_slice(), expected);
    } else {
        assert_eq!(weight.to_dense().unwrap(), tensor);
        assert!(n == 0 || first.report.weights[0].left[0].why == LeftAlone::WouldGrow);
    }
    // Already pruned entries count and come first.
    let second = run(&first.model, again);
    if second.report.weights[0].left.is_empty() {
        let pruned = n - kept(second.model.weight("weight").unwrap());
        assert_eq!(pruned, target(again, n).max(n - kept(weight)));
    }
}

fn pattern<T: Float>(case: &Case, keep: usize, m: usize) {
    let Ok(weight) = MagnitudePruner::n_of_m(keep, m).apply(case.tensor::<T>()) else {
        let inputs = if case.shape.len() < 2 { case.inputs() } else { case.shape[1] };
        assert!(inputs % m != 0, "{case:?}");
        return;
    };
    let before = case.tensor::<T>();
    if !weight.form().pruned {
        assert_eq!(weight.to_dense().unwrap(), before);
        return;
    }
    assert_eq!(kept(&weight), weight.len() / m * keep);
    let dense = weight.to_dense().unwrap();
    let stride: usize = case.shape.get(2..).map_or(1, |s| s.iter().product());
    for (row, old) in dense.as_slice().chunks(case.inputs()).zip(before.as_slice().chunks(case.inputs())) {
        for k in 0..stride {
            let pick = |row: &[T]| row.iter().skip(k).step_by(stride).copied().collect::<Vec<T>>();
            for (group, old) in pick(row).chunks(m).zip(pick(old).chunks(m)) {
                assert_eq!(group, without_smallest(old, m - keep));
            }
        }
    }
}

fn channels<T: Float>(case: &Case, fraction: f64) {
    let before = case.tensor::<T>();
    let after = MagnitudePruner::channels(fraction).apply(before.clone()).unwrap();
    if !after.form().pruned {
        return;
    }
    let drop = target(fraction, case.rows());
    assert_eq!(after.len() - kept(&after), drop * case.inputs());
    let dense = after.to_dense().unwrap();
    for (a, b) in before.as_slice().chunks(case.inputs()).zip(dense.as_slice().chunks(case.inputs())) {
        assert!(a == b || b.iter().all(|x| *x == T::zero()), "a row stays whole or goes whole");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn statement_3_sparsity_is_exact_and_first_of_equals_go_first(
        case in any_case(), a in fraction(), b in fraction(), double in any::<bool>(),
    ) {
        if double { exact::<f64>(&case, a, b) } else { exact::<f32>(&case, a, b) }
    }

    #[test]
    fn statement_3_a_pattern_keeps_the_n_largest_of_every_m(
        case in any_case(), (n, m) in prop::sample::select(vec![(1, 2), (2, 4), (3, 4), (3, 8), (7, 16)]),
        double in any::<bool>(),
    ) {
        if double { pattern::<f64>(&case, n, m) } else { pattern::<f32>(&case, n, m) }
    }

    #[test]
    fn statement_3_channels_are_whole_rows(case in any_case(), f in fraction()) {
        channels::<f32>(&case, f);
    }

    #[test]
    fn statement_3_a_threshold_is_rounded_to_the_number_type_first(case in any_case(), t in 0.0_f64..2.0) {
        let before = case.tensor::<f32>();
        let after = MagnitudePruner::threshold(t).apply(before.clone()).unwrap();
        if after.form().pruned {
            let expected: Vec<f32> = before.iter().map(|x| if x.abs() < t as f32 { 0.0 } else { *x }).collect();
            prop_assert_eq!(after.to_dense().unwrap().into_vec(), expected);
        }
    }

    #[test]
    fn statement_3_pruning_is_idempotent(case in any_case(), p in pruner()) {
        let once = match p.apply(case.tensor::<f32>()) {
            Ok(once) => once,
            Err(e) => { prop_assert!(does_not_fit(&e), "{}", e); return Ok(()); }
        };
        prop_assert_eq!(p.apply(once.clone()).unwrap(), once);
    }

    #[test]
    fn statement_3_a_global_ranking_is_exact_over_all_weights(
        cases in prop::collection::vec(any_case(), 1..4), fraction in fraction(), factored in any::<bool>(),
    ) {
        let before: Model = model(&cases);
        let step = MagnitudePruner::sparsity(fraction).global().only("*.weight");
        let steps = Pipeline::new();
        let steps = if factored { steps.factorize(2_usize) } else { steps };
        let after = steps.prune(step).run(&before).unwrap();
        let total = |f: &dyn Fn(&bantam::Leaf) -> usize| -> usize {
            after.model.weights().filter(|(n, _)| n.ends_with("weight")).flat_map(|(_, w)| w.leaves()).map(f).sum()
        };
        let left = after.report.weights.iter().flat_map(|w| &w.left).any(|l| l.why == LeftAlone::WouldGrow);
        if !left {
            prop_assert_eq!(total(&|l| l.len() - l.kept()), target(fraction, total(&|l| l.len())));
        }
        if !left && !factored {
            // Names are in order here, so that ties are cut in the order of the model.
            let names = |m: &Model| -> Vec<f32> {
                m.weights().filter(|(n, _)| n.ends_with("weight"))
                    .flat_map(|(_, w)| w.to_dense().unwrap().into_vec()).collect()
            };
            let all = names(&before);
            prop_assert_eq!(names(&after.model), without_smallest(&all, target(fraction, all.len())));
        }
    }
}

#[test]
fn statement_3_a_pattern_that_does_not_fit_a_factor_is_an_error() {
    // Rank 3 by energy: only known when the work is done.
    let values = (0..32 * 64).map(|i| {
        let (r, c) = ((i / 64) as f32, (i % 64) as f32);
        (r * 0.3).sin() * (c * 0.2).cos()
            + (r * 0.7).cos() * (c * 0.5).sin()
            + (r * 0.1).cos() * (c * 0.9).sin()
    });
    let tensor = Tensor::new(&[32, 64], values.collect()).unwrap();
    let result = Pipeline::new()
        .factorize(bantam::LowRankFactorizer::energy(0.9999))
        .prune(MagnitudePruner::n_of_m(2, 4))
        .run(tensor);
    match result {
        Ok(c) => assert_eq!(c.model.weight("weight").unwrap().rank().unwrap() % 4, 0),
        Err(e) => assert!(e.to_string().contains("factor"), "{e}"),
    }
}
