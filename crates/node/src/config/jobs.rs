//! `[jobs]`: what this node offers to jobs. Nomad's `client { … }` ends here too: [`client`](super::client).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use moat_getter::NetworkPolicy;
use moat_model::job::TaskDriver;
use moat_model::network::PortRange;
use serde::Deserialize;

use super::span::{Size, Span};

/// What this node offers to jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobsConfig {
    /// `${node.datacenter}`; jobs choose by it.
    pub datacenter: String,
    /// `${node.region}`.
    pub region: String,
    /// `${node.class}`.
    pub class: String,
    /// `${node.pool}`; jobs choose one.
    pub pool: String,
    /// `${meta.…}`.
    pub meta: BTreeMap<String, String>,
    /// Drivers offered to tasks; one whose own driver does not work here is left out. `raw_exec` also needs the process
    /// driver, which the operator enables.
    pub drivers: Vec<TaskDriver>,
    /// Network of a group that names none, and of `mode = "bridge"`.
    pub network: JobNetwork,
    /// Where allocations have their directories; `alloc` in the data directory if absent.
    pub alloc_dir: Option<PathBuf>,
    /// Host volumes by name.
    pub host_volumes: BTreeMap<String, HostVolumeConfig>,
    /// Users no task may be, by name. For `exec` and `raw_exec`.
    pub users_denied: Vec<String>,
    /// User ids no task may have.
    pub uids_denied: Vec<IdRange>,
    /// Group ids no task may have.
    pub gids_denied: Vec<IdRange>,
    /// A task may see the host's processes if it asks to.
    pub host_pid: bool,
    /// A task may share the host's IPC if it asks to.
    pub host_ipc: bool,
    /// Ports of the node that are given away; first and last.
    pub ports: (u16, u16),
    /// The longest `kill_timeout` that is honoured; a longer one is cut to it.
    pub kill_timeout_max: Duration,
    /// Globs of the daemon's own variables that tasks get.
    pub env_allowed: Vec<String>,
    /// Globs of those they do not get all the same.
    pub env_denied: Vec<String>,
    /// Functions no task's template may call.
    pub template_functions_denied: Vec<String>,
    /// Programs may be run inside tasks from outside.
    pub remote_exec: bool,
    /// Copies JetStream keeps of the state of jobs; absent: 3 where there are as many servers, else 1.
    pub replicas: Option<u8>,
    /// What there is, where the operator knows better.
    pub capacity: CapacityConfig,
    /// What is not for jobs.
    pub reserved: ReservedConfig,
    /// Bounds on fetching artifacts.
    pub artifact: ArtifactConfig,
    /// What is removed when.
    pub gc: GcConfig,
    /// The node is emptied before the daemon ends.
    pub drain_on_shutdown: Option<DrainOnShutdown>,
}

impl Default for JobsConfig {
    fn default() -> Self {
        Self {
            datacenter: "dc1".to_owned(),
            region: "global".to_owned(),
            class: String::new(),
            pool: "default".to_owned(),
            meta: BTreeMap::new(),
            drivers: vec![TaskDriver::Exec, TaskDriver::RawExec, TaskDriver::Microvm],
            network: JobNetwork::Internet,
            alloc_dir: None,
            host_volumes: BTreeMap::new(),
            users_denied: ["root", "Administrator"].map(str::to_owned).to_vec(),
            uids_denied: Vec::new(),
            gids_denied: Vec::new(),
            host_pid: false,
            host_ipc: false,
            ports: (20_000, 32_000),
            kill_timeout_max: Duration::from_secs(30),
            env_allowed: ["PATH", "LANG", "LC_*", "TERM", "TZ"].map(str::to_owned).to_vec(),
            env_denied: Vec::new(),
            template_functions_denied: Vec::new(),
            remote_exec: true,
            replicas: None,
            capacity: CapacityConfig::default(),
            reserved: ReservedConfig::default(),
            artifact: ArtifactConfig::default(),
            gc: GcConfig::default(),
            drain_on_shutdown: None,
        }
    }
}

/// Moat's networks, as jobs get them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobNetwork {
    /// Everything the operator's ceiling leaves.
    Internet,
    /// Other sandboxes only.
    Internal,
    /// Loopback.
    Isolated,
}

/// A path of the host that jobs may ask for by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostVolumeConfig {
    /// Absolute; must exist when it is used.
    pub path: PathBuf,
    /// Nobody may write it.
    pub read_only: bool,
}

/// Ids from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first.
    pub first: u32,
    /// The last.
    pub last: u32,
}

impl IdRange {
    /// Whether it holds this id.
    pub fn contains(self, id: u32) -> bool {
        (self.first..=self.last).contains(&id)
    }
}

/// What there is, where the operator knows better than what is found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CapacityConfig {
    /// MHz of all cores.
    pub cpu_mhz: Option<u64>,
    /// CPUs that are given away whole, in the kernel's list format.
    pub cores: Option<String>,
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Bytes of disk below the data directory.
    pub disk_bytes: Option<u64>,
}

/// What is not for jobs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReservedConfig {
    /// MHz.
    pub cpu_mhz: u64,
    /// CPUs, in the kernel's list format.
    pub cores: Option<String>,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of disk.
    pub disk_bytes: u64,
    /// Ports.
    pub ports: Vec<PortRange>,
}

