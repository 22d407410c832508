//! Schedules, hints, ensembles, kept logits, early stopping, and students of every form.

use super::zoo::{self, images, quiet};
use super::{Distiller, EarlyStop, Ensemble, FineTuner, Hint, Ramp, Student, Teacher};
use crate::nn::{
    Augmented, Batch, Conv2d, Dataset, Examples, Graph, Input, Network, Optimizer, Outputs, Target,
    Trainable, attention_transfer, cross_entropy, kl_divergence, mean_squared_error,
};
use crate::{BoxError, Error, Model, Pipeline, Result, Tensor};
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A teacher that has seen the images.
fn teacher() -> Network {
    let mut learner = zoo::network(|w| w, 0.0).trainable(Optimizer::adam().into()).unwrap();
    FineTuner::new(&images(60, 7))
        .epochs(12)
        .batch_size(10)
        .rate(5e-3)
        .fit(&mut learner, &mut quiet)
        .unwrap();
    let network = learner.network().unwrap();
    assert!(network.accuracy(&images(60, 8)).unwrap() > 0.9);
    network
}

#[test]
fn students_of_every_form_learn_from_a_teacher_on_augmented_images() {
    let (teacher, held_out) = (teacher(), images(60, 8));
    let train =
        Augmented::new(images(30, 1), 4).shift(1.0).rotate(10.0).scale(0.1).shear(0.1).elastic(0.5, 2.0);
    for (name, form) in zoo::forms() {
        let mut student = zoo::student(form);
        let before: Vec<_> = student.network().unwrap().weight_names().map(str::to_owned).collect();
        let forms = |network: &Network| -> Vec<String> {
            before.iter().map(|n| network.weight(n).unwrap().form().to_string()).collect()
        };
        let old = student.network().unwrap();
        let accuracy = old.accuracy(&held_out).unwrap();
        let mut distiller = Distiller::new(&teacher, &train).epochs(12).batch_size(20).rate(5e-3);
        if name.contains("codebook") {
            distiller = distiller.move_codes_until(0.7);
        }
        let training = distiller.fit(&mut student, &mut quiet).unwrap();
        let new = student.network().unwrap();
        assert_eq!(forms(&new), forms(&old), "{name}");
        for weight in ["fc1.weight", "fc2.weight"] {
            let (old, new) = (old.weight(weight).unwrap(), new.weight(weight).unwrap());
            assert!(new.sparsity() >= old.sparsity(), "{name}");
            let zeros = old.to_dense().unwrap();
            let same = zeros.iter().zip(new.to_dense().unwrap().iter()).all(|(a, b)| *a != 0.0 || *b == 0.0);
            assert!(same || !old.form().pruned, "{name}");
        }
        let learned = new.accuracy(&held_out).unwrap();
        assert!(learned > accuracy.max(0.6), "{name}: {accuracy} {learned} {training:?}");
        assert!(training.epochs[11].loss < training.epochs[0].loss, "{name}: {training:?}");
    }
}

/// A student that is one logit, and notes the gradients.
struct Scalar(Vec<f64>);

impl Student<f64> for Scalar {
    fn forward(&mut self, x: &Input<f64>, _: &[&str]) -> Result<Outputs<f64>, BoxError> {
        let n = x.samples();
        Ok(Outputs { logits: Tensor::new(&[n, 2], [0.3, -0.2].repeat(n))?, taps: vec![] })
    }
    fn backward(&mut self, gradients: &Outputs<f64>) -> Result<(), BoxError> {
        self.0.push(gradients.logits.as_slice()[0]);
        Ok(())
    }
    fn step(&mut self, _: f64) -> Result<(), BoxError> {
        Ok(())
    }
}

