//! [`Schedule`]: how the rate changes while training goes on.

use crate::Invalid;
use serde::{Deserialize, Serialize};

/// A factor for the base rate, as a function of progress (0 at the first step, towards 1 at the last).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Schedule {
    /// Always 1.
    Constant,
    /// Up in a line, then level, then down along half a cosine ("SGDR", arXiv 1608.03983, without restarts).
    Cosine {
        /// Factor at the end, in 0..=1.
        #[serde(default)]
        floor: f64,
        /// Fraction of the training that goes up, in 0..1.
        #[serde(default)]
        warmup: f64,
        /// Fraction of the training after which it goes down, in `warmup..1`; where it is less than `warmup`, it
        /// goes down from there.
        #[serde(default)]
        hold: f64,
    },
    /// Multiplied by `factor` each time another `every` of the training is done.
    Step {
        /// Fraction of the training, above 0.
        every: f64,
        /// In 0..=1.
        factor: f64,
    },
}

impl Default for Schedule {
    /// Cosine without warmup, down to 0.
    fn default() -> Self {
        Self::Cosine { floor: 0.0, warmup: 0.0, hold: 0.0 }
    }
}

impl Schedule {
    /// The factor at `step` (from 0) of `steps`. Never 0 in a warmup, so that no step is lost.
    pub fn factor(&self, step: usize, steps: usize) -> f64 {
        let steps = steps.max(1) as f64;
        let progress = step as f64 / steps;
        match *self {
            Self::Constant => 1.0,
            Self::Cosine { warmup, .. } if progress < warmup => (progress + 1.0 / steps).min(warmup) / warmup,
            Self::Cosine { floor, warmup, hold } => {
                let level = hold.max(warmup);
                let down = ((progress - level) / (1.0 - level)).clamp(0.0, 1.0);
                floor + (1.0 - floor) * 0.5 * (1.0 + (std::f64::consts::PI * down).cos())
            }
            // Steps at the boundary itself are behind it, whatever the division rounds to.
            Self::Step { every, factor } => factor.powf((progress / every + 1e-9).floor()),
        }
    }

    /// Whether every setting is in its range.
    ///
    /// # Errors
    /// The first setting that is not.
    pub fn validate(&self) -> Result<(), Invalid> {
        match *self {
            Self::Constant => Ok(()),
            Self::Cosine { floor, warmup, hold } => {
                Invalid::unless_in(0.0..=1.0, "floor", floor, "in 0..=1")?;
                Invalid::unless_in(0.0..1.0, "warmup", warmup, "in 0..1")?;
                Invalid::unless_in(0.0..1.0, "hold", hold, "in 0..1")
            }
            Self::Step { every, factor } => {
                Invalid::unless_in(f64::MIN_POSITIVE..f64::INFINITY, "every", every, "above 0")?;
                Invalid::unless_in(0.0..=1.0, "factor", factor, "in 0..=1")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        let cosine = Schedule::Cosine { floor: 0.1, warmup: 0.2, hold: 0.0 };
        let held = Schedule::Cosine { floor: 0.0, warmup: 0.0, hold: 0.5 };
        assert_eq!([0, 5, 10].map(|i| held.factor(i, 10)), [1.0, 1.0, 0.0]);
        let at = |s: Schedule, i| s.factor(i, 10);
        assert_eq!([at(cosine, 0), at(cosine, 1), at(cosine, 2)], [0.5, 1.0, 1.0]);
        assert!((at(cosine, 6) - 0.55).abs() < 1e-12);
        assert!((at(cosine, 10) - 0.1).abs() < 1e-12);
        let step = Schedule::Step { every: 0.3, factor: 0.5 };
        assert_eq!([at(step, 2), at(step, 3), at(step, 6), at(step, 9)], [1.0, 0.5, 0.25, 0.125]);
        assert_eq!(Schedule::Constant.factor(0, 0), 1.0);
    }

    #[test]
    fn settings_out_of_range_are_found() {
        assert!(Schedule::Step { every: 0.0, factor: 0.5 }.validate().is_err());
        assert!(Schedule::Cosine { floor: f64::NAN, warmup: 0.0, hold: 0.0 }.validate().is_err());
        assert!(Schedule::Cosine { floor: 0.0, warmup: 1.0, hold: 0.0 }.validate().is_err());
        assert!(Schedule::Cosine { floor: 0.0, warmup: 0.0, hold: 1.0 }.validate().is_err());
        assert!(Schedule::default().validate().is_ok());
    }
}
