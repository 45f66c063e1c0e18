//! A file system of its own, in a file: for what the one of this machine cannot do.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::tool;

/// An XFS that can share blocks of files, mounted until this is dropped.
#[derive(Debug)]
pub struct SharingDisk {
    root: PathBuf,
    /// Where the image and the mount point lie.
    _dir: TempDir,
}

impl SharingDisk {
    /// Makes one of so many bytes, at least 300 MiB, of which it takes what is written. Nothing where the tool for it is not.
    pub fn make(bytes: u64) -> anyhow::Result<Option<Self>> {
        let Some(mkfs) = tool("mkfs.xfs") else { return Ok(None) };
        // Not in memory: what a large one takes would be missed by the tests beside it.
        let dir = tempfile::Builder::new().prefix("moat-disk-").tempdir_in("/var/tmp")?;
        let image = dir.path().join("image");
        std::fs::File::create(&image)?.set_len(bytes)?;
        run(Command::new(mkfs).args(["-q", "-m", "reflink=1"]).arg(&image))?;
        let root = dir.path().join("d");
        std::fs::create_dir(&root)?;
        run(Command::new("mount").args(["-t", "xfs", "-o", "loop"]).arg(&image).arg(&root))?;
        Ok(Some(Self { root, _dir: dir }))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// What is taken on it, in bytes, everything written out.
    pub fn taken(&self) -> anyhow::Result<u64> {
        run(Command::new("sync").arg("-f").arg(&self.root))?;
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok((stat.f_blocks - stat.f_bfree) * stat.f_frsize)
    }
}

impl Drop for SharingDisk {
    fn drop(&mut self) {
        // Lazily: what still has a file of it open keeps it alive no longer than itself.
        let _ = Command::new("umount").arg("--lazy").arg(&self.root).status();
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
