//! Allocations of this node: instances of groups that a controller placed here.
//!
//! An allocation has a directory ([`dirs`]), tasks that are started, restarted and stopped by a pure state machine
//! ([`life`]), and one actor that owns both, writes them down ([`record`]) and has done what the machine says ([`work`]).
//! Each start of a task is a new sandbox ([`spec`]). [`Allocations`] is the cheap handle everybody else has; what goes in and
//! out of it is in [`front`].
//!
//! What survives a SIGKILL of the daemon at any line: the life is written before anything is done about it, every action may
//! be done twice, and on start each record meets the sandboxes the engine found. A sandbox of a task that no record names is
//! ended.

mod actor;
mod beneath;
mod checks;
mod dirs;
mod env;
mod files;
mod front;
mod ground;
mod health;
mod interpolate;
pub(crate) mod life;
mod ports;
mod prepare;
mod reading;
mod record;
mod recovery;
mod render;
mod room;
mod secrets;
mod sources;
mod spec;
mod table;
#[cfg(test)]
mod tests;
mod work;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use moat_engine::{Engine, Leash};
use moat_getter::Getter;
use moat_model::job::AllocStatus;
use moat_model::lifecycle::SandboxView;
use moat_model::spec::{Owner, Signal};
use moat_model::{AllocId, ErrorKind, NodeId, SandboxId};
use tokio::sync::oneshot;

use crate::clock::{self, since_boot};
use crate::config::jobs::JobsConfig;
use crate::error::{Error, Result};
use crate::networks::Networks;
use crate::outlet::NodeOutlet;
use crate::templates::Templates;

use actor::{Command, Done};
pub use front::{
    AllocView, Assignment, Directory, ExecTarget, FsEntry, LogsWanted, Origin, Piece, Pieces, RestartWanted,
    ServiceInstance, TaskUsage,
};
use table::Shared;

/// A record each. A disk that is full must not keep tasks running.
const DEPART_WITHIN: Duration = Duration::from_secs(5);

/// What allocations stand on.
#[derive(Debug)]
pub struct Foundation {
    /// Where they run.
    pub node: NodeId,
    /// What the node says of itself: `${attr.…}`, `${meta.…}`, `${node.…}`, and what it has room for.
    pub facts: Arc<moat_model::job::NodeFacts>,
    /// Their directories, `<id>` each.
    pub dir: PathBuf,
    /// Their records, `<id>.json`.
    pub records: PathBuf,
    /// First of the ids their files have on disk.
    pub disk_ids: u32,
    /// Makes sandboxes.
    pub engine: Engine,
    /// Takes their output.
    pub outlet: NodeOutlet,
    /// Roots made of images.
    pub templates: Templates,
    /// Networks and ports.
    pub networks: Arc<Networks>,
    /// Fetches artifacts.
    pub getter: Getter,
    /// What the operator sets.
    pub jobs: JobsConfig,
}

/// All allocations of this node. Clones are the same ones.
#[derive(Debug, Clone)]
pub struct Allocations {
    shared: Arc<Shared>,
}

impl Allocations {
    /// Takes up what an earlier daemon left: its records, and sandboxes of tasks as the engine found them. `fenced`: nothing
    /// is started, and what others may have replaced stands still, until [`Allocations::confirm`].
    pub async fn open(base: Foundation, found: Vec<SandboxView>, fenced: bool) -> Result<Self> {
        let shared = Shared::new(base, fenced)?;
        recovery::recover(&shared, found).await?;
        Ok(Self { shared })
    }

    /// What templates look up; before that they wait. The first call counts.
    pub fn set_directory(&self, directory: Arc<dyn Directory>) {
        self.shared.set_directory(directory);
    }

    /// Takes what the controller wants. The same again, or something older, changes nothing. Written down before it returns.
    pub async fn assign(&self, assignment: Assignment) -> Result<()> {
        if assignment.allocation.node != self.shared.base.node {
            return Err(Error::invalid("node", "the allocation is another node's"));
        }
        if assignment.group().is_none() {
            return Err(Error::invalid("group", "the job has no group of this name"));
        }
        if self.shared.begin(&assignment)? {
            return Ok(());
        }
        let id = assignment.allocation.id.clone();
        self.ask(&id, |done| Command::Assign { assignment, done }).await
    }

    /// Statuses as they change. There is one reader; a new one is told everything first.
    pub fn statuses(&self) -> Statuses {
        self.shared.all_changed();
        Statuses { shared: Arc::clone(&self.shared) }
    }

    /// All of them, by id.
    pub fn list(&self) -> Vec<Arc<AllocView>> {
        self.shared.views()
    }

    /// One.
    pub fn get(&self, id: &AllocId) -> Option<Arc<AllocView>> {
        self.shared.view(id)
    }

