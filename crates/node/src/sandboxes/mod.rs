//! Sandboxes as users of the API see them: created from templates, images and snapshots, kept alive, paused, forked, and
//! explained after they are gone.
//!
//! The engine decides how a sandbox lives; here is decided what it is made of, whose it is, and what is remembered of it.
//! [`plan`] reads a request, [`launch`] makes what it asks for, [`branch`] makes snapshots and children, [`reaper`] takes
//! ended ones from the engine into [`history`].

mod branch;
pub(crate) mod checks;
mod history;
pub mod ingress;
mod launch;
pub(crate) mod limits;
mod list;
mod logs;
mod machines;
mod network;
mod node;
mod plan;
pub mod pool;
mod reaper;
mod reply;
mod seeds;
mod snapshots;
#[cfg(test)]
mod tests;
mod users;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use moat_api::rest::node::SandboxStats;
use moat_api::rest::sandbox::{self as rest, CreateSandbox, Explanation, Keepalive, Pause, Resume, Sandbox};
use moat_engine::guest::ExecSession;
use moat_engine::{Engine, Guest};
use moat_image::store::Pin;
use moat_model::lifecycle::{PauseTo, SandboxView};
use moat_model::spec::{ExecSpec, Owner, Resources};
use moat_model::{ErrorKind, Namespace, NodeId, ProcessSpec, SandboxId, Timestamp};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock;
use crate::config::{PoolConfig, SandboxesConfig};
use crate::error::{Error, Result};
use crate::networks::Networks;
use crate::outlet::{NodeOutlet, blocking};
use crate::templates::Templates;
use crate::workloads::ready::Ready;

use history::History;
use ingress::Access;
use snapshots::Snapshots;

/// What sandboxes stand on.
#[derive(Debug)]
pub struct Foundation {
    /// Whose they are.
    pub node: NodeId,
    /// The node's name for people.
    pub name: String,
    /// Since when its daemon runs.
    pub started_at: Timestamp,
    /// It takes nothing new.
    pub lameduck: Arc<AtomicBool>,
    /// Makes them.
    pub engine: Engine,
    /// Takes their output.
    pub outlet: NodeOutlet,
    /// What they are made from.
    pub templates: Templates,
    /// Bounds.
    pub config: SandboxesConfig,
    /// Limits of those whose creator and template name none.
    pub resources: Resources,
    /// Most sandboxes on the node.
    pub sandboxes_max: usize,
    /// The same of those that are microVMs.
    pub machine: Resources,
    /// Where machines are kept.
    pub machines_dir: PathBuf,
    /// What the node gives, the strongest first, as replies say it.
    pub isolation: Vec<String>,
    /// The operator allows sandboxes that are none.
    pub process_allowed: bool,
    /// Warm pools, as the operator wants them.
    pub pool: PoolConfig,
    /// The pools, and what members that stand ready for workloads are.
    pub ready: Ready,
    /// What connects them.
    pub networks: Arc<Networks>,
    /// Where snapshots are recorded.
    pub snapshot_dir: PathBuf,
    /// Where ended sandboxes are remembered.
    pub history_dir: PathBuf,
}

/// The sandboxes of this node that belong to the API. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sandboxes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    base: Foundation,
    snapshots: Snapshots,
    history: History,
    /// Being made, and not yet the engine's: counted against the quota of their namespace.
    coming: Mutex<HashMap<SandboxId, Namespace>>,
    /// What this daemon knows of those it made, beyond the engine's records.
    made: Mutex<HashMap<SandboxId, Made>>,
    created: AtomicU64,
    /// How ports are reached, once the proxy listens.
    access: OnceLock<Access>,
    /// Ended ones that are just being remembered, and that one of them is.
    burying: Mutex<HashSet<SandboxId>>,
    buried: Notify,
    tasks: TaskTracker,
    closed: CancellationToken,
}

