//! Trainings that are interrupted, and files that do not fit.

use super::zoo::{self, images, quiet};
use super::{Checkpoint, Distiller, EarlyStop, FineTuner, Hint, Ramp, Student, Training};
use crate::nn::{Augmented, Dataset, Examples, Input, Network, Optimizer, Outputs, Schedule, Trainable};
use crate::{BoxError, Error, GradualPruner, MagnitudePruner, Model, Pipeline, Result, Saliency, Tensor};
use proptest::prelude::*;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// What is trained, and how.
struct Case {
    network: Network,
    teacher: Network,
    train: Augmented<Examples>,
    held_out: Examples,
    optimizer: Optimizer,
    how: &'static str,
}

impl Case {
    fn new(form: usize, how: &'static str, optimizer: Optimizer) -> Self {
        let forms = zoo::forms();
        Self {
            network: zoo::network(forms[form % forms.len()].1, 0.2),
            teacher: zoo::network(|weight| weight, 0.0),
            train: Augmented::new(images(14, 1), 3).shift(1.0).rotate(20.0).elastic(1.0, 2.0),
            held_out: images(9, 2),
            optimizer,
            how,
        }
    }

    fn student(&self) -> Trainable {
        self.network.trainable(self.optimizer).unwrap()
    }

    /// Six epochs of eleven steps.
    fn distiller(&self, checkpoint: Option<Checkpoint>) -> Distiller<'_> {
        let mut d = Distiller::new(&self.teacher, &self.train)
            .temperature(Ramp::cosine(6.0, 1.0))
            .alpha(Ramp::linear(0.0, 0.5))
            .epochs(6)
            .batch_size(4)
            .rate(5e-3)
            .seed(3)
            .validate_on(&self.held_out)
            .after_step(|step, _| {
                if step.step % 7 == 6 {
                    step.scale_rate(0.97);
                }
                Ok(ControlFlow::Continue(()))
            });
        let pruned =
            |to: MagnitudePruner| GradualPruner::new(to.only("fc*.weight")).between(0.1..0.6).every(3);
        d = match self.how {
            "early" => d.stop_early(EarlyStop::patience(2)),
            "pruned" => d.prune(pruned(MagnitudePruner::sparsity(0.93)).saliency(Saliency::Magnitude)),
            "regrown" => d
                .prune(pruned(MagnitudePruner::sparsity(0.93).global()).regrow(0.3).rewind_to(0.05))
                .stop_early(2),
            "moving" => d.move_codes_until(0.5),
            "moving, pruned" => d.move_codes_until(0.7).prune(pruned(MagnitudePruner::sparsity(0.8))),
            "steps" => d.learn_step_sizes(),
            "inputs" => d.code_inputs().learn_step_sizes(),
            _ => d,
        };
        match checkpoint {
            Some(checkpoint) => d.checkpoint(checkpoint),
            None => d,
        }
    }

    fn fit(&self, checkpoint: Option<Checkpoint>, kill: usize) -> Result<(Training, Vec<u8>)> {
        let mut student = self.student();
        let training = self.distiller(checkpoint).fit(&mut student, &mut |done, _| {
            if done == kill { Err(Error::Cancelled) } else { Ok(()) }
        })?;
        Ok((training, student.state()?))
    }

    /// Whether it ends alike when it is interrupted after each of `kills` steps.
    fn survives(&self, kills: &[usize], every: Option<usize>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        let at = || {
            let checkpoint = Checkpoint::at(&path).resume();
            Some(every.map_or(checkpoint.clone(), |every| checkpoint.every(every)))
        };
        let whole = self.fit(None, usize::MAX).unwrap();
        for kill in kills {
            match self.fit(at(), *kill) {
                Err(error) => assert!(matches!(error, Error::Cancelled), "{error}"),
                // It had gone further before.
                Ok(ended) => assert!(ended == whole),
            }
        }
        let resumed = self.fit(at(), usize::MAX).unwrap();
        assert_eq!(resumed.0, whole.0);
        assert!(resumed.1 == whole.1, "other bytes");
        // A training that is over gives its result again, without a step.
        assert!(self.fit(at(), 65).unwrap() == whole);
    }
}

const HOWS: [&str; 4] = ["plain", "early", "pruned", "regrown"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_training_goes_on_to_the_same_bytes(
        form in 0..32_usize,
        how in 0..HOWS.len(),
        mut kills in prop::collection::vec(0..66_usize, 1..4),
        every in prop::option::of(1..12_usize),
        sgd in any::<bool>(),
    ) {
        kills.sort_unstable();
        // What is coded does not come back: that is for the first three forms.
        let form = if HOWS[how] == "regrown" { form % 3 } else { form };
        let optimizer =
            if sgd { Optimizer::sgd().momentum(0.9).into() } else { Optimizer::adam_w().into() };
        Case::new(form, HOWS[how], optimizer).survives(&kills, every);
    }
}

