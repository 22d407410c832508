//! [`Pipeline`]: steps in order, checked as a whole before any work.

mod promise;
mod run;
mod stream;

pub(crate) use run::{each_planned, each_weight};

use crate::compressor::{Compressor, Reach, Step, WeightCompressor};
use crate::distill::{Distiller, FineTuner};
use crate::log::{Log, Manner, OnProgress, Progress};
use crate::model::{Model, Outline};
use crate::recipe::{Recipe, RecipeStep};
use crate::report::Report;
use crate::{
    AffineQuantizer, ChannelPruner, CodebookQuantizer, Error, Float, Invalid, LowRankFactorizer,
    MagnitudePruner, Refusal, Result,
};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Steps in order. Itself a step, so pipelines nest.
///
/// ```
/// use bantam::ndarray::array;
/// use bantam::Pipeline;
///
/// let small = Pipeline::new().prune(0.1).quantize(8).run(array![[1.0, 0.05], [0.3, -2.0]])?;
/// let dense = small.model.weight("weight").unwrap().to_dense()?;
/// assert_eq!(dense.as_slice()[1], 0.0);
/// # Ok::<(), bantam::Error>(())
/// ```
///
/// [`new`](Self::new) makes a pipeline for `f32`; for `f64`, `Pipeline::<f64>::default()`.
///
/// | setting | default | meaning |
/// | --- | --- | --- |
/// | [`strict`](Self::strict) | off | a weight that a step selects and leaves alone is an error |
/// | [`on_progress`](Self::on_progress) | none | called as work proceeds, from any thread |
/// | [`cancel_when`](Self::cancel_when) | none | a flag that stops the run at the next unit of work |
///
/// Before any work, all settings are checked, and then the whole sequence on the forms and shapes of the
/// weights: [`plan`](Self::plan) does just that.
///
/// The steps of a nested pipeline run, and are reported, as if they were in the outer one. For them, its own
/// settings hold as well as those of the outer one: they are strict if either is, stop at either's flag, and
/// both callbacks are called, with places counted in the outermost pipeline.
pub struct Pipeline<'a, T: Float = f32> {
    steps: Vec<Box<dyn Compressor<T> + 'a>>,
    on_progress: Option<Box<OnProgress<'a>>>,
    cancel: Option<Arc<AtomicBool>>,
    strict: bool,
}

/// What a pipeline made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Compressed<T: Float = f32> {
    /// The compressed model.
    pub model: Model<T>,
    /// What was done.
    pub report: Report,
}

impl<T: Float> Compressed<T> {
    /// Fills in the error columns of the report: a pass over both models.
    ///
    /// # Errors
    /// [`Error::Weight`] when the values of a weight cannot be read.
    pub fn measure(&mut self, original: &Model<T>) -> Result<()> {
        self.report.measure(original, &self.model)
    }
}

impl<T: Float> fmt::Debug for Pipeline<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.steps).finish()
    }
}

impl<T: Float> Default for Pipeline<'_, T> {
    fn default() -> Self {
        Self { steps: Vec::new(), on_progress: None, cancel: None, strict: false }
    }
}

