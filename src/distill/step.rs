//! Training as a step of a pipeline.

use super::{Distiller, FineTuner, Settings, Student, Training};
use crate::compressor::{Compressor, Step};
use crate::log::Log;
use crate::model::{Model, Outline};
use crate::{Float, Invalid, Refusal, Result};

/// Something that trains a student.
trait Trains<T: Float> {
    fn settings(&self) -> &Settings<'_, T>;
    fn train(&self, student: &mut dyn Student<T>, log: &Log<'_>) -> Result<Training>;
}

impl<T: Float> Trains<T> for Distiller<'_, T> {
    fn settings(&self) -> &Settings<'_, T> {
        self.settings()
    }

    fn train(&self, student: &mut dyn Student<T>, log: &Log<'_>) -> Result<Training> {
        self.fit(student, &mut |done, of| log.progress(done, of))
    }
}

impl<T: Float> Trains<T> for FineTuner<'_, T> {
    fn settings(&self) -> &Settings<'_, T> {
        self.settings()
    }

    fn train(&self, student: &mut dyn Student<T>, log: &Log<'_>) -> Result<Training> {
        self.fit(student, &mut |done, of| log.progress(done, of))
    }
}

/// Trains the model's network in its compressed form, and puts the trained weights in place.
fn train<T: Float>(how: &dyn Trains<T>, model: &mut Model<T>, log: &Log<'_>) -> Result<()> {
    let mut student = model.network()?.trainable(how.settings().optimizer)?;
    let training = how.train(&mut student, log)?;
    for (name, weight) in student.into_weights()? {
        model.set(&name, weight)?;
    }
    log.training(training);
    Ok(())
}

/// What training does to the model. Whether there is a network with something to train: how many entries of a
/// weight are pruned is not known yet, a training finds that out before its first step.
fn plan<T: Float>(settings: &Settings<'_, T>, outline: &mut Outline) -> Result<(), (String, Refusal)> {
    let refuse = |why| Err(("*".to_owned(), why));
    if !outline.has_graph() {
        return refuse(Refusal::NoGraph);
    }
    if outline.weights().iter().all(|w| w.info.shape.contains(&0)) {
        return refuse(Refusal::NothingToTrain("the model has no weights"));
    }
    settings.pruning.as_ref().map_or(Ok(()), |pruner| pruner.plan(outline))
}

impl<T: Float> Step for Distiller<'_, T> {
    fn name(&self) -> &str {
        "distill"
    }

    fn validate(&self) -> Result<(), Invalid> {
        self.validate()
    }

    fn plan(&self, outline: &mut Outline) -> Result<(), (String, Refusal)> {
        let Some(student) = self.new_student() else {
            self.plan_hints(outline)?;
            return plan(self.settings(), outline);
        };
        // The weights of another network take the place of those that were worked on.
        for weight in outline.weights() {
            let form = weight.form;
            let done = [(form.factored, "factored"), (form.pruned, "pruned"), (form.quantized, "quantized")];
            if let Some((_, done)) = done.into_iter().find(|(on, _)| *on) {
                let step = "distill into another student";
                return Err((weight.info.name.to_string(), Refusal::TooLate { done, step }));
            }
        }
        outline.replace(Outline::of(student));
        self.plan_hints(outline)?;
        plan(self.settings(), outline)
    }
}

impl<T: Float> Compressor<T> for Distiller<'_, T> {
    fn compress(&self, model: &mut Model<T>, log: &Log<'_>) -> Result<()> {
        if let Some(student) = self.new_student() {
            *model = student.clone();
        }
        train(self, model, log)
    }
}

impl<T: Float> Step for FineTuner<'_, T> {
    fn name(&self) -> &str {
        "finetune"
    }

    fn validate(&self) -> Result<(), Invalid> {
        self.validate()
    }

    fn plan(&self, outline: &mut Outline) -> Result<(), (String, Refusal)> {
        plan(self.settings(), outline)
    }
}

impl<T: Float> Compressor<T> for FineTuner<'_, T> {
    fn compress(&self, model: &mut Model<T>, log: &Log<'_>) -> Result<()> {
        train(self, model, log)
    }
}
