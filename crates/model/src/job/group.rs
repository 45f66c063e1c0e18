//! Tasks that run together on one node.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Affinity, Constraint, Disconnect, Migrate, Reschedule, Restart, ServiceSpec, Spread, Task, Text, Update};

/// A group of tasks; one instance of it on a node is an [`Allocation`](super::Allocation).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskGroup {
    /// Unique in its job.
    pub name: String,
    /// Instances; for system jobs 0 or 1 on each node.
    pub count: u32,
    /// What a node must fulfil, besides the job's.
    #[serde(default)]
    pub constraints: Vec<Constraint>,
    /// What a node had better fulfil, besides the job's.
    #[serde(default)]
    pub affinities: Vec<Affinity>,
    /// Over what instances are spread, besides the job's.
    #[serde(default)]
    pub spreads: Vec<Spread>,
    /// Host volumes it asks for, by the name tasks mount them under.
    #[serde(default)]
    pub volumes: BTreeMap<String, VolumeRequest>,
    /// What happens on its node when a task ends.
    pub restart: Restart,
    /// What happens when it failed on its node. System jobs have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reschedule: Option<Reschedule>,
    /// How a new version replaces the old one. Service and system jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<Update>,
    /// How it leaves a node that drains. Service jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migrate: Option<Migrate>,
    /// What happens when its node is cut off.
    pub disconnect: Disconnect,
    /// What its tasks share and write.
    pub ephemeral_disk: EphemeralDisk,
    /// Its network; absent: the node's default for jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<GroupNetwork>,
    /// What it offers to others.
    #[serde(default)]
    pub services: Vec<ServiceSpec>,
    /// Wait between withdrawing services and stopping tasks.
    #[serde(default)]
    pub shutdown_delay: Duration,
    /// It is stopped after this long. Batch and sysbatch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_run_duration: Option<Duration>,
    /// Free values.
    #[serde(default)]
    pub meta: BTreeMap<String, Text>,
    /// What runs. At least one main task; names are unique.
    pub tasks: Vec<Task>,
}

impl TaskGroup {
    /// The task of this name.
    pub fn task(&self, name: &str) -> Option<&Task> {
        self.tasks.iter().find(|task| task.name == name)
    }
}

/// A volume of the node it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeRequest {
    /// The operator's name for it (`client { host_volume "…" {} }`).
    pub source: String,
    /// Nobody may write it. The default, unlike Nomad's: writing to a host's path is asked for in so many words.
    pub read_only: bool,
}

/// What the tasks of an allocation write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EphemeralDisk {
    /// MiB; at least 10.
    pub size_mb: u32,
    /// A successor prefers the node, and gets `alloc/data` and `local/`.
    pub sticky: bool,
    /// With `sticky`: the same from another node.
    pub migrate: bool,
}

impl Default for EphemeralDisk {
    fn default() -> Self {
        Self { size_mb: 300, sticky: false, migrate: false }
    }
}

/// The network of a group's tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupNetwork {
    /// How it is connected.
    pub mode: GroupNetworkMode,
    /// Ports of the node that lead in, by label.
    #[serde(default)]
    pub ports: BTreeMap<String, PortSpec>,
    /// Host name inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Text>,
}

/// Nomad's modes. A container never shares the host's network, so `host` is for `raw_exec` only and refused elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupNetworkMode {
    /// A network of its own with ways out: what moat calls `internet`, or `internal` where the operator says so.
    Bridge,
    /// The host's: `raw_exec` only.
    Host,
    /// Loopback only.
    None,
}

/// One labelled port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortSpec {
    /// Port of the node; chosen by the node if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed: Option<u16>,
    /// Port inside; the node's if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u16>,
}
