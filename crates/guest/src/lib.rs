//! What a virtual machine boots: a kernel and an initramfs, made from a distribution's installed kernel package.
//!
//! [`build`] writes a directory that drivers read: `vmlinux` (an ELF kernel), `modules.cpio` (the modules a guest needs and
//! the order they are loaded in) and [`GuestImage`] as `guest.json`. The agent is not in it: a driver appends it with
//! [`initramfs`], so that a newer daemon needs no new guest.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Name of the manifest in the directory.
pub const MANIFEST: &str = "guest.json";

/// What a guest is built from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The kernel: a bzImage or an ELF file.
    pub kernel: PathBuf,
    /// Its modules (`/lib/modules/<version>`); none if everything is built in.
    pub modules: Option<PathBuf>,
}

/// A guest, as its manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestImage {
    /// Version of the kernel, as `uname -r` says inside.
    pub kernel_version: String,
    /// SHA-256 of `vmlinux`, hex.
    pub kernel_sha256: String,
    /// SHA-256 of `modules.cpio`, hex.
    pub modules_sha256: String,
    /// Names of the modules in it, in the order they are loaded.
    pub modules: Vec<String>,
}

/// Why no guest could be built or read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// A guest on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Its directory.
    pub dir: PathBuf,
    /// Its manifest.
    pub image: GuestImage,
}

impl Guest {
    /// Reads a directory that [`build`] wrote. Digests are checked by `verify`, not here: this happens at every start.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(MANIFEST);
        let text = std::fs::read(&path).map_err(|e| Error(format!("{}: {e}", path.display())))?;
        let image = serde_json::from_slice(&text).map_err(|e| Error(format!("{}: {e}", path.display())))?;
        Ok(Self { dir: dir.to_owned(), image })
    }

    /// The ELF kernel.
    pub fn kernel(&self) -> PathBuf {
        self.dir.join("vmlinux")
    }

    /// The modules.
    pub fn modules(&self) -> PathBuf {
        self.dir.join("modules.cpio")
    }
}
