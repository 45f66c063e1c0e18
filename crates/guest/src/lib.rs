//! What a virtual machine boots: a kernel and an initramfs, made from a distribution's installed kernel package.
//!
//! [`build`] writes a directory that drivers read: `vmlinux` (an ELF kernel), `modules.cpio` (the modules a guest needs and
//! the order they are loaded in) and [`GuestImage`] as `guest.json`. The agent is not in it: a driver appends it with
//! [`initramfs`], so that a newer daemon needs no new guest.
//!
//! What callers may assume: the same source makes the same bytes; a directory holds a whole guest or none; a kernel and
//! modules from anybody cost bounded memory and never a panic. Everything here blocks: call it where that is allowed.

mod build;
mod compression;
mod cpio;
mod find;
mod initramfs;
pub mod kernel;
mod modules;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use build::build;
pub use find::{INSTALL, find_source, find_source_below, fix, source_of};
pub use initramfs::{MODULES_LIST, agent_cpio, initramfs};

/// Name of the manifest in the directory.
pub const MANIFEST: &str = "guest.json";
const KERNEL: &str = "vmlinux";
const MODULES: &str = "modules.cpio";

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
    /// Names of modules that would have been of use and that this kernel does not have, neither as a file nor built in.
    pub absent: Vec<String>,
    /// Whether the kernel can be entered the PVH way: QEMU needs that of an ELF kernel.
    pub pvh: bool,
}

/// Why no guest could be built or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What a caller may decide by.
    pub kind: ErrorKind,
    /// What is wrong, with what, and the fix where there is one.
    pub message: String,
}

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// What was named cannot become a guest, or is none.
    Unusable,
    /// There is nothing to build from, or no guest.
    Missing,
    /// The machine did not let us read or write.
    File(io::ErrorKind),
}

impl Error {
    fn unusable(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Unusable, message: message.into() }
    }

    fn missing(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Missing, message: message.into() }
    }
}

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
        let text = std::fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Error::missing(format!("{}: no guest there; make one: `moat guest build`", dir.display()))
            }
            _ => at(&path)(error),
        })?;
        let image = serde_json::from_slice(&text).map_err(|e| {
            Error::unusable(format!(
                "{}: {e}; made by another version? make it again: `moat guest build`",
                path.display()
            ))
        })?;
        Ok(Self { dir: dir.to_owned(), image })
    }

    /// Checks that both files are those of the manifest.
    pub fn verify(&self) -> Result<(), Error> {
        for (path, wanted) in [(self.kernel(), &self.image.kernel_sha256), (self.modules(), &self.image.modules_sha256)]
        {
            let found = digest_of(&path)?;
            if found != *wanted {
                return Err(Error::unusable(format!(
                    "{}: its SHA-256 is {found}, but {MANIFEST} says {wanted}; make it again: `moat guest build`",
                    path.display()
                )));
            }
        }
        Ok(())
    }

    /// One line for people.
    pub fn describe(&self) -> String {
        let image = &self.image;
        let mut line = format!("kernel {}, {} modules", image.kernel_version, image.modules.len());
        if !image.absent.is_empty() {
            line += &format!(", without {}", image.absent.join(", "));
        }
        if !image.pvh {
            line += ", no PVH entry (QEMU cannot start it)";
        }
        line
    }

    /// The ELF kernel.
    pub fn kernel(&self) -> PathBuf {
        self.dir.join(KERNEL)
    }

    /// The modules.
    pub fn modules(&self) -> PathBuf {
        self.dir.join(MODULES)
    }
}

/// Says which file it was.
fn at(path: &Path) -> impl Fn(io::Error) -> Error + '_ {
    move |error| Error { kind: ErrorKind::File(error.kind()), message: format!("{}: {error}", path.display()) }
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The digest of a file that need not fit the memory.
fn digest_of(path: &Path) -> Result<String, Error> {
    let mut file = File::open(path).map_err(at(path))?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 16];
    loop {
        let count = file.read(&mut piece).map_err(at(path))?;
        if count == 0 {
            return Ok(hex::encode(hash.finalize()));
        }
        hash.update(piece.get(..count).unwrap_or_default());
    }
}
