use super::{GradualPruner, Saliency, SparsitySchedule, lamp, largest, prices};
use crate::distill::{FineTuner, Student};
use crate::nn::{Examples, Graph, Input, Optimizer, Outputs, Trainable};
use crate::random::Random;
use crate::{
    AffineQuantizer, BoxError, CodebookQuantizer, Error, Fault, Kind, MagnitudePruner, Model, Pipeline,
    Refusal, Result, Tensor, Weight,
};
use proptest::prelude::*;
use std::ops::ControlFlow;
use std::sync::Mutex;

fn numbers(shape: &[usize], seed: u64) -> Tensor<f32> {
    let mut random = Random::new(seed).unwrap();
    let values = (0..shape.iter().product()).map(|_| random.normal() as f32 * 0.4).collect();
    Tensor::new(shape, values).unwrap()
}

/// 12-20-3, its second layer with larger weights than its first.
fn model() -> Model {
    let mut second = numbers(&[3, 20], 2);
    second.as_mut_slice().iter_mut().for_each(|x| *x *= 3.0);
    let mut model = Model::default();
    model.push("a.weight", Kind::Linear, numbers(&[20, 12], 1).into()).unwrap();
    model.push("a.bias", Kind::Bias, numbers(&[20], 3).into()).unwrap();
    model.push("b.weight", Kind::Linear, second.into()).unwrap();
    model.push("b.bias", Kind::Bias, numbers(&[3], 4).into()).unwrap();
    model.with_graph(Graph::new().linear("a").relu().linear("b")).unwrap()
}

fn data(n: usize) -> Examples {
    let x = numbers(&[n, 12], 9);
    let labels = x.as_slice().chunks(12).map(|x| u32::from(x[0] > 0.0) + u32::from(x[1] > 0.3)).collect();
    Examples::new(x, labels).unwrap()
}

fn student(model: &Model) -> Trainable {
    model.network().unwrap().trainable(Optimizer::adam().into()).unwrap()
}

fn quiet(_: usize, _: usize) -> Result<()> {
    Ok(())
}

fn pruned(weight: &Weight) -> usize {
    weight.to_dense().unwrap().iter().filter(|x| **x == 0.0).count()
}

/// Pruned entries of both matrices after each step.
fn run(pruner: GradualPruner, student: &mut Trainable) -> Vec<[usize; 2]> {
    let data = data(64);
    let seen = Mutex::new(Vec::new());
    let look =
        |_: &crate::distill::TrainStep, student: &mut dyn Student| -> Result<ControlFlow<()>, BoxError> {
            let student = student.as_trainable().unwrap();
            let kept = |path| student.entries(path).unwrap().count();
            seen.lock().unwrap().push([240 - kept("a.weight"), 60 - kept("b.weight")]);
            Ok(ControlFlow::Continue(()))
        };
    let tuner = FineTuner::new(&data).batch_size(8).epochs(5).rate(0.01).prune(pruner);
    tuner.after_step(look).fit(student, &mut quiet).unwrap();
    seen.into_inner().unwrap()
}

#[test]
fn the_sparsity_rises_as_the_schedule_says() {
    let model = model();
    for (schedule, share) in [
        (SparsitySchedule::Cubic, (|p: f64| 1.0 - (1.0 - p).powi(3)) as fn(f64) -> f64),
        (SparsitySchedule::Linear, |p| p),
        (SparsitySchedule::OneShot, |_| 1.0),
    ] {
        for global in [false, true] {
            let to = MagnitudePruner::sparsity(0.8);
            let to = if global { to.global() } else { to };
            let pruner = GradualPruner::new(to).schedule(schedule).between(0.1..0.6).every(3);
            let mut student = student(&model);
            let seen = run(pruner, &mut student);
            // 40 steps: prunes before steps 4, 7, .., 22 and 24.
            for (step, [a, b]) in seen.iter().enumerate() {
                let last = if step >= 24 { 24 } else { step.saturating_sub(4) / 3 * 3 + 4 };
                let wanted = if step < 4 { 0.0 } else { 0.8 * share((last - 4) as f64 / 20.0) };
                if global {
                    assert_eq!(a + b, (wanted * 300.0).round() as usize, "{schedule:?} {step}");
                } else {
                    let each = [(wanted * 240.0).round() as usize, (wanted * 60.0).round() as usize];
                    assert_eq!([*a, *b], each, "{schedule:?} {step}");
                }
            }
            let weights = student.weights().unwrap();
            let sparse = |name: &str| {
                let weight = &weights.iter().find(|(n, _)| n == name).unwrap().1;
                assert_eq!(weight.form().to_string(), "pruned", "{name}");
                pruned(weight)
            };
            assert_eq!([sparse("a.weight"), sparse("b.weight")], seen[39]);
            // The larger numbers of the second layer keep more of their places in one ranking.
            assert!(!global || 4 * seen[39][1] < seen[39][0]);
        }
    }
}

