//! Files that are whole under their name, and failures of disks in words.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use moat_model::ErrorKind;

use crate::error::{Error, Result};

/// What an operation on a file failed with. A full disk is the caller's to know: nothing of ours is broken.
pub(crate) fn failed(doing: &str, path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        _ if is_full(&error) => ErrorKind::Exhausted,
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        _ => ErrorKind::Internal,
    };
    name_full(Error::caused_by(kind, format!("{doing} {}", path.display()), error), path.parent().unwrap_or(path))
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Says which directory is full, if that is what happened.
pub(crate) fn name_full(error: Error, dir: &Path) -> Error {
    let cause = error.source.as_deref().and_then(|source| source.downcast_ref::<io::Error>());
    if !cause.is_some_and(is_full) {
        return error;
    }
    Error { doing: format!("{}: {} is full; free space there", error.doing, dir.display()), ..error }
}

/// Makes the entries of a directory last.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| failed("sync", dir, e))
}

/// Gives a finished file its name, for good: the file is synced by now, the directories are here.
pub(crate) fn publish(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).map_err(|e| failed("rename to", to, e))?;
    to.parent().map_or(Ok(()), sync_dir)
}

/// Writes a small file as a whole.
pub(crate) fn write_whole(scratch: &Path, to: &Path, bytes: &[u8]) -> Result<()> {
    let written = File::create(scratch).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|e| failed("write", scratch, e))?;
    publish(scratch, to)
}

/// Removes a file; one that is not there is removed already. Tells its size.
pub(crate) fn remove(path: &Path) -> Result<u64> {
    let size = std::fs::symlink_metadata(path).map_or(0, |meta| meta.len());
    match std::fs::remove_file(path) {
        Ok(()) => Ok(size),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(failed("remove", path, e)),
    }
}

/// A task of the blocking pool that did not come back.
pub(crate) fn lost(error: tokio::task::JoinError) -> Error {
    Error::caused_by(ErrorKind::Internal, "a task of the image store did not come back", error)
}