#[test]
fn temperature_and_alpha_change_over_the_training() {
    let data = Examples::new(Tensor::<f64>::zeros(&[2, 1]), vec![0, 0]).unwrap();
    let teacher = |x: &Input<f64>| -> Result<Tensor<f64>, BoxError> {
        Ok(Tensor::new(&[x.samples(), 2], [1.0, 2.0].repeat(x.samples()))?)
    };
    let (temperature, alpha) = (Ramp::linear(8.0, 2.0), Ramp::cosine(0.0, 1.0));
    let distiller = Distiller::new(&teacher, &data).temperature(temperature).alpha(alpha);
    let mut student = Scalar(vec![]);
    let training = distiller.epochs(3).batch_size(1).fit(&mut student, &mut quiet).unwrap();
    let logits = Tensor::new(&[1, 2], vec![0.3, -0.2]).unwrap();
    let wanted = Tensor::new(&[1, 2], vec![1.0, 2.0]).unwrap();
    let mut losses = Vec::new();
    for (step, gradient) in student.0.iter().enumerate() {
        let (t, a) = (temperature.at(step, 6), alpha.at(step, 6));
        let soft = kl_divergence(&logits, &wanted, t).unwrap();
        let hard = cross_entropy(&logits, &[0]).unwrap();
        let mix = |hard: f64, soft: f64| a * hard + (1.0 - a) * t * t * soft;
        assert!((gradient - mix(hard.1.as_slice()[0], soft.1.as_slice()[0])).abs() < 1e-14, "{step}");
        losses.push(mix(hard.0, soft.0));
    }
    assert_eq!(losses.len(), 6);
    assert!((training.epochs[2].loss - (losses[4] + losses[5]) / 2.0).abs() < 1e-14);
    // Labels are needed if alpha is ever above 0.
    let unlabelled = Examples::unlabelled(Tensor::<f64>::zeros(&[2, 1])).unwrap();
    let distiller = || Distiller::new(&teacher, &unlabelled);
    assert!(distiller().alpha(alpha).fit(&mut Scalar(vec![]), &mut quiet).is_err());
    assert!(distiller().alpha(Ramp::linear(0.0, 0.0)).fit(&mut Scalar(vec![]), &mut quiet).is_ok());
    assert!(distiller().alpha(Ramp::linear(0.0, 2.0)).validate().is_err());
    assert!(distiller().temperature(Ramp::linear(1.0, 0.0)).validate().is_err());
    // At either end of the range, training goes on.
    for temperature in [1e-3, 1e3] {
        let distiller = Distiller::new(&teacher, &data).temperature(temperature);
        assert!(distiller.fit(&mut Scalar(vec![]), &mut quiet).unwrap().epochs[0].loss.is_finite());
    }
    for temperature in [1e-300, 1e300, f64::NAN] {
        assert!(distiller().temperature(temperature).validate().is_err());
    }
}

/// Wider in every layer than the students, with the same planes.
fn wide() -> Network {
    let graph =
        Graph::new().conv2d("big", Conv2d::default()).relu().flatten().linear("hidden").relu().linear("out");
    let shapes: &[(&str, &[usize])] = &[
        ("big.weight", &[7, 1, 3, 3]),
        ("big.bias", &[7]),
        ("hidden.weight", &[40, 112]),
        ("hidden.bias", &[40]),
        ("out.weight", &[3, 40]),
        ("out.bias", &[3]),
    ];
    Model::initialized(graph, shapes, 11).unwrap().network().unwrap()
}

/// On images that neither has seen, a layer comes closer to the teacher's with a hint than without.
#[test]
fn hints_bring_layers_together_in_students_of_every_form() {
    let (teacher, data, held_out) = (teacher(), images(48, 1), images(30, 8));
    let x = Input::Values(held_out.inputs().clone());
    for (name, form) in zoo::forms() {
        let run = |hint: Option<Hint>| {
            let mut student = zoo::network(form, 0.0).trainable(Optimizer::adam().into()).unwrap();
            let distiller = Distiller::new(&teacher, &data).alpha(0.0).epochs(20).batch_size(16).rate(0.01);
            let distiller = match hint {
                Some(hint) => distiller.hint(hint),
                None => distiller,
            };
            distiller.fit(&mut student, &mut quiet).unwrap();
            student
        };
        let mut plain = run(None);
        for (hint, layers, distance) in [
            (Hint::features("fc1", "fc1").weight(10.0), ["fc1", "fc1"], mean_squared_error as Distance),
            (Hint::attention("conv", "2").weight(100.0), ["conv", "2"], attention_transfer),
        ] {
            let [ours, theirs] = layers;
            let wanted = teacher.outputs(&x, &[theirs]).unwrap().taps.remove(0);
            let far = |student: &mut Trainable| {
                distance(&student.outputs(&x, &[ours]).unwrap().taps[0], &wanted).unwrap().0
            };
            let mut hinted = run(Some(hint));
            let (with, without) = (far(&mut hinted), far(&mut plain));
            assert!(with < 0.7 * without, "{name} {layers:?}: {with} {without}");
            assert_eq!(hinted.network().unwrap().weight_names().count(), 9);
        }
    }
}

type Distance = fn(&Tensor<f32>, &Tensor<f32>) -> Result<(f64, Tensor<f32>)>;

