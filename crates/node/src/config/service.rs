//! What serves sandboxes to others: REST, images, warm pools, bounds on what is created. The tables are NanoBox's where it
//! has one, so that its file is read unchanged; what has no effect here is named, never dropped in silence.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use moat_model::Isolation;
use moat_model::network::NetworkMode;
use serde::Deserialize;

use super::machines::RawFirecracker;
use super::network::RawNetwork;
use super::span::Size;

/// Where REST listens if nothing is said.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// Layers fetched at the same time: more than four do not help one registry.
const PARALLEL_LAYERS: usize = 4;
/// An hour: long enough for a piece of work, short enough that what is forgotten ends.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3600);
/// Ended sandboxes are remembered as long as ended workloads.
const KEEP_ENDED: Duration = Duration::from_secs(3600);
/// A year: a longer span is a mistake in the unit.
const TIMEOUT_MAX_SEC: u64 = 31_536_000;

/// Where REST listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiConfig {
    /// Addresses; empty: it does not.
    pub listen: Vec<SocketAddr>,
    /// Somebody asked for these addresses: one that is taken stops the start. The default one only warns.
    pub explicit: bool,
}

impl ApiConfig {
    /// No REST.
    pub fn off() -> Self {
        Self { listen: Vec::new(), explicit: true }
    }
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self { listen: vec![LISTEN], explicit: false }
    }
}

/// Images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciConfig {
    /// Directory of the store; `images` below `data_dir` if absent.
    pub cache_dir: Option<PathBuf>,
    /// Registries spoken to in plain HTTP.
    pub insecure_registries: BTreeSet<String>,
    /// Registry to the mirrors asked before it.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// `config.json` of docker.
    pub docker_config: Option<PathBuf>,
    /// Bytes of images kept that nothing uses. `None` is no bound.
    pub cache_bytes_max: Option<u64>,
    /// Layers fetched at the same time.
    pub parallel_layers: usize,
}

impl Default for OciConfig {
    fn default() -> Self {
        Self {
            cache_dir: None,
            insecure_registries: BTreeSet::new(),
            mirrors: BTreeMap::new(),
            docker_config: None,
            cache_bytes_max: None,
            parallel_layers: PARALLEL_LAYERS,
        }
    }
}

/// Warm pools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// How often pools are looked after; a claim fills at once.
    pub replenish_interval: Duration,
    /// Members above `min_ready` go after this long.
    pub max_idle: Duration,
    /// One pool each.
    pub templates: Vec<PoolTemplate>,
    /// MicroVMs that stand ready for workloads that ask for nothing of their own.
    pub workloads: u32,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            replenish_interval: Duration::from_secs(5),
            max_idle: Duration::from_secs(600),
            templates: Vec::new(),
            workloads: 0,
        }
    }
}

/// The pool of one template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolTemplate {
    /// Template.
    pub name: String,
    /// Kept ready at least.
    pub min_ready: u32,
    /// Kept ready at most.
    pub max_ready: u32,
    /// Image the template is warmed up from when the node starts.
    pub image: Option<String>,
    /// Network its members have. What has none cannot become one with, nor the other way round.
    pub network: NetworkMode,
    /// Weakest isolation its members have.
    pub isolation: Isolation,
}

/// Bounds on sandboxes made through the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxesConfig {
    /// Life span of those that name none. `None`: no end.
    pub default_timeout: Option<Duration>,
    /// Longest life span. `None`: no bound.
    pub max_timeout: Option<Duration>,
    /// Most of one namespace at a time. `None`: no bound of its own.
    pub max_per_namespace: Option<usize>,
    /// How long ended ones are remembered.
    pub keep_ended: Duration,
    /// And how many of them.
    pub keep_ended_max: usize,
}

impl Default for SandboxesConfig {
    fn default() -> Self {
        Self {
            default_timeout: Some(DEFAULT_TIMEOUT),
            max_timeout: None,
            max_per_namespace: None,
            keep_ended: KEEP_ENDED,
            keep_ended_max: 10_000,
        }
    }
}

/// `[api]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawApi {
    pub listen_addr: Option<OneOrMany>,
}

/// `"a"` or `["a", "b"]`
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "an address such as \"127.0.0.1:8080\", or a list of them")]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// `[agent]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAgent {
    pub node_id: Option<String>,
    pub firecracker_bin: Option<PathBuf>,
    pub rootfs_dir: Option<PathBuf>,
    pub snapshot_dir: Option<PathBuf>,
}

/// `[oci]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawOci {
    pub cache_dir: Option<PathBuf>,
    pub insecure_registries: Option<Vec<String>>,
    pub mirrors: Option<BTreeMap<String, Vec<String>>>,
    pub docker_config: Option<PathBuf>,
    pub cache_max: Option<Size>,
    pub parallel_layers: Option<u32>,
    pub init_binary: Option<PathBuf>,
    pub dns_server: Option<String>,
}

