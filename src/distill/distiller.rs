//! Knowledge distillation: "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.

use super::fit::{checked, fetch, fit};
use super::settings::setters;
use super::{Settings, Student, Teacher, TrainStep, Training};
use crate::nn::{
    Batch, Dataset, Input, Loss, Optimizer, Schedule, Target, cross_entropy, kl_divergence, unbox,
};
use crate::{BoxError, Error, Float, Invalid, Model, Result, Tensor};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

/// Trains a student on what a teacher says (arXiv 1503.02531). For each batch it minimizes
///
/// ```text
/// alpha * CE(student, labels) + (1 - alpha) * T^2 * KL(softmax(teacher / T) || softmax(student / T))
/// ```
///
/// summed over the classes, mean over the samples; `T` is the temperature.
///
/// | setting | default | range |
/// | --- | --- | --- |
/// | `alpha` | 0.1 | 0..=1; 0 needs no labels |
/// | `temperature` | 4 | above 0; higher shows more of how the teacher ranks wrong classes |
/// | `student` | the model that arrives | in a pipeline: another network to train in its place |
/// | `cache_logits` | off | the teacher must give the same for a sample each time |
/// | `epochs` | 1 | at least 1 |
/// | `batch_size` | 128 samples | at least 1 |
/// | `rate` | 1e-3 | above 0 |
/// | `optimizer` | Adam | see [`Optimizer`] |
/// | `schedule` | cosine down to 0 | see [`Schedule`] |
/// | `seed` | 0 | any |
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
    teacher: &'a dyn Teacher<T>,
    alpha: f64,
    temperature: f64,
    /// Filled by the first training; clones share it.
    cache: Option<Arc<OnceLock<Cache<T>>>>,
    student: Option<Model<T>>,
    settings: Settings<'a, T>,
}

impl<T: Float> fmt::Debug for Distiller<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Distiller");
        out.field("alpha", &self.alpha)
            .field("temperature", &self.temperature)
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
        Self { teacher, alpha: 0.1, temperature: 4.0, cache: None, student: None, settings }
    }

    /// Weight of the cross-entropy with the labels.
    pub fn alpha(mut self, alpha: f64) -> Self {
        self.alpha = alpha;
        self
    }

    /// What logits of both are divided by before the softmax.
    pub fn temperature(mut self, temperature: f64) -> Self {
        self.temperature = temperature;
        self
    }

    /// Asks the teacher once for each sample, before the first epoch, and keeps the answers in memory
    /// (`samples * classes` numbers). Clones of this distiller made after the call share the answers.
    pub fn cache_logits(mut self) -> Self {
        self.cache = Some(Arc::default());
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

    /// Whether every setting is in its range.
    ///
    /// # Errors
    /// The first setting that is not.
    pub fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_in(0.0..=1.0, "alpha", self.alpha, "in 0..=1")?;
        let positive = f64::MIN_POSITIVE..f64::INFINITY;
        Invalid::unless_in(positive, "temperature", self.temperature, "above 0")?;
        self.settings.validate()
    }

    /// Trains `student`, with the optimizer it has. `progress` gets the steps done and the steps in total
    /// before the first step and after each; an error of it ends the training.
    ///
    /// # Errors
    /// [`Error::Setting`] when a setting is out of its range; [`Error::Weight`] with
    /// [`Refusal::NothingToTrain`](crate::Refusal::NothingToTrain) when a
    /// [`Trainable`](crate::nn::Trainable) has no entry that is neither pruned nor frozen, and no running
    /// statistics; [`Error::Data`] when there are no samples, or no labels although alpha is not 0; [`Error::Shape`] when dataset, teacher and student do not fit;
    /// [`Error::Label`]; [`Error::Diverged`] when the loss is not a number any more, and [`Error::Weight`] when
    /// a weight of a [`Trainable`](crate::nn::Trainable) has become NaN or infinite in the end; errors of the
    /// dataset, the teacher, the student and the hook. What can be seen from the first batch is found before
    /// the student has changed.
    pub fn fit(
        &self,
        student: &mut dyn Student<T>,
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<Training> {
        checked("distill", self.validate())?;
        let cache = match &self.cache {
            None => None,
            Some(cell) => Some(match cell.get() {
                Some(cache) => cache,
                None => {
                    let cache = self.ask_all()?;
                    cell.get_or_init(|| cache)
                }
            }),
        };
        let mut loss = |indices: &[usize], batch: &Batch<T>, logits: &Tensor<T>| {
            let teacher = match cache {
                Some(cache) => cache.rows(indices)?,
                None => self.ask(&batch.input)?,
            };
            self.loss(batch, logits, &teacher)
        };
        fit(&self.settings, &mut loss, student, progress)
    }

    fn loss(&self, batch: &Batch<T>, logits: &Tensor<T>, teacher: &Tensor<T>) -> Result<Loss<T>> {
        let (soft, mut gradient) = kl_divergence(logits, teacher, self.temperature)?;
        let soft_share = (1.0 - self.alpha) * self.temperature * self.temperature;
        let mut loss = soft_share * soft;
        let factor = T::narrow(soft_share);
        gradient.as_mut_slice().iter_mut().for_each(|g| *g *= factor);
        if self.alpha > 0.0 {
            let Target::Labels(labels) = &batch.target else {
                return Err(Error::Data("no labels: distil without them by `.alpha(0.0)`"));
            };
            let (hard, hard_gradient) = cross_entropy(logits, labels)?;
            loss += self.alpha * hard;
            let factor = T::narrow(self.alpha);
            for (g, h) in gradient.as_mut_slice().iter_mut().zip(hard_gradient.iter()) {
                *g += factor * *h;
            }
        }
        Ok((loss, gradient))
    }

    fn ask(&self, input: &Input<T>) -> Result<Tensor<T>> {
        let logits = self.teacher.logits(input).map_err(unbox)?;
        match *logits.shape() {
            [n, classes] if n == input.samples() && classes > 0 => Ok(logits),
            ref got => Err(Error::shape(
                "teacher's logits",
                &[input.samples(), got.last().copied().unwrap_or(0)],
                got,
            )),
        }
    }

    fn ask_all(&self) -> Result<Cache<T>> {
        let indices: Vec<usize> = (0..self.settings.train.len()).collect();
        let mut cache = Cache { classes: 0, logits: Vec::new() };
        for indices in indices.chunks(self.settings.batch_size) {
            let logits = self.ask(&fetch(&self.settings, indices)?.input)?;
            let classes = logits.len() / indices.len();
            if cache.classes != 0 && cache.classes != classes {
                return Err(Error::shape(
                    "teacher's logits",
                    &[indices.len(), cache.classes],
                    logits.shape(),
                ));
            }
            cache.classes = classes;
            cache.logits.extend_from_slice(logits.as_slice());
        }
        Ok(cache)
    }
}

/// The teacher's logits for every sample.
struct Cache<T> {
    classes: usize,
    logits: Vec<T>,
}

impl<T: Float> Cache<T> {
    fn rows(&self, indices: &[usize]) -> Result<Tensor<T>> {
        let rows = indices.iter().flat_map(|i| &self.logits[i * self.classes..(i + 1) * self.classes]);
        Tensor::new(&[indices.len(), self.classes], rows.copied().collect())
    }
}
