//! A job file's content, whatever it was written in: groups of tasks that should run somewhere, and how they are kept running.
//!
//! Nomad's nouns and meanings (docs/jobs.md says where we differ). Parsed once at the edge (`moat-formats`); after that every
//! value is within its rules, defaults filled in. What is known only on a node stays text with `${…}` in it ([`Text`]).
//!
//! Start at [`Job`]; [`allocation`] is one instance of a group on a node, [`cluster`] what nodes say of themselves.

pub mod allocation;
pub mod artifact;
pub mod cluster;
pub mod deployment;
pub mod diff;
pub mod evaluation;
pub mod group;
pub mod place;
pub mod policy;
pub mod service;
pub mod task;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use allocation::{
    AllocStatus, Allocation, ClientStatus, Desired, NO_ROOM, RescheduleEvent, TaskEvent, TaskPhase, TaskStatus,
};
pub use artifact::{ArtifactMode, ArtifactSpec, ChangeMode, TemplateSpec};
pub use cluster::{DrainSpec, Eligibility, NodeFacts, NodeState, NodeWish};
pub use deployment::{Deployment, DeploymentGroup, DeploymentStatus};
pub use diff::{DiffKind, FieldDiff, GroupDiff, JobDiff, ObjectDiff, TaskDiff};
pub use evaluation::{Evaluation, EvaluationStatus, PlacementFailure};
pub use group::{EphemeralDisk, GroupNetwork, PortSpec, TaskGroup, VolumeRequest};
pub use place::{Affinity, Constraint, Operator, Spread, SpreadTarget};
pub use policy::{
    DelayFunction, Disconnect, HealthCheck, Migrate, Parameterized, Payload, Periodic, Reschedule, Restart,
    RestartMode, Update,
};
pub use service::{Check, CheckKind, CheckRestart, ServiceSpec};
pub use task::{Hook, Lifecycle, LogLimits, Task, TaskConfig, TaskDriver, TaskResources, VolumeMount};

use crate::{JobId, Namespace};

/// Text in which `${…}` may stand for what only the node knows: `NOMAD_*`, `attr.*`, `meta.*`, `node.*`, `env["…"]`.
/// Interpolated there, once, before the task starts.
pub type Text = String;

/// What a job is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobType {
    /// `count` instances that should run for ever.
    Service,
    /// `count` instances that run to their end.
    Batch,
    /// One on every eligible node, for ever.
    System,
    /// One on every eligible node, to its end.
    Sysbatch,
}

impl JobType {
    /// Nomad's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Batch => "batch",
            Self::System => "system",
            Self::Sysbatch => "sysbatch",
        }
    }

    /// Whether it has one instance for each node, not a count.
    pub fn is_on_every_node(self) -> bool {
        matches!(self, Self::System | Self::Sysbatch)
    }

    /// Whether its tasks should run for ever: an end with success is followed by a start.
    pub fn is_long_running(self) -> bool {
        matches!(self, Self::Service | Self::System)
    }
}

/// A declared job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// What it is called everywhere.
    pub id: JobId,
    /// For people; the id if nothing else was said.
    pub name: String,
    /// Tenant.
    pub namespace: Namespace,
    /// Shown as `NOMAD_REGION`; one NATS system is one region.
    pub region: String,
    /// What it is for.
    #[serde(rename = "type")]
    pub kind: JobType,
    /// 1 to 100; the greater is placed first.
    pub priority: u8,
    /// Place all of it or nothing.
    #[serde(default)]
    pub all_at_once: bool,
    /// Globs; a node's datacenter must match one.
    pub datacenters: Vec<String>,
    /// The pool of nodes it may use; `all` is every one.
    pub node_pool: String,
    /// What a node must fulfil.
    #[serde(default)]
    pub constraints: Vec<Constraint>,
    /// What a node had better fulfil.
    #[serde(default)]
    pub affinities: Vec<Affinity>,
    /// Over what its instances are spread.
    #[serde(default)]
    pub spreads: Vec<Spread>,
    /// It is started by the clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub periodic: Option<Periodic>,
    /// It is started by `dispatch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameterized: Option<Parameterized>,
    /// Free values, `NOMAD_META_…` in its tasks.
    #[serde(default)]
    pub meta: BTreeMap<String, Text>,
    /// What runs. At least one; names are unique.
    pub groups: Vec<TaskGroup>,
    /// The periodic or parameterized job it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<JobId>,
    /// What a dispatch brought, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
}

impl Job {
    /// The group of this name.
    pub fn group(&self, name: &str) -> Option<&TaskGroup> {
        self.groups.iter().find(|group| group.name == name)
    }

    /// Whether it never runs itself: its children do.
    pub fn is_only_a_parent(&self) -> bool {
        self.periodic.is_some() || self.parameterized.is_some()
    }
}
