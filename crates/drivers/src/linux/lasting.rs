//! What is done on the host before and after a sandbox whose writable layer outlives it. The layer itself is the launcher's.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;
use moat_model::spec::LastingRoot;
use rustix::fs::{CWD, Mode, OFlags, openat, syncfs};

use crate::lasting::remove;

/// How long the end of a sandbox waits for the disk. What takes longer is written out all the same, later.
const WRITTEN_WITHIN: Duration = Duration::from_secs(5);

/// Looks at the directory, and removes what an overlay that ended in the middle of something left for itself.
pub async fn prepare(lasting: &LastingRoot, uid_base: u32) -> Result<()> {
    if lasting.uid_base != uid_base {
        let what = format!("lasting.uid_base: {} was asked for and {uid_base} given", lasting.uid_base);
        return Err(Error::new(ErrorKind::Internal, what));
    }
    let dir = lasting.dir.clone();
    tokio::task::spawn_blocking(move || {
        let found = fs::symlink_metadata(&dir)
            .map_err(|e| Error::caused_by(ErrorKind::NotFound, format!("lasting.dir: {}", dir.display()), e))?;
        if !found.is_dir() || found.uid() != 0 || found.mode() & 0o077 != 0 {
            let why = format!("{} must be a directory of root, for nobody else: chmod 0700", dir.display());
            return Err(Error::invalid("lasting.dir", why));
        }
        remove(&dir.join("work"))
    })
    .await
    .map_err(|e| Error::caused_by(ErrorKind::Internal, "prepare the lasting layer", e))?
}

/// What was written survives the power from now on. Nothing that happens here keeps a sandbox from having ended.
pub async fn write_out(dir: PathBuf) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let shown = dir.display().to_string();
    let write = move || openat(CWD, &dir, flags, Mode::empty()).and_then(syncfs);
    match tokio::time::timeout(WRITTEN_WITHIN, tokio::task::spawn_blocking(write)).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::warn!(dir = shown, %error, "not written out at the end of its sandbox"),
        Ok(Err(error)) => tracing::warn!(dir = shown, %error, "not written out at the end of its sandbox"),
        Err(_) => tracing::warn!(dir = shown, "the disk is slow: what a sandbox left is written out later"),
    }
}
