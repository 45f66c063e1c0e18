//! Workloads of this node: records, restarts, recovery.
//!
//! A workload is a program that should run; each attempt to run it is a new sandbox, the workload keeps its id. One actor
//! owns one workload: it alone writes its record, asks the engine for sandboxes and decides about restarts. [`Workloads`]
//! is the cheap handle everybody else has.
//!
//! What survives a SIGKILL of the daemon at any line, and how:
//!
//! - The record is written before the sandbox is asked for, and again when its program was seen running. Only after that
//!   second write is a deploy acknowledged.
//! - On start each record meets the sandbox the engine found. Running: adopted. Ended meanwhile: reported, and restarted
//!   if it is essential. A first start that was not seen through is **undone**: nobody was told of it, and whoever asked
//!   has seen a timeout and may have deployed elsewhere.
//! - A sandbox without a record is ended: its workload was refused, forgotten or undone.
//! - A stop is written down before it is carried out, so an essential workload does not come back from one.

mod actor;
mod janitor;
pub mod ready;
pub mod record;
mod recovery;
mod snapshot;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moat_engine::Engine;
use moat_model::lifecycle::SandboxView;
use moat_model::spec::StopSpec;
use moat_model::workload::RestartPolicy;
use moat_model::{ErrorKind, NodeId, SandboxId, WorkloadId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::artifact::{ArtifactStore, PinnedArtifact};
use crate::clock;
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::outlet::NodeOutlet;

use actor::{Actor, Command};
use ready::Ready;
use record::RecordStore;
pub use record::{NewWorkload, StartClaims, WorkloadRecord};
pub use snapshot::Snapshot;

/// Commands waiting for one workload. A person stops it once; more than these are refused as busy.
const COMMANDS_MAX: usize = 16;

/// What workloads stand on.
#[derive(Debug)]
pub struct Foundation {
    /// Whose they are.
    pub node: NodeId,
    /// Makes sandboxes.
    pub engine: Engine,
    /// Takes their output.
    pub outlet: NodeOutlet,
    /// Holds their programs.
    pub artifacts: ArtifactStore,
    /// How failures are answered.
    pub restart: RestartPolicy,
    /// What is taken.
    pub limits: Limits,
    /// Machines that need not be made.
    pub ready: Ready,
}

/// All workloads of this node. Clones are the same ones.
#[derive(Debug, Clone)]
pub struct Workloads {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    base: Foundation,
    store: RecordStore,
    table: Mutex<Table>,
    tasks: TaskTracker,
    /// Cancelled when the daemon lets go of everything: actors end, workloads live on.
    detached: CancellationToken,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<WorkloadId, Entry>,
    reserved: u64,
    reserved_bytes: u64,
}

#[derive(Debug, Clone)]
struct Entry {
    snapshot: watch::Receiver<Arc<Snapshot>>,
    commands: mpsc::Sender<Command>,
}

/// Room for one workload, held from the first check to the moment it is in the table.
#[derive(Debug)]
pub struct Slot {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut table = self.shared.table();
        table.reserved = table.reserved.saturating_sub(1);
        table.reserved_bytes = table.reserved_bytes.saturating_sub(self.bytes);
    }
}

impl Slot {
    /// Counts the program's bytes too, or says that they are too many.
    pub fn with_bytes(mut self, bytes: u64) -> Result<Self> {
        let shared = Arc::clone(&self.shared);
        let mut table = shared.table();
        let used = table.bytes_in_use().saturating_add(table.reserved_bytes);
        if let Some(max) = shared.base.limits.total_bytes_max.filter(|max| used.saturating_add(bytes) > *max) {
            drop(table);
            return Err(Error::new(
                ErrorKind::Exhausted,
                format!(
                    "the artifact has {bytes} bytes and {used} are in use; this node takes at most {max} in all (limits.total_size_max)"
                ),
            ));
        }
        table.reserved_bytes = table.reserved_bytes.saturating_add(bytes);
        drop(table);
        self.bytes = bytes;
        Ok(self)
    }
}

impl Table {
    fn live(&self) -> impl Iterator<Item = Arc<Snapshot>> {
        self.entries.values().map(|e| e.snapshot.borrow().clone()).filter(|s| !s.view.ended())
    }

    fn bytes_in_use(&self) -> u64 {
        self.live().map(|s| s.artifact_bytes).sum()
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a workload into the table and starts its actor.
    fn launch(self: &Arc<Self>, record: WorkloadRecord, pin: Option<PinnedArtifact>, first: Option<actor::First>) {
        let (tell, snapshot) = watch::channel(Arc::new(Snapshot::of(&record, &self.base.node, None)));
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        self.table().entries.insert(record.id.clone(), Entry { snapshot, commands });
        let actor = Actor::new(Arc::clone(self), record, pin, inbox, tell);
        self.tasks.spawn(actor.run(first));
    }
}

impl Workloads {
    /// Takes up what an earlier daemon left: records in `dir`, sandboxes as the engine found them.
    pub async fn open(dir: &Path, base: Foundation, found: Vec<SandboxView>) -> Result<Self> {
        let store = RecordStore::open(dir)?;
        let shared = Arc::new(Shared {
            base,
            store,
            table: Mutex::default(),
            tasks: TaskTracker::new(),
            detached: CancellationToken::new(),
        });
        recovery::recover(&shared, found).await?;
        shared.tasks.spawn(janitor::run(Arc::clone(&shared)));
        Ok(Self { shared })
    }