#[test]
fn every_form_and_setting_survives_interruptions() {
    let forms = zoo::forms();
    let index = |name: &str| forms.iter().position(|(n, _)| *n == name).unwrap();
    for (form, how) in [
        ("affine", "steps"),
        ("masked affine", "steps"),
        ("coded inputs", "inputs"),
        ("codebook", "moving"),
        ("masked codebook", "moving"),
        ("codebook", "moving, pruned"),
        ("sparse", "plain"),
        ("dense", "regrown"),
    ] {
        Case::new(index(form), how, Optimizer::adam().into()).survives(&[9, 20, 40], Some(4));
    }
}

#[test]
fn projections_are_taken_up_again() {
    // The layers of this network are 16 places apart: hints of vectors and of maps.
    let (train, teacher) = (images(30, 1), zoo::network(|weight| weight, 0.0));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let fit = |checkpoint: Option<Checkpoint>, kill| -> Result<_> {
        let mut student = zoo::student(zoo::forms()[1].1);
        let mut d = Distiller::new(&teacher, &train)
            .epochs(4)
            .batch_size(8)
            .hint(Hint::features("fc2", "fc1"))
            .hint(Hint::attention("conv", "3"));
        d = match checkpoint {
            Some(checkpoint) => d.checkpoint(checkpoint),
            None => d,
        };
        d.fit(&mut student, &mut |done, _| if done == kill { Err(Error::Cancelled) } else { Ok(()) })?;
        student.state()
    };
    let whole = fit(None, 99).unwrap();
    let at = || Some(Checkpoint::at(&path).every(3).resume());
    assert!(fit(at(), 7).is_err());
    assert!(fit(at(), 99).unwrap() == whole);
}

fn tuner(data: &dyn Dataset, path: PathBuf) -> FineTuner<'_> {
    FineTuner::new(data).epochs(2).batch_size(8).seed(5).checkpoint(Checkpoint::at(path).resume())
}

fn fails(tuner: &FineTuner<'_>, student: &mut dyn Student) -> String {
    let before = student.state().unwrap();
    let error = tuner.fit(student, &mut quiet).unwrap_err();
    assert!(matches!(error, Error::Format(_)), "{error}");
    assert!(student.state().unwrap() == before, "it has changed");
    error.to_string()
}

#[test]
fn a_checkpoint_of_another_training_is_an_error_that_names_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let (data, other) = (images(20, 1), images(20, 2));
    let same = || tuner(&data, path.clone());
    same().fit(&mut zoo::student(|w| w), &mut quiet).unwrap();
    let mut student = zoo::student(|w| w);
    let labels = Examples::new(data.inputs().clone(), vec![1; 20]).unwrap();
    for (changed, name) in [
        (same().epochs(3), "`epochs` is 2 there and 3 here"),
        (same().batch_size(4), "`batch_size`"),
        (same().rate(0.5), "`rate`"),
        (same().seed(9), "`seed`"),
        (same().schedule(Schedule::Constant), "`schedule`"),
        (same().validate_on(&other), "`validation`"),
        (same().prune(GradualPruner::new(MagnitudePruner::sparsity(0.5))), "`pruning`"),
        (tuner(&other, path.clone()), "`data`"),
        (tuner(&labels, path.clone()), "`data`"),
    ] {
        let error = fails(&changed, &mut student);
        assert!(error.contains(name) && error.contains("checkpoint"), "{error}");
    }
    let sgd = |network: Network| network.trainable(Optimizer::sgd().into()).unwrap();
    assert!(fails(&same(), &mut sgd(zoo::network(|w| w, 0.2))).contains("`optimizer`"));
    assert!(fails(&same(), &mut zoo::student(zoo::forms()[1].1)).contains("`weight fc1.weight`"));
    let mut changed = zoo::model(0.2);
    changed.set("fc2.bias", zoo::noise::<f32>(&[3], 1.0, 1).into()).unwrap();
    let mut changed = changed.network().unwrap().trainable(Optimizer::adam().into()).unwrap();
    assert!(fails(&same(), &mut changed).contains("`weight fc2.bias`"));
    let mut dropout = zoo::network(|w| w, 0.1).trainable(Optimizer::adam().into()).unwrap();
    assert!(fails(&same(), &mut dropout).contains("`layers`"));
    // And with a teacher, what it says.
    let teach = |teacher: &Network| {
        let d = Distiller::new(teacher, &data).batch_size(8).checkpoint(Checkpoint::at(&path).resume());
        d.fit(&mut zoo::student(|w| w), &mut quiet)
    };
    assert!(teach(&zoo::network(|w| w, 0.0)).unwrap_err().to_string().contains("`alpha`"));
    std::fs::remove_file(&path).unwrap();
    teach(&zoo::network(|w| w, 0.0)).unwrap();
    teach(&zoo::network(|w| w, 0.0)).unwrap();
    let error = teach(&zoo::network(zoo::forms()[2].1, 0.0)).unwrap_err().to_string();
    assert!(error.contains("the teacher says something else"), "{error}");
}