#[test]
fn a_window_in_epochs_is_one_in_steps() {
    let model = model();
    let to = || GradualPruner::new(MagnitudePruner::sparsity(0.8)).every(3);
    // Five epochs of eight steps.
    for (epochs, fractions) in [(1..4, 0.2..0.8), (0..5, 0.0..1.0), (3..3, 0.6..0.6)] {
        let seen = run(to().between_epochs(epochs.clone()), &mut student(&model));
        assert_eq!(seen, run(to().between(fractions), &mut student(&model)), "{epochs:?}");
        let first = seen.iter().position(|pruned| pruned[0] > 0).unwrap();
        let begin = 8 * epochs.start;
        assert!(first == begin || (first == begin + 3 && epochs.end > epochs.start), "{epochs:?}: {first}");
    }
    let data = data(8);
    for pruner in [
        to().between_epochs(0..3),
        to().between_epochs(std::ops::Range { start: 2, end: 1 }),
        to().between_epochs(0..2).rewind_to(0.0),
    ] {
        let result = FineTuner::new(&data).epochs(2).prune(pruner).fit(&mut student(&model), &mut quiet);
        assert!(matches!(result, Err(Error::Setting { .. })));
    }
    // 29 of 100 is 28.999 in floats.
    assert_eq!(to().between_epochs(0..29).over(100).unwrap().last_step(100), 29);
    let json = serde_json::to_string(&to().between_epochs(1..4)).unwrap();
    assert_eq!(serde_json::from_str::<GradualPruner>(&json).unwrap(), to().between_epochs(1..4));
}

#[test]
fn a_pipeline_prunes_trains_saves_and_opens() {
    let (model, data) = (model(), data(64));
    let pruner = GradualPruner::new(MagnitudePruner::sparsity(0.9).global().only("*"));
    let tuner = FineTuner::new(&data).batch_size(8).epochs(4).prune(pruner);
    let small = Pipeline::new().finetune(tuner).run(&model).unwrap().model;
    let zeros: usize = small.weights().map(|(_, w)| pruned(w)).sum();
    assert_eq!(zeros, (0.9_f64 * 323.0).round() as usize, "biases are among them");
    let opened = Model::from_bytes(small.to_bytes().unwrap()).unwrap();
    for (name, weight) in small.weights() {
        assert_eq!(opened.weight(name).unwrap(), weight);
    }
    // What was pruned before stays.
    let again = FineTuner::new(&data)
        .batch_size(8)
        .epochs(2)
        .prune(GradualPruner::new(MagnitudePruner::sparsity(0.98).only("*.weight")).regrow(0.5));
    let same = Pipeline::new().finetune(again).run(&small).unwrap().model;
    for (name, weight) in small.weights() {
        let (before, after) = (weight.to_dense().unwrap(), same.weight(name).unwrap().to_dense().unwrap());
        assert!(before.iter().zip(after.iter()).all(|(a, b)| *a != 0.0 || *b == 0.0), "{name}");
    }
}

