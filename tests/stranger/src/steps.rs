//! Three steps: one for a weight at a time, one for the whole model, and one that is wrong.

use bantam::nn::{Graph, Op};
use bantam::{
    Compressor, Error, Fault, Float, Invalid, LeftAlone, Log, MagnitudePruner, Model, Outcome, Outline,
    Refusal, Result, Select, Step, Tensor, Weight, WeightCompressor, WeightInfo,
};

/// Moves values that are far out to `sigmas` root mean squares, so that few bits suffice for the others.
///
/// Handles one weight at a time: [`Pipeline::then_each`](bantam::Pipeline::then_each).
#[derive(Debug, Clone)]
pub struct ClipOutliers {
    sigmas: f64,
    select: Select,
}

impl ClipOutliers {
    /// Clips at `sigmas` root mean squares, at least 1.
    pub fn at(sigmas: f64) -> Self {
        Self { sigmas, select: Select::default() }
    }

    /// Takes only weights whose name matches this glob.
    pub fn only(mut self, glob: &str) -> Self {
        self.select.only.push(glob.to_owned());
        self
    }
}

impl Step for ClipOutliers {
    fn name(&self) -> &str {
        "clip"
    }

    fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless_in(1.0..f64::INFINITY, "sigmas", self.sigmas, "finite and at least 1")
    }

    /// Pruned weights stay pruned. Codes and products would be lost: those are refused.
    fn plan(&self, outline: &mut Outline) -> Result<(), (String, Refusal)> {
        outline.for_each_selected(&self.select, |weight| needs_values(&weight.form, "clip"))
    }
}

impl<T: Float> WeightCompressor<T> for ClipOutliers {
    fn select(&self) -> &Select {
        &self.select
    }

    fn compress_weight(&self, _info: &WeightInfo, weight: Weight<T>) -> Result<Outcome<T>, Fault> {
        if weight.is_empty() {
            return Ok(Outcome::left(weight, LeftAlone::Empty));
        }
        let dense = weight.to_dense()?;
        let squares: f64 = dense.iter().map(|x| x.widen() * x.widen()).sum();
        let limit = T::narrow(self.sigmas * (squares / dense.len() as f64).sqrt());
        if dense.iter().all(|x| x.abs() <= limit) {
            return Ok(Outcome::left(weight, LeftAlone::Already));
        }
        let clipped = weight.map_leaves(&mut |leaf| leaf.map_values(|x| x.max(-limit).min(limit)))?;
        Ok(clipped.into())
    }
}

/// Evens out the ranges of neighbouring linear layers with a ReLU between them, without changing what the
/// network computes (Nagel et al., arXiv 1906.04721): one scale for a whole weight then loses less.
///
/// Looks at the whole model: [`Pipeline::then`](bantam::Pipeline::then).
#[derive(Debug, Clone, Copy, Default)]
pub struct Equalize;

impl Step for Equalize {
    fn name(&self) -> &str {
        "equalize"
    }

    fn plan(&self, outline: &mut Outline) -> Result<(), (String, Refusal)> {
        if !outline.has_graph() {
            return Err(("model".to_owned(), Refusal::NoGraph));
        }
        // Which weights the graph pairs is not known here, so that all of them must be plain.
        for weight in outline.weights() {
            needs_values(&weight.form, "equalize").map_err(|why| (weight.info.name.to_string(), why))?;
        }
        Ok(())
    }
}

impl<T: Float> Compressor<T> for Equalize {
    fn compress(&self, model: &mut Model<T>, log: &Log<'_>) -> Result<()> {
        let pairs = model.graph().map(pairs).unwrap_or_default();
        for (i, Pair { first, bias, second }) in pairs.iter().enumerate() {
            log.progress(i, pairs.len())?;
            let (mut a, mut c) = (dense(model, first)?, dense(model, second)?);
            let mut b = bias.as_ref().map(|bias| dense(model, bias)).transpose()?;
            let &[hidden, inputs] = a.shape() else { continue };
            for j in 0..hidden {
                let row = &mut a.as_mut_slice()[j * inputs..][..inputs];
                let scale = (largest(row.iter()) / largest(c.iter().skip(j).step_by(hidden))).sqrt();
                if !scale.is_normal() {
                    continue; // a unit that is off
                }
                row.iter_mut().for_each(|x| *x /= scale);
                if let Some(b) = &mut b {
                    b.as_mut_slice()[j] /= scale;
                }
                c.as_mut_slice().iter_mut().skip(j).step_by(hidden).for_each(|x| *x *= scale);
            }
            replace(model, first, a)?;
            replace(model, second, c)?;
            if let (Some(bias), Some(b)) = (bias, b) {
                replace(model, bias, b)?;
            }
        }
        log.progress(pairs.len(), pairs.len())
    }
}

