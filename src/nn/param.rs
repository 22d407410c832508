//! [`Param`]: the twin of a weight while it is trained, with the same tree of leaves, products and sums.

use super::coded_inputs::CodedInputs;
use super::leaf_param::LeafParam;
use super::op::Role;
use super::plan::Slot;
use crate::format::Hash;
use crate::kernels::memory::with_room;
use crate::model::{Kind, WeightInfo};
use crate::weight::{Activations, Node};
use crate::{Error, Fault, Float, Leaf, Result, Tensor, Weight};
use std::ops::Range;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub(crate) struct Param<T: Float> {
    pub name: String,
    pub role: Role,
    /// What it was made of: shapes, forms, and how the inputs of its parts are coded.
    origin: Arc<Weight<T>>,
    tree: Tree<T>,
    /// Something that only looks like a vector (a product, say) is used but not trained.
    fixed: bool,
    /// Running statistics that are not measured any more.
    pub held: bool,
    /// How its inputs are coded in training, where they are.
    pub(super) inputs: Option<CodedInputs<T>>,
}

#[derive(Clone, Debug)]
enum Tree<T: Float> {
    Leaf(Box<LeafParam<T>>),
    /// `U [rows, rank]` and `V [rank, cols]`.
    Product {
        u: Box<Tree<T>>,
        v: Box<Tree<T>>,
        rank: usize,
    },
    Sum(Vec<Tree<T>>),
}

impl<T: Float> Param<T> {
    pub fn new(slot: &Slot, weight: &Arc<Weight<T>>) -> Result<Self> {
        let fail = |fault| Error::weight(&slot.name, fault);
        let is_matrix = matches!(slot.role, Role::Linear | Role::Conv2d);
        let fixed = !is_matrix && !matches!(weight.node(), Node::Leaf(_));
        let tree = if fixed {
            let values = weight.dense_values().map_err(fail)?;
            Tree::new(&Tensor::new(weight.shape(), values)?.into(), false)
        } else {
            Tree::new(weight, slot.role == Role::Linear)
        }
        .map_err(fail)?;
        let mut param = Self {
            name: slot.name.clone(),
            role: slot.role,
            origin: Arc::clone(weight),
            tree,
            fixed,
            held: false,
            inputs: None,
        };
        if fixed || param.is_measured() {
            param.for_each_leaf(&mut |_, leaf| leaf.frozen = true);
        }
        Ok(param)
    }

    /// The numbers that it was made of again. What is frozen may be something else then.
    pub(super) fn reset(&mut self) -> Result<()> {
        if !self.fixed {
            self.tree = Tree::new(&self.origin, self.role == Role::Linear)
                .map_err(|fault| Error::weight(&self.name, fault))?;
        }
        Ok(())
    }

    /// Shape and form of what it was made of, in short.
    pub(super) fn description(&self) -> String {
        let bits: Vec<u8> = self.origin.leaves().iter().filter_map(|leaf| leaf.code_bits()).collect();
        let (shape, form) = (self.origin.shape(), self.origin.form());
        format!("{shape:?} {form}, bits {bits:?}, inputs {:?}", self.origin.activations())
    }

    /// The same with a hash of the numbers.
    pub(super) fn identity(&self) -> Result<String> {
        let mut hash = Hash::new();
        hash.numbers(&self.origin.dense_values().map_err(|fault| Error::weight(&self.name, fault))?);
        Ok(format!("{}, {}", self.description(), hash.text()))
    }

    /// Whether it holds running statistics, which the optimizer leaves alone.
    pub fn is_measured(&self) -> bool {
        matches!(self.role, Role::Mean | Role::Variance)
    }

    /// Whether a step may change some of its numbers.
    pub fn is_trained(&self) -> bool {
        self.tree.any(&|leaf| !leaf.frozen)
    }

    /// Whether training can change some of its numbers: by steps, or by measuring statistics.
    pub fn can_learn(&self) -> bool {
        let measures = self.is_measured() && self.measures();
        self.tree.any(&|leaf| !leaf.values().is_empty() && (measures || !leaf.frozen))
    }

    /// Whether running statistics are overwritten. Only plain floats are: codes and masks stay.
    pub(super) fn measures(&self) -> bool {
        let form = self.origin.form();
        !self.held && !self.fixed && !form.pruned && !form.quantized
    }

    /// Whether some of its numbers may have changed.
    pub fn is_touched(&self) -> bool {
        !self.fixed
            && (self.tree.any(&|leaf| leaf.touched) || self.activations() != self.origin.activations())
    }

    /// The values of something that is used value by value.
    pub fn vector(&self) -> &[T] {
        match &self.tree {
            Tree::Leaf(leaf) => &leaf.dense,
            _ => &[],
        }
    }

    /// The gradient of the same; `None` where it is not trained.
    pub fn vector_gradient(&mut self) -> Option<&mut [T]> {
        match &mut self.tree {
            Tree::Leaf(leaf) if !leaf.frozen => Some(leaf.gradient()),
            _ => None,
        }
    }

