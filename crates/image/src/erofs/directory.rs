//! A directory of the host as a layer.
//!
//! It is walked by descriptors that are opened below the first one without following links, so that nothing outside is read
//! whatever is in it. One directory is open at a time: how deep it goes costs no descriptors.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use moat_model::ErrorKind;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat};
use rustix::fs::{fstat, openat, openat2, readlinkat, seek, statat};
use rustix::io::{Errno, pread};
use sha2::{Digest as _, Sha256};

use super::data::{Extent, Space, Streamer};
use super::host_attributes::{View, failed};
use super::index::{Attributes, Entry, Layer, Node, What};
use super::limits::{Budget, about, refused};
use crate::error::{Error, Result};

/// What is read at once.
const PIECE: usize = 256 << 10;

/// Reads all that is below `dir`.
pub(super) fn read(
    dir: BorrowedFd<'_>,
    uid_shift: u32,
    overlay: bool,
    budget: &Budget,
    space: &Space,
) -> Result<Layer> {
    let mut walk = Walk {
        dir,
        view: View { uid_shift, overlay },
        budget,
        out: Streamer::new(space),
        entries: Vec::new(),
        links: HashMap::new(),
        identity: Sha256::new(),
        buffer: vec![0; PIECE],
    };
    walk.root()?;
    walk.out.finish()?;
    Ok(Layer { entries: walk.entries, identity: walk.identity.finalize().into() })
}

struct Walk<'a> {
    dir: BorrowedFd<'a>,
    view: View,
    budget: &'a Budget,
    out: Streamer<'a>,
    entries: Vec<Entry>,
    /// Files with several names, by device and inode: the first name.
    links: HashMap<(u64, u64), Box<[u8]>>,
    identity: Sha256,
    buffer: Vec<u8>,
}

impl Walk<'_> {
    fn root(&mut self) -> Result<()> {
        let root = self.open_directory(b".")?;
        let stat = fstat(&root).map_err(|e| failed("look at the directory", e))?;
        let attributes = self.view.attributes(root.as_fd(), b".", &stat, self.budget).map_err(|e| about(b".", e))?;
        self.push(Box::default(), What::Node(attributes, Node::Directory))?;
        drop(root);
        let mut rest: Vec<Box<[u8]>> = vec![Box::default()];
        while let Some(path) = rest.pop() {
            self.directory(&path, stat.st_dev, &mut rest).map_err(|e| about(&path, e))?;
        }
        Ok(())
    }

    fn open_directory(&self, path: &[u8]) -> Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(self.dir, path, flags, Mode::empty(), resolve).map_err(|e| failed("open a directory", e))
    }

    /// What is in one directory; the directories in it are put on `rest`.
    fn directory(&mut self, path: &[u8], device: u64, rest: &mut Vec<Box<[u8]>>) -> Result<()> {
        let dir = self.open_directory(path)?;
        let mut names: Vec<Box<CStr>> = Vec::new();
        for entry in Dir::read_from(&dir).map_err(|e| failed("read a directory", e))? {
            let entry = entry.map_err(|e| failed("read a directory", e))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                // Counted here, where the memory is taken.
                self.budget.entry()?;
                names.push(entry.file_name().into());
            }
        }
        // The order on the disk is not the same twice.
        names.sort_unstable();
        for name in names {
            let path = self.path(path, name.to_bytes())?;
            let stat = statat(&dir, &*name, AtFlags::SYMLINK_NOFOLLOW);
            let stat = stat.map_err(|e| about(&path, failed("look at it", e)))?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::Directory {
                if stat.st_dev != device {
                    return Err(refused(&path, "another file system is mounted there"));
                }
                rest.push(path.clone());
            }
            self.one(dir.as_fd(), &name, &path, &stat, kind).map_err(|e| about(&path, e))?;
        }
        Ok(())
    }

    fn path(&self, parent: &[u8], name: &[u8]) -> Result<Box<[u8]>> {
        let mut path = parent.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        let most = self.budget.limits.path_len_max;
        if path.len() > most {
            return Err(refused(&path, format_args!("its path is longer than {most} bytes")));
        }
        Ok(path.into_boxed_slice())
    }

    fn one(&mut self, dir: BorrowedFd<'_>, name: &CStr, path: &[u8], stat: &Stat, kind: FileType) -> Result<()> {
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 && self.view.overlay {
            // Made by the kernel in nobody's name.
            return self.push(path.into(), What::Node(Attributes::default(), Node::Hidden));
        }
        if !matches!(kind, FileType::Directory | FileType::RegularFile | FileType::Symlink | FileType::Fifo) {
            return Ok(());
        }
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                return self.push(path.into(), What::Link(first.clone()));
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.into());
        }
        let attributes = self.view.attributes(dir, name.to_bytes(), stat, self.budget)?;
        let node = match kind {
            FileType::Directory => Node::Directory,
            FileType::Fifo => Node::Pipe,
            FileType::Symlink => {
                let target = readlinkat(dir, name, Vec::new()).map_err(|e| failed("read the link", e))?;
                Node::Symlink(target.into_bytes().into_boxed_slice())
            }
            _ => Node::File(self.file(dir, name, stat)?),
        };
        self.push(path.into(), What::Node(attributes, node))
    }

    fn file(&mut self, dir: BorrowedFd<'_>, name: &CStr, seen: &Stat) -> Result<Extent> {
        let size = u64::try_from(seen.st_size).unwrap_or_default();
        if size == 0 {
            return Ok(Extent::default());
        }
        self.budget.bytes(size)?;
        // Should it have become a pipe meanwhile, opening does not wait.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(dir, name, flags, Mode::empty()).map_err(|e| failed("open it", e))?;
        let stat = fstat(&file).map_err(|e| failed("look at it", e))?;
        if (stat.st_dev, stat.st_ino, stat.st_size) != (seen.st_dev, seen.st_ino, seen.st_size) {
            return Err(changed());
        }
        let extent = self.out.begin(size)?;
        let sparse = u64::try_from(stat.st_blocks).unwrap_or_default() * 512 < size;
        let mut at = 0;
        while at < size {
            let (data, end) = if sparse { next_data(&file, at, size)? } else { (at, size) };
            self.out.skip(data - at)?;
            at = data;
            while at < end {
                let wanted = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
                let buffer = self.buffer.get_mut(..wanted).unwrap_or_default();
                let count = pread(&file, buffer, at).map_err(|e| failed("read it", e))?;
                if count == 0 {
                    return Err(changed());
                }
                self.out.write(self.buffer.get(..count).unwrap_or_default())?;
                at += count as u64;
            }
        }
        Ok(extent)
    }

    fn push(&mut self, path: Box<[u8]>, what: What) -> Result<()> {
        // The debug form has all that is known of it; only its being the same for the same counts.
        self.identity.update(&*path);
        self.identity.update(format!("{what:?}"));
        let entry = Entry { path, what };
        self.budget.index(entry.weight())?;
        self.entries.push(entry);
        Ok(())
    }
}

/// Where the next data is, and where it ends; at the end of the file, nothing.
fn next_data(file: &OwnedFd, at: u64, size: u64) -> Result<(u64, u64)> {
    let data = match seek(file, SeekFrom::Data(at)) {
        Err(Errno::NXIO) => return Ok((size, size)),
        other => other.map_err(|e| failed("find data in it", e))?,
    };
    let hole = seek(file, SeekFrom::Hole(data)).map_err(|e| failed("find holes in it", e))?;
    Ok((data.clamp(at, size), hole.clamp(data.min(size), size)))
}

fn changed() -> Error {
    Error::new(ErrorKind::Conflict, "it changed while it was read")
}
