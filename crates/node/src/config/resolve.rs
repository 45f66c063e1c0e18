//! From what was written to what it means: defaults filled in, values checked.

use std::path::PathBuf;
use std::time::Duration;

use moat_drivers::container::ContainerConfig;
use moat_model::spec::Resources;
use moat_model::workload::RestartPolicy;
use moat_model::{Isolation, Namespace, WorkloadName};

use super::raw::{RawAutostart, RawConfig, RawLimits, RawNats, RawResources, RawRestart};
use super::{
    AutostartConfig, ConfigError, DENIED_ALWAYS, DRIVER_NAMES, Limits, LogsConfig, NatsConfig, NodeConfig, Secret,
    WORKLOAD_TYPES,
};
use super::{jails, jobs_checked, machines, proxy};
use super::{network, service};

/// Heartbeats of Nex come every 30 s, and clients wait for them.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// Programs are a few megabytes; 2 GiB keeps hundreds of them.
const ARTIFACT_CACHE_BYTES: u64 = 2 << 30;

/// Above the ids of any login user and below the 32-bit edge: 8192 blocks of 65,536 fit.
const UID_BASE: u32 = 0x4000_0000;

/// DESIGN promises a thousand live sandboxes on a small machine.
const SANDBOXES_MAX: u32 = 1000;

/// What a configuration without a single key means.
pub(super) fn defaults() -> NodeConfig {
    NodeConfig {
        run_dir: PathBuf::from("/run/moat"),
        data_dir: PathBuf::from("/var/lib/moat"),
        name: None,
        nexus: "nexus".to_owned(),
        nats: NatsConfig { servers: vec!["nats://127.0.0.1:4222".to_owned()], ..NatsConfig::default() },
        tags: std::collections::BTreeMap::new(),
        workload_types: vec!["native".to_owned()],
        valid_issuers: Vec::new(),
        deny_trigger_subjects: DENIED_ALWAYS.map(str::to_owned).to_vec(),
        limits: Limits::default(),
        drivers: ["container"].into_iter().chain(super::MACHINE_DRIVERS).map(str::to_owned).collect(),
        isolation: Isolation::Container,
        template: "host".to_owned(),
        resources: Resources::default(),
        restart: RestartPolicy::default(),
        logs: LogsConfig { files_max: 10, file_bytes_max: 10 << 20 },
        history: crate::jetstream::HistoryConfig::default(),
        machines: super::MachinesConfig::default(),
        container: ContainerConfig::default(),
        process: moat_drivers::process::ProcessConfig::default(),
        artifact_cache_bytes_max: ARTIFACT_CACHE_BYTES,
        metrics_listen: None,
        workload_nats: None,
        api: service::ApiConfig::default(),
        proxy: proxy::ProxyConfig::default(),
        oci: service::OciConfig::default(),
        sandboxes: service::SandboxesConfig::default(),
        pool: service::PoolConfig::default(),
        network: super::NetworkConfig::default(),
        jobs: super::JobsConfig::default(),
        jails: super::JailsConfig::default(),
        autostart: Vec::new(),
        stop_workloads: false,
        heartbeat_interval: HEARTBEAT,
        uid_base: UID_BASE,
        sandboxes_max: usize::try_from(SANDBOXES_MAX).unwrap_or(usize::MAX),
        agent_start_timeout: None,
        notes: Vec::new(),
    }
}

/// A value at fault: key and what would be right.
type Fault = (String, String);

fn fault<T>(key: impl Into<String>, why: impl Into<String>) -> Result<T, Fault> {
    Err((key.into(), why.into()))
}

/// Checks everything and fills in the rest.
pub(super) fn resolve(raw: RawConfig, notes: Vec<String>, origin: &str) -> Result<NodeConfig, ConfigError> {
    checked(raw, notes).map_err(|(key, why)| ConfigError::Value { origin: origin.to_owned(), key, why })
}

