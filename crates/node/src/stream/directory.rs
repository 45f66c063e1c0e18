//! What the server needs of workloads and of sandboxes.

use async_trait::async_trait;
use moat_agent::protocol::GuestProcess;
use moat_api::sandbox::WorkloadView;
use moat_engine::driver::Usage;
use moat_engine::guest::ExecSession;
use moat_engine::{Engine, Result};
use moat_model::lifecycle::{PauseTo, SandboxView, Step};
use moat_model::spec::ExecSpec;
use moat_model::{SandboxId, WorkloadId};

use crate::workloads::{StartClaims, Workloads};

/// A workload, as far as requests about its sandbox are concerned.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// What everybody sees.
    pub view: WorkloadView,
    /// What it was started with.
    pub start: StartClaims,
    /// What happened to its last sandbox, if that has ended.
    pub timeline: Vec<Step>,
}

/// Knows the workloads of this node.
pub trait WorkloadDirectory: Send + Sync + std::fmt::Debug {
    /// All of them, oldest first, ended ones that are still remembered included.
    fn list(&self) -> Vec<WorkloadView>;
    /// One of them.
    fn find(&self, id: &WorkloadId) -> Option<Found>;
}

impl WorkloadDirectory for Workloads {
    fn list(&self) -> Vec<WorkloadView> {
        Self::list(self).iter().map(|snapshot| snapshot.view.clone()).collect()
    }

    fn find(&self, id: &WorkloadId) -> Option<Found> {
        let snapshot = self.get(id)?;
        Some(Found { view: snapshot.view.clone(), start: snapshot.claims.clone(), timeline: snapshot.timeline.clone() })
    }
}

/// Does things to sandboxes.
#[async_trait]
pub trait Sandboxes: Send + Sync + std::fmt::Debug {
    /// Runs another process.
    async fn exec(&self, id: &SandboxId, spec: &ExecSpec) -> Result<ExecSession>;
    /// Freezes it.
    async fn pause(&self, id: &SandboxId) -> Result<SandboxView>;
    /// Lets it go on.
    async fn resume(&self, id: &SandboxId) -> Result<SandboxView>;
    /// Measures it.
    async fn usage(&self, id: &SandboxId) -> Result<Usage>;
    /// Lists what runs in it.
    async fn processes(&self, id: &SandboxId) -> Result<Vec<GuestProcess>>;
    /// Says what happened to it.
    async fn explain(&self, id: &SandboxId) -> Result<Vec<Step>>;
}

#[async_trait]
impl Sandboxes for Engine {
    async fn exec(&self, id: &SandboxId, spec: &ExecSpec) -> Result<ExecSession> {
        Self::exec(self, id, spec).await
    }

    async fn pause(&self, id: &SandboxId) -> Result<SandboxView> {
        Self::pause(self, id, PauseTo::Memory).await
    }

    async fn resume(&self, id: &SandboxId) -> Result<SandboxView> {
        Self::resume(self, id).await
    }

    async fn usage(&self, id: &SandboxId) -> Result<Usage> {
        Self::usage(self, id).await
    }

    async fn processes(&self, id: &SandboxId) -> Result<Vec<GuestProcess>> {
        Self::processes(self, id).await
    }

    async fn explain(&self, id: &SandboxId) -> Result<Vec<Step>> {
        Self::explain(self, id).await
    }
}
