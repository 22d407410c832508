//! [`Checkpoint`]: a training that can be taken up where it was, to the same bytes.

use super::early::Watch;
use super::fit::{Epoch, Sums};
use super::witness::{Witnesses, alike};
use super::{Settings, Student};
use crate::format::{Array, AtomicFile, Container, bad};
use crate::nn::{Dataset, Trainable, unbox};
use crate::{Error, Float, Result, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const KIND: &str = "checkpoint 1";
/// Key of the state of the loop.
const STATE: &str = "state";
/// What the keys of the settings begin with.
const IS: &str = "is ";
const STUDENT: &str = "student";
const BEST: &str = "best";
const TEACHER: &str = "teacher";

/// A file from which a training goes on after it was interrupted, with exactly the bytes of one that never was.
///
/// It holds the whole state: weights in whatever form they have, what the optimizer remembers, the place in the data,
/// random numbers, the progress of pruning and of codes that move, projections of [hints](super::Hint), the best weights
/// of an [`EarlyStop`](super::EarlyStop), and what a training reports. It is written whole or not at all, and only while
/// every number is finite: after a training that diverged it is the last good one, and the
/// [error](crate::Error::Diverged) names it.
///
/// | setting | default | range |
/// | --- | --- | --- |
/// | `every` | at the end of each epoch | at least 1 step |
/// | `resume` | off: an old file is written over | goes on from the file where there is one |
///
/// The end of a training is written as well: resumed once more, it gives its result at once. A training that a hook
/// ended is over in this sense; one that was cancelled is not. State that hooks keep for themselves is not in the file.
///
/// ```no_run
/// use bantam::distill::{Checkpoint, FineTuner};
/// use bantam::nn::Examples;
///
/// # fn example(train: &Examples) {
/// let tuner = FineTuner::new(train).epochs(100).checkpoint(Checkpoint::at("run.checkpoint").every(500).resume());
/// # }
/// ```
///
/// # Errors
/// Of a training that resumes: [`Error::Format`] when the file is damaged, or that of another
/// training; it names the first thing that differs (a setting, a weight, the data, the teacher) and what it is here and
/// there. Data and teacher are known by up to 64 samples, spread over the data. The settings must be the same, but for
/// this one, and so must the model that the student was made of.
/// [`Error::Data`] when the student is one that cannot be kept ([`Student::state`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub(super) path: PathBuf,
    pub(super) every: Option<usize>,
    resume: bool,
}

impl From<&str> for Checkpoint {
    fn from(path: &str) -> Self {
        Self::at(path)
    }
}

impl From<PathBuf> for Checkpoint {
    fn from(path: PathBuf) -> Self {
        Self::at(path)
    }
}

impl From<&Path> for Checkpoint {
    fn from(path: &Path) -> Self {
        Self::at(path)
    }
}

impl Checkpoint {
    /// In the file at `path`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), every: None, resume: false }
    }

    /// Writes it each time that so many steps are done.
    pub fn every(mut self, steps: usize) -> Self {
        self.every = Some(steps);
        self
    }

    /// Goes on from the file, where there is one.
    pub fn resume(mut self) -> Self {
        self.resume = true;
        self
    }
}

/// The whole state of a training, but for what learns.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct State {
    /// Steps that are done.
    pub step: usize,
    /// What hooks have made of the rate.
    pub factor: f64,
    pub done: bool,
    pub epochs: Vec<Epoch>,
    /// Of the epoch that has begun.
    pub sums: Sums,
    pub watch: Watch,
    /// The student at its best.
    #[serde(skip)]
    pub best: Option<Vec<u8>>,
}

/// Whoever writes and reads the file of one training.
pub(super) struct Keeper<'c> {
    how: &'c Checkpoint,
    identity: BTreeMap<String, String>,
    teacher: Option<Array>,
    /// Whether the file is one of this training.
    written: bool,
}

impl<'c> Keeper<'c> {
    /// `identity` says what the training is made of, `teacher` what the teacher says of a few samples.
    pub fn new<T: Float>(
        how: &'c Checkpoint,
        identity: BTreeMap<String, String>,
        teacher: Option<Tensor<T>>,
    ) -> Result<Self> {
        // A folder that is not there is found now and not after the first epoch.
        AtomicFile::create(&how.path)?;
        let teacher = teacher.map(|logits| Array::new(logits.shape(), logits.as_slice()));
        Ok(Self { how, identity, teacher, written: false })
    }

    pub fn is_due(&self, step: usize, ends_epoch: bool) -> bool {
        self.how.every.map_or(ends_epoch, |every| step.is_multiple_of(every))
    }

    /// The last one that was written.
    pub fn last(&self) -> Option<PathBuf> {
        self.written.then(|| self.how.path.clone())
    }

