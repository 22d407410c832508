//! [`Log`]: where a step speaks while it works.

use crate::distill::Training;
use crate::{Error, LeftAlone, Result};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// How far a pipeline is: what [`Pipeline::on_progress`](crate::Pipeline::on_progress) is told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// Name of the step at work.
    pub step: &'a str,
    /// Its place in the outermost pipeline, from 0; steps of nested pipelines count one by one.
    pub index: usize,
    /// Steps in the outermost pipeline, counted like that.
    pub steps: usize,
    /// Units of work done: weights, or steps of a training. A step that looks at all weights before it
    /// changes one counts each look from 0. In [`run_to`](crate::Pipeline::run_to), where a weight passes
    /// through all steps at once, the last step speaks for all.
    pub done: usize,
    /// Units of work in this step.
    pub of: usize,
}

pub(crate) type OnProgress<'a> = dyn Fn(&Progress<'_>) + Send + Sync + 'a;

/// How a step is run: what the pipelines that it is in, from the inside out, were told.
#[derive(Clone, Default)]
pub(crate) struct Manner<'a> {
    pub strict: bool,
    pub on_progress: Vec<&'a OnProgress<'a>>,
    pub cancel: Vec<Arc<AtomicBool>>,
}

impl<'a> Manner<'a> {
    /// This and what another pipeline around it was told.
    pub fn and(&self, other: &Manner<'a>) -> Self {
        Self {
            strict: self.strict || other.strict,
            on_progress: [&self.on_progress[..], &other.on_progress].concat(),
            cancel: [&self.cancel[..], &other.cancel].concat(),
        }
    }
}

/// Where a step speaks: how far it is, what it left alone, whether it should stop. Output only: no data
/// comes to a step through it.
pub struct Log<'a> {
    step: String,
    index: usize,
    steps: usize,
    manner: Manner<'a>,
    done: AtomicUsize,
    record: Arc<Mutex<Record>>,
}

/// What a step has said.
#[derive(Default)]
pub(crate) struct Record {
    pub left: Vec<(String, LeftAlone)>,
    pub training: Option<Training>,
    /// Bytes of the weights that were touched, before and after.
    pub bytes: (usize, usize),
}

impl fmt::Debug for Log<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("step", &self.step).finish_non_exhaustive()
    }
}

impl<'a> Log<'a> {
    /// A log that nobody listens to, for a step called `step` that is run without a pipeline.
    pub fn quiet(step: &str) -> Self {
        Self::new(step, 0, 1, Manner::default())
    }

    pub(crate) fn new(step: &str, index: usize, steps: usize, manner: Manner<'a>) -> Self {
        let step = step.to_owned();
        Self { step, index, steps, manner, done: AtomicUsize::new(0), record: Arc::default() }
    }

    /// The log of a step inside this one, for a pipeline that a step of a user runs: the record is one.
    pub(crate) fn inner<'b>(&self, step: &str, manner: &Manner<'b>) -> Log<'b>
    where
        'a: 'b,
    {
        Log {
            step: step.to_owned(),
            index: self.index,
            steps: self.steps,
            manner: manner.and(&self.manner),
            done: AtomicUsize::new(0),
            record: Arc::clone(&self.record),
        }
    }

    /// Says that `done` of `of` units of work are done. To be called often: it is also how a step learns
    /// that it should stop.
    ///
    /// # Errors
    /// [`Error::Cancelled`] when the pipeline was cancelled.
    pub fn progress(&self, done: usize, of: usize) -> Result<()> {
        if self.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let progress = Progress { step: &self.step, index: self.index, steps: self.steps, done, of };
        self.manner.on_progress.iter().for_each(|f| f(&progress));
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// One more of `of` units is done, whatever their order.
    pub(crate) fn one_more(&self, of: usize) -> Result<()> {
        self.progress(self.done.fetch_add(1, Ordering::Relaxed) + 1, of)
    }

    /// Whether the pipeline, or one around it, was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.manner.cancel.iter().any(|flag| flag.load(Ordering::Relaxed))
    }

    /// Says that a selected weight was left as it was, and why. A row of the report.
    ///
    /// # Errors
    /// [`Error::Left`] when the pipeline is strict.
    pub fn left(&self, weight: &str, why: LeftAlone) -> Result<()> {
        if self.manner.strict {
            return Err(Error::Left { step: self.step.clone(), weight: weight.to_owned(), why });
        }
        self.record(|r| r.left.push((weight.to_owned(), why)));
        Ok(())
    }

    /// Says that a weight was not selected. Never an error: the selection is the caller's.
    pub(crate) fn not_selected(&self, weight: &str) {
        self.out_of_reach(weight, LeftAlone::NotSelected);
    }

    /// Says that a weight is none that the step could work on. Never an error.
    pub(crate) fn out_of_reach(&self, weight: &str, why: LeftAlone) {
        self.record(|r| r.left.push((weight.to_owned(), why)));
    }

    /// The course of a training, for the report.
    pub fn training(&self, training: Training) {
        self.record(|r| r.training = Some(training));
    }

    pub(crate) fn bytes(&self, before: usize, after: usize) {
        self.record(|r| r.bytes = (r.bytes.0 + before, r.bytes.1 + after));
    }

    fn record(&self, f: impl FnOnce(&mut Record)) {
        // A panic in a user's callback must not hide what the step has to say.
        f(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn step(&self) -> &str {
        &self.step
    }

    pub(crate) fn into_record(self) -> Record {
        std::mem::take(&mut *self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
