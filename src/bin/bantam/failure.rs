//! What can go wrong, as exit codes: the numbers are listed in `--help`.

use bantam::{Error, Fault};
use std::fmt;
use std::io;
use std::path::Path;

/// An error that ends the command.
#[derive(Debug)]
pub enum Failure {
    /// The reader of standard output is gone.
    Closed,
    /// The library's, with the file it is about where the error does not say so itself.
    Bantam(Option<String>, Box<Error>),
    /// Something that was asked for makes no sense.
    Refused(String),
    /// Reading or writing failed.
    Io(String, io::Error),
    /// A signal of this number came.
    Interrupted(u8),
}

impl Failure {
    /// An error of reading or writing `path`.
    pub fn io(path: &Path, error: io::Error) -> Self {
        Self::Io(path.display().to_string(), error)
    }

    /// An error that does not name the file it is about.
    pub fn about(path: &Path, error: Error) -> Self {
        Self::Bantam(Some(path.display().to_string()), error.into())
    }

    pub fn code(&self) -> u8 {
        match self {
            Self::Closed => 0,
            Self::Refused(_) => 4,
            Self::Io(..) => 5,
            Self::Interrupted(signal) => 128 + signal,
            Self::Bantam(_, error) => code(error),
        }
    }
}

fn code(error: &Error) -> u8 {
    match error {
        Error::Format(_) | Error::Graph(_) | Error::Shape { .. } => 3,
        Error::Setting { .. } | Error::Plan { .. } | Error::Left { .. } | Error::Unsupported { .. } => 4,
        Error::Io { .. } => 5,
        Error::Weight { fault, .. } => match fault {
            // What a file says of a weight turned out to be wrong when it was read.
            Fault::Form(_) | Fault::Shape { .. } => 3,
            Fault::Refused(_) | Fault::Unsupported { .. } => 4,
            Fault::Io { .. } => 5,
            _ => 6,
        },
        _ => 6,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the reader of the output is gone"),
            Self::Bantam(None, error) => write!(f, "{error}"),
            Self::Bantam(Some(path), error) => write!(f, "{path}: {error}"),
            Self::Refused(why) => f.write_str(why),
            Self::Interrupted(_) => f.write_str("interrupted; nothing was written"),
            Self::Io(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Bantam(None, error.into())
    }
}
