//! Knowledge distillation: "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.

use super::fit::{checked, fit};
use super::lesson::Lesson;
use super::logits::Cache;
use super::settings::setters;
use super::{Hint, Ramp, Settings, Student, Teacher, TrainStep, Training};
use crate::model::Outline;
use crate::nn::{Dataset, Optimizer, Schedule};
use crate::{BoxError, Float, Invalid, Model, Refusal, Result};
use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

/// Trains a student on what a teacher says (arXiv 1503.02531). For each batch it minimizes
///
/// ```text
/// alpha * CE(student, labels) + (1 - alpha) * T^2 * KL(softmax(teacher / T) || softmax(student / T))
/// ```
///
/// summed over the classes, mean over the samples; `T` is the temperature. [Hints](Hint) add terms for layers in
/// between. Several teachers make an [`Ensemble`](super::Ensemble).
///
/// | setting | default | range |
/// | --- | --- | --- |
/// | `alpha` | 0.1 | 0..=1; 0 needs no labels; may change, see [`Ramp`] |
/// | `temperature` | 4 | 0.001..=1000; higher shows more of how the teacher ranks wrong classes; may change |
/// | `hint` | none | layers that both networks have, see [`Hint`] |
/// | `student` | the model that arrives | in a pipeline: another network to train in its place |
/// | `cache_logits` | off | the teacher must give the same for a sample each time |
/// | `cache_logits_in` | off | a file for the same, which a later run opens again |
/// | `epochs` | 1 | at least 1 |
/// | `batch_size` | 128 samples | at least 1 |
/// | `rate` | 1e-3 | above 0 |
/// | `optimizer` | Adam | see [`Optimizer`] |
/// | `schedule` | cosine down to 0 | see [`Schedule`] |
/// | `seed` | 0 | any |
/// | `prune` | off | see [`GradualPruner`](crate::GradualPruner) |
/// | `learn_step_sizes` | off | see [`Trainable::learn_step_sizes`](crate::nn::Trainable::learn_step_sizes) |
/// | `code_inputs` | off | see [`Trainable::code_inputs`](crate::nn::Trainable::code_inputs) |
/// | `move_codes_until` | 0 | fraction of the training, 0..=1; see [`Trainable::move_codes`](crate::nn::Trainable::move_codes) |
/// | `validate_on` | none | data with labels |
/// | `stop_early` | off | see [`EarlyStop`](super::EarlyStop); needs `validate_on` |
/// | `checkpoint` | off | see [`Checkpoint`](super::Checkpoint) |
/// | `after_step` | none | a hook, see [`TrainStep`] |
///
/// ```no_run
/// use bantam::distill::Distiller;
/// use bantam::nn::{Examples, Network, Optimizer};
///
/// # fn example(teacher: Network, student: Network, train: Examples) -> bantam::Result<()> {
/// let mut student = student.trainable(Optimizer::default())?;
/// let training = Distiller::new(&teacher, &train)
///     .temperature(4.0)
///     .epochs(10)
///     .fit(&mut student, &mut |_done, _of| Ok(()))?;
/// println!("{:?}", training.epochs.last());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Distiller<'a, T: Float = f32> {
    pub(super) teacher: &'a dyn Teacher<T>,
    pub(super) alpha: Ramp,
    pub(super) temperature: Ramp,
    pub(super) hints: Vec<Hint>,
    /// Filled by the first training; clones share it.
    cache: Option<Cache<T>>,
    student: Option<Model<T>>,
    settings: Settings<'a, T>,
}

impl<T: Float> fmt::Debug for Distiller<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Distiller");
        out.field("alpha", &self.alpha)
            .field("temperature", &self.temperature)
            .field("hints", &self.hints)
            .field("cache_logits", &self.cache.is_some());
        self.settings.debug(&mut out);
        out.finish_non_exhaustive()
    }
}

setters!(Distiller);

impl<'a, T: Float> Distiller<'a, T> {
    /// Learns what `teacher` says of the samples of `train`.
    pub fn new(teacher: &'a dyn Teacher<T>, train: &'a dyn Dataset<T>) -> Self {
        let settings = Settings::new(train);
        let (alpha, temperature) = (0.1.into(), 4.0.into());
        Self { teacher, alpha, temperature, hints: Vec::new(), cache: None, student: None, settings }
    }

    /// Weight of the cross-entropy with the labels: a number, or a [`Ramp`].
    pub fn alpha(mut self, alpha: impl Into<Ramp>) -> Self {
        self.alpha = alpha.into();
        self
    }

