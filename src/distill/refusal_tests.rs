//! What a training refuses leaves the student as it was, and what goes wrong later names the last good checkpoint.

use super::zoo::{self, images, quiet};
use super::{Checkpoint, Distiller, EarlyStop, FineTuner, Student, TrainStep};
use crate::nn::{Augmented, Dataset, Examples, Optimizer, Trainable};
use crate::{BoxError, Error, GradualPruner, MagnitudePruner, Result, Tensor};
use std::ops::ControlFlow;
use std::path::Path;

fn student(form: &str) -> Trainable {
    let (_, form) = zoo::forms().into_iter().find(|(name, _)| *name == form).unwrap();
    zoo::student(form)
}

/// A training that changes how the student is trained, before its first step.
fn tuner<'a>(form: &str, data: &'a dyn Dataset) -> FineTuner<'a> {
    let tuner = FineTuner::new(data).epochs(3).batch_size(8).seed(7);
    match form {
        "codebook" => tuner.move_codes_until(0.8),
        "affine" => tuner.learn_step_sizes(),
        "coded inputs" => tuner.code_inputs().learn_step_sizes(),
        _ => tuner,
    }
}

const FORMS: [&str; 4] = ["dense", "codebook", "affine", "coded inputs"];

#[test]
fn a_student_that_is_refused_is_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let data = images(24, 1);
    let inputs = || data.inputs().clone();
    let unlabelled = Examples::unlabelled(inputs()).unwrap();
    let wrong = Examples::new(inputs(), vec![9; 24]).unwrap();
    let flat = Examples::new(Tensor::zeros(&[2, 35]), vec![0; 2]).unwrap();
    let none = data.subset([]).unwrap();
    let endless = Augmented::new(&data, usize::MAX);
    for form in FORMS {
        let _ = std::fs::remove_file(&path);
        let kept = || Checkpoint::at(&path).resume();
        tuner(form, &data).checkpoint(kept()).fit(&mut student(form), &mut quiet).unwrap();
        let pruner = |only: &str| GradualPruner::new(MagnitudePruner::sparsity(0.5).only(only));
        for (why, tuner) in [
            ("another training", tuner(form, &data).rate(0.5).checkpoint(kept())),
            ("another seed", tuner(form, &data).seed(8).checkpoint(kept())),
            ("no folder", tuner(form, &data).checkpoint(folder.path().join("none").join("file"))),
            ("no labels", tuner(form, &unlabelled)),
            ("wrong labels", tuner(form, &wrong)),
            ("wrong shape", tuner(form, &flat)),
            ("endless", tuner(form, &endless)),
            ("validation without labels", tuner(form, &data).validate_on(&unlabelled)),
            ("validation with wrong labels", tuner(form, &data).validate_on(&wrong)),
            ("validation of another shape", tuner(form, &data).validate_on(&flat)),
            ("validation without samples", tuner(form, &data).validate_on(&none)),
            ("nothing to prune", tuner(form, &data).prune(pruner("typo"))),
        ] {
            let mut student = student(form);
            let before = student.state().unwrap();
            let error = tuner.fit(&mut student, &mut quiet).unwrap_err();
            assert!(student.state().unwrap() == before, "{form}, {why}: {error}");
        }
        let mut student = student(form);
        let before = student.state().unwrap();
        let mut cancel = |_: usize, _: usize| -> Result<()> { Err(Error::Cancelled) };
        tuner(form, &data).fit(&mut student, &mut cancel).unwrap_err();
        assert!(student.state().unwrap() == before, "{form}, cancelled");
        // And then it can be trained.
        tuner(form, &data).fit(&mut student, &mut quiet).unwrap();
        assert!(student.state().unwrap() != before);
    }
}

