//! [`Report`]: what a pipeline did, weight by weight and step by step.

use crate::distill::Training;
use crate::model::{Kind, Model};
use crate::weight::Weight;
use crate::{Fault, Float, LeftAlone, Result, parallel};
use serde::Serialize;
use std::fmt;

/// What a pipeline did: a row a weight, a row a step, and totals. `Display` is a table; serde gives JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The weights in the order of the model.
    pub weights: Vec<WeightReport>,
    /// The steps in the order of the pipeline, nested ones in place.
    pub steps: Vec<StepReport>,
    /// Bytes of all tensors before, as a file in the open layout stores them (without header).
    pub bytes_before: usize,
    /// The same after.
    pub bytes_after: usize,
}

/// One weight before and after.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WeightReport {
    /// Its name.
    pub name: String,
    /// What it does.
    pub kind: Kind,
    /// Its shape now.
    pub shape: Vec<usize>,
    /// Its form now: "dense", "pruned", "factored+quantized", ..
    pub form: String,
    /// Stored bytes before; absent for a weight that was not there.
    pub bytes_before: Option<usize>,
    /// Stored bytes now.
    pub bytes_after: usize,
    /// Stored bits for each entry of the dense tensor.
    pub bits_per_weight: f64,
    /// Fraction of the entries that is pruned, 0 to 1.
    pub sparsity: f64,
    /// Rank, where it is factored.
    pub rank: Option<usize>,
    /// Steps that selected it and left it as it was.
    pub left: Vec<Left>,
    /// How far it is from the original, once measured: see [`Compressed::measure`](crate::Compressed::measure).
    pub error: Option<WeightError>,
}

/// A step that left a weight as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Left {
    /// The step.
    pub step: String,
    /// Its reason.
    pub why: LeftAlone,
}

/// How far a weight is from the original.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WeightError {
    /// Frobenius norm of the difference over that of the original; 0 when equal.
    pub relative: f64,
    /// Signal to quantization noise in decibels, `-20 log10(relative)`; infinite (null in JSON) when equal.
    pub sqnr: f64,
    /// Largest difference of one entry.
    pub largest: f64,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct StepReport {
    /// Its name.
    pub name: String,
    /// Stored bytes of the whole model before it.
    pub bytes_before: usize,
    /// Stored bytes of the whole model after it.
    pub bytes_after: usize,
    /// Wall time. When streaming, steps run together and only the last has the time of all.
    pub seconds: f64,
    /// The course of the training, if it trained.
    pub training: Option<Training>,
}

impl WeightReport {
    pub(crate) fn new<T: Float>(
        info: &crate::model::WeightInfo,
        bytes_before: Option<usize>,
        weight: &Weight<T>,
    ) -> Self {
        let bytes_after = weight.stored_bytes();
        Self {
            name: info.name.to_string(),
            kind: info.kind,
            shape: weight.shape().to_vec(),
            form: weight.form().to_string(),
            bytes_before,
            bytes_after,
            bits_per_weight: bytes_after as f64 * 8.0 / (weight.len().max(1)) as f64,
            sparsity: weight.sparsity(),
            rank: weight.rank(),
            left: Vec::new(),
            error: None,
        }
    }
}

impl Report {
    /// How many times smaller the tensors are.
    pub fn ratio(&self) -> f64 {
        self.bytes_before as f64 / self.bytes_after.max(1) as f64
    }

    /// The row of that name.
    pub fn weight(&self, name: &str) -> Option<&WeightReport> {
        self.weights.iter().find(|w| w.name == name)
    }

    /// The report in JSON.
    pub fn to_json(&self) -> String {
        // Plain data with text keys: there is nothing that JSON cannot hold.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Fills in the error columns.
    pub(crate) fn measure<T: Float>(&mut self, original: &Model<T>, now: &Model<T>) -> Result<()> {
        let errors = parallel::try_map(self.weights.len(), |i| {
            let name = &self.weights[i].name;
            match (original.weight(name), now.weight(name)) {
                (Some(a), Some(b)) if a.shape() == b.shape() => {
                    error_between(a, b).map(Some).map_err(|f| crate::Error::weight(name, f))
                }
                _ => Ok(None),
            }
        })?;
        self.weights.iter_mut().zip(errors).for_each(|(row, error)| row.error = error);
        Ok(())
    }
}

/// How far `b` is from `a`.
pub(crate) fn error_between<T: Float>(a: &Weight<T>, b: &Weight<T>) -> Result<WeightError, Fault> {
    let (a, b) = (a.dense_values()?, b.dense_values()?);
    let (mut signal, mut noise, mut largest) = (0.0, 0.0, 0.0_f64);
    for (a, b) in a.iter().zip(&b) {
        let (a, difference) = (a.widen(), a.widen() - b.widen());
        signal += a * a;
        noise += difference * difference;
        largest = largest.max(difference.abs());
    }
    let relative = if noise == 0.0 { 0.0 } else { (noise / signal).sqrt() };
    Ok(WeightError { relative, sqnr: -20.0 * relative.log10(), largest })
}

/// Bytes for people.
pub(crate) fn human(bytes: usize) -> String {
    let bytes = bytes as f64;
    match bytes {
        b if b < 1e3 => format!("{b} B"),
        b if b < 1e6 => format!("{:.1} kB", b / 1e3),
        b if b < 1e9 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.2} GB", b / 1e9),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.weights.iter().map(|w| w.name.len()).max().unwrap_or(0).clamp(6, 48);
        let measured = self.weights.iter().any(|w| w.error.is_some());
        write!(
            f,
            "{:width$}  {:<18} {:<25} {:>9} {:>9} {:>7} {:>7} {:>5}",
            "weight", "shape", "form", "before", "after", "bits/w", "zeros", "rank"
        )?;
        writeln!(
            f,
            "{}",
            if measured { format!(" {:>10} {:>9}", "rel. error", "SQNR dB") } else { String::new() }
        )?;
        for w in &self.weights {
            write!(
                f,
                "{:width$}  {:<18} {:<25} {:>9} {:>9} {:>7.2} {:>6.1}% {:>5}",
                w.name,
                format!("{:?}", w.shape),
                w.form,
                w.bytes_before.map_or("-".to_owned(), human),
                human(w.bytes_after),
                w.bits_per_weight,
                w.sparsity * 100.0,
                w.rank.map_or("-".to_owned(), |r| r.to_string()),
            )?;
            if let Some(e) = w.error {
                write!(f, " {:>10.2e} {:>9.1}", e.relative, e.sqnr)?;
            }
            for left in &w.left {
                write!(f, "  [{}: {}]", left.step, left.why)?;
            }
            writeln!(f)?;
        }
        for s in &self.steps {
            write!(
                f,
                "step {:<12} {:>9} -> {:>9} in {:.2} s",
                s.name,
                human(s.bytes_before),
                human(s.bytes_after),
                s.seconds
            )?;
            if let Some(last) = s.training.as_ref().and_then(|t| t.epochs.last()) {
                write!(f, ", loss {:.4}", last.loss)?;
                if let Some(accuracy) = last.validation.or(last.accuracy) {
                    write!(f, ", accuracy {:.2}%", accuracy * 100.0)?;
                }
            }
            writeln!(f)?;
        }
        write!(
            f,
            "total {} -> {}, {:.2} times smaller",
            human(self.bytes_before),
            human(self.bytes_after),
            self.ratio()
        )
    }
}
