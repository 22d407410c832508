//! [`Model`]: the named tensors of a network in order, with its graph if it has one.

mod info;
mod outline;

pub(crate) use info::select_setters;
pub use info::{Kind, Select, WeightInfo};
pub use outline::{Outline, OutlineWeight};

use crate::format::{self, Layout};
use crate::nn::{Graph, Network, fold_batch_norm};
use crate::weight::Bytes;
use crate::{DType, Error, Float, GraphError, Result, Tensor, Weight};
use ndarray::{Array, Dimension};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

/// The named tensors of a network in order, compressed or not, with its graph if it has one.
///
/// Cloning is cheap: tensors are shared, and copied when they are changed. Tensors opened from a file are
/// read when they are needed.
///
/// ```
/// use bantam::{Model, Tensor};
///
/// let model = Model::from_tensors([("fc.weight", Tensor::new(&[2, 2], vec![1.0_f32, 2.0, 3.0, 4.0])?)])?;
/// let again = Model::from_bytes(model.to_bytes()?)?;
/// assert_eq!(model, again);
/// # Ok::<(), bantam::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Model<T: Float = f32> {
    entries: Vec<Entry<T>>,
    index: HashMap<Arc<str>, usize>,
    graph: Option<Arc<Graph>>,
    metadata: BTreeMap<String, String>,
    /// Bytes that a file's header gets at least: a pipeline sets it, so that streamed and saved files are
    /// the same. Not part of the model's value.
    header_space: usize,
}

#[derive(Clone, Debug, PartialEq)]
struct Entry<T: Float> {
    info: WeightInfo,
    content: Content<T>,
}

/// A weight, or a tensor of a type that bantam does not compute on, carried along as it is.
#[derive(Clone, Debug)]
pub(crate) enum Content<T: Float> {
    Weight(Arc<Weight<T>>),
    Carried(DType, Bytes),
}

/// A tensor of a type that bantam does not compute on: see [`Model::carried`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Carried<'a> {
    /// Name, kind (a guess) and shape.
    pub info: &'a WeightInfo,
    /// The type of its numbers.
    pub dtype: DType,
    bytes: &'a Bytes,
}

impl Carried<'_> {
    /// Bytes that a file spends on it.
    pub fn stored_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Its numbers as a file holds them: row-major, little-endian.
    ///
    /// # Errors
    /// [`Error::Weight`] when its file cannot be read.
    pub fn to_vec(&self) -> Result<Vec<u8>> {
        self.bytes.read(0, self.bytes.len()).map_err(|fault| Error::weight(&self.info.name, fault))
    }
}

impl<T: Float> PartialEq for Content<T> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Weight(a), Self::Weight(b)) => Arc::ptr_eq(a, b) || a == b,
            (Self::Carried(a, x), Self::Carried(b, y)) => {
                a == b
                    && x.len() == y.len()
                    && matches!((x.read(0, x.len()), y.read(0, y.len())), (Ok(x), Ok(y)) if x == y)
            }
            _ => false,
        }
    }
}

impl<T: Float> PartialEq for Model<T> {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries && self.graph == other.graph && self.metadata == other.metadata
    }
}

impl<T: Float> Default for Model<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            index: HashMap::new(),
            graph: None,
            metadata: BTreeMap::new(),
            header_space: 0,
        }
    }
}

impl Model<f32> {
    /// Opens a safetensors file: one of anybody's, or a compressed model in either layout. Only the
    /// header is read now.
    ///
    /// F16, BF16, F32 and F64 tensors become weights; the others are carried along.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::Format`] when it is not what it should be.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_as(path)
    }

    /// As [`open`](Self::open), from bytes in memory.
    ///
    /// # Errors
    /// [`Error::Format`] when they are not what they should be.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Result<Self> {
        Self::from_bytes_as(bytes)
    }
}

impl<T: Float> Model<T> {
    /// As [`open`](Model::open), computing in `T`: `Model::<f64>::open_as(path)`.
    ///
    /// # Errors
    /// As [`open`](Model::open).
    pub fn open_as(path: impl AsRef<Path>) -> Result<Self> {
        format::open(path.as_ref())
    }

    /// As [`from_bytes`](Model::from_bytes), computing in `T`.
    ///
    /// # Errors
    /// As [`from_bytes`](Model::from_bytes).
    pub fn from_bytes_as(bytes: impl Into<Vec<u8>>) -> Result<Self> {
        format::from_bytes(bytes.into())
    }

    /// A model of dense tensors. Kinds are guessed from names and shapes; see [`with_graph`](Self::with_graph).
    ///
    /// # Errors
    /// [`Error::Format`] when two have the same name.
    pub fn from_tensors<N: Into<String>>(tensors: impl IntoIterator<Item = (N, Tensor<T>)>) -> Result<Self> {
        let mut model = Self::default();
        for (name, tensor) in tensors {
            let name: String = name.into();
            let kind = Kind::guess(&name, tensor.shape());
            model.push(&name, kind, tensor.into())?;
        }
        Ok(model)
    }

