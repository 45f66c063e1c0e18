//! What is remembered of a look at a job: why it was looked at, and what could not be placed.

use std::collections::BTreeMap;

use moat_model::job::{Deployment, PlacementFailure};
use moat_model::{JobId, Namespace, Timestamp};
use serde::{Deserialize, Serialize};

/// One look at a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvaluationView {
    /// A UUID.
    pub id: String,
    /// Tenant.
    pub namespace: Namespace,
    /// Which job.
    pub job: JobId,
    /// Its version then.
    pub version: u64,
    /// Its priority then.
    pub priority: u8,
    /// Why.
    pub triggered_by: Trigger,
    /// What became of it.
    pub status: Progress,
    /// Why, for people.
    #[serde(default)]
    pub description: String,
    /// The deployment that was under way after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,
    /// What could not be placed, by group.
    #[serde(default)]
    pub failures: BTreeMap<String, PlacementFailure>,
    /// Instances by group that wait for a place.
    #[serde(default)]
    pub queued: BTreeMap<String, u32>,
    /// The one that waits in its stead until something changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<String>,
    /// The one it waits in the stead of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// When it was asked for.
    pub created: Timestamp,
    /// When its status changed last.
    pub modified: Timestamp,
}

/// Why a job is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    /// It was submitted, or reverted.
    JobRegister,
    /// It is to stop.
    JobDeregister,
    /// The clock starts it.
    PeriodicJob,
    /// A node came, went or changed.
    NodeUpdate,
    /// A node is being emptied.
    NodeDrain,
    /// An allocation is to stop.
    AllocStop,
    /// An allocation has ended otherwise than it should.
    AllocFailure,
    /// Its deployment goes on, or somebody decided about it.
    DeploymentWatcher,
    /// There is room that was not there before.
    QueuedAllocs,
    /// The controller came back.
    Scheduled,
}

impl Trigger {
    /// Nomad's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::JobRegister => "job-register",
            Self::JobDeregister => "job-deregister",
            Self::PeriodicJob => "periodic-job",
            Self::NodeUpdate => "node-update",
            Self::NodeDrain => "node-drain",
            Self::AllocStop => "alloc-stop",
            Self::AllocFailure => "alloc-failure",
            Self::DeploymentWatcher => "deployment-watcher",
            Self::QueuedAllocs => "queued-allocs",
            Self::Scheduled => "scheduled",
        }
    }
}

/// What became of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Progress {
    /// The controller has not looked yet.
    Pending,
    /// It waits for room.
    Blocked,
    /// Carried out.
    Complete,
    /// Given up: the reason is in the description.
    Failed,
    /// A later one took its place.
    Canceled,
}

/// A deployment, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentView {
    /// Tenant.
    pub namespace: Namespace,
    /// Which job.
    pub job: JobId,
    /// How far it is.
    pub deployment: Deployment,
}
