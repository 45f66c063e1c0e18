//! What an operator sets, from TOML or from Nex's JSON.
//!
//! Two stages: a *raw* configuration is exactly what was written ([`raw::RawConfig`], unknown keys refused; Nex's JSON is
//! read by [`nex`] into the same shape); [`NodeConfig`] is what it means, checked, with every default filled in.
//! `docs/config.md` is generated from [`reference`].

mod client;
pub mod jails;
pub mod jobs;
mod jobs_checked;
mod jobs_reference;
pub mod machines;
pub mod network;
pub mod nex;
mod proxy;
pub mod raw;
pub mod reference;
mod resolve;
pub mod service;
mod service_reference;
pub mod span;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use moat_api::nex::deploy::Extension;
use moat_drivers::container::ContainerConfig;
use moat_drivers::process::ProcessConfig;
use moat_model::spec::Resources;
use moat_model::workload::RestartPolicy;
use moat_model::{Isolation, Namespace, WorkloadName};
use zeroize::Zeroizing;

pub use self::jails::JailsConfig;
pub use self::jobs::JobsConfig;
pub use self::machines::{MACHINE_DRIVERS, MachinesConfig};
pub use self::network::NetworkConfig;
pub use self::proxy::ProxyConfig;
pub use self::service::{ApiConfig, OciConfig, PoolConfig, PoolTemplate, SandboxesConfig};
use crate::jetstream::HistoryConfig;

/// A secret text: wiped when dropped, never shown.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, or a key that does not exist, or a value of the wrong type. The message names line and key.
    #[error("{origin}: {message}")]
    Toml {
        /// File.
        origin: String,
        /// The parser's message with line, column and key.
        message: String,
    },
    /// Not the JSON of a Nex node configuration.
    #[error("{origin}: not a Nex node configuration: {message}")]
    Json {
        /// File.
        origin: String,
        /// The parser's message with line and column.
        message: String,
    },
    /// Not the configuration of a Nomad agent, or one that asks for what there is not.
    #[error("{problems}")]
    Hcl {
        /// Each with file, line and column.
        problems: Box<moat_formats::Problems>,
    },
    /// A value that cannot be meant.
    #[error("{origin}: {key}: {why}")]
    Value {
        /// File.
        origin: String,
        /// The key.
        key: String,
        /// What is wrong and what would be right.
        why: String,
    },
}

/// Names of the drivers a node can be told to offer.
pub const DRIVER_NAMES: [&str; 4] = ["container", "firecracker", "qemu", "process"];

/// Workload types of Nex; only `native` runs on this version.
pub const WORKLOAD_TYPES: [&str; 4] = ["native", "v8", "wasm", "oci"];

/// Trigger patterns no node ever subscribes for a workload.
pub const DENIED_ALWAYS: [&str; 3] = ["$SYS.>", "$JS.>", "$NEX.>"];

