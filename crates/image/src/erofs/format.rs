//! The bytes of erofs: superblock, inodes, extended attributes, directories.
//!
//! All little-endian, as in the kernel's `fs/erofs/erofs_fs.h`. Every inode is of the extended form (64 bytes): only that has
//! a time of its own and ids of 32 bits.

use super::attributes::number;
use super::data::BLOCK;
use super::header::invalid;
use super::index::{Attributes, Node, Xattrs};
use crate::error::Result;

/// Size of an inode without attributes and content.
pub(super) const INODE: u64 = 64;

/// What an inode number counts.
pub(super) const SLOT: u64 = 32;

/// The superblock is this far into its block.
const SUPER_AT: usize = 1024;
const MAGIC: u32 = 0xe0f5_e1e2;
/// The superblock has a checksum, and times are times of change.
const FEATURES: u32 = 0x1 | 0x2;

/// Size of an entry of a directory without its name.
const DIRENT: u64 = 12;

/// What the superblock says.
pub(super) struct Super {
    /// Number of the root.
    pub(super) root: u16,
    /// How many inodes.
    pub(super) inodes: u64,
    /// How many blocks.
    pub(super) blocks: u32,
    /// The block that inode numbers count from.
    pub(super) meta: u32,
    /// Identity.
    pub(super) uuid: [u8; 16],
}

impl Super {
    /// Block 0.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOCK as usize);
        out.resize(SUPER_AT, 0);
        for word in [MAGIC, 0, FEATURES] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        // 2^12 bytes to a block, no slots behind the superblock.
        out.extend_from_slice(&[12, 0]);
        out.extend_from_slice(&self.root.to_le_bytes());
        out.extend_from_slice(&self.inodes.to_le_bytes());
        // Built at 0, so that the same layers make the same file.
        out.extend_from_slice(&[0; 12]);
        for word in [self.blocks, self.meta, 0] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&self.uuid);
        // No name of the volume and none of the incompatible features.
        out.resize(BLOCK as usize, 0);
        let sum = crc32c(out.get(SUPER_AT..).unwrap_or_default());
        if let Some(place) = out.get_mut(SUPER_AT + 4..SUPER_AT + 8) {
            place.copy_from_slice(&sum.to_le_bytes());
        }
        out
    }
}

/// CRC-32C as erofs wants it: begun with all ones, not inverted at the end. For one block at a time, so bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

/// Where the content of an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content {
    /// Bytes in all.
    pub(super) size: u64,
    /// Bytes of it that stand right behind the inode; the others are in whole blocks.
    pub(super) inline: u64,
    /// The first of these blocks.
    pub(super) block: u32,
}

/// An inode, with its extended attributes.
pub(super) fn inode(
    attributes: &Attributes,
    node: &Node,
    number: u32,
    links: u32,
    content: Content,
) -> Result<Vec<u8>> {
    let xattrs = attributes.xattrs.as_deref().map(xattrs).transpose()?.unwrap_or_default();
    // The unit is four bytes, the first of which stands for the header of twelve.
    let units = if xattrs.is_empty() { 0 } else { (xattrs.len() - XATTRS_HEADER) / 4 + 1 };
    let units = u16::try_from(units).map_err(|_| invalid("too many extended attributes"))?;
    let layout: u16 = if content.inline > 0 { 2 } else { 0 };
    let mut out = Vec::with_capacity(INODE as usize + xattrs.len());
    out.extend_from_slice(&(layout << 1 | 1).to_le_bytes());
    out.extend_from_slice(&units.to_le_bytes());
    out.extend_from_slice(&(type_bits(node) | attributes.mode & 0o7777).to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&content.size.to_le_bytes());
    // For a whiteout this is its device number, 0/0.
    for word in [content.block, number, attributes.uid, attributes.gid] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&attributes.mtime.to_le_bytes());
    out.extend_from_slice(&attributes.mtime_nsec.to_le_bytes());
    out.extend_from_slice(&links.to_le_bytes());
    out.extend_from_slice(&[0; 16]);
    out.extend_from_slice(&xattrs);
    Ok(out)
}