/// The first batch is the same in all of these.
#[test]
fn data_are_known_by_samples_from_all_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let (data, held_out) = (images(20, 1), images(20, 2));
    let twist = |degrees, seed| Augmented::new(images(20, 1), 3).rotate(degrees).seed(seed);
    let mut labels = data.labels().unwrap().to_vec();
    labels[19] = 0;
    let last = Examples::new(data.inputs().clone(), labels).unwrap();
    let (as_before, other, again) = (twist(20.0, 0), twist(25.0, 0), twist(20.0, 1));
    let validated = |on| tuner(&data, path.clone()).validate_on(on);
    for (then, now, name) in [
        (tuner(&data, path.clone()), tuner(&last, path.clone()), "`data`"),
        (tuner(&as_before, path.clone()), tuner(&other, path.clone()), "`data`"),
        (tuner(&as_before, path.clone()), tuner(&again, path.clone()), "`data`"),
        (validated(&data), validated(&last), "`validation data`"),
        (validated(&data), validated(&held_out), "`validation data`"),
    ] {
        let _ = std::fs::remove_file(&path);
        then.fit(&mut zoo::student(|w| w), &mut quiet).unwrap();
        let error = fails(&now, &mut zoo::student(|w| w));
        assert!(error.contains(name), "{error}");
        then.fit(&mut zoo::student(|w| w), &mut quiet).unwrap();
    }
}

#[test]
fn a_damaged_checkpoint_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let data = images(20, 1);
    let same = || tuner(&data, path.clone());
    let mut student = zoo::student(|w| w);
    same().fit(&mut student, &mut quiet).unwrap();
    let (bytes, state) = (std::fs::read(&path).unwrap(), student.state().unwrap());
    let mut student = zoo::student(|w| w);
    for len in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..len]).unwrap();
        fails(&same(), &mut student);
    }
    for at in (0..bytes.len()).step_by(997) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 4;
        std::fs::write(&path, flipped).unwrap();
        assert!(fails(&same(), &mut student).contains(&path.display().to_string()));
    }
    // Another kind of file, and bytes of the student alone.
    zoo::model(0.0).save(&path).unwrap();
    assert!(fails(&same(), &mut student).contains("not a `checkpoint 1`"));
    assert!(student.set_state(&bytes).is_err());
    let mut other = zoo::student(zoo::forms()[1].1);
    let error = other.set_state(&state).unwrap_err().to_string();
    assert!(error.contains("fc1.weight"), "{error}");
}

/// All of state, of every form, after a few steps.
#[test]
fn a_state_goes_into_a_student_of_the_same_kind_alone() {
    let data = images(20, 1);
    for (name, form) in zoo::forms() {
        let mut student = zoo::student(form);
        FineTuner::new(&data).epochs(2).batch_size(8).rate(0.01).fit(&mut student, &mut quiet).unwrap();
        let state = student.state().unwrap();
        let mut again = zoo::student(form);
        again.set_state(&state).unwrap();
        assert!(again.state().unwrap() == state, "{name}");
        assert_eq!(again.weights().unwrap(), student.weights().unwrap(), "{name}");
        let x = Input::Values(images(5, 9).inputs().clone());
        assert_eq!(again.predict(&x).unwrap(), student.predict(&x).unwrap(), "{name}");
        for (other, form) in zoo::forms() {
            let mut foreign = zoo::student(form);
            let before = foreign.state().unwrap();
            let result = foreign.set_state(&state);
            // The entries that the sparse one keeps are some of those that the other masked one does.
            let fits = name == other || (name == "sparse" && other == "masked");
            assert_eq!(result.is_ok(), fits, "{name} into {other}");
            if let Err(error) = result {
                assert!(error.to_string().contains("fc1.weight"), "{error}");
                assert!(foreign.state().unwrap() == before);
            }
        }
    }
}

