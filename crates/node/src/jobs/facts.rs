//! What this node says of itself to those who place jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use moat_model::NodeId;
use moat_model::job::cluster::{Capacity, HostVolume};
use moat_model::job::{NodeFacts, TaskDriver};
use rustix::system::uname;

use crate::config::JobsConfig;

/// MHz of a core nobody says anything of.
const MHZ: u64 = 1000;
/// Bytes of one MiB.
const MIB: u64 = 1 << 20;

/// Reads what there is. Blocking. `offered` are the drivers that work here.
pub fn facts(
    id: &NodeId,
    name: &str,
    config: &JobsConfig,
    offered: &BTreeSet<TaskDriver>,
    data_dir: &Path,
    http: Option<String>,
) -> NodeFacts {
    let machine = Machine::read(data_dir);
    let mut attributes = machine.attributes();
    for driver in config.drivers.iter().filter(|driver| offered.contains(driver)) {
        attributes.insert(format!("driver.{}", driver.as_str()), "1".to_owned());
    }
    attributes.insert("moat.version".to_owned(), crate::verbs::VERSION.to_owned());
    let writable = |volume: &crate::config::jobs::HostVolumeConfig| HostVolume { read_only: volume.read_only };
    let ports = config.reserved.ports.iter().flat_map(|range| range.first()..=range.last());
    NodeFacts {
        id: id.clone(),
        name: name.to_owned(),
        datacenter: config.datacenter.clone(),
        region: config.region.clone(),
        class: config.class.clone(),
        pool: config.pool.clone(),
        attributes,
        meta: config.meta.clone(),
        capacity: machine.capacity(config),
        host_volumes: config.host_volumes.iter().map(|(name, volume)| (name.clone(), writable(volume))).collect(),
        reserved_ports: ports.collect(),
        version: crate::verbs::VERSION.to_owned(),
        http,
    }
}

struct Machine {
    cores: u64,
    mhz: u64,
    memory: u64,
    disk: u64,
}

impl Machine {
    fn read(data_dir: &Path) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |n| u64::try_from(n.get()).unwrap_or(1));
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let disk = rustix::fs::statvfs(data_dir).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        Self { cores, mhz: mhz(&info), memory: kib(&meminfo, "MemTotal:").saturating_mul(1024), disk }
    }

    fn attributes(&self) -> BTreeMap<String, String> {
        let system = uname();
        let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let mut all = BTreeMap::from([
            ("kernel.name".to_owned(), text(system.sysname()).to_lowercase()),
            ("kernel.version".to_owned(), text(system.release())),
            ("kernel.arch".to_owned(), text(system.machine())),
            ("cpu.arch".to_owned(), arch.to_owned()),
            ("cpu.numcores".to_owned(), self.cores.to_string()),
            ("cpu.frequency".to_owned(), self.mhz.to_string()),
            ("cpu.totalcompute".to_owned(), (self.cores * self.mhz).to_string()),
            ("memory.totalbytes".to_owned(), self.memory.to_string()),
            ("unique.hostname".to_owned(), text(system.nodename())),
            ("unique.storage.bytesfree".to_owned(), self.disk.to_string()),
            ("os.name".to_owned(), field(&release, "ID").unwrap_or_else(|| "linux".to_owned())),
            ("os.version".to_owned(), field(&release, "VERSION_ID").unwrap_or_default()),
        ]);
        if let Some(address) = address() {
            all.insert("unique.network.ip-address".to_owned(), address);
        }
        all
    }

    fn capacity(&self, config: &JobsConfig) -> Capacity {
        let cores = config.capacity.cores.as_deref().map_or(self.cores, count);
        let reserved_cores = config.reserved.cores.as_deref().map_or(0, count);
        let left = |have: u64, reserved: u64| have.saturating_sub(reserved);
        let mhz = config.capacity.cpu_mhz.unwrap_or(self.cores * self.mhz);
        let taken = config.reserved.cpu_mhz + reserved_cores * self.mhz;
        Capacity {
            cpu_mhz: left(mhz, taken),
            cores: u32::try_from(left(cores, reserved_cores)).unwrap_or(u32::MAX),
            memory_mb: left(config.capacity.memory_bytes.unwrap_or(self.memory), config.reserved.memory_bytes) / MIB,
            disk_mb: left(config.capacity.disk_bytes.unwrap_or(self.disk), config.reserved.disk_bytes) / MIB,
        }
    }
}

