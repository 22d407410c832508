//! [`Calibrator`]: fixed ranges of activations, from data.

use crate::compressor::{Compressor, Step};
use crate::log::Log;
use crate::model::{Model, Outline, Select, select_setters};
use crate::nn::Dataset;
use crate::{Activations, Error, Float, Refusal, Result};
use std::collections::BTreeMap;
use std::fmt;

/// Fixes the ranges of the inputs of quantized weights: runs the network on data and remembers the
/// smallest and largest input of each weight. Afterwards these weights run on integers with
/// [`Activations::Int8Static`].
///
/// | setting | default | meaning |
/// | --- | --- | --- |
/// | [`samples(n)`](Self::samples) | 512 | how many samples are looked at, the first of the dataset |
/// | [`batch_size(n)`](Self::batch_size) | 128 | samples at a time |
///
/// Takes the weights that are quantized; others are left alone. Carries data, so it cannot be written in a
/// recipe.
#[derive(Clone)]
pub struct Calibrator<'a, T: Float = f32> {
    data: &'a dyn Dataset<T>,
    samples: usize,
    batch_size: usize,
    select: Select,
}

impl<T: Float> fmt::Debug for Calibrator<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calibrator").field("samples", &self.samples).finish_non_exhaustive()
    }
}

impl<'a, T: Float> Calibrator<'a, T> {
    /// Calibrates on the first samples of `data`; labels are not used.
    pub fn new(data: &'a dyn Dataset<T>) -> Self {
        Self { data, samples: 512, batch_size: 128, select: Select::default() }
    }

    /// How many samples are looked at. Default: 512, or all there are.
    pub fn samples(mut self, samples: usize) -> Self {
        self.samples = samples;
        self
    }

    /// Samples at a time. Default: 128.
    pub fn batch_size(mut self, batch_size: usize) -> Self {
        self.batch_size = batch_size;
        self
    }

    select_setters!();
}

impl<T: Float> Step for Calibrator<'_, T> {
    fn name(&self) -> &str {
        "calibrate"
    }

    fn validate(&self) -> Result<(), crate::Invalid> {
        let least = |name, n: usize| crate::Invalid::unless_in(1.0.., name, n as f64, "at least 1");
        least("samples", self.samples)?;
        least("batch_size", self.batch_size)
    }

    fn plan(&self, outline: &mut Outline) -> Result<(), (String, Refusal)> {
        if !outline.has_graph() {
            return Err(("*".to_owned(), Refusal::NoGraph));
        }
        outline.for_each_selected(&self.select, |weight| {
            if weight.form.quantized {
                weight.activations = Activations::Int8Static { low: 0.0, high: 0.0 };
                Ok(())
            } else {
                Err(Refusal::Other(
                    "its inputs can be calibrated once it is quantized; put quantize before that".into(),
                ))
            }
        })
    }
}

impl<T: Float> Compressor<T> for Calibrator<'_, T> {
    fn compress(&self, model: &mut Model<T>, log: &Log<'_>) -> Result<()> {
        if self.data.is_empty() {
            return Err(Error::Data("it has no samples"));
        }
        // Ranges are those of exact inputs, so the network runs on floats here.
        let names: Vec<String> = (model.entries())
            .filter(|(info, w)| self.select.takes(info) && w.form().quantized)
            .map(|(info, _)| info.name.to_string())
            .collect();
        for name in &names {
            if let Some(weight) = model.weight(name).cloned() {
                model.set(name, weight.with_activations(Activations::Float))?;
            }
        }
        let network = model.network()?;
        let samples = self.samples.min(self.data.len());
        let mut ranges: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        for first in (0..samples).step_by(self.batch_size) {
            log.progress(first, samples)?;
            let indices: Vec<usize> = (first..samples.min(first + self.batch_size)).collect();
            let batch = self.data.batch(&indices)?;
            network.forward_observed(&batch.input, &mut |name, values| {
                let (low, high) = ranges.entry(name.to_owned()).or_default();
                for x in values {
                    *low = low.min(x.widen());
                    *high = high.max(x.widen());
                }
            })?;
        }
        for name in &names {
            if let (Some(weight), Some((low, high))) = (model.weight(name).cloned(), ranges.get(name)) {
                let fixed = Activations::Int8Static { low: *low, high: *high };
                model.set(name, weight.with_activations(fixed))?;
            }
        }
        Ok(())
    }
}
