//! Files below a directory whose content programs wrote: every path is resolved by the kernel beneath it. Blocking.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};

/// A directory nothing is opened outside of.
#[derive(Debug)]
pub(super) struct Beneath {
    root: OwnedFd,
}

impl Beneath {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self { root: rustix::fs::open(root, flags, Mode::empty())? })
    }

    /// Opens what is there. Links are followed as long as they stay inside; one that leads out, or to `/`, is refused.
    pub(super) fn existing(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        Ok(rustix::fs::openat2(&self.root, within(path), flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
    }

    /// A regular file, to be read. Opening it never waits, whatever it turns out to be.
    pub(super) fn file(&self, path: &Path) -> io::Result<File> {
        let file = File::from(self.existing(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "is no regular file"));
        }
        Ok(file)
    }

    /// Replaces a file, its directories made if they are missing. No link is followed on the way.
    pub(super) fn replace(&self, path: &Path, body: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
        use std::io::Write as _;
        let name = path.file_name().ok_or_else(|| io::Error::other("names no file"))?;
        let dir = self.directory(path.parent().unwrap_or(Path::new("")), owner)?;
        let mut beside = std::ffi::OsString::from(".");
        beside.push(name);
        beside.push(".moat-new");
        let _ = rustix::fs::unlinkat(&dir, &beside, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&dir, &beside, flags, Mode::from_raw_mode(0o600))?);
        let write = || {
            file.write_all(body)?;
            if let Some((uid, gid)) = owner {
                std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
            }
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o777))?;
            rustix::fs::renameat(&dir, &beside, &dir, name)?;
            Ok(())
        };
        let written: io::Result<()> = { write }();
        if written.is_err() {
            let _ = rustix::fs::unlinkat(&dir, &beside, AtFlags::empty());
        }
        written
    }

    fn directory(&self, path: &Path, owner: Option<(u32, u32)>) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |at: &OwnedFd, path: &Path| rustix::fs::openat2(at, path, flags, Mode::empty(), resolve);
        let mut dir = open(&self.root, Path::new("."))?;
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => {
                    if let Some((uid, gid)) = owner {
                        let made = open(&dir, Path::new(name))?;
                        std::os::unix::fs::fchown(&made, Some(uid), Some(gid))?;
                    }
                }
                Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            dir = open(&dir, Path::new(name))?;
        }
        Ok(dir)
    }
}

fn within(path: &Path) -> &Path {
    let path = path.strip_prefix("/").unwrap_or(path);
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// Where a destination or source of a task lies below the allocation's root: relative ones and absolute ones below the
/// task's directory, `/alloc/…`, `/local/…` and `/secrets/…` as the task sees them, paths of the host below the root. `None`
/// if it leaves the allocation.
pub(super) fn place(root: &Path, task: &str, text: &str) -> Option<PathBuf> {
    let given = Path::new(text);
    let joined = match given.strip_prefix(root) {
        Ok(below) => below.to_owned(),
        Err(_) => match given.strip_prefix("/alloc") {
            Ok(shared) => Path::new("alloc").join(shared),
            Err(_) => Path::new(task).join(given.strip_prefix("/").unwrap_or(given)),
        },
    };
    let mut out = PathBuf::new();
    for part in joined.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                if !out.pop() {
                    return None;
                }
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Some(out)
}