fn checked(raw: RawConfig, mut notes: Vec<String>) -> Result<NodeConfig, Fault> {
    let base = defaults();
    let mut drivers = drivers(raw.drivers, base.drivers)?;
    if raw.process.enabled && !drivers.iter().any(|d| d == "process") {
        drivers.push("process".to_owned());
    }
    let isolation = isolation(raw.isolation.as_deref(), &drivers)?;
    notes.extend(service::notes(&raw.agent, &raw.firecracker, &raw.network, &raw.oci));
    let sandboxes_max = sandboxes_max(raw.sandboxes_max.unwrap_or(SANDBOXES_MAX))?;
    let network = network::network(raw.network, raw.oci.dns_server.as_deref(), sandboxes_max, &mut notes)?;
    let disk_ids = raw.container.disk_ids;
    let mut autostart = Vec::new();
    for (index, entry) in raw.autostart.into_iter().enumerate() {
        autostart.push(autostart_entry(entry).map_err(|(key, why)| (format!("autostart[{index}].{key}"), why))?);
    }
    Ok(NodeConfig {
        run_dir: run_dir(raw.run_dir.unwrap_or(base.run_dir))?,
        data_dir: absolute("data_dir", raw.data_dir.unwrap_or(base.data_dir))?,
        name: service::name(raw.name, &raw.agent)?,
        nexus: raw.nexus.unwrap_or(base.nexus),
        nats: nats(raw.nats, base.nats)?,
        tags: tags(raw.tags)?,
        workload_types: workload_types(raw.workload_types, &mut notes)?,
        valid_issuers: issuers(raw.valid_issuers.unwrap_or_default())?,
        deny_trigger_subjects: denied(raw.deny_trigger_subjects.unwrap_or_default())?,
        limits: limits(raw.limits),
        isolation,
        drivers,
        template: template(raw.template.unwrap_or(base.template))?,
        resources: resources(raw.resources)?,
        restart: restart(raw.restart, base.restart)?,
        logs: logs(raw.logs, base.logs)?,
        history: raw.history,
        machines: super::MachinesConfig {
            guest: machines::guest(raw.guest, &raw.agent)?,
            qemu: machines::qemu(raw.qemu)?,
            firecracker: machines::firecracker(raw.firecracker, &raw.agent)?,
            preferred: false,
        },
        container: container(raw.container, uid_base(raw.uid_base.unwrap_or(base.uid_base))?)?,
        process: raw.process,
        artifact_cache_bytes_max: raw.artifact_cache_max.map_or(base.artifact_cache_bytes_max, |s| s.0),
        metrics_listen: metrics_listen(raw.metrics_listen)?,
        workload_nats: raw.workload_nats.map(workload_nats).transpose()?,
        api: service::api(raw.api)?,
        proxy: proxy::proxy(raw.proxy)?,
        oci: service::oci(raw.oci)?,
        sandboxes: service::sandboxes(raw.sandboxes)?,
        pool: service::pool(raw.pool, sandboxes_max)?,
        network,
        jobs: jobs_checked::jobs(raw.jobs)?,
        jails: jails::jails(raw.jails, disk_ids, uid_base(raw.uid_base.unwrap_or(base.uid_base))?)?,
        autostart,
        stop_workloads: raw.stop_workloads.unwrap_or(base.stop_workloads),
        heartbeat_interval: heartbeat(raw.heartbeat_interval.map_or(base.heartbeat_interval, |s| s.0))?,
        uid_base: uid_base(raw.uid_base.unwrap_or(base.uid_base))?,
        sandboxes_max,
        agent_start_timeout: raw.agent_start_timeout.map(|s| s.0),
        notes,
    })
}

fn absolute(key: &str, path: PathBuf) -> Result<PathBuf, Fault> {
    if path.is_absolute() { Ok(path) } else { fault(key, format!("{} is not an absolute path", path.display())) }
}

fn run_dir(path: PathBuf) -> Result<PathBuf, Fault> {
    let path = absolute("run_dir", path)?;
    match crate::dirs::fault_of_run(&path) {
        Some(why) => fault("run_dir", why),
        None => Ok(path),
    }
}

