//! Nex's JSON node configuration (0.2.7), accepted unchanged.
//!
//! Members nobody knows are ignored in silence, as Nex does. Members that Nex knows and this node cannot honour are
//! accepted and named, each with what it would need, so that an operator sees what a file of his no longer does.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::ConfigError;
use super::machines::{RateLimiters, RawFirecracker, TokenBucket};
use super::network::RawNetwork;
use super::raw::{RawAutostart, RawConfig, RawLimits, RawResources};
use super::service::RawPool;
use super::span::{Size, Span};

/// Members accepted without effect, and what each would need.
const WITHOUT_EFFECT: [(&str, &str); 18] = [
    (
        "cni.network_name",
        "no CNI plugins are run, so there is no list of them to name; the node's own network has a name in network.name of the TOML configuration",
    ),
    ("cni.interface_name", "the link of a sandbox is called eth0 inside, and outside after network.name"),
    ("cni.bin_path", "no CNI plugins are run"),
    (
        "internal_node_host",
        "sandboxes do not reach the node, whatever its address: a workload that is to reach NATS has moat.nats",
    ),
    ("internal_node_port", "there is no internal NATS server to give a port to"),
    ("host_services", "host services belong to functions (v8, wasm), which do not exist yet"),
    ("public_nats_server", "start a nats-server beside the node, or use `moat up`, which does it"),
    ("agent_ping_timeout_ms", "the agent's connection is watched, not polled"),
    ("pid_filepath", "the lock in run_dir keeps a second node away and holds the pid"),
    ("otlp_exporter_url", "traces are not exported yet"),
    ("otel_metrics", "metrics are served by metrics_listen of the TOML configuration"),
    ("otel_metrics_port", "metrics are served by metrics_listen of the TOML configuration"),
    ("otel_metrics_exporter", "metrics are served by metrics_listen of the TOML configuration"),
    ("otel_traces", "traces are not exported yet"),
    ("otel_traces_exporter", "traces are not exported yet"),
    ("otel_metrics_file", "metrics are served by metrics_listen of the TOML configuration"),
    ("otel_traces_file", "traces are not exported yet"),
    ("otel_enabled", "traces are not exported yet"),
];

/// The members that have an effect here.
#[derive(Debug, Default, Deserialize)]
struct NexConfig {
    #[serde(default)]
    no_sandbox: bool,
    machine_pool_size: Option<u32>,
    default_resource_dir: Option<PathBuf>,
    kernel_filepath: Option<PathBuf>,
    kernel_path: Option<PathBuf>,
    rootfs_filepath: Option<PathBuf>,
    rootfs_path: Option<PathBuf>,
    bin_path: Option<Vec<PathBuf>>,
    rate_limiters: Option<NexLimiters>,
    machine_template: Option<MachineTemplate>,
    cni: Option<Cni>,
    workload_types: Option<Vec<String>>,
    tags: Option<BTreeMap<String, String>>,
    valid_issuers: Option<Vec<String>>,
    deny_trigger_subjects: Option<Vec<String>>,
    node_limits: Option<NodeLimits>,
    agent_handshake_timeout_ms: Option<u64>,
    autostart: Option<Autostart>,
}

