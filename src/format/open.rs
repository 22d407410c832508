//! The open layout: an array for each part of a weight, readable by any safetensors reader.
//!
//! Arrays that bantam makes are padded with zeros to a multiple of 8 bytes and come first, in the order of
//! the model; arrays whose length is not such a multiple and that must not be touched come last, widest
//! type first. So every array is aligned to its type, as readers that map files into memory need.

use super::description::{Description, EntryForm, KEY, plain};
use super::safetensors::{Header, Writer, check_name, header_len};
use crate::model::{Content, Kind, Model, Outline, WeightInfo};
use crate::nn::Graph;
use crate::weight::{MaskStorage, Part, PartData};
use crate::{Float, Result};
use std::collections::BTreeMap;
use std::io::{Seek, Write};

pub(super) fn read<T: Float>(header: Header) -> Result<Model<T>> {
    let Header { mut metadata, tensors } = header;
    let mut model = match metadata.remove(KEY) {
        Some(text) => Description::from_json(text.as_bytes())?.build(tensors)?,
        None => {
            let mut model = Model::default();
            for array in tensors {
                let name = array.name.clone();
                let (shape, content) = plain(array);
                let kind = Kind::guess(&name, &shape);
                model.push_content(WeightInfo::new(name, kind, &shape), content)?;
            }
            model
        }
    };
    *model.metadata_mut() = metadata;
    Ok(model)
}

/// Whether an array is padded: those of more than one axis, and plain tensors, keep their shapes.
fn padded<T: Float>(part: &Part<T>, described: bool) -> Part<T> {
    let mut part = part.clone();
    if described && part.shape.len() == 1 {
        part.shape = vec![part.len().next_multiple_of(8) * 8 / part.dtype.bits()];
    }
    part
}

/// Bytes of an array in the file.
fn file_len<T: Float>(part: &Part<T>) -> usize {
    part.shape.iter().product::<usize>() * part.dtype.bits() / 8
}

fn is_aligned<T: Float>(part: &Part<T>) -> bool {
    file_len(part).is_multiple_of(8)
}

/// A model's arrays and description, entry by entry.
fn entry<T: Float>(info: &WeightInfo, content: &Content<T>) -> Result<(EntryForm, Vec<Part<T>>)> {
    check_name(&info.name)?;
    Ok(match content {
        Content::Carried(dtype, bytes) => {
            let part = Part::bytes(info.name.to_string(), *dtype, info.shape.clone(), bytes.clone());
            (EntryForm::new(info, None), vec![part])
        }
        Content::Weight(weight) => {
            let masks = MaskStorage::Smallest;
            let (form, parts) =
                weight.to_parts(&info.name, masks).map_err(|f| super::fault(&info.name, f))?;
            let form = (!weight.is_plain()).then_some(form);
            let parts = parts.iter().map(|p| padded(p, form.is_some())).collect();
            (EntryForm::new(info, form), parts)
        }
    })
}

pub(super) fn write<T: Float>(model: &Model<T>, out: &mut (impl Write + Seek + Send)) -> Result<()> {
    let (metadata, graph) = (model.metadata().clone(), model.graph().cloned());
    let mut stream = Stream { collect: true, ..Stream::new(out, model.header_space(), metadata, graph) };
    for (info, content) in model.contents() {
        stream.add(info, content)?;
    }
    stream.finish()
}

/// A file in the open layout that is written entry by entry.
pub(crate) struct Stream<T: Float, W: Write + Seek + Send> {
    out: Target<W>,
    entries: Vec<EntryForm>,
    /// Arrays that are written at the end.
    waiting: Vec<Part<T>>,
    metadata: BTreeMap<String, String>,
    graph: Option<Graph>,
    /// Bytes that the header gets at least.
    space: usize,
    /// Whether all arrays wait for the end, so that the header can have just the size it needs.
    collect: bool,
    /// Whether the arrays lie in the order of the entries.
    in_order: bool,
    /// The latest array, where it has no bytes.
    empty: Option<String>,
}

/// Nothing is written before the first array, when the space for the header is known.
enum Target<W> {
    Blank(W),
    Begun(Writer<W>),
    Broken,
}

impl<T: Float, W: Write + Seek + Send> Stream<T, W> {
    /// `space` bytes are reserved for the header; with 0, the header gets what it needs in the end.
    pub fn new(out: W, space: usize, metadata: BTreeMap<String, String>, graph: Option<Graph>) -> Self {
        Self {
            out: Target::Blank(out),
            entries: Vec::new(),
            waiting: Vec::new(),
            metadata,
            graph,
            space,
            collect: space == 0,
            in_order: true,
            empty: None,
        }
    }

    pub fn add(&mut self, info: &WeightInfo, content: &Content<T>) -> Result<()> {
        let (form, parts) = entry(info, content)?;
        self.entries.push(form);
        for part in parts {
            if self.collect || !is_aligned(&part) {
                self.waiting.push(part);
            } else {
                // Something that waits will come after this one.
                self.in_order &= self.waiting.is_empty();
                self.follow(&part);
                self.put(&part)?;
            }
        }
        Ok(())
    }

