//! Where output and facts of sandboxes go: the engine's outlet, as the node implements it.
//!
//! Output goes into the log files of the workload a sandbox is *bound* to; changes of phase become facts in the outbox.
//! Bindings are kept on the tmpfs, so that an engine which recovers sandboxes finds them before anybody else is up.

mod retention;
mod state;
mod tasks;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use moat_agent::protocol::{Offsets, StreamName};
use moat_engine::Outlet;
use moat_model::lifecycle::SandboxView;
use moat_model::spec::Owner;
use moat_model::{ErrorKind, SandboxId, WorkloadId};
use tokio::sync::{Notify, watch};

use crate::clock;
use crate::error::{Error, Result};
use crate::events::{Attempt, Fact, Outbox};
use crate::logfile::{Rotation, TaskLog, WorkloadLog, WorkloadRef};

pub use retention::Retention;
use state::{State, Told};
pub use tasks::TaskOutput;
use tasks::Tasks;

/// Where an outlet keeps things, and how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutletConfig {
    /// A directory for each workload, on disk.
    pub log_dir: PathBuf,
    /// Which sandbox belongs to which workload; must survive the daemon but not the power.
    pub binding_dir: PathBuf,
    /// Size of each workload's log.
    pub rotation: Rotation,
    /// How long the logs of ended workloads stay.
    pub retention: Retention,
}

impl OutletConfig {
    /// The defaults, for these two directories.
    pub fn new(log_dir: impl Into<PathBuf>, binding_dir: impl Into<PathBuf>) -> Self {
        Self {
            log_dir: log_dir.into(),
            binding_dir: binding_dir.into(),
            rotation: Rotation::default(),
            retention: Retention::default(),
        }
    }
}

/// The node's outlet. Clones are the same one.
#[derive(Debug, Clone)]
pub struct NodeOutlet {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: OutletConfig,
    outbox: Outbox,
    state: State,
    /// Output of tasks of allocations.
    tasks: Tasks,
    /// Changes when a workload gets something to publish.
    news: watch::Sender<u64>,
    /// A publisher is connected and gets its batches confirmed.
    publishing: watch::Sender<bool>,
    judge: OnceLock<Arc<dyn Judge>>,
    /// A sandbox that is no workload's has ended.
    ends: Arc<Notify>,
}

/// Knows what becomes of a workload whose sandbox ended.
pub trait Judge: Send + Sync + std::fmt::Debug {
    /// Whether it will be started again. Asked once for an ended sandbox, before the node acts on its end.
    fn restarts(&self, workload: &WorkloadRef, view: &SandboxView) -> bool;
}

impl NodeOutlet {
    /// Opens the outlet and finds again every binding, and every log that was not published to its end.
    pub async fn open(config: OutletConfig, outbox: Outbox) -> Result<Self> {
        config.rotation.validate().map_err(|why| Error::new(ErrorKind::InvalidSpec, format!("logs: {why}")))?;
        let state = blocking("open the log files", {
            let config = config.clone();
            move || State::open(&config)
        })
        .await?;
        let tasks = Tasks::open(&config.binding_dir.join("tasks"))
            .map_err(|e| Error::caused_by(ErrorKind::Unavailable, "find the output of tasks", e))?;
        let inner = Inner {
            config,
            outbox,
            state,
            tasks,
            news: watch::Sender::new(0),
            publishing: watch::Sender::new(false),
            judge: OnceLock::new(),
            ends: Arc::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The directory holding a workload's log files, made if it is missing; what its sandboxes see at `/alloc/logs`.
    pub async fn log_dir(&self, workload: &WorkloadRef) -> Result<PathBuf> {
        let (inner, workload) = (Arc::clone(&self.inner), workload.clone());
        blocking("make the log directory", move || {
            inner.state.log_of(&inner.config, &workload)?;
            Ok(inner.config.log_dir.join(workload.id.as_str()))
        })
        .await
    }

    /// From now on the output of `sandbox` is output of `workload`, and its phases are facts about it. Kept before it
    /// returns. Call it before the sandbox is created.
    pub async fn bind(&self, sandbox: SandboxId, workload: WorkloadRef) -> Result<()> {
        self.bind_attempt(sandbox, workload, Attempt::default()).await
    }

    /// The same, with what facts say about this start of the workload.
    pub async fn bind_attempt(&self, sandbox: SandboxId, workload: WorkloadRef, attempt: Attempt) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        let doing = format!("bind {sandbox} to workload {}", workload.id);
        blocking(&doing, move || inner.state.bind(&inner.config, sandbox, workload, attempt)).await?;
        self.inner.news.send_modify(|n| *n += 1);
        Ok(())
    }

    /// From now on the output of `sandbox` is output of a task. Kept before it returns. Call it before the sandbox is created.
    pub async fn bind_task(&self, sandbox: SandboxId, output: TaskOutput) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        blocking("bind a sandbox to its task", move || inner.tasks.bind(sandbox, output)).await
    }

