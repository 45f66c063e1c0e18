//! Deployments: how a new version takes the place of the old one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Deployment {
    /// Its id.
    pub id: String,
    /// Of which job.
    pub job: String,
    /// Of which version.
    pub job_version: u64,
    /// `running`, `paused`, `successful`, `failed` or `cancelled`.
    pub status: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// By group.
    pub groups: BTreeMap<String, DeploymentGroup>,
}

impl Deployment {
    /// Whether it may still change anything.
    pub fn is_active(&self) -> bool {
        matches!(self.status.as_str(), "running" | "paused")
    }

    /// Whether canaries wait for somebody's word.
    pub fn needs_promotion(&self) -> bool {
        self.is_active() && self.groups.values().any(|g| g.canaries > 0 && !g.promoted && !g.auto_promote)
    }
}

/// How far a group is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentGroup {
    /// Instances of the new version in the end.
    pub desired: u32,
    /// Placed so far.
    pub placed: u32,
    /// Healthy.
    pub healthy: u32,
    /// Not healthy in time.
    pub unhealthy: u32,
    /// Tried beside the old version first.
    #[serde(default)]
    pub canaries: u32,
    /// The canaries were found good, or there are none.
    #[serde(default)]
    pub promoted: bool,
    /// They are found good by being healthy.
    #[serde(default)]
    pub auto_promote: bool,
    /// Goes back to the last stable version when it fails.
    #[serde(default)]
    pub auto_revert: bool,
    /// It has failed unless something gets healthy before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_by: Option<String>,
}

/// Deployments that are kept, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeploymentList {
    /// The list.
    pub deployments: Vec<Deployment>,
}

/// Goes on after the canaries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Promote {
    /// Of these groups; all if there are none.
    #[serde(default)]
    pub groups: Vec<String>,
}
