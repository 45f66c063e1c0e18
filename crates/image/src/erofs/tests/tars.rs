//! Archives made by hand, honest and not.

use std::io::Read;

use crate::erofs::{Compression, LayerSummary, Limits, RootBuilder, RootSummary};
use crate::error::Result;

/// An archive that grows.
#[derive(Debug, Default, Clone)]
pub(super) struct Tar(pub(super) Vec<u8>);

impl Tar {
    /// Any entry: what a header says, and the content.
    pub(super) fn entry(mut self, kind: u8, name: &str, link: &str, mode: u32, content: &[u8]) -> Self {
        assert!(name.len() <= 100 && link.len() <= 100, "use a long name");
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.as_mut_bytes()[156] = kind;
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_mtime(1_600_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(b'0', name, "", 0o644, content)
    }

    pub(super) fn dir(self, name: &str) -> Self {
        self.entry(b'5', name, "", 0o755, b"")
    }

    pub(super) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(b'2', name, target, 0o777, b"")
    }

    pub(super) fn link(self, name: &str, target: &str) -> Self {
        self.entry(b'1', name, target, 0o644, b"")
    }

    /// Records about the next entry.
    pub(super) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut bytes = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while rest + length.to_string().len() != length {
                length += 1;
            }
            bytes.extend_from_slice(format!("{length} {key}=").as_bytes());
            bytes.extend_from_slice(value);
            bytes.push(b'\n');
        }
        self.entry(b'x', "pax", "", 0o644, &bytes)
    }

    /// The archive with its end.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// What these uncompressed layers make, in a file that has no name.
pub(super) fn built(layers: &[Vec<u8>]) -> Result<(std::fs::File, RootSummary)> {
    built_within(layers, Limits::default())
}

/// The same within these limits.
pub(super) fn built_within(layers: &[Vec<u8>], limits: Limits) -> Result<(std::fs::File, RootSummary)> {
    let file = tempfile::tempfile().unwrap();
    let builder = RootBuilder::new(file.try_clone().unwrap(), layers.len(), limits);
    for (index, layer) in layers.iter().enumerate() {
        builder.add_layer(index, Compression::None, layer.len() as u64, &layer[..])?;
    }
    Ok((file, builder.finish()?))
}

/// One layer by itself.
pub(super) fn layer(compression: Compression, compressed_len: u64, tar: impl Read) -> Result<LayerSummary> {
    let builder = RootBuilder::new(tempfile::tempfile().unwrap(), 1, Limits::default());
    let summary = builder.add_layer(0, compression, compressed_len, tar)?;
    builder.finish().map(|_| summary)
}
