//! The files of an allocation, for people. Blocking; every path is resolved beneath its root.

use std::fs::Metadata;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use moat_model::{ErrorKind, Timestamp};
use rustix::fs::OFlags;

use super::beneath::Beneath;
use super::front::{FsEntry, Origin};
use crate::error::{Error, Result};

/// Entries of one directory that are listed.
const ENTRIES_MAX: usize = 10_000;
/// Bytes of a file in one piece.
pub(super) const PIECE: usize = 64 << 10;

/// A path below an allocation's root that people may see: nothing of `secrets/` and `private/`, however it is written.
pub(super) fn allowed(path: &str) -> Result<PathBuf> {
    let mut out = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::new(ErrorKind::Denied, format!("path {path:?} leaves the allocation")));
            }
        }
    }
    let second = out.components().nth(1).map(|part| part.as_os_str().to_string_lossy().to_lowercase());
    let hidden = |name: &str| name.starts_with("secrets") || name.starts_with("private");
    if second.as_deref().is_some_and(hidden) {
        return Err(Error::new(ErrorKind::Denied, format!("path {path:?}: secrets and private files are not shown")));
    }
    Ok(out)
}

fn failed(path: &Path, error: &io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::InvalidInput | io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => {
            ErrorKind::InvalidSpec
        }
        _ if error.raw_os_error() == Some(rustix::io::Errno::XDEV.raw_os_error()) => ErrorKind::Denied,
        _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => ErrorKind::Denied,
        _ => ErrorKind::Unavailable,
    };
    let why = if kind == ErrorKind::Denied { "leads out of the allocation".to_owned() } else { error.to_string() };
    Error::new(kind, format!("path {:?}: {why}", path.display().to_string()))
}

/// Opens what a path leads to, and makes sure that it is not a hidden one by another name.
fn open(root: &Path, path: &Path, flags: OFlags) -> Result<std::os::fd::OwnedFd> {
    let opened = Beneath::open(root).and_then(|beneath| beneath.existing(path, flags)).map_err(|e| failed(path, &e))?;
    // A link that stays inside may still lead to secrets: where it came out is asked of the kernel.
    let shown = std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&opened)));
    let real_root = std::fs::canonicalize(root).map_err(|e| failed(path, &e))?;
    let real = shown.map_err(|e| failed(path, &e))?;
    match real.strip_prefix(&real_root) {
        Ok(below) => drop(allowed(&below.to_string_lossy())?),
        Err(_) => return Err(Error::new(ErrorKind::Denied, format!("path {path:?} leads out of the allocation"))),
    }
    Ok(opened)
}

/// What lies in a directory, by name.
pub(super) fn list(root: &Path, path: &Path) -> Result<Vec<FsEntry>> {
    let dir = open(root, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let reader = rustix::fs::Dir::read_from(&dir).map_err(|e| failed(path, &e.into()))?;
    let mut entries = Vec::new();
    for entry in reader {
        let entry = entry.map_err(|e| failed(path, &e.into()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "." || name == ".." || entries.len() >= ENTRIES_MAX {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Gone since it was read.
        let Ok(found) = rustix::fs::openat(&dir, entry.file_name(), flags, rustix::fs::Mode::empty()) else { continue };
        let Ok(metadata) = std::fs::File::from(found).metadata() else { continue };
        entries.push(entry_of(name, &metadata));
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// What a path leads to.
pub(super) fn stat(root: &Path, path: &Path) -> Result<FsEntry> {
    let opened = open(root, path, OFlags::PATH)?;
    let metadata = std::fs::File::from(opened).metadata().map_err(|e| failed(path, &e))?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(entry_of(name, &metadata))
}

/// A file opened for reading, and where to begin.
pub(super) fn begin(root: &Path, path: &Path, from: Origin) -> Result<(std::fs::File, u64)> {
    let opened = open(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
    let file = std::fs::File::from(opened);
    let metadata = file.metadata().map_err(|e| failed(path, &e))?;
    if !metadata.is_file() {
        return Err(Error::invalid("path", format!("{:?} is no regular file", path.display().to_string())));
    }
    let len = metadata.len();
    let at = match from {
        Origin::Start(offset) => offset.min(len),
        Origin::End(back) => len.saturating_sub(back),
        Origin::Lines(lines) => last_lines(&file, len, lines).map_err(|e| failed(path, &e))?,
    };
    Ok((file, at))
}

/// The next piece of it; empty at its end.
pub(super) fn piece(file: &mut std::fs::File, at: u64, max: usize) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::with_capacity(max.min(PIECE));
    file.take(max.min(PIECE) as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn last_lines(file: &std::fs::File, len: u64, lines: u64) -> io::Result<u64> {
    use std::os::unix::fs::FileExt;
    if lines == 0 {
        return Ok(len);
    }
    let (mut upto, mut left) = (len, lines);
    while upto > 0 {
        let from = upto.saturating_sub(PIECE as u64);
        let mut bytes = vec![0u8; usize::try_from(upto - from).unwrap_or(PIECE)];
        file.read_exact_at(&mut bytes, from)?;
        for at in memchr::memrchr_iter(b'\n', &bytes) {
            let after = from + at as u64 + 1;
            if after == len {
                continue;
            }
            left -= 1;
            if left == 0 {
                return Ok(after);
            }
        }
        upto = from;
    }
    Ok(0)
}

fn entry_of(name: String, metadata: &Metadata) -> FsEntry {
    let kind = metadata.file_type();
    let first = match () {
        () if kind.is_dir() => 'd',
        () if kind.is_symlink() => 'l',
        () if kind.is_fifo() => 'p',
        () if kind.is_socket() => 's',
        () if kind.is_char_device() => 'c',
        () if kind.is_block_device() => 'b',
        () => '-',
    };
    let mode = metadata.permissions().mode();
    let letters = "rwxrwxrwx".chars().enumerate();
    let shown = letters.map(|(at, letter)| if mode & (0o400 >> at) == 0 { '-' } else { letter });
    FsEntry {
        name,
        is_dir: kind.is_dir(),
        is_link: kind.is_symlink(),
        size: metadata.len(),
        mode: std::iter::once(first).chain(shown).collect(),
        modified: Timestamp::from_millis(metadata.mtime().saturating_mul(1000) + metadata.mtime_nsec() / 1_000_000),
    }
}