/// The same object, not one that is made anew.
#[test]
fn an_interrupted_student_goes_on_and_may_begin_again() {
    let folder = tempfile::tempdir().unwrap();
    let data = images(24, 1);
    for form in FORMS {
        let path = folder.path().join(form);
        let mut whole = student(form);
        tuner(form, &data).fit(&mut whole, &mut quiet).unwrap();
        let mut student = student(form);
        // A checkpoint is written after each of two steps, and read by the next of these.
        for kill in [3, 5, 8] {
            let kept = tuner(form, &data).checkpoint(Checkpoint::at(&path).every(2).resume());
            let mut stop = |done: usize, _: usize| if done == kill { Err(Error::Cancelled) } else { Ok(()) };
            assert!(matches!(kept.fit(&mut student, &mut stop), Err(Error::Cancelled)));
        }
        let kept = tuner(form, &data).checkpoint(Checkpoint::at(&path).every(2).resume());
        kept.fit(&mut student, &mut quiet).unwrap();
        assert!(student.state().unwrap() == whole.state().unwrap(), "{form}");
        // While codes move, another training can take over.
        let mut stop = |done: usize, _: usize| if done == 3 { Err(Error::Cancelled) } else { Ok(()) };
        tuner(form, &data).fit(&mut student, &mut stop).unwrap_err();
        tuner(form, &data).fit(&mut student, &mut quiet).unwrap();
    }
}

#[test]
fn more_samples_than_memory_are_an_error() {
    let data = images(6, 1);
    let endless = Augmented::new(&data, usize::MAX).shift(1.0);
    let error = FineTuner::new(&endless).fit(&mut student("dense"), &mut quiet).unwrap_err();
    assert!(matches!(error, Error::Data(why) if why.contains("too many samples")), "{error}");
    let teacher = zoo::network(|w| w, 0.0);
    let cached = Distiller::new(&teacher, &endless).cache_logits();
    let error = cached.fit(&mut student("dense"), &mut quiet).unwrap_err();
    assert!(matches!(error, Error::Data(why) if why.contains("too many samples")), "{error}");
}

/// Spoils a number after a step.
fn spoil(
    step: &TrainStep,
    student: &mut dyn Student,
    at: usize,
    path: &str,
) -> Result<ControlFlow<()>, BoxError> {
    if step.step == at {
        student.as_trainable().ok_or("no trainable")?.edit(path, |x| x[0] = f32::NAN);
    }
    Ok(ControlFlow::Continue(()))
}

fn is_named(error: &Error, path: &Path, what: &str) {
    assert!(matches!(error, Error::Diverged { source: Some(_), .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(what) && text.ends_with(&path.display().to_string()), "{text}");
}

#[test]
fn numbers_that_are_lost_at_the_best_epoch_or_in_codes_name_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let data = images(24, 1);
    // In the last step of the first epoch.
    let stopping = FineTuner::new(&data)
        .epochs(4)
        .batch_size(8)
        .validate_on(&data)
        .stop_early(EarlyStop::patience(9))
        .checkpoint(Checkpoint::at(&path).every(2))
        .after_step(|step, student| spoil(step, student, 2, "fc2.bias"));
    is_named(&stopping.fit(&mut student("dense"), &mut quiet).unwrap_err(), &path, "`fc2.bias`");
    let coded = tuner("coded inputs", &data)
        .checkpoint(Checkpoint::at(&path).every(2))
        .after_step(|step, student| spoil(step, student, 4, "bn.bias"));
    let error = coded.fit(&mut student("coded inputs"), &mut quiet).unwrap_err();
    is_named(&error, &path, "`fc1.weight`: input entry");
    assert!(matches!(error, Error::Diverged { epoch: 1, step: 5, .. }), "{error}");
}

#[test]
fn inputs_of_a_student_may_be_nothing_to_code() {
    let data = images(8, 1);
    let mut plain = zoo::network(|w| w, 0.0).trainable(Optimizer::adam().into()).unwrap();
    for tuner in [
        FineTuner::new(&data).code_inputs(),
        FineTuner::new(&data).learn_step_sizes(),
        FineTuner::new(&data).move_codes_until(0.5),
    ] {
        assert!(matches!(tuner.fit(&mut plain, &mut quiet), Err(Error::Data(_))));
    }
}