    /// Lets nothing run that may be placed elsewhere: it is frozen, or stopped if it cannot be. Returns when it is so. What
    /// is assigned from now on waits too.
    pub async fn fence(&self) -> Result<()> {
        self.shared.set_fenced(true);
        let asked = self
            .list()
            .into_iter()
            .map(|view| async move { self.ask(&view.status.id, |done| Command::Fence { done }).await });
        futures::future::join_all(asked).await.into_iter().collect()
    }

    /// Says, after a fence, what is wanted here: what is not is killed while it stands still, the rest goes on.
    pub async fn confirm(&self, wanted: &[Assignment]) -> Result<()> {
        self.shared.set_fenced(false);
        let asked = self.list().into_iter().map(|view| {
            let id = view.status.id.clone();
            let wanted = wanted.iter().find(|assignment| assignment.allocation.id == id).cloned();
            async move { self.ask(&id, |done| Command::Confirm { wanted, done }).await }
        });
        futures::future::join_all(asked).await.into_iter().collect()
    }

    /// Lets what may be placed elsewhere run until then, since the machine was started, also when the daemon is gone.
    pub async fn leash(&self, until: Duration) {
        self.shared.base.engine.leash(Leash::new(until, since_boot())).await;
    }

    /// Sends a signal to one task, or to all that run.
    pub async fn signal(&self, id: &AllocId, task: Option<&str>, signal: Signal) -> Result<()> {
        let targets = match task {
            Some(task) => vec![self.target(id, Some(task))?],
            None => self.shared.running(id)?,
        };
        if targets.is_empty() {
            return Err(Error::new(ErrorKind::Conflict, format!("allocation {id}: none of its tasks runs")));
        }
        for target in targets {
            let message = format!("signal {} was asked for", signal.number());
            let note = Command::Note { task: target.task, kind: "Signaling", message };
            self.shared.send(id, note).await?;
            self.shared.base.engine.guest(&target.sandbox).await?.signal_main(signal).await?;
        }
        Ok(())
    }

    /// Starts tasks again; does not count as a failure.
    pub async fn restart(&self, id: &AllocId, which: RestartWanted) -> Result<()> {
        let view = self.shared.known(id)?;
        if view.status.client.is_terminal() {
            return Err(Error::new(ErrorKind::Conflict, format!("allocation {id} has ended")));
        }
        if let RestartWanted::Task(task) = &which {
            self.target(id, Some(task))?;
        }
        self.ask(id, |done| Command::Restart { which, done }).await
    }

    /// Stops it on this node, whatever the controller wants; returns when that is under way.
    pub async fn stop(&self, id: &AllocId, no_shutdown_delay: bool) -> Result<()> {
        self.ask(id, |done| Command::Stop { no_delay: no_shutdown_delay, done }).await
    }

    /// Says whether it is healthy, where its `update` block leaves that to people.
    pub async fn set_health(&self, id: &AllocId, healthy: bool) -> Result<()> {
        self.ask(id, |done| Command::Health { healthy, done }).await
    }

    /// Measures its tasks that run.
    pub async fn stats(&self, id: &AllocId) -> Result<BTreeMap<String, TaskUsage>> {
        let mut all = BTreeMap::new();
        for ExecTarget { task, sandbox } in self.shared.running(id)? {
            // One that ends meanwhile has no numbers.
            if let Ok(usage) = self.shared.base.engine.usage(&sandbox).await {
                all.insert(task, TaskUsage { usage, at: clock::now() });
            }
        }
        Ok(all)
    }

    /// The sandbox of a task that runs; of the only one if none is named. Refused where the operator lets nobody execute
    /// anything in tasks.
    pub fn exec_target(&self, id: &AllocId, task: Option<&str>) -> Result<ExecTarget> {
        if !self.shared.base.jobs.remote_exec {
            let what = "the operator of this node lets nobody execute anything in tasks (jobs.remote_exec)";
            return Err(Error::new(ErrorKind::Denied, what));
        }
        self.target(id, task)
    }

    fn target(&self, id: &AllocId, task: Option<&str>) -> Result<ExecTarget> {
        let mut running = self.shared.running(id)?;
        if let Some(task) = task {
            let view = self.shared.known(id)?;
            if !view.status.tasks.contains_key(task) {
                return Err(Error::new(ErrorKind::NotFound, format!("allocation {id} has no task {task:?}")));
            }
            running.retain(|target| target.task == task);
        }
        match (running.len(), running.pop()) {
            (1, Some(target)) => Ok(target),
            (0, _) => Err(Error::new(ErrorKind::Conflict, format!("allocation {id}: the task does not run"))),
            _ => Err(Error::invalid("task", "more than one task runs; name one")),
        }
    }

    /// What lies in a directory of it.
    pub async fn fs_list(&self, id: &AllocId, path: &str) -> Result<Vec<FsEntry>> {
        let (root, path) = self.place(id, path)?;
        self.file_work(move || files::list(&root, &path)).await
    }

    /// What a path of it is.
    pub async fn fs_stat(&self, id: &AllocId, path: &str) -> Result<FsEntry> {
        let (root, path) = self.place(id, path)?;
        self.file_work(move || files::stat(&root, &path)).await
    }

