//! What can go wrong, sorted by whose fault it is.

mod format;

pub use format::FormatError;
pub(crate) use format::FormatKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any error of user code (a teacher, a dataset, a step, a hook).
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Everything that can go wrong. The first two are found before any work is done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting of a step is out of its range.
    #[error("step {} ({step}): {invalid}", index + 1)]
    Setting {
        /// Place of the step in its pipeline, from 0.
        index: usize,
        /// Name of the step.
        step: String,
        /// Which setting, its value, and what is allowed.
        invalid: Invalid,
    },
    /// A step cannot be applied to a weight: its shape or its form does not allow it, or the order of the
    /// steps would undo something.
    #[error("step {} ({step}) on `{weight}`: {why}", index + 1)]
    Plan {
        /// Place of the step in its pipeline, from 0.
        index: usize,
        /// Name of the step.
        step: String,
        /// Name of the weight, or the pattern that selects none.
        weight: String,
        /// The reason.
        why: Refusal,
    },
    /// The values of a weight do not allow the work.
    #[error("weight{}: {fault}", quoted(weight))]
    Weight {
        /// Name of the weight; empty where one was used outside a model.
        weight: String,
        /// The reason.
        fault: Fault,
    },
    /// A strict pipeline left a weight alone.
    #[error("step `{step}` left `{weight}` alone ({why}), and the pipeline is strict")]
    Left {
        /// Name of the step.
        step: String,
        /// Name of the weight.
        weight: String,
        /// The reason.
        why: LeftAlone,
    },
    /// Two shapes that should agree do not.
    #[error("{what}: expected shape {}, got {got:?}", lengths(expected))]
    Shape {
        /// What has the shape: a tensor, a weight, a layer.
        what: String,
        /// What fits; 0 where any length does.
        expected: Vec<usize>,
        /// What came.
        got: Vec<usize>,
    },
    /// The network's graph and the model do not fit together.
    #[error("graph: {0}")]
    Graph(GraphError),
    /// A label is not the number of a class.
    #[error("label {label} of sample {sample} is out of range: the network has {classes} classes")]
    Label {
        /// The label.
        label: u32,
        /// The sample's index in its dataset; its position among the labels where a loss is called directly.
        sample: usize,
        /// Number of outputs of the network.
        classes: usize,
    },
    /// A dataset does not give what the step needs.
    #[error("dataset: {0}")]
    Data(&'static str),
    /// The loss became infinite or not a number, or a weight or what goes into a layer did.
    #[error(
        "training diverged in epoch {epoch}, step {step}: {}{}",
        why(*loss, source.as_deref()),
        kept(checkpoint.as_deref())
    )]
    Diverged {
        /// Epoch, from 0.
        epoch: usize,
        /// Step within the training, from 0.
        step: usize,
        /// The last loss.
        loss: f64,
        /// Where a number was lost, if it was not the loss: the weight and the entry.
        source: Option<Box<Error>>,
        /// The last checkpoint, from before it diverged, where one was written.
        checkpoint: Option<PathBuf>,
    },
    /// A file is not what it should be.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// This build cannot do it: a Cargo feature is off.
    #[error("{what} needs the feature `{feature}` of bantam")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// The feature to switch on.
        feature: &'static str,
    },
    /// The pipeline was cancelled through its flag, or stopped by a hook.
    #[error("cancelled")]
    Cancelled,
    /// An error of user code.
    #[error(transparent)]
    Other(#[from] BoxError),
}

/// A name between a word and a colon.
fn quoted(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(" `{name}`") }
}

/// What diverged.
fn why(loss: f64, source: Option<&Error>) -> String {
    source.map_or_else(|| format!("loss {loss}"), Error::to_string)
}

/// Where a training can be taken up again.
fn kept(checkpoint: Option<&Path>) -> String {
    checkpoint.map_or_else(String::new, |path| format!("; the last good checkpoint is {}", path.display()))
}

/// A shape in which 0 stands for any length: "[_, 784]".
fn lengths(shape: &[usize]) -> String {
    let axes: Vec<String> =
        shape.iter().map(|n| if *n == 0 { "_".to_owned() } else { n.to_string() }).collect();
    format!("[{}]", axes.join(", "))
}

impl Error {
    pub(crate) fn shape(what: impl Into<String>, expected: &[usize], got: &[usize]) -> Self {
        Self::Shape { what: what.into(), expected: expected.to_vec(), got: got.to_vec() }
    }

    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }

    pub(crate) fn weight(weight: &str, fault: Fault) -> Self {
        Self::Weight { weight: weight.to_owned(), fault }
    }
}

