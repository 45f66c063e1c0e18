//! What nodes say of themselves, and what is wanted of them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{NodeId, Timestamp};

/// What a node says of itself. It changes seldom; that it lives is said elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFacts {
    /// Which one.
    pub id: NodeId,
    /// For people, and as `${node.unique.name}`.
    pub name: String,
    /// `${node.datacenter}`.
    pub datacenter: String,
    /// `${node.region}`.
    pub region: String,
    /// `${node.class}`.
    pub class: String,
    /// `${node.pool}`.
    pub pool: String,
    /// `${attr.…}`: `kernel.name`, `cpu.arch`, `driver.exec`, `unique.hostname`, ….
    pub attributes: BTreeMap<String, String>,
    /// `${meta.…}`, the operator's.
    pub meta: BTreeMap<String, String>,
    /// What jobs may use of it, what is reserved for others taken off.
    pub capacity: Capacity,
    /// Host volumes by name; whether they may only be read.
    pub host_volumes: BTreeMap<String, HostVolume>,
    /// Ports that jobs may not have.
    #[serde(default)]
    pub reserved_ports: Vec<u16>,
    /// Version of the daemon.
    pub version: String,
    /// Where its REST is reached, if others may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
}

/// What jobs may use of a node, or use of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capacity {
    /// MHz of all cores.
    pub cpu_mhz: u64,
    /// Cores that may be given away whole.
    pub cores: u32,
    /// MiB.
    pub memory_mb: u64,
    /// MiB below the daemon's data directory.
    pub disk_mb: u64,
}

/// A path of the host the operator offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostVolume {
    /// It may not be written.
    pub read_only: bool,
}

/// What the operator wants of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeWish {
    /// Whether anything new may be placed on it.
    pub eligibility: Eligibility,
    /// It is being emptied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainSpec>,
}

/// Whether anything new may be placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Eligibility {
    /// It may.
    #[default]
    Eligible,
    /// It may not.
    Ineligible,
}

/// How a node is emptied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainSpec {
    /// Whatever is left then is stopped; never if absent; at once if zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Duration>,
    /// When it began.
    pub started: Timestamp,
    /// System jobs stay.
    #[serde(default)]
    pub ignore_system: bool,
    /// Why, for people.
    #[serde(default)]
    pub message: String,
}

/// A node as the controller sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It says that it lives.
    Ready,
    /// It did not for too long: what it ran is placed elsewhere.
    Down,
}