const XATTRS_HEADER: usize = 12;

/// Bytes that [`inode`] puts behind the inode.
pub(super) fn xattrs_len(attributes: &Attributes) -> u64 {
    let Some(xattrs) = &attributes.xattrs else { return 0 };
    let mut bytes = XATTRS_HEADER;
    for (name, value) in xattrs.iter() {
        let rest = number(name).map_or(0, |(_, rest)| rest.len());
        bytes += (4 + rest + value.len()).next_multiple_of(4);
    }
    bytes as u64
}

fn xattrs(xattrs: &Xattrs) -> Result<Vec<u8>> {
    let mut out = vec![0; XATTRS_HEADER];
    for (name, value) in xattrs {
        let wrong = |_| invalid("an extended attribute that does not fit");
        let (namespace, rest) = number(name).ok_or_else(|| invalid("an extended attribute of no namespace"))?;
        out.push(u8::try_from(rest.len()).map_err(wrong)?);
        out.push(namespace);
        out.extend_from_slice(&u16::try_from(value.len()).map_err(wrong)?.to_le_bytes());
        out.extend_from_slice(rest);
        out.extend_from_slice(value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    Ok(out)
}

fn type_bits(node: &Node) -> u16 {
    match node {
        Node::Pipe => 0o010_000,
        Node::Hidden => 0o020_000,
        Node::Directory => 0o040_000,
        Node::File(_) => 0o100_000,
        Node::Symlink(_) => 0o120_000,
    }
}

fn type_number(node: &Node) -> u8 {
    match node {
        Node::File(_) => 1,
        Node::Directory => 2,
        Node::Hidden => 3,
        Node::Pipe => 5,
        Node::Symlink(_) => 7,
    }
}

/// Size of a directory with these names.
pub(super) fn directory_len<'a>(names: impl Iterator<Item = &'a [u8]>) -> u64 {
    let (mut blocks, mut used) = (0, 0);
    for name in names {
        let more = DIRENT + name.len() as u64;
        if used + more > BLOCK {
            blocks += 1;
            used = 0;
        }
        used += more;
    }
    blocks * BLOCK + used
}

/// Content of a directory: blocks of entries, each followed by their names, sorted by name throughout.
#[derive(Debug, Default)]
pub(super) struct Directory {
    out: Vec<u8>,
    heads: Vec<(u64, u8, usize)>,
    names: Vec<u8>,
}

impl Directory {
    /// The next name.
    pub(super) fn add(&mut self, name: &[u8], number: u64, node: &Node) {
        let used = self.heads.len() as u64 * DIRENT + self.names.len() as u64;
        if used + DIRENT + name.len() as u64 > BLOCK {
            self.block();
            self.out.resize(self.out.len().next_multiple_of(BLOCK as usize), 0);
        }
        self.heads.push((number, type_number(node), self.names.len()));
        self.names.extend_from_slice(name);
    }

    /// All of it.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.block();
        self.out
    }

    fn block(&mut self) {
        let names_at = self.heads.len() * DIRENT as usize;
        for (number, kind, name_at) in self.heads.drain(..) {
            self.out.extend_from_slice(&number.to_le_bytes());
            // Within a block, so that 16 bits are enough.
            self.out.extend_from_slice(&((names_at + name_at) as u16).to_le_bytes());
            self.out.extend_from_slice(&[kind, 0]);
        }
        self.out.append(&mut self.names);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc32c() {
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_directory_is_as_long_as_was_said() {
        for count in [0, 1, 2, 50, 100, 1000, 5000] {
            let names: Vec<String> = (0..count).map(|n| format!("{n:05}{}", "x".repeat(n % 250))).collect();
            let mut directory = Directory::default();
            for name in &names {
                directory.add(name.as_bytes(), 7, &Node::Pipe);
            }
            assert_eq!(directory.finish().len() as u64, directory_len(names.iter().map(String::as_bytes)), "{count}");
        }
    }
}
