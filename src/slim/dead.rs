//! Channels that cannot matter, and what removing them leaves to do.
//!
//! A channel goes if that changes nothing for any layer that reads it: because it has no columns there, or because
//! the channel is the same number for every input, which the layer's bias can take over. Each removal may make others
//! possible: columns are empty once the rows that used them are gone. So the search goes round until nothing changes.

use super::cut::{each_row, find, finite, vector};
use super::{ChannelPruner, Choice, Kept};
use crate::log::Log;
use crate::model::Model;
use crate::nn::{Channels, Graph, Op, Reader, activated};
use crate::weight::fold;
use crate::{Activations, Error, Float, Result};
use std::collections::{BTreeSet, HashMap};

/// What is known of a matrix: which of its rows use which channels.
struct Matrix {
    /// Groups of its rows and of its columns.
    out: usize,
    input: usize,
    /// Channels along its columns; 1 where none of them can be removed.
    channels: usize,
    /// `[rows, channels]`.
    used: Vec<bool>,
    /// Sum of each row.
    sums: Vec<f64>,
    /// Whether its inputs are floats: codes of an input depend on all of it.
    exact: bool,
}

struct Search<'a, T: Float> {
    model: &'a Model<T>,
    channels: &'a Channels,
    /// Operation and inputs of each node.
    nodes: Vec<(&'a Op, Vec<usize>)>,
    matrices: HashMap<&'a str, Matrix>,
    /// Biases, and the vectors of batch norms.
    vectors: HashMap<&'a str, Vec<f64>>,
    /// Biases that can take over a constant.
    takers: BTreeSet<&'a str>,
    changed: BTreeSet<&'a str>,
    kept: Vec<Kept>,
}

/// The number that each channel of an output is for every input, where it is one.
type Constants = Vec<Option<f64>>;

impl ChannelPruner {
    pub(super) fn choose_dead<T: Float>(
        &self,
        model: &Model<T>,
        graph: &Graph,
        channels: &Channels,
        open: &[bool],
        log: &Log<'_>,
    ) -> Result<Choice> {
        let mut search = Search::new(model, graph, channels, open)?;
        while search.round(self, open)? {
            if log.is_cancelled() {
                return Err(Error::Cancelled);
            }
        }
        let biases = search.changed.iter().map(|name| ((*name).to_owned(), search.vectors[name].clone()));
        Ok(Choice { biases: biases.collect(), kept: search.kept })
    }
}

impl<'a, T: Float> Search<'a, T> {
    fn new(model: &'a Model<T>, graph: &'a Graph, channels: &'a Channels, open: &[bool]) -> Result<Self> {
        let nodes: Vec<_> = graph.ops().map(|(op, from)| (op, from.into_owned())).collect();
        let mut uses: HashMap<&str, usize> = HashMap::new();
        graph.weights().for_each(|(name, _)| *uses.entry(name).or_default() += 1);
        let (mut matrices, mut vectors, mut takers) = (HashMap::new(), HashMap::new(), BTreeSet::new());
        for (i, (op, from)) in nodes.iter().enumerate() {
            let (input, out) = (channels.of[from[0]], channels.of[i + 1]);
            if !open[input] && !open[out] {
                continue;
            }
            match *op {
                Op::Linear { weight, bias } | Op::Conv2d { weight, bias, .. } => {
                    // Of a depthwise kernel, each row has its own channel.
                    let open = open[input] && input_is_read(channels, input, weight);
                    matrices.insert(&**weight, Matrix::of(model, channels, weight, [out, input], open)?);
                    let Some(bias) = bias else { continue };
                    vectors.insert(&**bias, vector(model, bias)?);
                    let plain = find(model, bias)?;
                    let form = plain.form();
                    if plain.is_leaf() && !form.pruned && !form.quantized && uses[&**bias] == 1 {
                        takers.insert(&**bias);
                    }
                }
                Op::BatchNorm { weight, bias, mean, variance, .. } => {
                    for name in [weight, bias, mean, variance] {
                        vectors.insert(&**name, vector(model, name)?);
                    }
                }
                _ => {}
            }
        }
        let kept = channels.groups.iter().map(|group| vec![true; group.len]).collect();
        Ok(Self { model, channels, nodes, matrices, vectors, takers, changed: BTreeSet::new(), kept })
    }

