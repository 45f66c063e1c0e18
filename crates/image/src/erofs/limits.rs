//! Bounds on what an archive may make of us, counted over all layers while they stream.

use std::sync::atomic::{AtomicU64, Ordering};

use moat_model::ErrorKind;

use crate::error::{Error, Result};

/// Bounds on what an archive may make of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Files, directories and links in all layers together.
    pub entries_max: u64,
    /// Bytes of all layers together, uncompressed, and of what sparse files stand for.
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

/// Names and attributes are in memory until the end. 512 MiB are 250 bytes for each of two million entries; what is above
/// was made to hurt.
const INDEX_BYTES_MAX: u64 = 512 << 20;

/// The longest name in a directory, in erofs as in every other file system.
pub(super) const NAME_LEN_MAX: usize = 255;

/// From how many uncompressed bytes on the ratio counts: below, a bomb is no bomb.
const RATIO_FROM: u64 = 16 << 20;

/// What has been used of the limits.
#[derive(Debug)]
pub(super) struct Budget {
    /// The bounds.
    pub(super) limits: Limits,
    entries: AtomicU64,
    bytes: AtomicU64,
    index: AtomicU64,
}

impl Budget {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, entries: AtomicU64::new(0), bytes: AtomicU64::new(0), index: AtomicU64::new(0) }
    }

    /// One more file, directory or link.
    pub(super) fn entry(&self) -> Result<()> {
        take(&self.entries, 1, self.limits.entries_max, "entries")
    }

    /// So many more bytes of content.
    pub(super) fn bytes(&self, count: u64) -> Result<()> {
        take(&self.bytes, count, self.limits.bytes_max, "bytes")
    }

    /// So many more bytes of names and attributes.
    pub(super) fn index(&self, count: u64) -> Result<()> {
        take(&self.index, count, INDEX_BYTES_MAX, "bytes of names and attributes")
    }

    /// Whether a layer that was `compressed` and has become `uncompressed` so far is a bomb.
    pub(super) fn ratio(&self, compressed: u64, uncompressed: u64) -> Result<()> {
        if uncompressed <= RATIO_FROM || uncompressed / self.limits.ratio_max.max(1) <= compressed {
            return Ok(());
        }
        let most = self.limits.ratio_max;
        Err(Error::new(ErrorKind::Exhausted, format!("layer: expands to more than {most} times its compressed size")))
    }
}

fn take(counter: &AtomicU64, count: u64, most: u64, what: &str) -> Result<()> {
    let before = counter.fetch_add(count, Ordering::Relaxed);
    if before.checked_add(count).is_some_and(|now| now <= most) {
        return Ok(());
    }
    // What was not granted is given back, so that the counter cannot wrap whatever comes.
    counter.fetch_sub(count, Ordering::Relaxed);
    Err(Error::new(ErrorKind::Exhausted, format!("image: more than {most} {what} in all layers")))
}

/// Names the entry a failure is about; the names of archives are bytes of anybody's choice.
pub(super) fn about(name: &[u8], error: Error) -> Error {
    Error { doing: format!("{}: {}", shown(name), error.doing), ..error }
}

/// A refusal of an entry, with the reason.
pub(super) fn refused(name: &[u8], why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidSpec, format!("{}: {why}", shown(name)))
}

/// A name from an archive, fit for a message: quoted, escaped and not longer than a line.
pub(super) fn shown(name: &[u8]) -> String {
    let mut text = name.get(..name.len().min(200)).unwrap_or(name).escape_ascii().to_string();
    if name.len() > 200 {
        text.push('…');
    }
    format!("entry \"{text}\"")
}
