//! A tar stream of somebody as a tree: whatever it says, nothing is made outside.

use std::ffi::CString;
use std::io::Read;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use moat_engine::error::{Error, Result};
use moat_image::erofs::Limits;
use moat_image::erofs::tar::{EXTENDED_MAX, Extended, Header, RECORD, says_nothing};
use moat_model::ErrorKind;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, ftruncate, linkat, mkdirat, mknodat, openat, statat,
    symlinkat, syncfs, unlinkat, utimensat,
};
use rustix::io::{self, Errno, pwrite};

use super::archive::padding;
use super::attributes::{ACL_ACCESS, ACL_DEFAULT, Attributes, CAPABILITY, OPAQUE, Xattr};
use super::copier::{DIRECTORY, below};
use super::{ENTRIES_MAX, IDS, Owners, PATH_LEN_MAX, Stats, count, failed, go_on};

/// Names of directories are kept to the end, for their times. More than this is made to hurt.
const NAMES_BYTES_MAX: usize = 256 << 20;
/// What is read at once.
const PIECE: usize = 256 << 10;
/// A block of a file system: one of zeros only becomes a hole.
const BLOCK: usize = 4096;
/// Longest target of a symbolic link.
const TARGET_LEN_MAX: usize = 4095;

/// Bounds on what an archive may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportLimits {
    /// Bytes of all files, zeros included.
    pub bytes_max: u64,
    /// Files, directories and links.
    pub entries_max: u64,
}

impl Default for ImportLimits {
    fn default() -> Self {
        Self { bytes_max: 1 << 40, entries_max: ENTRIES_MAX }
    }
}

/// Unpacks the tar archive `from` into the new directory `dir`; ids in it become those from `uid_base` on. Refused are names that
/// are absolute or have a `..`, what would be made through a link, links to what is not in it, ids above 65,535 and attributes that
/// mean something to the host. Devices are left out and counted, but for whiteouts. After an error what is at `dir` is the caller's
/// to remove. Blocks.
pub fn import(
    from: &mut dyn Read,
    dir: &Path,
    uid_base: u32,
    limits: &ImportLimits,
    cancel: &AtomicBool,
) -> Result<Stats> {
    mkdirat(CWD, dir, Mode::from_raw_mode(0o700)).map_err(failed("make", dir))?;
    let top = openat(CWD, dir, DIRECTORY, Mode::empty()).map_err(failed("open", dir))?;
    let mut import = Import {
        from,
        top,
        owners: Owners { from: 0, to: uid_base },
        limits,
        cancel,
        entries: 0,
        bytes: 0,
        directories: Vec::new(),
        names_bytes: 0,
        stats: Stats::default(),
    };
    // A root that the archive says nothing of.
    import.attributes(&Said::default(), 0o755)?.give(import.top.as_fd(), b".", FileType::Directory, dir)?;
    import.all()?;
    syncfs(&import.top).map_err(failed("write out", dir))?;
    Ok(import.stats)
}

struct Import<'a> {
    from: &'a mut dyn Read,
    top: OwnedFd,
    owners: Owners,
    limits: &'a ImportLimits,
    cancel: &'a AtomicBool,
    entries: u64,
    bytes: u64,
    /// Their times, which are set when nothing is made in them any more.
    directories: Vec<(PathBuf, (i64, u32))>,
    names_bytes: usize,
    stats: Stats,
}

/// What header and records say of an entry.
#[derive(Debug, Default)]
struct Said {
    name: Vec<u8>,
    link: Vec<u8>,
    uid: u32,
    gid: u32,
    mtime: (i64, u32),
    xattrs: Vec<Xattr>,
}

fn hostile(name: &[u8], why: &str) -> Error {
    Error::new(ErrorKind::InvalidSpec, format!("archive: {}: {why}", name.escape_ascii()))
}

fn cut() -> Error {
    Error::new(ErrorKind::InvalidSpec, "archive: it ends in the middle")
}

