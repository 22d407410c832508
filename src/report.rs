//! [`Report`]: what a pipeline did, weight by weight and step by step.

use crate::distill::Training;
pub use crate::format::HuffmanSize;
use crate::model::{Kind, Model};
use crate::weight::{Node, Weight};
use crate::{DType, Fault, Float, LeftAlone, Result, parallel};
use serde::Serialize;
use std::fmt;

/// What a pipeline did: a row a weight, a row a step, and totals. `Display` is a table; serde gives JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The weights in the order of the model, and among them the tensors that are carried along as they are
    /// (integers, booleans, floats of 8 bits and fewer).
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
    /// Its shape before; absent for a weight that was not there.
    pub shape_before: Option<Vec<usize>>,
    /// Its form now: "dense", "pruned", "factored+quantized", "codebook 16", ..; "carried" for a tensor that is not a weight.
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
    /// Steps that left it as it was, or did not select it.
    pub left: Vec<Left>,
    /// How far it is from the original, once measured: see [`Compressed::measure`](crate::Compressed::measure).
    pub error: Option<WeightError>,
}

/// A step that left a weight as it was, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Left {
    /// The step.
    pub step: String,
    /// Its reason.
    pub why: LeftAlone,
}

/// How far a weight is from the original: see [`Weight::error_to`].
///
/// An entry that is NaN or infinite in only one of the two makes the difference infinite (null in JSON).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WeightError {
    /// Frobenius norm of the difference over that of the original; 0 when equal, infinite (null in JSON)
    /// when only the original is all zeros, as biases are before they are trained.
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

/// How large a weight was.
pub(crate) struct Size {
    shape: Vec<usize>,
    bytes: usize,
}

impl Size {
    pub fn of<T: Float>(weight: &Weight<T>) -> Self {
        Self { shape: weight.shape().to_vec(), bytes: weight.stored_bytes() }
    }
}

impl WeightReport {
    /// The shape, with the one before where that was another.
    fn shapes(&self) -> String {
        match &self.shape_before {
            Some(before) if *before != self.shape => format!("{:?} of {before:?}", self.shape),
            _ => format!("{:?}", self.shape),
        }
    }

    pub(crate) fn new<T: Float>(
        info: &crate::model::WeightInfo,
        before: Option<&Size>,
        weight: &Weight<T>,
    ) -> Self {
        let bytes_after = weight.stored_bytes();
        Self {
            name: info.name.to_string(),
            kind: info.kind,
            shape: weight.shape().to_vec(),
            shape_before: before.map(|before| before.shape.clone()),
            form: weight.form().to_string(),
            bytes_before: before.map(|before| before.bytes),
            bytes_after,
            bits_per_weight: bytes_after as f64 * 8.0 / (weight.len().max(1)) as f64,
            sparsity: weight.sparsity(),
            rank: weight.rank(),
            left: Vec::new(),
            error: None,
        }
    }
}