/// A setting out of range. Made by [`Step::validate`](crate::Step::validate), which does not know its place in a
/// pipeline.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{setting} = {value}: must be {allowed}")]
#[non_exhaustive]
pub struct Invalid {
    /// Name of the setting.
    pub setting: &'static str,
    /// Its value.
    pub value: String,
    /// What is allowed.
    pub allowed: &'static str,
}

impl Invalid {
    /// `setting` has `value` and must be `allowed`: "bits = 9: must be in 1..=8".
    pub fn new(setting: &'static str, value: impl ToString, allowed: &'static str) -> Self {
        Self { setting, value: value.to_string(), allowed }
    }

    /// An error unless `range` holds `value`; NaN is in no range.
    pub fn unless_in(
        range: impl std::ops::RangeBounds<f64>,
        setting: &'static str,
        value: f64,
        allowed: &'static str,
    ) -> Result<(), Self> {
        if range.contains(&value) { Ok(()) } else { Err(Self::new(setting, value, allowed)) }
    }
}

/// Why a step refuses a weight before any work.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// An earlier step already did something that this one would undo.
    #[error("the weight is already {done}, which {step} would undo; put {step} before that")]
    TooLate {
        /// What was done to the weight, for example "pruned".
        done: &'static str,
        /// The step that comes too late.
        step: &'static str,
    },
    /// The weight is already in the form that the step makes.
    #[error("the weight is already {0}")]
    Already(&'static str),
    /// A group size or a pattern does not divide the input axis.
    #[error("{what} of {size} does not divide the {inputs} inputs")]
    DoesNotDivide {
        /// "a group" or "a pattern".
        what: &'static str,
        /// Its size.
        size: usize,
        /// Length of the input axis.
        inputs: usize,
    },
    /// The patterns select no weight of the model.
    #[error("selects no weight of this model")]
    SelectsNothing,
    /// Training was asked for a network that has nothing to train: every entry is pruned or frozen.
    #[error("nothing to train: {0}")]
    NothingToTrain(&'static str),
    /// The step needs a network, and the model has no graph.
    #[error("the model has no graph: give it one with `Model::with_graph`")]
    NoGraph,
    /// The step needs the whole model and cannot be streamed.
    #[error("needs the whole model in memory: use `run` instead of `run_to`")]
    NotStreamable,
    /// A codebook would have more values than there are entries to share them: more than the matrix has, or than
    /// pruning has left of it.
    #[error("a codebook of {values} values for {kept} kept entries: use fewer values or bits")]
    CodebookTooLarge {
        /// Values of the codebook.
        values: usize,
        /// Entries that are not pruned.
        kept: usize,
    },
    /// A schedule of pruning would have to bring entries back: the weight is pruned further already. `*` stands for
    /// all weights of one ranking.
    #[error("pruned to {from:.4} already: a schedule to {to} would go down")]
    GoesDown {
        /// Fraction of the entries that is pruned.
        from: f64,
        /// Fraction at the end of the schedule.
        to: f64,
    },
    /// A rank at or above break-even saves nothing (only with `strict`).
    #[error("rank {rank} saves nothing for {rows} x {cols}")]
    BreakEven {
        /// The rank.
        rank: usize,
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
    },
    /// A reason of a user's own step.
    #[error("{0}")]
    Other(String),
}

/// What is wrong with the values of a weight.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// An entry is NaN or infinite.
    #[error("entry {index} is {value}")]
    NotFinite {
        /// Position in row-major order.
        index: usize,
        /// The value, as text.
        value: String,
    },
    /// An entry of the input that meets the weight is NaN or infinite, where only numbers have a code.
    #[error("input entry {index} is {value}")]
    Input {
        /// Position in the input of the layer, all samples of the batch in row-major order.
        index: usize,
        /// The value, as text.
        value: String,
    },
    /// The weight is in a form that the operation cannot take.
    #[error("{0}")]
    Form(&'static str),
    /// An operand has the wrong shape.
    #[error("expected shape {expected:?}, got {got:?}")]
    Shape {
        /// What fits.
        expected: Vec<usize>,
        /// What came.
        got: Vec<usize>,
    },
    /// A setting does not fit the weight, which shows only now: the rank that a group must divide follows
    /// from the values, and so does what pruning has left to train.
    #[error("{0}")]
    Refused(Refusal),
    /// A decomposition did not converge.
    #[error("the singular value decomposition did not converge")]
    NoConvergence,
    /// This build cannot do it: a Cargo feature is off.
    #[error("{what} needs the feature `{feature}` of bantam")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// The feature to switch on.
        feature: &'static str,
    },
    /// The values could not be read from their file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: Arc<std::io::Error>,
    },
    /// A step did what its [`plan`](crate::Step::plan) does not say.
    #[error("step `{step}` {what} without saying so in its plan")]
    Unplanned {
        /// Name of the step.
        step: String,
        /// What it did, for example "brought pruned entries back".
        what: &'static str,
    },
    /// A setting is out of its range: the step was used without a pipeline, which checks them first.
    #[error(transparent)]
    Setting(#[from] Invalid),
    /// A reason of a user's own step.
    #[error("{0}")]
    Other(Arc<dyn std::error::Error + Send + Sync>),
}