    /// The entries of a matrix that is held as one.
    pub fn matrix(&self) -> Option<&[T]> {
        match &self.tree {
            Tree::Leaf(leaf) => Some(&leaf.dense),
            _ => None,
        }
    }

    /// See [`LeafParam::gradient_of_all`].
    pub fn matrix_gradient(&mut self) -> Option<(T, &mut [T])> {
        match &mut self.tree {
            Tree::Leaf(leaf) => leaf.gradient_of_all(),
            _ => None,
        }
    }

    /// How the product with it codes its inputs.
    pub fn activations(&self) -> Activations {
        self.inputs.as_ref().map_or(self.origin.activations(), CodedInputs::activations)
    }

    /// Whether the product with it codes its inputs, in a way that training can follow.
    pub fn may_code_inputs(&self) -> bool {
        self.activations() != Activations::Float && self.is_matrix()
    }

    /// Whether it is a single matrix in use as one.
    pub fn is_matrix(&self) -> bool {
        matches!(self.role, Role::Linear | Role::Conv2d) && matches!(self.tree, Tree::Leaf(_))
    }

    /// Overwrites running statistics, value by value.
    pub fn measure(&mut self, f: impl Fn(usize, T) -> T) {
        let measures = self.measures();
        let Tree::Leaf(leaf) = &mut self.tree else { return };
        if measures {
            leaf.edit(|values| values.iter_mut().enumerate().for_each(|(i, x)| *x = f(i, *x)));
        }
    }

    /// See [`LeafParam::product`].
    pub fn product(&self, x: &[T], n: usize, rows: Range<usize>, y: &mut [T]) {
        self.tree.product(x, n, &rows, T::zero(), y);
    }

    /// See [`LeafParam::backward`].
    pub fn backward(&mut self, x: &[T], dy: &[T], n: usize, rows: Range<usize>, dx: Option<(T, &mut [T])>) {
        self.tree.backward(x, dy, n, &rows, dx);
    }

    /// Every leaf with its path: the name of the weight, followed by `.u` and `.v` for the factors of a
    /// product and by `.0`, `.1`, .. for the terms of a sum.
    pub fn for_each_leaf(&mut self, f: &mut dyn FnMut(&str, &mut LeafParam<T>)) {
        self.tree.each(&self.name, f);
    }

    /// The same without their paths, which take room.
    pub fn each_leaf(&mut self, f: &mut dyn FnMut(&mut LeafParam<T>)) {
        self.tree.each_leaf(f);
    }

    /// Whether `f` says yes to one of them.
    pub fn any_leaf(&self, f: &dyn Fn(&LeafParam<T>) -> bool) -> bool {
        self.tree.any(f)
    }

    /// The same, to look at.
    pub fn leaves(&self) -> Vec<(String, &LeafParam<T>)> {
        let mut out = Vec::new();
        self.tree.collect(self.name.clone(), &mut out);
        out
    }

    /// The same, to change.
    pub fn leaves_mut(&mut self) -> Vec<(String, &mut LeafParam<T>)> {
        let mut out = Vec::new();
        self.tree.collect_mut(self.name.clone(), &mut out);
        out
    }

    /// What a step knows of it.
    pub fn info(&self) -> WeightInfo {
        WeightInfo::new(&*self.name, Kind::of(self.role), self.origin.shape())
    }

    /// See [`LeafParam::check`].
    pub fn check(&self) -> Result<()> {
        let check = |leaf: &LeafParam<T>| leaf.check().map_err(|fault| Error::weight(&self.name, fault));
        self.leaves().into_iter().try_for_each(|(_, leaf)| check(leaf))
    }

    /// The weight with the trained numbers, in the form it had.
    pub fn weight(&self) -> Result<Arc<Weight<T>>> {
        if !self.is_touched() {
            return Ok(Arc::clone(&self.origin));
        }
        let weight = self.tree.weight(&self.origin).map(|weight| weight.with_activations(self.activations()));
        weight.map(Arc::new).map_err(|fault| Error::weight(&self.name, fault))
    }
}

impl<T: Float> Tree<T> {
    fn new(weight: &Weight<T>, linear: bool) -> Result<Self, Fault> {
        Ok(match weight.node() {
            Node::Leaf(leaf) => Self::Leaf(Box::new(LeafParam::new(&leaf.load()?, linear)?)),
            Node::Product(u, v) => {
                let rank = v.shape().first().copied().unwrap_or(0);
                Self::Product { u: Box::new(Self::new(u, linear)?), v: Box::new(Self::new(v, linear)?), rank }
            }
            Node::Sum(parts) => {
                Self::Sum(parts.iter().map(|part| Self::new(part, linear)).collect::<Result<_, _>>()?)
            }
        })
    }

    fn any(&self, f: &dyn Fn(&LeafParam<T>) -> bool) -> bool {
        match self {
            Self::Leaf(leaf) => f(leaf),
            Self::Product { u, v, .. } => u.any(f) || v.any(f),
            Self::Sum(parts) => parts.iter().any(|p| p.any(f)),
        }
    }

