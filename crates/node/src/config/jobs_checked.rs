//! `[jobs]` from what was written to what it means.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use moat_getter::{HostAddress, NetworkPolicy};
use moat_model::network::PortRange;

use super::jobs::{
    ArtifactConfig, Buckets, CapacityConfig, DrainOnShutdown, GcConfig, HostVolumeConfig, IdRange, JobsConfig,
    RawArtifact, RawCapacity, RawDrain, RawGc, RawHostVolume, RawJobs, RawReserved, ReservedConfig,
};
use super::span::{Size, Span};

type Fault = (String, String);

fn fault<T>(key: impl Into<String>, why: impl Into<String>) -> Result<T, Fault> {
    Err((key.into(), why.into()))
}

/// What `drain_on_shutdown {}` waits at most.
const DRAIN_DEADLINE: Duration = Duration::from_secs(3600);

/// Checks the table.
pub(super) fn jobs(raw: RawJobs) -> Result<JobsConfig, Fault> {
    let base = JobsConfig::default();
    for (key, list) in [("jobs.env_allowed", &raw.env_allowed), ("jobs.env_denied", &raw.env_denied)] {
        if let Some(bad) = list.iter().flatten().find(|glob| glob.is_empty() || glob.contains(['=', '\0'])) {
            return fault(key, format!("{bad:?} is not the name of a variable, nor a glob such as \"LC_*\""));
        }
    }
    Ok(JobsConfig {
        datacenter: word("jobs.datacenter", raw.datacenter, base.datacenter)?,
        region: word("jobs.region", raw.region, base.region)?,
        class: raw.class.unwrap_or(base.class),
        pool: pool(raw.pool, base.pool)?,
        meta: raw.meta,
        drivers: raw.drivers.unwrap_or(base.drivers),
        network: raw.network.unwrap_or(base.network),
        alloc_dir: raw.alloc_dir.map(|dir| absolute("jobs.alloc_dir", dir)).transpose()?,
        host_volumes: host_volumes(raw.host_volumes)?,
        users_denied: raw.users_denied.unwrap_or(base.users_denied),
        uids_denied: ids("jobs.uids_denied", raw.uids_denied)?,
        gids_denied: ids("jobs.gids_denied", raw.gids_denied)?,
        host_pid: raw.host_pid.unwrap_or(base.host_pid),
        host_ipc: raw.host_ipc.unwrap_or(base.host_ipc),
        ports: raw.ports.as_deref().map(ports).transpose()?.unwrap_or(base.ports),
        kill_timeout_max: raw.kill_timeout_max.map_or(base.kill_timeout_max, |span| span.0),
        env_allowed: raw.env_allowed.unwrap_or(base.env_allowed),
        env_denied: raw.env_denied.unwrap_or(base.env_denied),
        template_functions_denied: raw.template_functions_denied.unwrap_or(base.template_functions_denied),
        remote_exec: raw.remote_exec.unwrap_or(base.remote_exec),
        replicas: replicas(raw.replicas)?,
        capacity: capacity(raw.capacity)?,
        reserved: reserved(raw.reserved)?,
        artifact: artifact(raw.artifact)?,
        gc: gc(raw.gc)?,
        drain_on_shutdown: raw.drain_on_shutdown.map(drain).transpose()?,
    })
}

fn word(key: &str, given: Option<String>, base: String) -> Result<String, Fault> {
    match given {
        Some(text) if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) => {
            fault(key, format!("{text:?} is not a word"))
        }
        given => Ok(given.unwrap_or(base)),
    }
}

fn pool(given: Option<String>, base: String) -> Result<String, Fault> {
    match word("jobs.pool", given, base)? {
        all if all == "all" => {
            fault("jobs.pool", "\"all\" is every pool: a node belongs to one with a name of its own")
        }
        pool => Ok(pool),
    }
}

fn absolute(key: &str, path: PathBuf) -> Result<PathBuf, Fault> {
    let sound = path.is_absolute() && !path.components().any(|part| part == std::path::Component::ParentDir);
    if sound { Ok(path) } else { fault(key, format!("{} is not an absolute path without '..'", path.display())) }
}

