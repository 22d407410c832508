//! Importance that is measured on data.

use super::rank::Scores;
use super::{Amount, ChannelPruner};
use crate::compressor::{Compressor, Step};
use crate::log::Log;
use crate::model::{Model, Outline};
use crate::nn::{
    Batch, Channels, Dataset, Graph, Network, Op, Optimizer, Outputs, Spread, Target, cross_entropy,
    in_dataset, mean_squared_error, unbox,
};
use crate::{Error, Float, Invalid, Refusal, Result};
use std::collections::BTreeMap;
use std::fmt;

/// A [`ChannelPruner`] that ranks channels by what is measured on data.
///
/// | constructor | importance of a channel | data |
/// | --- | --- | --- |
/// | [`ChannelPruner::activation`] | mean absolute value | samples |
/// | [`ChannelPruner::taylor`] | mean over the samples of the absolute change of the loss without it, to first order | samples with labels or values |
///
/// Measured at what other layers read: after norm, activation and pooling. Where several layers read different
/// outputs with the channel, their importances are added. All samples are looked at.
///
/// | setting | default | range |
/// | --- | --- | --- |
/// | [`batch_size`](Self::batch_size) | 128 samples | at least 1 |
///
/// ```
/// use bantam::nn::{Examples, Graph};
/// use bantam::{ChannelPruner, Model, Pipeline, Tensor};
///
/// let model = Model::from_tensors([
///     ("a.weight", Tensor::new(&[3, 2], vec![1.0_f32, 1.0, 0.0, 0.1, -1.0, 2.0])?),
///     ("b.weight", Tensor::new(&[1, 3], vec![1.0, 1.0, 1.0])?),
/// ])?
/// .with_graph(Graph::new().linear_without_bias("a").relu().linear_without_bias("b"))?;
/// let data = Examples::unlabelled(Tensor::new(&[2, 2], vec![1.0, 0.0, 1.0, 1.0])?)?;
///
/// let small = Pipeline::new().then(ChannelPruner::ratio(0.3).activation(&data)).run(&model)?;
/// assert_eq!(small.model.weight("a.weight").unwrap().to_dense()?.as_slice(), [1.0, 1.0, -1.0, 2.0]);
/// # Ok::<(), bantam::Error>(())
/// ```
///
/// # Errors
/// Those of [`ChannelPruner`]; [`Invalid`] where that is not one with a ratio, or has an importance of its own;
/// [`Error::Data`] without samples, without labels or values where they are needed, and where outputs are not finite;
/// whatever the dataset and the network say of the samples.
#[derive(Clone)]
pub struct MeasuredChannelPruner<'a, T: Float = f32> {
    pruner: ChannelPruner,
    data: &'a dyn Dataset<T>,
    measure: Measure,
    batch_size: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Measure {
    Activation,
    Taylor,
}

impl<T: Float> fmt::Debug for MeasuredChannelPruner<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeasuredChannelPruner")
            .field("pruner", &self.pruner)
            .field("measure", &self.measure)
            .field("batch_size", &self.batch_size)
            .finish_non_exhaustive()
    }
}

impl<'a, T: Float> MeasuredChannelPruner<'a, T> {
    fn new(pruner: ChannelPruner, data: &'a dyn Dataset<T>, measure: Measure) -> Self {
        Self { pruner, data, measure, batch_size: 128 }
    }

    /// `pruner`, ranking by the mean absolute value of each channel over `data`.
    pub fn activation(pruner: ChannelPruner, data: &'a dyn Dataset<T>) -> Self {
        Self::new(pruner, data, Measure::Activation)
    }

    /// `pruner`, ranking by `|sum of a * dL/da|` over the places `a` of a channel, the mean of that over the samples
    /// of `data` (Molchanov et al., *Pruning Convolutional Neural Networks for Resource Efficient Inference*, arXiv
    /// 1611.06440): the change of the loss to first order, were the channel 0. Unlike there, the scores of a layer are
    /// not normalized, as in their later work (arXiv 1906.10771). The loss is cross-entropy for labels and mean squared
    /// error for values. Batch norms use the statistics of the batch, and dropout is off.
    ///
    /// Needs the feature `train`.
    pub fn taylor(pruner: ChannelPruner, data: &'a dyn Dataset<T>) -> Self {
        Self::new(pruner, data, Measure::Taylor)
    }

