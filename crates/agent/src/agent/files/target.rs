//! Where a file that is written will appear: whole, by a rename, or not at all.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use moat_model::ErrorKind;
use rustix::fs::{
    Access, AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Uid, accessat, fchmod, fchown, linkat, open, openat,
    readlinkat, renameat, statat, unlinkat,
};
use rustix::io::Errno;

use super::path::{MODE_MAX, refused};
use crate::agent::failure::Failure;

/// Links followed one after another; the kernel's own bound.
const LINKS_MAX: usize = 40;
/// Names tried for a file beside the target.
const NAMES_MAX: u32 = 100;
/// Permissions of a new file unless others are asked for.
const FILE_MODE: u32 = 0o644;

/// A place for a file.
#[derive(Debug)]
pub struct Target {
    /// Its directory.
    directory: OwnedFd,
    /// Its name there.
    name: OsString,
    /// For people.
    path: PathBuf,
    /// What is there now.
    old: Option<Stat>,
    /// Directories made on the way, outermost first; removed again if nothing comes of it.
    made: Vec<PathBuf>,
}

impl Target {
    /// Finds it, through links, and makes the directories it needs.
    pub fn find(asked: &Path) -> Result<Self, Failure> {
        let mut made = Vec::new();
        let mut path = asked.to_owned();
        for _ in 0..LINKS_MAX {
            match look(&path, &mut made) {
                Ok(Found::Link(to)) => path = to,
                Ok(Found::Place { directory, name, old }) => return Ok(Self { directory, name, path, old, made }),
                Err(failure) => {
                    forget(&made);
                    return Err(failure);
                }
            }
        }
        forget(&made);
        Err(refused("write", asked.display(), Errno::LOOP))
    }

    /// Begins to write beside it.
    pub fn begin(self) -> Result<Writing, Failure> {
        let begun = if self.old.is_some() {
            accessat(&self.directory, &self.name, Access::WRITE_OK, AtFlags::EACCESS)
        } else {
            Ok(())
        };
        match begun.and_then(|()| beside(&self.directory)) {
            Ok((file, temporary)) => Ok(Writing { target: self, file, temporary, bytes: 0, placed: false }),
            Err(error) => {
                forget(&self.made);
                Err(refused("write", self.path.display(), error))
            }
        }
    }
}

enum Found {
    /// It is a link to this.
    Link(PathBuf),
    /// It is, or can be, a file.
    Place { directory: OwnedFd, name: OsString, old: Option<Stat> },
}

fn look(path: &Path, made: &mut Vec<PathBuf>) -> Result<Found, Failure> {
    let is_directory = || refused("write", path.display(), Errno::ISDIR);
    if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Err(is_directory());
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(is_directory()) };
    let directory = parent_of(parent, made)?;
    let failed = |error: Errno| refused("write", path.display(), error);
    let old = match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(Found::Place { directory, name: name.to_owned(), old: None }),
        Err(error) => return Err(failed(error)),
    };
    match FileType::from_raw_mode(old.st_mode) {
        FileType::Symlink => {
            let link = readlinkat(&directory, name, Vec::new()).map_err(failed)?;
            Ok(Found::Link(parent.join(OsString::from_vec(link.into_bytes()))))
        }
        FileType::RegularFile => Ok(Found::Place { directory, name: name.to_owned(), old: Some(old) }),
        FileType::Directory => Err(is_directory()),
        _ => Err(Failure::new(ErrorKind::Conflict, format!("write {}: it is not a regular file", path.display()))),
    }
}

fn parent_of(path: &Path, made: &mut Vec<PathBuf>) -> Result<OwnedFd, Failure> {
    let once = || open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    match once() {
        Err(Errno::NOENT) => {}
        result => return result.map_err(|e| refused("open the directory", path.display(), e)),
    }
    let ancestors: Vec<&Path> = path.ancestors().collect();
    for ancestor in ancestors.into_iter().rev() {
        match rustix::fs::mkdir(ancestor, Mode::from_raw_mode(0o755)) {
            Ok(()) => made.push(ancestor.to_owned()),
            Err(Errno::EXIST) => {}
            // What is there and cannot be made says so in many ways; opening it will tell.
            Err(_) if ancestor.is_dir() => {}
            Err(error) => return Err(refused("make the directory", ancestor.display(), error)),
        }
    }
    once().map_err(|e| refused("open the directory", path.display(), e))
}

fn forget(made: &[PathBuf]) {
    for directory in made.iter().rev() {
        // Somebody else may have put something there.
        let _ = rustix::fs::rmdir(directory);
    }
}

/// A file without a name, which the kernel removes if this process dies, or if there is no such thing one with a name.
fn beside(directory: &OwnedFd) -> Result<(File, Option<OsString>), Errno> {
    let mode = Mode::from_raw_mode(0o600);
    let unnamed = openat(directory, c".", OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, mode);
    match unnamed {
        // It is given a name by its entry in /proc.
        Ok(file) if Path::new("/proc/self/fd").exists() => return Ok((file.into(), None)),
        Ok(_) | Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    named(|name| openat(directory, name, flags, mode)).map(|(file, name)| (file.into(), Some(name)))
}

/// Makes something under a name nobody has.
fn named<T>(make: impl Fn(&OsStr) -> Result<T, Errno>) -> Result<(T, OsString), Errno> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    for attempt in 0..NAMES_MAX {
        let name = OsString::from(format!(".moat-{:x}-{:x}", std::process::id(), now.wrapping_add(attempt)));
        match make(&name) {
            Err(Errno::EXIST) => {}
            result => return result.map(|made| (made, name)),
        }
    }
    Err(Errno::EXIST)
}

/// A file on its way. Dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Writing {
    target: Target,
    file: File,
    /// Its name, if it has one already.
    temporary: Option<OsString>,
    bytes: u64,
    placed: bool,
}

impl Writing {
    /// Appends.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|e| refused("write", self.target.path.display(), e))
    }

    /// Puts it in place; returns its length.
    pub fn finish(mut self, mode: Option<u32>) -> Result<u64, Failure> {
        self.place(mode).map_err(|e| refused("write", self.target.path.display(), e))?;
        self.placed = true;
        Ok(self.bytes)
    }

    fn place(&mut self, mode: Option<u32>) -> io::Result<()> {
        let mode = match &self.target.old {
            Some(old) => {
                // Who may not give files away keeps what they wrote.
                let _ = fchown(&self.file, Some(Uid::from_raw(old.st_uid)), Some(Gid::from_raw(old.st_gid)));
                old.st_mode & MODE_MAX
            }
            None => mode.unwrap_or(FILE_MODE),
        };
        fchmod(&self.file, Mode::from_raw_mode(mode))?;
        let directory = &self.target.directory;
        if self.temporary.is_none() {
            let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let ((), name) = named(|name| linkat(CWD, &unnamed, directory, name, AtFlags::SYMLINK_FOLLOW))?;
            self.temporary = Some(name);
        }
        if let Some(temporary) = &self.temporary {
            renameat(directory, temporary, directory, &self.target.name)?;
        }
        Ok(())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if self.placed {
            return;
        }
        if let Some(temporary) = &self.temporary {
            let _ = unlinkat(&self.target.directory, temporary, AtFlags::empty());
        }
        forget(&self.target.made);
    }
}