impl From<Error> for Fault {
    /// For steps that use bantam inside: of an error about a weight the fault, else the whole.
    fn from(error: Error) -> Self {
        match error {
            Error::Weight { fault, .. } => fault,
            other => Self::Other(Arc::new(other)),
        }
    }
}

impl From<BoxError> for Fault {
    fn from(error: BoxError) -> Self {
        Self::Other(error.into())
    }
}

/// Why a weight was left as it was. Every such case is a row in the [`Report`](crate::Report).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LeftAlone {
    /// The step does not select it.
    #[error("not selected")]
    NotSelected,
    /// The result would take more bytes than what is there.
    #[error("would grow")]
    WouldGrow,
    /// The rank is at or above break-even: the factors would not be smaller.
    #[error("rank at or above break-even")]
    BreakEven,
    /// It has no entries.
    #[error("empty")]
    Empty,
    /// It has no matrix structure (fewer than two axes).
    #[error("not a matrix")]
    NotAMatrix,
    /// It is already in the form that the step makes.
    #[error("already in this form")]
    Already,
    /// The step works on codes, and some of its entries are floats.
    #[error("not quantized")]
    NotQuantized,
    /// The step runs the network, and this is not the matrix or the kernel of one of its layers.
    #[error("not run by the graph")]
    NotInGraph,
    /// Its numbers are of a float type that bantam does not compute on (8 bits and fewer).
    #[error("of a type that is not computed on")]
    Type,
    /// Its outputs are those of the network, or are added to them or to the network's input: their number is part
    /// of what the network is. Never an error in a strict pipeline.
    #[error("its outputs are tied to those of the network, or to its input")]
    Boundary,
    /// Several layers share it, or a vector that goes with it.
    #[error("shared by several layers")]
    Shared,
    /// Its outputs are those of, or go into, a convolution in groups of several channels.
    #[error("its outputs go through a convolution in groups that is not depthwise")]
    Grouped,
    /// The graph does not show along which axis of a layer's input its outputs lie (of a batch norm that may
    /// see more than two axes: [`Graph::flatten`](crate::nn::Graph::flatten) before it makes them two).
    #[error("the graph does not show on which axis its outputs lie")]
    Axes,
    /// Scales of a quantized weight that reads its outputs belong to groups of inputs, which a cut would split.
    #[error("a cut would split the groups that share a scale in a quantized weight")]
    GroupScales,
    /// The step ranks by the scales of batch norms, and its outputs pass none.
    #[error("no batch norm to rank its outputs by")]
    NoBatchNorm,
    /// Its outputs go into a layer norm, whose statistics would change without them.
    #[error("its outputs go into a layer norm")]
    LayerNorm,
    /// Its outputs go with those of a weight that the step does not select.
    #[error("its outputs go with those of a weight that is not selected")]
    Coupled,
}

/// Why a graph and a model do not fit together.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// The model has no graph.
    #[error("the model has none: give it one with `Model::with_graph`")]
    Missing,
    /// A node names a weight that the model does not have.
    #[error("the model has no weight `{0}`")]
    NoWeight(String),
    /// A node takes its input from a node that comes later or does not exist.
    #[error("node {node} takes its input from {from}, which does not come before it")]
    Order {
        /// The node, from 1; 0 is the input.
        node: usize,
        /// Where it takes its input from.
        from: usize,
    },
    /// A setting of a layer makes no sense.
    #[error("node {node}: {why}")]
    Node {
        /// The node, from 1; 0 is the input.
        node: usize,
        /// The reason.
        why: &'static str,
    },
}

impl From<GraphError> for Error {
    fn from(error: GraphError) -> Self {
        Self::Graph(error)
    }
}
