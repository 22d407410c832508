//! What a system can be asked to do for a file ahead of time.

use std::fs::File;

/// Asks the system to begin writing `len` bytes from `start` on to the disk, so that there is less to wait for when
/// the file is synced. A wish: where it is not granted, nothing but the time changes.
#[cfg(target_os = "linux")]
pub fn begin_writing(file: &File, start: u64, len: u64) {
    use std::os::fd::AsRawFd;
    let (Ok(start), Ok(len)) = (start.try_into(), len.try_into()) else { return };
    // SAFETY: the descriptor is that of an open file, and nothing of this process's memory is touched.
    #[allow(unsafe_code)]
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), start, len, libc::SYNC_FILE_RANGE_WRITE);
    }
}

#[cfg(not(target_os = "linux"))]
pub fn begin_writing(_: &File, _: u64, _: u64) {}
