//! One training of a [`Distiller`]: its loss, and the projections that learn with the student.

use super::hint::{Hint, Lead};
use super::logits::{Logits, ask, checked};
use super::objective::{Objective, Seen};
use super::witness::Witnesses;
use super::{Distiller, Student};
use crate::nn::{Batch, Input, Outputs, Target, Trainable, cross_entropy_into, kl_divergence_into, unbox};
use crate::{BoxError, Error, Float, Result, Tensor};
use std::collections::BTreeMap;

pub(super) struct Lesson<'d, 'a, T: Float> {
    distiller: &'d Distiller<'a, T>,
    /// What the teacher says of all samples, where it was asked once.
    logits: Option<&'d Logits<T>>,
    /// One for each hint, once it is known what the layers give.
    leads: Vec<Lead<'d, T>>,
    /// What the teacher says of the batch, with the layers of the hints.
    said: Outputs<T>,
    /// Room for the gradient of the labels.
    hard: Tensor<T>,
}

/// A teacher that fails when it is asked for the layer of a hint.
#[derive(Debug, thiserror::Error)]
#[error("teacher, asked for `{layer}`: {source}")]
struct NoHint {
    layer: String,
    source: BoxError,
}

impl<'d, 'a, T: Float> Lesson<'d, 'a, T> {
    pub fn new(distiller: &'d Distiller<'a, T>, logits: Option<&'d Logits<T>>) -> Self {
        let (said, hard) = (Outputs::default(), Tensor::zeros(&[0]));
        Self { distiller, logits, leads: Vec::new(), said, hard }
    }

    /// Asks the teacher about a batch.
    fn ask(&mut self, indices: &[usize], input: &Input<T>) -> Result<()> {
        let Distiller { teacher, hints, .. } = self.distiller;
        if let Some(logits) = self.logits {
            logits.rows_into(indices, &mut self.said.logits);
        } else if hints.is_empty() {
            self.said.logits = ask(*teacher, input)?;
        } else {
            let taps: Vec<&str> = hints.iter().map(Hint::teacher_layer).collect();
            let Outputs { logits, taps } = teacher.outputs(input, &taps).map_err(unbox)?;
            if taps.len() != hints.len() {
                return Err(Error::shape("layers of the teacher", &[hints.len()], &[taps.len()]));
            }
            self.said = Outputs { logits: checked(logits, input)?, taps };
        }
        Ok(())
    }

    /// An error of the teacher, with the name of the hint whose layer it fails at, if it is one alone.
    fn blame(&self, error: Error, input: &Input<T>) -> Error {
        let Distiller { teacher, hints, .. } = self.distiller;
        if self.logits.is_some() || hints.is_empty() || teacher.logits(input).is_err() {
            return error;
        }
        for layer in hints.iter().map(Hint::teacher_layer) {
            if let Err(source) = teacher.outputs(input, &[layer]) {
                return Error::Other(Box::new(NoHint { layer: layer.to_owned(), source }));
            }
        }
        error
    }

    /// The loss of the logits alone.
    fn of_logits(
        &mut self,
        (step, steps): (usize, usize),
        batch: &Batch<T>,
        logits: &Tensor<T>,
        gradient: &mut Tensor<T>,
    ) -> Result<f64> {
        let temperature = self.distiller.temperature.at(step, steps);
        let alpha = self.distiller.alpha.at(step, steps);
        let soft = kl_divergence_into(logits, &self.said.logits, temperature, gradient)?;
        let soft_share = (1.0 - alpha) * temperature * temperature;
        let mut loss = soft_share * soft;
        let factor = T::narrow(soft_share);
        gradient.as_mut_slice().iter_mut().for_each(|g| *g *= factor);
        if !self.distiller.alpha.is_zero() {
            let Target::Labels(labels) = &batch.target else {
                return Err(Error::Data("no labels: distil without them by `.alpha(0.0)`"));
            };
            loss += alpha * cross_entropy_into(logits, labels, &mut self.hard)?;
            let factor = T::narrow(alpha);
            for (g, h) in gradient.as_mut_slice().iter_mut().zip(self.hard.iter()) {
                *g += factor * *h;
            }
        }
        Ok(loss)
    }
}

impl<T: Float> Objective<T> for Lesson<'_, '_, T> {
    fn taps(&self) -> Vec<&str> {
        self.distiller.hints.iter().map(|hint| hint.student_layer()).collect()
    }

    fn prepare(&mut self, first: &Seen<'_, T>, student: &mut dyn Student<T>) -> Result<()> {
        let Seen { indices, batch, outputs } = first;
        let hints = &self.distiller.hints;
        self.ask(indices, &batch.input).map_err(|error| self.blame(error, &batch.input))?;
        self.of_logits((0, 1), batch, &outputs.logits, &mut Tensor::zeros(&[0]))?;
        let settings = self.distiller.settings();
        let optimizer = student.as_trainable().map_or(settings.optimizer, |trainable| *trainable.optimizer());
        if outputs.taps.len() != hints.len() {
            return Err(Error::shape("layers of the student", &[hints.len()], &[outputs.taps.len()]));
        }
        let layers = hints.iter().zip(outputs.taps.iter().zip(&self.said.taps)).enumerate();
        self.leads = layers
            .map(|(i, (hint, (ours, theirs)))| {
                Lead::new(hint, ours, theirs, optimizer, settings.seed.wrapping_add(i as u64))
            })
            .collect::<Result<_>>()?;
        Ok(())
    }

    fn loss(&mut self, at: (usize, usize), seen: &Seen<'_, T>, gradients: &mut Outputs<T>) -> Result<f64> {
        let Seen { indices, batch, outputs } = seen;
        self.ask(indices, &batch.input)?;
        let mut loss = self.of_logits(at, batch, &outputs.logits, &mut gradients.logits)?;
        gradients.taps.clear();
        let layers = outputs.taps.iter().zip(&self.said.taps);
        for (lead, (ours, theirs)) in self.leads.iter_mut().zip(layers) {
            let (term, gradient) = lead.loss(at, ours, theirs)?;
            loss += term;
            gradients.taps.push(gradient);
        }
        Ok(loss)
    }

    fn learners(&mut self) -> Vec<&mut Trainable<T>> {
        self.leads.iter_mut().filter_map(Lead::projection).collect()
    }

    fn identity(&self) -> BTreeMap<String, String> {
        let Distiller { alpha, temperature, hints, .. } = self.distiller;
        let mut identity = BTreeMap::from([
            ("objective".to_owned(), "teacher".to_owned()),
            ("alpha".to_owned(), format!("{alpha:?}")),
            ("temperature".to_owned(), format!("{temperature:?}")),
        ]);
        identity.extend(hints.iter().enumerate().map(|(i, hint)| (format!("hint {i}"), format!("{hint:?}"))));
        identity
    }

    fn witness(&self, of: &Witnesses<T>) -> Result<Option<Tensor<T>>> {
        let logits = match self.logits {
            Some(logits) => logits.rows(&of.indices),
            None => ask(self.distiller.teacher, &of.batch.input)?,
        };
        Ok(Some(logits))
    }
}
