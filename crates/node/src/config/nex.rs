//! Nex's JSON node configuration (0.2.7), accepted unchanged.
//!
//! Members nobody knows are ignored in silence, as Nex does. Members that Nex knows and this node cannot honour are
//! accepted and named, each with what it would need, so that an operator sees what a file of his no longer does.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::ConfigError;
use super::network::RawNetwork;
use super::raw::{RawAutostart, RawConfig, RawLimits, RawResources};
use super::span::{Size, Span};

/// Members accepted without effect, and what each would need.
const WITHOUT_EFFECT: [(&str, &str); 26] = [
    ("default_resource_dir", "kernels and root filesystems belong to microVMs, which need the firecracker driver"),
    ("kernel_filepath", "a kernel belongs to microVMs, which need the firecracker driver"),
    ("kernel_path", "a kernel belongs to microVMs, which need the firecracker driver"),
    ("rootfs_filepath", "a root filesystem image belongs to microVMs, which need the firecracker driver"),
    ("rootfs_path", "a root filesystem image belongs to microVMs, which need the firecracker driver"),
    ("bin_path", "the agent is built into this program; firecracker would need its driver"),
    ("machine_pool_size", "sandboxes are made when they are needed; a warm pool does not exist yet"),
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
    ("rate_limiters", "token buckets for drive and network apply to microVMs only, which need the firecracker driver"),
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
    machine_pool_size: Option<u64>,
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
pub fn read(text: &str, origin: &str) -> Result<(RawConfig, Vec<String>), ConfigError> {
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
    let notes = notes(&members);
    Ok((translate(nex), notes))
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