    /// The sandbox of a task is gone for good; its output stays.
    pub async fn unbind_task(&self, sandbox: &SandboxId) -> Result<()> {
        let (inner, sandbox) = (Arc::clone(&self.inner), sandbox.clone());
        blocking("unbind a sandbox from its task", move || inner.tasks.unbind(&sandbox)).await
    }

    /// Sandboxes whose output is a task's.
    pub fn task_sandboxes(&self) -> Vec<SandboxId> {
        self.inner.tasks.sandboxes()
    }

    /// What a task wrote.
    pub async fn task_log(&self, output: TaskOutput) -> Result<Arc<TaskLog>> {
        let inner = Arc::clone(&self.inner);
        blocking("open the output of a task", move || inner.tasks.log(&output)).await
    }

    /// The sandbox is gone for good; its output stays. Unknown sandboxes are unbound already.
    pub async fn unbind(&self, sandbox: &SandboxId) -> Result<()> {
        let (inner, sandbox) = (Arc::clone(&self.inner), sandbox.clone());
        let doing = format!("unbind {sandbox}");
        blocking(&doing, move || inner.state.unbind(&inner.config, &sandbox, clock::now())).await?;
        self.inner.news.send_modify(|n| *n += 1);
        Ok(())
    }

    /// Who is asked whether an end is the end. Without one, it is. The first call counts.
    pub fn set_judge(&self, judge: Arc<dyn Judge>) {
        let _ = self.inner.judge.set(judge);
    }

    /// Notified when a sandbox that is no workload's has ended.
    pub fn ends(&self) -> Arc<Notify> {
        Arc::clone(&self.inner.ends)
    }

    /// The workload a sandbox is bound to.
    pub fn bound(&self, sandbox: &SandboxId) -> Option<WorkloadRef> {
        self.inner.state.binding(sandbox).map(|binding| binding.workload)
    }

    /// Every sandbox that is bound, with its workload.
    pub fn bindings(&self) -> Vec<(SandboxId, WorkloadRef)> {
        self.inner.state.bindings()
    }

    /// The log of a workload, live or ended, or `None` if there is none any more.
    pub async fn log(&self, workload: &WorkloadId) -> Result<Option<Arc<WorkloadLog>>> {
        let (inner, workload) = (Arc::clone(&self.inner), workload.clone());
        blocking("open a log", move || inner.state.find_log(&inner.config, &workload)).await
    }

    /// Logs that have, or may get, something to publish.
    pub(crate) fn active(&self) -> Vec<Arc<WorkloadLog>> {
        self.inner.state.active()
    }

    /// A log is published to its end. `false` if it is bound again, so that there may be more.
    pub(crate) fn retire(&self, workload: &WorkloadId) -> bool {
        self.inner.state.retire(workload)
    }

    /// Changes when a workload gets something to publish.
    pub(crate) fn watch_news(&self) -> watch::Receiver<u64> {
        self.inner.news.subscribe()
    }

    /// Bytes in log files that are not published yet.
    pub fn lag(&self) -> u64 {
        let behind = |log: &Arc<WorkloadLog>| {
            let (end, published) = (log.end(), log.published());
            end.stdout.saturating_sub(published.stdout) + end.stderr.saturating_sub(published.stderr)
        };
        self.active().iter().map(behind).sum()
    }

