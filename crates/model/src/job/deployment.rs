//! A new version on its way into service: kept with the job's allocations, written by the controller only.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// How a version of a job replaces the one before, group by group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    /// Its identity, a UUID.
    pub id: String,
    /// The version it brings.
    pub job_version: u64,
    /// How far it is.
    pub status: DeploymentStatus,
    /// Why, for people.
    pub description: String,
    /// Groups with an `update` block, by name.
    pub groups: BTreeMap<String, DeploymentGroup>,
    /// When it began.
    pub created: Timestamp,
    /// When anything of this changed.
    pub modified: Timestamp,
}

impl Deployment {
    /// Whether canaries wait for somebody's word.
    pub fn needs_promotion(&self) -> bool {
        self.status.is_active() && self.groups.values().any(DeploymentGroup::needs_promotion)
    }
}

/// How far a deployment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeploymentStatus {
    /// Going on.
    Running,
    /// Held by somebody.
    Paused,
    /// All its instances are healthy.
    Successful,
    /// Given up.
    Failed,
    /// A newer version, or the end of the job, came first.
    Cancelled,
}

impl DeploymentStatus {
    /// Nomad's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Successful => "successful",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// It may still change anything.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

/// One group of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeploymentGroup {
    /// Instances that should be healthy at the end.
    pub desired: u32,
    /// Canaries that are tried first.
    pub desired_canaries: u32,
    /// The canaries were found good, or there are none to be found so.
    pub promoted: bool,
    /// They are found good by being healthy.
    pub auto_promote: bool,
    /// Go back to the last stable version if it fails.
    pub auto_revert: bool,
    /// Instances of this version that were placed.
    pub placed: u32,
    /// Those that are healthy.
    pub healthy: u32,
    /// Those that turned out not to be.
    pub unhealthy: u32,
    /// Nothing more got healthy by then: it has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_by: Option<Timestamp>,
}

impl DeploymentGroup {
    /// Its canaries wait for somebody's word.
    pub fn needs_promotion(&self) -> bool {
        self.desired_canaries > 0 && !self.promoted
    }
}