    fn is_kept(&self, group: usize, channel: usize) -> bool {
        self.kept[group].get(channel).is_none_or(|kept| *kept)
    }

    /// Whether a row has no entries but zeros in columns that are there.
    fn is_zero(&self, matrix: &Matrix, row: usize) -> bool {
        let used = &matrix.used[row * matrix.channels..(row + 1) * matrix.channels];
        let whole = matrix.channels == 1;
        !used.iter().enumerate().any(|(c, used)| *used && (whole || self.is_kept(matrix.input, c)))
    }

    /// Whether no row that is there uses a channel.
    fn is_unread(&self, matrix: &Matrix, channel: usize) -> bool {
        let rows = matrix.sums.len();
        let column = if matrix.channels == 1 { 0 } else { channel };
        !(0..rows).any(|r| matrix.used[r * matrix.channels + column] && self.is_kept(matrix.out, r))
    }

    /// Whether a layer is the same without a channel, but for its bias.
    fn can_go(&self, reader: &Reader, channel: usize, constants: &HashMap<usize, Constants>) -> bool {
        let constant = constants.get(&reader.output).and_then(|all| all[channel]);
        let Some(matrix) = self.matrices.get(&*reader.weight) else { return false };
        let can_take =
            !reader.padded && reader.bias.as_ref().is_some_and(|bias| self.takers.contains(&**bias));
        constant == Some(0.0)
            || matrix.exact && (self.is_unread(matrix, channel) || can_take && constant.is_some())
    }

    /// Removes what can go now; whether that is anything.
    fn round(&mut self, limits: &ChannelPruner, open: &[bool]) -> Result<bool> {
        let mut any = false;
        let channels = self.channels;
        for (g, group) in channels.groups.iter().enumerate().filter(|(g, _)| open[*g]) {
            let constants = self.constants(g);
            let mut gone: Vec<usize> = (0..group.len)
                .filter(|c| self.kept[g][*c])
                .filter(|c| group.readers.iter().all(|reader| self.can_go(reader, *c, &constants)))
                .collect();
            let there = self.kept[g].iter().filter(|kept| **kept).count();
            gone.truncate(there - limits.stay(there, gone.len()));
            if gone.is_empty() {
                continue;
            }
            any = true;
            for reader in &group.readers {
                self.take_over(reader, &gone, &constants)?;
            }
            gone.iter().for_each(|channel| self.kept[g][*channel] = false);
        }
        Ok(any)
    }

    /// Adds to the bias of a layer what the constants among these channels give it.
    fn take_over(
        &mut self,
        reader: &'a Reader,
        gone: &[usize],
        constants: &HashMap<usize, Constants>,
    ) -> Result<()> {
        let (Some(constants), Some(matrix)) =
            (constants.get(&reader.output), self.matrices.get(&*reader.weight))
        else {
            return Ok(());
        };
        let mut factors = vec![0.0; constants.len()];
        for channel in gone.iter().filter(|c| !self.is_unread(matrix, **c)) {
            factors[*channel] = constants[*channel].unwrap_or(0.0);
        }
        if factors.iter().all(|factor| *factor == 0.0) {
            return Ok(());
        }
        // A layer without a bias reads no constant but 0.
        let Some(bias) = reader.bias.as_deref() else { return Ok(()) };
        let Some(values) = self.vectors.get_mut(bias) else { return Ok(()) };
        each_row(&*find(self.model, &reader.weight)?, &mut |r, row| {
            let sum: f64 =
                row.iter().enumerate().map(|(i, x)| factors[reader.spread.channel(i)] * x.widen()).sum();
            values[r] += sum;
            Ok(())
        })
        .map_err(|fault| Error::weight(&reader.weight, fault))?;
        self.changed.insert(bias);
        Ok(())
    }