fn drivers(given: Option<Vec<String>>, base: Vec<String>) -> Result<Vec<String>, Fault> {
    let drivers = given.unwrap_or(base);
    if drivers.is_empty() {
        return fault("drivers", format!("names no driver; give at least one of {}", DRIVER_NAMES.join(", ")));
    }
    match drivers.iter().find(|d| !DRIVER_NAMES.contains(&d.as_str())) {
        Some(unknown) => {
            fault("drivers", format!("{unknown:?} is not a driver; there are {}", DRIVER_NAMES.join(", ")))
        }
        None => Ok(drivers),
    }
}

fn isolation(given: Option<&str>, drivers: &[String]) -> Result<Isolation, Fault> {
    let offers = |name: &str| drivers.iter().any(|d| d == name);
    let machines = super::MACHINE_DRIVERS.into_iter().any(offers);
    let isolation = match given {
        Some(text) => match Isolation::parse(text) {
            Some(isolation) => isolation,
            None => return fault("isolation", format!("{text:?} is none of microvm, container, process")),
        },
        None if offers("container") => Isolation::Container,
        None if machines => Isolation::Microvm,
        None => Isolation::Process,
    };
    match isolation {
        Isolation::Microvm if !machines => fault("isolation", "microvm needs \"qemu\" or \"firecracker\" in drivers"),
        // A microVM is stronger than what is asked for.
        Isolation::Container if !offers("container") && !machines => {
            fault("isolation", "container needs \"container\" in drivers")
        }
        Isolation::Process if !offers("process") => {
            fault("isolation", "process means no sandbox at all; allow it with drivers = [\"container\", \"process\"]")
        }
        given => Ok(given),
    }
}

fn nats(raw: RawNats, base: NatsConfig) -> Result<NatsConfig, Fault> {
    let servers = raw.servers.unwrap_or(base.servers);
    if servers.is_empty() {
        return fault("nats.servers", "names no server");
    }
    if let Some(bad) = servers.iter().find(|s| s.parse::<async_nats::ServerAddr>().is_err()) {
        return fault("nats.servers", format!("{bad:?} is not a server URL such as nats://192.0.2.1:4222"));
    }
    if raw.password.is_some() && raw.user.is_none() {
        return fault("nats.password", "needs nats.user beside it; a token alone is nats.token");
    }
    if raw.tls_cert.is_some() != raw.tls_key.is_some() {
        return fault("nats.tls_cert", "tls_cert and tls_key belong together");
    }
    let ways = [raw.creds.is_some(), raw.nkey.is_some(), raw.user.is_some(), raw.token.is_some()];
    if ways.into_iter().filter(|w| *w).count() > 1 {
        return fault("nats", "creds, nkey, user and token exclude each other");
    }
    Ok(NatsConfig {
        servers,
        creds: raw.creds,
        nkey: raw.nkey,
        user: raw.user,
        password: raw.password.map(Secret::new),
        token: raw.token.map(Secret::new),
        tls_cert: raw.tls_cert,
        tls_key: raw.tls_key,
        tls_ca: raw.tls_ca,
        tls_first: raw.tls_first.unwrap_or(false),
    })
}

fn tags(tags: std::collections::BTreeMap<String, String>) -> Result<std::collections::BTreeMap<String, String>, Fault> {
    match tags.keys().find(|k| k.starts_with("nex.")) {
        Some(key) => fault(format!("tags.{key}"), "tags that begin with \"nex.\" are set by the node itself"),
        None => Ok(tags),
    }
}