#[derive(Debug, Deserialize)]
struct MachineTemplate {
    vcpu_count: Option<u32>,
    memsize_mib: Option<u64>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct NexLimiters {
    bandwidth: Option<NexBucket>,
    iops: Option<NexBucket>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct NexBucket {
    one_time_burst: Option<u64>,
    #[serde(default)]
    refill_time: u64,
    #[serde(default)]
    size: u64,
}

impl NexBucket {
    /// An empty one is how Go writes that there is none.
    fn bucket(self) -> Option<TokenBucket> {
        let Self { one_time_burst, refill_time, size } = self;
        (size > 0 && refill_time > 0).then_some(TokenBucket { one_time_burst, refill_time, size })
    }
}

#[derive(Debug, Default, Deserialize)]
struct Cni {
    subnet: Option<String>,
    nameservers: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct NodeLimits {
    max_workloads: Option<u64>,
    max_workload_bytes: Option<u64>,
    max_total_bytes: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
struct Autostart {
    #[serde(default)]
    workloads: Vec<AutostartWorkload>,
}

#[derive(Deserialize)]
struct AutostartWorkload {
    name: String,
    namespace: Option<String>,
    #[serde(default)]
    argv: Option<Vec<String>>,
    description: Option<String>,
    essential: Option<bool>,
    #[serde(rename = "type")]
    workload_type: Option<String>,
    location: String,
    jsdomain: Option<String>,
    environment: Option<BTreeMap<String, String>>,
    trigger_subjects: Option<Vec<String>>,
}

impl std::fmt::Debug for AutostartWorkload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AutostartWorkload").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Reads Nex's JSON into our shape, with a note for each member that has no effect.
/// The third says whether it means microVMs: Nex needs a kernel for whatever it calls sandboxed.
pub fn read(text: &str, origin: &str) -> Result<(RawConfig, Vec<String>, bool), ConfigError> {
    let json = |e: serde_json::Error| ConfigError::Json { origin: origin.to_owned(), message: e.to_string() };
    let members: Map<String, Value> = serde_json::from_str(text).map_err(json)?;
    // Read from the text again, not from the map, so that an error still names line and column.
    let nex: NexConfig = serde_json::from_str(text).map_err(json)?;
    if nex.machine_pool_size == Some(0) {
        return Err(ConfigError::Value {
            origin: origin.to_owned(),
            key: "machine_pool_size".to_owned(),
            why: "must be at least 1".to_owned(),
        });
    }
    let mut notes = notes(&members);
    if nex.no_sandbox && nex.machine_pool_size.is_some() {
        notes.push("machine_pool_size has no effect: without a sandbox (no_sandbox) there are no machines".to_owned());
    }
    let kernel = [&nex.kernel_filepath, &nex.kernel_path, &nex.default_resource_dir];
    let machines = !nex.no_sandbox && kernel.into_iter().any(|path| named(path.clone()).is_some());
    Ok((translate(nex), notes, machines))
}

/// A path that is one: Go writes an empty text for none. Nex takes relative ones, from where it is started.
fn named(path: Option<PathBuf>) -> Option<PathBuf> {
    path.and_then(|path| std::path::absolute(path).ok())
}

/// What is Firecracker's.
fn firecracker(nex: &NexConfig) -> RawFirecracker {
    let bin_path = nex.bin_path.clone().unwrap_or_default().into_iter().filter_map(|dir| named(Some(dir))).collect();
    RawFirecracker {
        bin_path: Some(bin_path),
        kernel_filepath: named(nex.kernel_filepath.clone()).or_else(|| named(nex.kernel_path.clone())),
        rootfs_filepath: named(nex.rootfs_filepath.clone()).or_else(|| named(nex.rootfs_path.clone())),
        resource_dir: named(nex.default_resource_dir.clone()),
        rate_limiters: nex.rate_limiters.map(|given| RateLimiters {
            bandwidth: given.bandwidth.and_then(NexBucket::bucket),
            iops: given.iops.and_then(NexBucket::bucket),
        }),
        ..RawFirecracker::default()
    }
}

fn notes(members: &Map<String, Value>) -> Vec<String> {
    WITHOUT_EFFECT
        .iter()
        .filter(|(name, _)| member(members, name).is_some_and(|v| !v.is_null()))
        .map(|(name, needs)| format!("{name} has no effect: {needs}"))
        .collect()
}

/// A member, or a member of one.
fn member<'a>(members: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    match name.split_once('.') {
        Some((outer, inner)) => members.get(outer)?.get(inner),
        None => members.get(name),
    }
}

fn translate(nex: NexConfig) -> RawConfig {
    let firecracker = firecracker(&nex);
    let limits = nex.node_limits.map(|l| RawLimits {
        workloads_max: l.max_workloads,
        artifact_size_max: l.max_workload_bytes.map(Size),
        total_size_max: l.max_total_bytes.map(Size),
    });
    let resources = nex.machine_template.map(|t| RawResources {
        memory: t.memsize_mib.map(|m| Size(m.saturating_mul(1 << 20))),
        cpu_quota_millis: t.vcpu_count.map(|c| c.saturating_mul(1000)),
        ..RawResources::default()
    });
    let unsandboxed = nex.no_sandbox;
    let workloads = nex.machine_pool_size.filter(|_| !unsandboxed);
    let cni = nex.cni.unwrap_or_default();
    let network = RawNetwork {
        subnet: cni.subnet.filter(|subnet| !subnet.is_empty()),
        upstreams: cni.nameservers.filter(|servers| !servers.is_empty()),
        ..RawNetwork::default()
    };
    RawConfig {
        workload_types: nex.workload_types,
        tags: nex.tags.unwrap_or_default(),
        valid_issuers: nex.valid_issuers,
        deny_trigger_subjects: nex.deny_trigger_subjects,
        drivers: unsandboxed.then(|| vec!["container".to_owned(), "process".to_owned()]),
        isolation: unsandboxed.then(|| "process".to_owned()),
        limits: limits.unwrap_or_default(),
        resources: resources.unwrap_or_default(),
        network,
        firecracker,
        pool: RawPool { workloads, ..RawPool::default() },
        agent_start_timeout: nex
            .agent_handshake_timeout_ms
            .filter(|ms| *ms > 0)
            .map(|ms| Span(std::time::Duration::from_millis(ms))),
        autostart: nex.autostart.unwrap_or_default().workloads.into_iter().map(autostart).collect(),
        ..RawConfig::default()
    }
}

fn autostart(workload: AutostartWorkload) -> RawAutostart {
    RawAutostart {
        name: workload.name,
        namespace: workload.namespace,
        argv: workload.argv.unwrap_or_default(),
        description: workload.description,
        essential: workload.essential,
        workload_type: workload.workload_type,
        location: workload.location,
        jsdomain: workload.jsdomain,
        environment: workload.environment.unwrap_or_default(),
        trigger_subjects: workload.trigger_subjects.unwrap_or_default(),
        moat: None,
    }
}

/// The members accepted without effect, for the reference.
pub fn without_effect() -> impl Iterator<Item = (&'static str, &'static str)> {
    WITHOUT_EFFECT.into_iter()
}