/// Everything a node is told, checked.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// What must survive the daemon but not the power: records, locks, outbox. Best on a tmpfs.
    pub run_dir: PathBuf,
    /// What must survive the power: identity, artifacts, log files.
    pub data_dir: PathBuf,
    /// Human name, tag `node_name`; without one it is derived from the node's key.
    pub name: Option<String>,
    /// Label of the group of nodes this one belongs to.
    pub nexus: String,
    /// The connection of the node itself.
    pub nats: NatsConfig,
    /// Tags as written; the automatic ones are added by the node.
    pub tags: BTreeMap<String, String>,
    /// Workload types taken.
    pub workload_types: Vec<String>,
    /// Public keys that may sign a deploy; empty: anybody.
    pub valid_issuers: Vec<String>,
    /// Trigger patterns refused; always contains [`DENIED_ALWAYS`].
    pub deny_trigger_subjects: Vec<String>,
    /// Bounds on what is taken.
    pub limits: Limits,
    /// Drivers offered, of [`DRIVER_NAMES`]: of those that give the same the first. One that cannot work here is left out
    /// and said; only without any that gives [`NodeConfig::isolation`] the node does not start.
    pub drivers: Vec<String>,
    /// Isolation of a workload that asks for none.
    pub isolation: Isolation,
    /// Template of a workload that asks for none: `host` or `scratch`.
    pub template: String,
    /// Limits of a workload that asks for none.
    pub resources: Resources,
    /// How essential workloads are restarted.
    pub restart: RestartPolicy,
    /// Log files of each workload.
    pub logs: LogsConfig,
    /// What JetStream keeps.
    pub history: HistoryConfig,
    /// MicroVMs.
    pub machines: MachinesConfig,
    /// The container driver.
    pub container: ContainerConfig,
    /// The process driver.
    pub process: ProcessConfig,
    /// Bytes of fetched programs kept that nothing uses.
    pub artifact_cache_bytes_max: u64,
    /// Where `/metrics` listens.
    pub metrics_listen: Option<SocketAddr>,
    /// NATS address workloads may be led to, `host:port`.
    pub workload_nats: Option<String>,
    /// REST.
    pub api: ApiConfig,
    /// The HTTP proxy before the ports of sandboxes.
    pub proxy: ProxyConfig,
    /// Images.
    pub oci: OciConfig,
    /// Bounds on sandboxes made through the API.
    pub sandboxes: SandboxesConfig,
    /// Warm pools.
    pub pool: PoolConfig,
    /// What connects sandboxes.
    pub network: NetworkConfig,
    /// What it offers to jobs.
    pub jobs: JobsConfig,
    /// Environments with a name that last.
    pub jails: JailsConfig,
    /// Started in this order when the node starts.
    pub autostart: Vec<AutostartConfig>,
    /// Whether workloads end with the daemon instead of outliving it.
    pub stop_workloads: bool,
    /// How often the node says that it lives.
    pub heartbeat_interval: Duration,
    /// First host user id given to sandboxes.
    pub uid_base: u32,
    /// Most sandboxes at a time.
    pub sandboxes_max: usize,
    /// How long an agent has to answer for the first time.
    pub agent_start_timeout: Option<Duration>,
    /// What was accepted but has no effect, and what it would need. For the log.
    pub notes: Vec<String>,
}

/// The node's own connection to NATS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NatsConfig {
    /// Server URLs.
    pub servers: Vec<String>,
    /// Credentials file (user JWT and seed).
    pub creds: Option<PathBuf>,
    /// File holding a user nkey seed.
    pub nkey: Option<PathBuf>,
    /// User name.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// Token.
    pub token: Option<Secret>,
    /// Client certificate.
    pub tls_cert: Option<PathBuf>,
    /// Its key.
    pub tls_key: Option<PathBuf>,
    /// Certificate authority of the server.
    pub tls_ca: Option<PathBuf>,
    /// TLS before the server's greeting.
    pub tls_first: bool,
}

/// Bounds on what a node takes. `None` is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Workloads at a time.
    pub workloads_max: Option<u64>,
    /// Bytes of one artifact.
    pub artifact_bytes_max: Option<u64>,
    /// Bytes of the artifacts of everything that runs.
    pub total_bytes_max: Option<u64>,
}

/// Log files of a workload's stream: `files_max` files of `file_bytes_max`, the oldest removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogsConfig {
    /// Files kept for each stream.
    pub files_max: u32,
    /// Size at which the next file begins.
    pub file_bytes_max: u64,
}

/// A workload started with the node.
#[derive(Debug, Clone, PartialEq)]
pub struct AutostartConfig {
    /// Its name.
    pub name: WorkloadName,
    /// Its namespace.
    pub namespace: Namespace,
    /// Arguments.
    pub argv: Vec<String>,
    /// Free text.
    pub description: String,
    /// Restarted when it fails.
    pub essential: bool,
    /// `native`.
    pub workload_type: String,
    /// Bucket and key of its program.
    pub location: (String, String),
    /// JetStream domain of the bucket.
    pub jsdomain: Option<String>,
    /// Its environment.
    pub environment: BTreeMap<String, Secret>,
    /// Our extension of DEPLOY, as written there.
    pub moat: Option<Extension>,
}