impl Pipeline<'_, f32> {
    /// No steps yet. For `f32`, so that `Pipeline::new().prune(0.1).quantize(8)` needs no hint.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<'a, T: Float> Pipeline<'a, T> {
    /// Adds a step. For one of your own that implements [`WeightCompressor`], see
    /// [`then_each`](Self::then_each). A pipeline is a step, too.
    pub fn then(mut self, step: impl Compressor<T> + 'a) -> Self {
        self.steps.push(Box::new(step));
        self
    }

    /// Adds a step that handles one weight at a time.
    pub fn then_each(self, step: impl WeightCompressor<T> + Step + 'a) -> Self {
        self.then(Each(step))
    }

    /// Adds pruning: `prune(0.1)` prunes every entry with an absolute value under 0.1; see
    /// [`MagnitudePruner`] for the other ways.
    pub fn prune(self, step: impl Into<MagnitudePruner>) -> Self {
        self.then(step.into())
    }

    /// Adds quantization: `quantize(8)` is 8 bits, one symmetric range a weight; see [`AffineQuantizer`] for
    /// the other ways.
    pub fn quantize(self, step: impl Into<AffineQuantizer>) -> Self {
        self.then(step.into())
    }

    /// Adds sharing of values: `codebook(16)` makes each weight places in a table of 16 values, 4 bits an entry;
    /// see [`CodebookQuantizer`] for the other ways.
    pub fn codebook(self, step: impl Into<CodebookQuantizer>) -> Self {
        self.then(step.into())
    }

    /// Adds the removal of channels: `slim(0.5)` removes half of the channels of each layer, `slim(ChannelPruner::dead())`
    /// those that cannot matter; see [`ChannelPruner`] for the other ways.
    pub fn slim(self, step: impl Into<ChannelPruner>) -> Self {
        self.then(step.into())
    }

    /// Adds factorization: `factorize(16)` makes every matrix a product of rank 16; see
    /// [`LowRankFactorizer`] for the other ways.
    pub fn factorize(self, step: impl Into<LowRankFactorizer>) -> Self {
        self.then(step.into())
    }

    /// Adds distillation: trains the network on a teacher's soft labels and the true ones.
    pub fn distill(self, step: Distiller<'a, T>) -> Self {
        self.then(step)
    }

    /// Adds fine-tuning: trains the network, in its compressed form, on the true labels.
    pub fn finetune(self, step: FineTuner<'a, T>) -> Self {
        self.then(step)
    }

    /// Calls `f` as work proceeds, from any thread. The library itself prints nothing.
    pub fn on_progress(mut self, f: impl Fn(&Progress<'_>) + Send + Sync + 'a) -> Self {
        self.on_progress = Some(Box::new(f));
        self
    }

    /// Stops with [`Error::Cancelled`] soon after `flag` becomes true.
    pub fn cancel_when(mut self, flag: Arc<AtomicBool>) -> Self {
        self.cancel = Some(flag);
        self
    }

    /// Makes it an error when a step leaves a weight alone that it selects.
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// The dry run: checks all settings, then the whole sequence on the forms and shapes of the weights.
    /// Reads no values.
    ///
    /// # Errors
    /// [`Error::Setting`] and [`Error::Plan`], with the step and the weight.
    pub fn plan(&self, model: &Model<T>) -> Result<Outline> {
        let outline = Outline::of(model);
        let mut outline = check(&self.flat(), outline.clone())?.pop().unwrap_or(outline);
        outline.next_step(false);
        Ok(outline)
    }

    /// Compresses a model, or a single tensor or array (a model with one weight, called `"weight"`).
    ///
    /// A `&Model` is not changed, and copied only where it is written to.
    ///
    /// # Errors
    /// Those of [`plan`](Self::plan) before any work; then whatever goes wrong in a step.
    pub fn run(&self, model: impl Into<Model<T>>) -> Result<Compressed<T>> {
        run::run(self, model.into())
    }

    /// Compresses a model into a file in the open layout, weight by weight, in bounded memory. Gives the
    /// same bytes as [`run`](Self::run) followed by [`Model::save`].
    ///
    /// Memory is needed for one weight at a time, not for the model: for its stored form before and after, for
    /// blocks of it decoded, and for what its step has to see as a whole (a matrix to factorize, the values of
    /// which a percentile is taken). Steps that rank across weights read the model once more for each look.
    ///
    /// # Errors
    /// As [`run`](Self::run); [`Refusal::NotStreamable`] for a step that needs the whole model (training);
    /// those of [`Model::save`]. The file appears whole or not at all.
    pub fn run_to(&self, model: impl Into<Model<T>>, path: impl AsRef<Path>) -> Result<Report> {
        stream::run_to(self, &model.into(), path.as_ref())
    }

    /// The steps as plain settings.
    ///
    /// # Errors
    /// [`Error::Plan`] that names the step which carries data and cannot be written down.
    pub fn recipe(&self) -> Result<Recipe> {
        let steps = self.steps.iter().enumerate().map(|(index, step)| {
            step.recipe().ok_or_else(|| Error::Plan {
                index,
                step: step.name().to_owned(),
                weight: "*".to_owned(),
                why: Refusal::Other(
                    "it cannot be written as a recipe: it carries data, or is a step of your own".to_owned(),
                ),
            })
        });
        Ok(Recipe { steps: steps.collect::<Result<_>>()? })
    }

    /// All steps, those of nested pipelines in place.
    fn flat(&self) -> Vec<Flat<'_, T>> {
        let mut out = Vec::new();
        self.flatten(&Manner::default(), &mut out);
        out
    }

    fn flatten<'b>(&'b self, around: &Manner<'b>, out: &mut Vec<Flat<'b, T>>) {
        let manner = self.manner().and(around);
        for step in &self.steps {
            match step.reach() {
                Reach::Pipeline(inner) => inner.flatten(&manner, out),
                _ => out.push(Flat { step: &**step, manner: manner.clone() }),
            }
        }
    }

    fn manner(&self) -> Manner<'_> {
        Manner {
            strict: self.strict,
            on_progress: self.on_progress.as_deref().map(|f| f as _).into_iter().collect(),
            cancel: self.cancel.iter().cloned().collect(),
        }
    }
}

