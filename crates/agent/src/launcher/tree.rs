//! Directories and files below a root whose content may be hostile to path walks: every step stays inside it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chmodat, chownat, fchown, mkdirat, openat, openat2,
    statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

/// Who owns what is made: host ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What becomes of a link or a file where a directory is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InTheWay {
    Replaced,
    Refused,
}

/// A directory seen as `/` by every path given to it; symbolic links in it cannot lead out of it.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    owner: Owner,
}

impl Tree {
    /// Opens a directory as a root. What is made below it belongs to `owner`.
    pub fn new(root: OwnedFd, owner: Owner) -> Self {
        Self { root, owner }
    }

    /// The directory itself.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Who owns what is made in it.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Opens what is at `path`, following links inside the root.
    pub fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open_with(path, OFlags::PATH)
    }

    /// Opens what is at `path` with these flags, following links inside the root.
    pub fn open_with(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        // An empty path would be refused; "." is the root itself.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Ok(openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
    }

    /// Makes `path` a directory with all its parents, or finds that it is one; existing ones are left as they are.
    pub fn directory(&self, path: &Path, mode: Mode) -> io::Result<OwnedFd> {
        let mut done = PathBuf::new();
        let mut here = self.open_with(&done, OFlags::PATH | OFlags::DIRECTORY)?;
        let parts: Vec<_> = path.components().filter(|c| matches!(c, Component::Normal(_))).collect();
        for (index, part) in parts.iter().enumerate() {
            done.push(part);
            here = match self.open_with(&done, OFlags::PATH | OFlags::DIRECTORY) {
                Ok(found) => found,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    let mode = if index + 1 == parts.len() { mode } else { Mode::from_raw_mode(0o755) };
                    mkdirat(&here, part.as_os_str(), mode)?;
                    // Explicitly, for the sticky bit and the umask.
                    chmodat(&here, part.as_os_str(), mode, AtFlags::empty())?;
                    self.give(here.as_fd(), Path::new(part.as_os_str()))?;
                    self.open_with(&done, OFlags::PATH | OFlags::DIRECTORY)?
                }
                Err(e) => return Err(e),
            };
        }
        Ok(here)
    }

    /// Makes an empty file to bind another one on, or finds what is there.
    pub fn file(&self, path: &Path) -> io::Result<OwnedFd> {
        let parent = self.directory(path.parent().unwrap_or(Path::new("")), Mode::from_raw_mode(0o755))?;
        let name = file_name(path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        match openat(&parent, name, flags, Mode::from_raw_mode(0o644)) {
            Ok(made) => fchown(&made, Some(Uid::from_raw(self.owner.uid)), Some(Gid::from_raw(self.owner.gid)))?,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.open(path)
    }

    /// Opens what is at `path` in what is shown of the host: no link is followed, nothing is made.
    pub fn existing(&self, path: &Path) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(openat2(&self.root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?)
    }

    /// Makes `path` a directory whatever an image put there: a link or a file in the way is replaced, no link is followed.
    /// A directory that exists is left as it is.
    pub fn own_directory(&self, path: &Path, mode: Mode) -> io::Result<OwnedFd> {
        self.walk(path, mode, InTheWay::Replaced)
    }

    /// Makes `path` a directory, or finds that it is one. No link is followed, and nothing that is there is replaced.
    pub fn strict_directory(&self, path: &Path, mode: Mode) -> io::Result<OwnedFd> {
        self.walk(path, mode, InTheWay::Refused)
    }

    fn walk(&self, path: &Path, mode: Mode, in_the_way: InTheWay) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut here = self.open(Path::new(""))?;
        let parts: Vec<_> = path.components().filter(|c| matches!(c, Component::Normal(_))).collect();
        for (index, part) in parts.iter().enumerate() {
            let name = part.as_os_str();
            let mode = if index + 1 == parts.len() { mode } else { Mode::from_raw_mode(0o755) };
            here = match openat(&here, name, flags, Mode::empty()) {
                Ok(found) => found,
                Err(Errno::NOENT) => self.new_directory(&here, name, mode)?,
                Err(Errno::NOTDIR | Errno::LOOP) if in_the_way == InTheWay::Replaced => {
                    unlinkat(&here, name, AtFlags::empty())?;
                    self.new_directory(&here, name, mode)?
                }
                Err(errno) => return Err(errno.into()),
            };
        }
        Ok(here)
    }

    fn new_directory(&self, parent: &OwnedFd, name: &OsStr, mode: Mode) -> io::Result<OwnedFd> {
        mkdirat(parent, name, mode)?;
        // Explicitly, for the sticky bit and the umask.
        chmodat(parent, name, mode, AtFlags::empty())?;
        self.give(parent.as_fd(), Path::new(name))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(parent, name, flags, Mode::empty())?)
    }

    /// Makes an empty file to bind another one on, whatever an image put there: a link in the way is replaced.
    pub fn own_file(&self, path: &Path) -> io::Result<OwnedFd> {
        let parent = self.own_directory(path.parent().unwrap_or(Path::new("")), Mode::from_raw_mode(0o755))?;
        let name = file_name(path)?;
        match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).map(|found| FileType::from_raw_mode(found.st_mode)) {
            Ok(FileType::RegularFile) => {}
            Ok(_) => {
                unlinkat(&parent, name, AtFlags::empty())?;
                self.new_file(&parent, name)?;
            }
            Err(Errno::NOENT) => self.new_file(&parent, name)?,
            Err(errno) => return Err(errno.into()),
        }
        Ok(openat(&parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Makes an empty file to bind another one on, or finds one. No link is followed, and nothing that is there is replaced.
    pub fn strict_file(&self, path: &Path) -> io::Result<OwnedFd> {
        let parent = self.strict_directory(path.parent().unwrap_or(Path::new("")), Mode::from_raw_mode(0o755))?;
        let name = file_name(path)?;
        match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => {}
            Err(Errno::NOENT) => self.new_file(&parent, name)?,
            Err(errno) => return Err(errno.into()),
        }
        Ok(openat(&parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
    }

    fn new_file(&self, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let made = openat(parent, name, flags, Mode::from_raw_mode(0o644))?;
        Ok(fchown(&made, Some(Uid::from_raw(self.owner.uid)), Some(Gid::from_raw(self.owner.gid)))?)
    }

    /// Makes a symbolic link, unless something is there already.
    pub fn symlink(&self, path: &Path, to: &Path) -> io::Result<()> {
        let parent = self.directory(path.parent().unwrap_or(Path::new("")), Mode::from_raw_mode(0o755))?;
        let name = file_name(path)?;
        match symlinkat(to, &parent, name) {
            Ok(()) => self.give(parent.as_fd(), Path::new(name)),
            Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn give(&self, parent: BorrowedFd<'_>, name: &Path) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.owner.uid), Gid::from_raw(self.owner.gid));
        Ok(chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

fn file_name(path: &Path) -> io::Result<&OsStr> {
    path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path has no last component"))
}

/// `/a/b` as a path below a root.
pub fn below(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}