    /// Samples that go through the network together. Default: 128; less takes less memory.
    pub fn batch_size(mut self, samples: usize) -> Self {
        self.batch_size = samples;
        self
    }

    /// Scores of the channels of groups that are open.
    fn scores(
        &self,
        model: &Model<T>,
        graph: &Graph,
        channels: &Channels,
        open: &[bool],
        log: &Log<'_>,
    ) -> Result<Scores> {
        let taps = Taps::new(model, channels, open);
        let mut scores: Scores = channels
            .groups
            .iter()
            .zip(open)
            .map(|(group, open)| open.then(|| vec![0.0; group.len]))
            .collect();
        let mut pass: Box<dyn Pass<T>> = match self.measure {
            Measure::Activation => Box::new(Forward(model.network()?)),
            Measure::Taylor => {
                // Dropout is noise here.
                let calm = graph.map_ops(|op| match op {
                    Op::Dropout { .. } => Op::Dropout { probability: 0.0 },
                    other => other,
                });
                let network = Network::bind(&calm, &|name| model.shared(name))?;
                Box::new(Backward(network.trainable(Optimizer::default())?))
            }
        };
        let indices: Vec<usize> = (0..self.data.len()).collect();
        let batches = indices.len().div_ceil(self.batch_size);
        for (done, indices) in indices.chunks(self.batch_size).enumerate() {
            log.progress(done, batches)?;
            let batch = self.data.batch(indices).map_err(unbox)?;
            pass.run(&batch, indices, &taps.outputs(), &mut |output, samples, values| {
                if let Some(tap) = taps.0.get(&output) {
                    tap.add(samples, values, scores[tap.group].as_deref_mut().unwrap_or_default());
                }
            })?;
        }
        if scores.iter().flatten().flatten().any(|score| !score.is_finite()) {
            return Err(Error::Data("its samples make outputs that are not finite"));
        }
        Ok(scores)
    }
}

/// Outputs of the network that layers read channels from.
struct Taps(BTreeMap<usize, Tap>);

struct Tap {
    group: usize,
    spread: Spread,
    /// Length of the axis that is read; none for feature maps, whose channels are runs of a sample.
    width: Option<usize>,
}

impl Taps {
    fn new<T: Float>(model: &Model<T>, channels: &Channels, open: &[bool]) -> Self {
        let mut taps = BTreeMap::new();
        for (i, group) in channels.groups.iter().enumerate().filter(|(i, _)| open[*i]) {
            for reader in &group.readers {
                let shape = model.weight(&reader.weight).map_or(&[][..], |weight| weight.shape());
                let width = if let [_, cols] = *shape { Some(cols) } else { None };
                taps.insert(reader.output, Tap { group: i, spread: reader.spread, width });
            }
        }
        Self(taps)
    }

    fn outputs(&self) -> Vec<usize> {
        self.0.keys().copied().collect()
    }
}

impl Tap {
    /// Adds to the score of each channel the mean of `values` of a sample, which `of_sample` makes one of each channel's
    /// numbers.
    fn add(&self, samples: usize, measured: Measured<'_>, scores: &mut [f64]) {
        let size = measured.len() / samples.max(1);
        let channel = |i: usize| match self.width {
            Some(width) => self.spread.channel(i % width.max(1)),
            None => i / (size / self.spread.len.max(1)).max(1) % self.spread.len.max(1),
        };
        let places = (size / self.spread.len.max(1)).max(1) as f64;
        for sample in 0..samples {
            let range = sample * size..(sample + 1) * size;
            match measured {
                Measured::Sizes(values) => {
                    values[range].iter().enumerate().for_each(|(i, x)| scores[channel(i)] += x / places);
                }
                Measured::Products(values) => {
                    let mut sums = vec![0.0; scores.len()];
                    values[range].iter().enumerate().for_each(|(i, x)| sums[channel(i)] += x);
                    scores.iter_mut().zip(sums).for_each(|(score, sum)| *score += sum.abs());
                }
            }
        }
    }
}