impl NodeConfig {
    /// Reads a file: a Nomad agent's if it is named `.hcl`, Nex's JSON if it is named `.json` or begins with a brace, else
    /// TOML.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path)?;
        let origin = path.display().to_string();
        if path.extension().is_some_and(|e| e == "hcl") {
            Self::from_client(&text, &origin)
        } else if path.extension().is_some_and(|e| e == "json") || text.trim_start().starts_with('{') {
            Self::from_nex_json(&text, &origin)
        } else {
            Self::from_toml(&text, &origin)
        }
    }

    /// Reads our TOML, and the agent's configuration it names.
    pub fn from_toml(text: &str, origin: &str) -> Result<Self, ConfigError> {
        let wrong = |e: toml::de::Error| ConfigError::Toml {
            origin: origin.to_owned(),
            message: e.to_string().trim_end().to_owned(),
        };
        let raw: raw::RawConfig = toml::from_str(text).map_err(wrong)?;
        let Some(path) = &raw.jobs.client_config else {
            return resolve::resolve(raw, Vec::new(), origin);
        };
        let (base, notes) = client::read(&read(path)?, &path.display().to_string())?;
        let joined = client::joined(base, toml::from_str(text).map_err(wrong)?);
        resolve::resolve(client::raw(joined, origin)?, notes, origin)
    }

    /// Reads the configuration of a Nomad agent.
    pub fn from_client(text: &str, origin: &str) -> Result<Self, ConfigError> {
        let (table, notes) = client::read(text, origin)?;
        resolve::resolve(client::raw(table, origin)?, notes, origin)
    }

    /// Reads Nex's JSON.
    pub fn from_nex_json(text: &str, origin: &str) -> Result<Self, ConfigError> {
        let (raw, notes, machines) = nex::read(text, origin)?;
        let mut config = resolve::resolve(raw, notes, origin)?;
        config.machines.preferred = machines;
        Ok(config)
    }

    /// Whether sandboxed workloads are the rule here, in the sense of Nex's auction.
    pub fn sandboxed(&self) -> bool {
        self.isolation > Isolation::Process
    }

    /// Whether a driver of microVMs is among those to be offered.
    pub fn offers_machines(&self) -> bool {
        self.drivers.iter().any(|d| MACHINE_DRIVERS.contains(&d.as_str()))
    }

    /// Where the guest of microVMs lies.
    pub fn guest_dir(&self) -> PathBuf {
        self.machines.guest.dir.clone().unwrap_or_else(|| self.data_dir.join("guest"))
    }

    /// Where machines are kept.
    pub fn machines_dir(&self) -> PathBuf {
        self.machines.guest.machines_dir.clone().unwrap_or_else(|| self.data_dir.join("machines"))
    }

    /// Limits of a microVM whose creator names none.
    pub fn machine_resources(&self) -> Resources {
        let guest = &self.machines.guest;
        // The host does not see which of a machine's memory is in use: there is nothing to protect.
        let mut resources = Resources { memory_reserve_bytes: None, ..self.resources.clone() };
        resources.memory_bytes.get_or_insert(guest.memory_bytes);
        resources.cpu_quota_millis.get_or_insert(guest.vcpus.saturating_mul(1000));
        // A file system of the operator's own is as large as it is.
        if self.machines.firecracker.names_rootfs() {
            return resources;
        }
        resources.disk_bytes.get_or_insert(guest.disk_bytes);
        resources
    }

    /// Whether the operator allowed workloads without a sandbox.
    pub fn unsafe_allowed(&self) -> bool {
        self.drivers.iter().any(|d| d == "process")
    }
}

impl Default for NodeConfig {
    fn default() -> Self {
        resolve::defaults()
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
