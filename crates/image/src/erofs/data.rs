//! Where the content of files lies in the root file: whole blocks, given out to several layers at once.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use moat_model::ErrorKind;
use rustix::fs::{FallocateFlags, fallocate};

use crate::error::{Error, Result};

/// Size of a block.
pub(super) const BLOCK: u64 = 4096;

/// Block 0 is the superblock's.
const FIRST: u64 = 1;

/// Blocks a layer takes at once, 16 MiB: small files of one layer lie together and are written together. What is left over
/// at the end is given back, or a hole.
const CHUNK: u64 = (16 << 20) / BLOCK;

/// Bytes collected before they are written.
const BUFFER: usize = 1 << 20;

/// Where the content of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Extent {
    /// First block; 0 for a file without content.
    pub(super) block: u32,
    /// Bytes.
    pub(super) size: u64,
}

impl Extent {
    /// How many blocks it takes.
    pub(super) fn blocks(self) -> u64 {
        self.size.div_ceil(BLOCK)
    }
}

/// The file, and how much of it is taken.
#[derive(Debug)]
pub(super) struct Space {
    file: File,
    next: AtomicU64,
}

impl Space {
    pub(super) fn new(file: File) -> Self {
        Self { file, next: AtomicU64::new(FIRST) }
    }

    /// Takes so many blocks in a row; the number of the first.
    pub(super) fn take(&self, blocks: u64) -> Result<u64> {
        let first = self.next.fetch_add(blocks, Ordering::Relaxed);
        // Block numbers on disk have 32 bits.
        match first.checked_add(blocks) {
            Some(end) if end < u64::from(u32::MAX) => Ok(first),
            _ => Err(Error::new(ErrorKind::Exhausted, "root file: larger than 16 TiB")),
        }
    }

    /// The first block nobody has taken.
    pub(super) fn end(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Writes there.
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file.write_all_at(bytes, offset).map_err(|e| failed("write the root file", e))
    }

    /// Gives the blocks of a file that is in nobody's tree back to the file system below. Where that cannot be, they stay.
    pub(super) fn punch(&self, extent: Extent) {
        let (offset, length) = (u64::from(extent.block) * BLOCK, extent.blocks() * BLOCK);
        let _ = fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length);
    }

    /// Sets the length and waits until all is on the disk.
    pub(super) fn close(&self, blocks: u64) -> Result<()> {
        self.file.set_len(blocks * BLOCK).map_err(|e| failed("set the length of the root file", e))?;
        self.file.sync_all().map_err(|e| failed("sync the root file", e))
    }

    fn give_back(&self, next: u64, end: u64) {
        // Only what was taken last can be given back; anything else stays a hole.
        let _ = self.next.compare_exchange(end, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

fn failed(doing: &str, error: std::io::Error) -> Error {
    let kind = match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT | rustix::io::Errno::FBIG) => ErrorKind::Exhausted,
        _ => ErrorKind::Unavailable,
    };
    Error::caused_by(kind, doing, error)
}

/// Writes the files of one layer, one after the other, in large pieces.
pub(super) struct Streamer<'a> {
    space: &'a Space,
    // What is left of the chunk, as block numbers.
    chunk_next: u64,
    chunk_end: u64,
    buffer: Vec<u8>,
    buffer_at: u64,
}

impl<'a> Streamer<'a> {
    pub(super) fn new(space: &'a Space) -> Self {
        Self { space, chunk_next: 0, chunk_end: 0, buffer: Vec::new(), buffer_at: 0 }
    }

    /// One that writes from this offset on, in blocks already taken.
    pub(super) fn from(space: &'a Space, offset: u64) -> Self {
        Self { buffer_at: offset, ..Self::new(space) }
    }

    /// Begins a file of this size: the following writes are its content, in order.
    pub(super) fn begin(&mut self, size: u64) -> Result<Extent> {
        let blocks = size.div_ceil(BLOCK);
        if blocks == 0 {
            return Ok(Extent::default());
        }
        let first = if blocks > CHUNK / 4 && blocks > self.chunk_end - self.chunk_next {
            self.space.take(blocks)?
        } else {
            if blocks > self.chunk_end - self.chunk_next {
                self.space.give_back(self.chunk_next, self.chunk_end);
                self.chunk_next = self.space.take(CHUNK)?;
                self.chunk_end = self.chunk_next + CHUNK;
            }
            let first = self.chunk_next;
            self.chunk_next += blocks;
            first
        };
        self.seek(first * BLOCK)?;
        let block = u32::try_from(first).map_err(|e| Error::caused_by(ErrorKind::Internal, "number a block", e))?;
        Ok(Extent { block, size })
    }

    /// More content.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() >= BUFFER {
            self.space.write_at(bytes, self.buffer_at)?;
            self.buffer_at += bytes.len() as u64;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// So many zeros, which are nothing in the file.
    pub(super) fn skip(&mut self, count: u64) -> Result<()> {
        self.seek(self.buffer_at + self.buffer.len() as u64 + count)
    }

    /// Writes what is collected, and gives back what is left over.
    pub(super) fn finish(mut self) -> Result<()> {
        self.space.give_back(self.chunk_next, self.chunk_end);
        self.flush()
    }

    /// Goes on at this offset, which is not before where it is unless it begins another file.
    pub(super) fn seek(&mut self, to: u64) -> Result<()> {
        let at = self.buffer_at + self.buffer.len() as u64;
        if (at..at + BLOCK).contains(&to) && self.buffer.len() < BUFFER {
            // The rest of a block: zeros, so that the buffer stays one run.
            self.buffer.resize(self.buffer.len() + (to - at) as usize, 0);
            return Ok(());
        }
        self.flush()?;
        self.buffer_at = to;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if !self.buffer.is_empty() {
            self.space.write_at(&self.buffer, self.buffer_at)?;
            self.buffer_at += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }
}
