//! Files of the host on their way into a jail, as a tar stream. Nothing is followed out of the directory they are in; links are
//! copied as links. Blocking.

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, openat2, readlinkat};

/// How deep a directory may go.
const DEPTH_MAX: usize = 64;
/// Files, directories and links of one copy.
const ENTRIES_MAX: u64 = 200_000;

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    File,
    Directory,
    Link,
    Other,
}

/// A directory nothing is opened outside of.
#[derive(Debug)]
pub(super) struct Top(OwnedFd);

impl Top {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(dir, flags, Mode::empty())?))
    }

    fn at(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        Ok(openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
    }

    /// What is there; none if nothing is. A link on the way is an error, one at the end is told.
    pub(super) fn shape(&self, path: &Path) -> io::Result<Option<Shape>> {
        let opened = self.at(path, OFlags::PATH | OFlags::NOFOLLOW);
        match opened {
            Ok(fd) => {
                let stat = rustix::fs::fstat(&fd)?;
                Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
                    FileType::RegularFile => Shape::File,
                    FileType::Directory => Shape::Directory,
                    FileType::Symlink => Shape::Link,
                    _ => Shape::Other,
                }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // Told apart from a link on the way by looking at its directory.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                let parent = self.at(path.parent().unwrap_or(Path::new("")), OFlags::PATH | OFlags::DIRECTORY)?;
                let name = path.file_name().unwrap_or_default();
                match readlinkat(&parent, name, Vec::new()) {
                    Ok(_) => Ok(Some(Shape::Link)),
                    Err(_) => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// A regular file's text, at most so many bytes.
    pub(super) fn text(&self, path: &Path, most: u64) -> io::Result<String> {
        let file = File::from(self.at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "is no regular file"));
        }
        let mut text = String::new();
        file.take(most + 1).read_to_string(&mut text)?;
        if text.len() as u64 > most {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("has more than {most} bytes")));
        }
        Ok(text)
    }

    /// Writes what is at `path` as `name`; of a directory with an empty name, what is in it.
    pub(super) fn pack(&self, path: &Path, name: &Path, out: impl Write) -> io::Result<()> {
        let mut packing = Packing { top: self, tar: tar::Builder::new(out), entries: 0 };
        packing.one(path, name, 0)?;
        packing.tar.into_inner()?.flush()
    }
}

struct Packing<'a, W: Write> {
    top: &'a Top,
    tar: tar::Builder<W>,
    entries: u64,
}

impl<W: Write> Packing<'_, W> {
    fn one(&mut self, path: &Path, name: &Path, depth: usize) -> io::Result<()> {
        let wrong = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        self.entries += 1;
        if depth > DEPTH_MAX || self.entries > ENTRIES_MAX {
            let most = format!("deeper than {DEPTH_MAX}, or more than {ENTRIES_MAX} files");
            return Err(wrong(io::Error::new(io::ErrorKind::InvalidData, most)));
        }
        match self.top.shape(path).map_err(wrong)? {
            Some(Shape::Directory) => self.directory(path, name, depth),
            Some(Shape::File) => self.file(path, name).map_err(wrong),
            Some(Shape::Link) => self.link(path, name).map_err(wrong),
            // Sockets, pipes and devices are nothing that is copied.
            Some(Shape::Other) => Ok(()),
            None => Err(wrong(io::Error::from(io::ErrorKind::NotFound))),
        }
    }

    fn directory(&mut self, path: &Path, name: &Path, depth: usize) -> io::Result<()> {
        let fd = self.top.at(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
        if !name.as_os_str().is_empty() {
            let meta = File::from(fd.try_clone()?).metadata()?;
            let mut header = header(tar::EntryType::Directory, meta.mode(), meta.mtime(), 0);
            self.tar.append_data(&mut header, name, io::empty())?;
        }
        let mut names: Vec<PathBuf> = Vec::new();
        for entry in Dir::read_from(fd.as_fd())? {
            let entry = entry?;
            let bytes = entry.file_name().to_bytes();
            if bytes != b"." && bytes != b".." {
                names.push(PathBuf::from(std::ffi::OsStr::from_bytes(bytes)));
            }
        }
        names.sort();
        drop(fd);
        for child in names {
            self.one(&path.join(&child), &name.join(&child), depth + 1)?;
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let file = File::from(self.top.at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW)?);
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "changed while it was copied"));
        }
        let size = meta.len();
        let mut header = header(tar::EntryType::Regular, meta.mode(), meta.mtime(), size);
        // One that shrinks meanwhile ends in an archive that is cut, which is refused inside.
        self.tar.append_data(&mut header, name, file.take(size))
    }

    fn link(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let parent = self.top.at(path.parent().unwrap_or(Path::new("")), OFlags::PATH | OFlags::DIRECTORY)?;
        let target = readlinkat(&parent, path.file_name().unwrap_or_default(), Vec::new())?;
        let mut header = header(tar::EntryType::Symlink, 0o777, 0, 0);
        self.tar.append_link(&mut header, name, Path::new(std::ffi::OsStr::from_bytes(target.as_bytes())))
    }
}

/// Everything belongs to root inside.
fn header(kind: tar::EntryType, mode: u32, mtime: i64, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode & 0o7777);
    header.set_mtime(u64::try_from(mtime).unwrap_or(0));
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_packed_and_nothing_is_followed_out_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        std::fs::create_dir_all(top.join("usr/local/etc")).unwrap();
        std::fs::write(top.join("usr/local/etc/a.conf"), "a").unwrap();
        std::fs::write(dir.path().join("secret"), "secret").unwrap();
        std::os::unix::fs::symlink("../secret", top.join("usr/out")).unwrap();
        std::os::unix::fs::symlink("..", top.join("up")).unwrap();
        let opened = Top::open(&top).unwrap();
        let mut out = Vec::new();
        opened.pack(Path::new("usr"), Path::new("usr"), &mut out).unwrap();
        let mut archive = tar::Archive::new(out.as_slice());
        let names: Vec<(String, tar::EntryType)> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.map(|e| (e.path().unwrap().display().to_string(), e.header().entry_type())).unwrap())
            .collect();
        let is = |path: &str, kind| names.iter().any(|(name, of)| name.trim_end_matches('/') == path && *of == kind);
        assert!(is("usr/local/etc/a.conf", tar::EntryType::Regular), "{names:?}");
        assert!(is("usr/out", tar::EntryType::Symlink), "{names:?}");
        assert!(opened.text(Path::new("up/secret"), 10).is_err());
        assert!(opened.pack(Path::new("up/secret"), Path::new("s"), Vec::new()).is_err());
        assert_eq!(opened.shape(Path::new("up")).unwrap(), Some(Shape::Link));
        assert_eq!(opened.shape(Path::new("no")).unwrap(), None);
        assert_eq!(opened.text(Path::new("usr/local/etc/a.conf"), 10).unwrap(), "a");
    }
}
