//! The bytes of a file: shared where the file system can, else copied, holes left out.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use moat_engine::error::Result;
use rustix::fs::{SeekFrom, copy_file_range, ftruncate, ioctl_ficlone, seek};
use rustix::io::{self, Errno, pread, pwrite};

use super::patch::{is_shared_quickly, patch};
use super::{Stats, failed, go_on};

/// How much is copied before it is looked whether it was called off.
const PIECE: u64 = 16 << 20;
/// What is read at once where the kernel does not copy by itself.
const BUFFER: usize = 256 << 10;

/// What the two file systems can do together. Each is tried once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Means {
    clone: bool,
    range: bool,
}

impl Default for Means {
    fn default() -> Self {
        Self { clone: true, range: true }
    }
}

/// Says that two files, or this kernel, cannot do it; not that it went wrong.
fn cannot(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOTSUP | Errno::XDEV | Errno::NOTTY | Errno::INVAL | Errno::NOSYS | Errno::PERM | Errno::TXTBSY
    )
}

impl Means {
    /// Makes `to`, which an earlier pass copied, what `from` is now, if that is quicker than a new copy. Whether it did; if not,
    /// `to` is to be replaced.
    pub(super) fn renew(
        self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        size: u64,
        path: &Path,
        stats: &mut Stats,
        cancel: &AtomicBool,
    ) -> Result<bool> {
        if self.clone && is_shared_quickly(from, size) {
            return Ok(false);
        }
        patch(from, to, size, path, stats, cancel)
    }

    /// Gives the empty file `to` the content of `from`, which had `size` bytes when it was looked at. One that is being written
    /// may come out mixed: whoever lets that happen copies it again.
    pub(super) fn copy(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        size: u64,
        path: &Path,
        stats: &mut Stats,
        cancel: &AtomicBool,
    ) -> Result<()> {
        if size == 0 {
            return Ok(());
        }
        if self.clone {
            match ioctl_ficlone(to, from) {
                Ok(()) => {
                    stats.bytes_cloned += size;
                    return Ok(());
                }
                Err(errno) if cannot(errno) => self.clone = false,
                Err(errno) => return Err(failed("copy", path)(errno)),
            }
        }
        let mut at = 0;
        while at < size {
            let Some((start, end)) = data(from, at, size).map_err(failed("read", path))? else { break };
            self.piece(from, to, (start, end), path, stats, cancel)?;
            at = end;
        }
        // A hole at the end is not written by anything.
        ftruncate(to, size).map_err(failed("write", path))
    }

    fn piece(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        (mut at, end): (u64, u64),
        path: &Path,
        stats: &mut Stats,
        cancel: &AtomicBool,
    ) -> Result<()> {
        while at < end {
            go_on(cancel)?;
            let want = (end - at).min(PIECE);
            let done = if self.range { self.by_kernel(from, to, at, want) } else { by_hand(from, to, at, want) };
            match done.map_err(failed("copy", path))? {
                Some(0) => return Ok(()),
                Some(done) => {
                    stats.bytes_copied += done;
                    at += done;
                }
                None => self.range = false,
            }
        }
        Ok(())
    }

    fn by_kernel(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, at: u64, want: u64) -> io::Result<Option<u64>> {
        let (mut read, mut written) = (at, at);
        match copy_file_range(from, Some(&mut read), to, Some(&mut written), usize::try_from(want).unwrap_or(BUFFER)) {
            Ok(done) => Ok(Some(done as u64)),
            Err(errno) if cannot(errno) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

fn by_hand(from: BorrowedFd<'_>, to: BorrowedFd<'_>, at: u64, want: u64) -> io::Result<Option<u64>> {
    let mut buffer = vec![0; BUFFER.min(usize::try_from(want).unwrap_or(BUFFER))];
    let read = pread(from, buffer.as_mut_slice(), at)?;
    let mut rest = buffer.get(..read).unwrap_or_default();
    let mut place = at;
    while !rest.is_empty() {
        let written = pwrite(to, rest, place)?;
        place += written as u64;
        rest = rest.get(written..).unwrap_or_default();
    }
    Ok(Some(read as u64))
}

/// The next piece that is no hole. File systems that do not know holes say that all is data.
pub(super) fn data(from: BorrowedFd<'_>, at: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    let start = match seek(from.as_fd(), SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL) => return Ok(Some((at, size))),
        Err(errno) => return Err(errno),
    };
    if start >= size {
        return Ok(None);
    }
    let end = match seek(from.as_fd(), SeekFrom::Hole(start)) {
        Ok(end) => end.min(size),
        // It became shorter a moment ago.
        Err(Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    Ok(Some((start, end)))
}
