//! One instance of a group on a node: what the controller wants of it, and what the node says of it.
//!
//! The two are written by one party each and never by the other: the controller [`Allocation`], the node [`AllocStatus`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{AllocId, Exit, JobId, Namespace, NodeId, SandboxId, Timestamp};

/// What the controller wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allocation {
    /// Its identity.
    pub id: AllocId,
    /// Tenant.
    pub namespace: Namespace,
    /// Whose.
    pub job: JobId,
    /// Which version of it.
    pub job_version: u64,
    /// Which group.
    pub group: String,
    /// Which of `count`: 0 for the first.
    pub index: u32,
    /// Where.
    pub node: NodeId,
    /// What should become of it.
    pub desired: Desired,
    /// Why, for people.
    #[serde(default)]
    pub reason: String,
    /// When it is to stop: at once, without the `shutdown_delay` of its group and tasks.
    #[serde(default)]
    pub no_shutdown_delay: bool,
    /// Counts the controller's changes of what is wanted. A node that knows a greater one ignores a smaller.
    pub generation: u64,
    /// When it was placed.
    pub created: Timestamp,
    /// When what is wanted changed last.
    pub modified: Timestamp,
    /// The one it replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<AllocId>,
    /// The one that replaced it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<AllocId>,
    /// Earlier failures of the same instance, the oldest first.
    #[serde(default)]
    pub reschedules: Vec<RescheduleEvent>,
    /// It has failed, and another takes its place not before this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// The deployment it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,
    /// It is tried beside the old version.
    #[serde(default)]
    pub canary: bool,
    /// Its node was gone and it was given up: `lost` whatever its node said last, and stopped there if the node returns.
    #[serde(default)]
    pub lost: bool,
}

impl Allocation {
    /// `job.group[index]`.
    pub fn name(&self) -> String {
        format!("{}.{}[{}]", self.job, self.group, self.index)
    }

    /// What has become of it, by what its node said last.
    pub fn client(&self, status: Option<&AllocStatus>) -> ClientStatus {
        if self.lost { ClientStatus::Lost } else { status.map_or(ClientStatus::Pending, |status| status.client) }
    }
}

/// What should become of an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    /// Run.
    Run,
    /// Not run any more.
    Stop,
    /// Not run any more, for the sake of another.
    Evict,
}

/// One failure that led to a replacement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RescheduleEvent {
    /// When.
    pub at: Timestamp,
    /// The one that failed.
    pub alloc: AllocId,
    /// Where it had been.
    pub node: NodeId,
    /// How long was waited.
    pub delay_secs: u64,
}

/// What a node says of an allocation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllocStatus {
    /// Which one.
    pub id: AllocId,
    /// Where.
    pub node: NodeId,
    /// The greatest generation the node acts by.
    pub generation: u64,
    /// As a whole.
    pub client: ClientStatus,
    /// Why, for people.
    #[serde(default)]
    pub description: String,
    /// Each task.
    #[serde(default)]
    pub tasks: BTreeMap<String, TaskStatus>,
    /// Healthy, not healthy, or not known yet; by the rules of its update block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy: Option<bool>,
    /// Ports of the node that lead in, by label.
    #[serde(default)]
    pub ports: BTreeMap<String, PortMapping>,
    /// Its checks, by `service/check`.
    #[serde(default)]
    pub checks: BTreeMap<String, CheckResult>,
    /// When anything of this changed.
    pub modified: Timestamp,
}

/// An allocation as a whole, by its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientStatus {
    /// Being prepared, or waiting for a restart.
    Pending,
    /// Its main tasks run.
    Running,
    /// Ended as it should.
    Complete,
    /// Ended otherwise, and is not started again on this node.
    Failed,
    /// Its node is gone. Said by the controller, for the node cannot.
    Lost,
    /// Its node is cut off and it may run. Said by the controller.
    Unknown,
}

impl ClientStatus {
    /// Nomad's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Lost => "lost",
            Self::Unknown => "unknown",
        }
    }

    /// It will never run again.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Complete | Self::Failed | Self::Lost)
    }
}

/// A port of the node that leads to one inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortMapping {
    /// Address of the node.
    pub host_ip: String,
    /// Port of the node.
    pub host_port: u16,
    /// Port inside.
    pub to: u16,
}

/// How a check went last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckResult {
    /// `success`, `failure` or `pending`.
    pub status: String,
    /// What was seen, at most 3 KiB.
    pub output: String,
    /// When.
    pub at: Timestamp,
}

/// One task, by its node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskStatus {
    /// Where it is in its life.
    pub phase: TaskPhase,
    /// It has ended otherwise than it should and is not started again.
    #[serde(default)]
    pub failed: bool,
    /// It is about to be stopped: its services are not to be used any more, though it may still answer.
    #[serde(default)]
    pub withdrawn: bool,
    /// How it ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// The sandbox it runs in, or ran in last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<SandboxId>,
    /// Starts after the first.
    #[serde(default)]
    pub restarts: u32,
    /// When it was started last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When it ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Timestamp>,
    /// What happened, the last ten, the oldest first.
    #[serde(default)]
    pub events: Vec<TaskEvent>,
}

/// Where a task is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskPhase {
    /// Not started, or between two starts.
    Pending,
    /// Running.
    Running,
    /// Never to run again.
    Dead,
}

/// Something that happened to a task. `kind` is Nomad's name for it ("Received", "Task Setup", "Started", "Restarting", …).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskEvent {
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: String,
    /// With the facts: code, signal, delay, reason.
    pub message: String,
}

/// How the description of a failed allocation begins whose node had no room for it: nothing of it ever ran, another node is
/// looked for at once, and it counts as no attempt.
pub const NO_ROOM: &str = "no room";

/// Events of a task that are kept.
pub const TASK_EVENTS_MAX: usize = 10;
