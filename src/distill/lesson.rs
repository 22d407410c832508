//! One training of a [`Distiller`]: its loss, and the projections that learn with the student.

use super::hint::Lead;
use super::logits::{Logits, ask, checked};
use super::objective::{Objective, Seen};
use super::{Distiller, Student};
use crate::nn::{Batch, Input, Loss, Outputs, Target, Trainable, cross_entropy, kl_divergence, unbox};
use crate::{BoxError, Error, Float, Result, Tensor};
use std::collections::BTreeMap;

/// Samples by whose logits a teacher is known.
const WITNESSES: usize = 8;

pub(super) struct Lesson<'d, 'a, T: Float> {
    distiller: &'d Distiller<'a, T>,
    /// What the teacher says of all samples, where it was asked once.
    logits: Option<&'d Logits<T>>,
    /// One for each hint, once it is known what the layers give.
    leads: Vec<Lead<'d, T>>,
    /// What the teacher says of the first samples.
    witness: Option<Tensor<T>>,
}

impl<'d, 'a, T: Float> Lesson<'d, 'a, T> {
    pub fn new(distiller: &'d Distiller<'a, T>, logits: Option<&'d Logits<T>>) -> Self {
        Self { distiller, logits, leads: Vec::new(), witness: None }
    }

    /// What the teacher says of a batch, with the layers of the hints.
    fn teacher(&self, indices: &[usize], input: &Input<T>) -> Result<Outputs<T>, BoxError> {
        if let Some(logits) = self.logits {
            return Ok(Outputs { logits: logits.rows(indices)?, taps: Vec::new() });
        }
        let Distiller { teacher, hints, .. } = self.distiller;
        if hints.is_empty() {
            return Ok(Outputs { logits: ask(*teacher, input)?, taps: Vec::new() });
        }
        let taps: Vec<&str> = hints.iter().map(|hint| hint.teacher_layer()).collect();
        let Outputs { logits, taps } = teacher.outputs(input, &taps)?;
        if taps.len() != hints.len() {
            return Err(Error::shape("layers of the teacher", &[hints.len()], &[taps.len()]).into());
        }
        Ok(Outputs { logits: checked(logits, input)?, taps })
    }

    /// The loss of the logits alone.
    fn of_logits(
        &self,
        (step, steps): (usize, usize),
        batch: &Batch<T>,
        logits: &Tensor<T>,
        teacher: &Tensor<T>,
    ) -> Result<Loss<T>> {
        let temperature = self.distiller.temperature.at(step, steps);
        let alpha = self.distiller.alpha.at(step, steps);
        let (soft, mut gradient) = kl_divergence(logits, teacher, temperature)?;
        let soft_share = (1.0 - alpha) * temperature * temperature;
        let mut loss = soft_share * soft;
        let factor = T::narrow(soft_share);
        gradient.as_mut_slice().iter_mut().for_each(|g| *g *= factor);
        if !self.distiller.alpha.is_zero() {
            let Target::Labels(labels) = &batch.target else {
                return Err(Error::Data("no labels: distil without them by `.alpha(0.0)`"));
            };
            let (hard, hard_gradient) = cross_entropy(logits, labels)?;
            loss += alpha * hard;
            let factor = T::narrow(alpha);
            for (g, h) in gradient.as_mut_slice().iter_mut().zip(hard_gradient.iter()) {
                *g += factor * *h;
            }
        }
        Ok((loss, gradient))
    }
}

impl<T: Float> Objective<T> for Lesson<'_, '_, T> {
    fn taps(&self) -> Vec<&str> {
        self.distiller.hints.iter().map(|hint| hint.student_layer()).collect()
    }

    fn prepare(&mut self, first: &Seen<'_, T>, student: &mut dyn Student<T>) -> Result<()> {
        let Seen { indices, batch, outputs } = first;
        let hints = &self.distiller.hints;
        let teacher = self.teacher(indices, &batch.input).map_err(|error| match hints.first() {
            // An error of a layer that is not there says whose it is.
            Some(hint) => {
                Error::Other(format!("teacher, asked for `{}`: {error}", hint.teacher_layer()).into())
            }
            None => unbox(error),
        })?;
        self.of_logits((0, 1), batch, &outputs.logits, &teacher.logits)?;
        let settings = self.distiller.settings();
        let optimizer = student.as_trainable().map_or(settings.optimizer, |trainable| *trainable.optimizer());
        if outputs.taps.len() != hints.len() {
            return Err(Error::shape("layers of the student", &[hints.len()], &[outputs.taps.len()]));
        }
        let layers = hints.iter().zip(outputs.taps.iter().zip(&teacher.taps)).enumerate();
        self.leads = layers
            .map(|(i, (hint, (ours, theirs)))| {
                Lead::new(hint, ours, theirs, optimizer, settings.seed.wrapping_add(i as u64))
            })
            .collect::<Result<_>>()?;
        let samples = indices.len().min(WITNESSES);
        let classes = teacher.logits.len() / indices.len();
        let rows = teacher.logits.as_slice()[..samples * classes].to_vec();
        self.witness = Some(Tensor::new(&[samples, classes], rows)?);
        Ok(())
    }

    fn loss(&mut self, at: (usize, usize), seen: &Seen<'_, T>) -> Result<(f64, Outputs<T>)> {
        let Seen { indices, batch, outputs } = seen;
        let teacher = self.teacher(indices, &batch.input).map_err(unbox)?;
        let (mut loss, logits) = self.of_logits(at, batch, &outputs.logits, &teacher.logits)?;
        let mut taps = Vec::with_capacity(self.leads.len());
        for (lead, (ours, theirs)) in self.leads.iter_mut().zip(outputs.taps.iter().zip(&teacher.taps)) {
            let (term, gradient) = lead.loss(at, ours, theirs)?;
            loss += term;
            taps.push(gradient);
        }
        Ok((loss, Outputs { logits, taps }))
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

    fn witness(&self) -> Option<&Tensor<T>> {
        self.witness.as_ref()
    }
}