fn workload_types(given: Option<Vec<String>>, notes: &mut Vec<String>) -> Result<Vec<String>, Fault> {
    let mut types = given.unwrap_or_else(|| vec!["native".to_owned()]);
    if let Some(unknown) = types.iter().find(|t| !WORKLOAD_TYPES.contains(&t.as_str())) {
        return fault("workload_types", format!("{unknown:?} is none of native, v8, wasm, oci"));
    }
    types.retain(|t| {
        let runs = t == "native";
        if !runs {
            notes.push(format!("workload_types: {t} is not offered: only native programs run on this version"));
        }
        runs
    });
    if types.is_empty() {
        return fault("workload_types", "leaves nothing this node can run; add native");
    }
    types.dedup();
    Ok(types)
}

fn issuers(issuers: Vec<String>) -> Result<Vec<String>, Fault> {
    match issuers.iter().find(|i| nkeys::KeyPair::from_public_key(i).is_err()) {
        Some(bad) => fault("valid_issuers", format!("{bad:?} is not a public nkey (56 characters, A… for an account)")),
        None => Ok(issuers),
    }
}

fn denied(extra: Vec<String>) -> Result<Vec<String>, Fault> {
    let mut all: Vec<String> = DENIED_ALWAYS.map(str::to_owned).to_vec();
    for pattern in extra {
        if !crate::verbs::pattern::is_pattern(&pattern) {
            return fault("deny_trigger_subjects", format!("{pattern:?} is not a NATS subject pattern"));
        }
        if !all.contains(&pattern) {
            all.push(pattern);
        }
    }
    Ok(all)
}

/// Zero means no bound, as in Nex.
fn limits(raw: RawLimits) -> Limits {
    let bound = |n: Option<u64>| n.filter(|n| *n > 0);
    Limits {
        workloads_max: bound(raw.workloads_max),
        artifact_bytes_max: bound(raw.artifact_size_max.map(|s| s.0)),
        total_bytes_max: bound(raw.total_size_max.map(|s| s.0)),
    }
}

fn template(template: String) -> Result<String, Fault> {
    if ["host", "scratch"].contains(&template.as_str()) {
        Ok(template)
    } else {
        fault("template", format!("{template:?} is none of host, scratch"))
    }
}

fn resources(raw: RawResources) -> Result<Resources, Fault> {
    if raw.cpu_weight.is_some_and(|w| !(1..=10_000).contains(&w)) {
        return fault("resources.cpu_weight", "must lie within 1 and 10000");
    }
    if let (Some(reserve), Some(memory)) = (raw.memory_reserve, raw.memory)
        && reserve.0 > memory.0
    {
        return fault("resources.memory_reserve", "must not exceed resources.memory");
    }
    Ok(Resources {
        memory_bytes: raw.memory.map(|s| s.0),
        memory_reserve_bytes: raw.memory_reserve.map(|s| s.0),
        cpu_weight: raw.cpu_weight,
        cpu_quota_millis: raw.cpu_quota_millis,
        cpuset: raw.cpuset,
        cores: None,
        pids_max: raw.pids_max,
        disk_bytes: raw.disk.map(|s| s.0),
        secrets_bytes: raw.secrets.map(|s| s.0),
        nofile: raw.nofile,
    })
}

fn restart(raw: RawRestart, base: RestartPolicy) -> Result<RestartPolicy, Fault> {
    let policy = RestartPolicy {
        attempts_max: raw.attempts_max.unwrap_or(base.attempts_max),
        delay_initial: raw.delay_initial.map_or(base.delay_initial, |s| s.0),
        delay_max: raw.delay_max.map_or(base.delay_max, |s| s.0),
        healthy_after: raw.healthy_after.map_or(base.healthy_after, |s| s.0),
    };
    // A restart without any wait is a busy loop of process creation.
    if policy.delay_initial < Duration::from_millis(50) {
        return fault("restart.delay_initial", "must be at least 50ms");
    }
    if policy.delay_max < policy.delay_initial {
        return fault("restart.delay_max", "must not be below restart.delay_initial");
    }
    Ok(policy)
}

