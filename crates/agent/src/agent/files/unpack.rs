//! A tar archive, unpacked below a directory and nowhere else.
//!
//! Every parent is opened with `openat2` beneath the directory, so neither a name nor a link that is there, or that the
//! archive made, leads out of it. What is made is made anew (`O_EXCL`, after what was there was removed), so nothing is
//! written through a link either.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use moat_agent::protocol::Reply;
use moat_agent::protocol::frame::AgentFrame;
use moat_model::ErrorKind;
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chownat, fchmod, futimens, linkat,
    mkdirat, openat, openat2, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use tar::EntryType;

use super::archive::{BLOCK_LEN, EXTENSION_LEN_MAX, Extension, Member, padding, parts, read_header};
use super::line::{Inward, Line, Stop};
use super::path::{absolute, refused};
use crate::agent::failure::Failure;

/// Taken from the line at once.
const PIECE_LEN_MAX: usize = 64 << 10;
/// Directories whose permissions and times are set at the end, when nothing more is put into them. Those of more are set
/// at once.
const DIRECTORIES_MAX: usize = 50_000;
/// Tries to open something while somebody renames on the way to it.
const TRIES_MAX: usize = 32;

/// Unpacks what comes.
pub fn unpack(line: &mut Line, path: &str) -> Result<(), Stop> {
    let path = absolute("path", path)?;
    std::fs::create_dir_all(path).map_err(|e| refused("make the directory", path.display(), e))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| refused("open", path.display(), e))?;
    line.reply(&Reply::Content)?;
    let owners = rustix::process::geteuid().is_root();
    let mut unpacker = Unpacker { root, path, owners, directories: Vec::new(), bytes: 0, entries: 0 };
    let mut source = Inward::new(line);
    unpacker.read(&mut source)?;
    // Whatever follows the end of the archive.
    while !source.take(PIECE_LEN_MAX)?.is_empty() {}
    unpacker.finish();
    let (bytes, entries) = (unpacker.bytes, unpacker.entries);
    line.say(&AgentFrame::Done { bytes, entries })
}

struct Unpacker<'a> {
    root: OwnedFd,
    /// For people.
    path: &'a Path,
    /// Owners are restored.
    owners: bool,
    directories: Vec<(PathBuf, Member)>,
    bytes: u64,
    entries: u64,
}

