//! Cutting channels out of a model.

use super::Kept;
use crate::log::Log;
use crate::model::Model;
use crate::nn::{ChannelGroup, Channels, Graph};
use crate::weight::{Coding, Values, fold, stride};
use crate::{Error, Fault, Float, GraphError, Result, Weight};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Takes the number of a row, and the row.
type OfRow<'f, T> = &'f mut dyn FnMut(usize, &[T]) -> Result<(), Fault>;

/// Calls `f` with each row of a weight, decoded.
pub(super) fn each_row<T: Float>(weight: &Weight<T>, f: OfRow<'_, T>) -> Result<(), Fault> {
    if let [leaf] = weight.leaves()[..]
        && weight.is_leaf()
    {
        return leaf.for_each_row(f);
    }
    let (_, cols) = fold(weight.shape());
    let dense = weight.dense_values()?;
    dense.chunks(cols.max(1)).enumerate().try_for_each(|(r, row)| f(r, row))
}

/// The weight of that name.
pub(super) fn find<T: Float>(model: &Model<T>, name: &str) -> Result<Arc<Weight<T>>> {
    model.shared(name).ok_or_else(|| GraphError::NoWeight(name.to_owned()).into())
}

/// The numbers of a vector, all of which must be finite.
pub(super) fn vector<T: Float>(model: &Model<T>, name: &str) -> Result<Vec<f64>> {
    let fail = |fault| Error::weight(name, fault);
    let values = find(model, name)?.dense_values().map_err(fail)?;
    finite(&values, 0).map_err(fail)?;
    Ok(values.iter().map(|x| x.widen()).collect())
}

/// A value that is not finite is an error; `first` is the place of the first one.
pub(super) fn finite<T: Float>(values: &[T], first: usize) -> Result<(), Fault> {
    match values.iter().position(|x| !x.is_finite()) {
        Some(i) => Err(Fault::NotFinite { index: first + i, value: values[i].to_string() }),
        None => Ok(()),
    }
}

/// Whether scales of quantized weights stand in the way of cutting channels of a group.
pub(super) fn splits_groups<T: Float>(model: &Model<T>, group: &ChannelGroup) -> bool {
    let readers = group.readers.iter().map(|reader| (&reader.weight, reader.spread));
    let vectors = group.vectors.iter().map(|(name, spread)| (name, *spread));
    readers
        .chain(vectors)
        .any(|(name, spread)| model.weight(name).is_some_and(|weight| weight.splits_groups(spread.inner)))
}

/// Puts other numbers in a dense bias, in the precision that it has.
pub(super) fn set_bias<T: Float>(model: &mut Model<T>, name: &str, values: &[f64]) -> Result<()> {
    let bias = find(model, name)?.as_ref().clone().map_leaves(&mut |leaf| {
        let data: Vec<T> = values.iter().map(|x| T::narrow(*x)).collect();
        let values = Values::rounded(data, leaf.float_dtype());
        finite(&values.read(0..values.len())?, 0)?;
        Ok(leaf.recoded(Coding::Float(values)))
    });
    model.set(name, bias.map_err(|fault| Error::weight(name, fault))?)
}

/// The rows and columns of one weight that stay.
#[derive(Default)]
struct Stay {
    rows: Option<Vec<usize>>,
    cols: Option<Vec<usize>>,
}

/// Takes out all channels that are not kept.
pub(super) fn cut<T: Float>(
    model: &mut Model<T>,
    graph: &Graph,
    channels: &Channels,
    kept: &[Kept],
    log: &Log<'_>,
) -> Result<()> {
    let mut stay: BTreeMap<&str, Stay> = BTreeMap::new();
    for (group, kept) in channels.groups.iter().zip(kept) {
        if kept.iter().all(|kept| *kept) {
            continue;
        }
        for name in &group.rows {
            let rows = (0..kept.len()).filter(|row| kept[*row]).collect();
            stay.entry(name).or_default().rows = Some(rows);
        }
        let readers = group.readers.iter().map(|reader| (&reader.weight, reader.spread));
        let vectors = group.vectors.iter().map(|(name, spread)| (name, *spread));
        for (name, spread) in readers.chain(vectors) {
            let (_, total) = fold(find(model, name)?.shape());
            stay.entry(name).or_default().cols = Some(spread.places(total, kept));
        }
    }
    let of = stay.len();
    for (done, (name, Stay { rows, cols })) in stay.iter().enumerate() {
        log.progress(done, of)?;
        let weight = find(model, name)?;
        let mut shape = weight.shape().to_vec();
        let run = stride(&shape);
        let last = shape.len().min(2).saturating_sub(1);
        if let (Some(rows), Some(len)) = (rows, shape.first_mut()) {
            *len = rows.len();
        }
        if let (Some(cols), Some(len)) = (cols, shape.get_mut(last)) {
            *len = cols.len() / run.max(1);
        }
        let slim = weight.select(rows.as_deref(), cols.as_deref(), &shape);
        model.set(name, slim.map_err(|fault| Error::weight(name, fault))?)?;
    }
    let count = |group: usize| {
        let kept = &kept[group];
        (!kept.is_empty()).then(|| kept.iter().filter(|kept| **kept).count())
    };
    model.set_graph(channels.refit(graph, count))
}