    /// Adds a weight at the end.
    ///
    /// # Errors
    /// [`Error::Format`] when the name is taken.
    pub fn push(&mut self, name: &str, kind: Kind, weight: Weight<T>) -> Result<()> {
        let info = WeightInfo::new(name, kind, weight.shape());
        self.push_content(info, Content::Weight(Arc::new(weight)))
    }

    pub(crate) fn push_content(&mut self, info: WeightInfo, content: Content<T>) -> Result<()> {
        let place = self.entries.len();
        if self.index.contains_key(&info.name) {
            return Err(crate::error::FormatKind::Duplicate(info.name.to_string()).into());
        }
        self.index.insert(Arc::clone(&info.name), place);
        self.entries.push(Entry { info, content });
        Ok(())
    }

    /// Says which network the weights make. Kinds of weights follow the graph from here on.
    ///
    /// # Errors
    /// [`Error::Graph`] and [`Error::Shape`] when the graph names weights that are missing or do not fit.
    pub fn with_graph(mut self, graph: Graph) -> Result<Self> {
        self.set_graph(graph)?;
        Ok(self)
    }

    pub(crate) fn set_graph(&mut self, graph: Graph) -> Result<()> {
        graph.check(&|name| self.weight(name).map(|w| w.shape().to_vec()))?;
        for (name, role) in graph.weights() {
            if let Some(i) = self.index.get(name) {
                self.entries[*i].info.kind = Kind::of(role);
            }
        }
        self.graph = Some(Arc::new(graph));
        Ok(())
    }

    /// The network's graph, if the model has one.
    pub fn graph(&self) -> Option<&Graph> {
        self.graph.as_deref()
    }

    /// The executable network: it runs from the compressed weights, which it shares with the model where they
    /// are in memory. Of a model that was opened from a file it loads a copy, a new one with each call: call
    /// this once and clone the network, whose clones share everything.
    ///
    /// # Errors
    /// [`Error::Graph`] when the model has no graph; [`Error::Weight`] when the file of a weight cannot be
    /// read.
    pub fn network(&self) -> Result<Network<T>> {
        let graph = self.graph.as_ref().ok_or(GraphError::Missing)?;
        Network::bind(graph, &|name| self.shared(name))
    }

    /// The same network with batch norms folded into the convolutions and linear layers before them: fewer
    /// weights, one pass less. To be done before compressing, since the folded weights are dense; batch norms
    /// that cannot be folded stay.
    ///
    /// A batch norm works on axis 1, a linear layer on the last axis. So it is folded into a linear layer only
    /// where the graph shows that there are two axes: after [`Graph::flatten`] or
    /// [`Graph::global_average_pool`], with any layers in between that leave the number of axes. A network
    /// whose input is `[n, features]` may begin with `flatten`, which changes nothing there.
    ///
    /// # Errors
    /// [`Error::Graph`] when the model has no graph; [`Error::Weight`] when a file cannot be read or a
    /// variance is not positive.
    pub fn fold_batch_norms(&self) -> Result<Self> {
        let graph = self.graph().ok_or(GraphError::Missing)?;
        let (folded, mut changed) = fold_batch_norm(graph, &|name| self.shared(name))?;
        let mut model = Self { metadata: self.metadata.clone(), ..Self::default() };
        let was_used = |name: &str| graph.weights().any(|(n, _)| n == name);
        let is_used = |name: &str| folded.weights().any(|(n, _)| n == name);
        for entry in &self.entries {
            let name = &entry.info.name;
            match changed.iter().position(|(n, _)| **n == **name) {
                Some(i) => model.push(name, entry.info.kind, changed.swap_remove(i).1)?,
                None if was_used(name) && !is_used(name) => {}
                None => model.push_content(entry.info.clone(), entry.content.clone())?,
            }
        }
        for (name, weight) in changed {
            model.push(&name, Kind::Bias, weight)?;
        }
        model.with_graph(folded)
    }