/// A step and how it is to be run.
struct Flat<'b, T: Float> {
    step: &'b dyn Compressor<T>,
    manner: Manner<'b>,
}

impl<'b, T: Float> Flat<'b, T> {
    fn log(&self, index: usize, steps: usize) -> Log<'b> {
        Log::new(self.step.name(), index, steps, self.manner.clone())
    }
}

/// Checks settings, then the sequence; gives the outline after each step.
fn check<T: Float>(steps: &[Flat<'_, T>], mut outline: Outline) -> Result<Vec<Outline>> {
    for (index, Flat { step, .. }) in steps.iter().enumerate() {
        step.validate().map_err(|invalid| Error::Setting { index, step: step.name().to_owned(), invalid })?;
    }
    let mut after = Vec::with_capacity(steps.len());
    for (index, Flat { step, manner }) in steps.iter().enumerate() {
        outline.next_step(manner.strict);
        step.plan(&mut outline).map_err(|(weight, why)| Error::Plan {
            index,
            step: step.name().to_owned(),
            weight,
            why,
        })?;
        after.push(outline.clone());
    }
    Ok(after)
}

impl<T: Float> Step for Pipeline<'_, T> {
    fn name(&self) -> &str {
        "pipeline"
    }

    fn validate(&self) -> Result<(), Invalid> {
        self.steps.iter().try_for_each(|s| s.validate())
    }

    fn plan(&self, outline: &mut Outline) -> Result<(), (String, Refusal)> {
        self.steps.iter().try_for_each(|s| s.plan(outline))
    }

    fn recipe(&self) -> Option<RecipeStep> {
        self.steps.iter().map(|s| s.recipe()).collect::<Option<_>>().map(RecipeStep::Steps)
    }
}

impl<T: Float> Compressor<T> for Pipeline<'_, T> {
    fn compress(&self, model: &mut Model<T>, log: &Log<'_>) -> Result<()> {
        let steps = self.flat();
        steps.iter().try_for_each(|s| s.step.compress(model, &log.inner(s.step.name(), &s.manner)))
    }

    fn reach(&self) -> Reach<'_, T> {
        Reach::Pipeline(self)
    }
}

/// A step that handles one weight at a time, as a whole step.
#[derive(Debug)]
struct Each<S>(S);

impl<S: Step> Step for Each<S> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn validate(&self) -> Result<(), Invalid> {
        self.0.validate()
    }

    fn plan(&self, outline: &mut Outline) -> Result<(), (String, Refusal)> {
        self.0.plan(outline)
    }

    fn recipe(&self) -> Option<RecipeStep> {
        self.0.recipe()
    }
}

impl<T: Float, S: WeightCompressor<T> + Step> Compressor<T> for Each<S> {
    fn compress(&self, model: &mut Model<T>, log: &Log<'_>) -> Result<()> {
        each_weight(&self.0, model, log)
    }

    fn reach(&self) -> Reach<'_, T> {
        Reach::Weight(&self.0)
    }
}
