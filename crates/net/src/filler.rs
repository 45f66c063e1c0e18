//! Keeps slots ready, off everybody's way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moat_engine::error::Error;
use moat_model::ErrorKind;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::slots::Slots;

/// After a failure, this long until the next try, unless somebody takes or frees a slot meanwhile.
const PAUSE: Duration = Duration::from_secs(5);

/// The task that does it; it ends with this.
#[derive(Debug)]
pub struct Filler {
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    slots: Arc<Slots>,
    wanted: Arc<Notify>,
    stopping: AtomicBool,
    problem: Mutex<Option<String>>,
}

impl Filler {
    /// Begins. `wanted` is told whenever one was taken or freed.
    pub fn start(slots: Arc<Slots>, wanted: Arc<Notify>) -> Self {
        let shared = Arc::new(Shared { slots, wanted, stopping: AtomicBool::new(false), problem: Mutex::default() });
        let task = tokio::spawn(fill(Arc::clone(&shared)));
        Self { shared, task: Some(task) }
    }

    /// Why the last try failed.
    pub fn problem(&self) -> Option<String> {
        self.shared.problem().clone()
    }

    /// Ends after the slot that is being made.
    pub async fn stop(mut self) {
        self.shared.end();
        if let Some(task) = self.task.take()
            && let Err(error) = task.await
        {
            tracing::warn!(%error, "the task that prepares slots ended early");
        }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl Shared {
    fn end(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wanted.notify_one();
    }

    fn problem(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn fill(shared: Arc<Shared>) {
    while !shared.stopping.load(Ordering::Acquire) {
        let slots = Arc::clone(&shared.slots);
        let outcome = tokio::task::spawn_blocking(move || slots.prepare())
            .await
            .unwrap_or_else(|e| Err(Error::caused_by(ErrorKind::Internal, "network: prepare a slot", e)));
        match outcome {
            Ok(made) => {
                *shared.problem() = None;
                if !made {
                    shared.wanted.notified().await;
                }
            }
            Err(error) => {
                tracing::warn!(error = error.chain(), "no slot could be prepared");
                *shared.problem() = Some(error.chain());
                // Both ends of this wait are the same: it is tried again.
                let _ = tokio::time::timeout(PAUSE, shared.wanted.notified()).await;
            }
        }
    }
}
