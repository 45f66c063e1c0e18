//! One thing of a tree, made anew in the copy.

use std::ffi::CStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, mknodat, openat, readlinkat, symlinkat};
use rustix::io::Errno;

use super::attributes::Attributes;
use super::content::Means;
use super::{Owners, Stats, failed, refused};

/// How files are opened to be read: a pipe somebody put there must not stop anybody, nor a link lead anywhere.
pub(super) const READING: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOATIME).union(OFlags::CLOEXEC);

/// What is the same for all of a tree.
#[derive(Debug)]
pub(super) struct Making<'a> {
    pub(super) owners: Owners,
    pub(super) means: &'a mut Means,
    pub(super) stats: &'a mut Stats,
    pub(super) cancel: &'a AtomicBool,
    /// Marks of an overlay are left out.
    pub(super) plain: bool,
}

/// It is not what it was a moment ago.
pub(super) fn changed(path: &Path) -> Error {
    Error::new(ErrorKind::Conflict, format!("{} was changed while it was copied", path.display()))
}

impl Making<'_> {
    /// Makes `name`, which is no directory and was looked at a moment ago, in a directory of the copy that has no such name.
    pub(super) fn make(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
        path: &Path,
    ) -> Result<()> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::RegularFile => self.file(from, to, name, stat, path)?,
            FileType::Symlink => {
                let target = readlinkat(from, name, Vec::new()).map_err(|errno| match errno {
                    // Something else lies there now.
                    Errno::INVAL => changed(path),
                    errno => failed("read link", path)(errno),
                })?;
                symlinkat(target, to, name).map_err(failed("make", path))?;
            }
            FileType::Fifo | FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice => {
                mknodat(to, name, kind, Mode::from_raw_mode(0o600), stat.st_rdev).map_err(failed("make", path))?;
            }
            FileType::Directory | FileType::Unknown => return Err(refused(path, "it is of no kind that is known")),
        }
        self.attributes(from, to, name.to_bytes(), stat, path)?;
        self.stats.files += 1;
        Ok(())
    }

    /// Gives a name of the copy the owner, mode, attributes and times it has in the tree.
    pub(super) fn attributes(
        &self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
        path: &Path,
    ) -> Result<()> {
        let mut attributes = Attributes::read(from, name, stat, self.owners, path)?;
        if self.plain {
            attributes.xattrs.retain(|(name, _)| !name.starts_with(b"trusted.overlay."));
        }
        attributes.give(to, name, FileType::from_raw_mode(stat.st_mode), path)
    }

    /// Makes the file `name`, which an earlier pass copied and which was looked at a moment ago, what it is now. Whether it did; if not, it
    /// is to be made anew.
    pub(super) fn renew(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
        path: &Path,
    ) -> Result<bool> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let copy = match openat(to, name, flags, Mode::empty()) {
            Ok(copy) => copy,
            // It is of another kind, or not there.
            Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR | Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(failed("open the copy of", path)(errno)),
        };
        let made = fstat(&copy).map_err(failed("look at the copy of", path))?;
        if FileType::from_raw_mode(made.st_mode) != FileType::RegularFile || made.st_nlink != 1 {
            return Ok(false);
        }
        let (source, size) = opened(from, name, stat, path)?;
        if !self.means.renew(source.as_fd(), copy.as_fd(), size, path, self.stats, self.cancel)? {
            return Ok(false);
        }
        self.attributes(from, to, name.to_bytes(), stat, path)?;
        self.stats.files += 1;
        Ok(true)
    }

    fn file(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, stat: &Stat, path: &Path) -> Result<()> {
        let (source, size) = opened(from, name, stat, path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(to, name, flags, Mode::from_raw_mode(0o600)).map_err(failed("make", path))?;
        self.means.copy(source.as_fd(), made.as_fd(), size, path, self.stats, self.cancel)
    }
}

/// A file of the tree that was looked at a moment ago, and its size.
fn opened(from: BorrowedFd<'_>, name: &CStr, stat: &Stat, path: &Path) -> Result<(OwnedFd, u64)> {
    let source = openat(from, name, READING, Mode::empty()).map_err(|errno| match errno {
        // Something else lies there now.
        Errno::LOOP | Errno::NXIO => changed(path),
        errno => failed("open", path)(errno),
    })?;
    let found = fstat(&source).map_err(failed("look at", path))?;
    if found.st_ino != stat.st_ino || FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(changed(path));
    }
    let size = u64::try_from(found.st_size).unwrap_or_default();
    Ok((source, size))
}
