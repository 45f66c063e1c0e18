//! From the staging directory to the destination: renames between open directories, no link followed on the way.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use rustix::thread::{Gid, Uid};

use super::inspect::{kind, names, open_directory, stat};
use crate::child::{Failure, shown};
use crate::config::Ids;
use crate::error::FetchErrorKind;

/// Where things go.
pub(super) struct Place<'a> {
    /// The allocation's directory: nothing above it is ever opened.
    pub alloc: &'a OwnedFd,
    /// Whom new directories belong to.
    pub owner: Option<Ids>,
    /// What was made on the way, to be taken back if the rest fails.
    made: Vec<(OwnedFd, PathBuf)>,
}

impl<'a> Place<'a> {
    pub(super) fn new(alloc: &'a OwnedFd, owner: Option<Ids>) -> Self {
        Self { alloc, owner, made: Vec::new() }
    }

    /// Moves the file `name` of `staging` to `to`, relative to the allocation's directory.
    pub(super) fn file(mut self, staging: &OwnedFd, name: &Path, to: &Path) -> Result<(), Failure> {
        let result = self.move_file(staging, name, to);
        self.end(result)
    }

    /// Moves what is in the directory `name` of `staging` to the directory `to`, beside what is there.
    pub(super) fn tree(mut self, staging: &OwnedFd, name: &Path, to: &Path) -> Result<(), Failure> {
        let result = self.move_tree(staging, name, to);
        self.end(result)
    }

    fn end(self, result: Result<(), Failure>) -> Result<(), Failure> {
        if result.is_err() {
            for (parent, name) in self.made.iter().rev() {
                // Only if nobody put something there meanwhile.
                let _ = rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR);
            }
        }
        result
    }

    fn move_file(&mut self, staging: &OwnedFd, name: &Path, to: &Path) -> Result<(), Failure> {
        let (before, last) = split(to)?;
        let parent = self.directories(before)?;
        match there(&parent, last)? {
            Some(FileType::Directory) => Err(taken(to, "a directory", "a file")),
            _ => rename(staging, name, &parent, last),
        }
    }

    fn move_tree(&mut self, staging: &OwnedFd, name: &Path, to: &Path) -> Result<(), Failure> {
        let (before, last) = split(to)?;
        let parent = self.directories(before)?;
        match there(&parent, last)? {
            None => return rename(staging, name, &parent, last),
            Some(FileType::Directory) => {}
            Some(FileType::Symlink) => return Err(through_link(to)),
            Some(_) => return Err(taken(to, "a file", "a directory")),
        }
        let (from, into) = (open_directory(staging, name)?, step(&parent, last, to)?);
        // Everything is looked at before the first is moved: a conflict leaves nothing half done.
        merge(&from, &into, to, false)?;
        merge(&from, &into, to, true)
    }

    /// Opens the directories of `path`, making what is missing.
    fn directories(&mut self, path: &Path) -> Result<OwnedFd, Failure> {
        let mut at =
            rustix::io::fcntl_dupfd_cloexec(self.alloc, 3).map_err(|e| Failure::node("hold a directory", e))?;
        for part in path.iter().map(Path::new) {
            let made = match rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o755)) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(error) => return Err(Failure::node("make the destination", error)),
            };
            let next = step(&at, part, path)?;
            if made {
                give(&next, self.owner)?;
                self.made.push((at, part.to_owned()));
            }
            at = next;
        }
        Ok(at)
    }
}

fn give(file: &OwnedFd, owner: Option<Ids>) -> Result<(), Failure> {
    let Some(Ids { uid, gid }) = owner else { return Ok(()) };
    rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        .map_err(|e| Failure::node("give a directory to its owner", e))
}

fn split(to: &Path) -> Result<(&Path, &Path), Failure> {
    let last = to.file_name().map(Path::new);
    let last = last.ok_or_else(|| Failure::new(FetchErrorKind::DestinationOutside, "the destination has no name"))?;
    Ok((to.parent().unwrap_or(Path::new("")), last))
}

/// Opens one directory in another, never through a link.
fn step(at: &OwnedFd, name: &Path, to: &Path) -> Result<OwnedFd, Failure> {
    // Not also `NOFOLLOW`: a link would be told apart from a file no more.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(at, name, flags, Mode::empty(), resolve) {
        Ok(next) => Ok(next),
        Err(Errno::LOOP) => Err(through_link(to)),
        Err(Errno::NOTDIR) => Err(taken(to, "a file", "a directory")),
        Err(error) => Err(Failure::node("open the destination", error)),
    }
}