/// Through a projection, which learns with the student, for layers of other widths.
#[test]
fn hints_of_other_widths_are_followed() {
    let (teacher, data) = (wide(), images(48, 1));
    for hint in [Hint::features("fc1", "hidden"), Hint::features("conv", "big")] {
        let mut student = zoo::network(|w| w, 0.0).trainable(Optimizer::adam().into()).unwrap();
        let distiller = Distiller::new(&teacher, &data).alpha(0.0).epochs(30).batch_size(16).rate(0.01);
        // The other term is next to nothing beside this one.
        let hinted = distiller.hint(hint.clone().weight(1000.0)).fit(&mut student, &mut quiet).unwrap();
        let (first, last) = (hinted.epochs[0].loss, hinted.epochs[29].loss);
        assert!(last < 0.5 * first, "{hint:?}: {first} {last}");
    }
}

#[test]
fn a_hint_of_weight_zero_changes_nothing() {
    let (teacher, data) = (wide(), images(24, 1));
    let run = |hint: Option<Hint>| {
        let mut student = zoo::student(|w| w);
        let mut d = Distiller::new(&teacher, &data).epochs(2).batch_size(8);
        d = match hint {
            Some(hint) => d.hint(hint),
            None => d,
        };
        d.fit(&mut student, &mut quiet).unwrap();
        student.into_weights().unwrap()
    };
    assert_eq!(run(None), run(Some(Hint::features("fc1", "hidden").weight(0.0))));
    assert_ne!(run(None), run(Some(Hint::features("fc1", "hidden"))));
}

#[test]
fn hints_for_layers_that_do_not_exist_or_do_not_fit_are_found_before_any_training() {
    let (teacher, data) = (wide(), images(24, 1));
    let untouched = |hint: Hint| {
        let mut student = zoo::student(|w| w);
        let before = student.state().unwrap();
        let error = Distiller::new(&teacher, &data).hint(hint).fit(&mut student, &mut quiet).unwrap_err();
        assert!(student.state().unwrap() == before);
        error
    };
    assert!(untouched(Hint::features("conv9", "big")).to_string().contains("`conv9`"));
    let error = untouched(Hint::features("conv", "big9")).to_string();
    assert!(error.contains("teacher") && error.contains("`big9`"), "{error}");
    // Of several, the one that is wrong; the teacher's own error is the source.
    let hinted = Distiller::new(&teacher, &data)
        .hint(Hint::features("conv", "big"))
        .hint(Hint::features("fc1", "hidden9"))
        .hint(Hint::attention("conv", "big"));
    let error = hinted.fit(&mut zoo::student(|w| w), &mut quiet).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("`hidden9`") && !text.contains("`big`"), "{text}");
    let source = std::error::Error::source(&error).unwrap();
    let of_the_network = source.downcast_ref::<Error>().unwrap().to_string();
    assert_eq!(of_the_network, "the network has no layer `hidden9`");
    // What is not the hint's fault is not laid to it.
    let silent = |_: &Input<f32>| -> Result<Tensor<f32>, BoxError> { Err("out of order".into()) };
    let hinted = Distiller::new(&silent, &data).hint(Hint::features("conv", "big"));
    let error = hinted.fit(&mut zoo::student(|w| w), &mut quiet).unwrap_err().to_string();
    assert!(!error.contains("asked for"), "{error}");
    assert!(matches!(untouched(Hint::features("conv", "hidden")), Error::Shape { .. }));
    assert!(matches!(untouched(Hint::attention("fc1", "hidden")), Error::Shape { .. }));
    assert!(
        untouched(Hint::attention("conv", "big").weight(f64::NAN)).to_string().contains("weight of a hint")
    );
    // A teacher that has no layers says so.
    let closure = |x: &Input<f32>| -> Result<Tensor<f32>, BoxError> { Ok(Tensor::zeros(&[x.samples(), 3])) };
    let hinted = Distiller::new(&closure, &data).hint(Hint::features("conv", "big"));
    let error = hinted.fit(&mut zoo::student(|w| w), &mut quiet).unwrap_err().to_string();
    assert!(error.contains("logits only"), "{error}");
    // In a pipeline, no step before it has run either.
    let hinted = Distiller::new(&teacher, &data).hint(Hint::features("conv9", "big"));
    let ran = AtomicUsize::new(0);
    let count = |_: &crate::Progress<'_>| {
        ran.fetch_add(1, Ordering::Relaxed);
    };
    let error =
        Pipeline::new().on_progress(count).prune(0.01).distill(hinted).run(zoo::model(0.0)).unwrap_err();
    assert!(matches!(error, Error::Plan { .. }) && error.to_string().contains("`conv9`"), "{error}");
    assert_eq!(ran.into_inner(), 0);
}