    /// Arrays without bytes lie at one place, where a reader takes them by name.
    fn follow(&mut self, part: &Part<T>) {
        let empty = (part.len() == 0).then(|| part.name.clone());
        if let (Some(before), Some(name)) = (&self.empty, &empty) {
            self.in_order &= before < name;
        }
        self.empty = empty;
    }

    fn put(&mut self, part: &Part<T>) -> Result<()> {
        let space = self.space;
        match std::mem::replace(&mut self.out, Target::Broken) {
            Target::Blank(out) => self.out = Target::Begun(Writer::new(out, space)?),
            begun => self.out = begun,
        }
        let Target::Begun(writer) = &mut self.out else { return Err(broken()) };
        put(writer, part)
    }

    pub fn finish(mut self) -> Result<()> {
        let mut last = std::mem::take(&mut self.waiting);
        let before: Vec<String> = last.iter().map(|p| p.name.clone()).collect();
        // Stable: of equals, in the order of the entries.
        last.sort_by_key(|p| if is_aligned(p) { 0 } else { usize::MAX - p.dtype.bits() });
        self.in_order &= before.iter().eq(last.iter().map(|p| &p.name));
        last.iter().for_each(|part| self.follow(part));
        let description = Description::new(std::mem::take(&mut self.entries), self.graph.take());
        if !description.is_needless(self.in_order) {
            self.metadata.insert(KEY.to_owned(), description.to_json()?);
        }
        if self.collect {
            let arrays = last.iter().map(|p| (p.name.as_str(), p.dtype, p.shape.as_slice(), file_len(p)));
            self.space = self.space.max(header_len(&self.metadata, arrays)?);
        }
        for part in &last {
            self.put(part)?;
        }
        let writer = match self.out {
            Target::Begun(writer) => writer,
            Target::Blank(out) => Writer::new(out, self.space)?,
            Target::Broken => return Err(broken()),
        };
        writer.finish(&self.metadata)
    }
}

/// After a failure, the place in the file is not known.
fn broken() -> crate::Error {
    crate::Error::io(std::path::Path::new(""), std::io::Error::other("an earlier write has failed"))
}

fn put<T: Float, W: Write + Seek + Send>(writer: &mut Writer<W>, part: &Part<T>) -> Result<()> {
    let len = file_len(part);
    writer.add(&part.name, part.dtype, &part.shape, len, |out| {
        let mut io = |bytes: &[u8]| out(bytes).map_err(Interrupted::Out);
        match &part.data {
            PartData::Values(values) => values.for_each_stored_chunk(&mut io),
            PartData::Bytes(bytes) => bytes.for_each_chunk(&mut io),
        }
        .map_err(|e| match e {
            Interrupted::Out(e) => e,
            Interrupted::In(fault) => super::fault(&part.name, fault),
        })?;
        out(&vec![0; len - part.len()])
    })
}

/// Copying stops because of either side.
enum Interrupted {
    Out(crate::Error),
    In(crate::Fault),
}

impl From<crate::Fault> for Interrupted {
    fn from(fault: crate::Fault) -> Self {
        Self::In(fault)
    }
}

/// Models of at least this size are written as they come, with a header of reserved size; smaller ones are
/// collected, so that their header has just the size it needs.
const STREAMED: usize = 64 << 20;

/// Header bytes that are enough for whatever a pipeline makes of this outline and whatever the values are;
/// 0 for a model so small that it is collected. A function of what is known before any work, so that a
/// streamed file and a saved one are the same.
pub(crate) fn header_bound<T: Float>(outline: &Outline, model: &Model<T>) -> usize {
    let dense: usize = model.contents().map(|(info, _)| info.shape.iter().product::<usize>() * 4).sum();
    if dense < STREAMED {
        return 0;
    }
    // Text in the description is escaped twice: as JSON, and as a string of the header.
    let text = |s: &str| {
        let once = serde_json::to_string(s).unwrap_or_default();
        serde_json::to_string(&once).map_or(0, |twice| twice.len())
    };
    let metadata: usize = model.metadata().iter().map(|(k, v)| text(k) + text(v) + 4).sum();
    let graph = model.graph().and_then(|g| serde_json::to_string(g).ok()).map_or(0, |g| text(&g));
    let axes = |info: &WeightInfo| AXIS * (info.shape.len() + 2);
    let carried: usize = model
        .contents()
        .filter(|(_, content)| matches!(content, Content::Carried(..)))
        .map(|(info, _)| 2 * text(&info.name) + axes(info) + ARRAY + ENTRY)
        .sum();
    let weights: usize = outline
        .weights()
        .iter()
        .map(|w| {
            // A sum of a product and a residual has three leaves; a leaf has up to five arrays.
            let leaves = if w.form.factored { 3 } else { 1 };
            let name = text(&w.info.name);
            leaves * (5 * (name + ARRAY) + LEAF + axes(&w.info)) + name + ENTRY
        })
        .sum();
    metadata + graph + weights + carried + ENTRY
}

/// Most that the header says of one array besides its name: type, shape of one axis, offsets, suffix.
const ARRAY: usize = 150;
/// Digits of an axis, twice: in the header and in the description.
const AXIS: usize = 42;
/// Most that the description says of one leaf, quotes escaped.
const LEAF: usize = 450;
/// Most that the description says of one entry besides.
const ENTRY: usize = 150;
