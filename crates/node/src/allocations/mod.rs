//! Allocations of this node: instances of groups that a controller placed here.
//!
//! An allocation has a directory ([`dirs`]), tasks that are started, restarted and stopped by a pure state machine
//! ([`life`]), and one actor that owns both and carries out what the machine says ([`actor`]). [`Allocations`] is the cheap
//! handle everybody else has; what goes in and out of it is in [`front`].

mod front;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moat_engine::Engine;
use moat_model::job::AllocStatus;
use moat_model::lifecycle::SandboxView;
use moat_model::spec::Signal;
use moat_model::{AllocId, ErrorKind, NodeId};
use tokio::sync::Notify;

use crate::error::{Error, Result};
use crate::networks::Networks;
use crate::outlet::NodeOutlet;
use crate::templates::Templates;

pub use front::{
    AllocView, Assignment, Directory, ExecTarget, FsEntry, HostPath, LogsWanted, Origin, Piece, Pieces, RestartWanted,
    ServiceInstance, TaskUsage, Terms,
};

/// What allocations stand on.
#[derive(Debug)]
pub struct Foundation {
    /// Where they run.
    pub node: NodeId,
    /// What the node says of itself: `${attr.…}`, `${meta.…}`, `${node.…}`.
    pub facts: Arc<moat_model::job::NodeFacts>,
    /// Their directories, `<id>` each.
    pub dir: PathBuf,
    /// Their records, `<id>.json`.
    pub records: PathBuf,
    /// Makes sandboxes.
    pub engine: Engine,
    /// Takes their output.
    pub outlet: NodeOutlet,
    /// Roots made of images.
    pub templates: Templates,
    /// Networks and ports.
    pub networks: Arc<Networks>,
    /// What the operator sets.
    pub terms: Terms,
}

/// All allocations of this node. Clones are the same ones.
#[derive(Debug, Clone)]
pub struct Allocations {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    base: Foundation,
    table: Mutex<BTreeMap<AllocId, Arc<AllocView>>>,
    news: Notify,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, BTreeMap<AllocId, Arc<AllocView>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Allocations {
    /// Takes up what an earlier daemon left: its records, and sandboxes of tasks as the engine found them. `fenced`: nothing
    /// is started, and what others may have replaced stands still, until [`Allocations::confirm`].
    pub async fn open(base: Foundation, found: Vec<SandboxView>, fenced: bool) -> Result<Self> {
        let _ = (found, fenced);
        Ok(Self { shared: Arc::new(Shared { base, table: Mutex::default(), news: Notify::new() }) })
    }

    /// What templates look up; before that they wait.
    pub fn set_directory(&self, directory: Arc<dyn Directory>) {
        let _ = directory;
    }

    /// Takes what the controller wants. The same again, or something older, changes nothing. Written down before it returns.
    pub async fn assign(&self, assignment: Assignment) -> Result<()> {
        let _ = assignment;
        Err(self.not_yet())
    }

    /// Statuses as they change. There is one reader; a new one is told everything first.
    pub fn statuses(&self) -> Statuses {
        Statuses { shared: Arc::clone(&self.shared), pending: Vec::new() }
    }

    /// All of them, by id.
    pub fn list(&self) -> Vec<Arc<AllocView>> {
        self.shared.table().values().cloned().collect()
    }

    /// One.
    pub fn get(&self, id: &AllocId) -> Option<Arc<AllocView>> {
        self.shared.table().get(id).cloned()
    }

    /// Lets nothing run that may be placed elsewhere: it is frozen, or stopped if it cannot be. Returns when it is so.
    pub async fn fence(&self) -> Result<()> {
        Err(self.not_yet())
    }

    /// Says, after a fence, what is wanted here: what is not is killed while it stands still, the rest goes on.
    pub async fn confirm(&self, wanted: &[Assignment]) -> Result<()> {
        let _ = wanted;
        Err(self.not_yet())
    }

    /// Sends a signal to one task, or to all that run.
    pub async fn signal(&self, id: &AllocId, task: Option<&str>, signal: Signal) -> Result<()> {
        let _ = (id, task, signal);
        Err(self.not_yet())
    }

    /// Starts tasks again; does not count as a failure.
    pub async fn restart(&self, id: &AllocId, which: RestartWanted) -> Result<()> {
        let _ = (id, which);
        Err(self.not_yet())
    }

    /// Stops it on this node, whatever the controller wants; returns when that is under way.
    pub async fn stop(&self, id: &AllocId, no_shutdown_delay: bool) -> Result<()> {
        let _ = (id, no_shutdown_delay);
        Err(self.not_yet())
    }

    /// Says whether it is healthy, where its `update` block leaves that to people.
    pub async fn set_health(&self, id: &AllocId, healthy: bool) -> Result<()> {
        let _ = (id, healthy);
        Err(self.not_yet())
    }

    /// Measures its tasks that run.
    pub async fn stats(&self, id: &AllocId) -> Result<BTreeMap<String, TaskUsage>> {
        let _ = id;
        Err(self.not_yet())
    }

    /// The sandbox of a task that runs; of the only one if none is named.
    pub fn exec_target(&self, id: &AllocId, task: Option<&str>) -> Result<ExecTarget> {
        let _ = (id, task);
        Err(self.not_yet())
    }

    /// What lies in a directory of it.
    pub async fn fs_list(&self, id: &AllocId, path: &str) -> Result<Vec<FsEntry>> {
        let _ = (id, path);
        Err(self.not_yet())
    }

    /// What a path of it is.
    pub async fn fs_stat(&self, id: &AllocId, path: &str) -> Result<FsEntry> {
        let _ = (id, path);
        Err(self.not_yet())
    }

    /// A file of it from there on; `limit` bytes at most, if given. `follow`: goes on when it grows.
    pub async fn fs_read(
        &self,
        id: &AllocId,
        path: &str,
        from: Origin,
        limit: Option<u64>,
        follow: bool,
    ) -> Result<Pieces> {
        let _ = (id, path, from, limit, follow);
        Err(self.not_yet())
    }

    /// A log of one of its tasks.
    pub async fn logs(&self, id: &AllocId, wanted: LogsWanted) -> Result<Pieces> {
        let _ = (id, wanted);
        Err(self.not_yet())
    }

    /// Removes it and its directory. One that has not ended is a `Conflict`.
    pub async fn forget(&self, id: &AllocId) -> Result<()> {
        let _ = id;
        Err(self.not_yet())
    }

    /// Lets go of every allocation: the daemon ends, they run on.
    pub async fn detach(&self) {}

    fn not_yet(&self) -> Error {
        Error::new(ErrorKind::Unavailable, format!("allocations below {}", self.shared.base.dir.display()))
    }
}

/// Statuses as they change; see [`Allocations::statuses`].
#[derive(Debug)]
pub struct Statuses {
    shared: Arc<Shared>,
    pending: Vec<AllocId>,
}

impl Statuses {
    /// What changed since the last call, each with its latest status; waits for something. Nothing is lost if it is dropped.
    pub async fn next(&mut self) -> Vec<AllocStatus> {
        self.shared.news.notified().await;
        Vec::new()
    }

    /// This one could not be told: it is among the next again.
    pub fn again(&mut self, id: AllocId) {
        self.pending.push(id);
    }
}
