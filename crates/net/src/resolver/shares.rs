//! How much of the resolver one sandbox may use: never so much that none is left for the next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Questions that wait for the outside, or for the rules, in all. Each holds a socket and some kilobytes.
const WAITING_MAX: usize = 1024;
/// The same of one sandbox, while others leave room.
const WAITING_EACH: usize = 64;
/// A second place is given only of what is free beyond these, and of that one sandbox has at most a part: however many take
/// all they get, the next finds its first place.
const WAITING_FIRST: usize = 256;
const WAITING_PART: usize = 8;
/// Connections in all, and of one sandbox: programs that use TCP for names use one each.
const STREAMS_MAX: usize = 512;
const STREAMS_EACH: usize = 8;
/// Questions per second of one sandbox, and how many at once after a rest: several times what a busy crawler asks.
const RATE: f64 = 500.0;
const BURST: f64 = 2_000.0;

/// All shares. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Shares {
    inner: Arc<Mutex<Inner>>,
}

/// One entry for each slot that ever asked: as many as the node has slots.
#[derive(Debug, Default)]
struct Inner {
    waiting: usize,
    streams: usize,
    of: HashMap<u32, Share>,
}

#[derive(Debug)]
struct Share {
    waiting: usize,
    streams: usize,
    left: f64,
    at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Waiting,
    Stream,
}

/// A place that is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    shares: Shares,
    slot: u32,
    what: What,
}

impl Shares {
    /// Whether a slot may ask one more question now.
    pub fn tick(&self, slot: u32, now: Instant) -> bool {
        let mut inner = self.lock();
        let share = inner.of(slot, now);
        let rested = now.saturating_duration_since(share.at).as_secs_f64();
        share.left = (share.left + rested * RATE).min(BURST);
        share.at = now;
        let may = share.left >= 1.0;
        if may {
            share.left -= 1.0;
        }
        may
    }

    /// A place among the questions that wait.
    pub fn wait(&self, slot: u32) -> Option<Place> {
        self.take(slot, What::Waiting, |inner, own| {
            let free = WAITING_MAX.saturating_sub(inner.waiting);
            let more = own.waiting < WAITING_EACH.min(free.saturating_sub(WAITING_FIRST) / WAITING_PART);
            more || (own.waiting == 0 && free > 0)
        })
    }

    /// A place for a connection.
    pub fn stream(&self, slot: u32) -> Option<Place> {
        self.take(slot, What::Stream, |inner, own| inner.streams < STREAMS_MAX && own.streams < STREAMS_EACH)
    }

    fn take(&self, slot: u32, what: What, may: impl Fn(&Inner, &Share) -> bool) -> Option<Place> {
        let mut inner = self.lock();
        inner.of(slot, Instant::now());
        if !inner.of.get(&slot).is_some_and(|own| may(&inner, own)) {
            return None;
        }
        inner.count(slot, what, usize::saturating_add);
        Some(Place { shares: self.clone(), slot, what })
    }

    // Numbers only: a panic elsewhere leaves none half changed.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn of(&mut self, slot: u32, now: Instant) -> &mut Share {
        self.of.entry(slot).or_insert(Share { waiting: 0, streams: 0, left: BURST, at: now })
    }

    fn count(&mut self, slot: u32, what: What, by: fn(usize, usize) -> usize) {
        let Some(share) = self.of.get_mut(&slot) else { return };
        let (all, own) = match what {
            What::Waiting => (&mut self.waiting, &mut share.waiting),
            What::Stream => (&mut self.streams, &mut share.streams),
        };
        *all = by(*all, 1);
        *own = by(*own, 1);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shares.lock().count(self.slot, self.what, usize::saturating_sub);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn one_sandbox_cannot_take_what_others_need() {
        let shares = Shares::default();
        let mut held = Vec::new();
        for slot in 1..=200 {
            while let Some(place) = shares.wait(slot) {
                held.push(place);
            }
        }
        assert!(held.len() <= WAITING_MAX && held.len() > WAITING_MAX / 2, "{}", held.len());
        assert!(held.iter().filter(|p| p.slot == 1).count() == WAITING_EACH);
        assert!(shares.wait(9_999).is_some(), "the next has one");
        held.clear();
        assert_eq!(shares.lock().waiting, 0);
        assert!(shares.wait(1).is_some());
    }

    #[test]
    fn connections_are_counted_and_given_back() {
        let shares = Shares::default();
        let held: Vec<_> = std::iter::from_fn(|| shares.stream(1)).collect();
        assert_eq!(held.len(), STREAMS_EACH);
        assert!(shares.stream(2).is_some());
        drop(held);
        assert!(shares.stream(1).is_some());
    }

    #[test]
    fn a_flood_is_cut_to_the_rate() {
        let (shares, start) = (Shares::default(), Instant::now());
        let passed = |at: Instant| (0..10_000).filter(|_| shares.tick(1, at)).count();
        assert_eq!(passed(start), 2_000);
        assert_eq!(passed(start), 0);
        assert_eq!(passed(start + Duration::from_millis(500)), 250);
        assert!(shares.tick(2, start), "others have their own");
    }
}