/// `[pool]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPool {
    pub replenish_interval_sec: Option<u64>,
    pub max_idle_sec: Option<u64>,
    #[serde(default)]
    pub templates: Vec<RawPoolTemplate>,
    pub workloads: Option<u32>,
}

/// One `[[pool.templates]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPoolTemplate {
    pub name: String,
    pub min_ready: u32,
    pub max_ready: u32,
    pub image: Option<String>,
    pub network: Option<String>,
    pub isolation: Option<String>,
}

/// `[sandboxes]`
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSandboxes {
    pub default_timeout_sec: Option<u64>,
    pub max_timeout_sec: Option<u64>,
    pub max_per_namespace: Option<u32>,
    pub keep_ended_sec: Option<u64>,
    pub keep_ended_max: Option<u32>,
}

type Fault = (String, String);

fn fault<T>(key: impl Into<String>, why: impl Into<String>) -> Result<T, Fault> {
    Err((key.into(), why.into()))
}

pub(super) fn api(raw: RawApi) -> Result<ApiConfig, Fault> {
    match raw.listen_addr {
        None => Ok(ApiConfig::default()),
        Some(given) => Ok(ApiConfig { listen: addresses("api.listen_addr", given, LISTEN)?, explicit: true }),
    }
}

/// Addresses to listen on.
pub(super) fn addresses(key: &str, given: OneOrMany, example: SocketAddr) -> Result<Vec<SocketAddr>, Fault> {
    let texts = match given {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    };
    let mut listen = Vec::new();
    for text in texts {
        let numbers = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        match numbers.as_deref().unwrap_or(&text).parse() {
            Ok(address) => listen.push(address),
            Err(_) => return fault(key, format!("{text:?} is not an address such as {example}")),
        }
    }
    Ok(listen)
}

/// The name of the node; NanoBox calls it an id.
pub(super) fn name(own: Option<String>, agent: &RawAgent) -> Result<Option<String>, Fault> {
    match (&own, &agent.node_id) {
        (Some(own), Some(other)) if own != other => {
            fault("agent.node_id", format!("{other:?} is not the name {own:?}; they mean the same: give one"))
        }
        _ => Ok(own.or_else(|| agent.node_id.clone())),
    }
}

/// Members accepted without effect, and why they have none: for the notes and for `docs/config.md`.
pub(super) const WITHOUT_EFFECT: [(&str, &str); 4] = [
    ("agent.rootfs_dir", "the root of an image is kept in oci.cache_dir, one file for each image"),
    ("firecracker.boot_args", "the command line of a guest is the driver's: it boots into the node's own agent"),
    ("network.bridge_name", "each sandbox has a link of its own that is routed; there is no bridge to name"),
    ("oci.init_binary", "the agent is built into this program"),
];

pub(super) fn notes(agent: &RawAgent, firecracker: &RawFirecracker, network: &RawNetwork, oci: &RawOci) -> Vec<String> {
    let given = [
        agent.rootfs_dir.is_some(),
        firecracker.boot_args.is_some(),
        network.bridge_name.is_some(),
        oci.init_binary.is_some(),
    ];
    let named = WITHOUT_EFFECT.iter().zip(given).filter(|(_, given)| *given);
    named.map(|((key, why), _)| format!("{key} has no effect on this node because {why}")).collect()
}

pub(super) fn oci(raw: RawOci) -> Result<OciConfig, Fault> {
    let absolute = |key: &str, path: Option<PathBuf>| match path {
        Some(path) if !path.is_absolute() => fault(key, format!("{} is not an absolute path", path.display())),
        path => Ok(path),
    };
    let parallel_layers = raw.parallel_layers.map_or(PARALLEL_LAYERS, |n| usize::try_from(n).unwrap_or(usize::MAX));
    if !(1..=32).contains(&parallel_layers) {
        return fault("oci.parallel_layers", "must lie within 1 and 32");
    }
    let insecure: BTreeSet<String> = raw.insecure_registries.unwrap_or_default().into_iter().collect();
    let mirrors = raw.mirrors.unwrap_or_default();
    if let Some(bad) = insecure.iter().find(|r| !is_registry(r)) {
        return fault("oci.insecure_registries", format!("{bad:?} is not host or host:port"));
    }
    if let Some(bad) = mirrors.iter().flat_map(|(of, by)| std::iter::once(of).chain(by)).find(|r| !is_registry(r)) {
        return fault("oci.mirrors", format!("{bad:?} is not host or host:port"));
    }
    Ok(OciConfig {
        cache_dir: absolute("oci.cache_dir", raw.cache_dir)?,
        insecure_registries: insecure,
        mirrors,
        docker_config: absolute("oci.docker_config", raw.docker_config)?,
        cache_bytes_max: raw.cache_max.map(|s| s.0).filter(|n| *n > 0),
        parallel_layers,
    })
}

