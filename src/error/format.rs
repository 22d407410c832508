use super::Error;
use std::path::{Path, PathBuf};

/// A file that is not what it should be: truncated, lying, or made for something else.
#[derive(Debug)]
pub struct FormatError {
    path: Option<PathBuf>,
    kind: FormatKind,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum FormatKind {
    #[error("not a safetensors file: {0}")]
    NotSafetensors(&'static str),
    #[error("header: {0}")]
    Header(String),
    #[error("header of {got} bytes, but the file has {have}")]
    HeaderLength { got: u64, have: u64 },
    #[error("the header describes {described} bytes of data, but the file has {have}")]
    Length { described: u64, have: u64 },
    #[error("tensor `{name}`: {why}")]
    Tensor { name: String, why: &'static str },
    #[error("tensor `{name}`: expected {expected}, got {got}")]
    TensorType { name: String, expected: String, got: String },
    #[error("two tensors would be called `{0}`")]
    Duplicate(String),
    #[error("{what} is {got}, more than the limit of {limit}")]
    Limit { what: &'static str, limit: u64, got: u64 },
    #[error("description of the compressed model: {0}")]
    Description(String),
    #[error("written by a newer version of bantam (layout {0})")]
    Newer(u32),
    #[error("archive: {0}")]
    Archive(&'static str),
    #[error("recipe: {0}")]
    Recipe(String),
    #[error("state of a training: {0}")]
    Training(String),
}

impl FormatError {
    pub(crate) fn new(kind: FormatKind) -> Self {
        Self { path: None, kind }
    }

    /// The same error with the file it is about.
    pub(crate) fn at(mut self, path: &Path) -> Self {
        self.path.get_or_insert_with(|| path.to_path_buf());
        self
    }

    /// The file, where there is one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Whether the file has more of something than bantam is willing to read.
    pub fn is_limit(&self) -> bool {
        matches!(self.kind, FormatKind::Limit { .. })
    }
}

impl std::fmt::Display for FormatError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}: {}", path.display(), self.kind),
            None => write!(f, "{}", self.kind),
        }
    }
}

impl std::error::Error for FormatError {}

impl From<FormatKind> for Error {
    fn from(kind: FormatKind) -> Self {
        Self::Format(FormatError::new(kind))
    }
}