    /// Tells whether a publisher is connected and gets its batches confirmed: only then does a full log wait for it.
    pub(crate) fn set_publishing(&self, on: bool) {
        self.inner.publishing.send_replace(on);
    }

    /// Deletes the logs of workloads that ended long ago, or too many to keep. Returns how many were deleted.
    pub async fn sweep(&self) -> Result<usize> {
        let inner = Arc::clone(&self.inner);
        blocking("delete old log files", move || inner.state.sweep(&inner.config, clock::now())).await
    }

    async fn task_log_of(&self, sandbox: &SandboxId) -> moat_engine::Result<Option<Arc<TaskLog>>> {
        let Some(output) = self.inner.tasks.output_of(sandbox) else { return Ok(None) };
        self.task_log(output).await.map(Some).map_err(engine_error)
    }

    fn binding(&self, sandbox: &SandboxId) -> moat_engine::Result<(WorkloadRef, Arc<WorkloadLog>)> {
        let unbound = || moat_engine::Error::new(ErrorKind::NotFound, format!("find the workload of {sandbox}"));
        let binding = self.inner.state.binding(sandbox).ok_or_else(unbound)?;
        let log = self.inner.state.live_log(&binding.workload.id).ok_or_else(unbound)?;
        Ok((binding.workload, log))
    }

    /// The facts a view holds that were not told yet.
    fn facts(&self, view: &SandboxView) -> Vec<(Fact, Told)> {
        let Some(binding) = self.inner.state.binding(&view.id) else { return Vec::new() };
        let mut facts = Vec::new();
        let ran = view.started_at.is_some();
        if ran && !binding.told.deployed {
            facts.push((
                Fact::workload_deployed(&binding.workload, binding.attempt, view),
                Told { deployed: true, ..binding.told },
            ));
        }
        if view.phase.is_terminal() && !binding.told.undeployed {
            let told = Told { deployed: binding.told.deployed || ran, undeployed: true };
            let restarting = self.inner.judge.get().is_some_and(|judge| judge.restarts(&binding.workload, view));
            facts.push((Fact::workload_undeployed(&binding.workload, binding.attempt, restarting, view), told));
        }
        facts
    }
}

#[async_trait]
impl Outlet for NodeOutlet {
    async fn position(&self, id: &SandboxId) -> moat_engine::Result<Offsets> {
        if let Some(log) = self.task_log_of(id).await? {
            return Ok(log.written(id));
        }
        Ok(self.binding(id)?.1.written(id))
    }

    async fn append(&self, id: &SandboxId, stream: StreamName, offset: u64, bytes: Bytes) -> moat_engine::Result<()> {
        if let Some(log) = self.task_log_of(id).await? {
            return tasks::append(log, id.clone(), stream, offset, bytes).await;
        }
        let (_, log) = self.binding(id)?;
        log.append(id, stream, offset, bytes, self.inner.publishing.subscribe()).await.map_err(engine_error)
    }

    async fn announce(&self, view: &SandboxView) -> moat_engine::Result<()> {
        for (fact, told) in self.facts(view) {
            self.inner.outbox.emit(fact).await.map_err(engine_error)?;
            let (inner, id) = (Arc::clone(&self.inner), view.id.clone());
            blocking("remember what was told", move || inner.state.told(&inner.config, &id, told))
                .await
                .map_err(engine_error)?;
        }
        if view.phase.is_terminal() && view.origin.owner != Owner::Workload {
            self.inner.ends.notify_one();
        }
        Ok(())
    }
}

fn engine_error(error: Error) -> moat_engine::Error {
    moat_engine::Error { kind: error.kind, doing: error.doing, source: error.source }
}

/// Runs file work on a thread that may wait.
pub(crate) async fn blocking<T: Send + 'static>(
    doing: &str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Error::caused_by(ErrorKind::Unavailable, doing, error)),
        // The daemon goes away before it was begun: that is no outcome, and nobody may write it down as one.
        Err(error) if error.is_cancelled() => std::future::pending().await,
        Err(error) => Err(Error::caused_by(ErrorKind::Internal, doing, error)),
    }
}

/// `<dir>/<workload id>`.
fn workload_dir(log_dir: &Path, workload: &WorkloadId) -> PathBuf {
    log_dir.join(workload.as_str())
}
