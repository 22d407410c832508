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
    /// Its place in the pipeline, from 0; steps of nested pipelines count one by one.
    pub index: usize,
    /// Steps in the pipeline, counted like that.
    pub steps: usize,
    /// Units of work done: weights, or steps of a training.
    pub done: usize,
    /// Units of work in this step.
    pub of: usize,
}

type Callback<'a> = dyn Fn(&Progress<'_>) + Send + Sync + 'a;

/// Where a step speaks: how far it is, what it left alone, whether it should stop. Output only: no data
/// comes to a step through it.
pub struct Log<'a> {
    step: String,
    index: usize,
    steps: usize,
    strict: bool,
    on_progress: Option<&'a Callback<'a>>,
    cancel: Option<Arc<AtomicBool>>,
    done: AtomicUsize,
    record: Mutex<Record>,
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
    /// A log that nobody listens to.
    pub(crate) fn quiet(step: &str) -> Self {
        Self::new(step, 0, 1, false, None, None)
    }

    pub(crate) fn new(
        step: &str,
        index: usize,
        steps: usize,
        strict: bool,
        on_progress: Option<&'a Callback<'a>>,
        cancel: Option<Arc<AtomicBool>>,
    ) -> Self {
        Self {
            step: step.to_owned(),
            index,
            steps,
            strict,
            on_progress,
            cancel,
            done: AtomicUsize::new(0),
            record: Mutex::default(),
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
        if let Some(on_progress) = self.on_progress {
            on_progress(&Progress { step: &self.step, index: self.index, steps: self.steps, done, of });
        }
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// One more of `of` units is done, whatever their order.
    pub(crate) fn one_more(&self, of: usize) -> Result<()> {
        self.progress(self.done.fetch_add(1, Ordering::Relaxed) + 1, of)
    }

    /// Whether the pipeline was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(|c| c.load(Ordering::Relaxed))
    }

    /// Says that a selected weight was left as it was, and why. A row of the report.
    ///
    /// # Errors
    /// [`Error::Left`] when the pipeline is strict.
    pub fn left(&self, weight: &str, why: LeftAlone) -> Result<()> {
        if self.strict {
            return Err(Error::Left { step: self.step.clone(), weight: weight.to_owned(), why });
        }
        self.record(|r| r.left.push((weight.to_owned(), why)));
        Ok(())
    }

    /// Says that a weight was not selected. Never an error: the selection is the caller's.
    pub(crate) fn not_selected(&self, weight: &str) {
        self.record(|r| r.left.push((weight.to_owned(), LeftAlone::NotSelected)));
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
        self.record.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