fn through_link(to: &Path) -> Failure {
    let to = shown(to.as_os_str().as_bytes());
    Failure::new(FetchErrorKind::DestinationLink, format!("the destination {to} goes through a symbolic link"))
}

fn taken(to: &Path, is: &str, wanted: &str) -> Failure {
    let to = shown(to.as_os_str().as_bytes());
    Failure::new(FetchErrorKind::DestinationTaken, format!("the destination {to} is {is}, and {wanted} was fetched"))
}

/// What has a name; nothing if nothing has.
fn there(at: &OwnedFd, name: &Path) -> Result<Option<FileType>, Failure> {
    match rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(about) => Ok(Some(kind(&about))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(Failure::node("look at the destination", error)),
    }
}

/// Moves entries of `from` into `into`; without `really`, only says whether that is possible.
fn merge(from: &OwnedFd, into: &OwnedFd, to: &Path, really: bool) -> Result<(), Failure> {
    for name in names(from)? {
        let inner = to.join(&name);
        let is_directory = kind(&stat(from, &name)?) == FileType::Directory;
        match (is_directory, there(into, &name)?) {
            (true, Some(FileType::Directory)) => {
                merge(&open_directory(from, &name)?, &step(into, &name, &inner)?, &inner, really)?;
            }
            (true, Some(FileType::Symlink)) => return Err(through_link(&inner)),
            (true, Some(_)) => return Err(taken(&inner, "a file", "a directory")),
            (false, Some(FileType::Directory)) => return Err(taken(&inner, "a directory", "a file")),
            // What is replaced is the name itself: a link that was there is not followed.
            (_, None) | (false, Some(_)) if really => rename(from, &name, into, &name)?,
            _ => {}
        }
    }
    Ok(())
}

fn rename(from: &OwnedFd, name: &Path, into: &OwnedFd, to: &Path) -> Result<(), Failure> {
    match rustix::fs::renameat(from, name, into, to) {
        Ok(()) => Ok(()),
        // Another file system: memory for secrets, for example.
        Err(Errno::XDEV) => copy(from, name, into, to),
        Err(error) => Err(Failure::node("move it to its destination", error)),
    }
}

/// Copies an entry, with its mode and owner. A file gets its name only when it is complete.
fn copy(from: impl AsFd, name: &Path, into: &OwnedFd, to: &Path) -> Result<(), Failure> {
    let failed = |e: io::Error| Failure::node("copy it to its destination", e);
    let about = stat(&from, name)?;
    let (mode, flags) = (Mode::from_raw_mode(about.st_mode & 0o777), OFlags::NOFOLLOW | OFlags::CLOEXEC);
    match kind(&about) {
        FileType::Directory => {
            rustix::fs::mkdirat(into, to, mode).map_err(|e| failed(e.into()))?;
            let (inner, copied) = (open_directory(&from, name)?, step(into, to, to)?);
            own_like(&copied, &about)?;
            names(&inner)?.iter().try_for_each(|name| copy(&inner, name, &copied, name))
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&from, name, Vec::new()).map_err(|e| failed(e.into()))?;
            let _ = rustix::fs::unlinkat(into, to, AtFlags::empty());
            rustix::fs::symlinkat(target, into, to).map_err(|e| failed(e.into()))?;
            let (uid, gid) = (Some(Uid::from_raw(about.st_uid)), Some(Gid::from_raw(about.st_gid)));
            rustix::fs::chownat(into, to, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| failed(e.into()))
        }
        _ => {
            let mut partial = to.as_os_str().to_owned();
            partial.push(".moat-partial");
            let source = rustix::fs::openat(&from, name, OFlags::RDONLY | flags, Mode::empty());
            let mut source = File::from(source.map_err(|e| failed(e.into()))?);
            let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | flags;
            let made = rustix::fs::openat(into, &partial, create, mode).map_err(|e| failed(e.into()))?;
            own_like(&made, &about)?;
            let copied = io::copy(&mut source, &mut File::from(made)).map_err(failed);
            let moved =
                copied.and_then(|_| rustix::fs::renameat(into, &partial, into, to).map_err(|e| failed(e.into())));
            if moved.is_err() {
                let _ = rustix::fs::unlinkat(into, &partial, AtFlags::empty());
            }
            moved
        }
    }
}

fn own_like(file: &OwnedFd, about: &Stat) -> Result<(), Failure> {
    give(file, Some(Ids { uid: about.st_uid, gid: about.st_gid }))
}