    /// Keeps room for one more, or says that there is none.
    pub fn reserve(&self) -> Result<Slot> {
        let mut table = self.shared.table();
        let used = u64::try_from(table.live().count()).unwrap_or(u64::MAX).saturating_add(table.reserved);
        match self.shared.base.limits.workloads_max.filter(|max| used >= *max) {
            Some(max) => Err(Error::new(
                ErrorKind::Exhausted,
                format!("this node runs its limit of {max} workloads (limits.workloads_max)"),
            )),
            None => {
                table.reserved = table.reserved.saturating_add(1);
                drop(table);
                Ok(Slot { shared: Arc::clone(&self.shared), bytes: 0 })
            }
        }
    }

    /// Starts a workload; returns when its program runs. After an error nothing of it is left. May be dropped: the
    /// workload then goes on by itself.
    pub async fn deploy(&self, slot: Slot, new: NewWorkload, artifact: PinnedArtifact) -> Result<Arc<Snapshot>> {
        let sandbox = new_sandbox_id();
        let record = WorkloadRecord::new(new, sandbox, clock::now());
        self.shared.store.write(&record)?;
        let (first, started) = oneshot::channel();
        self.shared.launch(record, Some(artifact), Some(first));
        drop(slot);
        started.await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Unavailable, "the node is shutting down: nothing was started"))
        })
    }

    /// One workload, ended ones that are still remembered included.
    pub fn get(&self, id: &WorkloadId) -> Option<Arc<Snapshot>> {
        self.shared.table().entries.get(id).map(|e| e.snapshot.borrow().clone())
    }

    /// All of them, oldest first, ended ones that are still remembered included.
    pub fn list(&self) -> Vec<Arc<Snapshot>> {
        let mut all: Vec<_> = self.shared.table().entries.values().map(|e| e.snapshot.borrow().clone()).collect();
        all.sort_by(|a, b| (a.view.created_at, &a.view.id).cmp(&(b.view.created_at, &b.view.id)));
        all
    }

    /// Those that run or will run again, oldest first.
    pub fn live(&self) -> Vec<Arc<Snapshot>> {
        self.list().into_iter().filter(|s| !s.view.ended()).collect()
    }

    /// Follows one.
    pub fn watch(&self, id: &WorkloadId) -> Option<watch::Receiver<Arc<Snapshot>>> {
        self.shared.table().entries.get(id).map(|e| e.snapshot.clone())
    }

    /// Stops one for good. Returns when the stop is written down and under way; [`Workloads::ended`] waits for its end.
    pub async fn stop(&self, id: &WorkloadId, how: Option<StopSpec>) -> Result<()> {
        let Some(entry) = self.shared.table().entries.get(id).cloned() else { return Err(no_such(id)) };
        let (done, accepted) = oneshot::channel();
        if entry.commands.try_send(Command::Stop { how, accepted: done }).is_err() {
            return if entry.snapshot.borrow().view.ended() {
                Ok(())
            } else {
                Err(Error::new(ErrorKind::Unavailable, format!("workload {id} is busy; try again")))
            };
        }
        // An actor that ended in between has stopped what was to be stopped.
        accepted.await.unwrap_or(Ok(()))
    }

    /// Waits for the end of a workload, at most this long.
    pub async fn ended(&self, id: &WorkloadId, within: Duration) -> Option<Arc<Snapshot>> {
        let mut snapshot = self.watch(id)?;
        let ended = tokio::time::timeout(within, snapshot.wait_for(|s| s.view.ended())).await;
        ended.ok()?.ok().map(|s| s.clone())
    }

    /// Lame duck: what runs goes on, but is not started again.
    pub fn clear_essential(&self) {
        let entries: Vec<Entry> = self.shared.table().entries.values().cloned().collect();
        for entry in entries {
            if entry.commands.try_send(Command::ClearEssential).is_err() && !entry.snapshot.borrow().view.ended() {
                tracing::warn!(workload = %entry.snapshot.borrow().view.id, "busy: it stays essential");
            }
        }
    }

    /// Stops all of them, at most this long.
    pub async fn stop_all(&self, within: Duration) {
        let live = self.live();
        let stops = live.iter().map(|s| async {
            if let Err(error) = self.stop(&s.view.id, None).await {
                tracing::warn!(workload = %s.view.id, error = %error.chain(), "not stopped");
            }
            self.ended(&s.view.id, within).await.is_some()
        });
        let ended = futures::future::join_all(stops).await.into_iter().filter(|e| *e).count();
        tracing::info!(ended, of = live.len(), "workloads stopped");
    }

    /// The engine beneath, for what concerns one sandbox only.
    pub fn engine(&self) -> &Engine {
        &self.shared.base.engine
    }

    /// Lets go of every workload: the daemon ends, they run on.
    pub async fn detach(&self) {
        self.shared.detached.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

fn no_such(id: &WorkloadId) -> Error {
    Error::new(ErrorKind::NotFound, format!("no such workload {id}"))
}

fn new_sandbox_id() -> SandboxId {
    SandboxId::from_parts(clock::now(), rand::random())
}
