//! What a teacher says of every sample, asked once.

use super::fit::fetch;
use super::witness::{Witnesses, alike};
use super::{Settings, Teacher};
use crate::format::{Array, AtomicFile, Container, bad};
use crate::nn::{Batch, Input, unbox};
use crate::{Error, Float, Result, Tensor};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

const KIND: &str = "logits 1";
const LOGITS: &str = "logits";
const INPUTS: &str = "inputs";

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
    pub fn rows(&self, indices: &[usize]) -> Tensor<T> {
        let mut out = Tensor::zeros(&[0]);
        self.rows_into(indices, &mut out);
        out
    }

    /// The same in the place of a tensor that may have that shape already.
    pub fn rows_into(&self, indices: &[usize], out: &mut Tensor<T>) {
        let shape = [indices.len(), self.classes];
        if out.shape() != shape {
            *out = Tensor::zeros(&shape);
        }
        for (to, i) in out.as_mut_slice().chunks_mut(self.classes).zip(indices) {
            to.copy_from_slice(&self.values[i * self.classes..(i + 1) * self.classes]);
        }
    }

    fn ask(teacher: &dyn Teacher<T>, settings: &Settings<'_, T>) -> Result<Self> {
        let n = settings.samples()?;
        let mut all = Self { classes: 0, values: Vec::new() };
        let (mut indices, mut batch) = (Vec::new(), Batch::default());
        for first in (0..n).step_by(settings.batch_size) {
            indices.clear();
            indices.extend(first..n.min(first.saturating_add(settings.batch_size)));
            fetch(settings.train, &indices, &mut batch)?;
            let logits = ask(teacher, &batch.input)?;
            let classes = logits.len() / indices.len();
            if first == 0 {
                all.classes = classes;
                let room = n.checked_mul(classes).map(|numbers| all.values.try_reserve_exact(numbers));
                if !matches!(room, Some(Ok(()))) {
                    return Err(Error::Data("too many samples to keep what the teacher says of each"));
                }
            }
            if all.classes != classes {
                let expected = [indices.len(), all.classes];
                return Err(Error::shape("teacher's logits", &expected, logits.shape()));
            }
            all.values.extend_from_slice(logits.as_slice());
        }
        Ok(all)
    }

    /// Those in the file at `path`; where there is none, it is written.
    fn kept(path: &Path, teacher: &dyn Teacher<T>, settings: &Settings<'_, T>) -> Result<Self> {
        let n = settings.samples()?;
        let witnesses = Witnesses::of(settings.train)?;
        // Labels may change: the teacher has not seen them.
        let inputs = witnesses.inputs().text();
        if path.try_exists().map_err(|e| Error::io(path, e))? {
            let check = || -> Result<Self> {
                let logits = Self::read(path, n, &inputs)?;
                let now = ask(teacher, &witnesses.batch.input)?;
                if now.shape() != [witnesses.indices.len(), logits.classes] {
                    let [there, here] = [logits.classes, now.shape()[1]];
                    return Err(bad(format!("logits of {there} classes; the teacher has {here}")));
                }
                if !alike(logits.rows(&witnesses.indices).as_slice(), now.as_slice()) {
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
