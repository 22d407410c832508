//! Removing channels for good: rows here, the matching columns in the layers that read them.
//!
//! A network in which whole channels matter little, or not at all, becomes a smaller dense one: less to store, and
//! less to compute on any hardware. Channels that hang together (through norms, depthwise convolutions, sums of
//! residual blocks) are removed together, as in Fang et al., *DepGraph: Towards Any Structural Pruning*, arXiv
//! 2301.12900.

mod cut;
mod dead;
mod measured;
mod rank;
mod recipe;
#[cfg(test)]
mod tests;

pub use measured::MeasuredChannelPruner;

use crate::compressor::{Compressor, Step};
use crate::log::Log;
use crate::model::{Model, Outline, Select, select_setters};
use crate::nn::{Axis, ChannelGroup, Channels, Dataset, Graph, Role};
use crate::recipe::RecipeStep;
use crate::weight::fold;
use crate::{Error, Float, GraphError, Invalid, LeftAlone, Refusal, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Removes output channels from the network, together with all that belongs to them: rows of matrices and kernels,
/// biases, entries of norms, and the columns of the layers that read them (structured pruning, also called network
/// slimming).
///
/// | constructor | removes | range |
/// | --- | --- | --- |
/// | [`dead()`](Self::dead) | what cannot matter: the network computes the same function | |
/// | [`ratio(f)`](Self::ratio) | the least important `round(f * n)` of the `n` channels of each group | 0 up to, but not, 1 |
/// | [`ratio(f).global()`](Self::global) | the same of all groups together, in one ranking | 0 up to, but not, 1 |
///
/// | setting | default | meaning |
/// | --- | --- | --- |
/// | [`importance`](Self::importance) | [`Importance::L2`] | what a ratio ranks by, from the weights alone |
/// | [`taylor(&data)`](Self::taylor), [`activation(&data)`](Self::activation) | | ranks by what is measured on data |
/// | [`at_least(n)`](Self::at_least) | 1 | so many channels of a group stay, at least 1 |
/// | [`round_to(n)`](Self::round_to) | 1 | what stays of a group is a multiple of this, at least 1 |
/// | [`only`](Self::only), [`except`](Self::except), [`kind`](Self::kind) | all | weights whose rows may go |
///
/// # Groups
///
/// A *group* is what must be cut alike. Without residual sums it is the output of one layer: the rows of `conv1.weight`
/// with their bias, the entries of the batch norm after it, and the columns of `conv2.weight`, or as many columns of
/// a linear layer behind a `flatten` as a map has places. Layers whose outputs are added share a group, and a depthwise
/// convolution is in the group of its input. A group is slimmed where all layers whose rows it has are selected; the
/// layers that read it need not be.
///
/// Left alone, with the reason in the [`Report`](crate::Report): the outputs of the network and its input
/// ([`LeftAlone::Boundary`]); groups with a weight that several layers share; convolutions in groups of several
/// channels; layers behind which the graph does not show the axis of the channels (a batch norm after a linear layer
/// needs a graph that begins with [`flatten`](Graph::flatten)); and quantized weights whose scales belong to groups of
/// inputs that a cut would split. The form of a weight stays: masks, codes, scales, tables and factors are those of
/// the entries that remain.
///
/// # Dead channels
///
/// A channel is dead if nothing reads it (its columns are all zero), or if it is the same for every input: its row is
/// zero (then it is its bias, through the activation), or the scale of its batch norm is. Such a constant moves into
/// the biases of the layers that read it, in the precision these are stored in. A channel with a constant other than 0
/// stays where that cannot be exact: where a layer that reads it has no bias of its own in floats, is a convolution
/// with padding, or codes its input ([`Activations::Int8`](crate::Activations::Int8)); so do channels that go into a
/// layer norm. What becomes dead by a removal is removed, too. Results differ by the rounding of sums only. Trained to
/// high sparsity with [`MagnitudePruner`](crate::MagnitudePruner), networks have many dead channels.
///
/// # By a ratio
///
/// What remains computes what it did with the removed channels at 0 for all that read them (through a layer norm: not
/// even that, since its statistics change). Train afterwards. In one global ranking, `L1`, `L2` and `Activation` count
/// in means of their group, since layers differ in scale; `BatchNormScale` and `Taylor` count as they are. The first of
/// equals go first. Rounding keeps more channels, never fewer.
///
/// ```
/// use bantam::nn::Graph;
/// use bantam::{ChannelPruner, Importance, Model, Pipeline, Tensor};
///
/// let tensor = |shape: &[usize]| {
///     Tensor::<f32>::new(shape, (0..shape.iter().product()).map(|i| (i as f32 * 0.37).sin()).collect())
/// };
/// let model = Model::from_tensors([
///     ("fc1.weight", tensor(&[64, 20])?),
///     ("fc1.bias", tensor(&[64])?),
///     ("fc2.weight", tensor(&[10, 64])?),
///     ("fc2.bias", tensor(&[10])?),
/// ])?
/// .with_graph(Graph::new().linear("fc1").relu().linear("fc2"))?;
///
/// let pruner = ChannelPruner::ratio(0.5).importance(Importance::L1);
/// let small = Pipeline::new().slim(pruner).run(&model)?;
/// assert_eq!(small.model.weight("fc1.weight").unwrap().shape(), [32, 20]);
/// assert_eq!(small.model.weight("fc2.weight").unwrap().shape(), [10, 32]);
/// # Ok::<(), bantam::Error>(())
/// ```
///
/// # Errors
/// [`Refusal::NoGraph`] before any work for a model without a graph; [`Refusal::NotStreamable`] in
/// [`Pipeline::run_to`](crate::Pipeline::run_to); [`Fault::NotFinite`](crate::Fault::NotFinite) with the weight's name
/// for an entry that is NaN or infinite.
///
/// How many channels are dead, or which a global ranking takes, follows from the values: a plan then says so of the
/// shapes ([`OutlineWeight::may_shrink`](crate::OutlineWeight::may_shrink)).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "recipe::Settings", into = "recipe::Settings")]
pub struct ChannelPruner {
    amount: Amount,
    global: bool,
    importance: Option<Importance>,
    at_least: usize,
    round_to: usize,
    select: Select,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Amount {
    Dead,
    Ratio(f64),
}

/// How much a channel matters, from the weights alone.
///
/// | value | importance | use it |
/// | --- | --- | --- |
/// | `L2` (default) | Euclidean norm of the channel's rows, in all layers of its group | for networks of any kind |
/// | `L1` | sum of their absolute values (Li et al., *Pruning Filters for Efficient ConvNets*, arXiv 1608.08710) | the same, with less weight on single large entries |
/// | `BatchNormScale` | sum of the absolute scales of the channel's batch norms (Liu et al., *Learning Efficient Convolutional Networks through Network Slimming*, arXiv 1708.06519) | after a training that drove them towards 0; groups without a batch norm are left alone |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Importance {
    /// Sum of absolute values.
    L1,
    /// Euclidean norm.
    #[default]
    L2,
    /// Absolute scale of batch norms.
    BatchNormScale,
}

/// Channels of a group that stay; none where all do.
type Kept = Vec<bool>;

/// What is removed, and what takes over.
struct Choice {
    /// A group each.
    kept: Vec<Kept>,
    /// New values of biases, before they are cut.
    biases: Vec<(String, Vec<f64>)>,
}

/// Says what stays of the groups that may lose channels, which are marked.
type Choose<'f, T> = &'f dyn Fn(&Model<T>, &Graph, &Channels, &[bool]) -> Result<Choice>;

impl From<Vec<Kept>> for Choice {
    fn from(kept: Vec<Kept>) -> Self {
        Self { kept, biases: Vec::new() }
    }
}

impl ChannelPruner {
    fn new(amount: Amount) -> Self {
        Self { amount, global: false, importance: None, at_least: 1, round_to: 1, select: Select::default() }
    }

    /// Removes the channels that cannot matter. The network computes the same function.
    pub fn dead() -> Self {
        Self::new(Amount::Dead)
    }

    /// Removes this fraction of the channels of each group, the least important ones.
    pub fn ratio(fraction: f64) -> Self {
        Self::new(Amount::Ratio(fraction))
    }

    /// Ranks the channels of all groups together. Goes with [`ratio`](Self::ratio) only.
    pub fn global(mut self) -> Self {
        self.global = true;
        self
    }

    /// What to rank by. Default: [`Importance::L2`]. Goes with [`ratio`](Self::ratio) only.
    pub fn importance(mut self, importance: Importance) -> Self {
        self.importance = Some(importance);
        self
    }

    /// So many channels of each group stay, whatever their importance (all, where there are fewer). Default: 1, the
    /// smallest there is.
    pub fn at_least(mut self, channels: usize) -> Self {
        self.at_least = channels;
        self
    }

    /// What stays of a group is a multiple of `channels`, or all of it: 8 or 16 suit many kernels. Default: 1.
    pub fn round_to(mut self, channels: usize) -> Self {
        self.round_to = channels;
        self
    }

    /// Ranks by the change of the loss that a removal would make, to first order:
    /// see [`MeasuredChannelPruner::taylor`].
    pub fn taylor<T: Float>(self, data: &dyn Dataset<T>) -> MeasuredChannelPruner<'_, T> {
        MeasuredChannelPruner::taylor(self, data)
    }

    /// Ranks by how large the channels are on data: see [`MeasuredChannelPruner::activation`].
    pub fn activation<T: Float>(self, data: &dyn Dataset<T>) -> MeasuredChannelPruner<'_, T> {
        MeasuredChannelPruner::activation(self, data)
    }

    select_setters!();

    /// The slimmed model, without a pipeline.
    ///
    /// # Errors
    /// As in a pipeline.
    pub fn apply<T: Float>(&self, model: impl Into<Model<T>>) -> Result<Model<T>> {
        Ok(crate::Pipeline::default().then(self.clone()).run(model)?.model)
    }

    /// How many channels stay, if `gone` of `len` may go.
    fn stay(&self, len: usize, gone: usize) -> usize {
        let least = (len - gone.min(len)).max(self.at_least);
        least.div_ceil(self.round_to.max(1)).saturating_mul(self.round_to.max(1)).min(len)
    }

    /// Why nothing can be removed from a group, as far as graph and selection say.
    fn bar(&self, group: &ChannelGroup, takes: &dyn Fn(&str) -> bool) -> Option<LeftAlone> {
        let selected = group.rows.iter().filter(|name| takes(name)).count();
        match group.fixed {
            Some(why) => Some(why),
            None if selected == 0 => Some(LeftAlone::NotSelected),
            None if selected < group.rows.len() => Some(LeftAlone::Coupled),
            None if self.amount == Amount::Dead && group.normalized => Some(LeftAlone::LayerNorm),
            None if self.importance == Some(Importance::BatchNormScale) && group.scales.is_empty() => {
                Some(LeftAlone::NoBatchNorm)
            }
            None => None,
        }
    }

    fn plan_with(&self, outline: &mut Outline) -> Result<(), (String, Refusal)> {
        let refuse = |why| ("*".to_owned(), why);
        let graph = outline.graph().cloned().ok_or_else(|| refuse(Refusal::NoGraph))?;
        outline.for_each_selected(&self.select, |_| Ok(()))?;
        let places: HashMap<String, usize> =
            outline.weights().iter().enumerate().map(|(i, w)| (w.info.name.to_string(), i)).collect();
        let find = |outline: &Outline, name: &str| places.get(name).map(|i| outline.weights()[*i].clone());
        let channels = Channels::new(&graph, &|name| find(outline, name).map(|w| w.info.shape))
            .map_err(|error| refuse(Refusal::Other(error.to_string())))?;
        let mut stays = vec![None; channels.groups.len()];
        for (i, group) in channels.groups.iter().enumerate() {
            let takes = |name: &str| find(outline, name).is_some_and(|w| self.select.takes(&w.info));
            if self.bar(group, &takes).is_some() {
                continue;
            }
            // Scales of groups of inputs, which a plan does not see, may forbid the cut.
            let open = |name: &str, across: bool| {
                find(outline, name).is_some_and(|w| w.may_shrink || (across && w.form.quantized))
            };
            let known = !group.axes().any(|(name, axis)| open(name, axis != Axis::Rows));
            let stay = match self.amount {
                Amount::Ratio(fraction) if !self.global && share(fraction, group.len) == 0 => continue,
                Amount::Ratio(fraction) if !self.global && known => {
                    self.stay(group.len, share(fraction, group.len))
                }
                _ => group.len,
            };
            let exact = known && matches!(self.amount, Amount::Ratio(_)) && !self.global;
            for (name, axis) in group.axes() {
                let Some(weight) = places.get(name).and_then(|i| outline.weights_mut().get_mut(*i)) else {
                    continue;
                };
                if exact {
                    if let Some(len) = weight.info.shape.get_mut(usize::from(axis == Axis::Columns)) {
                        *len = *len / group.len.max(1) * stay;
                    }
                } else {
                    weight.may_shrink = true;
                }
                let (rows, cols) = fold(&weight.info.shape);
                let known = !weight.may_shrink && !weight.form.factored;
                weight.matrices.fill(known.then_some([rows, cols]));
            }
            stays[i] = exact.then_some(stay);
        }
        outline.set_graph(channels.refit(&graph, |group| stays[group]));
        Ok(())
    }

    /// Removes what `choose` says of the groups that may lose channels: it hears of each whether it may.
    fn slim<T: Float>(&self, model: &mut Model<T>, log: &Log<'_>, choose: Choose<'_, T>) -> Result<()> {
        let graph = model.graph().cloned().ok_or(GraphError::Missing)?;
        let channels = Channels::new(&graph, &|name| model.weight(name).map(|w| w.shape().to_vec()))?;
        let selected: HashMap<String, bool> =
            model.entries().map(|(info, _)| (info.name.to_string(), self.select.takes(info))).collect();
        let takes = |name: &str| selected.get(name).copied().unwrap_or(false);
        let bars: Vec<_> = channels
            .groups
            .iter()
            .map(|group| {
                self.bar(group, &takes)
                    .or_else(|| cut::splits_groups(model, group).then_some(LeftAlone::GroupScales))
            })
            .collect();
        let open: Vec<bool> = bars.iter().map(Option::is_none).collect();
        let Choice { kept, biases } = choose(model, &graph, &channels, &open)?;
        let before: HashMap<String, Vec<usize>> =
            model.weights().map(|(name, weight)| (name.to_owned(), weight.shape().to_vec())).collect();
        biases.iter().try_for_each(|(name, values)| cut::set_bias(model, name, values))?;
        cut::cut(model, &graph, &channels, &kept, log)?;

        let group_of: HashMap<&str, usize> = (channels.groups.iter().enumerate())
            .flat_map(|(i, group)| group.rows.iter().map(move |name| (&**name, i)))
            .collect();
        let in_graph: HashMap<&str, Role> = graph.weights().collect();
        for (info, weight) in model.entries() {
            let name = &*info.name;
            let why = group_of.get(name).and_then(|i| bars[*i]);
            match why {
                _ if !takes(name) => log.not_selected(name),
                // The layer may have lost columns all the same.
                Some(LeftAlone::Boundary)
                    if before.get(name).is_some_and(|shape| shape == weight.shape()) =>
                {
                    log.out_of_reach(name, LeftAlone::Boundary);
                }
                Some(LeftAlone::Boundary) => {}
                Some(why) => log.left(name, why)?,
                None if !in_graph.contains_key(name) => log.left(name, LeftAlone::NotInGraph)?,
                None => {}
            }
        }
        for carried in model.carried().filter(|c| c.dtype.is_small_float() && self.select.takes(c.info)) {
            log.left(&carried.info.name, LeftAlone::Type)?;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Invalid> {
        match self.amount {
            Amount::Dead if self.global => Err(Invalid::new("global", true, "used with a ratio only"))?,
            Amount::Dead if self.importance.is_some() => {
                Err(Invalid::new("importance", "set", "used with a ratio only"))?;
            }
            Amount::Dead => {}
            Amount::Ratio(fraction) => {
                Invalid::unless_in(0.0..1.0, "ratio", fraction, "at least 0 and under 1")?;
            }
        }
        let least = |name, n: usize| if n == 0 { Err(Invalid::new(name, n, "at least 1")) } else { Ok(()) };
        least("at_least", self.at_least)?;
        least("round_to", self.round_to)
    }
}

/// `round(fraction * n)`.
fn share(fraction: f64, n: usize) -> usize {
    (fraction * n as f64).round() as usize
}

impl From<f64> for ChannelPruner {
    fn from(ratio: f64) -> Self {
        Self::ratio(ratio)
    }
}

impl Step for ChannelPruner {
    fn name(&self) -> &str {
        "slim"
    }

    fn validate(&self) -> Result<(), Invalid> {
        self.check()
    }

    fn plan(&self, outline: &mut Outline) -> Result<(), (String, Refusal)> {
        self.plan_with(outline)
    }

    fn recipe(&self) -> Option<RecipeStep> {
        Some(RecipeStep::Slim(self.clone()))
    }
}

impl<T: Float> Compressor<T> for ChannelPruner {
    fn compress(&self, model: &mut Model<T>, log: &Log<'_>) -> Result<()> {
        let setting = |invalid| Error::Setting { index: 0, step: self.name().to_owned(), invalid };
        self.check().map_err(setting)?;
        self.slim(model, log, &|model, graph, channels, open| {
            let Amount::Ratio(fraction) = self.amount else {
                return self.choose_dead(model, graph, channels, open, log);
            };
            let by = self.importance.unwrap_or_default();
            let scores = rank::of_weights(model, channels, open, by)?;
            Ok(self.choose(fraction, &scores, by != Importance::BatchNormScale).into())
        })
    }
}
