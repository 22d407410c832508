//! Folding a batch norm into the layer before it. At inference a batch norm is one factor and one summand a
//! channel, which the convolution or linear layer before it can hold itself:
//! `w' = w * s`, `b' = (b - mean) * s + shift` with `s = scale / sqrt(variance + epsilon)`.
//!
//! A batch norm works on axis 1 and the rows of a linear layer are the last axis: these are the same only where
//! there are two axes. A graph does not say how many axes its input has, so that this must follow from a layer
//! before.

use super::graph::{Graph, Node};
use super::op::Op;
use super::plan::prefix;
use crate::{Error, Fault, Float, GraphError, Result, Tensor, Weight};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Weights by name.
pub(crate) type Lookup<'a, T> = &'a dyn Fn(&str) -> Option<Arc<Weight<T>>>;

/// A new graph and the weights that changed or are new.
pub(crate) type Folded<T> = (Graph, Vec<(String, Weight<T>)>);

/// The graph without the batch norms that could be folded, and the weights that changed or are new, dense.
///
/// A batch norm is folded when it takes the output of a convolution or a linear layer that nobody else
/// takes, and the weight of that layer is used once. The output of a linear layer must be known to be
/// `[n, features]`. Do this before compressing: the new weights are dense. A layer without a bias gets one,
/// called `NAME.bias` (`NAME.folded_bias` where that name is taken).
///
/// # Errors
/// As [`Graph::check`]; [`Error::Weight`] when a file cannot be read or a variance is not positive.
pub(crate) fn fold_batch_norm<T: Float>(graph: &Graph, weight: Lookup<'_, T>) -> Result<Folded<T>> {
    let known = graph.known(&|name| weight(name).map(|w| w.shape().to_vec()))?;
    let mut names: HashMap<&str, usize> = HashMap::new();
    graph.weights().for_each(|(name, _)| *names.entry(name).or_default() += 1);
    let mut takers = vec![0; graph.len() + 1];
    graph.ops().for_each(|(_, from)| from.iter().for_each(|f| takers[*f] += 1));

    let mut changed = Vec::new();
    let mut made: HashSet<String> = HashSet::new();
    // The output of the new graph that stands for each output of the old one.
    let mut place = vec![0];
    let mut out = Graph::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        let from = node.inputs(i);
        let source = from[0];
        let before = source.checked_sub(1).map(|s| &graph.nodes[s].op);
        if let (Op::BatchNorm { .. }, Some(before), 1) = (&node.op, before, takers[source])
            && let Op::Linear { weight: name, bias } | Op::Conv2d { weight: name, bias, .. } = before
            && names[name.as_str()] == 1
            && (matches!(before, Op::Conv2d { .. }) || known[source].axes == Some(2))
        {
            // A bias that other layers use as well must stay as it is for them.
            let own = bias.as_ref().filter(|b| names[b.as_str()] == 1).cloned();
            let new_bias = own.unwrap_or_else(|| free_name(prefix(name), &names, &made, weight));
            made.insert(new_bias.clone());
            changed.extend(folded(&node.op, name, bias.as_deref(), &new_bias, weight)?);
            let target = place[source];
            set_bias(&mut out.nodes[target - 1], new_bias);
            place.push(target);
            continue;
        }
        let from: Vec<usize> = from.iter().map(|f| place[*f]).collect();
        out = out.node(node.op.clone(), &from);
        place.push(out.last());
    }
    Ok((out, changed))
}

fn set_bias(node: &mut Node, name: String) {
    if let Op::Linear { bias, .. } | Op::Conv2d { bias, .. } = &mut node.op {
        *bias = Some(name);
    }
}

fn free_name<T: Float>(
    prefix: &str,
    used: &HashMap<&str, usize>,
    made: &HashSet<String>,
    weight: Lookup<'_, T>,
) -> String {
    let mut name = format!("{prefix}.bias");
    let mut suffix = String::from("folded_bias");
    while used.contains_key(name.as_str()) || made.contains(&name) || weight(&name).is_some() {
        name = format!("{prefix}.{suffix}");
        suffix.push('_');
    }
    name
}

fn folded<T: Float>(
    norm: &Op,
    name: &str,
    bias: Option<&str>,
    new_bias: &str,
    weight: Lookup<'_, T>,
) -> Result<[(String, Weight<T>); 2]> {
    let Op::BatchNorm { weight: scale, bias: shift, mean, variance, epsilon } = norm else {
        return Err(Error::Data("not a batch norm"));
    };
    let dense = |name: &str| -> Result<(Vec<usize>, Vec<T>)> {
        let found = weight(name).ok_or_else(|| GraphError::NoWeight(name.to_owned()))?;
        let values = found.dense_values().map_err(|fault| Error::weight(name, fault))?;
        Ok((found.shape().to_vec(), values))
    };
    let (shape, mut values) = dense(name)?;
    let [scale, shift, mean, spread] = [scale, shift, mean, variance].map(|name| dense(name));
    let (scale, shift, mean, spread) = (scale?.1, shift?.1, mean?.1, spread?.1);
    if shape.first() != Some(&scale.len()) {
        return Err(Error::shape(name, &[scale.len()], &shape));
    }
    let mut biases = match bias {
        Some(bias) => dense(bias)?.1,
        None => vec![T::zero(); scale.len()],
    };
    let cols = values.len().checked_div(scale.len()).unwrap_or(0);
    for (i, b) in biases.iter_mut().enumerate() {
        let factor = scale[i].widen() / (spread[i].widen() + epsilon).sqrt();
        if !factor.is_finite() {
            let value = spread[i].to_string();
            return Err(Error::weight(variance, Fault::NotFinite { index: i, value }));
        }
        for w in &mut values[i * cols..(i + 1) * cols] {
            *w = T::narrow(w.widen() * factor);
        }
        *b = T::narrow((b.widen() - mean[i].widen()) * factor + shift[i].widen());
    }
    let bias = Tensor::new(&[biases.len()], biases)?;
    Ok([(name.to_owned(), Tensor::new(&shape, values)?.into()), (new_bias.to_owned(), bias.into())])
}
