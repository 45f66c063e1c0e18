//! Configuration of Nomad's agents, as far as it is about clients: what a node offers to jobs.
//!
//! It becomes a [`ClientConfig`]; the node makes its own configuration of it. Keys about servers, Consul and the like are
//! named in `warnings`, which whoever reads the file prints. Keys nobody knows are refused.

mod absent;
mod limits;
mod plugins;

use std::collections::BTreeMap;
use std::time::Duration;

pub use self::limits::{ArtifactLimits, Collection, DrainOnShutdown, Reserved, Totals};
use crate::fields::Fields;
use crate::problem::{Fault, Problem, Problems, Reports};
use crate::tree::Body;

/// What a file says; what it does not is absent.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ClientConfig {
    /// Name of the node.
    pub name: Option<String>,
    /// Datacenter.
    pub datacenter: Option<String>,
    /// Region.
    pub region: Option<String>,
    /// Where the node keeps what must survive.
    pub data_dir: Option<String>,
    /// Where HTTP listens: `bind_addr` or `addresses.http`, and `ports.http`.
    pub http: Option<String>,
    /// Offers anything to jobs.
    pub enabled: Option<bool>,
    /// Class.
    pub node_class: Option<String>,
    /// Pool.
    pub node_pool: Option<String>,
    /// Free values.
    pub meta: BTreeMap<String, String>,
    /// Host path to path inside; replaces the default.
    pub chroot_env: Option<BTreeMap<String, String>>,
    /// Host volumes: path, and whether it may only be read.
    pub host_volumes: BTreeMap<String, (String, bool)>,
    /// Programs on the bare host.
    pub raw_exec: Option<bool>,
    /// Drivers that may be used; none: all.
    pub drivers_allowed: Option<Vec<String>>,
    /// Drivers that may not.
    pub drivers_denied: Vec<String>,
    /// Capabilities a task may hold.
    pub allow_caps: Option<Vec<String>>,
    /// Users no task may be.
    pub users_denied: Option<Vec<String>>,
    /// Ids and ranges no task may have.
    pub uids_denied: Vec<String>,
    /// Group ids and ranges no task may have.
    pub gids_denied: Vec<String>,
    /// Variables of the daemon tasks do not get.
    pub env_denied: Vec<String>,
    /// The longest `kill_timeout`.
    pub max_kill_timeout: Option<Duration>,
    /// First and last port that is given away.
    pub dynamic_ports: (Option<u16>, Option<u16>),
    /// CPUs that may be given away whole.
    pub reservable_cores: Option<String>,
    /// What there is.
    pub totals: Totals,
    /// What is not for jobs.
    pub reserved: Reserved,
    /// Bounds on artifacts.
    pub artifact: ArtifactLimits,
    /// Functions templates may not call.
    pub template_functions_denied: Option<Vec<String>>,
    /// What is removed when.
    pub collection: Collection,
    /// The node is emptied before it ends.
    pub drain_on_shutdown: Option<DrainOnShutdown>,
    /// Where allocations are.
    pub alloc_dir: Option<String>,
    /// Cgroup all tasks are below.
    pub cgroup_parent: Option<String>,
    /// No programs are run in tasks from outside.
    pub disable_remote_exec: Option<bool>,
    /// Keys that have no meaning here, each with the reason.
    pub warnings: Vec<Problem>,
}

/// Reads an agent's configuration: HCL as agents take it, or JSON.
pub fn parse(origin: &str, text: &str) -> Result<ClientConfig, Problems> {
    let mut reports = Reports::default();
    let source = reports.add(origin, text);
    let config = body(&reports, source, text).map(|body| {
        let root = Fields::root(&body, "the file", &reports);
        agent(root)
    });
    let warnings = reports.warnings();
    reports.into_result(config.map(|config| ClientConfig { warnings, ..config }))
}

fn body(reports: &Reports, source: usize, text: &str) -> Option<Body> {
    if text.len() > crate::hcl::FILE_BYTES_MAX {
        reports.push(Fault::new(crate::problem::Place::new(source, 0..0), "this file is larger than 1 MiB"));
        return None;
    }
    let read = if text.trim_start().starts_with('{') {
        crate::json::parse(source, text).and_then(crate::tree::Body::from_json)
    } else {
        crate::plain::parse(source, text)
    };
    read.map_err(|fault| reports.push(fault)).ok()
}

fn agent(fields: Fields<'_>) -> ClientConfig {
    let mut config = ClientConfig {
        name: fields.word("name"),
        datacenter: fields.word("datacenter"),
        region: fields.word("region"),
        data_dir: fields.word("data_dir"),
        http: http(&fields),
        ..ClientConfig::default()
    };
    if let Some(part) = fields.block("client") {
        client(Fields::of(&part, &fields, "client", "client".to_owned()), &mut config);
    }
    plugins::plugins(&fields, &mut config);
    fields.ignore(absent::AGENT);
    fields.finish(&[]);
    config
}

fn http(fields: &Fields<'_>) -> Option<String> {
    let mut address = fields.word("bind_addr");
    if let Some(part) = fields.block("addresses") {
        let inner = Fields::of(&part, fields, "addresses", "addresses".to_owned());
        address = inner.word("http").or(address);
        inner.ignore(absent::ADDRESSES);
        inner.finish(&[]);
    }
    let mut port: Option<u16> = None;
    if let Some(part) = fields.block("ports") {
        let inner = Fields::of(&part, fields, "ports", "ports".to_owned());
        port = inner.whole("http", 1, 65_535);
        inner.ignore(absent::PORTS);
        inner.finish(&[]);
    }
    if address.is_none() && port.is_none() {
        return None;
    }
    let address = address.unwrap_or_else(|| "127.0.0.1".to_owned());
    let host = if address.contains(':') { format!("[{address}]") } else { address };
    // The port REST has, unless the file says otherwise.
    Some(format!("{host}:{}", port.unwrap_or(8080)))
}

fn client(fields: Fields<'_>, config: &mut ClientConfig) {
    config.enabled = fields.flag("enabled");
    config.node_class = fields.word("node_class");
    config.node_pool = fields.word("node_pool");
    config.meta = fields.map("meta");
    config.chroot_env = Some(fields.map("chroot_env")).filter(|map| !map.is_empty());
    config.max_kill_timeout = fields.span("max_kill_timeout");
    config.dynamic_ports = (fields.whole("min_dynamic_port", 1, 65_535), fields.whole("max_dynamic_port", 1, 65_535));
    config.reservable_cores = fields.word("reservable_cores");
    config.alloc_dir = fields.word("alloc_dir");
    config.cgroup_parent = fields.word("cgroup_parent");
    config.disable_remote_exec = fields.flag("disable_remote_exec");
    host_volumes(&fields, config);
    limits::limits(&fields, config);
    plugins::options(&fields, config);
    fields.ignore(absent::CLIENT);
    fields.finish(&[]);
}

fn host_volumes(fields: &Fields<'_>, config: &mut ClientConfig) {
    for part in fields.blocks("host_volume", 1) {
        let inner = Fields::of(&part, fields, "host_volume", format!("host_volume {:?}", part.label()));
        let path = inner.word("path");
        let path = inner.needed("path", path, "\"/srv/…\"");
        // Nomad's default: an operator who names a volume there means it to be written.
        let read_only = inner.flag("read_only").unwrap_or(false);
        inner.finish(&[]);
        config.host_volumes.extend(path.map(|path| (part.label().to_owned(), (path, read_only))));
    }
}
