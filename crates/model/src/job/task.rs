//! One program of a group.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Affinity, ArtifactSpec, Constraint, Restart, ServiceSpec, TemplateSpec, Text};
use crate::spec::Signal;

/// A task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Unique in its group; a directory's name, and not `alloc`.
    pub name: String,
    /// What it runs in.
    pub driver: TaskDriver,
    /// What the driver is told.
    pub config: TaskConfig,
    /// Name or `uid[:gid]`; the driver's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Text>,
    /// Its environment, over what every task gets.
    #[serde(default)]
    pub env: BTreeMap<String, Text>,
    /// Limits, and what is counted when a node is chosen.
    pub resources: TaskResources,
    /// In place of the group's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// How it is asked to stop.
    pub kill_signal: Signal,
    /// How long it may take.
    pub kill_timeout: Duration,
    /// Wait between withdrawing its services and that signal.
    #[serde(default)]
    pub shutdown_delay: Duration,
    /// When it ends the others are stopped.
    #[serde(default)]
    pub leader: bool,
    /// It is not a main task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifecycle: Option<Lifecycle>,
    /// What is kept of its output.
    pub logs: LogLimits,
    /// Fetched before it starts.
    #[serde(default)]
    pub artifacts: Vec<ArtifactSpec>,
    /// Rendered before it starts.
    #[serde(default)]
    pub templates: Vec<TemplateSpec>,
    /// Volumes of the group, shown inside.
    #[serde(default)]
    pub volume_mounts: Vec<VolumeMount>,
    /// What a node must fulfil, besides the group's.
    #[serde(default)]
    pub constraints: Vec<Constraint>,
    /// What a node had better fulfil, besides the group's.
    #[serde(default)]
    pub affinities: Vec<Affinity>,
    /// What it offers.
    #[serde(default)]
    pub services: Vec<ServiceSpec>,
    /// Free values.
    #[serde(default)]
    pub meta: BTreeMap<String, Text>,
    /// File below `local/` a dispatch's payload is written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dispatch_payload: Option<String>,
}

/// What a task runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskDriver {
    /// A container whose root is a view of host paths, or an image's.
    Exec,
    /// The bare host, where the operator allows it.
    RawExec,
    /// A machine of its own.
    Microvm,
}

impl TaskDriver {
    /// As job files and `driver.…` attributes have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::RawExec => "raw_exec",
            Self::Microvm => "microvm",
        }
    }
}

/// The `config` block. What a driver does not know in it was refused where it was read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskConfig {
    /// Program.
    pub command: Text,
    /// Arguments; no shell.
    #[serde(default)]
    pub args: Vec<Text>,
    /// Absolute; inside the root, for `raw_exec` on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work_dir: Option<Text>,
    /// Template the root is made of, instead of host paths: `exec` and `microvm` (ours).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Text>,
    /// Capabilities beyond the default, within the operator's ceiling.
    #[serde(default)]
    pub cap_add: Vec<String>,
    /// Capabilities taken away first.
    #[serde(default)]
    pub cap_drop: Vec<String>,
    /// `host`: sees the host's processes, where the operator allows it.
    #[serde(default)]
    pub host_pid: bool,
    /// `host`: shares the host's IPC, where the operator allows it.
    #[serde(default)]
    pub host_ipc: bool,
    /// The share of `cpu` is a limit too (ours).
    #[serde(default)]
    pub cpu_hard_limit: bool,
    /// `raw_exec`: how soon it is chosen when memory is out, 0 to 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i16>,
    /// `raw_exec`: globs of variables it does not get.
    #[serde(default)]
    pub denied_envvars: Vec<String>,
}

/// What a task may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskResources {
    /// MHz, a share; 0 if `cores` is given.
    pub cpu_mhz: u32,
    /// Cores of its own.
    #[serde(default)]
    pub cores: u32,
    /// MiB, at least 10. The hard limit, unless `memory_max_mb` is given: then what is protected.
    pub memory_mb: u32,
    /// MiB; 0: no limit but the node's; the hard limit if given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_max_mb: Option<u32>,
    /// MiB of `/secrets`.
    pub secrets_mb: u32,
}

impl Default for TaskResources {
    fn default() -> Self {
        Self { cpu_mhz: 100, cores: 0, memory_mb: 300, memory_max_mb: None, secrets_mb: 1 }
    }
}

/// When a task that is not a main task runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lifecycle {
    /// When.
    pub hook: Hook,
    /// It runs beside the main tasks instead of to its end.
    pub sidecar: bool,
}

/// When.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// Before the main tasks.
    Prestart,
    /// When all main tasks run.
    Poststart,
    /// When all others are dead.
    Poststop,
}

/// What is kept of a task's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogLimits {
    /// Files of each stream.
    pub max_files: u32,
    /// MiB of each.
    pub max_file_size_mb: u32,
    /// Nothing is kept.
    pub disabled: bool,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { max_files: 10, max_file_size_mb: 10, disabled: false }
    }
}

/// Where a task sees a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeMount {
    /// Name in the group's `volumes`.
    pub volume: String,
    /// Absolute path inside.
    pub destination: Text,
    /// Not written by this task, whatever the volume allows.
    pub read_only: bool,
}
