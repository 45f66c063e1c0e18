//! Nodes, statistics, versions.

use moat_model::job::{NodeFacts, NodeState, NodeWish};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// `N…`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Version of the daemon.
    pub version: String,
    /// `ready` or `lameduck`.
    pub status: String,
    /// Kinds of isolation it gives.
    pub isolation: Vec<String>,
    /// CPUs.
    pub cpus: u32,
    /// Memory of the machine.
    pub memory_bytes: u64,
    /// Memory that is free for use.
    pub memory_available_bytes: u64,
    /// Sandboxes that live, pool members not counted.
    pub sandboxes: u64,
    /// Most sandboxes at once.
    pub sandboxes_max: u64,
    /// Names of ready templates.
    pub templates: Vec<String>,
    /// When its daemon started.
    pub started_at: String,
}

/// The nodes this one knows; it comes first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeList {
    /// The list.
    pub nodes: Vec<Node>,
    /// Every node jobs may be placed on, this one among them, by name.
    #[serde(default)]
    pub cluster: Vec<ClusterNode>,
}

/// A node as jobs see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterNode {
    /// What it says of itself.
    #[schema(value_type = Object)]
    pub facts: NodeFacts,
    /// What is wanted of it.
    #[schema(value_type = Object)]
    pub wish: NodeWish,
    /// `ready` or `down`.
    #[schema(value_type = String)]
    pub state: NodeState,
}

/// Empties a node of what jobs run on it, or no longer does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainNode {
    /// Begin, or give up.
    pub enable: bool,
    /// Whatever is left after so many seconds is stopped; never if absent, at once if 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_secs: Option<u64>,
    /// Instances of system jobs stay.
    #[serde(default)]
    pub ignore_system: bool,
    /// A drain that is given up leaves the node ineligible.
    #[serde(default)]
    pub keep_ineligible: bool,
    /// Why, for people.
    #[serde(default)]
    pub message: String,
}

/// Whether anything new may be placed on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetEligibility {
    /// It may.
    pub eligible: bool,
}

/// Sums over what the caller may see.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// Nodes.
    pub nodes: u64,
    /// Sandboxes by state.
    pub sandboxes: std::collections::BTreeMap<String, u64>,
    /// Templates that are ready.
    pub templates: u64,
    /// Warm pool members ready, and being made.
    pub pool_ready: u64,
    /// Being made.
    pub pool_starting: u64,
    /// Creates served by a pool since the daemon started.
    pub pool_hits: u64,
    /// Creates a pool could have served had one been ready.
    pub pool_misses: u64,
    /// Sandboxes created since the daemon started.
    pub created_total: u64,
    /// Memory of all sandboxes.
    pub memory_bytes: u64,
    /// Processes in all sandboxes.
    pub processes: u64,
    /// Sandboxes with an address.
    #[serde(default)]
    pub networks: u64,
}

/// What one sandbox uses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SandboxStats {
    /// Which.
    pub id: String,
    /// Memory now.
    pub memory_bytes: u64,
    /// Memory at its highest, if the kernel tells.
    pub memory_peak_bytes: Option<u64>,
    /// Memory limit.
    pub memory_limit_bytes: Option<u64>,
    /// CPU time.
    pub cpu_usec: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Times the kernel killed something in it for memory.
    pub oom_kills: u64,
}

/// What answers here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// Of the daemon.
    pub version: String,
    /// Of this API: the `v1` of its paths.
    pub api: String,
}
