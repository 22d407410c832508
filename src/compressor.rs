//! The traits that every step implements.

use crate::log::Log;
use crate::model::{Model, Outline, Select, WeightInfo};
use crate::recipe::RecipeStep;
use crate::weight::Leaf;
use crate::{
    AffineQuantizer, Error, Fault, Float, GraphError, Invalid, LeftAlone, Pipeline, Refusal, Result, Weight,
};
use std::fmt::Debug;

/// The half of a step that has no number type: what it is called, whether its settings and its place in a
/// pipeline make sense. All settings of a pipeline are checked before any plan is made, and the whole plan
/// before any work is done.
pub trait Step: Debug + Send + Sync {
    /// A short name, a verb: `"prune"`.
    fn name(&self) -> &str;

    /// Checks the settings.
    ///
    /// # Errors
    /// The first setting that is out of its range.
    fn validate(&self) -> Result<(), Invalid> {
        Ok(())
    }

    /// Changes the outline as [`Compressor::compress`] will change the model. No values are read. The steps
    /// that follow are checked against what is said here. By default nothing changes.
    ///
    /// What a step does to a weight and its plan does not say ends the run with [`Fault::Unplanned`]: so
    /// that nothing is lost in silence, and later steps are checked against what is there. A step that
    /// brings pruned entries back says so by `weight.form.pruned = false`, one that prunes by
    /// `weight.form.pruned = true`, and likewise for codes (`quantized`, `codebook`), factors (`factored`), shapes and
    /// activations; one that cannot keep them refuses the weight with [`Refusal::TooLate`]. A step that
    /// adds or removes weights puts another outline in place: [`Outline::replace`].
    ///
    /// # Errors
    /// The name of a weight, and why it refuses it.
    fn plan(&self, outline: &mut Outline) -> Result<(), (String, Refusal)> {
        let _ = outline;
        Ok(())
    }

    /// Its settings as a plain value, unless it carries data.
    fn recipe(&self) -> Option<RecipeStep> {
        None
    }
}

/// Model in, model out: the trait that every technique implements, and that you implement for your own.
///
/// ```
/// use bantam::{Compressor, Log, Model, Pipeline, Result, Step, Tensor, Weight};
///
/// /// Halves every weight.
/// #[derive(Debug)]
/// struct Halve;
///
/// impl Step for Halve {
///     fn name(&self) -> &str {
///         "halve"
///     }
/// }
///
/// impl Compressor for Halve {
///     fn compress(&self, model: &mut Model, log: &Log<'_>) -> Result<()> {
///         let names: Vec<String> = model.weights().map(|(name, _)| name.to_owned()).collect();
///         for (i, name) in names.iter().enumerate() {
///             log.progress(i, names.len())?;
///             if let Some(weight) = model.weight(name) {
///                 let dense = weight.to_dense()?;
///                 let halved = dense.iter().map(|x| x / 2.0).collect();
///                 model.set(name, Weight::from(Tensor::new(dense.shape(), halved)?))?;
///             }
///         }
///         Ok(())
///     }
/// }
///
/// let tensor = Tensor::new(&[1, 2], vec![4.0_f32, -0.1])?;
/// let small = Pipeline::new().then(Halve).prune(0.1).run(tensor)?;
/// assert_eq!(small.model.weight("weight").unwrap().to_dense()?.as_slice(), [2.0, 0.0]);
/// # Ok::<(), bantam::Error>(())
/// ```
///
/// A weight made from a tensor is dense: after `prune`, this step would bring pruned entries back and be
/// stopped with [`Fault::Unplanned`]. See [`WeightCompressor`] for one that keeps the mask, and
/// [`Step::plan`] for how to say that it goes. The new weight also loses its
/// [`activations`](Weight::activations), and is stored in the precision of `T` where it was in 16 bits.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a step for models (`Compressor<{T}>`)",
    note = "a step that handles one weight at a time (`WeightCompressor`) is added with `Pipeline::then_each`"
)]
pub trait Compressor<T: Float = f32>: Step {
    /// Does the work. The model may be left half changed on an error: a pipeline drops it then.
    ///
    /// # Errors
    /// Whatever went wrong; [`Error::Cancelled`] when the log says so.
    fn compress(&self, model: &mut Model<T>, log: &Log<'_>) -> Result<()>;

    /// How far the step looks. A step that handles one weight at a time says so here, and can then be
    /// streamed.
    fn reach(&self) -> Reach<'_, T> {
        Reach::Model
    }
}

/// How far a step looks.
pub enum Reach<'a, T: Float> {
    /// At the whole model.
    Model,
    /// At one weight at a time.
    Weight(&'a dyn WeightCompressor<T>),
    /// It is a sequence of steps, to be run as if they were in the outer pipeline.
    Pipeline(&'a Pipeline<'a, T>),
}