    /// Number of tensors, those carried along included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has no tensors.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Names of all tensors, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|e| &*e.info.name)
    }

    /// The weights, in order, by name.
    pub fn weights(&self) -> impl Iterator<Item = (&str, &Weight<T>)> {
        self.entries().map(|(info, weight)| (&*info.name, weight))
    }

    /// The weights, in order, with all that is known of them.
    pub fn entries(&self) -> impl Iterator<Item = (&WeightInfo, &Weight<T>)> {
        self.entries.iter().filter_map(|e| match &e.content {
            Content::Weight(weight) => Some((&e.info, &**weight)),
            Content::Carried(..) => None,
        })
    }

    /// The tensors that are not weights, in order: of types that bantam does not compute on, carried along
    /// as they are.
    pub fn carried(&self) -> impl Iterator<Item = Carried<'_>> {
        self.entries.iter().filter_map(|e| match &e.content {
            Content::Weight(_) => None,
            Content::Carried(dtype, bytes) => Some(Carried { info: &e.info, dtype: *dtype, bytes }),
        })
    }

    pub(crate) fn contents(&self) -> impl Iterator<Item = (&WeightInfo, &Content<T>)> {
        self.entries.iter().map(|e| (&e.info, &e.content))
    }

    pub(crate) fn contents_mut(&mut self) -> impl Iterator<Item = (&mut WeightInfo, &mut Content<T>)> {
        self.entries.iter_mut().map(|e| (&mut e.info, &mut e.content))
    }

    /// Reads the values that steps have chosen, but left in their file: whoever runs a weight would do it with each
    /// product.
    pub(crate) fn gather(&mut self) -> Result<()> {
        for (info, content) in self.contents_mut() {
            if let Content::Weight(weight) = content
                && weight.leaves().iter().any(|leaf| leaf.is_put_off())
            {
                let all = Weight::clone(weight).map_leaves(&mut |leaf| leaf.gathered());
                *weight = Arc::new(all.map_err(|fault| Error::weight(&info.name, fault))?);
            }
        }
        Ok(())
    }

    /// The weight of that name.
    pub fn weight(&self, name: &str) -> Option<&Weight<T>> {
        match &self.entries[*self.index.get(name)?].content {
            Content::Weight(weight) => Some(weight),
            Content::Carried(..) => None,
        }
    }

    pub(crate) fn shared(&self, name: &str) -> Option<Arc<Weight<T>>> {
        match &self.entries[*self.index.get(name)?].content {
            Content::Weight(weight) => Some(Arc::clone(weight)),
            Content::Carried(..) => None,
        }
    }

    /// Puts another weight in the place of the one called `name`.
    ///
    /// # Errors
    /// [`Error::Graph`] when there is no such weight.
    pub fn set(&mut self, name: &str, weight: Weight<T>) -> Result<()> {
        let missing = || Error::Graph(GraphError::NoWeight(name.to_owned()));
        let entry = &mut self.entries[*self.index.get(name).ok_or_else(missing)?];
        let Content::Weight(old) = &mut entry.content else { return Err(missing()) };
        entry.info.shape = weight.shape().to_vec();
        *old = Arc::new(weight);
        Ok(())
    }

    /// Free text beside the tensors, as safetensors' `__metadata__` holds it.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The same, to be changed. The key `bantam` is the crate's own: a model that has it cannot be saved.
    pub fn metadata_mut(&mut self) -> &mut BTreeMap<String, String> {
        &mut self.metadata
    }

    pub(crate) fn header_space(&self) -> usize {
        self.header_space
    }

    pub(crate) fn reserve_header(&mut self, bytes: usize) {
        self.header_space = bytes;
    }

    /// Bytes that a file in the open layout spends on its tensors: see [`Weight::stored_bytes`].
    pub fn stored_bytes(&self) -> usize {
        self.entries
            .iter()
            .map(|e| match &e.content {
                Content::Weight(weight) => weight.stored_bytes(),
                Content::Carried(_, bytes) => bytes.len(),
            })
            .sum()
    }

    /// Saves in the open layout, safely: the file appears whole or not at all, and an existing one stays
    /// as it was until then.
    ///
    /// The file is [`stored_bytes`](Self::stored_bytes) plus its header and padding, at most 7 bytes an
    /// array.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written, [`Error::Format`] when two arrays would have the same name or
    /// the metadata has the key `bantam`,
    /// [`Error::Graph`] and [`Error::Shape`] when the weights do not fit the model's graph any more,
    /// [`Error::Unsupported`] without the feature `files`.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.save_with(path, Layout::Open)
    }

    /// As [`save`](Self::save), in the given layout.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn save_with(&self, path: impl AsRef<Path>, layout: Layout) -> Result<()> {
        format::save(self, path.as_ref(), layout)
    }

    /// The bytes that [`save`](Self::save) would write.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self.to_bytes_with(Layout::Open)
    }

    /// The bytes that [`save_with`](Self::save_with) would write.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn to_bytes_with(&self, layout: Layout) -> Result<Vec<u8>> {
        format::to_bytes(self, layout)
    }
}

impl<T: Float> From<Weight<T>> for Model<T> {
    fn from(weight: Weight<T>) -> Self {
        let info = WeightInfo::new("weight", Kind::Lone, weight.shape());
        let mut model = Self::default();
        model.index.insert(Arc::clone(&info.name), 0);
        model.entries.push(Entry { info, content: Content::Weight(Arc::new(weight)) });
        model
    }
}

impl<T: Float> From<Tensor<T>> for Model<T> {
    fn from(tensor: Tensor<T>) -> Self {
        Weight::from(tensor).into()
    }
}

impl<T: Float, D: Dimension> From<Array<T, D>> for Model<T> {
    fn from(array: Array<T, D>) -> Self {
        Tensor::from(array).into()
    }
}

impl<T: Float> From<&Model<T>> for Model<T> {
    fn from(model: &Model<T>) -> Self {
        model.clone()
    }
}
