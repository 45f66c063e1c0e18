//! Guests that were handed out before.
//!
//! A virtio-serial port carries one connection, and whoever has it keeps it. A driver that wants to tell the agent something
//! while the engine has a guest asks through that guest. This is a cache and no state: what is not in it, because a daemon
//! was replaced or nobody holds the guest any more, is connected anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use moat_engine::guest::agent::AgentGuest;

/// Guests by the run directory of their machine.
#[derive(Debug, Default)]
pub struct Connections {
    guests: Mutex<BTreeMap<PathBuf, Weak<AgentGuest>>>,
}

impl Connections {
    /// Remembers who was handed out, for as long as somebody holds it.
    pub fn remember(&self, run_dir: &Path, guest: &Arc<AgentGuest>) {
        let mut guests = self.lock();
        guests.retain(|_, guest| guest.strong_count() > 0);
        guests.insert(run_dir.to_owned(), Arc::downgrade(guest));
    }

    /// Who was handed out, if somebody still holds it.
    pub fn get(&self, run_dir: &Path) -> Option<Arc<AgentGuest>> {
        self.lock().get(run_dir).and_then(Weak::upgrade)
    }

    /// The machine has another monitor now.
    pub fn forget(&self, run_dir: &Path) {
        self.lock().remove(run_dir);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Weak<AgentGuest>>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