/// Doubles every weight and puts it back as a plain tensor, so that masks are lost. That is an error unless
/// [`Step::plan`] says so.
#[derive(Debug, Clone, Copy)]
pub struct Forgetful {
    /// Whether it says so.
    pub planned: bool,
}

impl Step for Forgetful {
    fn name(&self) -> &str {
        "forgetful"
    }

    fn plan(&self, outline: &mut Outline) -> Result<(), (String, Refusal)> {
        for weight in outline.weights_mut() {
            needs_values(&weight.form, "forgetful").map_err(|why| (weight.info.name.to_string(), why))?;
            weight.form.pruned &= !self.planned;
        }
        Ok(())
    }
}

impl<T: Float> Compressor<T> for Forgetful {
    fn compress(&self, model: &mut Model<T>, _log: &Log<'_>) -> Result<()> {
        let names: Vec<String> = model.weights().map(|(name, _)| name.to_owned()).collect();
        for name in &names {
            let mut tensor = dense(model, name)?;
            tensor.as_mut_slice().iter_mut().for_each(|x| *x += *x);
            model.set(name, tensor.into())?;
        }
        Ok(())
    }
}

/// `linear -> relu -> linear` where nothing else looks at what is in between.
struct Pair {
    first: String,
    bias: Option<String>,
    second: String,
}

fn pairs(graph: &Graph) -> Vec<Pair> {
    let nodes: Vec<_> = graph.ops().collect();
    let uses = |output: usize| nodes.iter().filter(|(_, from)| from.contains(&output)).count();
    let shared = |name: &str| graph.weights().filter(|(weight, _)| *weight == name).count() > 1;
    // Output `i + 1` is that of node `i`, output 0 the input of the network.
    let node = |output: usize| output.checked_sub(1).map(|i| &nodes[i]);
    let pair = |op: &Op, from: usize| {
        let Op::Linear { weight: second, .. } = op else { return None };
        let (Op::Relu, hidden) = node(from)? else { return None };
        let (Op::Linear { weight: first, bias }, _) = node(hidden[0])? else { return None };
        let alone = uses(from) == 1 && uses(hidden[0]) == 1;
        let shares = shared(first) || shared(second) || bias.as_deref().is_some_and(shared);
        (alone && !shares).then(|| Pair { first: first.clone(), bias: bias.clone(), second: second.clone() })
    };
    nodes.iter().filter_map(|(op, from)| pair(op, from[0])).collect()
}

fn needs_values(form: &bantam::Form, step: &'static str) -> Result<(), Refusal> {
    match (form.quantized, form.factored) {
        (true, _) => Err(Refusal::TooLate { done: "quantized", step }),
        (_, true) => Err(Refusal::TooLate { done: "factored", step }),
        _ => Ok(()),
    }
}

fn dense<T: Float>(model: &Model<T>, name: &str) -> Result<Tensor<T>> {
    let weight = model.weight(name).ok_or_else(|| Error::Other(format!("no weight {name}").into()))?;
    weight.to_dense()
}

fn replace<T: Float>(model: &mut Model<T>, name: &str, tensor: Tensor<T>) -> Result<()> {
    let weight = match model.weight(name) {
        Some(before) => like(before, tensor)?,
        None => tensor.into(),
    };
    model.set(name, weight)
}

/// `tensor` with the mask of `before`, which is dense or pruned.
fn like<T: Float>(before: &Weight<T>, tensor: Tensor<T>) -> Result<Weight<T>> {
    let weight = Weight::from(tensor).with_activations(before.activations());
    if before.form().pruned {
        // Pruned entries have come out as zeros; this prunes what is below the smallest normal number.
        MagnitudePruner::threshold(T::min_positive_value().widen()).apply(weight)
    } else {
        Ok(weight)
    }
}

fn largest<'a, T: Float>(values: impl Iterator<Item = &'a T>) -> T {
    values.fold(T::zero(), |a, x| a.max(x.abs()))
}
