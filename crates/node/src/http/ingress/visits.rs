//! Who is connected to which sandbox: so many at once, and the sandbox is in use meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moat_agent::protocol::mux::CONNECTS_MAX;
use moat_model::{ErrorKind, SandboxId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::answer::{Answer, Failure};

/// How long a request waits for room in its sandbox.
const TURN_MAX: Duration = Duration::from_secs(10);

/// Everybody who is connected, or waits to be.
#[derive(Debug, Clone, Default)]
pub(super) struct Visits(Arc<Mutex<HashMap<SandboxId, Visited>>>);

#[derive(Debug)]
struct Visited {
    /// Those who hold room or wait for it.
    visitors: usize,
    /// As many as the agent carries: one more would be refused there, here it waits.
    room: Arc<Semaphore>,
}

/// One connection to a port of a sandbox.
#[derive(Debug)]
pub(super) struct Visit {
    _room: OwnedSemaphorePermit,
    _seat: Seat,
}

/// Counts a visitor, also while it waits.
#[derive(Debug)]
struct Seat {
    visits: Visits,
    id: SandboxId,
}

impl Visits {
    fn lock(&self) -> MutexGuard<'_, HashMap<SandboxId, Visited>> {
        // Every change is one number, or one entry, so a panic elsewhere cannot have left one half made.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes room, waiting for it if there is none.
    pub async fn enter(&self, id: &SandboxId) -> Answer<Visit> {
        let room = {
            let mut table = self.lock();
            let empty = || Visited { visitors: 0, room: Arc::new(Semaphore::new(CONNECTS_MAX)) };
            let visited = table.entry(id.clone()).or_insert_with(empty);
            visited.visitors += 1;
            Arc::clone(&visited.room)
        };
        let seat = Seat { visits: self.clone(), id: id.clone() };
        match tokio::time::timeout(TURN_MAX, room.acquire_owned()).await {
            Ok(Ok(room)) => Ok(Visit { _room: room, _seat: seat }),
            _ => {
                let what = format!("{CONNECTS_MAX} connections to this sandbox are open");
                Err(Failure::new(ErrorKind::Unavailable, what))
            }
        }
    }

    /// The sandboxes somebody is connected to.
    pub fn visited(&self) -> Vec<SandboxId> {
        self.lock().keys().cloned().collect()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.visits.lock();
        if let Some(visited) = table.get_mut(&self.id) {
            visited.visitors -= 1;
            if visited.visitors == 0 {
                table.remove(&self.id);
            }
        }
    }
}
