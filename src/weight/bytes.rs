//! [`Bytes`]: bytes that are in memory, or still in an open file.

use crate::Fault;
use crate::kernels::memory;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes on the heap, or a range of an open file that is read when asked for. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Bytes {
    source: Source,
    start: u64,
    len: usize,
}

#[derive(Clone)]
enum Source {
    Heap(Arc<Vec<u8>>),
    File(Arc<OpenFile>),
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = if self.heap().is_some() { "in memory" } else { "in a file" };
        write!(f, "[{} bytes {place}]", self.len)
    }
}

impl Bytes {
    pub fn from_file(file: &Arc<OpenFile>, start: u64, len: usize) -> Self {
        Self { source: Source::File(Arc::clone(file)), start, len }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// A part of these bytes. `start + len` is at most `self.len()`.
    pub fn slice(&self, start: usize, len: usize) -> Self {
        debug_assert!(start + len <= self.len);
        Self { source: self.source.clone(), start: self.start + start as u64, len }
    }

    /// Fills `out` with the bytes from `at` on.
    pub fn read_into(&self, at: usize, out: &mut [u8]) -> Result<(), Fault> {
        debug_assert!(at + out.len() <= self.len);
        match &self.source {
            Source::Heap(bytes) => {
                let start = self.start as usize + at;
                out.copy_from_slice(&bytes[start..start + out.len()]);
                Ok(())
            }
            Source::File(file) => file.read_exact_at(out, self.start + at as u64),
        }
    }

    /// Calls `f` with `len` bytes from `at` on, read into memory that is used again, at a multiple of 64. It may
    /// change them.
    pub fn with<R>(&self, at: usize, len: usize, f: impl FnOnce(&mut [u8]) -> R) -> Result<R, Fault> {
        const PAGE: usize = 4096;
        const LINE: usize = 64;
        memory::with_scratch(len + 2 * PAGE, |buffer| {
            // At the same place within a page as in the file: copies between places that lie a few bytes apart
            // modulo a page run several times slower.
            let place = (self.start as usize).wrapping_add(at) % PAGE / LINE * LINE;
            let first = (place + PAGE - buffer.as_ptr() as usize % PAGE) % PAGE;
            let out = &mut buffer[first..first + len];
            self.read_into(at, out)?;
            Ok(f(out))
        })
    }

    /// A copy of `len` bytes from `at` on.
    pub fn read(&self, at: usize, len: usize) -> Result<Vec<u8>, Fault> {
        let mut out = vec![0; len];
        self.read_into(at, &mut out)?;
        Ok(out)
    }

    /// The bytes, where they are in memory.
    pub fn heap(&self) -> Option<&[u8]> {
        match &self.source {
            Source::Heap(bytes) => Some(&bytes[self.start as usize..][..self.len]),
            Source::File(_) => None,
        }
    }

    /// The same bytes in memory.
    pub fn load(&self) -> Result<Self, Fault> {
        match &self.source {
            Source::Heap(_) => Ok(self.clone()),
            Source::File(_) => Ok(self.read(0, self.len)?.into()),
        }
    }

    /// Bytes of memory that they occupy.
    pub fn resident(&self) -> usize {
        self.heap().map_or(0, <[u8]>::len)
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self { len: bytes.len(), start: 0, source: Source::Heap(Arc::new(bytes)) }
    }
}

/// A file that is read by position, from any thread.
///
/// Reading is preferred to memory mapping: a file that shrinks under us is an error and not a signal.
#[derive(Debug)]
pub(crate) struct OpenFile {
    #[cfg(unix)]
    file: File,
    #[cfg(not(unix))]
    file: std::sync::Mutex<File>,
    path: PathBuf,
}

impl OpenFile {
    pub fn new(file: File, path: &Path) -> Self {
        #[cfg(not(unix))]
        let file = std::sync::Mutex::new(file);
        Self { file, path: path.to_path_buf() }
    }

    #[cfg(unix)]
    fn try_read(&self, out: &mut [u8], at: u64) -> std::io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, out, at)
    }

    #[cfg(not(unix))]
    fn try_read(&self, out: &mut [u8], at: u64) -> std::io::Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(out)
    }

    fn read_exact_at(&self, out: &mut [u8], at: u64) -> Result<(), Fault> {
        self.try_read(out, at)
            .map_err(|source| Fault::Io { path: self.path.clone(), source: Arc::new(source) })
    }
}