fn is_registry(text: &str) -> bool {
    let host_char = |b: u8| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b);
    !text.is_empty() && text.len() <= 255 && text.bytes().all(host_char)
}

pub(super) fn pool(raw: RawPool, sandboxes_max: usize) -> Result<PoolConfig, Fault> {
    let base = PoolConfig::default();
    let replenish = raw.replenish_interval_sec.unwrap_or(base.replenish_interval.as_secs());
    if !(1..=3600).contains(&replenish) {
        return fault("pool.replenish_interval_sec", "must lie within 1 and 3600");
    }
    let mut templates: Vec<PoolTemplate> = Vec::new();
    for (index, entry) in raw.templates.into_iter().enumerate() {
        let at = |key: &str| format!("pool.templates[{index}].{key}");
        if let Err(why) = crate::templates::check_pool_name(&entry.name) {
            return fault(at("name"), why);
        }
        if templates.iter().any(|t| t.name == entry.name) {
            return fault(at("name"), format!("{:?} has a pool already", entry.name));
        }
        if entry.max_ready == 0 || entry.min_ready > entry.max_ready {
            return fault(at("max_ready"), "must be at least 1, and not below min_ready");
        }
        let network = match entry.network.as_deref() {
            None | Some("isolated") => NetworkMode::Isolated,
            Some("internal") => NetworkMode::Internal,
            Some("internet") => NetworkMode::Internet,
            Some(other) => {
                return fault(at("network"), format!("{other:?} is none of isolated, internal, internet"));
            }
        };
        let isolation = match entry.isolation.as_deref() {
            None | Some("container") => Isolation::Container,
            Some("microvm") => Isolation::Microvm,
            Some(other) => return fault(at("isolation"), format!("{other:?} is none of container, microvm")),
        };
        if isolation == Isolation::Microvm && entry.name == "host" {
            return fault(at("isolation"), "a microVM cannot show paths of the host: name another template");
        }
        let RawPoolTemplate { name, min_ready, max_ready, image, .. } = entry;
        templates.push(PoolTemplate { name, min_ready, max_ready, image, network, isolation });
    }
    let workloads = raw.workloads.unwrap_or(base.workloads);
    let ready = templates.iter().map(|t| u64::from(t.max_ready)).sum::<u64>() + u64::from(workloads);
    if ready > u64::try_from(sandboxes_max).unwrap_or(u64::MAX) {
        return fault("pool.templates", format!("keep {ready} ready together; sandboxes_max is {sandboxes_max}"));
    }
    let max_idle = Duration::from_secs(raw.max_idle_sec.unwrap_or(base.max_idle.as_secs()));
    Ok(PoolConfig { replenish_interval: Duration::from_secs(replenish), max_idle, templates, workloads })
}

pub(super) fn sandboxes(raw: RawSandboxes) -> Result<SandboxesConfig, Fault> {
    let base = SandboxesConfig::default();
    for (key, given) in [("default_timeout_sec", raw.default_timeout_sec), ("max_timeout_sec", raw.max_timeout_sec)] {
        if given.is_some_and(|n| n > TIMEOUT_MAX_SEC) {
            return fault(format!("sandboxes.{key}"), format!("must not exceed {TIMEOUT_MAX_SEC}, a year"));
        }
    }
    let span = |given: u64| (given > 0).then(|| Duration::from_secs(given));
    let max_timeout = raw.max_timeout_sec.and_then(span);
    let mut default_timeout = raw.default_timeout_sec.map_or(base.default_timeout, span);
    if let Some(max) = max_timeout {
        match (raw.default_timeout_sec, default_timeout) {
            (Some(_), None) => {
                return fault("sandboxes.default_timeout_sec", "must not be 0 if there is a max_timeout_sec");
            }
            (Some(_), Some(given)) if given > max => {
                return fault("sandboxes.default_timeout_sec", "must not exceed sandboxes.max_timeout_sec");
            }
            (Some(_), given) => default_timeout = given,
            (None, given) => default_timeout = given.map(|d| d.min(max)),
        }
    }
    let keep_ended_max = raw.keep_ended_max.map_or(base.keep_ended_max, |n| usize::try_from(n).unwrap_or(usize::MAX));
    if keep_ended_max > 100_000 {
        return fault("sandboxes.keep_ended_max", "must not exceed 100000: each is a file");
    }
    Ok(SandboxesConfig {
        default_timeout,
        max_timeout,
        max_per_namespace: raw.max_per_namespace.filter(|n| *n > 0).and_then(|n| usize::try_from(n).ok()),
        keep_ended: raw.keep_ended_sec.map_or(base.keep_ended, Duration::from_secs),
        keep_ended_max,
    })
}
