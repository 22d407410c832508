//! Steps of training: forward, loss, backward and Adam, on one batch; with a teacher, its forward pass as well.

use crate::network::{input, model};
use crate::row::Row;
use crate::work::Work;
use bantam::nn::{Optimizer, Outputs, cross_entropy, cross_entropy_into, kl_divergence};
use bantam::{BoxError, Pipeline};
use std::path::Path;
use std::time::Instant;

/// So small that steps stay alike however many there are.
const RATE: f64 = 1e-5;
/// Of the distillation: the default settings of the `Distiller`.
const ALPHA: f32 = 0.1;
const TEMPERATURE: f32 = 4.0;

pub fn prepare(row: &Row, batch: usize, folder: Option<&Path>) -> Result<Work, BoxError> {
    let small = Pipeline::<f32>::from(&row.recipe()?).run(model(row, &row.layers, folder)?)?;
    let mut student = small.model.network()?.trainable(Optimizer::adam().into())?;
    let teacher = match &row.teacher[..] {
        [] => None,
        layers => Some(model(row, layers, folder)?.network()?),
    };
    let input = input(row, batch, folder)?;
    let labels: Vec<u32> = (0..batch as u32).map(|i| i % 10).collect();
    let (mut outputs, mut gradients) = (Outputs::default(), Outputs::default());
    Ok(Box::new(move || {
        let begin = Instant::now();
        let wanted = teacher.as_ref().map(|teacher| teacher.forward(&input)).transpose()?;
        student.forward_into(&input, &[], &mut outputs)?;
        if let Some(wanted) = wanted {
            let (_, soft) = kl_divergence(&outputs.logits, &wanted, f64::from(TEMPERATURE))?;
            let (_, hard) = cross_entropy(&outputs.logits, &labels)?;
            gradients.logits = soft;
            for (g, hard) in gradients.logits.as_mut_slice().iter_mut().zip(hard.iter()) {
                *g = (1.0 - ALPHA) * TEMPERATURE * TEMPERATURE * *g + ALPHA * hard;
            }
        } else {
            cross_entropy_into(&outputs.logits, &labels, &mut gradients.logits)?;
        }
        student.backward(&gradients)?;
        student.step(RATE)?;
        Ok(begin.elapsed())
    }))
}
