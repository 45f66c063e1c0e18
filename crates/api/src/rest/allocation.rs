//! Allocations: instances of a job's groups on nodes.

use std::collections::BTreeMap;

use moat_model::job::{AllocStatus, Allocation, ClientStatus, Desired};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// An allocation: what is wanted of it, and what its node says of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AllocationView {
    /// What is wanted.
    #[schema(value_type = Object)]
    pub allocation: Allocation,
    /// Name of its node, if that is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    /// As a whole: what the node says, or the controller of a node that is gone.
    #[schema(value_type = String)]
    pub client: ClientStatus,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What the node says; none yet: it has not heard of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub status: Option<AllocStatus>,
}

impl AllocationView {
    /// Nomad's word for what is wanted.
    pub fn desired(&self) -> &'static str {
        match self.allocation.desired {
            Desired::Run => "run",
            Desired::Stop => "stop",
            Desired::Evict => "evict",
        }
    }
}

/// Allocations, the newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AllocationList {
    /// The list.
    pub allocations: Vec<AllocationView>,
}

/// Which allocations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListAllocations {
    /// Only those whose id begins so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Only those on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// Ends an allocation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StopAllocation {
    /// Its tasks are stopped without their `shutdown_delay`.
    #[serde(default)]
    pub no_shutdown_delay: bool,
}

/// Restarts tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestartAllocation {
    /// Only this one; absent: all that run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
}

/// Sends a signal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalAllocation {
    /// `SIGHUP`, `hup` or `1`.
    pub signal: String,
    /// To this task; absent: to all that run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
}

/// What an allocation uses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AllocationStats {
    /// By task; those that do not run are absent.
    pub tasks: BTreeMap<String, TaskStats>,
}

/// What a task uses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskStats {
    /// Memory now.
    pub memory_bytes: u64,
    /// Memory at its highest, if the kernel tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak_bytes: Option<u64>,
    /// CPU time.
    pub cpu_usec: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Times the kernel killed something in it for memory.
    pub oom_kills: u64,
}

/// Results of an allocation's checks, by `service/check`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AllocationChecks {
    /// The results.
    #[schema(value_type = Object)]
    pub checks: BTreeMap<String, moat_model::job::allocation::CheckResult>,
}

/// What a task wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AllocationLogs {
    /// Which task; may be left out if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Standard error instead of standard output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<bool>,
    /// Goes on until the task is dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow: Option<bool>,
    /// Begins so many lines before the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail_lines: Option<u32>,
    /// Begins so many bytes before the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail_bytes: Option<u64>,
}

/// A path below an allocation's directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AllocationPath {
    /// Relative to the allocation's directory; absent: that itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// First byte to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Most bytes to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Begins so many lines before the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail_lines: Option<u32>,
    /// Begins so many bytes before the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail_bytes: Option<u64>,
    /// Goes on when the file grows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow: Option<bool>,
}

/// A file below an allocation's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AllocationFile {
    /// Its name, without a directory.
    pub name: String,
    /// It is a directory.
    pub directory: bool,
    /// As `ls -l` writes it.
    pub mode: String,
    /// Bytes.
    pub size: u64,
    /// When it was written.
    pub modified_at: String,
}

/// Files of a directory, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AllocationFiles {
    /// The list.
    pub files: Vec<AllocationFile>,
}

/// In which task something runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct InTask {
    /// Which task; may be left out if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
}
