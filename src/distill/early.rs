//! [`EarlyStop`]: the end of a training that does not get better any more.

use crate::Invalid;
use serde::{Deserialize, Serialize};

/// Ends a training when the accuracy on the validation data has not risen for some epochs, and goes back to the
/// weights of the best epoch, which it also does when nothing ends it.
///
/// | setting | default | range |
/// | --- | --- | --- |
/// | `patience` | | epochs without a gain, at least 1 |
/// | `gain` | 0 | how much a gain must be, a fraction of the samples in 0..1 |
///
/// The best weights are those of the highest accuracy, however small the gain; of equals, the first. Epochs that end
/// before the last step of a [`GradualPruner`](crate::GradualPruner), or while codes still
/// [move](crate::FineTuner::move_codes_until), do not count: their weights are not yet what is wanted.
///
/// ```no_run
/// use bantam::distill::{EarlyStop, FineTuner};
/// use bantam::nn::Examples;
///
/// # fn example(train: &Examples, held_out: &Examples) {
/// let tuner = FineTuner::new(train).epochs(100).validate_on(held_out).stop_early(EarlyStop::patience(5).gain(1e-3));
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStop {
    patience: usize,
    #[serde(default)]
    gain: f64,
}

impl From<usize> for EarlyStop {
    fn from(patience: usize) -> Self {
        Self::patience(patience)
    }
}

impl EarlyStop {
    /// After so many epochs without a gain.
    pub fn patience(epochs: usize) -> Self {
        Self { patience: epochs, gain: 0.0 }
    }

    /// What counts as a gain.
    pub fn gain(mut self, fraction: f64) -> Self {
        self.gain = fraction;
        self
    }

    pub(super) fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_in(1.0.., "patience", self.patience as f64, "at least 1")?;
        Invalid::unless_in(0.0..1.0, "gain", self.gain, "in 0..1")
    }
}

/// What has been seen so far.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Watch {
    /// Epoch and accuracy of the best weights.
    pub best: Option<(usize, f64)>,
    /// The accuracy of the last gain.
    mark: Option<f64>,
    idle: usize,
}

pub(super) struct Seen {
    /// The weights of now are the best.
    pub is_best: bool,
    pub stops: bool,
}

impl Watch {
    pub fn see(&mut self, rule: &EarlyStop, epoch: usize, accuracy: f64) -> Seen {
        let is_best = self.best.is_none_or(|(_, best)| accuracy > best);
        if is_best {
            self.best = Some((epoch, accuracy));
        }
        if self.mark.is_none_or(|mark| accuracy > mark && accuracy - mark >= rule.gain) {
            (self.mark, self.idle) = (Some(accuracy), 0);
        } else {
            self.idle += 1;
        }
        Seen { is_best, stops: self.idle >= rule.patience }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rule: EarlyStop, accuracies: &[f64]) -> (usize, Option<usize>) {
        let mut watch = Watch::default();
        let end = accuracies.iter().enumerate().position(|(i, a)| watch.see(&rule, i, *a).stops);
        (end.map_or(accuracies.len(), |i| i + 1), watch.best.map(|b| b.0))
    }

    #[test]
    fn patience_is_counted_from_the_last_gain_and_the_best_is_kept() {
        let seen = [0.5, 0.6, 0.6, 0.59, 0.7, 0.7, 0.6, 0.65, 0.9];
        assert_eq!(run(3.into(), &seen), (8, Some(4)));
        assert_eq!(run(1.into(), &seen), (3, Some(1)));
        assert_eq!(run(9.into(), &seen), (9, Some(8)));
        // Small steps up are no gain, but the last of them is the best.
        assert_eq!(run(EarlyStop::patience(2).gain(0.1), &[0.5, 0.55, 0.58, 0.9]), (3, Some(2)));
        assert_eq!(run(EarlyStop::patience(2).gain(0.1), &[0.5, 0.55, 0.625, 0.5]), (4, Some(2)));
    }

    #[test]
    fn settings_out_of_range_are_found() {
        assert!(EarlyStop::patience(0).validate().is_err());
        assert!(EarlyStop::patience(1).gain(-0.1).validate().is_err());
        assert!(EarlyStop::patience(1).gain(f64::NAN).validate().is_err());
        assert!(EarlyStop::patience(1).validate().is_ok());
    }
}