    /// A file of it from there on; `limit` bytes at most, if given. `follow`: goes on when it grows, while the allocation runs.
    pub async fn fs_read(
        &self,
        id: &AllocId,
        path: &str,
        from: Origin,
        limit: Option<u64>,
        follow: bool,
    ) -> Result<Pieces> {
        let (root, path) = self.place(id, path)?;
        reading::file(Arc::clone(&self.shared), root, path, from, limit, follow.then(|| id.clone())).await
    }

    fn place(&self, id: &AllocId, path: &str) -> Result<(PathBuf, PathBuf)> {
        self.shared.known(id)?;
        Ok((self.shared.dirs_of(id).root().to_owned(), files::allowed(path)?))
    }

    async fn file_work<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|e| Error::caused_by(ErrorKind::Internal, "look at files", e))?
    }

    /// A log of one of its tasks.
    pub async fn logs(&self, id: &AllocId, wanted: LogsWanted) -> Result<Pieces> {
        let view = self.shared.known(id)?;
        let task = view.assignment.group().and_then(|group| group.task(&wanted.task));
        let Some(task) = task else {
            return Err(Error::new(ErrorKind::NotFound, format!("allocation {id} has no task {:?}", wanted.task)));
        };
        if task.logs.disabled {
            let what = format!("task {}: its job keeps no logs (logs.disabled)", wanted.task);
            return Err(Error::new(ErrorKind::Conflict, what));
        }
        let ground = self.shared.ground_of(&view);
        let output = work::output(&ground, task);
        if !output.dir.exists() {
            return Err(Error::new(ErrorKind::NotFound, format!("allocation {id}: has no logs yet")));
        }
        let log = self.shared.base.outlet.task_log(output).await?;
        let follow = wanted.follow.then(|| (id.clone(), wanted.task.clone()));
        reading::log(Arc::clone(&self.shared), log, wanted.stream, wanted.from, follow).await
    }

    /// Removes it and its directory. One that has not ended is a `Conflict`; one that is not here is removed already.
    pub async fn forget(&self, id: &AllocId) -> Result<()> {
        self.shared.forget(id).await
    }

    /// Ends the tasks of every allocation and lets go of it, for a node that leaves nothing running: each as its task says
    /// it wants to be ended, killed after `grace`. The next daemon begins them anew, and counts no failure.
    pub async fn stop_all(&self, grace: Duration) {
        let live = self.list().into_iter().filter(|view| !view.status.client.is_terminal());
        let departs = live.map(|view| async move {
            let id = &view.status.id;
            if let Err(error) = self.ask(id, |done| Command::Depart { done }).await {
                tracing::warn!(alloc = %id, error = %error.chain(), "it counts as failed that its tasks are ended");
            }
        });
        if tokio::time::timeout(DEPART_WITHIN, futures::future::join_all(departs)).await.is_err() {
            tracing::warn!("not every allocation could be written down; their tasks are ended all the same");
        }
        // Nothing is begun any more, and nobody waits for an end to begin another.
        self.detach().await;
        let engine = &self.shared.base.engine;
        let tasks = engine.list().into_iter().filter(|view| view.origin.owner == Owner::Task);
        let ends = tasks.map(|view| async move {
            match tokio::time::timeout(grace, engine.stop(&view.id, None)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::debug!(sandbox = %view.id, error = %error.chain(), "stop"),
                Err(_) => tracing::warn!(sandbox = %view.id, "a task takes longer to end than its node: killed"),
            }
            work::forget(Arc::clone(&self.shared), view.id).await;
        });
        futures::future::join_all(ends).await;
    }

    /// Lets go of every allocation: the daemon ends, they run on.
    pub async fn detach(&self) {
        self.shared.detached.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    async fn ask(&self, id: &AllocId, command: impl FnOnce(Done) -> Command) -> Result<()> {
        let (done, answer) = oneshot::channel();
        self.shared.send(id, command(done)).await?;
        answer.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Unavailable, "the node is shutting down")))
    }
}

/// Statuses as they change; see [`Allocations::statuses`].
#[derive(Debug)]
pub struct Statuses {
    shared: Arc<Shared>,
}

impl Statuses {
    /// What changed since the last call, each with its latest status; waits for something. Nothing is lost if it is dropped.
    pub async fn next(&mut self) -> Vec<AllocStatus> {
        loop {
            let mut news = std::pin::pin!(self.shared.news.notified());
            // Listening before looking: what changes in between is not missed.
            news.as_mut().enable();
            let changed = self.shared.take_changed();
            if !changed.is_empty() {
                return changed;
            }
            news.await;
        }
    }

    /// This one could not be told: it is among the next again.
    pub fn again(&mut self, id: AllocId) {
        self.shared.changed(id);
    }
}

fn new_sandbox_id() -> SandboxId {
    SandboxId::from_parts(clock::now(), rand::random())
}