impl WeightReport {
    /// The row of a tensor that is carried along.
    pub(crate) fn carried(info: &crate::model::WeightInfo, dtype: DType, bytes: usize) -> Self {
        Self {
            name: info.name.to_string(),
            kind: info.kind,
            shape: info.shape.clone(),
            shape_before: Some(info.shape.clone()),
            form: "carried".to_owned(),
            bytes_before: Some(bytes),
            bytes_after: bytes,
            bits_per_weight: dtype.bits() as f64,
            sparsity: 0.0,
            rank: None,
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

impl<T: Float> Weight<T> {
    /// How far `other` is from this weight, which is taken for the original. Both may be in any form.
    ///
    /// ```
    /// use bantam::{AffineQuantizer, Tensor, Weight, WeightCompressor};
    ///
    /// let weight = Weight::from(Tensor::new(&[2, 2], vec![1.0_f32, -0.3, 0.7, 0.2])?);
    /// let coded = AffineQuantizer::bits(8).apply(weight.clone())?;
    /// assert!(weight.error_to(&coded)?.relative < 0.01);
    /// assert_eq!(weight.error_to(&weight)?.largest, 0.0);
    /// # Ok::<(), bantam::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when the shapes differ; [`Error::Weight`](crate::Error::Weight)
    /// when values cannot be read from a file.
    pub fn error_to(&self, other: &Self) -> Result<WeightError> {
        if self.shape() != other.shape() {
            return Err(crate::Error::shape("weight to compare", self.shape(), other.shape()));
        }
        error_between(self, other).map_err(|fault| crate::Error::weight("", fault))
    }
}

/// How far `b` is from `a`, of the same shape. Single matrices are decoded block by block.
fn error_between<T: Float>(a: &Weight<T>, b: &Weight<T>) -> Result<WeightError, Fault> {
    let sums = match (a.node(), b.node()) {
        (Node::Leaf(a), Node::Leaf(b)) => {
            let (kept_a, kept_b) = (a.mask()?, b.mask()?);
            let blocks = a.map_ranges(1, |range| {
                let x = a.read_dense(range.clone(), kept_a.as_deref())?;
                Ok(Sums::of(&x, &b.read_dense(range, kept_b.as_deref())?))
            })?;
            blocks.into_iter().fold(Sums::default(), Sums::and)
        }
        _ => Sums::of(&a.dense_values()?, &b.dense_values()?),
    };
    Ok(sums.error())
}

/// What a difference is made of.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    signal: f64,
    noise: f64,
    largest: f64,
}

impl Sums {
    fn of<T: Float>(a: &[T], b: &[T]) -> Self {
        let mut sums = Self::default();
        for (a, b) in a.iter().zip(b) {
            let (a, b) = (a.widen(), b.widen());
            // The same NaN or infinity in both is no difference, in one only an infinite one.
            let same = a == b || (a.is_nan() && b.is_nan());
            let difference = match (a - b).abs() {
                _ if same => 0.0,
                d if d.is_nan() => f64::INFINITY,
                d => d,
            };
            if a.is_finite() {
                sums.signal += a * a;
            }
            sums.noise += difference * difference;
            sums.largest = sums.largest.max(difference);
        }
        sums
    }

    fn and(self, other: Self) -> Self {
        Self {
            signal: self.signal + other.signal,
            noise: self.noise + other.noise,
            largest: self.largest.max(other.largest),
        }
    }

    fn error(self) -> WeightError {
        let relative = match self.noise {
            0.0 => 0.0,
            f64::INFINITY => f64::INFINITY,
            noise => (noise / self.signal).sqrt(),
        };
        WeightError { relative, sqnr: -20.0 * relative.log10(), largest: self.largest }
    }
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
        let shape = self.weights.iter().map(|w| w.shapes().len()).max().unwrap_or(0).clamp(18, 48);
        let measured = self.weights.iter().any(|w| w.error.is_some());
        write!(
            f,
            "{:width$}  {:<shape$} {:<25} {:>9} {:>9} {:>7} {:>7} {:>5}",
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
                "{:width$}  {:<shape$} {:<25} {:>9} {:>9} {:>7.2} {:>6.1}% {:>5}",
                w.name,
                w.shapes(),
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
            if !w.left.is_empty() && w.left.iter().all(|l| l.why == LeftAlone::NotSelected) {
                write!(f, "  [not selected]")?;
            }
            for left in w.left.iter().filter(|l| l.why != LeftAlone::NotSelected) {
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

#[cfg(test)]
mod tests {
    use crate::{MagnitudePruner, Tensor, Weight, WeightCompressor};

    fn weight(values: &[f32]) -> Weight {
        Tensor::new(&[values.len()], values.to_vec()).unwrap().into()
    }

    #[test]
    fn errors_are_relative_to_the_original() {
        let error = weight(&[3.0, 4.0]).error_to(&weight(&[3.0, 3.0])).unwrap();
        assert!((error.relative - 0.2).abs() < 1e-12 && error.largest == 1.0);
        assert!((error.sqnr - 13.979).abs() < 1e-3);
        let nothing = weight(&[0.0]).error_to(&weight(&[0.0])).unwrap();
        assert_eq!((nothing.relative, nothing.sqnr, nothing.largest), (0.0, f64::INFINITY, 0.0));
        assert_eq!(weight(&[0.0]).error_to(&weight(&[1.0])).unwrap().relative, f64::INFINITY);
        assert!(weight(&[0.0]).error_to(&weight(&[0.0, 0.0])).is_err());
    }

    #[test]
    fn what_is_not_finite_differs_from_all_but_itself() {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(weight(&[odd, 2.0]).error_to(&weight(&[odd, 1.0])).unwrap().relative, 0.5);
            for other in [0.0, f32::MAX] {
                let error = weight(&[odd, 1.0]).error_to(&weight(&[other, 1.0])).unwrap();
                assert_eq!((error.relative, error.largest), (f64::INFINITY, f64::INFINITY));
                let error = weight(&[other, 1.0]).error_to(&weight(&[odd, 1.0])).unwrap();
                assert_eq!((error.relative, error.largest), (f64::INFINITY, f64::INFINITY));
            }
        }
    }

    #[test]
    fn blocks_of_any_form_are_compared_alike() {
        let values: Vec<f32> = (0..150_000).map(|i| (i % 997) as f32 - 498.0).collect();
        let dense = weight(&values);
        let pruned = MagnitudePruner::threshold(100.0).apply(dense.clone()).unwrap();
        let undone: Weight = pruned.to_dense().unwrap().into();
        let error = dense.error_to(&pruned).unwrap();
        assert_eq!(error, dense.error_to(&undone).unwrap());
        assert_eq!(error.largest, 99.0);
        assert_eq!(undone.error_to(&pruned).unwrap().relative, 0.0);
    }
}