/// Bounds on fetching artifacts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactConfig {
    /// One fetch over HTTP.
    pub http_timeout: Duration,
    /// Bytes of one fetch over HTTP.
    pub http_bytes_max: u64,
    /// One fetch from git.
    pub git_timeout: Duration,
    /// One fetch from S3.
    pub s3_timeout: Duration,
    /// Files in one archive.
    pub files_max: u64,
    /// Bytes of them.
    pub unpacked_bytes_max: u64,
    /// Paths of the host the fetching child may read besides what it needs.
    pub paths_allowed: Vec<PathBuf>,
    /// The daemon's variables the fetching child gets.
    pub env_allowed: Vec<String>,
    /// What may be reached, and where names lead.
    pub network: NetworkPolicy,
    /// Object stores jobs of every namespace may read, beside their namespace's own.
    pub buckets: Buckets,
}

/// Names of object stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Buckets {
    /// Whatever there is.
    All,
    /// These.
    Named(BTreeSet<String>),
}

impl Default for Buckets {
    fn default() -> Self {
        Self::Named(BTreeSet::new())
    }
}

impl Buckets {
    /// Whether it is one of them.
    pub fn holds(&self, bucket: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(bucket),
        }
    }
}

impl Default for ArtifactConfig {
    fn default() -> Self {
        let half_hour = Duration::from_secs(30 * 60);
        Self {
            http_timeout: half_hour,
            http_bytes_max: 100 << 30,
            git_timeout: half_hour,
            s3_timeout: half_hour,
            files_max: 4096,
            unpacked_bytes_max: 100 << 30,
            paths_allowed: Vec::new(),
            env_allowed: Vec::new(),
            network: NetworkPolicy::default(),
            buckets: Buckets::default(),
        }
    }
}

/// When directories of ended allocations are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcConfig {
    /// How often is looked.
    pub interval: Duration,
    /// Removed at once.
    pub parallel: u32,
    /// The oldest go above this share of the disk in use, in percent.
    pub disk_percent: u8,
    /// The same for inodes.
    pub inode_percent: u8,
    /// The oldest go above this many allocations, ended ones included.
    pub allocs_max: u32,
}

impl Default for GcConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(60), parallel: 2, disk_percent: 80, inode_percent: 70, allocs_max: 50 }
    }
}

/// How the node is emptied before the daemon ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainOnShutdown {
    /// Whatever is left then is stopped.
    pub deadline: Duration,
    /// At once.
    pub force: bool,
    /// System jobs stay.
    pub ignore_system: bool,
}

/// `[jobs]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawJobs {
    pub client_config: Option<PathBuf>,
    pub datacenter: Option<String>,
    pub region: Option<String>,
    pub class: Option<String>,
    pub pool: Option<String>,
    pub drivers: Option<Vec<TaskDriver>>,
    pub network: Option<JobNetwork>,
    pub alloc_dir: Option<PathBuf>,
    pub users_denied: Option<Vec<String>>,
    pub uids_denied: Option<Vec<String>>,
    pub gids_denied: Option<Vec<String>>,
    pub host_pid: Option<bool>,
    pub host_ipc: Option<bool>,
    pub ports: Option<String>,
    pub kill_timeout_max: Option<Span>,
    pub env_allowed: Option<Vec<String>>,
    pub env_denied: Option<Vec<String>>,
    pub template_functions_denied: Option<Vec<String>>,
    pub remote_exec: Option<bool>,
    pub replicas: Option<u8>,
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
    #[serde(default)]
    pub host_volumes: BTreeMap<String, RawHostVolume>,
    #[serde(default)]
    pub capacity: RawCapacity,
    #[serde(default)]
    pub reserved: RawReserved,
    #[serde(default)]
    pub artifact: RawArtifact,
    #[serde(default)]
    pub gc: RawGc,
    pub drain_on_shutdown: Option<RawDrain>,
}

/// `[jobs.host_volumes.NAME]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawHostVolume {
    pub path: PathBuf,
    pub read_only: Option<bool>,
}

/// `[jobs.capacity]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawCapacity {
    pub cpu_mhz: Option<u64>,
    pub cores: Option<String>,
    pub memory: Option<Size>,
    pub disk: Option<Size>,
}

/// `[jobs.reserved]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawReserved {
    pub cpu_mhz: Option<u64>,
    pub cores: Option<String>,
    pub memory: Option<Size>,
    pub disk: Option<Size>,
    pub ports: Option<String>,
}

/// `[jobs.artifact]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawArtifact {
    pub http_timeout: Option<Span>,
    pub http_size_max: Option<Size>,
    pub git_timeout: Option<Span>,
    pub s3_timeout: Option<Span>,
    pub files_max: Option<u64>,
    pub unpacked_size_max: Option<Size>,
    pub paths_allowed: Option<Vec<PathBuf>>,
    pub env_allowed: Option<Vec<String>>,
    pub networks_allowed: Option<Vec<String>>,
    pub networks_denied: Option<Vec<String>>,
    pub buckets: Option<Vec<String>>,
    #[serde(default)]
    pub hosts: BTreeMap<String, String>,
}

/// `[jobs.gc]`
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawGc {
    pub interval: Option<Span>,
    pub parallel: Option<u32>,
    pub disk_percent: Option<u8>,
    pub inode_percent: Option<u8>,
    pub allocs_max: Option<u32>,
}

/// `[jobs.drain_on_shutdown]`
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawDrain {
    pub deadline: Option<Span>,
    pub force: Option<bool>,
    pub ignore_system: Option<bool>,
}
