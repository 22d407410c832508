//! [`Weight`]: a tensor of a model in whatever compressed form it is.
//!
//! Three things are told apart. The *logical* form is a tree: a [`Leaf`] (support and coding of one
//! matrix), a product of two weights, or a sum of weights. *Storage* on disk is a pure function of a leaf
//! (`storage`, `parts`). Both decode to exactly the same numbers.

mod affine;
mod ahead;
mod bytes;
mod codebook;
mod codes;
mod decoder;
mod footprint;
mod grid;
mod integer;
mod leaf;
mod mask;
mod parts;
mod product;
mod pruned;
mod restrict;
mod select;
mod storage;
mod values;

pub use affine::Granularity;
pub use integer::Activations;
pub(crate) use integer::{MapKernel, Windows as IntegerWindows, input_steps, range};
pub use leaf::Leaf;
pub(crate) use product::Gather;

pub(crate) use affine::{Affine, value};
pub(crate) use ahead::{Coder, Piece, Way};
pub(crate) use bytes::{Bytes, Make, OpenFile};
pub(crate) use codebook::Codebook;
pub(crate) use codes::{Codes, Packer};
pub(crate) use grid::Grid;
pub(crate) use leaf::{Block, Coding, Support};
pub(crate) use mask::Mask;
pub(crate) use parts::{MaskStorage, Part, PartData, PartKind, WeightForm, is_sane_shape};
pub(crate) use values::Values;

use crate::kernels::memory;
use crate::{DType, Error, Fault, Float, Result, Tensor};
use ndarray::{Array, Dimension};

/// A tensor of a model in its compressed form: pruned, quantized, factored, or none of these.
///
/// `[out, in]` for a matrix, `[out, in, kh, kw]` for a convolution kernel; anything with fewer than two
/// axes counts as one row. Cloning is cheap: the numbers are shared.
///
/// ```
/// use bantam::{MagnitudePruner, Tensor, Weight, WeightCompressor};
///
/// let dense = Weight::from(Tensor::new(&[2, 4], vec![1.0_f32, 0.1, -2.0, 0.0, 0.2, 3.0, 0.0, 4.0])?);
/// let pruned = MagnitudePruner::sparsity(0.5).apply(dense)?;
/// assert_eq!(pruned.sparsity(), 0.5);
/// assert_eq!(pruned.to_dense()?.as_slice(), [1.0, 0.0, -2.0, 0.0, 0.0, 3.0, 0.0, 4.0]);
/// # Ok::<(), bantam::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Weight<T: Float = f32> {
    shape: Vec<usize>,
    node: Node<T>,
    activations: Activations,
}

/// The structure of a weight.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node<T: Float> {
    Leaf(Leaf<T>),
    /// `U [rows, r]` times `V [r, cols]`.
    Product(Box<Weight<T>>, Box<Weight<T>>),
    Sum(Vec<Weight<T>>),
}

/// What has been done to a weight, in one look. As text, always in this order: "dense", or
/// "factored+pruned+quantized" without what has not been done. A weight with a codebook says its length:
/// "pruned+codebook 16".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Form {
    /// Entries have been pruned.
    pub pruned: bool,
    /// Entries are held as codes.
    pub quantized: bool,
    /// Some of these codes are places in a table of shared values; length of the longest such table.
    pub codebook: Option<usize>,
    /// The weight is held as a product (or a sum with one).
    pub factored: bool,
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let coded = self.codebook.map_or("quantized".to_owned(), |values| format!("codebook {values}"));
        let words: Vec<&str> =
            [(self.factored, "factored"), (self.pruned, "pruned"), (self.quantized, &*coded)]
                .into_iter()
                .filter_map(|(on, word)| on.then_some(word))
                .collect();
        f.pad(&if words.is_empty() { "dense".to_owned() } else { words.join("+") })
    }
}

/// The matrix `[rows, cols]` that a shape is seen as.
pub(crate) fn fold(shape: &[usize]) -> (usize, usize) {
    match shape {
        [] => (1, 1),
        [n] => (1, *n),
        [rows, rest @ ..] => (*rows, rest.iter().product()),
    }
}

/// Distance between neighbouring inputs in a row: `kh * kw` for a convolution kernel.
pub(crate) fn stride(shape: &[usize]) -> usize {
    shape.get(2..).map_or(1, |kernel| kernel.iter().product())
}

impl<T: Float> Weight<T> {
    /// A dense float weight whose values are `bytes` of type `dtype`.
    pub(crate) fn raw(shape: &[usize], dtype: DType, bytes: Bytes) -> Self {
        let (rows, cols) = fold(shape);
        Self::from_leaf(shape, Leaf::dense(rows, cols, Values::raw(dtype, bytes)))
    }

    /// A placeholder without entries.
    pub(crate) fn nothing() -> Self {
        Self::from_leaf(&[0], Leaf::dense(1, 0, Values::new(Vec::new())))
    }

