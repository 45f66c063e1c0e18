//! A Nomad agent's configuration as ours: the same keys our TOML has, so that both are checked by the same rules.

use moat_formats::Problem;
use moat_formats::nomad::client::{self, ClientConfig};
use toml::{Table, Value};

use super::ConfigError;
use super::raw::RawConfig;

/// Drivers jobs know.
const DRIVERS: [&str; 3] = ["exec", "raw_exec", "microvm"];
/// Ports that are given away if a file names one end only.
const PORTS: (u16, u16) = (20_000, 32_000);

/// Reads a file: our keys, and a note for each of its own that has no effect.
pub(super) fn read(text: &str, origin: &str) -> Result<(Table, Vec<String>), ConfigError> {
    let config = client::parse(origin, text).map_err(|problems| ConfigError::Hcl { problems: Box::new(problems) })?;
    let notes = config.warnings.iter().map(note).collect();
    Ok((table(config), notes))
}

fn note(problem: &Problem) -> String {
    let Problem { origin, line, message, fix, .. } = problem;
    match fix {
        Some(why) => format!("{origin}:{line}: {message}: {why}"),
        None => format!("{origin}:{line}: {message}"),
    }
}

/// What `over` says has precedence. Tables are joined, but for a view of host paths, which is one thing.
pub(super) fn joined(mut base: Table, over: Table) -> Table {
    for (key, value) in over {
        let value = match (base.remove(&key), value) {
            (Some(Value::Table(inner)), Value::Table(over)) if key != "host_paths" => Value::Table(joined(inner, over)),
            (_, value) => value,
        };
        base.insert(key, value);
    }
    base
}

/// Reads our keys.
pub(super) fn raw(table: Table, origin: &str) -> Result<RawConfig, ConfigError> {
    table.try_into().map_err(|e: toml::de::Error| ConfigError::Toml {
        origin: origin.to_owned(),
        message: e.to_string().trim_end().to_owned(),
    })
}

/// Builds tables, leaving out what is absent.
#[derive(Default)]
struct Out(Table);

impl Out {
    fn set(&mut self, key: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.0.insert(key.to_owned(), value.into());
        }
    }

    fn number(&mut self, key: &str, value: Option<impl TryInto<i64>>) {
        self.set(key, value.and_then(|value| value.try_into().ok()));
    }

    fn mebibytes(&mut self, key: &str, value: Option<u64>) {
        self.number(key, value.map(|mebibytes| mebibytes.saturating_mul(1 << 20)));
    }

    fn span(&mut self, key: &str, value: Option<std::time::Duration>) {
        self.set(key, value.map(|span| format!("{}ms", span.as_millis())));
    }

    fn table(&mut self, key: &str, inner: Self) {
        if !inner.0.is_empty() {
            self.0.insert(key.to_owned(), Value::Table(inner.0));
        }
    }

    fn texts(&mut self, key: &str, map: impl IntoIterator<Item = (String, String)>) {
        let inner: Table = map.into_iter().map(|(key, value)| (key, Value::String(value))).collect();
        self.table(key, Self(inner));
    }
}

fn list(texts: Vec<String>) -> Option<Vec<String>> {
    (!texts.is_empty()).then_some(texts)
}

fn table(mut config: ClientConfig) -> Table {
    let mut out = Out::default();
    out.set("name", config.name.take());
    out.set("data_dir", config.data_dir.take());
    let mut api = Out::default();
    api.set("listen_addr", config.http.take());
    out.table("api", api);
    let cgroup = config.cgroup_parent.take().map(|parent| parent.trim_matches('/').to_owned());
    let mut container = Out::default();
    container.texts("host_paths", config.chroot_env.take().into_iter().flatten());
    container.set("allow_caps", config.allow_caps.take());
    container.set("cgroup_parent", cgroup.clone());
    out.table("container", container);
    let mut process = Out::default();
    process.set("enabled", config.raw_exec.filter(|enabled| *enabled));
    process.set("cgroup_parent", cgroup);
    out.table("process", process);
    out.table("jobs", jobs(config));
    out.0
}

