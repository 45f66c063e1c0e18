//! Directories of ours: for root alone, and gone when they are not needed.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;

/// Makes a directory for root alone.
pub fn make_private_dir(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| Error::caused_by(ErrorKind::Internal, format!("make directory {}", path.display()), e))
}

/// Removes a directory and everything in it; succeeds if there is none.
pub fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::caused_by(ErrorKind::Internal, format!("remove directory {}", path.display()), e))
        }
        _ => Ok(()),
    }
}
