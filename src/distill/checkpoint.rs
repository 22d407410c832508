//! [`Checkpoint`]: a training that can be taken up where it was, to the same bytes.

use super::early::Watch;
use super::fit::{Epoch, Sums};
use super::logits::alike;
use super::{Settings, Student};
use crate::format::{Array, AtomicFile, Container, Hash, bad};
use crate::nn::{Batch, Input, Target, Trainable, unbox};
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
/// there. The settings must be the same, but for this one, and so must the model that the student was made of.
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
    /// `identity` says what the training is made of, `teacher` what the teacher says of the first samples.
    pub fn new<T: Float>(
        how: &'c Checkpoint,
        identity: BTreeMap<String, String>,
        teacher: Option<&Tensor<T>>,
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

    /// The state in the file, into all that learns, where there is a file to resume from.
    pub fn resume<T: Float>(
        &mut self,
        student: &mut dyn Student<T>,
        learners: Vec<&mut Trainable<T>>,
        steps: usize,
    ) -> Result<Option<State>> {
        if !self.how.resume || !self.how.path.try_exists().map_err(|e| Error::io(&self.how.path, e))? {
            return Ok(None);
        }
        let state = self.read(student, learners, steps).map_err(|error| match error {
            Error::Format(format) => Error::Format(format.at(&self.how.path)),
            other => other,
        })?;
        self.written = true;
        Ok(Some(state))
    }

    fn read<T: Float>(
        &self,
        student: &mut dyn Student<T>,
        learners: Vec<&mut Trainable<T>>,
        steps: usize,
    ) -> Result<State> {
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
        let array = take(STUDENT).ok_or_else(|| missing(STUDENT))?;
        student.set_state(array.bytes()).map_err(unbox)?;
        Ok(state)
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

/// What a training is made of, besides the objective.
pub(super) fn identity<T: Float>(
    settings: &Settings<'_, T>,
    student: &mut dyn Student<T>,
    first: &Batch<T>,
) -> Result<BTreeMap<String, String>> {
    let mut identity = settings.identity();
    identity.insert("type".to_owned(), T::DTYPE.name().to_owned());
    identity.insert("data".to_owned(), format!("{} in the first batch", fingerprint(first).text()));
    if let Some(trainable) = student.as_trainable() {
        identity.extend(trainable.identity()?);
        identity.insert("optimizer".to_owned(), format!("{:?}", trainable.optimizer()));
    }
    Ok(identity)
}

/// A hash of samples and of what is wanted for them.
pub(super) fn fingerprint<T: Float>(batch: &Batch<T>) -> Hash {
    let mut hash = Hash::new();
    batch.input.shape().iter().for_each(|n| hash.add(&(*n as u64).to_le_bytes()));
    match &batch.input {
        Input::Values(x) => hash.numbers(x.as_slice()),
        Input::Ids(x) => hash.numbers(x.as_slice()),
    }
    match &batch.target {
        Target::Labels(labels) => {
            hash.numbers(&labels.iter().map(|label| i64::from(*label)).collect::<Vec<_>>());
        }
        Target::Values(values) => hash.numbers(values.as_slice()),
        Target::None => {}
    }
    hash
}