fn jobs(config: ClientConfig) -> Out {
    let mut out = Out::default();
    out.set("drivers", drivers(&config));
    out.set("datacenter", config.datacenter);
    out.set("region", config.region);
    out.set("class", config.node_class);
    out.set("pool", config.node_pool);
    out.texts("meta", config.meta);
    out.set("alloc_dir", config.alloc_dir);
    out.set("users_denied", config.users_denied);
    out.set("uids_denied", list(config.uids_denied));
    out.set("gids_denied", list(config.gids_denied));
    out.set("env_denied", list(config.env_denied));
    out.set("template_functions_denied", config.template_functions_denied);
    out.set("remote_exec", config.disable_remote_exec.map(|disabled| !disabled));
    out.span("kill_timeout_max", config.max_kill_timeout);
    let (first, last) = config.dynamic_ports;
    if first.is_some() || last.is_some() {
        let ports = format!("{}-{}", first.unwrap_or(PORTS.0), last.unwrap_or(PORTS.1));
        out.set("ports", Some(ports));
    }
    let mut volumes = Out::default();
    for (name, (path, read_only)) in config.host_volumes {
        let mut volume = Out::default();
        volume.set("path", Some(path));
        volume.set("read_only", Some(read_only));
        volumes.table(&name, volume);
    }
    out.table("host_volumes", volumes);
    let mut capacity = Out::default();
    capacity.number("cpu_mhz", config.totals.cpu_mhz);
    capacity.set("cores", config.reservable_cores);
    capacity.mebibytes("memory", config.totals.memory_mb);
    capacity.mebibytes("disk", config.totals.disk_mb);
    out.table("capacity", capacity);
    let mut reserved = Out::default();
    reserved.number("cpu_mhz", config.reserved.cpu_mhz);
    reserved.set("cores", config.reserved.cores);
    reserved.mebibytes("memory", config.reserved.memory_mb);
    reserved.mebibytes("disk", config.reserved.disk_mb);
    reserved.set("ports", config.reserved.ports);
    out.table("reserved", reserved);
    out.table("artifact", artifact(config.artifact));
    out.table("gc", collection(&config.collection));
    if let Some(drain) = config.drain_on_shutdown {
        let mut inner = Out::default();
        inner.span("deadline", drain.deadline);
        inner.set("force", Some(drain.force));
        inner.set("ignore_system", Some(drain.ignore_system));
        out.table("drain_on_shutdown", inner);
    }
    out
}

/// What is left when everything is said; absent if nothing is.
fn drivers(config: &ClientConfig) -> Option<Vec<String>> {
    if config.enabled == Some(false) {
        return Some(Vec::new());
    }
    let denied = |name: &str| {
        let listed = |list: &[String]| list.iter().any(|other| other == name);
        let allowed = config.drivers_allowed.as_ref().is_none_or(|allowed| listed(allowed));
        !allowed || listed(&config.drivers_denied) || (name == "raw_exec" && config.raw_exec == Some(false))
    };
    let left: Vec<String> = DRIVERS.into_iter().filter(|name| !denied(name)).map(str::to_owned).collect();
    (left.len() < DRIVERS.len()).then_some(left)
}

fn artifact(limits: client::ArtifactLimits) -> Out {
    let mut out = Out::default();
    out.span("http_timeout", limits.http_timeout);
    out.number("http_size_max", limits.http_bytes_max);
    out.span("git_timeout", limits.git_timeout);
    out.span("s3_timeout", limits.s3_timeout);
    out.number("files_max", limits.files_max);
    out.number("unpacked_size_max", limits.unpacked_bytes_max);
    out.set("paths_allowed", limits.paths_allowed);
    out.set("env_allowed", limits.env_allowed);
    out
}