fn host_volumes(raw: BTreeMap<String, RawHostVolume>) -> Result<BTreeMap<String, HostVolumeConfig>, Fault> {
    let volume = |(name, raw): (String, RawHostVolume)| {
        let key = format!("jobs.host_volumes.{name}.path");
        let read_only = raw.read_only.unwrap_or(true);
        Ok((name, HostVolumeConfig { path: absolute(&key, raw.path)?, read_only }))
    };
    raw.into_iter().map(volume).collect()
}

fn ids(key: &str, given: Option<Vec<String>>) -> Result<Vec<IdRange>, Fault> {
    given.unwrap_or_default().iter().map(|text| id_range(key, text)).collect()
}

fn id_range(key: &str, text: &str) -> Result<IdRange, Fault> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse(), last.trim().parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok(IdRange { first, last }),
        (Ok(_), Ok(_)) => fault(key, format!("{text:?} ends before it begins")),
        _ => fault(key, format!("{text:?} is neither an id nor a range such as \"0-999\"")),
    }
}

fn ports(text: &str) -> Result<(u16, u16), Fault> {
    match PortRange::parse(text) {
        Some(range) => Ok((range.first(), range.last())),
        None => fault("jobs.ports", format!("{text:?} is no range such as 20000-32000")),
    }
}

fn replicas(given: Option<u8>) -> Result<Option<u8>, Fault> {
    match given {
        Some(n) if !matches!(n, 1 | 3 | 5) => fault("jobs.replicas", "must be 1, 3 or 5"),
        given => Ok(given),
    }
}

/// The kernel's list format: `0-1,4`.
fn cpus(key: &str, text: String) -> Result<String, Fault> {
    let number = |text: &str| text.trim().parse::<u16>().ok();
    let part = |part: &str| match part.split_once('-') {
        Some((first, last)) => number(first).zip(number(last)).is_some_and(|(first, last)| first <= last),
        None => number(part).is_some(),
    };
    if text.split(',').all(part) {
        Ok(text)
    } else {
        fault(key, format!("{text:?} is not a list of CPUs such as \"0-1,4\""))
    }
}

fn capacity(raw: RawCapacity) -> Result<CapacityConfig, Fault> {
    Ok(CapacityConfig {
        cpu_mhz: raw.cpu_mhz,
        cores: raw.cores.map(|text| cpus("jobs.capacity.cores", text)).transpose()?,
        memory_bytes: raw.memory.map(|size| size.0),
        disk_bytes: raw.disk.map(|size| size.0),
    })
}

fn reserved(raw: RawReserved) -> Result<ReservedConfig, Fault> {
    let bytes = |size: Option<Size>| size.map_or(0, |size| size.0);
    let ports = raw.ports.as_deref().unwrap_or_default().split(',').map(str::trim).filter(|text| !text.is_empty());
    let port = |text: &str| match PortRange::parse(text) {
        Some(range) => Ok(range),
        None => fault("jobs.reserved.ports", format!("{text:?} is neither a port nor a range such as 8000-8080")),
    };
    Ok(ReservedConfig {
        cpu_mhz: raw.cpu_mhz.unwrap_or(0),
        cores: raw.cores.map(|text| cpus("jobs.reserved.cores", text)).transpose()?,
        memory_bytes: bytes(raw.memory),
        disk_bytes: bytes(raw.disk),
        ports: ports.map(port).collect::<Result<_, _>>()?,
    })
}

