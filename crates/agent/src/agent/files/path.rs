//! Paths as asked for, and what the kernel's refusals mean.

use std::fmt::Display;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use moat_model::ErrorKind;
use moat_model::file::{FileEntry, FileKind, PATH_LEN_MAX};

use crate::agent::failure::Failure;

/// Permission bits.
pub const MODE_MAX: u32 = 0o7777;

/// A path that may be used: absolute, without a zero byte, not too long.
pub fn absolute<'a>(field: &str, path: &'a str) -> Result<&'a Path, Failure> {
    if !path.starts_with('/') {
        return Err(Failure::invalid(format!(
            "{field}: {path:?} is not absolute; write it from the root, as in \"/x\""
        )));
    }
    if path.contains('\0') {
        return Err(Failure::invalid(format!("{field}: a zero byte in it")));
    }
    if path.len() >= PATH_LEN_MAX {
        return Err(Failure::invalid(format!(
            "{field}: {} bytes are too long; {} are most",
            path.len(),
            PATH_LEN_MAX - 1
        )));
    }
    Ok(Path::new(path))
}

/// Permissions that exist.
pub fn permissions(mode: u32) -> Result<u32, Failure> {
    if mode > MODE_MAX {
        return Err(Failure::invalid(format!("mode: {mode:o} is over {MODE_MAX:o} (octal)")));
    }
    Ok(mode)
}

/// What a refusal of the kernel means to whoever asked.
pub fn refused(doing: &str, path: impl Display, error: impl Into<io::Error>) -> Failure {
    let error = error.into();
    let kind = match error.raw_os_error().unwrap_or(0) {
        libc::ENOENT => ErrorKind::NotFound,
        libc::EACCES | libc::EPERM | libc::EROFS => ErrorKind::Denied,
        libc::EEXIST | libc::ENOTEMPTY | libc::EISDIR | libc::ENOTDIR | libc::EBUSY | libc::ETXTBSY | libc::EXDEV => {
            ErrorKind::Conflict
        }
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG | libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EMLINK => {
            ErrorKind::Exhausted
        }
        libc::ENAMETOOLONG | libc::EINVAL | libc::ELOOP => ErrorKind::InvalidSpec,
        libc::ENOSYS | libc::EOPNOTSUPP => ErrorKind::Unsupported,
        _ => ErrorKind::Internal,
    };
    Failure::new(kind, format!("{doing} {path}: {error}"))
}

/// A thing as it is told.
pub fn entry(path: &Path, metadata: &Metadata) -> FileEntry {
    let kind = match metadata.file_type() {
        t if t.is_file() => FileKind::File,
        t if t.is_dir() => FileKind::Directory,
        t if t.is_symlink() => FileKind::Symlink,
        _ => FileKind::Other,
    };
    let link_target = match kind {
        FileKind::Symlink => std::fs::read_link(path).ok().map(|target| target.to_string_lossy().into_owned()),
        _ => None,
    };
    FileEntry {
        path: path.to_string_lossy().into_owned(),
        kind,
        size: if kind == FileKind::File { metadata.len() } else { 0 },
        mode: metadata.mode() & MODE_MAX,
        uid: metadata.uid(),
        gid: metadata.gid(),
        modified_ms: metadata.mtime().saturating_mul(1000).saturating_add(metadata.mtime_nsec() / 1_000_000),
        link_target,
    }
}