fn collection(given: &client::Collection) -> Out {
    let mut out = Out::default();
    out.span("interval", given.interval);
    out.number("parallel", given.parallel);
    out.number("disk_percent", given.disk_percent);
    out.number("inode_percent", given.inode_percent);
    out.number("allocs_max", given.allocs_max);
    out
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use moat_model::job::TaskDriver;

    use crate::config::NodeConfig;
    use crate::config::jobs::{HostVolumeConfig, IdRange};

    const CHROOT: &str = include_str!("../../../formats/tests/seed/client_chroot.hcl");
    const RAW_EXEC: &str = include_str!("../../../formats/tests/seed/client_raw_exec.hcl");

    fn read(text: &str) -> NodeConfig {
        NodeConfig::from_client(text, "client.hcl").unwrap()
    }

    #[test]
    fn the_seeds_configurations_mean_what_they_say() {
        let config = read(CHROOT);
        assert_eq!(config.container.host_paths.len(), 9);
        assert_eq!(config.container.host_paths[Path::new("/vagrant")], PathBuf::from("/vagrant"));
        assert!(!config.unsafe_allowed() && config.notes.is_empty());
        let config = read(RAW_EXEC);
        assert!(config.unsafe_allowed() && config.process.enabled);
        assert!(config.jobs.drivers.contains(&TaskDriver::RawExec));
        assert_eq!(config.container, NodeConfig::default().container);
    }

    #[test]
    fn everything_a_client_says_is_what_the_node_does() {
        let config = read(
            r#"
            datacenter = "berlin"
            name       = "n1"
            bind_addr  = "127.0.0.1"
            ports { http = 4646 }
            server { enabled = true }
            client {
              node_class = "big"
              node_pool  = "gpu"
              meta { rack = "r1" }
              options = { "user.denylist" = "root,adm", "driver.denylist" = "microvm" }
              host_volume "certs" { path = "/etc/ssl" read_only = true }
              max_kill_timeout = "90s"
              min_dynamic_port = 21000
              reserved { cpu = 500 memory = 256 reserved_ports = "22,80-81" }
              artifact { http_max_size = "1MiB" }
              gc_max_allocs = 7
              drain_on_shutdown { deadline = "10m" }
              cgroup_parent = "/apps"
            }
            plugin "exec" { config { allow_caps = ["CAP_CHOWN"] denied_host_uids = "0,10-20" } }
            "#,
        );
        let jobs = &config.jobs;
        assert_eq!((jobs.datacenter.as_str(), jobs.class.as_str(), jobs.pool.as_str()), ("berlin", "big", "gpu"));
        assert_eq!(config.api.listen, ["127.0.0.1:4646".parse().unwrap()]);
        assert_eq!(jobs.meta["rack"], "r1");
        assert_eq!(jobs.drivers, [TaskDriver::Exec, TaskDriver::RawExec]);
        assert_eq!(jobs.users_denied, ["root", "adm"]);
        assert_eq!(jobs.host_volumes["certs"], HostVolumeConfig { path: "/etc/ssl".into(), read_only: true });
        assert_eq!((jobs.kill_timeout_max, jobs.ports), (Duration::from_secs(90), (21_000, 32_000)));
        assert_eq!((jobs.reserved.cpu_mhz, jobs.reserved.memory_bytes, jobs.reserved.ports.len()), (500, 256 << 20, 2));
        assert_eq!((jobs.artifact.http_bytes_max, jobs.gc.allocs_max), (1 << 20, 7));
        assert_eq!(jobs.drain_on_shutdown.unwrap().deadline, Duration::from_secs(600));
        assert_eq!(jobs.uids_denied, [IdRange { first: 0, last: 0 }, IdRange { first: 10, last: 20 }]);
        assert_eq!(
            (config.container.allow_caps.as_slice(), config.container.cgroup_parent.as_str()),
            (&["chown".to_owned()][..], "apps")
        );
        assert!(
            config.notes.len() == 1 && config.notes[0].contains("client.hcl:6: ") && config.notes[0].contains("server")
        );
    }

    #[test]
    fn our_own_file_has_precedence_over_a_clients() {
        let dir = tempfile::tempdir().unwrap();
        let client = dir.path().join("client.hcl");
        std::fs::write(&client, "datacenter = \"a\"\nregion = \"r\"\nclient { meta { k = \"v\" } }").unwrap();
        let text = format!("[jobs]\nclient_config = {client:?}\ndatacenter = 'b'\n[jobs.meta]\nown = 'x'");
        let config = NodeConfig::from_toml(&text, "moat.toml").unwrap();
        assert_eq!((config.jobs.datacenter.as_str(), config.jobs.region.as_str()), ("b", "r"));
        assert_eq!((config.jobs.meta["k"].as_str(), config.jobs.meta["own"].as_str()), ("v", "x"));
        let config = NodeConfig::load(&client).unwrap();
        assert_eq!(config.jobs.datacenter, "a");
        std::fs::write(&client, "client { enabeld = true }").unwrap();
        let message = NodeConfig::load(&client).map(drop).unwrap_err().to_string();
        assert!(message.contains("client.hcl:1:10") && message.contains("did you mean \"enabled\"?"), "{message}");
    }
}