    fn each(&mut self, path: &str, f: &mut dyn FnMut(&str, &mut LeafParam<T>)) {
        match self {
            Self::Leaf(leaf) => f(path, leaf),
            Self::Product { u, v, .. } => {
                u.each(&format!("{path}.u"), f);
                v.each(&format!("{path}.v"), f);
            }
            Self::Sum(parts) => {
                parts.iter_mut().enumerate().for_each(|(i, p)| p.each(&format!("{path}.{i}"), f));
            }
        }
    }

    fn each_leaf(&mut self, f: &mut dyn FnMut(&mut LeafParam<T>)) {
        match self {
            Self::Leaf(leaf) => f(leaf),
            Self::Product { u, v, .. } => {
                u.each_leaf(f);
                v.each_leaf(f);
            }
            Self::Sum(parts) => parts.iter_mut().for_each(|part| part.each_leaf(f)),
        }
    }

    fn collect<'a>(&'a self, path: String, out: &mut Vec<(String, &'a LeafParam<T>)>) {
        match self {
            Self::Leaf(leaf) => out.push((path, leaf)),
            Self::Product { u, v, .. } => {
                u.collect(format!("{path}.u"), out);
                v.collect(format!("{path}.v"), out);
            }
            Self::Sum(parts) => {
                parts.iter().enumerate().for_each(|(i, p)| p.collect(format!("{path}.{i}"), out));
            }
        }
    }

    fn collect_mut<'a>(&'a mut self, path: String, out: &mut Vec<(String, &'a mut LeafParam<T>)>) {
        match self {
            Self::Leaf(leaf) => out.push((path, leaf)),
            Self::Product { u, v, .. } => {
                u.collect_mut(format!("{path}.u"), out);
                v.collect_mut(format!("{path}.v"), out);
            }
            Self::Sum(parts) => {
                for (i, part) in parts.iter_mut().enumerate() {
                    part.collect_mut(format!("{path}.{i}"), out);
                }
            }
        }
    }

    fn product(&self, x: &[T], n: usize, rows: &Range<usize>, beta: T, y: &mut [T]) {
        match self {
            Self::Leaf(leaf) => leaf.product(x, n, rows, beta, y),
            Self::Product { u, v, rank } => with_room(n * rank, |hidden: &mut [T]| {
                v.product(x, n, &(0..*rank), T::zero(), hidden);
                u.product(hidden, n, rows, beta, y);
            }),
            Self::Sum(parts) => {
                for (i, part) in parts.iter().enumerate() {
                    part.product(x, n, rows, if i == 0 { beta } else { T::one() }, y);
                }
            }
        }
    }

    fn backward(&mut self, x: &[T], dy: &[T], n: usize, rows: &Range<usize>, dx: Option<(T, &mut [T])>) {
        match self {
            Self::Leaf(leaf) => leaf.backward(x, dy, n, rows, dx),
            Self::Product { u, v, rank } => {
                // Cheaper to compute again than to keep: the rank is small.
                with_room(2 * n * *rank, |room: &mut [T]| {
                    let (hidden, dhidden) = room.split_at_mut(n * *rank);
                    v.product(x, n, &(0..*rank), T::zero(), hidden);
                    u.backward(hidden, dy, n, rows, Some((T::zero(), dhidden)));
                    v.backward(x, dhidden, n, &(0..*rank), dx);
                });
            }
            Self::Sum(parts) => {
                let (mut beta, mut dx) = match dx {
                    Some((beta, dx)) => (beta, Some(dx)),
                    None => (T::zero(), None),
                };
                for part in parts {
                    part.backward(x, dy, n, rows, dx.as_deref_mut().map(|dx| (beta, dx)));
                    beta = T::one();
                }
            }
        }
    }

    fn weight(&self, origin: &Weight<T>) -> Result<Weight<T>, Fault> {
        let node = match (self, origin.node()) {
            (Self::Leaf(leaf), Node::Leaf(old)) => Node::Leaf(no_larger(leaf.leaf()?, old, origin.stride())?),
            (Self::Product { u, v, .. }, Node::Product(ou, ov)) => {
                Node::Product(Box::new(u.weight(ou)?), Box::new(v.weight(ov)?))
            }
            (Self::Sum(parts), Node::Sum(origins)) => {
                Node::Sum(parts.iter().zip(origins).map(|(p, o)| p.weight(o)).collect::<Result<_, _>>()?)
            }
            _ => return Err(Fault::Form("its form has changed")),
        };
        Ok(Weight::from_node(origin.shape(), node).with_activations(origin.activations()))
    }
}

/// A trained leaf in no more bytes than it had. Where pruned entries are stored as zeros, a kept entry that was
/// trained to exactly zero would call for a mask: it counts as pruned from here on, which changes no number.
fn no_larger<T: Float>(new: Leaf<T>, old: &Leaf<T>, stride: usize) -> Result<Leaf<T>, Fault> {
    if new.stored_bytes(stride) > old.stored_bytes(stride) {
        new.retain(|_, x| x != T::zero())
    } else {
        Ok(new)
    }
}