/// A name as a path below the top; the top itself is empty.
fn checked(name: &[u8]) -> Result<PathBuf> {
    if name.starts_with(b"/") {
        return Err(hostile(name, "its name is absolute"));
    }
    if name.is_empty() || name.len() > PATH_LEN_MAX || name.contains(&0) {
        return Err(hostile(name, "its name is empty, too long, or has a zero byte"));
    }
    let mut path = PathBuf::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(hostile(name, "its name has a \"..\", which would leave its directory")),
            part => path.push(std::ffi::OsStr::from_bytes(part)),
        }
    }
    Ok(path)
}

impl Import<'_> {
    fn all(&mut self) -> Result<()> {
        let mut extended = Extended::default();
        let mut header = Header([0; RECORD]);
        loop {
            go_on(self.cancel)?;
            self.read(&mut header.0)?;
            if header.is_zero() {
                break;
            }
            header.check()?;
            match header.kind() {
                b'x' | b'g' | b'L' | b'K' => self.extend(&header, &mut extended)?,
                _ => self.entry(&header, std::mem::take(&mut extended))?,
            }
        }
        for (path, (tv_sec, nanos)) in std::mem::take(&mut self.directories) {
            let dir = below(&self.top, &path).map_err(failed("open", &path))?;
            let time = Timespec { tv_sec, tv_nsec: nanos.into() };
            let times = Timestamps { last_access: time, last_modification: time };
            utimensat(&dir, ".", &times, AtFlags::empty()).map_err(failed("set the times of", &path))?;
        }
        Ok(())
    }

    fn read(&mut self, into: &mut [u8]) -> Result<()> {
        self.from.read_exact(into).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => cut(),
            _ => Error::caused_by(ErrorKind::Unavailable, "read the archive", error),
        })
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let mut rest = [0; RECORD];
        self.read(rest.get_mut(..padding(size)).unwrap_or_default())
    }

    /// A header about the next entry.
    fn extend(&mut self, header: &Header, extended: &mut Extended) -> Result<()> {
        let size = header.size()?;
        if size > EXTENDED_MAX {
            let what = format!("archive: an extended header of more than {EXTENDED_MAX} bytes");
            return Err(Error::new(ErrorKind::Exhausted, what));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        self.read(&mut bytes)?;
        self.pad(size)?;
        let text = || bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        match header.kind() {
            b'x' => extended.add(&bytes, &Limits::default())?,
            b'g' if says_nothing(&bytes)? => {}
            b'g' => return Err(hostile(b"", "a header for all entries changes them: not every reader agrees on it")),
            b'L' => drop(extended.path.get_or_insert_with(text)),
            _ => drop(extended.link.get_or_insert_with(text)),
        }
        Ok(())
    }

    fn entry(&mut self, header: &Header, extended: Extended) -> Result<()> {
        count(&mut self.entries, self.limits.entries_max)?;
        let said = Said {
            name: extended.path.unwrap_or_else(|| header.name()),
            link: extended.link.unwrap_or_else(|| header.link().to_vec()),
            uid: extended.uid.map_or_else(|| header.uid(), Ok)?,
            gid: extended.gid.map_or_else(|| header.gid(), Ok)?,
            mtime: extended.mtime.map_or_else(|| header.mtime().map(|seconds| (seconds, 0)), Ok)?,
            xattrs: extended.xattrs.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        };
        let size = extended.size.map_or_else(|| header.size(), Ok)?;
        let path = checked(&said.name)?;
        let mode = u32::from(header.mode()?);
        let kind = match header.kind() {
            0 if said.name.ends_with(b"/") => b'5',
            0 | b'7' => b'0',
            kind => kind,
        };
        if kind == b'5' {
            return self.directory(&path, &said, mode);
        }
        let place = self.place(&path, &said)?;
        match kind {
            b'0' => self.file(&place, &said, size, mode, &path),
            b'1' => self.hard_link(&place, &said, &path),
            b'2' if said.link.is_empty() || said.link.len() > TARGET_LEN_MAX || said.link.contains(&0) => {
                Err(hostile(&said.name, "its target is empty, too long, or has a zero byte"))
            }
            b'2' => {
                symlinkat(said.link.as_slice(), &place.dir, &place.name).map_err(failed("make", &path))?;
                self.finish(&place, &said, FileType::Symlink, 0o777, &path)
            }
            b'3' if header.device()? == (0, 0) => self.node(&place, &said, FileType::CharacterDevice, 0, &path),
            b'6' => self.node(&place, &said, FileType::Fifo, mode, &path),
            b'3' | b'4' => {
                self.stats.dropped += 1;
                Ok(())
            }
            b'S' => Err(hostile(&said.name, "a sparse file: pack it without --sparse, holes come back by themselves")),
            other => Err(hostile(&said.name, &format!("entries of type '{}' are not known", other.escape_ascii()))),
        }
    }

    /// Whose it is, with attributes that mean the same inside and nothing to the host.
    fn attributes(&self, said: &Said, mode: u32) -> Result<Attributes> {
        let id = |id: u32, what: &str| {
            let inside = id < IDS;
            if inside {
                Ok(self.owners.to + id)
            } else {
                Err(hostile(&said.name, &format!("its {what} {id} is above 65535")))
            }
        };
        let mut xattrs = Vec::new();
        for (name, value) in &said.xattrs {
            let known = name.starts_with(b"user.") || [CAPABILITY, ACL_ACCESS, ACL_DEFAULT].contains(&name.as_slice());
            if name == b"security.selinux" {
                // A label of the machine it was packed on.
                continue;
            }
            let is_opaque = name == OPAQUE && value == b"y";
            if !known && !is_opaque {
                let what = format!("attribute {} is none that an import may bring", name.escape_ascii());
                return Err(hostile(&said.name, &what));
            }
            let path = Path::new(std::ffi::OsStr::from_bytes(&said.name));
            xattrs.push((name.clone(), self.owners.value(name, value, path)?));
        }
        let (uid, gid) = (id(said.uid, "owner")?, id(said.gid, "group")?);
        Ok(Attributes { uid, gid, mode: mode & 0o7777, mtime: said.mtime, atime: said.mtime, xattrs })
    }

    fn finish(&mut self, place: &Place, said: &Said, kind: FileType, mode: u32, path: &Path) -> Result<()> {
        self.stats.files += 1;
        self.attributes(said, mode)?.give(place.dir.as_fd(), place.name.to_bytes(), kind, path)
    }

    fn node(&mut self, place: &Place, said: &Said, kind: FileType, mode: u32, path: &Path) -> Result<()> {
        mknodat(&place.dir, &place.name, kind, Mode::from_raw_mode(0o600), 0).map_err(failed("make", path))?;
        self.finish(place, said, kind, mode, path)
    }

    /// Where something that is no directory goes; what an earlier entry put there is gone.
    fn place(&mut self, path: &Path, said: &Said) -> Result<Place> {
        let Some(name) = path.file_name() else { return Err(hostile(&said.name, "the top is a directory")) };
        let dir = self.parent(path.parent().unwrap_or(Path::new("")), said)?;
        let name = CString::new(name.as_bytes()).map_err(|_| hostile(&said.name, "its name has a zero byte"))?;
        match unlinkat(&dir, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(Place { dir, name }),
            Err(Errno::ISDIR) => Err(hostile(&said.name, "a directory of this name came before it")),
            Err(errno) => Err(failed("replace", path)(errno)),
        }
    }

    /// Opens a directory, made if the archive did not say that there is one.
    fn parent(&mut self, path: &Path, said: &Said) -> Result<OwnedFd> {
        match below(&self.top, path) {
            Ok(dir) => return Ok(dir),
            Err(Errno::NOENT) => {}
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(through(said)),
            Err(errno) => return Err(failed("open", path)(errno)),
        }
        let mut here = PathBuf::new();
        let mut dir = below(&self.top, &here).map_err(failed("open", &here))?;
        for part in path.components() {
            here.push(part);
            match mkdirat(&dir, part.as_os_str(), Mode::from_raw_mode(0o700)) {
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed("make", &here)(errno)),
                Ok(()) => {
                    count(&mut self.entries, self.limits.entries_max)?;
                    let plain = self.attributes(&Said { mtime: said.mtime, ..Said::default() }, 0o755)?;
                    plain.give(dir.as_fd(), part.as_os_str().as_bytes(), FileType::Directory, &here)?;
                }
            }
            dir = below(&self.top, &here).map_err(|errno| match errno {
                Errno::LOOP | Errno::NOTDIR => through(said),
                errno => failed("open", &here)(errno),
            })?;
        }
        Ok(dir)
    }

    fn directory(&mut self, path: &Path, said: &Said, mode: u32) -> Result<()> {
        let dir = self.parent(path, said)?;
        self.attributes(said, mode)?.give(dir.as_fd(), b".", FileType::Directory, path)?;
        self.stats.files += 1;
        self.names_bytes += path.as_os_str().len() + size_of::<(PathBuf, (i64, u32))>();
        if self.names_bytes > NAMES_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::Exhausted,
                "archive: the names of its directories are too long together",
            ));
        }
        self.directories.push((path.to_owned(), said.mtime));
        Ok(())
    }

    fn hard_link(&mut self, place: &Place, said: &Said, path: &Path) -> Result<()> {
        let target = checked(&said.link)?;
        let nowhere = || hostile(&said.name, "it is a link to what is no file of this archive");
        let name = target.file_name().ok_or_else(nowhere)?;
        let dir = below(&self.top, target.parent().unwrap_or(Path::new(""))).map_err(|_| nowhere())?;
        let found = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|_| nowhere())?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            return Err(nowhere());
        }
        linkat(&dir, name, &place.dir, &place.name, AtFlags::empty()).map_err(failed("link", path))?;
        self.stats.files += 1;
        Ok(())
    }

    fn file(&mut self, place: &Place, said: &Said, size: u64, mode: u32, path: &Path) -> Result<()> {
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limits.bytes_max {
            let what = format!("archive: its files have more than {} bytes", self.limits.bytes_max);
            return Err(Error::new(ErrorKind::Exhausted, what));
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(&place.dir, &place.name, flags, Mode::from_raw_mode(0o600)).map_err(failed("make", path))?;
        let mut buffer = vec![0; PIECE];
        let mut at = 0;
        while at < size {
            go_on(self.cancel)?;
            let want = PIECE.min(usize::try_from(size - at).unwrap_or(PIECE));
            let piece = buffer.get_mut(..want).unwrap_or_default();
            self.read(piece)?;
            for block in buffer.get(..want).unwrap_or_default().chunks(BLOCK) {
                if block.iter().any(|byte| *byte != 0) {
                    written(&made, block, at).map_err(failed("write", path))?;
                    self.stats.bytes_copied += block.len() as u64;
                }
                at += block.len() as u64;
            }
        }
        ftruncate(&made, size).map_err(failed("write", path))?;
        self.pad(size)?;
        self.finish(place, said, FileType::RegularFile, mode, path)
    }
}

fn written(file: &OwnedFd, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let done = pwrite(file, bytes, at)?;
        bytes = bytes.get(done..).unwrap_or_default();
        at += done as u64;
    }
    Ok(())
}

fn through(said: &Said) -> Error {
    hostile(&said.name, "its name leads through a link or a file")
}

/// An open directory and a name in it.
struct Place {
    dir: OwnedFd,
    name: CString,
}