    pub(crate) fn from_leaf(shape: &[usize], leaf: Leaf<T>) -> Self {
        debug_assert_eq!(fold(shape), (leaf.rows, leaf.cols));
        Self::from_node(shape, Node::Leaf(leaf))
    }

    pub(crate) fn from_node(shape: &[usize], node: Node<T>) -> Self {
        Self { shape: shape.to_vec(), node, activations: Activations::Float }
    }

    /// The product of `u [rows, r]` and `v [r, cols]` as a weight of `shape`.
    pub(crate) fn product(shape: &[usize], u: Self, v: Self) -> Self {
        Self::from_node(shape, Node::Product(Box::new(u), Box::new(v)))
    }

    /// The same values under a shape that folds to the same matrix.
    pub(crate) fn node(&self) -> &Node<T> {
        &self.node
    }

    pub(crate) fn into_node(self) -> Node<T> {
        self.node
    }

    /// Lengths of the axes: `[out, in]` for a matrix, `[out, in, kh, kw]` for a convolution kernel.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of entries of the dense tensor.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What has been done to it.
    pub fn form(&self) -> Form {
        let leaves = self.leaves();
        Form {
            pruned: leaves.iter().any(|l| l.is_pruned()),
            quantized: leaves.iter().any(|l| l.is_coded()),
            codebook: leaves.iter().filter_map(|l| l.codebook()).max(),
            factored: !matches!(self.node, Node::Leaf(_)),
        }
    }

    /// How its input is coded when a [`Network`](crate::nn::Network) runs it.
    pub fn activations(&self) -> Activations {
        self.activations
    }

    /// The same weight with its input coded as `activations` when a network runs it. For a product, this
    /// is the input of the whole; the factors have settings of their own. A fixed range that is not finite or
    /// not around 0 is an error when the weight is saved.
    pub fn with_activations(mut self, activations: Activations) -> Self {
        self.activations = activations;
        self
    }

    /// Rank of the product, if it is one (of its first product, for a sum).
    pub fn rank(&self) -> Option<usize> {
        match &self.node {
            Node::Leaf(_) => None,
            Node::Product(_, v) => Some(fold(&v.shape).0),
            Node::Sum(parts) => parts.iter().find_map(Self::rank),
        }
    }

    /// Its matrices: one, or the factors and parts it is made of, in a fixed order.
    pub fn leaves(&self) -> Vec<&Leaf<T>> {
        match &self.node {
            Node::Leaf(leaf) => vec![leaf],
            Node::Product(u, v) => [u.leaves(), v.leaves()].concat(),
            Node::Sum(parts) => parts.iter().flat_map(Self::leaves).collect(),
        }
    }

    /// Passes every leaf through `f`, in the order of [`leaves`](Self::leaves): how a technique that works
    /// on one matrix reaches every factor.
    pub fn map_leaves(self, f: &mut dyn FnMut(Leaf<T>) -> Result<Leaf<T>, Fault>) -> Result<Self, Fault> {
        let node = match self.node {
            Node::Leaf(leaf) => Node::Leaf(f(leaf)?),
            Node::Product(u, v) => Node::Product(Box::new(u.map_leaves(f)?), Box::new(v.map_leaves(f)?)),
            Node::Sum(parts) => {
                Node::Sum(parts.into_iter().map(|w| w.map_leaves(f)).collect::<Result<_, _>>()?)
            }
        };
        Ok(Self { node, ..self })
    }

    /// The tensor it stands for.
    ///
    /// # Errors
    /// [`Error::Weight`] (without a name: a weight does not know its own) when the values are in a file that
    /// cannot be read, or when the dense tensor does not fit in memory.
    pub fn to_dense(&self) -> Result<Tensor<T>> {
        let values = self.dense_values().map_err(|fault| Error::weight("", fault))?;
        Tensor::new(&self.shape, values)
    }

    pub(crate) fn dense_values(&self) -> Result<Vec<T>, Fault> {
        match &self.node {
            Node::Leaf(leaf) => leaf.to_vec(),
            Node::Product(u, v) => {
                let ((rows, rank), (_, cols)) = (fold(&u.shape), fold(&v.shape));
                let mut out = zeros(rows, cols)?;
                T::gemm(
                    [rows, rank, cols],
                    T::one(),
                    (&u.dense_values()?, false),
                    (&v.dense_values()?, false),
                    T::zero(),
                    &mut out,
                );
                Ok(out)
            }
            Node::Sum(parts) => {
                let mut out = Vec::new();
                for part in parts {
                    let values = part.dense_values()?;
                    if out.is_empty() {
                        out = values;
                    } else {
                        out.iter_mut().zip(values).for_each(|(a, b)| *a += b);
                    }
                }
                Ok(out)
            }
        }
    }