/// What is known of the numbers of an output.
#[derive(Clone, Copy)]
enum Measured<'b> {
    /// Absolute values.
    Sizes(&'b [f64]),
    /// Of values and their gradients.
    Products(&'b [f64]),
}

impl Measured<'_> {
    fn len(self) -> usize {
        match self {
            Self::Sizes(values) | Self::Products(values) => values.len(),
        }
    }
}

/// Hears the number of an output, how many samples there are, and what is measured.
type Hear<'b> = &'b mut dyn FnMut(usize, usize, Measured<'_>);

/// A way to measure.
trait Pass<T: Float> {
    fn run(&mut self, batch: &Batch<T>, indices: &[usize], outputs: &[usize], hear: Hear<'_>) -> Result<()>;
}

struct Forward<T: Float>(Network<T>);

impl<T: Float> Pass<T> for Forward<T> {
    fn run(&mut self, batch: &Batch<T>, _: &[usize], outputs: &[usize], hear: Hear<'_>) -> Result<()> {
        let found = self.0.outputs_at(&batch.input, outputs)?;
        for (output, tensor) in outputs.iter().zip(&found.taps) {
            let sizes: Vec<f64> = tensor.iter().map(|x| x.widen().abs()).collect();
            hear(*output, batch.input.samples(), Measured::Sizes(&sizes));
        }
        Ok(())
    }
}

struct Backward<T: Float>(crate::nn::Trainable<T>);

impl<T: Float> Pass<T> for Backward<T> {
    fn run(&mut self, batch: &Batch<T>, indices: &[usize], outputs: &[usize], hear: Hear<'_>) -> Result<()> {
        let out = self.0.forward(&batch.input, &[])?;
        let (_, gradient) = match &batch.target {
            Target::Labels(labels) => {
                cross_entropy(&out.logits, labels).map_err(|error| in_dataset(error, indices))?
            }
            Target::Values(values) => mean_squared_error(&out.logits, values)?,
            Target::None => return Err(Error::Data("an importance by the loss needs labels or values")),
        };
        self.0.backward(&Outputs { logits: gradient, taps: Vec::new() })?;
        let samples = batch.input.samples();
        for output in outputs {
            let (values, gradients) = self.0.values_at(*output);
            // The loss is a mean over the batch. There are no gradients where nothing before can be trained.
            let products: Vec<f64> =
                values.iter().zip(gradients).map(|(a, g)| a.widen() * g.widen() * samples as f64).collect();
            hear(*output, samples, Measured::Products(&products));
        }
        Ok(())
    }
}

impl<T: Float> Step for MeasuredChannelPruner<'_, T> {
    fn name(&self) -> &str {
        "slim"
    }

    fn validate(&self) -> Result<(), Invalid> {
        if self.pruner.amount == Amount::Dead {
            return Err(Invalid::new("dead", true, "a ratio, where channels are ranked by data"));
        }
        if self.pruner.importance.is_some() {
            return Err(Invalid::new("importance", "set", "left out where channels are ranked by data"));
        }
        self.pruner.check()?;
        Invalid::unless_in(1.0.., "batch_size", self.batch_size as f64, "at least 1")
    }

    fn plan(&self, outline: &mut Outline) -> Result<(), (String, Refusal)> {
        self.pruner.plan_with(outline)
    }
}

impl<T: Float> Compressor<T> for MeasuredChannelPruner<'_, T> {
    fn compress(&self, model: &mut Model<T>, log: &Log<'_>) -> Result<()> {
        self.validate().map_err(|invalid| Error::Setting {
            index: 0,
            step: self.name().to_owned(),
            invalid,
        })?;
        if self.data.is_empty() {
            return Err(Error::Data("it has no samples"));
        }
        let Amount::Ratio(fraction) = self.pruner.amount else { return Ok(()) };
        self.pruner.slim(model, log, &|model, graph, channels, open| {
            let scores = self.scores(model, graph, channels, open, log)?;
            Ok(self.pruner.choose(fraction, &scores, self.measure == Measure::Activation).into())
        })
    }
}
