//! One read-only erofs file of all layers of an image, written in one pass.
//!
//! Data of regular files goes into the file as the layers stream in, in parallel; names and attributes are kept in an index
//! on which whiteouts and replacements are applied; when all layers are through, inodes, directories and the superblock are
//! written behind the data. Uncompressed, 4 KiB blocks: readable by every kernel that has erofs, and mapped without copying.
//!
//! Nothing is ever written to the host by a name from an archive: names are only looked up in the index. What a hostile
//! archive can do is make a wrong root for its own sandbox.

mod archive;
mod attributes;
mod data;
mod decompress;
mod directory;
mod format;
mod header;
mod host_attributes;
mod index;
mod limits;
mod overlay;
mod path;
mod pax;
#[cfg(test)]
mod tests;
mod tree;
mod write;

use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::sync::Mutex;

use moat_model::ErrorKind;

pub use self::decompress::Compression;
pub use self::limits::Limits;

/// Headers of tar archives, read with bounds: for whoever unpacks one that nobody vouches for.
pub mod tar {
    pub use super::header::{Header, RECORD};
    pub use super::index::Xattrs;
    pub use super::pax::{EXTENDED_MAX, Extended, says_nothing};
}

use self::archive::Archive;
use self::data::Space;
use self::decompress::Stream;
use self::index::Layer;
use self::limits::Budget;
use self::tree::Tree;
use crate::Digest;
use crate::error::{Error, Result};

/// What a layer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerSummary {
    /// Of the uncompressed stream: what the configuration of an image calls `diff_id`.
    pub diff_id: Digest,
    /// Entries of its archive.
    pub entries: u64,
    /// Uncompressed bytes.
    pub bytes: u64,
    /// Devices and sockets among the entries, which a root does not keep.
    pub dropped: u64,
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
    space: Space,
    budget: Budget,
    layers: Mutex<Vec<Option<Layer>>>,
}

impl RootBuilder {
    /// A builder that writes to `file`, empty and opened for reading and writing, for so many layers.
    pub fn new(file: File, layers: usize, limits: Limits) -> Self {
        let layers = std::iter::repeat_with(|| None).take(layers).collect();
        Self { space: Space::new(file), budget: Budget::new(limits), layers: Mutex::new(layers) }
    }

    /// Takes the tar stream of layer number `index`, 0 the lowest, to its end. `compressed_len` is for the ratio bound; 0 if
    /// it is not known.
    pub fn add_layer(
        &self,
        index: usize,
        compression: Compression,
        compressed_len: u64,
        tar: impl Read,
    ) -> Result<LayerSummary> {
        self.add(index, compression, compressed_len, tar, std::convert::identity)
    }

    /// The same for a layer that is to be a layer of an overlay again: its whiteouts and opaque marks are kept, as that file system
    /// reads them, instead of applied.
    pub fn add_overlay(
        &self,
        index: usize,
        compression: Compression,
        compressed_len: u64,
        tar: impl Read,
    ) -> Result<LayerSummary> {
        self.add(index, compression, compressed_len, tar, overlay::keep_marks)
    }

    fn add(
        &self,
        index: usize,
        compression: Compression,
        compressed_len: u64,
        tar: impl Read,
        marks: impl FnOnce(Vec<index::Entry>) -> Vec<index::Entry>,
    ) -> Result<LayerSummary> {
        let stream = Stream::new(&self.budget, compression, compressed_len, tar)?;
        let contents = Archive::new(stream, &self.budget, &self.space).read()?;
        let (diff_id, bytes) = contents.stream.finish();
        let entries = contents.entries.len() as u64 + contents.dropped;
        self.put(index, Layer { entries: marks(contents.entries), identity: diff_id.bytes() })?;
        Ok(LayerSummary { diff_id, entries, bytes, dropped: contents.dropped })
    }

    /// Takes a directory of the host as layer number `index`. Links are never followed out of it. `uid_shift` is taken off
    /// every id (the first host id of the sandbox whose files these are). With `overlay`, it is the upper directory of an
    /// overlay: whiteouts (character devices 0/0) and opaque marks are kept as they are, to be a layer of an overlay again;
    /// without, devices are dropped.
    pub fn add_directory(&self, index: usize, dir: BorrowedFd<'_>, uid_shift: u32, overlay: bool) -> Result<()> {
        let layer = directory::read(dir, uid_shift, overlay, &self.budget, &self.space)?;
        self.put(index, layer)
    }

    /// Applies whiteouts, writes what is left to write, and syncs.
    pub fn finish(self) -> Result<RootSummary> {
        let layers = self.layers.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut tree = Tree::new(&self.budget);
        let mut identities = Vec::with_capacity(layers.len());
        for (layer, number) in layers.into_iter().zip(1..) {
            let missing = || Error::new(ErrorKind::Internal, format!("layer {number} was not added"));
            let layer = layer.ok_or_else(missing)?;
            identities.push(layer.identity);
            tree.apply(number, layer)?;
        }
        write::write(&tree, &self.space, &identities)
    }

    fn put(&self, index: usize, layer: Layer) -> Result<()> {
        let mut layers = self.layers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match layers.get_mut(index) {
            Some(place @ None) => {
                *place = Some(layer);
                Ok(())
            }
            _ => Err(Error::new(ErrorKind::Internal, format!("layer {index} has no place or was added before"))),
        }
    }
}