/// One weight at a time: works on single tensors, in parallel and in a stream. Added to a pipeline with
/// [`Pipeline::then_each`](crate::Pipeline::then_each).
///
/// ```
/// use bantam::{
///     Fault, Float, LeftAlone, Outcome, Outline, Pipeline, Refusal, Select, Step, Tensor, Weight,
///     WeightCompressor, WeightInfo,
/// };
///
/// /// Clips to -1..=1.
/// #[derive(Debug, Default)]
/// struct Clip {
///     select: Select,
/// }
///
/// impl Step for Clip {
///     fn name(&self) -> &str {
///         "clip"
///     }
///
///     // Codes and factors would be lost.
///     fn plan(&self, outline: &mut Outline) -> Result<(), (String, Refusal)> {
///         outline.for_each_selected(&self.select, |weight| match weight.form {
///             form if form.quantized => Err(Refusal::TooLate { done: "quantized", step: "clip" }),
///             form if form.factored => Err(Refusal::TooLate { done: "factored", step: "clip" }),
///             _ => Ok(()),
///         })
///     }
/// }
///
/// impl<T: Float> WeightCompressor<T> for Clip {
///     fn select(&self) -> &Select {
///         &self.select
///     }
///
///     fn compress_weight(&self, _info: &WeightInfo, weight: Weight<T>) -> Result<Outcome<T>, Fault> {
///         if weight.to_dense()?.iter().all(|x| x.abs() <= T::one()) {
///             return Ok(Outcome::left(weight, LeftAlone::Already));
///         }
///         // What is pruned stays pruned.
///         let clip = |x: T| x.max(-T::one()).min(T::one());
///         Ok(weight.map_leaves(&mut |leaf| leaf.map_values(clip))?.into())
///     }
/// }
///
/// let tensor = Tensor::new(&[1, 3], vec![4.0_f32, 0.5, -0.05])?;
/// let small = Pipeline::new().prune(0.1).then_each(Clip::default()).run(tensor)?;
/// let weight = small.model.weight("weight").unwrap();
/// assert_eq!(weight.to_dense()?.as_slice(), [1.0, 0.5, 0.0]);
/// assert!(weight.form().pruned);
/// # Ok::<(), bantam::Error>(())
/// ```
pub trait WeightCompressor<T: Float = f32>: Send + Sync {
    /// Which weights it takes.
    fn select(&self) -> &Select;

    /// A look at all selected weights before the first is compressed, for steps that rank across weights.
    fn survey<'a>(&'a self) -> Option<Box<dyn Survey<'a, T> + 'a>> {
        None
    }

    /// Compresses one weight that [`select`](Self::select) takes. What is done is given as
    /// `Ok(weight.into())`, what is left alone as [`Outcome::left`].
    ///
    /// # Errors
    /// What is wrong with it.
    fn compress_weight(&self, info: &WeightInfo, weight: Weight<T>) -> Result<Outcome<T>, Fault>;

    /// The quantizer that this step is: a stream runs it together with the step before.
    #[doc(hidden)]
    fn quantizer(&self) -> Option<&AffineQuantizer> {
        None
    }

    /// Compresses a single tensor, array or weight without a model or a pipeline.
    ///
    /// # Errors
    /// [`Error::Setting`] and [`Error::Plan`] as in a pipeline, [`Error::Weight`] when the values do not allow
    /// it.
    fn apply(&self, weight: impl Into<Weight<T>>) -> Result<Weight<T>>
    where
        Self: Sized + Step,
    {
        let step = || self.name().to_owned();
        self.validate().map_err(|invalid| Error::Setting { index: 0, step: step(), invalid })?;
        let mut model = Model::from(weight.into());
        let mut planned = Outline::of(&model);
        self.plan(&mut planned).map_err(|(weight, why)| Error::Plan {
            index: 0,
            step: step(),
            weight,
            why,
        })?;
        crate::pipeline::each_planned(self, &mut model, Some(&planned), &Log::quiet(self.name()))?;
        model.gather()?;
        model.weight("weight").cloned().ok_or_else(|| GraphError::NoWeight("weight".to_owned()).into())
    }
}

/// Looks at every selected weight, in any order and from any thread, then decides. The decision must not
/// depend on the order.
pub trait Survey<'a, T: Float>: Send + Sync {
    /// Looks at one weight.
    ///
    /// # Errors
    /// What is wrong with it.
    fn look(&self, info: &WeightInfo, weight: &Weight<T>) -> Result<(), Fault>;

    /// What follows from all of them.
    fn decide(self: Box<Self>) -> Decision<'a, T>;
}

/// What a survey decides.
pub enum Decision<'a, T: Float> {
    /// This will compress the weights.
    Ready(Box<dyn WeightCompressor<T> + 'a>),
    /// Another look is needed.
    LookAgain(Box<dyn Survey<'a, T> + 'a>),
}

/// A weight after a step: a changed one with `into`, one that stays with [`left`](Self::left).
#[derive(Clone, Debug)]
pub struct Outcome<T: Float = f32> {
    /// The weight: compressed, or as it was.
    pub weight: Weight<T>,
    /// Why it is as it was, if it is.
    pub left: Option<LeftAlone>,
}

impl<T: Float> Outcome<T> {
    /// The weight as it was, and why.
    pub fn left(weight: Weight<T>, why: LeftAlone) -> Self {
        Self { weight, left: Some(why) }
    }

    /// `after`, unless that takes more bytes in a file than `before`.
    pub fn smaller(before: Weight<T>, after: Weight<T>) -> Self {
        if after.stored_bytes() > before.stored_bytes() {
            Self::left(before, LeftAlone::WouldGrow)
        } else {
            after.into()
        }
    }

    /// What comes of a weight whose leaves `code` codes: all but those that are coded already, such as the residual of
    /// a factored weight. `then` sees the whole of it.
    pub(crate) fn coded(
        weight: Weight<T>,
        mut code: impl FnMut(Leaf<T>) -> Result<Leaf<T>, Fault>,
        then: impl FnOnce(Weight<T>) -> Weight<T>,
    ) -> Result<Self, Fault> {
        if weight.is_empty() {
            return Ok(Self::left(weight, LeftAlone::Empty));
        }
        if weight.leaves().iter().all(|leaf| leaf.is_coded()) {
            return Ok(Self::left(weight, LeftAlone::Already));
        }
        let before = weight.clone();
        let after = weight.map_leaves(&mut |leaf| if leaf.is_coded() { Ok(leaf) } else { code(leaf) })?;
        Ok(Self::smaller(before, then(after)))
    }
}

impl<T: Float> From<Weight<T>> for Outcome<T> {
    fn from(weight: Weight<T>) -> Self {
        Self { weight, left: None }
    }
}
