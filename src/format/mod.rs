//! Model files. One file a format, and what they share: hostile input is met with errors, never with
//! panics or unbounded allocation; a failed save leaves the old file as it was.

mod archive;
mod description;
mod entropy;
mod file;
mod huffman;
mod open;
mod safetensors;
mod store;

pub(crate) use file::AtomicFile;
pub use huffman::HuffmanSize;
pub(crate) use open::{Stream, header_bound};
pub(crate) use store::{Array, Container, Hash, Store, bad};

use crate::error::FormatKind;
use crate::weight::{Bytes, OpenFile};
use crate::{Error, Float, FormatError, Model, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// The two forms of a saved model. Both are valid safetensors files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Layout {
    /// An array for each part (`fc1.weight.codes`, `fc1.weight.scale`, ..), which any reader of
    /// safetensors can load. Read by position, when needed. For models of any size.
    #[default]
    Open,
    /// Everything in one entropy-coded array: the smallest file. Read and written as a whole. For small
    /// models, where names and headers count.
    Archive,
}

impl Layout {
    /// The layout of a model file; safetensors files that bantam did not write are `Open`. Reads the header
    /// only.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read, [`Error::Format`] when it is not a safetensors file.
    pub fn of(path: impl AsRef<Path>) -> Result<Self> {
        with_file(path.as_ref(), |bytes| {
            let header = safetensors::Header::read(bytes)?;
            Ok(if archive::is_archive(&header) { Self::Archive } else { Self::Open })
        })
    }
}

/// Opens a model file.
pub(crate) fn open<T: Float>(path: &Path) -> Result<Model<T>> {
    with_file(path, read)
}

/// Calls `f` with the bytes of a file, unread; errors get the file's name.
fn with_file<R>(path: &Path, f: impl FnOnce(&Bytes) -> Result<R>) -> Result<R> {
    let io = |e| Error::io(path, e);
    // Looked at before it is opened: opening a pipe would wait for its other end.
    check_regular(&std::fs::metadata(path).map_err(io)?).map_err(io)?;
    let file = File::open(path).map_err(io)?;
    let len = file.metadata().map_err(io)?.len();
    let file = Arc::new(OpenFile::new(file, path));
    let at = |error: Error| match error {
        Error::Format(format) => Error::Format(format.at(path)),
        other => other,
    };
    let len = usize::try_from(len).map_err(|_| at(too_long(len)))?;
    f(&Bytes::from_file(&file, 0, len)).map_err(at)
}

/// Models are read by position and replaced as a whole, which only regular files can be.
fn check_regular(metadata: &std::fs::Metadata) -> std::io::Result<()> {
    use std::io::ErrorKind;
    match metadata.file_type() {
        t if t.is_file() => Ok(()),
        t if t.is_dir() => Err(ErrorKind::IsADirectory.into()),
        _ => Err(std::io::Error::new(ErrorKind::InvalidInput, "not a regular file")),
    }
}

fn too_long(got: u64) -> Error {
    FormatKind::Limit { what: "the file's length", limit: usize::MAX as u64, got }.into()
}

/// A model from bytes in memory.
pub(crate) fn from_bytes<T: Float>(bytes: Vec<u8>) -> Result<Model<T>> {
    read(&bytes.into())
}

fn read<T: Float>(bytes: &Bytes) -> Result<Model<T>> {
    let file = safetensors::Header::read(bytes)?;
    if archive::is_archive(&file) { archive::read(&file) } else { open::read(file) }
}

/// What would be written and then refused on opening.
pub(crate) fn check_savable<T: Float>(model: &Model<T>) -> Result<()> {
    check_metadata(model.metadata())?;
    let Some(graph) = model.graph() else { return Ok(()) };
    graph.check(&|name| model.weight(name).map(|w| w.shape().to_vec()))
}

/// The crate's own key in the metadata cannot be anybody else's.
pub(crate) fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<()> {
    match metadata.contains_key(description::KEY) {
        true => {
            Err(FormatKind::Header(format!("the metadata key `{}` is bantam's own", description::KEY)).into())
        }
        false => Ok(()),
    }
}

/// Saves a model: the file appears whole or not at all.
pub(crate) fn save<T: Float>(model: &Model<T>, path: &Path, layout: Layout) -> Result<()> {
    check_savable(model)?;
    let mut file = AtomicFile::create(path)?;
    match layout {
        Layout::Open => open::write(model, &mut file),
        Layout::Archive => archive::write(model, &mut file),
    }
    .map_err(|e| name_file(e, path))?;
    file.commit()
}

/// An I/O error of a writer that does not know its file.
pub(crate) fn name_file(error: Error, path: &Path) -> Error {
    match error {
        Error::Io { path: unnamed, source } if unnamed.as_os_str().is_empty() => Error::io(path, source),
        other => other,
    }
}

/// The bytes of a saved model.
pub(crate) fn to_bytes<T: Float>(model: &Model<T>, layout: Layout) -> Result<Vec<u8>> {
    check_savable(model)?;
    let mut bytes = std::io::Cursor::new(Vec::new());
    match layout {
        Layout::Open => open::write(model, &mut bytes)?,
        Layout::Archive => archive::write(model, &mut bytes)?,
    }
    Ok(bytes.into_inner())
}

/// A fault in the bytes of a model that is being opened.
fn fault(name: &str, fault: crate::Fault) -> Error {
    match fault {
        crate::Fault::Io { path, source } => {
            Error::Io { path, source: std::io::Error::new(source.kind(), source.to_string()) }
        }
        crate::Fault::Form(why) => FormatError::new(FormatKind::Tensor { name: name.to_owned(), why }).into(),
        other => Error::weight(name, other),
    }
}