#[test]
fn after_a_training_that_diverged_the_last_good_checkpoint_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let data = images(24, 1);
    let explode = |at: usize| {
        move |step: &super::TrainStep, student: &mut dyn Student| -> Result<ControlFlow<()>, BoxError> {
            if step.step == at {
                let student = student.as_trainable().ok_or("no trainable")?;
                student.edit("fc2.bias", |x| x[0] = f32::NAN);
            }
            Ok(ControlFlow::Continue(()))
        }
    };
    let fit = |at: usize, every: Option<usize>| {
        let checkpoint = Checkpoint::at(&path);
        let checkpoint = every.map_or(checkpoint.clone(), |every| checkpoint.every(every));
        let tuner = FineTuner::new(&data).epochs(4).batch_size(8).checkpoint(checkpoint);
        tuner.after_step(explode(at)).fit(&mut zoo::student(|w| w), &mut quiet).unwrap_err()
    };
    // Before anything was written, there is none to name.
    let error = fit(0, Some(2));
    assert!(matches!(error, Error::Diverged { checkpoint: None, .. }), "{error}");
    assert!(!path.exists());
    let error = fit(6, None);
    let Error::Diverged { epoch: 2, step: 7, checkpoint: Some(kept), .. } = &error else { panic!("{error}") };
    assert_eq!(kept, &path);
    assert!(error.to_string().ends_with(&format!("the last good checkpoint is {}", path.display())));
    // A bad weight is not written over a good one.
    let good = std::fs::read(&path).unwrap();
    let error = fit(6, Some(7));
    assert!(matches!(error, Error::Diverged { epoch: 2, step: 6, checkpoint: None, .. }), "{error}");
    assert!(std::fs::read(&path).unwrap() == good);
    // The weight is named, and so is the checkpoint, whoever finds it: the next checkpoint, or the end.
    for (at, every, step) in [(8, Some(3), 8), (11, Some(9), 11), (11, None, 11)] {
        let error = fit(at, every);
        let text = error.to_string();
        assert!(text.contains("`fc2.bias`") && text.ends_with(&path.display().to_string()), "{text}");
        assert!(matches!(error, Error::Diverged { step: s, source: Some(_), .. } if s == step), "{text}");
    }
    fit(6, None);
    // It goes on from there: nobody spoils the weights this time.
    let tuner = FineTuner::new(&data).epochs(4).batch_size(8).checkpoint(Checkpoint::at(&path).resume());
    let training = tuner.fit(&mut zoo::student(|w| w), &mut quiet).unwrap();
    assert_eq!(training.epochs.len(), 4);
}

#[test]
fn what_cannot_be_kept_is_found_before_the_training() {
    let data = images(12, 1);
    struct Foreign;
    impl Student for Foreign {
        fn forward(&mut self, x: &Input<f32>, _: &[&str]) -> Result<Outputs<f32>, BoxError> {
            Ok(Outputs { logits: Tensor::zeros(&[x.samples(), 3]), taps: vec![] })
        }
        fn backward(&mut self, _: &Outputs<f32>) -> Result<(), BoxError> {
            Err("it was trained".into())
        }
        fn step(&mut self, _: f64) -> Result<(), BoxError> {
            Ok(())
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let here = FineTuner::new(&data).checkpoint(folder.path().join("checkpoint"));
    let error = here.fit(&mut Foreign, &mut quiet).unwrap_err();
    assert!(matches!(error, Error::Data(_)), "{error}");
    let early = FineTuner::new(&data).validate_on(&data).stop_early(1);
    assert!(matches!(early.fit(&mut Foreign, &mut quiet).unwrap_err(), Error::Data(_)));
    let nowhere = FineTuner::new(&data).checkpoint(folder.path().join("none").join("checkpoint"));
    assert!(matches!(nowhere.fit(&mut zoo::student(|w| w), &mut quiet).unwrap_err(), Error::Io { .. }));
    assert!(FineTuner::new(&data).stop_early(1).validate().is_err());
    assert!(FineTuner::new(&data).checkpoint(Checkpoint::at("x").every(0)).validate().is_err());
}

/// A pipeline makes its students anew: the steps before are done again, the training goes on.
#[test]
fn a_pipeline_goes_on_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let data = images(24, 1);
    let run = |path: Option<&Path>, kill: Option<usize>| -> Result<Model> {
        let tuner = FineTuner::new(&data).epochs(3).batch_size(8);
        let tuner = match path {
            Some(path) => tuner.checkpoint(Checkpoint::at(path).every(2).resume()),
            None => tuner,
        };
        let tuner = tuner.after_step(move |step, _| match kill {
            Some(kill) if step.step == kill => Err("no power".into()),
            _ => Ok(ControlFlow::Continue(())),
        });
        let pipeline = Pipeline::new().prune(MagnitudePruner::sparsity(0.5)).finetune(tuner).quantize(8);
        Ok(pipeline.run(zoo::model(0.2))?.model)
    };
    let whole = run(None, None).unwrap();
    assert_eq!(run(Some(&path), Some(4)).unwrap_err().to_string(), "no power");
    assert!(path.exists());
    assert_eq!(run(Some(&path), None).unwrap(), whole);
}
