//! The configuration as written. Every key is optional; a key that does not exist is refused with its line.

use std::collections::BTreeMap;
use std::path::PathBuf;

use moat_drivers::container::ContainerConfig;
use moat_drivers::process::ProcessConfig;
use serde::Deserialize;

use super::jails::RawJails;
use super::jobs::RawJobs;
use super::machines::{RawFirecracker, RawGuest, RawQemu};
use super::network::RawNetwork;
use super::proxy::RawProxy;
use super::service::{RawAgent, RawApi, RawOci, RawPool, RawSandboxes};
use super::span::{Size, Span};
use crate::jetstream::HistoryConfig;

/// The whole file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    pub run_dir: Option<PathBuf>,
    pub data_dir: Option<PathBuf>,
    pub name: Option<String>,
    pub nexus: Option<String>,
    pub workload_types: Option<Vec<String>>,
    pub valid_issuers: Option<Vec<String>>,
    pub deny_trigger_subjects: Option<Vec<String>>,
    pub drivers: Option<Vec<String>>,
    pub isolation: Option<String>,
    pub template: Option<String>,
    pub artifact_cache_max: Option<Size>,
    pub metrics_listen: Option<String>,
    pub workload_nats: Option<String>,
    pub stop_workloads: Option<bool>,
    pub heartbeat_interval: Option<Span>,
    pub uid_base: Option<u32>,
    pub sandboxes_max: Option<u32>,
    pub agent_start_timeout: Option<Span>,
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    #[serde(default)]
    pub nats: RawNats,
    #[serde(default)]
    pub limits: RawLimits,
    #[serde(default)]
    pub resources: RawResources,
    #[serde(default)]
    pub restart: RawRestart,
    #[serde(default)]
    pub logs: RawLogs,
    #[serde(default)]
    pub history: HistoryConfig,
    #[serde(default)]
    pub container: ContainerConfig,
    #[serde(default)]
    pub process: ProcessConfig,
    #[serde(default)]
    pub api: RawApi,
    #[serde(default)]
    pub proxy: RawProxy,
    #[serde(default)]
    pub oci: RawOci,
    #[serde(default)]
    pub sandboxes: RawSandboxes,
    #[serde(default)]
    pub pool: RawPool,
    #[serde(default)]
    pub agent: RawAgent,
    #[serde(default)]
    pub guest: RawGuest,
    #[serde(default)]
    pub qemu: RawQemu,
    #[serde(default)]
    pub firecracker: RawFirecracker,
    #[serde(default)]
    pub network: RawNetwork,
    #[serde(default)]
    pub jobs: RawJobs,
    #[serde(default)]
    pub jails: RawJails,
    #[serde(default)]
    pub autostart: Vec<RawAutostart>,
}

/// `[nats]`
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawNats {
    pub servers: Option<Vec<String>>,
    pub creds: Option<PathBuf>,
    pub nkey: Option<PathBuf>,
    pub user: Option<String>,
    pub password: Option<String>,
    pub token: Option<String>,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub tls_ca: Option<PathBuf>,
    pub tls_first: Option<bool>,
}

impl std::fmt::Debug for RawNats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawNats").field("servers", &self.servers).finish_non_exhaustive()
    }
}

/// `[limits]`
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawLimits {
    pub workloads_max: Option<u64>,
    pub artifact_size_max: Option<Size>,
    pub total_size_max: Option<Size>,
}

/// `[resources]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawResources {
    pub memory: Option<Size>,
    pub memory_reserve: Option<Size>,
    pub cpu_weight: Option<u32>,
    pub cpu_quota_millis: Option<u32>,
    pub cpuset: Option<String>,
    pub pids_max: Option<u32>,
    pub disk: Option<Size>,
    pub secrets: Option<Size>,
    pub nofile: Option<u64>,
}

/// `[restart]`
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRestart {
    pub attempts_max: Option<u32>,
    pub delay_initial: Option<Span>,
    pub delay_max: Option<Span>,
    pub healthy_after: Option<Span>,
}

/// `[logs]`
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawLogs {
    pub files_max: Option<u32>,
    pub file_size_max: Option<Size>,
}

/// One `[[autostart]]`; the members are those of Nex's JSON.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAutostart {
    pub name: String,
    pub namespace: Option<String>,
    #[serde(default)]
    pub argv: Vec<String>,
    pub description: Option<String>,
    pub essential: Option<bool>,
    #[serde(rename = "type")]
    pub workload_type: Option<String>,
    pub location: String,
    pub jsdomain: Option<String>,
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    #[serde(default)]
    pub trigger_subjects: Vec<String>,
    pub moat: Option<moat_api::nex::deploy::Extension>,
}

impl std::fmt::Debug for RawAutostart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawAutostart")
            .field("name", &self.name)
            .field("location", &self.location)
            .finish_non_exhaustive()
    }
}