/// The address packets to elsewhere would leave from. Nothing is sent.
fn address() -> Option<String> {
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect(("192.0.2.1", 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified()).then(|| address.to_string())
}

fn mhz(cpuinfo: &str) -> u64 {
    let lines = cpuinfo.lines().filter(|line| line.starts_with("cpu MHz"));
    let values = lines.filter_map(|line| line.split(':').nth(1)?.trim().split('.').next()?.parse::<u64>().ok());
    values.max().filter(|mhz| *mhz > 0).unwrap_or(MHZ)
}

fn kib(meminfo: &str, name: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn field(release: &str, name: &str) -> Option<String> {
    let line = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    Some(line.trim_matches('"').to_owned())
}

/// How many a list like `0-3,5` holds.
fn count(list: &str) -> u64 {
    let part = |part: &str| match part.split_once('-') {
        Some((first, last)) => match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
            (Ok(first), Ok(last)) if first <= last => last - first + 1,
            _ => 0,
        },
        None => u64::from(part.trim().parse::<u64>().is_ok()),
    };
    list.split(',').map(part).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_read() {
        assert_eq!(mhz("processor : 0\ncpu MHz\t\t: 2450.123\ncpu MHz : 3000.0\n"), 3000);
        assert_eq!(mhz("no such line"), MHZ);
        assert_eq!(kib("MemTotal:       16384 kB\nMemFree: 1 kB\n", "MemTotal:"), 16384);
        assert_eq!(field("NAME=\"X\"\nID=debian\nVERSION_ID=\"12\"\n", "VERSION_ID"), Some("12".to_owned()));
        assert_eq!([count("0-3,5"), count(""), count("7"), count("3-1")], [5, 0, 1, 0]);
    }

    #[test]
    fn what_is_reserved_is_not_offered() {
        let machine = Machine { cores: 8, mhz: 2000, memory: 1 << 30, disk: 10 << 30 };
        let mut config = JobsConfig::default();
        config.reserved.cores = Some("0-1".to_owned());
        config.reserved.memory_bytes = 1 << 29;
        let capacity = machine.capacity(&config);
        assert_eq!((capacity.cpu_mhz, capacity.cores, capacity.memory_mb), (12_000, 6, 512));
    }

    #[test]
    fn drivers_are_told_that_are_configured_and_work() {
        let id = NodeId::parse(&format!("N{}", "A".repeat(55))).unwrap();
        let told = |config: &JobsConfig, offered: &[TaskDriver]| {
            let offered = offered.iter().copied().collect();
            let facts = facts(&id, "one", config, &offered, Path::new("/"), None);
            let names = facts.attributes.into_keys().filter_map(|name| Some(name.strip_prefix("driver.")?.to_owned()));
            names.collect::<Vec<_>>()
        };
        let all = JobsConfig::default();
        assert_eq!(told(&all, &[TaskDriver::Exec, TaskDriver::Microvm]), ["exec", "microvm"]);
        assert_eq!(told(&all, &[TaskDriver::Exec, TaskDriver::RawExec]), ["exec", "raw_exec"]);
        let denied = JobsConfig { drivers: vec![TaskDriver::Exec], ..JobsConfig::default() };
        assert_eq!(told(&denied, &[TaskDriver::Exec, TaskDriver::RawExec, TaskDriver::Microvm]), ["exec"]);
    }
}