impl Unpacker<'_> {
    fn read(&mut self, source: &mut Inward<'_>) -> Result<(), Stop> {
        let mut extension = Extension::default();
        loop {
            let mut block = [0; BLOCK_LEN];
            match source.fill(&mut block)? {
                0 => return Ok(()),
                BLOCK_LEN if block == [0; BLOCK_LEN] => return Ok(()),
                BLOCK_LEN => {}
                _ => return Err(self.malformed("it ends within a header").into()),
            }
            let member = read_header(&block).map_err(|why| self.malformed(why))?;
            match member.kind {
                EntryType::XHeader | EntryType::GNULongName | EntryType::GNULongLink => {
                    let content = self.extension(source, member.size)?;
                    extension.read(member.kind, &content).map_err(|why| self.malformed(why))?;
                }
                // It says nothing of any file in particular.
                EntryType::XGlobalHeader => self.skip(source, member.size)?,
                _ => self.add(source, &extension.apply(member))?,
            }
        }
    }

    fn extension(&self, source: &mut Inward<'_>, size: u64) -> Result<Vec<u8>, Stop> {
        if size > EXTENSION_LEN_MAX {
            return Err(self.malformed("an extension of it is too long").into());
        }
        let mut content = vec![0; usize::try_from(size).unwrap_or(0) + padding(size)];
        if source.fill(&mut content)? < content.len() {
            return Err(self.malformed("it ends within an extension").into());
        }
        content.truncate(usize::try_from(size).unwrap_or(0));
        Ok(content)
    }

    fn malformed(&self, why: &str) -> Failure {
        Failure::invalid(format!("the archive for {}: {why}", self.path.display()))
    }

    fn skip(&self, source: &mut Inward<'_>, size: u64) -> Result<(), Stop> {
        self.copy(source, size.saturating_add(padding(size) as u64), |_| Ok(()))
    }

    /// Passes exactly so many bytes on.
    fn copy(
        &self,
        source: &mut Inward<'_>,
        size: u64,
        mut sink: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Stop> {
        let mut left = size;
        while left > 0 {
            let piece = source.take(usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_LEN_MAX))?;
            if piece.is_empty() {
                return Err(self.malformed("it ends within a file").into());
            }
            left -= piece.len() as u64;
            sink(&piece)?;
        }
        Ok(())
    }

    fn add(&mut self, source: &mut Inward<'_>, member: &Member) -> Result<(), Stop> {
        let shown = String::from_utf8_lossy(&member.name).into_owned();
        let bad = |why: &str| self.malformed(&format!("{shown:?}: {why}"));
        let parts = parts(&member.name).map_err(bad)?;
        let Some((&name, above)) = parts.split_last() else {
            // The directory itself, which is there.
            return if member.kind.is_dir() {
                self.skip(source, member.size)
            } else {
                Err(bad("it has no name").into())
            };
        };
        let parent = self.directory(above, &shown)?;
        let place = Place { parent, name, shown: &shown };
        match member.kind {
            EntryType::Directory => {
                self.skip(source, member.size)?;
                self.add_directory(&place, member, parts.iter().collect())?;
            }
            EntryType::Regular | EntryType::Continuous => self.add_file(source, &place, member)?,
            EntryType::Symlink => {
                self.skip(source, member.size)?;
                place.clear()?;
                symlinkat(OsStr::from_bytes(&member.link), &place.parent, name).map_err(|e| place.failed(e))?;
                self.own(&place, member)?;
                let _ = utimensat(&place.parent, name, &times(member), AtFlags::SYMLINK_NOFOLLOW);
            }
            EntryType::Link => {
                self.skip(source, member.size)?;
                self.add_link(&place, member)?;
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                return Err(bad("devices and pipes are not unpacked").into());
            }
            _ => return Err(bad("it is of a kind that is not supported").into()),
        }
        self.entries += 1;
        Ok(())
    }

    /// A directory below the root, made if it is missing.
    fn directory(&self, parts: &[&OsStr], shown: &str) -> Result<OwnedFd, Failure> {
        let whole: PathBuf = parts.iter().collect();
        match self.beneath(&whole) {
            Err(Errno::NOENT) => {}
            result => return result.map_err(|e| outside(shown, e)),
        }
        let mut path = PathBuf::new();
        let mut at = self.beneath(&path).map_err(|e| outside(shown, e))?;
        for part in parts {
            match mkdirat(&at, *part, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(refused("unpack", shown, error)),
            }
            path.push(part);
            at = self.beneath(&path).map_err(|e| outside(shown, e))?;
        }
        Ok(at)
    }

    fn beneath(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for _ in 0..TRIES_MAX {
            match openat2(&self.root, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
        Err(Errno::AGAIN)
    }

    fn add_directory(&mut self, place: &Place<'_>, member: &Member, path: PathBuf) -> Result<(), Failure> {
        match mkdirat(&place.parent, place.name, Mode::from_raw_mode(0o700)) {
            Ok(()) => {}
            // One that is there stays as it is.
            Err(Errno::EXIST) => return self.beneath(&path).map(drop).map_err(|e| outside(place.shown, e)),
            Err(error) => return Err(place.failed(error)),
        }
        self.own(place, member)?;
        if self.directories.len() < DIRECTORIES_MAX {
            self.directories.push((path, member.clone()));
        } else {
            self.settle(&path, member);
        }
        Ok(())
    }

    /// Permissions and time of a directory nothing more is put into. Somebody may have taken it away meanwhile.
    fn settle(&self, path: &Path, member: &Member) {
        let Ok(directory) = self.beneath(path) else { return };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if let Ok(directory) = openat(&directory, c".", flags, Mode::empty()) {
            let _ = futimens(&directory, &times(member));
            let _ = fchmod(&directory, Mode::from_raw_mode(member.mode));
        }
    }

    fn finish(&mut self) {
        for (path, member) in std::mem::take(&mut self.directories).iter().rev() {
            self.settle(path, member);
        }
    }

    fn add_file(&mut self, source: &mut Inward<'_>, place: &Place<'_>, member: &Member) -> Result<(), Stop> {
        place.clear()?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&place.parent, place.name, flags, Mode::from_raw_mode(0o600)).map_err(|e| place.failed(e))?;
        let mut file = File::from(file);
        let copied = self.copy(source, member.size, |piece| file.write_all(piece).map_err(|e| place.failed(e)));
        if let Err(stop) = copied {
            // Half a file helps nobody.
            let _ = unlinkat(&place.parent, place.name, AtFlags::empty());
            return Err(stop);
        }
        self.own(place, member)?;
        fchmod(&file, Mode::from_raw_mode(member.mode)).map_err(|e| place.failed(e))?;
        futimens(&file, &times(member)).map_err(|e| place.failed(e))?;
        self.bytes += member.size;
        self.copy(source, padding(member.size) as u64, |_| Ok(()))
    }

    fn add_link(&self, place: &Place<'_>, member: &Member) -> Result<(), Failure> {
        let bad = |why: &str| self.malformed(&format!("{:?}: {why}", place.shown));
        let target = parts(&member.link).map_err(|_| bad("what it is linked to is not below the directory"))?;
        let Some((name, above)) = target.split_last() else { return Err(bad("it is linked to nothing")) };
        let parent = self.beneath(&above.iter().collect::<PathBuf>()).map_err(|e| outside(place.shown, e))?;
        place.clear()?;
        linkat(&parent, *name, &place.parent, place.name, AtFlags::empty()).map_err(|e| place.failed(e))
    }

    /// As root, things belong to whom the archive says.
    fn own(&self, place: &Place<'_>, member: &Member) -> Result<(), Failure> {
        if !self.owners {
            return Ok(());
        }
        let (Ok(uid), Ok(gid)) = (u32::try_from(member.uid), u32::try_from(member.gid)) else {
            return Err(self.malformed(&format!("{:?}: no such owner exists", place.shown)));
        };
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        match chownat(&place.parent, place.name, Some(uid), Some(gid), flags) {
            // Root without the capability owns what it unpacks, like anybody.
            Ok(()) | Err(Errno::PERM) => Ok(()),
            Err(error) => Err(place.failed(error)),
        }
    }
}

/// A name in a directory.
struct Place<'a> {
    parent: OwnedFd,
    name: &'a OsStr,
    /// The whole name, for people.
    shown: &'a str,
}

impl Place<'_> {
    fn failed(&self, error: impl Into<std::io::Error>) -> Failure {
        refused("unpack", self.shown, error)
    }

    /// Removes what is there, unless it is a directory.
    fn clear(&self) -> Result<(), Failure> {
        match unlinkat(self.parent.as_fd(), self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }
}

fn outside(shown: &str, error: Errno) -> Failure {
    if error == Errno::XDEV {
        return Failure::new(
            ErrorKind::Denied,
            format!("unpack {shown}: a link on the way leads out of the directory"),
        );
    }
    refused("unpack", shown, error)
}

fn times(member: &Member) -> Timestamps {
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    Timestamps { last_access: omit, last_modification: Timespec { tv_sec: member.modified, tv_nsec: 0 } }
}