    /// Bytes that a file in the open layout spends on it, without padding. Exact: see
    /// [`Model::save`](crate::Model::save).
    pub fn stored_bytes(&self) -> usize {
        let stride = self.stride();
        match &self.node {
            Node::Leaf(leaf) => leaf.stored_bytes(stride),
            Node::Product(u, v) => u.stored_bytes() + v.stored_bytes(),
            Node::Sum(parts) => parts.iter().map(Self::stored_bytes).sum(),
        }
    }

    /// Bytes of memory that it occupies now. Values that are still in a file occupy none. Where no more than a fifth of a
    /// leaf is kept, its first product may add a byte for each kept entry, and for each row 8 bytes and two for each 512
    /// columns begun: it and later ones are faster by them.
    pub fn resident_bytes(&self) -> usize {
        self.leaves().iter().map(|l| l.resident_bytes()).sum()
    }

    /// Entries stored in its leaves, and how many of these are pruned.
    pub(crate) fn entries(&self) -> (usize, usize) {
        let leaves = self.leaves();
        let all = leaves.iter().map(|l| l.len()).sum();
        let kept: usize = leaves.iter().map(|l| l.kept()).sum();
        (all, all - kept)
    }

    /// Fraction of the entries that is pruned, from 0 to 1. For a factored weight, of the factors'
    /// entries.
    pub fn sparsity(&self) -> f64 {
        let (all, pruned) = self.entries();
        if all == 0 { 0.0 } else { pruned as f64 / all as f64 }
    }

    /// Stored bits for each entry of the dense tensor.
    pub fn bits_per_weight(&self) -> f64 {
        if self.is_empty() { 0.0 } else { self.stored_bytes() as f64 * 8.0 / self.len() as f64 }
    }

    /// The same weight with everything in memory, still compressed.
    ///
    /// # Errors
    /// [`Error::Weight`] when its file cannot be read.
    pub fn load(&self) -> Result<Self> {
        self.clone().map_leaves(&mut |leaf| leaf.load()).map_err(|fault| Error::weight("", fault))
    }

    /// `x [n, in]` times the transposed weight: `[n, out]`, computed from the compressed form.
    ///
    /// Equals the product with [`to_dense`](Self::to_dense) up to rounding; a factored weight runs as two
    /// products. The last bits of a pruned weight's product may differ between a weight in a file and the same one
    /// [loaded](Self::load).
    ///
    /// # Errors
    /// [`Error::Shape`] when `x` is not `[n, in]`; [`Error::Weight`] when its file cannot be read.
    pub fn matmul(&self, x: &Tensor<T>) -> Result<Tensor<T>> {
        self.matmul_with(x, Activations::Float)
    }

    /// As [`matmul`](Self::matmul), with the input coded as `activations`; see [`Activations`].
    ///
    /// # Errors
    /// As [`matmul`](Self::matmul), and [`Error::Weight`] when integers are asked for and the weight is not
    /// quantized or an entry of `x` is NaN or infinite ([`Fault::Input`] with its place).
    pub fn matmul_with(&self, x: &Tensor<T>, activations: Activations) -> Result<Tensor<T>> {
        let (rows, cols) = fold(&self.shape);
        let n = match x.shape() {
            [n, c] if *c == cols => *n,
            got => return Err(Error::shape("input of matmul", &[0, cols], got)),
        };
        let y = self
            .clone()
            .with_activations(activations)
            .product_with(x.as_slice(), n, 1)
            .map_err(|fault| Error::weight("", fault))?;
        Tensor::new(&[n, rows], y)
    }

    /// See [`stride`].
    pub(crate) fn stride(&self) -> usize {
        stride(&self.shape)
    }
}

/// Zeros for a matrix whose size follows from a file or from a user: too large is an error, not an abort.
pub(crate) fn zeros<T: Float>(rows: usize, cols: usize) -> Result<Vec<T>, Fault> {
    let zeros = rows.checked_mul(cols).and_then(memory::zeroed);
    zeros.ok_or(Fault::Form("the dense tensor does not fit in memory"))
}

/// Room for the maps of `n` samples, of `size` values each.
pub(crate) fn room_for_maps<T: Float>(n: usize, size: usize) -> Result<Vec<T>, Fault> {
    let room = n.checked_mul(size).and_then(|n| memory::reserve(n).ok());
    room.ok_or(Fault::Form("the maps do not fit in memory"))
}

impl<T: Float> From<Tensor<T>> for Weight<T> {
    fn from(tensor: Tensor<T>) -> Self {
        let shape = tensor.shape().to_vec();
        let (rows, cols) = fold(&shape);
        Self::from_leaf(&shape, Leaf::dense(rows, cols, Values::new(tensor.into_vec())))
    }
}

impl<T: Float, D: Dimension> From<Array<T, D>> for Weight<T> {
    fn from(array: Array<T, D>) -> Self {
        Tensor::from(array).into()
    }
}
