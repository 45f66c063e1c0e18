//! Directories of an allocation on disk. Blocking.
//!
//! ```text
//! <data_dir>/alloc/<id>/alloc/{logs,tmp,data}     shared by its tasks
//!                      /<task>/{local,tmp}        a task's own; secrets and private are made by its sandbox
//! ```
//!
//! Everything above is root's alone. On disk the files belong to a block of ids that are nobody's on the host.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The user that is nobody inside.
const NOBODY: u32 = 65_534;
/// Deepest directory that is looked into: more is refused rather than followed for ever.
const DEPTH_MAX: usize = 128;

/// The directories of one allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AllocDirs {
    root: PathBuf,
    /// First of the block of ids on disk; 0: ids are those of the host.
    ids: u32,
}

impl AllocDirs {
    pub(super) fn new(root: PathBuf, ids: u32) -> Self {
        Self { root, ids }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn shared(&self) -> PathBuf {
        self.root.join("alloc")
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.root.join("alloc/logs")
    }

    pub(super) fn task(&self, task: &str) -> PathBuf {
        self.root.join(task)
    }

    pub(super) fn local(&self, task: &str) -> PathBuf {
        self.root.join(task).join("local")
    }

    /// Makes what is missing of them. `on_host`: tasks that run without a sandbox, whose secrets lie here too.
    pub(super) fn build<'a>(&self, tasks: impl IntoIterator<Item = (&'a str, bool)>) -> io::Result<()> {
        let parent = self.root.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        self.make(&self.root, 0o755, None)?;
        self.make(&self.shared(), 0o777, Some(NOBODY))?;
        for name in ["tmp", "data"] {
            self.make(&self.shared().join(name), 0o777, Some(NOBODY))?;
        }
        // Written by the daemon only.
        self.make(&self.logs(), 0o755, None)?;
        for (task, on_host) in tasks {
            self.make(&self.task(task), 0o777, Some(NOBODY))?;
            self.make(&self.local(task), 0o777, Some(NOBODY))?;
            self.make(&self.task(task).join("tmp"), 0o1777, Some(NOBODY))?;
            if on_host {
                self.make(&self.task(task).join("secrets"), 0o700, None)?;
                self.make(&self.task(task).join("private"), 0o700, None)?;
            }
        }
        Ok(())
    }

    /// One directory with its mode and owner, made or corrected.
    fn make(&self, path: &Path, mode: u32, owner: Option<u32>) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let found = std::fs::symlink_metadata(path)?;
        if !found.is_dir() {
            return Err(io::Error::other(format!("{}: is not a directory", path.display())));
        }
        let owner = owner.map_or(0, |id| self.ids + id);
        if rustix::process::geteuid().is_root() && found.uid() != owner {
            std::os::unix::fs::lchown(path, Some(owner), Some(owner))?;
        }
        std::fs::set_permissions(path, Permissions::from_mode(mode))
    }

    /// Takes what a predecessor left: its `alloc/data` and each task's `local`. What is not there is not taken.
    pub(super) fn take_from<'a>(&self, other: &Self, tasks: impl IntoIterator<Item = &'a str>) -> io::Result<()> {
        let mut moved = vec![(other.shared().join("data"), self.shared().join("data"))];
        moved.extend(tasks.into_iter().map(|task| (other.local(task), self.local(task))));
        for (from, to) in moved {
            if !std::fs::symlink_metadata(&from).is_ok_and(|found| found.is_dir()) {
                continue;
            }
            match std::fs::remove_dir(&to) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Something is there already: it was moved before, and written since.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => continue,
                other => other?,
            }
            std::fs::rename(&from, &to)?;
        }
        Ok(())
    }

    /// Bytes its files take on disk. Links are not followed, file systems mounted in it not entered.
    pub(super) fn bytes(&self) -> io::Result<u64> {
        let device = std::fs::symlink_metadata(&self.root)?.dev();
        bytes_below(&self.root, device, 0)
    }

    /// Removes all of it. What is not there is removed already.
    pub(super) fn remove(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn bytes_below(dir: &Path, device: u64, depth: usize) -> io::Result<u64> {
    if depth > DEPTH_MAX {
        return Ok(0);
    }
    let mut bytes = 0u64;
    for entry in std::fs::read_dir(dir)? {
        // A running program adds and removes files meanwhile.
        let Ok(entry) = entry else { continue };
        let Ok(found) = std::fs::symlink_metadata(entry.path()) else { continue };
        if found.dev() != device {
            continue;
        }
        bytes = bytes.saturating_add(found.blocks().saturating_mul(512));
        if found.is_dir() {
            bytes = bytes.saturating_add(bytes_below(&entry.path(), device, depth + 1).unwrap_or(0));
        }
    }
    Ok(bytes)
}