fn logs(raw: super::raw::RawLogs, base: LogsConfig) -> Result<LogsConfig, Fault> {
    let logs = LogsConfig {
        files_max: raw.files_max.unwrap_or(base.files_max),
        file_bytes_max: raw.file_size_max.map_or(base.file_bytes_max, |s| s.0),
    };
    // Two: one being written and one being read by whoever is behind. 64 KiB: one piece of output fits.
    if logs.files_max < 2 {
        return fault("logs.files_max", "must be at least 2");
    }
    if logs.file_bytes_max < 64 << 10 {
        return fault("logs.file_size_max", "must be at least 64KiB");
    }
    Ok(logs)
}

fn metrics_listen(given: Option<String>) -> Result<Option<std::net::SocketAddr>, Fault> {
    match given.map(|text| (text.parse(), text)) {
        None => Ok(None),
        Some((Ok(address), _)) => Ok(Some(address)),
        Some((Err(_), text)) => fault("metrics_listen", format!("{text:?} is not an address such as 127.0.0.1:8085")),
    }
}

fn workload_nats(target: String) -> Result<String, Fault> {
    let valid = target.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if valid { Ok(target) } else { fault("workload_nats", format!("{target:?} is not host:port")) }
}

fn heartbeat(interval: Duration) -> Result<Duration, Fault> {
    if (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&interval) {
        Ok(interval)
    } else {
        fault("heartbeat_interval", "must lie within 1s and 1h")
    }
}

fn uid_base(base: u32) -> Result<u32, Fault> {
    // Below 100,000 are the ids of people and services of the host.
    if base >= 100_000 && base.checked_add(65_536 * 2).is_some() {
        Ok(base)
    } else {
        fault("uid_base", "must leave the host's own ids alone: at least 100000, and 131072 below the 32-bit edge")
    }
}

/// Files of tasks must never belong to ids a sandbox runs with.
fn container(config: ContainerConfig, uid_base: u32) -> Result<ContainerConfig, Fault> {
    match config.disk_ids.checked_add(65_536) {
        Some(end) if end <= uid_base => Ok(config),
        _ => {
            let why = format!("{} and the 65535 ids after it must lie below uid_base, {uid_base}", config.disk_ids);
            fault("container.disk_ids", why)
        }
    }
}

fn sandboxes_max(count: u32) -> Result<usize, Fault> {
    if count == 0 {
        return fault("sandboxes_max", "must be at least 1");
    }
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

fn autostart_entry(raw: RawAutostart) -> Result<AutostartConfig, Fault> {
    let name = WorkloadName::parse(&raw.name).map_err(|e| ("name".to_owned(), e.to_string()))?;
    let namespace = match raw.namespace {
        Some(text) => Namespace::parse(&text).map_err(|e| ("namespace".to_owned(), e.to_string()))?,
        None => Namespace::default_namespace(),
    };
    let workload_type = raw.workload_type.unwrap_or_else(|| "native".to_owned());
    if workload_type != "native" {
        return fault("type", format!("{workload_type:?} cannot run on this version; only native can"));
    }
    if !raw.trigger_subjects.is_empty() {
        return fault("trigger_subjects", "only functions have triggers; a native program subscribes itself");
    }
    Ok(AutostartConfig {
        name,
        namespace,
        argv: raw.argv,
        description: raw.description.unwrap_or_default(),
        essential: raw.essential.unwrap_or(false),
        workload_type,
        location: location(&raw.location)?,
        jsdomain: raw.jsdomain.filter(|d| !d.is_empty()),
        environment: raw.environment.into_iter().map(|(k, v)| (k, Secret::new(v))).collect(),
        moat: raw.moat,
    })
}

fn location(text: &str) -> Result<(String, String), Fault> {
    let found = text.strip_prefix("nats://").and_then(|rest| rest.split_once('/')).and_then(|(bucket, key)| {
        let key = key.trim_matches('/');
        (!bucket.is_empty() && !key.is_empty()).then(|| (bucket.to_owned(), key.to_owned()))
    });
    found.map_or_else(|| fault("location", format!("{text:?} is not nats://BUCKET/key")), Ok)
}
