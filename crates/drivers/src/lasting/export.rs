//! A tree as a tar stream: owners are those inside, so that it means the same under any block of ids.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::io::Write;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, Stat, fstat, openat, readlinkat, statat};
use rustix::io::read;

use super::archive::{Member, padding};
use super::attributes::{Attributes, OPAQUE, is_whiteout};
use super::copier::{DIRECTORY, below};
use super::entry::{READING, changed};
use super::{ENTRIES_MAX, Owners, Stats, count, failed, go_on, joined, refused};

/// What is read at once.
const PIECE: usize = 256 << 10;

/// Writes the tree at `dir`, whose files belong to the ids from `uid_base` on, as a tar archive with the whiteouts and marks of an
/// overlay. Nothing may write in it meanwhile: copy it first if something does. Holes are written as zeros. Sockets are left out
/// and counted. Blocks.
pub fn export(dir: &Path, uid_base: u32, to: &mut dyn Write, cancel: &AtomicBool) -> Result<Stats> {
    let top = openat(CWD, dir, DIRECTORY, Mode::empty()).map_err(failed("open", dir))?;
    let owners = Owners { from: uid_base, to: 0 };
    let mut export = Export { top, owners, to, cancel, links: HashMap::new(), entries: 0, stats: Stats::default() };
    export.all()?;
    Ok(export.stats)
}

struct Export<'a> {
    top: OwnedFd,
    owners: Owners,
    to: &'a mut dyn Write,
    cancel: &'a AtomicBool,
    /// Files with several names: the first of each.
    links: HashMap<u64, PathBuf>,
    entries: u64,
    stats: Stats,
}

impl Export<'_> {
    fn all(&mut self) -> Result<()> {
        let device = fstat(&self.top).map_err(failed("look at", Path::new(".")))?.st_dev;
        let mut rest = vec![PathBuf::new()];
        while let Some(path) = rest.pop() {
            let dir = below(&self.top, &path).map_err(failed("open", &path))?;
            let stat = fstat(&dir).map_err(failed("look at", &path))?;
            if stat.st_dev != device {
                return Err(refused(&path, "another file system is mounted there"));
            }
            let attributes = Attributes::read(dir.as_fd(), b".", &stat, self.owners, &path)?;
            let mut name = path.as_os_str().as_bytes().to_vec();
            name.extend_from_slice(if name.is_empty() { b"./" } else { b"/" });
            self.member(b'5', &name, b"", 0, attributes, &path)?;
            for name in names(&dir, &path)? {
                go_on(self.cancel)?;
                count(&mut self.entries, ENTRIES_MAX)?;
                let path = joined(&path, OsStr::from_bytes(name.to_bytes()))?;
                let stat = statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("look at", &path))?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => rest.push(path),
                    kind => self.one(&dir, &name, &stat, kind, path)?,
                }
            }
        }
        // An end is two blocks of zeros.
        self.write(&[0; 1024])?;
        self.to.flush().map_err(unwritten)
    }

    fn one(&mut self, dir: &OwnedFd, name: &CStr, stat: &Stat, kind: FileType, path: PathBuf) -> Result<()> {
        let own = path.as_os_str().as_bytes().to_vec();
        let attributes = Attributes::read(dir.as_fd(), name.to_bytes(), stat, self.owners, &path)?;
        if stat.st_nlink > 1
            && let Some(first) = self.links.get(&stat.st_ino)
        {
            let first = first.as_os_str().as_bytes().to_vec();
            return self.member(b'1', &own, &first, 0, Attributes { xattrs: Vec::new(), ..attributes }, &path);
        }
        match kind {
            FileType::RegularFile => self.file(dir, name, stat, attributes, &path)?,
            FileType::Symlink => {
                let target = readlinkat(dir, name, Vec::new()).map_err(failed("read link", &path))?;
                self.member(b'2', &own, target.to_bytes(), 0, attributes, &path)?;
            }
            FileType::Fifo => self.member(b'6', &own, b"", 0, attributes, &path)?,
            FileType::CharacterDevice if is_whiteout(stat) => {
                let attributes = Attributes { uid: 0, gid: 0, ..attributes };
                self.member(b'3', &own, b"", 0, attributes, &path)?;
            }
            _ => {
                self.stats.dropped += 1;
                return Ok(());
            }
        }
        if stat.st_nlink > 1 {
            self.links.insert(stat.st_ino, path);
        }
        Ok(())
    }

    fn member(
        &mut self,
        kind: u8,
        name: &[u8],
        link: &[u8],
        size: u64,
        attributes: Attributes,
        path: &Path,
    ) -> Result<()> {
        let Attributes { uid, gid, mode, mtime, mut xattrs, .. } = attributes;
        // What an overlay notes for itself is of no use elsewhere; what it hides is.
        xattrs.retain(|(name, _)| name == OPAQUE || !name.starts_with(b"trusted."));
        let member = Member { kind, name, link, size, mode, uid, gid, mtime, xattrs: &xattrs };
        self.stats.files += 1;
        let blocks = member.blocks(path)?;
        self.write(&blocks)
    }

    fn file(&mut self, dir: &OwnedFd, name: &CStr, stat: &Stat, attributes: Attributes, path: &Path) -> Result<()> {
        let source = openat(dir, name, READING, Mode::empty()).map_err(failed("open", path))?;
        let found = fstat(&source).map_err(failed("look at", path))?;
        if found.st_ino != stat.st_ino || found.st_size != stat.st_size {
            return Err(changed(path));
        }
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        self.member(b'0', path.as_os_str().as_bytes(), b"", size, attributes, path)?;
        let mut buffer = vec![0; PIECE];
        let mut left = size;
        while left > 0 {
            go_on(self.cancel)?;
            let most = PIECE.min(usize::try_from(left).unwrap_or(PIECE));
            let place = buffer.get_mut(..most).unwrap_or_default();
            let read = read(&source, &mut *place).map_err(failed("read", path))?;
            if read == 0 {
                return Err(changed(path));
            }
            let piece = buffer.get(..read).unwrap_or_default();
            self.to.write_all(piece).map_err(unwritten)?;
            left -= read as u64;
        }
        self.stats.bytes_copied += size;
        self.write([0; 512].get(..padding(size)).unwrap_or_default())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes).map_err(unwritten)
    }
}

/// In an order that is the same each time.
fn names(dir: &OwnedFd, path: &Path) -> Result<Vec<CString>> {
    let mut names = Vec::new();
    for found in Dir::read_from(dir).map_err(failed("read", path))? {
        let found = found.map_err(failed("read", path))?;
        if !matches!(found.file_name().to_bytes(), b"." | b"..") {
            names.push(found.file_name().to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn unwritten(error: std::io::Error) -> Error {
    Error::caused_by(ErrorKind::Unavailable, "write the archive", error)
}