    /// The constants of all outputs with channels of a group.
    fn constants(&self, group: usize) -> HashMap<usize, Constants> {
        let len = self.channels.groups[group].len;
        let mut all: HashMap<usize, Constants> = HashMap::new();
        for (i, (op, from)) in self.nodes.iter().enumerate() {
            if self.channels.of[i + 1] == group {
                let of = |place: usize| from.get(place).and_then(|from| all.get(from));
                let constants = (0..len).map(|c| {
                    let at = |place: usize| of(place).and_then(|constants| constants[c]);
                    self.constant(op, c, len, &at).filter(|x| x.is_finite())
                });
                let constants: Constants = constants.collect();
                all.insert(i + 1, constants);
            }
        }
        all
    }

    /// The constant of channel `c` after `op`, for those of its inputs.
    fn constant(&self, op: &Op, c: usize, len: usize, input: &dyn Fn(usize) -> Option<f64>) -> Option<f64> {
        match op {
            Op::Linear { weight, bias } => self.of_row(weight, bias.as_ref(), c, None),
            Op::Conv2d { weight, bias, padding, .. } => {
                // Only of a depthwise convolution is the input in the same group. Padding is zeros.
                let through = input(0).filter(|x| *padding == [0, 0] || *x == 0.0);
                self.of_row(weight, bias.as_ref(), c, through)
            }
            Op::BatchNorm { weight, bias, mean, variance, epsilon } => {
                let at = |name: &str| {
                    let all = self.vectors.get(name)?;
                    // Flattened maps have several scales a channel, and so no constant.
                    (all.len() == len).then(|| all[c])
                };
                let factor = at(weight)? / (at(variance)? + epsilon).sqrt();
                let x = if factor == 0.0 {
                    Some(0.0)
                } else {
                    input(0).map(|x| x - at(mean).unwrap_or(f64::NAN))
                };
                Some(x? * factor + at(bias)?)
            }
            Op::MaxPool { .. } | Op::GlobalAveragePool | Op::Flatten | Op::Dropout { .. } => input(0),
            // Padding counts as zeros.
            Op::AveragePool { padding, .. } => input(0).filter(|x| *padding == [0, 0] || *x == 0.0),
            Op::Add => Some(input(0)? + input(1)?),
            _ => activated(op, T::narrow(input(0)?)).map(|y| y.widen()),
        }
    }

    /// The constant of a row: its bias if it is zero, and what comes through it of a constant input.
    fn of_row(&self, weight: &str, bias: Option<&String>, row: usize, input: Option<f64>) -> Option<f64> {
        let matrix = self.matrices.get(weight)?;
        let product = match input {
            _ if self.is_zero(matrix, row) => 0.0,
            Some(0.0) => 0.0,
            Some(x) if matrix.exact => x * matrix.sums[row],
            _ => return None,
        };
        match bias {
            Some(bias) => Some(product + self.vectors.get(&**bias)?[row]),
            None => Some(product),
        }
    }
}

fn input_is_read(channels: &Channels, group: usize, weight: &str) -> bool {
    channels.groups[group].readers.iter().any(|reader| reader.weight == weight)
}

impl Matrix {
    fn of<T: Float>(
        model: &Model<T>,
        channels: &Channels,
        name: &str,
        [out, input]: [usize; 2],
        open: bool,
    ) -> Result<Self> {
        let weight = find(model, name)?;
        let (rows, _) = fold(weight.shape());
        let group = &channels.groups[input];
        let spread = group.readers.iter().find(|reader| open && reader.weight == name).map(|r| r.spread);
        let count = spread.map_or(1, |spread| spread.len);
        let (mut used, mut sums) = (vec![false; rows * count], vec![0.0; rows]);
        each_row(&weight, &mut |r, row| {
            finite(row, r * row.len())?;
            for (i, x) in row.iter().enumerate().filter(|(_, x)| **x != T::zero()) {
                used[r * count + spread.map_or(0, |spread| spread.channel(i))] = true;
                sums[r] += x.widen();
            }
            Ok(())
        })
        .map_err(|fault| Error::weight(name, fault))?;
        Ok(Self {
            out,
            input,
            channels: count,
            used,
            sums,
            exact: weight.activations() == Activations::Float,
        })
    }
}