#[test]
fn places_change_hands_where_the_gradient_is_large() {
    let model = model();
    let pruner = |regrow| GradualPruner::new(MagnitudePruner::sparsity(0.7)).every(4).regrow(regrow);
    let (mut with, mut without) = (student(&model), student(&model));
    let (seen, plain) = (run(pruner(0.3), &mut with), run(pruner(0.0), &mut without));
    assert_eq!(seen, plain, "the same number of places");

    let mut ours = student(&model);
    let y = ours.forward(&Input::Values(numbers(&[5, 12], 3)), &[]).unwrap();
    ours.backward(&Outputs { logits: y.logits, taps: vec![] }).unwrap();
    let gradient = ours.gradient("a.weight").unwrap();
    let values = ours.values("a.weight").unwrap().to_vec();
    // Half way: 0.7 * 7 / 8 of 240 are pruned, and half of 0.3 of the others change places.
    pruner(0.3).before_step(12, 40, &mut ours).unwrap();
    let (left, back) = (240 - 147, 13);
    let mut order: Vec<usize> = (0..240).collect();
    order.sort_by(|a, b| values[*b].abs().total_cmp(&values[*a].abs()));
    let mut wanted = order[..left - back].to_vec();
    let mut rest = order[left - back..].to_vec();
    rest.sort_by(|a, b| gradient[*b].abs().total_cmp(&gradient[*a].abs()));
    wanted.extend(&rest[..back]);
    wanted.sort_unstable();
    let found: Vec<(usize, f32)> = ours.entries("a.weight").unwrap().collect();
    assert_eq!(found.iter().map(|(i, _)| *i).collect::<Vec<_>>(), wanted);
    // Those that went and came back at once never went.
    assert!(found.iter().all(|(i, x)| *x == values[*i]));

    // Of those that were pruned before, some come back at zero, and nothing is known of them.
    let mut ours = student(&model);
    let pass = |ours: &mut Trainable| {
        let y = ours.forward(&Input::Values(numbers(&[5, 12], 3)), &[]).unwrap();
        ours.backward(&Outputs { logits: y.logits, taps: vec![] }).unwrap();
    };
    pruner(0.3).before_step(0, 40, &mut ours).unwrap();
    pass(&mut ours);
    ours.step(0.01).unwrap();
    pass(&mut ours);
    pruner(0.3).before_step(4, 40, &mut ours).unwrap();
    ours.step(0.01).unwrap();
    pass(&mut ours);
    let all: Vec<(usize, f32)> = ours.entries("a.weight").unwrap().collect();
    let known: Vec<f32> = moments(&ours);
    pruner(0.9).before_step(8, 40, &mut ours).unwrap();
    let (mut stayed, mut new) = (0, 0);
    for ((i, x), m) in ours.entries("a.weight").unwrap().zip(moments(&ours)) {
        match all.iter().position(|(j, _)| *j == i) {
            Some(j) => {
                assert_eq!((x, m), (all[j].1, known[j]), "entry {i}");
                stayed += 1;
            }
            None => {
                assert_eq!((x, m), (0.0, 0.0), "entry {i}");
                new += 1;
            }
        }
    }
    assert!(stayed > 0 && new > 0, "{stayed} {new}");
}

/// What the optimizer knows of the squared gradients of the first matrix.
fn moments(student: &Trainable) -> Vec<f32> {
    let mut student = student.clone();
    let mut leaves =
        student.selected(&crate::model::Select { only: vec!["a.weight".into()], ..Default::default() });
    leaves.remove(0).1.squared_gradients().unwrap().to_vec()
}

#[test]
fn entries_come_back_at_zero_and_the_rest_is_kept() {
    let model = model();
    let mut student = student(&model);
    let step = |student: &mut Trainable| {
        let y = student.forward(&Input::Values(numbers(&[5, 12], 3)), &[]).unwrap();
        student.backward(&Outputs { logits: y.logits, taps: vec![] }).unwrap();
        student.step(0.01).unwrap();
    };
    step(&mut student);
    let all: Vec<f32> = student.entries("a.weight").unwrap().map(|(_, x)| x).collect();
    assert!(student.retain("a.weight", |i, _| i % 3 != 0).unwrap());
    assert!(!student.retain("nothing", |_, _| true).unwrap());
    let kept: Vec<(usize, f32)> = student.entries("a.weight").unwrap().collect();
    assert!(kept.iter().all(|(i, x)| i % 3 != 0 && all[*i] == *x) && kept.len() == 160);
    // 1 is there already, 1000 does not exist.
    assert!(student.regrow("a.weight", &[0, 1, 6, 237, 1000]).unwrap());
    let grown: Vec<(usize, f32)> = student.entries("a.weight").unwrap().collect();
    assert_eq!(grown.len(), 163);
    assert!(grown.iter().all(|(i, x)| if i % 3 == 0 { *x == 0.0 } else { all[*i] == *x }));
    // As if the others had never had a gradient.
    let mut twin = self::student(&model);
    step(&mut twin);
    twin.edit("a.weight", |w| w.iter_mut().step_by(3).for_each(|x| *x = 0.0));
    step(&mut twin);
    step(&mut student);
    let expected: Vec<f32> = twin.values("a.weight").unwrap().to_vec();
    for (i, x) in student.entries("a.weight").unwrap() {
        assert!(i % 3 == 0 || (x - expected[i]).abs() < 1e-6, "{i}");
    }
    assert!(student.entries("a.weight").unwrap().all(|(i, x)| i != 0 || x != 0.0), "it learns");
}

