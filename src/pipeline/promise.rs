//! Whether a step did to the weights what its plan says, and nothing else.

use crate::model::{Model, Outline, OutlineWeight};
use crate::weight::{Activations, Form};
use crate::{Error, Fault, Float, Result, Weight};
use std::collections::HashMap;
use std::sync::Arc;

/// What a weight was before a step.
#[derive(Clone)]
pub(super) struct Was {
    form: Form,
    shape: Vec<usize>,
    /// Pruned entries, and whether they are those of a single matrix: only then can they be compared.
    pruned: usize,
    is_leaf: bool,
    activations: Activations,
}

impl Was {
    pub fn of<T: Float>(weight: &Weight<T>) -> Self {
        Self {
            form: weight.form(),
            shape: weight.shape().to_vec(),
            pruned: weight.entries().1,
            is_leaf: weight.is_leaf(),
            activations: weight.activations(),
        }
    }

    /// A weight that the step itself brings is what the plan says.
    fn as_planned(planned: &OutlineWeight) -> Self {
        Self {
            form: planned.form,
            shape: planned.info.shape.clone(),
            pruned: 0,
            is_leaf: !planned.form.factored,
            activations: planned.activations,
        }
    }

    /// What was done to the weight without being planned. What is planned need not be done: the weight may
    /// be left alone.
    fn unplanned<T: Float>(&self, planned: &OutlineWeight, after: &Weight<T>) -> Option<&'static str> {
        let (form, may, was) = (after.form(), planned.form, self.form);
        let lost = |was: bool, may: bool, is: bool| was && may && !is;
        let gained = |was: bool, may: bool, is: bool| !was && !may && is;
        // Where rows or columns are gone, so may be all of the pruned entries.
        let same = after.shape() == self.shape;
        let fewer = self.is_leaf == after.is_leaf() && after.entries().1 < self.pruned;
        let changes = [
            (!planned.admits(after.shape()), "changed its shape"),
            (lost(was.factored, may.factored, form.factored), "multiplied its factors out"),
            (lost(was.quantized, may.quantized, form.quantized), "dropped its codes"),
            (same && lost(was.pruned, may.pruned, form.pruned && !fewer), "brought pruned entries back"),
            (
                lost(was.codebook.is_some(), may.codebook.is_some(), form.codebook.is_some()),
                "dropped its codebook",
            ),
            (gained(was.factored, may.factored, form.factored), "factored it"),
            (gained(was.quantized, may.quantized, form.quantized), "quantized it"),
            (
                gained(was.codebook.is_some(), may.codebook.is_some(), form.codebook.is_some()),
                "gave it a codebook",
            ),
            (gained(was.pruned, may.pruned, form.pruned), "pruned it"),
            (
                planned.activations == self.activations && after.activations() != self.activations,
                "changed how its inputs are coded",
            ),
        ];
        changes.into_iter().find_map(|(is, what)| is.then_some(what))
    }
}

/// A weight after a step that handles one weight at a time.
pub(super) fn check_weight<T: Float>(
    step: &str,
    name: &str,
    was: &Was,
    after: &Weight<T>,
    planned: &Outline,
) -> Result<()> {
    let planned = planned.weights().iter().find(|w| &*w.info.name == name);
    let what = planned.map_or(Some("added it"), |planned| was.unplanned(planned, after));
    what.map_or(Ok(()), |what| Err(unplanned(step, name, what)))
}

/// What all weights were before a step that looks at the whole model.
pub(super) fn all<T: Float>(model: &Model<T>) -> HashMap<Arc<str>, Was> {
    model.entries().map(|(info, weight)| (Arc::clone(&info.name), Was::of(weight))).collect()
}

/// The model after such a step.
pub(super) fn check_model<T: Float>(
    step: &str,
    was: &HashMap<Arc<str>, Was>,
    after: &Model<T>,
    planned: &Outline,
) -> Result<()> {
    let planned_weights: HashMap<&str, &OutlineWeight> =
        planned.weights().iter().map(|w| (&*w.info.name, w)).collect();
    for (info, weight) in after.entries() {
        let Some(planned_weight) = planned_weights.get(&*info.name) else {
            return Err(unplanned(step, &info.name, "added it"));
        };
        let was = match was.get(&info.name) {
            Some(was) if !planned.is_replaced() => was.clone(),
            _ => Was::as_planned(planned_weight),
        };
        if let Some(what) = was.unplanned(planned_weight, weight) {
            return Err(unplanned(step, &info.name, what));
        }
    }
    match planned.weights().iter().find(|w| after.weight(&w.info.name).is_none()) {
        Some(gone) => Err(unplanned(step, &gone.info.name, "removed it")),
        None => Ok(()),
    }
}

fn unplanned(step: &str, weight: &str, what: &'static str) -> Error {
    Error::weight(weight, Fault::Unplanned { step: step.to_owned(), what })
}
