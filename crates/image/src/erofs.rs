//! One read-only erofs file of all layers of an image, written in one pass.
//!
//! Data of regular files goes into the file as the layers stream in, in parallel; names and attributes are kept in an index
//! on which whiteouts and replacements are applied; when all layers are through, inodes, directories and the superblock are
//! written behind the data. Uncompressed, 4 KiB blocks: readable by every kernel that has erofs, and mapped without copying.

use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;

use crate::error::Result;

/// Bounds on what an archive may make of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Files, directories and links in all layers together.
    pub entries_max: u64,
    /// Bytes of content in all layers together.
    pub bytes_max: u64,
    /// Uncompressed bytes for each compressed one, once a layer is larger than 16 MiB.
    pub ratio_max: u64,
    /// Length of a path.
    pub path_len_max: usize,
    /// Bytes of extended attributes of one file.
    pub xattr_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries_max: 2_000_000,
            bytes_max: 64 << 30,
            ratio_max: 1000,
            path_len_max: 4096,
            xattr_bytes_max: 64 << 10,
        }
    }
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not.
    None,
    /// gzip, several members in a row allowed.
    Gzip,
    /// zstd, several frames in a row allowed.
    Zstd,
}

/// What a finished root file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootSummary {
    /// Size of the file.
    pub bytes: u64,
    /// Files, directories and links in it.
    pub entries: u64,
}

/// Builds one root file. `add_layer` may be called from several threads at once, once for each layer.
#[derive(Debug)]
pub struct RootBuilder {
    _file: File,
    _limits: Limits,
}

impl RootBuilder {
    /// A builder that writes to `file`, empty and opened for reading and writing, for so many layers.
    pub fn new(file: File, layers: usize, limits: Limits) -> Self {
        let _ = layers;
        Self { _file: file, _limits: limits }
    }

    /// Takes the tar stream of layer number `index`, 0 the lowest. `compressed_len` is for the ratio bound.
    pub fn add_layer(&self, index: usize, compression: Compression, compressed_len: u64, tar: impl Read) -> Result<()> {
        let _ = (index, compression, compressed_len, tar);
        Err(not_yet())
    }

    /// Takes a directory of the host as layer number `index`. Links are never followed out of it. `uid_shift` is taken off
    /// every id (the first host id of the sandbox whose files these are). With `overlay`, it is the upper directory of an
    /// overlay: whiteouts (character devices 0/0) and opaque marks are kept as they are, to be a layer of an overlay again;
    /// without, devices are dropped.
    pub fn add_directory(&self, index: usize, dir: BorrowedFd<'_>, uid_shift: u32, overlay: bool) -> Result<()> {
        let _ = (index, dir, uid_shift, overlay);
        Err(not_yet())
    }

    /// Applies whiteouts, writes what is left to write, and syncs.
    pub fn finish(self) -> Result<RootSummary> {
        Err(not_yet())
    }
}

fn not_yet() -> crate::Error {
    crate::Error::new(moat_model::ErrorKind::Unsupported, "write a root file")
}