#[test]
fn what_is_kept_goes_back_to_what_it_was() {
    let model = model();
    let pruner = |to| GradualPruner::new(to).between(0.2..0.99).rewind_to(0.0);
    let (some, pruner) =
        (pruner(MagnitudePruner::sparsity(0.8).only("a.weight")), pruner(MagnitudePruner::sparsity(0.8)));
    let mut student = student(&model);
    let data = data(64);
    let values = |name: &str| model.weight(name).unwrap().to_dense().unwrap().into_vec();
    // With a rate of almost nothing after the window, the first values are all there is to see.
    let tuner = FineTuner::new(&data).batch_size(8).epochs(5).rate(0.05).prune(pruner.clone());
    tuner.fit(&mut student, &mut quiet).unwrap();
    let entries: Vec<(usize, f32)> = student.entries("a.weight").unwrap().collect();
    assert_eq!(entries.len(), 48);
    let close = |a: f32, b: f32| (a - b).abs() < 1e-2;
    let first = values("a.weight");
    assert!(entries.iter().all(|(i, x)| close(*x, first[*i])), "close to the beginning");
    // All of it: what is not selected as well.
    for pruner in [pruner, some] {
        let mut student = self::student(&model);
        let tuner = FineTuner::new(&data).batch_size(8).epochs(5).rate(0.05).prune(pruner);
        tuner.fit(&mut student, &mut quiet).unwrap();
        for name in ["a.weight", "a.bias", "b.weight", "b.bias"] {
            let first = values(name);
            assert!(student.entries(name).unwrap().all(|(i, x)| close(x, first[i])), "{name}");
        }
    }
    // The step that comes with it does nothing: its gradient belongs to other numbers.
    let mut student = self::student(&model);
    student.remember();
    for _ in 0..2 {
        let y = student.forward(&Input::Values(numbers(&[5, 12], 3)), &[]).unwrap();
        student.backward(&Outputs { logits: y.logits, taps: vec![] }).unwrap();
        student.step(0.01).unwrap();
        student.backward(&Outputs { logits: numbers(&[5, 3], 4), taps: vec![] }).unwrap();
    }
    assert_ne!(student.values("a.bias").unwrap(), values("a.bias"));
    student.rewind();
    student.step(0.01).unwrap();
    for name in ["a.weight", "a.bias", "b.weight", "b.bias"] {
        assert_eq!(student.values(name).unwrap(), values(name), "{name}");
    }
}

#[test]
fn codes_and_factors_are_pruned_in_their_form() {
    let data = data(64);
    for (name, pipeline) in [
        ("pruned+quantized", Pipeline::new().quantize(AffineQuantizer::bits(4).only("a.weight"))),
        ("pruned+codebook 8", Pipeline::new().then(CodebookQuantizer::values(8).only("a.weight"))),
        ("pruned+factored", Pipeline::new().factorize(crate::LowRankFactorizer::rank(4).only("a.weight"))),
    ] {
        let pruner = GradualPruner::new(MagnitudePruner::sparsity(0.5).only("a.weight"));
        let tuner = FineTuner::new(&data).batch_size(8).epochs(3).prune(pruner);
        let small = pipeline.finetune(tuner).run(model()).unwrap().model;
        let weight = small.weight("a.weight").unwrap();
        let words = |s: &str| {
            let mut words: Vec<String> = s.split('+').map(str::to_owned).collect();
            words.sort();
            words
        };
        assert_eq!(words(&weight.form().to_string()), words(name));
        assert!((weight.sparsity() - 0.5).abs() < 0.01);
        let opened = Model::from_bytes(small.to_bytes().unwrap()).unwrap();
        assert_eq!(opened.weight("a.weight").unwrap(), weight);
    }
    // Codes do not come back.
    let coded = Pipeline::new().quantize(4).run(model()).unwrap().model;
    let mut student = student(&coded);
    student.retain("a.weight", |i, _| i > 0).unwrap();
    assert!(student.regrow("a.weight", &[0]).is_err());
}