#[test]
fn an_ensemble_teaches_with_hints_of_its_first_teacher() {
    let (a, b, data) = (wide(), teacher(), images(24, 1));
    let ensemble = Ensemble::new([&a as &dyn Teacher, &b]);
    let distiller = || Distiller::new(&ensemble, &data).epochs(2).batch_size(8);
    distiller().hint(Hint::attention("conv", "big")).fit(&mut zoo::student(|w| w), &mut quiet).unwrap();
    let hinted = distiller().hint(Hint::features("fc1", "fc1"));
    assert!(hinted.fit(&mut zoo::student(|w| w), &mut quiet).unwrap_err().to_string().contains("`fc1`"));
    distiller().cache_logits().fit(&mut zoo::student(|w| w), &mut quiet).unwrap();
}

/// A dataset that counts nothing and says what accuracy a student seems to have: labels that suit it in some epochs.
struct Moody<'a> {
    data: &'a Examples,
    asked: AtomicUsize,
    right: &'static [f64],
}

impl Dataset for Moody<'_> {
    fn len(&self) -> usize {
        10
    }
    fn batch(&self, indices: &[usize]) -> Result<Batch<f32>, BoxError> {
        // The first batch is one before the training, to see that there are labels.
        let epoch = self.asked.fetch_add(1, Ordering::Relaxed).saturating_sub(1);
        let right = (self.right[epoch % self.right.len()] * 10.0).round() as usize;
        let labels = indices.iter().map(|i| u32::from(*i >= right)).collect();
        Ok(Batch { input: self.data.batch(indices)?.input, target: Target::Labels(labels) })
    }
}

/// Always sure of class 0, with a number that grows by one a step.
struct Stepper(u8);

impl Student for Stepper {
    fn forward(&mut self, x: &Input<f32>, _: &[&str]) -> Result<Outputs<f32>, BoxError> {
        let n = x.samples();
        Ok(Outputs { logits: Tensor::new(&[n, 3], [1.0, 0.0, 0.0].repeat(n))?, taps: vec![] })
    }
    fn backward(&mut self, _: &Outputs<f32>) -> Result<(), BoxError> {
        Ok(())
    }
    fn step(&mut self, _: f64) -> Result<(), BoxError> {
        self.0 += 1;
        Ok(())
    }
    fn state(&mut self) -> Result<Option<Vec<u8>>, BoxError> {
        Ok(Some(vec![self.0]))
    }
    fn set_state(&mut self, state: &[u8]) -> Result<(), BoxError> {
        self.0 = state[0];
        Ok(())
    }
}

#[test]
fn early_stopping_ends_and_goes_back_to_the_best_weights() {
    let data = images(12, 1);
    let run = |right, rule: EarlyStop| {
        let held_out = Moody { data: &data, asked: AtomicUsize::new(0), right };
        let mut student = Stepper(0);
        let tuner = FineTuner::new(&data).epochs(9).batch_size(6).validate_on(&held_out).stop_early(rule);
        let training = tuner.fit(&mut student, &mut quiet).unwrap();
        (training.epochs.len(), training.best, student.0)
    };
    // Two steps an epoch: the weights after epoch 2 are those of step 6.
    assert_eq!(run(&[0.1, 0.3, 0.6, 0.5, 0.6, 0.9], EarlyStop::patience(2)), (5, Some(2), 6));
    assert_eq!(run(&[0.1, 0.3, 0.6, 0.5, 0.6, 0.9, 0.2], EarlyStop::patience(9)), (9, Some(5), 12));
    assert_eq!(run(&[0.5, 0.6, 0.7, 0.9], EarlyStop::patience(2).gain(0.3)), (3, Some(2), 6));
    assert_eq!(run(&[0.5], 1.into()), (2, Some(0), 2));
}

#[test]
fn epochs_in_which_pruning_goes_on_are_not_the_best() {
    let data = images(24, 1);
    let to = crate::MagnitudePruner::sparsity(0.9).only("fc1.weight");
    let seen = Mutex::new(Vec::new());
    let tuner = FineTuner::new(&data)
        .epochs(8)
        .batch_size(8)
        .rate(1e-4)
        .validate_on(&data)
        .prune(crate::GradualPruner::new(to).between(0.0..0.5).every(2))
        .stop_early(1)
        .after_step(|step, _| {
            seen.lock().map_err(|_| "poisoned")?.push(step.step);
            Ok(ControlFlow::Continue(()))
        });
    let mut student = zoo::student(|w| w);
    let training = tuner.fit(&mut student, &mut quiet).unwrap();
    // The last entries go in step 12, the first of epoch 4.
    assert!(training.best.unwrap() >= 4, "{training:?}");
    let kept = student.entries("fc1.weight").unwrap().count();
    assert_eq!(kept, 64 * 64 - (0.9 * 64.0 * 64.0_f64).round() as usize);
}

