//! Statements 1, 5 and 6: what one step decided, no other undoes.

use crate::cases::*;
use bantam::{AffineQuantizer, Float, Layout, LowRankFactorizer, MagnitudePruner, Model, Pipeline};
use proptest::prelude::*;

/// Entries that are zero stay zero, leaf by leaf, where the structure is the same.
fn zeros_are_held<T: Float>(before: &Model<T>, after: &Model<T>) {
    for (before, after) in leaves(before).iter().zip(leaves(after)) {
        if before.len() != after.len() {
            continue;
        }
        for (a, b) in before.iter().flatten().zip(after.iter().flatten()) {
            assert!(*a != T::zero() || *b == T::zero(), "a zero became {b}");
        }
    }
    for ((before, after), (_, weight)) in pruned(before).iter().zip(pruned(after)).zip(after.weights()) {
        if before.len() == after.len() {
            assert!(before.iter().zip(&after).all(|(a, b)| a <= b), "{weight:?}");
        }
    }
}

fn statement_1<T: Float>(cases: &[Case], steps: &[AnyStep]) {
    let mut now = model::<T>(cases);
    for step in steps {
        match pipeline::<T>(std::slice::from_ref(step)).run(&now) {
            Ok(next) => {
                zeros_are_held(&now, &next.model);
                now = next.model;
            }
            Err(bantam::Error::Plan { .. }) => {}
            // The residual of the largest numbers overflows.
            Err(bantam::Error::Weight { fault: bantam::Fault::NotFinite { .. }, .. })
                if cases.iter().any(|c| c.look == Look::Huge) => {}
            Err(e) => assert!(does_not_fit(&e), "{e}"),
        }
        for layout in [Layout::Open, Layout::Archive] {
            let again = Model::<T>::from_bytes_as(now.to_bytes_with(layout).unwrap()).unwrap();
            zeros_are_held(&now, &again);
            assert_eq!(pruned(&now), pruned(&again));
        }
    }
}

fn statement_6<T: Float>(cases: &[Case], steps: &[AnyStep]) {
    let before = model::<T>(cases);
    let Some(after) = if_it_fits(pipeline::<T>(steps).run(&before)) else { return };
    let report = &after.report;
    assert_eq!(
        (report.bytes_before, report.bytes_after),
        (before.stored_bytes(), after.model.stored_bytes())
    );
    let mut bytes = report.bytes_before;
    for step in &report.steps {
        assert_eq!(step.bytes_before, bytes);
        assert!(step.bytes_after <= bytes, "{report}");
        bytes = step.bytes_after;
    }
    assert_eq!(bytes, report.bytes_after);
    for ((name, a), (_, b)) in before.weights().zip(after.model.weights()) {
        assert!(b.stored_bytes() <= a.stored_bytes(), "{name}");
        if report.weight(name).unwrap().left.len() == steps.len() {
            assert_eq!(a, b, "{name} was left alone by every step");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn statement_1_a_zero_stays_zero_through_steps_and_files(
        cases in prop::collection::vec(any_case(), 1..3), steps in steps(), double in any::<bool>(),
    ) {
        if double { statement_1::<f64>(&cases, &steps) } else { statement_1::<f32>(&cases, &steps) }
    }

    #[test]
    fn statement_5_prune_and_quantize_reach_every_factor(
        seed in any::<u64>(), m in 12_usize..40, n in prop::sample::select(vec![16_usize, 32, 64]),
        rank in 1_usize..4, residual in any::<bool>(), prune_first in any::<bool>(),
    ) {
        let case = Case { shape: vec![m, n], look: Look::Distinct, seed };
        let factors = LowRankFactorizer::rank(rank);
        let factors = if residual { factors.residual(AffineQuantizer::bits(2)) } else { factors };
        let steps = Pipeline::new().factorize(factors);
        let (p, q) = (MagnitudePruner::sparsity(0.5), AffineQuantizer::bits(8));
        let steps = if prune_first { steps.prune(p).quantize(q) } else { steps.quantize(q).prune(p) };
        let after = steps.run(case.tensor::<f32>()).unwrap();
        let weight = after.model.weight("weight").unwrap();
        if after.report.weights[0].left.is_empty() {
            prop_assert!(weight.form().factored);
            prop_assert!(weight.leaves().iter().all(|l| l.is_pruned() && l.is_coded()), "{}", after.report);
            let target = |l: &bantam::Leaf<f32>| (l.len() as f64 * 0.5).round() as usize;
            prop_assert!(weight.leaves().iter().all(|l| l.len() - l.kept() == target(l)));
        }
    }

    #[test]
    fn statement_5_either_order_of_prune_and_quantize_keeps_what_the_other_decided(
        case in any_case(), p in pruner(), q in quantizer(),
    ) {
        let lone = |m: &Model<f32>| m.weight("weight").unwrap().clone();
        let tensor = case.tensor::<f32>();
        if let Some(first) = if_it_fits(Pipeline::new().quantize(q.clone()).run(tensor.clone()))
            && let Some(both) = if_it_fits(Pipeline::new().prune(p.clone()).run(&first.model))
        {
            // A code stays, or its entry is pruned.
            let (a, b) = (lone(&first.model).to_dense().unwrap(), lone(&both.model).to_dense().unwrap());
            prop_assert!(a.iter().zip(b.iter()).all(|(a, b)| a == b || *b == 0.0));
            prop_assert_eq!(lone(&both.model).form().quantized, lone(&first.model).form().quantized);
        }
        if let Some(first) = if_it_fits(Pipeline::new().prune(p).run(tensor))
            && let Some(both) = if_it_fits(Pipeline::new().quantize(q).run(&first.model))
        {
            prop_assert_eq!(pruned(&first.model), pruned(&both.model));
        }
    }

    #[test]
    fn statement_6_no_step_makes_a_weight_larger(
        cases in prop::collection::vec(any_case(), 1..3), steps in steps(), double in any::<bool>(),
    ) {
        if double { statement_6::<f64>(&cases, &steps) } else { statement_6::<f32>(&cases, &steps) }
    }
}
