//! Files of machines that were kept: whether they are the ones, and which of them a snapshot of differences goes on from.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;

use super::driver::FirecrackerDriver;
use crate::vm::machine::Machine;
use crate::vm::snapshot::Manifest;

/// Files remembered: those of some three hundred snapshots. Beyond, all are looked at again.
const FILES_MAX: usize = 1000;

/// Files whose digest was right, and that have not changed since: many machines are made from one.
#[derive(Debug, Default)]
pub struct Verified {
    files: Mutex<BTreeSet<Stamp>>,
}

/// What changes when a file is written to or replaced.
type Stamp = (u64, u64, u64, i64, i64, String);

impl Verified {
    /// Whether a file is the one that was kept. Reads all of it, the first time.
    pub async fn check(&self, manifest: &Manifest, dir: &Path, name: &str) -> Result<()> {
        let before = stamp(manifest, dir, name)?;
        if self.files.lock().unwrap_or_else(PoisonError::into_inner).contains(&before) {
            return Ok(());
        }
        manifest.verify(dir, name).await?;
        // Changed while it was read, it is looked at the next time too.
        if stamp(manifest, dir, name)? == before {
            let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            if files.len() >= FILES_MAX {
                files.clear();
            }
            files.insert(before);
        }
        Ok(())
    }
}

fn stamp(manifest: &Manifest, dir: &Path, name: &str) -> Result<Stamp> {
    let path = dir.join(name);
    let found = fs::metadata(&path)
        .map_err(|e| Error::caused_by(ErrorKind::NotFound, format!("restore: {}", path.display()), e))?;
    let digest = manifest.files.get(name).cloned().unwrap_or_default();
    Ok((found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec(), digest))
}

/// The memory as it was when the kernel last began to count what is written to it.
pub fn base(machine: &Machine) -> PathBuf {
    machine.data_dir.join("memory.base")
}

impl FirecrackerDriver {
    /// Remembers a memory as the one that differences are from now on counted from. On another file system there is none,
    /// and the next snapshot is a whole one.
    pub(super) fn keep_base(&self, memory: &Path, machine: &Machine) -> Result<()> {
        forget_base(machine)?;
        if self.config.track_dirty_pages
            && let Err(error) = fs::hard_link(memory, base(machine))
        {
            tracing::debug!(%error, memory = %memory.display(), "the next snapshot of this machine will be a whole one");
        }
        Ok(())
    }
}

/// There is none from now on.
pub fn forget_base(machine: &Machine) -> Result<()> {
    let path = base(machine);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::caused_by(ErrorKind::Internal, format!("remove {}", path.display()), e))
        }
        _ => Ok(()),
    }
}
