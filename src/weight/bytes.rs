//! [`Bytes`]: bytes that are in memory, still in an open file, or not made yet.

use crate::kernels::memory;
use crate::{Fault, parallel};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes that one thread makes at a time: about what stays in its cache with all that they are made of.
const PIECE: usize = 1 << 16;
/// Bytes that are handed on at a time.
const WINDOW: usize = 1 << 20;

/// Bytes on the heap, a range of an open file that is read when asked for, or what is made of others when asked
/// for. Cloning is cheap.
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
    Made(Arc<dyn Make>),
}

/// Makes bytes as often as they are asked for: less work than to keep those in memory that are only written to a
/// file.
pub(crate) trait Make: Send + Sync {
    /// Fills `out` with the bytes from `at` on.
    fn make(&self, at: usize, out: &mut [u8]) -> Result<(), Fault>;

    /// Bytes of memory that what they are made of occupies.
    fn resident(&self) -> usize;
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = match self.source {
            Source::Heap(_) => "in memory",
            Source::File(_) => "in a file",
            Source::Made(_) => "to be made",
        };
        write!(f, "[{} bytes {place}]", self.len)
    }
}

impl Bytes {
    pub fn from_file(file: &Arc<OpenFile>, start: u64, len: usize) -> Self {
        Self { source: Source::File(Arc::clone(file)), start, len }
    }

    pub fn made(len: usize, make: impl Make + 'static) -> Self {
        Self { source: Source::Made(Arc::new(make)), start: 0, len }
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
            Source::Made(make) => make.make(self.start as usize + at, out),
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
            Source::File(_) | Source::Made(_) => None,
        }
    }

    /// The same bytes in memory.
    pub fn load(&self) -> Result<Self, Fault> {
        match &self.source {
            Source::Heap(_) => Ok(self.clone()),
            Source::File(_) => Ok(self.read(0, self.len)?.into()),
            Source::Made(_) => {
                let room =
                    memory::reserve(self.len).map_err(|_| Fault::Form("its parts do not fit in memory"))?;
                let pieces = (0..self.len).step_by(PIECE).map(|at| (PIECE.min(self.len - at), at));
                // What they are made of has just been read to its end.
                let bytes = memory::fill_backwards(room, pieces, |at, slot| {
                    memory::with_scratch(PIECE.min(self.len - at), |piece| {
                        self.read_into(at, piece)?;
                        slot.push(piece);
                        Ok::<_, Fault>(())
                    })
                })?;
                Ok(bytes.into())
            }
        }
    }

    /// Hands on all bytes, in order.
    pub fn for_each_chunk<E: From<Fault> + Send>(
        &self,
        mut f: impl FnMut(&[u8]) -> Result<(), E> + Send,
    ) -> Result<(), E> {
        match self.heap() {
            Some(all) => f(all),
            None => for_each_chunk(self.len, |at, out| self.read_into(at, out), f),
        }
    }

    /// Bytes of memory that they occupy.
    pub fn resident(&self) -> usize {
        match &self.source {
            Source::Heap(_) => self.len,
            Source::File(_) => 0,
            Source::Made(make) => make.resident(),
        }
    }
}

/// Hands on `len` bytes, in order, in bounded memory: while some are handed on, `make` fills in the next ones on
/// all threads, each a piece that starts at a multiple of 64.
pub(crate) fn for_each_chunk<E: From<Fault> + Send>(
    len: usize,
    make: impl Fn(usize, &mut [u8]) -> Result<(), Fault> + Sync,
    mut f: impl FnMut(&[u8]) -> Result<(), E> + Send,
) -> Result<(), E> {
    let fill = |at: usize, window: &mut [u8]| {
        let window = &mut window[..WINDOW.min(len - at)];
        let pieces = window.chunks_mut(PIECE).enumerate().collect();
        parallel::try_map_vec(pieces, |(i, piece)| make(at + i * PIECE, piece)).map(drop)
    };
    memory::with_scratch(2 * WINDOW.min(len), |room| {
        let (mut now, mut next) = room.split_at_mut(WINDOW.min(len));
        fill(0, now)?;
        for at in (0..len).step_by(WINDOW) {
            let after = len.min(at + WINDOW);
            if after == len {
                return f(&now[..after - at]);
            }
            let (done, filled) = parallel::join(|| f(&now[..after - at]), || fill(after, next));
            done?;
            filled?;
            std::mem::swap(&mut now, &mut next);
        }
        Ok(())
    })
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
