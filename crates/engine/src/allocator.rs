//! Blocks of host user ids. Rebuilt from the records at start-up, so a block is free again only when the sandbox that
//! holds it has released everything else.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use moat_model::ErrorKind;

use crate::error::{Error, Result};

/// Ids in a block: what a root file system made for a whole machine may use.
pub const UIDS_PER_BLOCK: u32 = 65_536;

/// Which blocks are taken.
#[derive(Debug)]
pub struct UidAllocator {
    first: u32,
    blocks: u32,
    state: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    bases: BTreeSet<u32>,
    /// Blocks are given in turn, so that one just freed rests longest before it is used again.
    next: u32,
}

impl UidAllocator {
    /// Blocks from `first` up to the end of the id space, whose last id is not valid.
    pub fn new(first: u32) -> Self {
        Self { first, blocks: (u32::MAX - first) / UIDS_PER_BLOCK, state: Mutex::default() }
    }

    /// Takes a free block and returns its first id.
    pub fn take(&self) -> Result<u32> {
        let mut taken = self.lock();
        for _ in 0..self.blocks {
            let base = self.first + taken.next * UIDS_PER_BLOCK;
            taken.next = (taken.next + 1) % self.blocks;
            if taken.bases.insert(base) {
                return Ok(base);
            }
        }
        Err(Error::new(ErrorKind::Exhausted, format!("user ids: all {} blocks are taken", self.blocks)))
    }

    /// Marks the block of a recorded sandbox as taken.
    pub fn hold(&self, base: u32) {
        self.lock().bases.insert(base);
    }

    /// Gives a block back; one that is not taken is free already.
    pub fn free(&self, base: u32) {
        self.lock().bases.remove(&base);
    }

    /// How many are taken.
    #[cfg(test)]
    pub fn taken(&self) -> usize {
        self.lock().bases.len()
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // The set is whole after every operation, so a panic elsewhere cannot have left it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_distinct_held_and_given_back() {
        let uids = UidAllocator::new(u32::MAX - 3 * UIDS_PER_BLOCK);
        let first = uids.take().unwrap();
        uids.hold(first + UIDS_PER_BLOCK);
        let second = uids.take().unwrap();
        assert_eq!(second, first + 2 * UIDS_PER_BLOCK);
        assert_eq!(uids.take().unwrap_err().kind, ErrorKind::Exhausted);
        uids.free(first);
        assert_eq!(uids.take().unwrap(), first);
        assert_eq!(uids.taken(), 3);
    }
}
