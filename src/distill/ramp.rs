//! [`Ramp`]: a setting that may change while a training goes on.

use crate::Invalid;
use serde::{Deserialize, Serialize};
use std::ops::RangeBounds;

/// A number over a training, from its first step to its last. `From<f64>` makes one that stays:
///
/// ```
/// use bantam::distill::Ramp;
///
/// assert_eq!(Ramp::from(4.0).at(3, 10), 4.0);
/// let cooling = Ramp::linear(8.0, 2.0);
/// assert_eq!([cooling.at(0, 7), cooling.at(3, 7), cooling.at(6, 7)], [8.0, 5.0, 2.0]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ramp {
    /// The same throughout.
    Constant(f64),
    /// In a line.
    Linear {
        /// At the first step.
        from: f64,
        /// At the last step.
        to: f64,
    },
    /// Along half a cosine: slow at both ends.
    Cosine {
        /// At the first step.
        from: f64,
        /// At the last step.
        to: f64,
    },
}

impl From<f64> for Ramp {
    fn from(value: f64) -> Self {
        Self::Constant(value)
    }
}

impl Ramp {
    /// In a line, up or down.
    pub fn linear(from: f64, to: f64) -> Self {
        Self::Linear { from, to }
    }

    /// Along half a cosine, up or down.
    pub fn cosine(from: f64, to: f64) -> Self {
        Self::Cosine { from, to }
    }

    /// The number at `step` (from 0) of `steps`. A training of a single step sees the first.
    pub fn at(&self, step: usize, steps: usize) -> f64 {
        let progress = step.min(steps.saturating_sub(1)) as f64 / steps.saturating_sub(1).max(1) as f64;
        match *self {
            Self::Constant(value) => value,
            Self::Linear { from, to } => from * (1.0 - progress) + to * progress,
            Self::Cosine { from, to } => {
                let share = 0.5 * (1.0 - (std::f64::consts::PI * progress).cos());
                from * (1.0 - share) + to * share
            }
        }
    }

    fn ends(&self) -> [f64; 2] {
        match *self {
            Self::Constant(value) => [value; 2],
            Self::Linear { from, to } | Self::Cosine { from, to } => [from, to],
        }
    }

    /// Whether it is 0 throughout.
    pub(super) fn is_zero(&self) -> bool {
        self.ends() == [0.0; 2]
    }

    /// An error unless `range` holds both ends, and so whatever is between them.
    pub(super) fn unless_in(
        &self,
        range: impl RangeBounds<f64> + Clone,
        setting: &'static str,
        allowed: &'static str,
    ) -> Result<(), Invalid> {
        self.ends().into_iter().try_for_each(|end| Invalid::unless_in(range.clone(), setting, end, allowed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_exact_and_the_middle_lies_between() {
        for ramp in [Ramp::linear(0.1, 0.7), Ramp::cosine(0.1, 0.7)] {
            assert_eq!([ramp.at(0, 101), ramp.at(100, 101)], [0.1, 0.7]);
            assert!((ramp.at(50, 101) - 0.4).abs() < 1e-15);
            assert_eq!([ramp.at(0, 1), ramp.at(0, 0), ramp.at(500, 101)], [0.1, 0.1, 0.7]);
        }
        assert!((Ramp::cosine(0.0, 1.0).at(25, 101) - 0.146_446_609_406_726_2).abs() < 1e-12);
    }

    #[test]
    fn both_ends_are_checked() {
        let check = |ramp: Ramp| ramp.unless_in(0.0..=1.0, "alpha", "in 0..=1");
        assert!(check(Ramp::linear(0.0, 1.0)).is_ok());
        assert!(check(Ramp::linear(0.0, 1.1)).is_err());
        assert!(check(Ramp::cosine(f64::NAN, 0.5)).is_err());
    }
}