#[test]
fn what_cannot_be_is_refused() {
    let ok = GradualPruner::new(MagnitudePruner::sparsity(0.5));
    assert!(ok.validate().is_ok());
    for wrong in [
        GradualPruner::new(MagnitudePruner::threshold(0.5)),
        GradualPruner::new(MagnitudePruner::n_of_m(2, 4)),
        GradualPruner::new(MagnitudePruner::sparsity(1.5)),
        ok.clone().between(0.5..0.4),
        ok.clone().between(f64::NAN..0.4),
        ok.clone().between(0.5..1.4),
        ok.clone().every(0),
        ok.clone().compact(-1.0),
        ok.clone().regrow(1.0),
        ok.clone().rewind_to(0.5),
        ok.clone().between(0.0..1.0).rewind_to(0.0),
    ] {
        let data = data(8);
        let result = FineTuner::new(&data).prune(wrong.clone()).fit(&mut student(&model()), &mut quiet);
        assert!(matches!(result, Err(Error::Setting { .. })), "{wrong:?}");
    }
    struct Other;
    impl Student for Other {
        fn forward(&mut self, input: &Input<f32>, _: &[&str]) -> Result<Outputs<f32>, BoxError> {
            Ok(Outputs { logits: Tensor::zeros(&[input.samples(), 3]), taps: vec![] })
        }
        fn backward(&mut self, _: &Outputs<f32>) -> Result<(), BoxError> {
            Ok(())
        }
        fn step(&mut self, _: f64) -> Result<(), BoxError> {
            Ok(())
        }
    }
    let data = data(8);
    let result = FineTuner::new(&data).prune(ok).fit(&mut Other, &mut quiet);
    assert!(matches!(result, Err(Error::Data(_))));
}

#[test]
fn settings_that_could_have_no_effect_are_refused() {
    let data = data(32);
    let half = || MagnitudePruner::sparsity(0.5);
    let table =
        Pipeline::new().then(CodebookQuantizer::values(8).only("a.weight")).run(model()).unwrap().model;
    let coded =
        Pipeline::new().quantize(AffineQuantizer::bits(4).only("b.weight")).run(model()).unwrap().model;
    let fit = |model: &Model, pruner: GradualPruner| {
        FineTuner::new(&data).prune(pruner).fit(&mut student(model), &mut quiet)
    };
    let nothing = fit(&model(), GradualPruner::new(half().only("typo").only("x.*"))).unwrap_err();
    assert!(
        matches!(&nothing, Error::Weight { weight, fault: Fault::Refused(Refusal::SelectsNothing) } if weight == "typo, x.*"),
        "{nothing}"
    );
    let pruner = || GradualPruner::new(half().global());
    for (model, pruner, name) in [
        (&coded, pruner().regrow(0.3), "b.weight"),
        (&table, pruner().regrow(0.3), "a.weight"),
        (&table, pruner().saliency(Saliency::Fisher), "a.weight"),
        (&coded, pruner().rewind_to(0.0), "b.weight"),
        // Not selected, but it would have to go back.
        (&table, GradualPruner::new(half().only("b.weight")).rewind_to(0.0), "a.weight"),
    ] {
        let error = fit(model, pruner).unwrap_err();
        assert!(
            matches!(&error, Error::Weight { weight, fault: Fault::Form(_) } if weight == name),
            "{error}"
        );
    }
    // Each entry of a quantized weight has a gradient of its own.
    fit(&coded, pruner().saliency(Saliency::Fisher)).unwrap();
    fit(&table, pruner()).unwrap();
}

#[test]
fn edges_of_the_window() {
    let model = model();
    for (window, sparsity) in [(0.0..0.0, 0.9), (1.0..1.0, 0.9), (0.0..1.0, 1.0), (0.99..1.0, 0.5)] {
        let pruner =
            GradualPruner::new(MagnitudePruner::sparsity(sparsity)).between(window.clone()).every(1000);
        let seen = run(pruner, &mut student(&model));
        assert_eq!(seen[39], [(240.0 * sparsity) as usize, (60.0 * sparsity) as usize], "{window:?}");
    }
}

