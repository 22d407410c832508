//! [`Outline`]: a model without its values, on which a pipeline is checked before any work.

use super::{Model, Select, WeightInfo};
use crate::nn::Graph;
use crate::weight::{Form, Node, Weight};
use crate::{Activations, Float, Refusal};
use std::sync::Arc;

/// The forms and shapes of a model's weights: what [`Step::plan`](crate::Step::plan) sees and changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Outline {
    weights: Vec<OutlineWeight>,
    graph: Option<Arc<Graph>>,
    strict: bool,
    /// Whether the last step put other weights in the place of those before.
    replaced: bool,
}

/// One weight of an [`Outline`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct OutlineWeight {
    /// Name, kind and shape.
    pub info: WeightInfo,
    /// What will have been done to it at this point of the pipeline.
    pub form: Form,
    /// The matrices it is held as, `[rows, cols]` each; unknown where the rank depends on the values.
    pub matrices: Vec<Option<[usize; 2]>>,
    /// How its input will be coded.
    pub activations: Activations,
    /// Whether the lengths of its axes are upper bounds only: a step before removes channels, and how many follows
    /// from the values.
    pub may_shrink: bool,
}

impl OutlineWeight {
    pub(crate) fn of<T: Float>(info: &WeightInfo, weight: &Weight<T>) -> Self {
        Self {
            info: info.clone(),
            form: weight.form(),
            matrices: weight.leaves().iter().map(|l| Some([l.rows(), l.cols()])).collect(),
            activations: weight.activations(),
            may_shrink: false,
        }
    }

    /// Whether a weight of this shape is what is planned.
    pub(crate) fn admits(&self, shape: &[usize]) -> bool {
        let planned = &self.info.shape;
        if !self.may_shrink {
            return planned == shape;
        }
        planned.len() == shape.len() && planned.iter().zip(shape).all(|(most, len)| len <= most)
    }

    /// Rows and columns of the matrix that the whole weight is seen as.
    pub fn matrix(&self) -> [usize; 2] {
        let (rows, cols) = crate::weight::fold(&self.info.shape);
        [rows, cols]
    }
}

impl Outline {
    /// The outline of `model` as it is.
    pub fn of<T: Float>(model: &Model<T>) -> Self {
        Self {
            weights: model.entries().map(|(info, w)| OutlineWeight::of(info, w)).collect(),
            graph: model.graph.clone(),
            strict: false,
            replaced: false,
        }
    }

    /// Before the plan of each step: whether it is a strict one.
    pub(crate) fn next_step(&mut self, strict: bool) {
        (self.strict, self.replaced) = (strict, false);
    }

    pub(crate) fn is_replaced(&self) -> bool {
        self.replaced
    }

    /// Whether it is an error that the step at hand leaves a weight alone.
    pub fn is_strict(&self) -> bool {
        self.strict
    }

    /// Whether the model is a network.
    pub fn has_graph(&self) -> bool {
        self.graph.is_some()
    }

    /// The graph of the network at this point of the pipeline, if the model is one.
    pub fn graph(&self) -> Option<&Graph> {
        self.graph.as_deref()
    }

    /// Puts another graph, for the same weights, in place of the one there.
    pub(crate) fn set_graph(&mut self, graph: Graph) {
        self.graph = Some(Arc::new(graph));
    }

    /// All weights, in order.
    pub fn weights(&self) -> &[OutlineWeight] {
        &self.weights
    }

    /// All weights, in order, to be changed.
    pub fn weights_mut(&mut self) -> &mut [OutlineWeight] {
        &mut self.weights
    }

    /// Puts the outline of another model in place of this one (a step that changes the architecture, or adds
    /// weights): [`Outline::of`] of a model of the same names, kinds and shapes.
    pub fn replace(&mut self, other: Outline) {
        self.weights = other.weights;
        self.graph = other.graph;
        self.replaced = true;
    }

    /// Calls `f` with each weight that `select` takes.
    ///
    /// # Errors
    /// What `f` returns, with the weight's name; [`Refusal::SelectsNothing`] with the patterns when `only` is
    /// given and takes no weight.
    pub fn for_each_selected(
        &mut self,
        select: &Select,
        mut f: impl FnMut(&mut OutlineWeight) -> Result<(), Refusal>,
    ) -> Result<(), (String, Refusal)> {
        let mut any = false;
        for weight in self.weights.iter_mut().filter(|w| select.takes(&w.info)) {
            any = true;
            f(weight).map_err(|why| (weight.info.name.to_string(), why))?;
        }
        if any || select.only.is_empty() {
            Ok(())
        } else {
            Err((select.only.join(", "), Refusal::SelectsNothing))
        }
    }
}

impl<T: Float> Weight<T> {
    /// Whether it is one dense or sparse matrix and not a product or sum.
    pub(crate) fn is_leaf(&self) -> bool {
        matches!(self.node(), Node::Leaf(_))
    }
}
