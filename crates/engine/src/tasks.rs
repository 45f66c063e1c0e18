//! The one place where the engine starts tasks that nobody owns; all others end with the actor that holds them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// What a task is for decides what becomes of it when it breaks and when the daemon stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskKind {
    /// Owns one sandbox. Breaks: counted, and the sandbox is ended by a new actor. Daemon stops: it lets go.
    Actor,
    /// Removes what nobody holds. Breaks: logged. Daemon stops: abandoned, the next start does it again.
    Sweep,
}

/// Running tasks of one engine.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    /// Cancelled when the daemon lets go of its sandboxes.
    pub detach: CancellationToken,
    panics: Arc<AtomicU64>,
}

impl Tasks {
    /// Starts a task under a kind and a name.
    pub fn spawn(&self, kind: TaskKind, name: String, task: impl Future<Output = ()> + Send + 'static) {
        let span = tracing::info_span!("task", ?kind, name);
        let detach = self.detach.clone();
        self.tracker.spawn(
            async move {
                match kind {
                    // Sees the same token, and ends by itself.
                    TaskKind::Actor => task.await,
                    TaskKind::Sweep => {
                        let _ = detach.run_until_cancelled(task).await;
                    }
                }
            }
            .instrument(span),
        );
    }

    /// Counts an actor that panicked.
    pub fn count_panic(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Actors that panicked so far.
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Tells all tasks to end and waits for them, no longer than `limit`.
    pub async fn end(&self, limit: Duration) {
        self.detach.cancel();
        self.tracker.close();
        if tokio::time::timeout(limit, self.tracker.wait()).await.is_err() {
            tracing::warn!(tasks = self.tracker.len(), "tasks still running after the daemon let go of them");
        }
    }
}
