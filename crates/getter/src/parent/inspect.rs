//! What the child left, looked at as if it were hostile: kinds, links, sizes. What belongs there gets its owner.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use rustix::thread::{Gid, Uid};

use crate::child::{Failure, shown, stays};
use crate::config::Ids;
use crate::error::FetchErrorKind;

/// Most entries, whatever the operator's limit for archives: a repository's history counts too.
const ENTRIES_MAX: u64 = 500_000;

/// Deepest nesting: each level is an open directory.
const DEPTH_MAX: usize = 200;

/// How often a look at a link is repeated when something on the node was renamed meanwhile.
const LOOKS: usize = 256;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub files: u64,
    pub bytes: u64,
}

/// Looks at the file `name` in `staging`.
pub(super) fn file(staging: impl AsFd, name: &str, owner: Option<Ids>) -> Result<Found, Failure> {
    let mut inspection = Inspection::new(staging.as_fd(), owner, u64::MAX)?;
    let about = stat(&staging, name.as_ref())?;
    if kind(&about) != FileType::RegularFile {
        return Err(Failure::new(FetchErrorKind::EntryKind, "what was fetched is no file"));
    }
    inspection.regular(&staging, name.as_ref(), name.as_ref(), &about)?;
    inspection.end()
}

/// Looks at everything in the directory `name` in `staging`.
pub(super) fn tree(staging: impl AsFd, name: &str, owner: Option<Ids>, most: u64) -> Result<Found, Failure> {
    let root = open_directory(&staging, name.as_ref())?;
    let mut inspection = Inspection::new(root.as_fd(), owner, most)?;
    inspection.own(&staging, name.as_ref())?;
    inspection.directory(&root, Path::new(""), 0)?;
    inspection.end()
}

struct Inspection {
    root: OwnedFd,
    owner: Option<Ids>,
    found: Found,
    entries: u64,
    most_bytes: u64,
    /// Files with several names: how many they have, and how many of them were seen.
    names: HashMap<(u64, u64), (i128, i128)>,
}

impl Inspection {
    fn new(root: impl AsFd, owner: Option<Ids>, most_bytes: u64) -> Result<Self, Failure> {
        let root = rustix::io::fcntl_dupfd_cloexec(root, 3).map_err(|e| Failure::node("hold a directory", e))?;
        Ok(Self { root, owner, found: Found::default(), entries: 0, most_bytes, names: HashMap::new() })
    }

    fn directory(&mut self, at: &OwnedFd, path: &Path, depth: usize) -> Result<(), Failure> {
        if depth > DEPTH_MAX {
            return Err(Failure::new(FetchErrorKind::Count, format!("directories nest deeper than {DEPTH_MAX}")));
        }
        let list = Dir::read_from(at).map_err(|e| Failure::node("list what was fetched", e))?;
        for entry in list {
            let entry = entry.map_err(|e| Failure::node("list what was fetched", e))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                return Err(Failure::new(FetchErrorKind::Count, format!("more than {ENTRIES_MAX} files")));
            }
            let name = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
            let inner = path.join(name);
            let about = stat(at, name)?;
            match kind(&about) {
                FileType::Directory => {
                    let next = open_directory(at, name)?;
                    self.strip(&next, &about)?;
                    self.own(at, name)?;
                    self.directory(&next, &inner, depth + 1)?;
                }
                FileType::RegularFile => self.regular(at, name, &inner, &about)?,
                FileType::Symlink => self.link(at, name, &inner, depth)?,
                other => {
                    let shown = shown(inner.as_os_str().as_bytes());
                    return Err(Failure::new(
                        FetchErrorKind::EntryKind,
                        format!("{shown} is a {other:?}: it is refused"),
                    ));
                }
            }
        }
        Ok(())
    }

    fn regular(&mut self, at: impl AsFd, name: &Path, path: &Path, about: &Stat) -> Result<(), Failure> {
        self.found.files += 1;
        // Wide enough for what it is on any machine.
        let links = i128::from(about.st_nlink);
        let seen = self.names.entry((about.st_dev, about.st_ino)).or_insert((links, 0));
        seen.1 += 1;
        if seen.1 == 1 {
            self.found.bytes = self.found.bytes.saturating_add(u64::try_from(about.st_size).unwrap_or(0));
        }
        if self.found.bytes > self.most_bytes {
            let detail = format!("more than {} bytes (decompression_size_limit)", self.most_bytes);
            return Err(Failure::new(FetchErrorKind::Size, detail));
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        if about.st_mode & 0o7000 != 0 {
            let file = rustix::fs::openat(&at, name, flags, Mode::empty());
            let shown = shown(path.as_os_str().as_bytes());
            let file = file.map_err(|e| Failure::node(&format!("open {shown}"), e))?;
            self.strip(&file, about)?;
        }
        self.own(at, name)
    }

    /// A link stays inside by its text, and where it really leads now, through all other links.
    fn link(&mut self, at: &OwnedFd, name: &Path, path: &Path, depth: usize) -> Result<(), Failure> {
        let target = rustix::fs::readlinkat(at, name, Vec::new()).map_err(|e| Failure::node("read a link", e))?;
        let outside = || {
            let (name, target) = (shown(path.as_os_str().as_bytes()), shown(target.as_bytes()));
            Failure::new(FetchErrorKind::LinkOutside, format!("the link {name} leads out, to {target}"))
        };
        if !stays(depth, target.as_bytes()) {
            return Err(outside());
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        for _ in 0..LOOKS {
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                // Ways up are looked at again when anything was renamed meanwhile, anywhere.
                Err(Errno::AGAIN) => {}
                Err(Errno::XDEV) => return Err(outside()),
                // To nothing, or in a circle: harmless.
                _ => return self.own(at, name),
            }
        }
        Err(Failure::node("follow a link", Errno::AGAIN))
    }

    fn strip(&self, file: &OwnedFd, about: &Stat) -> Result<(), Failure> {
        if about.st_mode & 0o7000 == 0 {
            return Ok(());
        }
        let mode = Mode::from_raw_mode(about.st_mode & 0o777);
        rustix::fs::fchmod(file, mode).map_err(|e| Failure::node("take away special modes", e))
    }

    fn own(&self, at: impl AsFd, name: &Path) -> Result<(), Failure> {
        let Some(Ids { uid, gid }) = self.owner else { return Ok(()) };
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(at, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| Failure::node("give it to its owner", e))
    }

    /// A file that has more names than were seen has them somewhere else.
    fn end(self) -> Result<Found, Failure> {
        if self.names.values().any(|(has, seen)| has > seen) {
            let detail = "a file in it has another name outside";
            return Err(Failure::new(FetchErrorKind::LinkOutside, detail));
        }
        Ok(self.found)
    }
}

pub(super) fn stat(at: impl AsFd, name: &Path) -> Result<Stat, Failure> {
    rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| Failure::node("look at what was fetched", e))
}

pub(super) fn kind(about: &Stat) -> FileType {
    FileType::from_raw_mode(about.st_mode)
}

pub(super) fn open_directory(at: impl AsFd, name: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty()).map_err(|e| Failure::node("open a directory", e))
}

/// The names in a directory, `.` and `..` left out.
pub(super) fn names(at: &OwnedFd) -> Result<Vec<PathBuf>, Failure> {
    let failed = |e| Failure::node("list a directory", e);
    let mut names = Vec::new();
    for entry in Dir::read_from(at).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(PathBuf::from(std::ffi::OsStr::from_bytes(name)));
        }
    }
    Ok(names)
}