    pub fn save<T: Float>(
        &mut self,
        state: &State,
        student: &mut dyn Student<T>,
        learners: Vec<&mut Trainable<T>>,
    ) -> Result<()> {
        student.as_trainable().map_or(Ok(()), |trainable| trainable.check())?;
        let mut container = Container::default();
        container.arrays.insert(STUDENT.to_owned(), Array::opaque(state_of(student)?));
        for (i, learner) in learners.into_iter().enumerate() {
            learner.check()?;
            container.arrays.insert(projection(i), Array::opaque(learner.state()?));
        }
        if let Some(best) = &state.best {
            container.arrays.insert(BEST.to_owned(), Array::opaque(best.clone()));
        }
        if let Some(teacher) = &self.teacher {
            container.arrays.insert(TEACHER.to_owned(), teacher.clone());
        }
        let json = serde_json::to_string(state).map_err(|e| bad(e.to_string()))?;
        container.texts.insert(STATE.to_owned(), json);
        container
            .texts
            .extend(self.identity.iter().map(|(key, value)| (format!("{IS}{key}"), value.clone())));
        container.save(KIND, AtomicFile::create(&self.how.path)?, &self.how.path)?;
        self.written = true;
        Ok(())
    }

    /// What is in the file, where there is one to resume from: the state, and the student in bytes. The `learners` are
    /// what they were then; the student is as it is until it is [`restored`](Self::restore).
    pub fn resume<T: Float>(
        &mut self,
        learners: Vec<&mut Trainable<T>>,
        steps: usize,
    ) -> Result<Option<(State, Vec<u8>)>> {
        if !self.how.resume || !self.how.path.try_exists().map_err(|e| Error::io(&self.how.path, e))? {
            return Ok(None);
        }
        let kept = self.read(learners, steps).map_err(|error| self.named(error))?;
        self.written = true;
        Ok(Some(kept))
    }

    /// Makes the student what it was.
    pub fn restore<T: Float>(&self, student: &mut dyn Student<T>, state: &[u8]) -> Result<()> {
        student.set_state(state).map_err(|error| self.named(unbox(error)))
    }

    /// An error of the file, with its path.
    fn named(&self, error: Error) -> Error {
        match error {
            Error::Format(format) => Error::Format(format.at(&self.how.path)),
            other => other,
        }
    }

    fn read<T: Float>(&self, learners: Vec<&mut Trainable<T>>, steps: usize) -> Result<(State, Vec<u8>)> {
        let mut file = Container::open(KIND, &self.how.path)?;
        self.compare::<T>(&file)?;
        let mut state: State =
            serde_json::from_str(file.text(STATE)?).map_err(|e| bad(format!("`{STATE}`: {e}")))?;
        if state.step > steps {
            return Err(bad(format!("{} of {steps} steps are done", state.step)));
        }
        let mut take = |name: &str| file.arrays.remove(name);
        let missing = |name: &str| bad(format!("it has no `{name}`"));
        state.best = take(BEST).map(|best| best.bytes().to_vec());
        for (i, learner) in learners.into_iter().enumerate() {
            let name = projection(i);
            learner.set_state(take(&name).ok_or_else(|| missing(&name))?.bytes())?;
        }
        let student = take(STUDENT).ok_or_else(|| missing(STUDENT))?;
        Ok((state, student.bytes().to_vec()))
    }

    /// Whether it is the same training.
    fn compare<T: Float>(&self, file: &Container) -> Result<()> {
        let settings = file.texts.iter().filter_map(|(key, value)| Some((key.strip_prefix(IS)?, value)));
        let there: BTreeMap<&str, &String> = settings.collect();
        let here: BTreeMap<&str, &String> = self.identity.iter().map(|(k, v)| (k.as_str(), v)).collect();
        for key in here.keys().chain(there.keys()) {
            let (here, there) = (here.get(key), there.get(key));
            if here != there {
                let say = |value: Option<&&String>| value.map_or("nothing", |v| v.as_str()).to_owned();
                let (there, here) = (say(there), say(here));
                return Err(bad(format!(
                    "it is that of another training: `{key}` is {there} there and {here} here"
                )));
            }
        }
        let logits = |array: Option<&Array>| array.and_then(Array::values::<T>);
        match (logits(file.arrays.get(TEACHER)), logits(self.teacher.as_ref())) {
            (None, None) => Ok(()),
            (Some(there), Some(here)) if alike(&there, &here) => Ok(()),
            _ => Err(bad("it is that of another training: the teacher says something else here")),
        }
    }
}

fn projection(i: usize) -> String {
    format!("projection {i}")
}

/// The state of a student that can be kept.
pub(super) fn state_of<T: Float>(student: &mut dyn Student<T>) -> Result<Vec<u8>> {
    const NONE: Error =
        Error::Data("this student cannot be kept for a checkpoint or early stopping: it has no state");
    student.state().map_err(unbox)?.ok_or(NONE)
}

/// What a training is made of, besides the objective. `train` are a few of its samples.
pub(super) fn identity<T: Float>(
    settings: &Settings<'_, T>,
    student: &mut dyn Student<T>,
    train: &Witnesses<T>,
) -> Result<BTreeMap<String, String>> {
    let mut identity = settings.identity();
    identity.insert("type".to_owned(), T::DTYPE.name().to_owned());
    let data = |of: &Witnesses<T>| format!("{} in {} of its samples", of.all().text(), of.indices.len());
    identity.insert("data".to_owned(), data(train));
    let validation = settings.validation.map(|data: &dyn Dataset<T>| Witnesses::of(data)).transpose()?;
    identity.extend(validation.map(|of| ("validation data".to_owned(), data(&of))));
    if let Some(trainable) = student.as_trainable() {
        identity.extend(trainable.identity()?);
        identity.insert("optimizer".to_owned(), format!("{:?}", trainable.optimizer()));
    }
    Ok(identity)
}
