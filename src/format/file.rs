//! [`AtomicFile`]: a file that appears whole or not at all.

use crate::{Error, Result};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

/// Written beside its place, then synced and renamed into it. Dropped without [`commit`](Self::commit), it
/// leaves nothing behind and an existing file as it was.
pub(crate) struct AtomicFile {
    #[cfg(feature = "files")]
    inner: imp::Inner,
    #[cfg(not(feature = "files"))]
    inner: std::convert::Infallible,
}

#[cfg(feature = "files")]
mod imp {
    use super::{Error, Path, Result, Write};
    use crate::kernels::disk::begin_writing;
    use std::io::BufWriter;
    use std::path::PathBuf;
    use tempfile::NamedTempFile;

    pub struct Inner {
        pub file: BufWriter<NamedTempFile>,
        pub path: PathBuf,
        /// Bytes that have been written, and how many of them the system has been told of.
        written: u64,
        told: u64,
    }

    /// Bytes after which the system is told to begin with the disk.
    const TELL: u64 = 16 << 20;

    impl Inner {
        /// The disk works while more is made, or all of it would be waited for in the end. What earlier calls have
        /// written is told of first: bytes that have been accepted are not an error any more.
        pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.written - self.told >= TELL {
                self.file.flush()?;
                begin_writing(self.file.get_ref().as_file(), self.told, self.written - self.told);
                self.told = self.written;
            }
            let accepted = self.file.write(bytes)?;
            self.written += accepted as u64;
            Ok(accepted)
        }

        pub fn create(path: &Path) -> Result<Self> {
            let io = |e| Error::io(path, e);
            // A device or a pipe must not be replaced by a file.
            match std::fs::metadata(path) {
                Ok(there) => crate::format::check_regular(&there).map_err(io)?,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(io(e)),
            }
            let mut builder = tempfile::Builder::new();
            builder.prefix(".bantam-").suffix(".tmp");
            #[cfg(unix)]
            builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
            let file = builder.tempfile_in(folder(path)).map_err(io)?;
            Ok(Self {
                file: BufWriter::with_capacity(1 << 20, file),
                path: path.to_path_buf(),
                written: 0,
                told: 0,
            })
        }

        pub fn commit(mut self) -> Result<()> {
            let path = self.path;
            self.file.flush().map_err(|e| Error::io(&path, e))?;
            let file = self.file.into_inner().map_err(|e| Error::io(&path, e.into_error()))?;
            file.as_file().sync_all().map_err(|e| Error::io(&path, e))?;
            keep_mode(&file, &path);
            file.persist(&path).map_err(|e| Error::io(&path, e.error))?;
            sync_folder(&path).map_err(|e| Error::io(&path, e))
        }
    }

    fn folder(path: &Path) -> &Path {
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    /// Sees to it that the name of the file outlives a crash, as its bytes do.
    ///
    /// Nothing more can be done in a folder that may be written to but not read, or where the file system does not
    /// sync folders: this is no error. One of the disk is, although the file is in place: whoever is told that it is
    /// saved may delete what it was made of.
    #[cfg(unix)]
    fn sync_folder(path: &Path) -> std::io::Result<()> {
        use std::io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
        match std::fs::File::open(folder(path)).and_then(|folder| folder.sync_all()) {
            Err(e) if matches!(e.kind(), InvalidInput | PermissionDenied | Unsupported) => Ok(()),
            done => done,
        }
    }

    #[cfg(not(unix))]
    fn sync_folder(_: &Path) -> std::io::Result<()> {
        Ok(())
    }

    /// The saved file gets the mode of the file it replaces; a new one has what the user's umask gives.
    #[cfg(unix)]
    fn keep_mode(file: &NamedTempFile, path: &Path) {
        if let Ok(there) = std::fs::metadata(path) {
            // A mode that cannot be set is no reason to lose the file.
            let _ = file.as_file().set_permissions(there.permissions());
        }
    }

    #[cfg(not(unix))]
    fn keep_mode(_: &NamedTempFile, _: &Path) {}
}

#[cfg(feature = "files")]
impl AtomicFile {
    pub fn create(path: &Path) -> Result<Self> {
        imp::Inner::create(path).map(|inner| Self { inner })
    }

    pub fn commit(self) -> Result<()> {
        self.inner.commit()
    }
}

#[cfg(feature = "files")]
impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.file.flush()
    }
}

#[cfg(feature = "files")]
impl Seek for AtomicFile {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.inner.file.seek(to)
    }
}

#[cfg(not(feature = "files"))]
impl AtomicFile {
    pub fn create(_: &Path) -> Result<Self> {
        Err(Error::Unsupported { what: "saving to a file", feature: "files" })
    }

    pub fn commit(self) -> Result<()> {
        match self.inner {}
    }
}

#[cfg(not(feature = "files"))]
impl Write for AtomicFile {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        match self.inner {}
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self.inner {}
    }
}

#[cfg(not(feature = "files"))]
impl Seek for AtomicFile {
    fn seek(&mut self, _: SeekFrom) -> std::io::Result<u64> {
        match self.inner {}
    }
}

#[cfg(all(test, feature = "files", unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_regular_files_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        for there in [folder.path(), Path::new("/dev/null")] {
            assert!(matches!(AtomicFile::create(there), Err(Error::Io { path, .. }) if path == there));
        }
    }

    #[test]
    fn a_file_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        file.commit().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_folder_that_cannot_be_read_takes_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        let mode =
            |mode| std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o300);
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        let done = file.commit();
        mode(0o700);
        done.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }
}
