//! A file as an earlier pass left it, made what it is now: both are read, and only what differs is written.
//!
//! That costs two readings, mostly of memory, where a new copy costs a reading and a writing. Sharing all blocks anew costs
//! less still, unless the file lies in many pieces: each takes the file system some 40 µs, and one that is written to at random
//! between two passes falls into thousands.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use moat_engine::error::Result;
use rustix::fs::{FallocateFlags, fallocate, fstat, ftruncate};
use rustix::io::{self, Errno, pread, pwrite};

use super::content::data;
use super::{Stats, failed, go_on};
use crate::linux::extents;

/// Read at once of each of the two.
const PIECE: usize = 256 << 10;
/// What is compared: a page.
const BLOCK: usize = 4 << 10;
/// Reading both takes about as long as sharing one piece of this length.
const PIECE_SHARED_LEN: u64 = 64 << 10;

/// Whether to share the blocks of a file of `size` bytes anew is quicker than to read it. Where nobody can say in how many pieces
/// it lies it is taken for whole.
pub(super) fn is_shared_quickly(file: BorrowedFd<'_>, size: u64) -> bool {
    extents::count(file).unwrap_or(0).saturating_mul(PIECE_SHARED_LEN) <= size
}

/// Makes the content of `to` that of `from`, which had `size` bytes when it was looked at. Whether it could; if not, `to` is of
/// no use any more. One that is being written may come out mixed.
pub(super) fn patch(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    size: u64,
    path: &Path,
    stats: &mut Stats,
    cancel: &AtomicBool,
) -> Result<bool> {
    if fstat(to).map_err(failed("look at the copy of", path))?.st_size != i64::try_from(size).unwrap_or(i64::MAX) {
        // Before anything is compared: what lies beyond the end of the one is a hole of the other.
        ftruncate(to, size).map_err(failed("write", path))?;
    }
    let mut both = (vec![0; PIECE], vec![0; PIECE]);
    let mut at = 0;
    while at < size {
        let found = data(from, at, size).map_err(failed("read", path))?;
        let (start, end) = found.unwrap_or((size, size));
        if !emptied(to, at, start).map_err(failed("write", path))? {
            return Ok(false);
        }
        at = start;
        while at < end {
            go_on(cancel)?;
            let want = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            let (ours, theirs) = (both.0.get_mut(..want), both.1.get_mut(..want));
            let Some((ours, theirs)) = ours.zip(theirs) else { break };
            let read = filled(from, ours, at).map_err(failed("read", path))?;
            if read == 0 {
                // It became shorter a moment ago.
                return Ok(true);
            }
            let there = filled(to, theirs, at).map_err(failed("read the copy of", path))?;
            let (ours, theirs) = (ours.get(..read).unwrap_or_default(), theirs.get(..there).unwrap_or_default());
            stats.bytes_copied += differing(to, ours, theirs, at).map_err(failed("write", path))?;
            at += read as u64;
        }
    }
    Ok(true)
}

/// Nothing but a hole is between these two in `to`, which may need one punched. Whether that is so.
fn emptied(to: BorrowedFd<'_>, at: u64, end: u64) -> io::Result<bool> {
    if at >= end || data(to, at, end)?.is_none() {
        return Ok(true);
    }
    match fallocate(to, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, end - at) {
        Ok(()) => Ok(true),
        Err(Errno::NOTSUP | Errno::NOSYS) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Reads until it is full or the file ends.
fn filled(from: BorrowedFd<'_>, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut read = 0;
    while let Some(rest) = buffer.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match pread(from, rest, at + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(read)
}

/// Writes the blocks of `ours` that are not in `theirs`, neighbours at once. How many bytes.
fn differing(to: BorrowedFd<'_>, ours: &[u8], theirs: &[u8], at: u64) -> io::Result<u64> {
    if ours == theirs {
        return Ok(0);
    }
    let same = |block: usize| {
        let range = block * BLOCK..((block + 1) * BLOCK).min(ours.len());
        ours.get(range.clone()) == theirs.get(range)
    };
    let blocks = ours.len().div_ceil(BLOCK);
    let (mut block, mut written) = (0, 0);
    while block < blocks {
        if same(block) {
            block += 1;
            continue;
        }
        let begin = block;
        while block < blocks && !same(block) {
            block += 1;
        }
        let bytes = ours.get(begin * BLOCK..(block * BLOCK).min(ours.len())).unwrap_or_default();
        put(to, bytes, at + (begin * BLOCK) as u64)?;
        written += bytes.len() as u64;
    }
    Ok(written)
}

fn put(to: BorrowedFd<'_>, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = pwrite(to, bytes, at)?;
        at += written as u64;
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}
