use super::fit::{checked, fit};
use super::objective::Targets;
use super::settings::setters;
use super::{Settings, Student, TrainStep, Training};
use crate::nn::{Dataset, Optimizer, Schedule};
use crate::{BoxError, Float, Invalid, Result};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Trains on the data alone: cross-entropy where they have labels, mean squared error where they have
/// values. After pruning or quantizing, this wins accuracy back.
///
/// | setting | default | range |
/// | --- | --- | --- |
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
/// use bantam::distill::FineTuner;
/// use bantam::nn::{Examples, Network, Optimizer};
/// use std::ops::ControlFlow;
///
/// # fn example(network: Network, train: Examples, test: Examples) -> bantam::Result<()> {
/// let mut student = network.trainable(Optimizer::adam_w().into())?;
/// let training = FineTuner::new(&train)
///     .epochs(5)
///     .validate_on(&test)
///     .after_step(|step, _student| {
///         Ok(if step.loss < 1e-3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
///     })
///     .fit(&mut student, &mut |_done, _of| Ok(()))?;
/// println!("{:?}", training.epochs.last());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct FineTuner<'a, T: Float = f32> {
    settings: Settings<'a, T>,
}

impl<T: Float> fmt::Debug for FineTuner<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("FineTuner");
        self.settings.debug(&mut out);
        out.finish_non_exhaustive()
    }
}

setters!(FineTuner);

impl<'a, T: Float> FineTuner<'a, T> {
    /// Learns from the labels or the values of `train`.
    pub fn new(train: &'a dyn Dataset<T>) -> Self {
        Self { settings: Settings::new(train) }
    }

    /// Whether every setting is in its range.
    ///
    /// # Errors
    /// The first setting that is not.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.settings.validate()
    }

    /// Trains `student`, with the optimizer it has. `progress` gets the steps done and the steps in total
    /// before the first step and after each; an error of it ends the training.
    ///
    /// # Errors
    /// As [`Distiller::fit`](super::Distiller::fit); [`Error::Data`](crate::Error::Data) when the samples have neither labels
    /// nor values.
    pub fn fit(
        &self,
        student: &mut dyn Student<T>,
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<Training> {
        checked("finetune", self.validate())?;
        fit(&self.settings, &mut Targets, student, progress)
    }
}