fn artifact(raw: RawArtifact) -> Result<ArtifactConfig, Fault> {
    let base = ArtifactConfig::default();
    let span = |key: &str, given: Option<Span>, base: Duration| match given {
        Some(Span(Duration::ZERO)) => fault(format!("jobs.artifact.{key}"), "must be longer than nothing"),
        given => Ok(given.map_or(base, |span| span.0)),
    };
    let paths = raw.paths_allowed.unwrap_or_default();
    Ok(ArtifactConfig {
        http_timeout: span("http_timeout", raw.http_timeout, base.http_timeout)?,
        http_bytes_max: raw.http_size_max.map_or(base.http_bytes_max, |size| size.0),
        git_timeout: span("git_timeout", raw.git_timeout, base.git_timeout)?,
        s3_timeout: span("s3_timeout", raw.s3_timeout, base.s3_timeout)?,
        files_max: raw.files_max.unwrap_or(base.files_max),
        unpacked_bytes_max: raw.unpacked_size_max.map_or(base.unpacked_bytes_max, |size| size.0),
        paths_allowed: paths
            .into_iter()
            .map(|path| absolute("jobs.artifact.paths_allowed", path))
            .collect::<Result<_, _>>()?,
        env_allowed: raw.env_allowed.unwrap_or_default(),
        network: NetworkPolicy {
            allow: networks("jobs.artifact.networks_allowed", raw.networks_allowed)?,
            deny: networks("jobs.artifact.networks_denied", raw.networks_denied)?,
            hosts: raw.hosts.into_iter().map(host).collect::<Result<_, _>>()?,
            ..NetworkPolicy::default()
        },
        buckets: buckets(raw.buckets.unwrap_or_default())?,
    })
}

fn buckets(given: Vec<String>) -> Result<Buckets, Fault> {
    if given == ["*"] {
        return Ok(Buckets::All);
    }
    let sound = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    match given.iter().find(|name| !sound(name)) {
        Some(name) => {
            let why =
                format!("{name:?} is no name of a bucket: letters, digits, - and _; or \"*\" alone, for all of them");
            fault("jobs.artifact.buckets", why)
        }
        None => Ok(Buckets::Named(given.into_iter().collect())),
    }
}

fn networks(key: &str, given: Option<Vec<String>>) -> Result<Vec<IpNet>, Fault> {
    let network = |text: &String| match text.parse::<IpNet>().or_else(|_| text.parse().map(|ip: IpAddr| ip.into())) {
        Ok(network) => Ok(network),
        Err(_) => fault(key, format!("{text:?} is neither a network such as \"10.0.0.0/8\" nor an address")),
    };
    given.iter().flatten().map(network).collect()
}

fn host((name, to): (String, String)) -> Result<(String, HostAddress), Fault> {
    let key = format!("jobs.artifact.hosts.{name:?}");
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || !name.chars().all(sound) || name.parse::<IpAddr>().is_ok() {
        return fault(key, "is not the name of a host: no port, no scheme, no address");
    }
    match HostAddress::parse(&to) {
        Some(to) => Ok((name.to_ascii_lowercase(), to)),
        None => fault(key, format!("{to:?} is neither an address nor an address with a port, as 192.0.2.1:8080 is")),
    }
}

fn gc(raw: RawGc) -> Result<GcConfig, Fault> {
    let base = GcConfig::default();
    let percent = |key: &str, given: Option<u8>, base: u8| match given {
        Some(n) if !(1..=100).contains(&n) => fault(format!("jobs.gc.{key}"), "must lie within 1 and 100"),
        given => Ok(given.unwrap_or(base)),
    };
    let interval = raw.interval.map_or(base.interval, |span| span.0);
    if interval < Duration::from_secs(1) {
        return fault("jobs.gc.interval", "must be at least 1s");
    }
    let parallel = raw.parallel.unwrap_or(base.parallel);
    if parallel == 0 {
        return fault("jobs.gc.parallel", "must be at least 1");
    }
    Ok(GcConfig {
        interval,
        parallel,
        disk_percent: percent("disk_percent", raw.disk_percent, base.disk_percent)?,
        inode_percent: percent("inode_percent", raw.inode_percent, base.inode_percent)?,
        allocs_max: raw.allocs_max.unwrap_or(base.allocs_max),
    })
}

fn drain(raw: RawDrain) -> Result<DrainOnShutdown, Fault> {
    let (force, deadline) = (raw.force.unwrap_or(false), raw.deadline);
    if force && deadline.is_some() {
        return fault("jobs.drain_on_shutdown.force", "means no wait at all: leave out deadline, or force");
    }
    Ok(DrainOnShutdown {
        deadline: deadline.map_or(DRAIN_DEADLINE, |span| span.0),
        force,
        ignore_system: raw.ignore_system.unwrap_or(false),
    })
}
