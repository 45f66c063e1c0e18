//! The engine's front: every sandbox of this node by its id.

use std::path::PathBuf;
use std::sync::Arc;

use moat_agent::protocol::GuestProcess;
pub use moat_model::lifecycle::Deadlines;
use moat_model::lifecycle::{SandboxView, Step};
use moat_model::spec::{ExecSpec, StopSpec};
use moat_model::{ErrorKind, SandboxId, SandboxSpec};

use crate::driver::Usage;
use crate::error::{Error, Result};
use crate::guest::ExecSession;
use crate::outlet::Outlet;
pub use crate::registry::Registry;

/// What the operator sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// State that must survive the daemon but not the power; a tmpfs (`/run/moat`).
    pub run_dir: PathBuf,
    /// State on disk (`/var/lib/moat`).
    pub data_dir: PathBuf,
    /// First host user id of the blocks of 65,536 given to sandboxes.
    pub uid_base: u32,
    /// Most sandboxes that may exist at once, ended ones whose record is kept not counted.
    pub sandboxes_max: usize,
    /// Bounds of every wait.
    pub deadlines: Deadlines,
}

impl EngineConfig {
    /// The defaults, for these two directories.
    pub fn new(run_dir: impl Into<PathBuf>, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            run_dir: run_dir.into(),
            data_dir: data_dir.into(),
            uid_base: 0x4000_0000,
            sandboxes_max: 1000,
            deadlines: Deadlines::default(),
        }
    }
}

/// Every sandbox of this node. Cheap to clone; all clones are the same engine.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    drivers: Registry,
}

impl Engine {
    /// Opens the engine and finds again what an earlier daemon left. The views are of everything found, ended ones too.
    pub async fn open(
        config: EngineConfig,
        drivers: Registry,
        outlet: Arc<dyn Outlet>,
    ) -> Result<(Self, Vec<SandboxView>)> {
        drop((config, outlet));
        Ok((Self { inner: Arc::new(Inner { drivers }) }, Vec::new()))
    }

    /// Says which field of `spec` cannot be honoured here.
    pub fn validate(&self, spec: &SandboxSpec) -> Result<()> {
        self.inner.drivers.pick(spec)?.validate(spec)
    }

    /// Creates a sandbox; returns when its main process runs, or its agent is ready if it has none. After an error, which
    /// carries stage and cause, nothing of it is left.
    pub async fn create(&self, id: SandboxId, spec: SandboxSpec) -> Result<SandboxView> {
        self.validate(&spec)?;
        Err(no_actors(&id))
    }

    /// The sandbox as it is now.
    pub fn get(&self, _id: &SandboxId) -> Option<SandboxView> {
        None
    }

    /// All of them, ended ones whose record is kept included.
    pub fn list(&self) -> Vec<SandboxView> {
        Vec::new()
    }

    /// Follows one.
    pub fn watch(&self, _id: &SandboxId) -> Option<tokio::sync::watch::Receiver<SandboxView>> {
        None
    }

    /// Stops it; resolves at the terminal view. `how` overrides the spec's way.
    pub async fn stop(&self, id: &SandboxId, _how: Option<StopSpec>) -> Result<SandboxView> {
        Err(no_actors(id))
    }

    /// Kills it; resolves at the terminal view.
    pub async fn kill(&self, id: &SandboxId) -> Result<SandboxView> {
        Err(no_actors(id))
    }

    /// Freezes it.
    pub async fn pause(&self, id: &SandboxId) -> Result<SandboxView> {
        Err(no_actors(id))
    }

    /// Lets it go on.
    pub async fn resume(&self, id: &SandboxId) -> Result<SandboxView> {
        Err(no_actors(id))
    }

    /// Ends it, from whatever phase, and forgets its record.
    pub async fn delete(&self, id: &SandboxId) -> Result<()> {
        Err(no_actors(id))
    }

    /// Runs another process in it.
    pub async fn exec(&self, id: &SandboxId, _spec: &ExecSpec) -> Result<ExecSession> {
        Err(no_actors(id))
    }

    /// Lists its processes.
    pub async fn processes(&self, id: &SandboxId) -> Result<Vec<GuestProcess>> {
        Err(no_actors(id))
    }

    /// Measures it.
    pub async fn usage(&self, id: &SandboxId) -> Result<Usage> {
        Err(no_actors(id))
    }

    /// What happened to it, step by step.
    pub async fn explain(&self, id: &SandboxId) -> Result<Vec<Step>> {
        Err(no_actors(id))
    }

    /// Lets go of every sandbox: the daemon stops, they live on.
    pub async fn detach(self) {}
}

fn no_actors(id: &SandboxId) -> Error {
    Error::new(ErrorKind::NotFound, format!("sandbox {id}: not on this node"))
}
