//! Sandboxes as users of the API see them: created from templates, images and snapshots, kept alive, paused, forked, and
//! explained after they are gone.
//!
//! The engine decides how a sandbox lives; here is decided what it is made of, whose it is, and what is remembered of it.

use moat_api::rest::node::{Node, SandboxStats, Stats};
use moat_api::rest::sandbox::{
    CreateSandbox, Explanation, Fork, Forked, Keepalive, ListSandboxes, Resume, Sandbox, SandboxList, Snapshot,
    SnapshotList, TakeSnapshot,
};
use moat_engine::Guest;
use moat_engine::guest::ExecSession;
use moat_model::spec::ExecSpec;
use moat_model::{ErrorKind, Namespace, SandboxId};

use crate::error::{Error, Result};

/// The sandboxes of this node that belong to the API. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sandboxes {}

impl Sandboxes {
    /// Creates one; returns when its agent is ready. From the pool, if a member fits.
    pub async fn create(&self, namespace: &Namespace, request: CreateSandbox) -> Result<Sandbox> {
        let _ = (namespace, request);
        Err(not_yet())
    }

    /// One, also if it has ended and is remembered. Another tenant's is not found.
    pub fn get(&self, namespace: &Namespace, id: &SandboxId) -> Result<Sandbox> {
        let _ = (namespace, id);
        Err(not_yet())
    }

    /// A page.
    pub fn list(&self, namespace: &Namespace, query: &ListSandboxes) -> Result<SandboxList> {
        let _ = (namespace, query);
        Err(not_yet())
    }

    /// Ends one from whatever phase; resolves when nothing of it is left. Its explanation is kept.
    pub async fn delete(&self, namespace: &Namespace, id: &SandboxId) -> Result<()> {
        let _ = (namespace, id);
        Err(not_yet())
    }

    /// Gives it a new life span.
    pub async fn keepalive(&self, namespace: &Namespace, id: &SandboxId, request: Keepalive) -> Result<Sandbox> {
        let _ = (namespace, id, request);
        Err(not_yet())
    }

    /// Freezes it. One that is paused already is a conflict.
    pub async fn pause(&self, namespace: &Namespace, id: &SandboxId) -> Result<Sandbox> {
        let _ = (namespace, id);
        Err(not_yet())
    }

    /// Lets it go on. One that runs already stays as it is.
    pub async fn resume(&self, namespace: &Namespace, id: &SandboxId, request: Resume) -> Result<Sandbox> {
        let _ = (namespace, id, request);
        Err(not_yet())
    }

    /// Makes children of it.
    pub async fn fork(&self, namespace: &Namespace, id: &SandboxId, request: Fork) -> Result<Forked> {
        let _ = (namespace, id, request);
        Err(not_yet())
    }

    /// Keeps its file system under an id.
    pub async fn snapshot(&self, namespace: &Namespace, id: &SandboxId, request: TakeSnapshot) -> Result<Snapshot> {
        let _ = (namespace, id, request);
        Err(not_yet())
    }

    /// All snapshots.
    pub fn snapshots(&self, namespace: &Namespace) -> Result<SnapshotList> {
        let _ = namespace;
        Err(not_yet())
    }

    /// Removes a snapshot by id or name; one that sandboxes live from is a conflict.
    pub async fn delete_snapshot(&self, namespace: &Namespace, name: &str) -> Result<()> {
        let _ = (namespace, name);
        Err(not_yet())
    }

    /// What happened to it; also after it is gone.
    pub async fn explain(&self, namespace: &Namespace, id: &SandboxId) -> Result<Explanation> {
        let _ = (namespace, id);
        Err(not_yet())
    }

    /// What it uses.
    pub async fn usage(&self, namespace: &Namespace, id: &SandboxId) -> Result<SandboxStats> {
        let _ = (namespace, id);
        Err(not_yet())
    }

    /// Runs a process in it, with its defaults; counts as use.
    pub async fn exec(&self, namespace: &Namespace, id: &SandboxId, spec: &ExecSpec) -> Result<ExecSession> {
        let _ = (namespace, id, spec);
        Err(not_yet())
    }

    /// Its inside, for files, detached execs and processes; counts as use. Paused is a conflict that says so.
    pub async fn guest(&self, namespace: &Namespace, id: &SandboxId) -> Result<std::sync::Arc<dyn Guest>> {
        let _ = (namespace, id);
        Err(not_yet())
    }

    /// This node.
    pub fn node(&self) -> Node {
        Node {
            id: String::new(),
            name: String::new(),
            version: String::new(),
            status: String::new(),
            isolation: Vec::new(),
            cpus: 0,
            memory_bytes: 0,
            memory_available_bytes: 0,
            sandboxes: 0,
            sandboxes_max: 0,
            templates: Vec::new(),
            started_at: String::new(),
        }
    }

    /// Sums over what this tenant may see; over all for an administrator (`None`).
    pub async fn stats(&self, namespace: Option<&Namespace>) -> Stats {
        let _ = namespace;
        Stats::default()
    }
}

fn not_yet() -> Error {
    Error::new(ErrorKind::Unsupported, "sandboxes over REST")
}