    /// What logits of both are divided by before the softmax: a number, or a [`Ramp`].
    pub fn temperature(mut self, temperature: impl Into<Ramp>) -> Self {
        self.temperature = temperature.into();
        self
    }

    /// One more layer of the student that learns from a layer of the teacher.
    pub fn hint(mut self, hint: Hint) -> Self {
        self.hints.push(hint);
        self
    }

    /// Asks the teacher once for each sample, before the first epoch, and keeps the answers in memory
    /// (`samples * classes` numbers). Clones of this distiller made after the call share the answers. With
    /// [hints](Self::hint) the teacher is asked each time all the same: outputs of its layers are not kept.
    pub fn cache_logits(mut self) -> Self {
        self.cache = Some(Cache::new(None));
        self
    }

    /// As [`cache_logits`](Self::cache_logits), with the answers in a file, too, which is written by the first
    /// training, whole or not at all, and opened by later ones, of this run of the program or another.
    ///
    /// The file is a safetensors file with `logits [samples, classes]`. A training that opens it checks its hash, the
    /// number of samples and of classes, the bits of up to 64 samples, and that the teacher still says the same of
    /// these but for rounding: a file that is damaged, or of other data or another teacher, is
    /// [`Error::Format`](crate::Error::Format). It is never written over; delete it to ask again.
    pub fn cache_logits_in(mut self, path: impl Into<PathBuf>) -> Self {
        self.cache = Some(Cache::new(Some(path.into())));
        self
    }

    /// In a pipeline, trains this network and puts it in the place of the model that arrives: a smaller
    /// architecture. Default: the model that arrives is the student.
    pub fn student(mut self, model: impl Into<Model<T>>) -> Self {
        self.student = Some(model.into());
        self
    }

    pub(super) fn new_student(&self) -> Option<&Model<T>> {
        self.student.as_ref()
    }

    /// Whether the student that is planned has the layers of the hints.
    pub(super) fn plan_hints(&self, outline: &Outline) -> Result<(), (String, Refusal)> {
        let Some(graph) = outline.graph() else { return Ok(()) };
        match self.hints.iter().map(Hint::student_layer).find(|layer| !graph.has_layer(layer)) {
            Some(layer) => {
                let why = format!("a hint is for the layer `{layer}`, which the student does not have");
                Err(("*".to_owned(), Refusal::Other(why)))
            }
            None => Ok(()),
        }
    }

    /// Whether every setting is in its range.
    ///
    /// # Errors
    /// The first setting that is not.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.alpha.unless_in(0.0..=1.0, "alpha", "in 0..=1")?;
        self.temperature.unless_in(1e-3..=1e3, "temperature", "in 0.001..=1000")?;
        self.hints.iter().try_for_each(Hint::validate)?;
        self.settings.validate()
    }

    /// Trains `student`, with the optimizer it has. `progress` gets the steps done and the steps in total
    /// before the first step and after each; an error of it ends the training.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) when a setting is out of its range;
    /// [`Error::Weight`](crate::Error::Weight) with [`Refusal::NothingToTrain`] when a
    /// [`Trainable`](crate::nn::Trainable) has no entry that is neither pruned nor frozen, and no running statistics;
    /// [`Error::Data`](crate::Error::Data) when there are no samples or too many, no labels although alpha is not 0, or
    /// no labels in the validation data;
    /// [`Error::Shape`](crate::Error::Shape) when datasets, teacher, student and hints do not fit;
    /// [`Error::Other`](crate::Error::Other) when a hint names a layer that does not exist;
    /// [`Error::Label`](crate::Error::Label); [`Error::Diverged`](crate::Error::Diverged) when the loss is not a number
    /// any more, or a weight of a `Trainable` or what goes into a layer with coded inputs is none;
    /// [`Error::Format`](crate::Error::Format) for files of cached logits and checkpoints; errors of the
    /// dataset, the teacher, the student and the hook. What can be seen from the settings and from the first batch of
    /// the training and of the validation data is found before the student has changed, and so is an end that `progress`
    /// calls for before the first step.
    pub fn fit(
        &self,
        student: &mut dyn Student<T>,
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<Training> {
        checked("distill", self.validate())?;
        // Before the teacher is asked about all samples.
        self.settings.check(student)?;
        let cache = self.cache.as_ref().filter(|_| self.hints.is_empty());
        let logits = cache.map(|cache| cache.get(self.teacher, &self.settings)).transpose()?;
        fit(&self.settings, &mut Lesson::new(self, logits), student, progress)
    }
}