/// What is known of a sandbox by the daemon that made it.
#[derive(Debug, Default)]
struct Made {
    /// How long that took, more exactly than the engine's clock says.
    boot_ms: Option<f64>,
    /// Its layers: a collection that looked before it was recorded must not take them. After a restart the records, which
    /// are there before the first collection, hold them.
    _pins: Vec<Pin>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is one insertion or removal, so a panic elsewhere cannot have left one half made.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sandboxes {
    /// Takes up what an earlier daemon left, and begins to fill the pools.
    pub async fn open(base: Foundation) -> Result<Self> {
        let (dir, config) = (base.history_dir.clone(), base.config.clone());
        let history = tokio::task::spawn_blocking(move || {
            let history = History::open(&dir, config.keep_ended, config.keep_ended_max)?;
            history.sweep(clock::now());
            Ok::<_, Error>(history)
        });
        let history = history.await.map_err(|e| Error::caused_by(ErrorKind::Internal, "read the history", e))??;
        let snapshots = Snapshots::open(&base.snapshot_dir, &base.machines_dir, base.templates.store().clone())?;
        let shared = Arc::new(Shared {
            base,
            snapshots,
            history,
            coming: Mutex::default(),
            made: Mutex::default(),
            created: AtomicU64::new(0),
            access: OnceLock::new(),
            burying: Mutex::default(),
            buried: Notify::new(),
            tasks: TaskTracker::new(),
            closed: CancellationToken::new(),
        });
        shared.base.templates.add_users(Arc::new(users::Users::of(&shared)));
        let this = Self { shared };
        if let Err(error) = this.sweep_machines().await {
            tracing::warn!(error = %error.chain(), "machines that nothing names are left over until the next start");
        }
        this.unbind_lost().await;
        let (reaper, filler) = (this.clone(), this.clone());
        this.shared.tasks.spawn(async move { reaper.reap().await });
        this.shared.tasks.spawn(async move { filler.fill_pools().await });
        Ok(this)
    }

    /// Ends the background tasks; sandboxes live on.
    pub async fn close(&self) {
        self.shared.closed.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// Creates one; returns when its agent is ready. From the pool, if a member fits.
    pub async fn create(&self, namespace: &Namespace, request: CreateSandbox) -> Result<Sandbox> {
        self.admit()?;
        let begun = std::time::Instant::now();
        let plan = self.plan(namespace, &request).await?;
        let view = match self.claim_member(&plan).await {
            Some(view) => view,
            None => self.launch(plan).await?,
        };
        let boot_ms = begun.elapsed().as_secs_f64() * 1000.0;
        lock(&self.shared.made).entry(view.id.clone()).or_default().boot_ms = Some(boot_ms);
        self.shown(&view)
    }

    /// One, also if it has ended and is remembered. Another tenant's is not found.
    pub fn get(&self, namespace: &Namespace, id: &SandboxId) -> Result<Sandbox> {
        match self.view(namespace, id) {
            Ok(view) => self.shown(&view).or_else(|_| self.remembered(namespace, id)),
            Err(_) => self.remembered(namespace, id),
        }
    }

    /// Ends one from whatever phase; resolves when nothing of it is left. Its explanation is kept.
    pub async fn delete(&self, namespace: &Namespace, id: &SandboxId) -> Result<()> {
        self.own(namespace, id)?;
        let (this, id) = (self.clone(), id.clone());
        // Whoever asked may go away; what was asked for is done.
        let ended = self.shared.tasks.spawn(async move { this.end(&id).await });
        ended.await.map_err(|e| Error::caused_by(ErrorKind::Internal, "end a sandbox", e))?
    }

    /// Gives it a new life span.
    pub async fn keepalive(&self, namespace: &Namespace, id: &SandboxId, request: Keepalive) -> Result<Sandbox> {
        self.own(namespace, id)?;
        let span = plan::new_span(&self.shared.base.config, request.timeout_sec)?;
        let view = self.shared.base.engine.keepalive(id, span, request.shorten).await?;
        self.shown(&view)
    }

    /// Pauses it. One that is paused already goes from memory to disk if that is asked for, and else stays as it is.
    pub async fn pause(&self, namespace: &Namespace, id: &SandboxId, request: Pause) -> Result<Sandbox> {
        let view = self.own(namespace, id)?;
        let engine = &self.shared.base.engine;
        let to = match request.to {
            rest::PauseTo::Memory => PauseTo::Memory,
            rest::PauseTo::Disk if engine.offer_of(&view.driver).is_some_and(|offer| offer.stows) => PauseTo::Disk,
            rest::PauseTo::Disk => {
                let what =
                    format!("to: sandbox {id} is a {}, which is paused in memory only; leave it out", view.isolation);
                return Err(Error::new(ErrorKind::Unsupported, what));
            }
        };
        let view = engine.pause(id, to).await?;
        self.shown(&view)
    }

    /// Lets it go on. One that runs already stays as it is.
    pub async fn resume(&self, namespace: &Namespace, id: &SandboxId, request: Resume) -> Result<Sandbox> {
        self.own(namespace, id)?;
        let engine = &self.shared.base.engine;
        let view = match plan::new_span(&self.shared.base.config, request.timeout_sec)? {
            Some(span) => engine.resume_for(id, span).await?,
            None => engine.resume(id).await?,
        };
        self.shown(&view)
    }

    /// What happened to it; also after it is gone.
    pub async fn explain(&self, namespace: &Namespace, id: &SandboxId) -> Result<Explanation> {
        if let Ok(view) = self.view(namespace, id)
            && let Ok(steps) = self.shared.base.engine.explain(id).await
            && let Ok(sandbox) = self.shown(&view)
        {
            return Ok(Explanation { id: id.to_string(), sandbox, steps: reply::steps(&steps) });
        }
        let (shared, namespace, id) = (Arc::clone(&self.shared), namespace.clone(), id.clone());
        tokio::task::spawn_blocking(move || shared.history.explain(&namespace, &id))
            .await
            .map_err(|e| Error::caused_by(ErrorKind::Internal, "read the history of a sandbox", e))?
    }

    /// What it uses.
    pub async fn usage(&self, namespace: &Namespace, id: &SandboxId) -> Result<SandboxStats> {
        let view = self.view(namespace, id)?;
        let usage = self.shared.base.engine.usage(id).await?;
        Ok(SandboxStats {
            id: id.to_string(),
            memory_bytes: usage.memory_bytes,
            memory_peak_bytes: usage.memory_peak_bytes,
            memory_limit_bytes: view.resources.memory_bytes,
            cpu_usec: usage.cpu_usec,
            pids: usage.pids,
            oom_kills: usage.oom_kills,
        })
    }

    /// Runs a process in it, with its defaults; counts as use.
    pub async fn exec(&self, namespace: &Namespace, id: &SandboxId, spec: &ExecSpec) -> Result<ExecSession> {
        self.view(namespace, id)?;
        self.shared.base.engine.exec(id, spec).await
    }

    /// Its inside, for files, detached execs and processes; counts as use. Paused is a conflict that says so. Processes
    /// started through it get no defaults: see [`Sandboxes::with_defaults`].
    pub async fn guest(&self, namespace: &Namespace, id: &SandboxId) -> Result<Arc<dyn Guest>> {
        self.view(namespace, id)?;
        self.shared.base.engine.guest(id).await
    }

    /// A process with what it leaves open filled in from the sandbox's defaults.
    pub fn with_defaults(&self, namespace: &Namespace, id: &SandboxId, process: &ProcessSpec) -> Result<ProcessSpec> {
        self.view(namespace, id)?;
        let spec = self.shared.base.engine.spec(id).ok_or_else(|| no_such(id))?;
        Ok(spec.process.applied_to(process))
    }

    /// User that files are read and written as if a request names none.
    pub fn default_user(&self, namespace: &Namespace, id: &SandboxId) -> Result<Option<String>> {
        self.view(namespace, id)?;
        let spec = self.shared.base.engine.spec(id).ok_or_else(|| no_such(id))?;
        Ok(spec.process.user.clone())
    }

    /// Notes that something is held open in it: a stream, a terminal, a watch.
    pub fn touch(&self, id: &SandboxId) {
        self.shared.base.engine.touch(id);
    }

    // --- beneath -----------------------------------------------------------------------------------------------------

    /// The engine's picture of a sandbox of this tenant. Workloads, members of a pool and other tenants' are not found.
    fn view(&self, namespace: &Namespace, id: &SandboxId) -> Result<SandboxView> {
        let seen = |view: &SandboxView| is_shown(view) && view.namespace == *namespace;
        self.shared.base.engine.get(id).filter(seen).ok_or_else(|| no_such(id))
    }

    /// The same of one whose life is its users' to decide about. A jail's is the jail's.
    fn own(&self, namespace: &Namespace, id: &SandboxId) -> Result<SandboxView> {
        let view = self.view(namespace, id)?;
        if view.origin.owner == Owner::Jail {
            let jail = view.labels.get("jail").map_or("?", String::as_str);
            let what = format!("sandbox {id} is jail {jail}: moat jail stop {jail}, or what else moat jail has for it");
            return Err(Error::new(ErrorKind::Conflict, what));
        }
        Ok(view)
    }

    fn remembered(&self, namespace: &Namespace, id: &SandboxId) -> Result<Sandbox> {
        self.shared.history.get(namespace, id).ok_or_else(|| no_such(id))
    }

    fn shown(&self, view: &SandboxView) -> Result<Sandbox> {
        let spec = self.shared.base.engine.spec(&view.id).ok_or_else(|| no_such(&view.id))?;
        let boot_ms = lock(&self.shared.made).get(&view.id).and_then(|made| made.boot_ms);
        let networking = self.shared.base.networks.status(&view.id, &spec.network, view.address);
        let mut shown = reply::sandbox(&self.shared.base.node, view, &spec, networking, boot_ms, clock::now());
        shown.proxy = self.access_of(view, &spec);
        Ok(shown)
    }

    /// All of a namespace that the engine has.
    fn living(&self, namespace: &Namespace) -> Vec<(SandboxId, Sandbox)> {
        let all = self.shared.base.engine.list();
        let seen = all.into_iter().filter(|view| is_shown(view) && view.namespace == *namespace);
        seen.filter_map(|view| Some((view.id.clone(), self.shown(&view).ok()?))).collect()
    }

    /// All that the engine has and that are the API's.
    fn views(&self) -> Vec<SandboxView> {
        let mut views = self.shared.base.engine.list();
        views.retain(|view| view.origin.owner == Owner::Api);
        views
    }

    /// Output of sandboxes that were gone before this daemon came is closed.
    async fn unbind_lost(&self) {
        for (sandbox, reference) in self.shared.base.outlet.bindings() {
            let ours = reference.id == logs::log_id(&sandbox);
            if ours
                && self.shared.base.engine.get(&sandbox).is_none()
                && let Err(error) = self.shared.base.outlet.unbind(&sandbox).await
            {
                tracing::warn!(%sandbox, error = %error.chain(), "output not closed");
            }
        }
    }

    /// Removes machines that nothing names: a daemon was killed while it wrote them, or made children of them.
    async fn sweep_machines(&self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let swept = tokio::task::spawn_blocking(move || {
            let keeps = |name: &str| seeds::is_whole(name) || shared.snapshots.has(name);
            machines::sweep(&shared.base.machines_dir, keeps)
        });
        swept.await.map_err(|e| Error::caused_by(ErrorKind::Internal, "sweep machines", e))?
    }

    /// Removes a file that may be there, off the async threads.
    async fn remove_file(path: PathBuf) {
        let doing = format!("remove {}", path.display());
        if let Err(error) = blocking(&doing, move || crate::durable::remove(&path)).await {
            tracing::warn!(error = %error.chain(), "a file is left over until the next start");
        }
    }
}

/// Whether users see it: theirs, and what jails are.
fn is_shown(view: &SandboxView) -> bool {
    matches!(view.origin.owner, Owner::Api | Owner::Jail)
}

fn no_such(id: &SandboxId) -> Error {
    Error::new(ErrorKind::NotFound, format!("no such sandbox {id}"))
}