#[cfg(feature = "files")]
mod kept_logits {
    use super::*;

    /// A teacher that counts how many samples it was asked for.
    struct Counting(Network, AtomicUsize);

    impl Teacher for Counting {
        fn logits(&self, input: &Input<f32>) -> Result<Tensor<f32>, BoxError> {
            self.1.fetch_add(input.samples(), Ordering::Relaxed);
            Ok(self.0.forward(input)?)
        }
    }

    fn run(distiller: &Distiller<'_>) -> Result<Vec<(String, crate::Weight)>> {
        let mut student: Trainable = zoo::student(|w| w);
        distiller.fit(&mut student, &mut quiet)?;
        student.into_weights()
    }

    #[test]
    fn a_later_run_opens_them_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logits");
        let train = Augmented::new(images(30, 1), 4).shift(1.0);
        let teacher = Counting(teacher(), AtomicUsize::new(0));
        let distiller = |train| Distiller::new(&teacher, train).epochs(3).batch_size(16);
        let in_memory = run(&distiller(&train).cache_logits()).unwrap();
        assert_eq!(teacher.1.swap(0, Ordering::Relaxed), 120);
        assert!(run(&distiller(&train).cache_logits_in(&path)).unwrap() == in_memory);
        assert_eq!(teacher.1.swap(0, Ordering::Relaxed), 120);
        // Another run asks for some samples again, to see that it is the same teacher.
        assert!(run(&distiller(&train).cache_logits_in(&path)).unwrap() == in_memory);
        assert_eq!(teacher.1.swap(0, Ordering::Relaxed), 64);
        let logits = Model::open(&path).unwrap();
        assert_eq!(logits.weight("logits").unwrap().shape(), [120, 3]);
    }

    #[test]
    fn files_that_are_stale_or_damaged_or_foreign_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logits");
        let (train, first) = (images(30, 1), teacher());
        run(&Distiller::new(&first, &train).cache_logits_in(&path)).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let fails = |teacher: &dyn Teacher, train: &dyn Dataset, why: &str| {
            let before = std::fs::read(&path).unwrap();
            let error = run(&Distiller::new(teacher, train).cache_logits_in(&path)).unwrap_err();
            assert!(matches!(error, Error::Format(_)), "{error}");
            let error = error.to_string();
            assert!(error.contains(why) && error.contains(&path.display().to_string()), "{error}");
            assert!(std::fs::read(&path).unwrap() == before, "it was written over");
        };
        fails(&first, &images(31, 1), "logits of 30 samples; the data have 31");
        fails(&first, &images(30, 2), "logits of other data");
        let reversed = train.subset((0..30).rev()).unwrap();
        fails(&first, &reversed, "logits of other data");
        fails(&wide(), &train, "logits of another teacher");
        let four = |x: &Input<f32>| -> Result<Tensor<f32>, BoxError> { Ok(Tensor::zeros(&[x.samples(), 4])) };
        fails(&four, &train, "logits of 3 classes; the teacher has 4");
        for len in [0, 9, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..len]).unwrap();
            fails(&first, &train, "");
        }
        for at in (bytes.len() - 360..bytes.len()).step_by(7) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            std::fs::write(&path, flipped).unwrap();
            fails(&first, &train, "damaged");
        }
        zoo::model(0.0).save(&path).unwrap();
        fails(&first, &train, "not a `logits 1`");
        // Labels may change: the teacher has not seen them.
        std::fs::write(&path, &bytes).unwrap();
        let relabelled = Examples::new(train.inputs().clone(), vec![2; 30]).unwrap();
        run(&Distiller::new(&first, &relabelled).cache_logits_in(&path)).unwrap();
        // Nobody is asked before it is known that the file can be written.
        let strict = |_: &Input<f32>| -> Result<Tensor<f32>, BoxError> { Err("asked".into()) };
        let nowhere = folder.path().join("none").join("logits");
        let error = run(&Distiller::new(&strict, &train).cache_logits_in(nowhere)).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
    }
}