#[test]
fn scores_of_lamp() {
    // 9 / 14, 4 / 13 .. from the definition.
    let scores = lamp(&[1.0, 3.0, 2.0]);
    let wanted = [1.0 / 14.0, 9.0 / 9.0, 4.0 / 13.0];
    assert!(scores.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-15));
    assert_eq!(lamp(&[0.0, 0.0]), [0.0, 0.0]);
    let to = MagnitudePruner::sparsity(0.8).global();
    let seen = run(GradualPruner::new(to).saliency(Saliency::Lamp), &mut student(&model()));
    assert_eq!(seen[39][0] + seen[39][1], 240);
}

#[test]
fn squared_gradients_and_the_price_of_places() {
    let to = || MagnitudePruner::sparsity(0.8).global();
    // Inputs that are always zero have no gradient, whatever their weights are.
    let mut x = numbers(&[64, 12], 9);
    x.as_mut_slice().chunks_mut(12).for_each(|x| x[5] = 0.0);
    let labels = (0..64).map(|i| i % 3).collect();
    let data = Examples::new(x, labels).unwrap();
    let mut ours = student(&model());
    let pruner = GradualPruner::new(to()).saliency(Saliency::Fisher);
    FineTuner::new(&data).batch_size(8).epochs(5).prune(pruner).fit(&mut ours, &mut quiet).unwrap();
    assert!(ours.entries("a.weight").unwrap().all(|(i, _)| i % 12 != 5));
    // Places cost less where they have a price.
    let bits = |compact: f64| -> f64 {
        let mut ours = student(&model());
        let to = MagnitudePruner::sparsity(0.6);
        run(GradualPruner::new(to).compact(compact).every(2), &mut ours);
        let places: Vec<usize> = ours.entries("a.weight").unwrap().map(|(i, _)| i).collect();
        prices(places.iter().copied(), places.len(), [20, 12]).iter().sum::<f64>() / places.len() as f64
    };
    assert!(bits(8.0) < bits(0.0), "{} {}", bits(8.0), bits(0.0));
    let mut plain = model().network().unwrap().trainable(Optimizer::sgd().into()).unwrap();
    let pruner = GradualPruner::new(to()).saliency(Saliency::Fisher);
    assert!(matches!(FineTuner::new(&data).prune(pruner).fit(&mut plain, &mut quiet), Err(Error::Data(_))));
    // 2 x 3 with 3 kept: p = 2 * 1 / 3, 2 * 2 / 3 (cut), 1 * 2 / 3.
    let bits = prices([0, 1, 4].into_iter(), 3, [2, 3]);
    let wanted = [3.0 - (2.0_f64 / 3.0).log2(), 3.0 - 0.9_f64.log2(), 3.0 - (2.0_f64 / 3.0).log2()];
    assert!(bits.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12));
}

proptest! {
    #[test]
    fn the_largest_are_marked(parts in prop::collection::vec(prop::collection::vec(0_u8..6, 0..20), 0..5), count in 0_usize..60) {
        let scores: Vec<Vec<f64>> = parts.iter().map(|p| p.iter().map(|x| f64::from(*x)).collect()).collect();
        let mut flat: Vec<(f64, usize)> = scores.iter().flatten().copied().zip(0..).collect();
        flat.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut wanted = vec![false; flat.len()];
        flat.iter().rev().take(count).for_each(|(_, i)| wanted[*i] = true);
        prop_assert_eq!(largest(&scores, count).concat(), wanted);
    }
}

#[test]
fn a_schedule_does_not_go_down() {
    let data = data(32);
    let to = |sparsity: f64| MagnitudePruner::sparsity(sparsity).only("*.weight");
    let pruned = Pipeline::new().prune(to(0.8)).run(model()).unwrap().model;
    let fit = |to| FineTuner::new(&data).prune(GradualPruner::new(to)).fit(&mut student(&pruned), &mut quiet);
    for (to, name) in [(to(0.5), "a.weight"), (to(0.5).global(), "*")] {
        let error = fit(to).unwrap_err();
        let Error::Weight { weight, fault: Fault::Refused(Refusal::GoesDown { from, to }) } = &error else {
            panic!("{error}")
        };
        assert_eq!((weight.as_str(), *from, *to), (name, 0.8, 0.5));
    }
    // As far as it is already is no way down.
    fit(to(0.8)).unwrap();
    fit(to(0.8).global()).unwrap();
    fit(to(0.9)).unwrap();
}
