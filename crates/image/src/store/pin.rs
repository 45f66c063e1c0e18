//! Pins: what is needed right now, counted in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Digest;

/// Counts of pins by digest. Also the lock under which files are taken away: whoever pins first and looks afterwards finds
/// what it pinned either gone or safe.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pins(Arc<Mutex<HashMap<Digest, usize>>>);

impl Pins {
    /// Pins all of these.
    pub fn pin(&self, digests: impl IntoIterator<Item = Digest>) -> Pin {
        let digests: Vec<Digest> = digests.into_iter().collect();
        let mut counts = self.lock();
        for digest in &digests {
            *counts.entry(*digest).or_insert(0) += 1;
        }
        Pin(Arc::new(Held { digests, pins: self.clone() }))
    }

    /// The counts, held still.
    pub fn lock(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps an image and its root from being collected until dropped.
#[derive(Debug, Clone)]
pub struct Pin(#[expect(dead_code, reason = "what is held is let go when the last clone is dropped")] Arc<Held>);

#[derive(Debug)]
struct Held {
    digests: Vec<Digest>,
    pins: Pins,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut counts = self.pins.lock();
        for digest in &self.digests {
            if let Some(count) = counts.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(digest);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_pinned_until_the_last_pin_goes() {
        let pins = Pins::default();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let first = pins.pin([a, b]);
        let second = pins.pin([a]);
        let clone = first.clone();
        drop(first);
        assert!(pins.lock().contains_key(&a) && pins.lock().contains_key(&b));
        drop(clone);
        assert!(pins.lock().contains_key(&a) && !pins.lock().contains_key(&b));
        drop(second);
        assert!(pins.lock().is_empty());
    }
}
