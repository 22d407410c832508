//! What a teacher says of every sample, asked once.

use super::checkpoint::fingerprint;
use super::fit::fetch;
use super::{Settings, Teacher};
use crate::format::{Array, AtomicFile, Container, bad};
use crate::nn::{Input, Target, unbox};
use crate::{Error, Float, Result, Tensor};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

const KIND: &str = "logits 1";
const LOGITS: &str = "logits";
const INPUTS: &str = "inputs";
/// Samples by which a file is known to be of this teacher and these data.
const WITNESSES: usize = 64;
/// How much logits may differ that are the same but for rounding, as a part of the largest.
const ROUNDING: f64 = 1e-3;

/// Where answers are kept; clones share them.
#[derive(Clone)]
pub(super) struct Cache<T> {
    file: Option<PathBuf>,
    logits: Arc<OnceLock<Logits<T>>>,
}

impl<T: Float> Cache<T> {
    /// In a file, or in memory alone.
    pub fn new(file: Option<PathBuf>) -> Self {
        Self { file, logits: Arc::default() }
    }

    /// The answers: those in memory, those of the file, or new ones.
    pub fn get(&self, teacher: &dyn Teacher<T>, settings: &Settings<'_, T>) -> Result<&Logits<T>> {
        if let Some(logits) = self.logits.get() {
            return Ok(logits);
        }
        let logits = match &self.file {
            None => Logits::ask(teacher, settings)?,
            Some(path) => Logits::kept(path, teacher, settings)?,
        };
        Ok(self.logits.get_or_init(|| logits))
    }
}

/// The teacher's logits for every sample, `[samples, classes]`.
pub(super) struct Logits<T> {
    classes: usize,
    values: Vec<T>,
}

impl<T: Float> Logits<T> {
    pub fn rows(&self, indices: &[usize]) -> Result<Tensor<T>> {
        let rows = indices.iter().flat_map(|i| &self.values[i * self.classes..(i + 1) * self.classes]);
        Tensor::new(&[indices.len(), self.classes], rows.copied().collect())
    }

    fn ask(teacher: &dyn Teacher<T>, settings: &Settings<'_, T>) -> Result<Self> {
        let indices: Vec<usize> = (0..settings.samples()?).collect();
        let mut all = Self { classes: 0, values: Vec::new() };
        for indices in indices.chunks(settings.batch_size) {
            let logits = ask(teacher, &fetch(settings, indices)?.input)?;
            let classes = logits.len() / indices.len();
            if all.classes != 0 && all.classes != classes {
                let expected = [indices.len(), all.classes];
                return Err(Error::shape("teacher's logits", &expected, logits.shape()));
            }
            all.classes = classes;
            all.values.extend_from_slice(logits.as_slice());
        }
        Ok(all)
    }

    /// Those in the file at `path`; where there is none, it is written.
    fn kept(path: &Path, teacher: &dyn Teacher<T>, settings: &Settings<'_, T>) -> Result<Self> {
        let n = settings.samples()?;
        let witnesses = witnesses(n);
        let mut samples = fetch(settings, &witnesses)?;
        // Labels may change: the teacher has not seen them.
        samples.target = Target::None;
        let inputs = fingerprint(&samples).text();
        if path.try_exists().map_err(|e| Error::io(path, e))? {
            let check = || -> Result<Self> {
                let logits = Self::read(path, n, &inputs)?;
                let now = ask(teacher, &samples.input)?;
                if now.shape() != [witnesses.len(), logits.classes] {
                    let [there, here] = [logits.classes, now.shape()[1]];
                    return Err(bad(format!("logits of {there} classes; the teacher has {here}")));
                }
                if !alike(logits.rows(&witnesses)?.as_slice(), now.as_slice()) {
                    return Err(bad("logits of another teacher: this one says something else"));
                }
                Ok(logits)
            };
            return check().map_err(|error| match error {
                Error::Format(format) => Error::Format(format.at(path)),
                other => other,
            });
        }
        // A folder that is not there is found before the teacher is asked.
        let file = AtomicFile::create(path)?;
        let logits = Self::ask(teacher, settings)?;
        let mut container = Container::default();
        container.texts.insert(INPUTS.to_owned(), inputs);
        container.arrays.insert(LOGITS.to_owned(), Array::new(&[n, logits.classes], &logits.values));
        container.save(KIND, file, path)?;
        Ok(logits)
    }

    fn read(path: &Path, n: usize, inputs: &str) -> Result<Self> {
        let mut file = Container::open(KIND, path)?;
        let array = file.arrays.remove(LOGITS).ok_or_else(|| bad(format!("it has no `{LOGITS}`")))?;
        let [samples, classes] = *array.shape() else { return Err(bad("logits that are not [n, classes]")) };
        let values = array.values().ok_or_else(|| bad(format!("logits that are not {}", T::DTYPE)))?;
        if samples != n {
            return Err(bad(format!("logits of {samples} samples; the data have {n}")));
        }
        if file.text(INPUTS)? != inputs {
            return Err(bad("logits of other data: the samples have changed"));
        }
        Ok(Self { classes, values })
    }
}

/// Indices spread over `n` samples, the first and the last among them.
fn witnesses(n: usize) -> Vec<usize> {
    let m = n.min(WITNESSES);
    (0..m).map(|i| (i as u128 * (n as u128 - 1) / (m as u128 - 1).max(1)) as usize).collect()
}

/// Whether logits are those of the same teacher: alike but for rounding, which another processor does in another way.
pub(super) fn alike<T: Float>(a: &[T], b: &[T]) -> bool {
    let finite = a.iter().map(|x| x.widen().abs()).filter(|x| x.is_finite());
    let bound = ROUNDING * finite.fold(0.0, f64::max);
    let same = |a: T, b: T| a == b || (a.is_nan() && b.is_nan()) || (a.widen() - b.widen()).abs() <= bound;
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(*a, *b))
}

/// What the teacher says of a batch.
pub(super) fn ask<T: Float>(teacher: &dyn Teacher<T>, input: &Input<T>) -> Result<Tensor<T>> {
    checked(teacher.logits(input).map_err(unbox)?, input)
}

/// Whether there is a row for each sample.
pub(super) fn checked<T: Float>(logits: Tensor<T>, input: &Input<T>) -> Result<Tensor<T>> {
    match *logits.shape() {
        [n, classes] if n == input.samples() && classes > 0 => Ok(logits),
        ref got => {
            let expected = [input.samples(), got.last().copied().unwrap_or(0)];
            Err(Error::shape("teacher's logits", &expected, got))
        }
    }
}
