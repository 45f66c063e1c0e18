//! From a machine to the requests that make it. Pure: what is sent, in which order, and nothing else.

use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;
use serde::Serialize;
use serde_json::Value;

use super::api::{
    Balloon, BootSource, Drive, Entropy, Logger, MachineConfig, MemoryBackend, Metrics, NetworkInterface, RateLimiter,
    SnapshotLoad, TokenBucket, Vsock,
};
use super::config::{CpuTemplate, FirecrackerConfig, HugePages};
use super::jail;
use super::version::Version;
use crate::vm::machine::Machine;

/// The only address a guest may have. No two machines meet: each has a socket of its own on the host.
const GUEST_CID: u32 = 3;
/// The link's name for the monitor.
const LINK: &str = "eth0";
/// Bytes of randomness a machine may take from the host in a second. A kernel is seeded with 32 of them.
const ENTROPY_BYTES: u64 = 64 << 10;
/// In milliseconds.
const SECOND: u64 = 1000;

/// What the kernel is told. Nothing that is secret, and nothing that tells one machine from another. No console: what a
/// guest writes to a serial port is read by nobody, and each byte of it would stop the machine.
const BOOT_ARGS: &str =
    "quiet 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd pci=off random.trust_cpu=on reboot=k panic=-1";

/// One request.
#[derive(Debug, Clone, PartialEq)]
pub struct Put {
    /// What is set.
    pub path: String,
    /// To what.
    pub body: Value,
}

fn put(path: impl Into<String>, body: impl Serialize) -> Result<Put> {
    let path = path.into();
    let body = serde_json::to_value(body)
        .map_err(|e| Error::caused_by(ErrorKind::Internal, format!("firecracker: write {path}"), e))?;
    Ok(Put { path, body })
}

/// Where the monitor says what it does: before anything else, also before a machine is loaded, which carries none of it.
fn diagnostics() -> Result<Vec<Put>> {
    let logger =
        Logger { log_path: jail::inside(jail::LOG), level: "Warning", show_level: true, show_log_origin: false };
    Ok(vec![put("/logger", logger)?, put("/metrics", Metrics { metrics_path: jail::inside(jail::METRICS) })?])
}

/// Everything before a machine that boots is started.
pub fn boot(machine: &Machine, config: &FirecrackerConfig) -> Result<Vec<Put>> {
    let mut puts = diagnostics()?;
    puts.push(put("/machine-config", machine_config(machine, config))?);
    if let Some(template) = config.custom_template()? {
        puts.push(Put { path: "/cpu-config".to_owned(), body: template });
    }
    let boot_source = BootSource {
        kernel_image_path: jail::inside(jail::KERNEL),
        initrd_path: jail::inside(jail::INITRAMFS),
        boot_args: BOOT_ARGS.to_owned(),
    };
    puts.push(put("/boot-source", boot_source)?);
    // A guest finds its disks by their order.
    for index in 0..machine.layers.len() {
        let name = jail::layer(index);
        puts.push(put(format!("/drives/{name}"), drive(name, true, config))?);
    }
    puts.push(put(format!("/drives/{}", jail::DISK), drive(jail::DISK.to_owned(), false, config))?);
    if let Some(network) = &machine.network {
        let link = NetworkInterface {
            iface_id: LINK.to_owned(),
            host_dev_name: network.tap.clone(),
            guest_mac: network.mac.map(|byte| format!("{byte:02x}")).join(":"),
            rx_rate_limiter: config.rate_limits.network_rx,
            tx_rate_limiter: config.rate_limits.network_tx,
        };
        puts.push(put(format!("/network-interfaces/{LINK}"), link)?);
    }
    puts.push(put("/vsock", Vsock { guest_cid: GUEST_CID, uds_path: jail::inside(jail::VSOCK_SOCKET) })?);
    let bucket = TokenBucket { size: ENTROPY_BYTES, refill_time: SECOND, one_time_burst: None };
    puts.push(put("/entropy", Entropy { rate_limiter: RateLimiter { bandwidth: Some(bucket), ops: None } })?);
    let balloon =
        Balloon { amount_mib: 0, deflate_on_oom: true, stats_polling_interval_s: config.balloon_statistics_s };
    puts.push(put("/balloon", balloon)?);
    Ok(puts)
}

/// Everything that makes a monitor go on with a machine that was kept, which stands still then.
pub fn load(config: &FirecrackerConfig, version: Version) -> Result<Vec<Put>> {
    let track = config.track_dirty_pages.then_some(true);
    let newer = version.says_track_dirty_pages();
    let load = SnapshotLoad {
        snapshot_path: jail::inside(jail::STATE),
        mem_backend: MemoryBackend { backend_type: "File", backend_path: jail::inside(jail::MEMORY) },
        resume_vm: false,
        enable_diff_snapshots: track.filter(|_| !newer),
        track_dirty_pages: track.filter(|_| newer),
        clock_realtime: (version.has_clock_realtime() && cfg!(target_arch = "x86_64")).then_some(true),
    };
    let mut puts = diagnostics()?;
    puts.push(put("/snapshot/load", load)?);
    Ok(puts)
}

fn machine_config(machine: &Machine, config: &FirecrackerConfig) -> MachineConfig {
    MachineConfig {
        vcpu_count: vcpus(machine.vcpus, config),
        mem_size_mib: machine.memory_bytes >> 20,
        smt: config.smt,
        cpu_template: match &config.cpu_template {
            Some(CpuTemplate::Static(template)) => Some(*template),
            Some(CpuTemplate::Custom(_)) | None => None,
        },
        track_dirty_pages: config.track_dirty_pages,
        huge_pages: match config.huge_pages {
            HugePages::None => None,
            HugePages::TwoMib => Some("2M"),
        },
    }
}

/// With two threads shown for a core, there are whole cores.
pub fn vcpus(asked: u32, config: &FirecrackerConfig) -> u32 {
    if config.smt && asked > 1 { asked.next_multiple_of(2) } else { asked }
}

fn drive(name: String, is_read_only: bool, config: &FirecrackerConfig) -> Drive {
    Drive {
        path_on_host: jail::inside(&name),
        drive_id: name,
        is_root_device: false,
        is_read_only,
        // No disk of a machine outlives the host, so nobody waits for it to be written to the host's disk.
        cache_type: "Unsafe",
        rate_limiter: config.rate_limits.disk,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::path::PathBuf;

    use moat_engine::driver::Place;
    use moat_engine::fabric::NetworkPlace;
    use moat_model::network::{NetworkMode, NetworkSpec};
    use moat_model::spec::{RootLayer, RootSpec};
    use moat_model::{Isolation, Namespace, SandboxId, SandboxSpec, Timestamp};
    use serde_json::json;

    use super::super::config::RateLimits;
    use super::*;

    fn machine(layers: usize, wired: bool) -> Machine {
        let layer = |n: usize| RootLayer { digest: format!("{n:064}"), path: PathBuf::from(format!("/l{n}")) };
        let root = match layers {
            0 => RootSpec::Scratch,
            _ => RootSpec::Layers { layers: (0..layers).map(layer).collect() },
        };
        let mode = if wired { NetworkMode::Internet } else { NetworkMode::Isolated };
        let spec = SandboxSpec::new(Namespace::default_namespace(), Isolation::Microvm, root);
        let spec = SandboxSpec { network: NetworkSpec::new(mode), ..spec };
        let network = wired.then(|| NetworkPlace {
            netns: PathBuf::from("/n"),
            address: Ipv4Addr::new(10, 0, 0, 7),
            gateway: Ipv4Addr::new(10, 0, 0, 1),
            search: String::new(),
            mac: [2, 0, 10, 0, 0, 7],
            gateway_mac: [2, 0, 0, 0, 0, 1],
            tap: "tap0".to_owned(),
        });
        let place = Place {
            id: SandboxId::from_parts(Timestamp::from_millis(0), [0; 10]),
            run_dir: PathBuf::from("/r"),
            data_dir: PathBuf::from("/d"),
            uid_base: 65_536,
            network,
        };
        Machine::new(&place, &spec, &FirecrackerConfig::default().resources).unwrap()
    }

    fn body<'a>(puts: &'a [Put], path: &str) -> &'a Value {
        &puts.iter().find(|put| put.path == path).unwrap().body
    }

    #[test]
    fn disks_are_in_order_and_the_last_is_written_to() {
        let puts = boot(&machine(3, false), &FirecrackerConfig::default()).unwrap();
        let drives: Vec<_> = puts.iter().filter(|put| put.path.starts_with("/drives/")).collect();
        let named: Vec<_> =
            drives.iter().map(|put| (put.path.as_str(), put.body["is_read_only"] == json!(true))).collect();
        let wanted =
            [("/drives/layer0", true), ("/drives/layer1", true), ("/drives/layer2", true), ("/drives/disk", false)];
        assert_eq!(named, wanted);
        assert_eq!(drives[0].body["path_on_host"], "/layer0");
        assert!(drives.iter().all(|put| put.body["is_root_device"] == json!(false)));
        assert_eq!(puts[0].path, "/logger");
        assert!(puts.iter().all(|put| !put.path.contains("mmds") && !put.path.contains("serial")));
    }

    #[test]
    fn limits_are_where_they_were_set_and_nowhere_else() {
        let bucket = |size| TokenBucket { size, refill_time: 100, one_time_burst: Some(7) };
        let limiter = |size| Some(RateLimiter { bandwidth: Some(bucket(size)), ops: None });
        let limits = RateLimits { disk: limiter(1), network_rx: limiter(2), network_tx: None };
        let config = FirecrackerConfig { rate_limits: limits, ..FirecrackerConfig::default() };
        let puts = boot(&machine(1, true), &config).unwrap();
        let of = |size| json!({ "bandwidth": { "size": size, "refill_time": 100, "one_time_burst": 7 } });
        assert_eq!(body(&puts, "/drives/disk")["rate_limiter"], of(1));
        assert_eq!(body(&puts, "/drives/layer0")["rate_limiter"], of(1));
        let link = json!({
            "iface_id": "eth0",
            "host_dev_name": "tap0",
            "guest_mac": "02:00:0a:00:00:07",
            "rx_rate_limiter": of(2),
        });
        assert_eq!(body(&puts, "/network-interfaces/eth0"), &link);
        let isolated = boot(&machine(1, false), &config).unwrap();
        assert!(isolated.iter().all(|put| !put.path.starts_with("/network-interfaces/")));
    }

    #[test]
    fn nothing_that_tells_machines_apart_is_on_the_command_line() {
        let puts = boot(&machine(0, true), &FirecrackerConfig::default()).unwrap();
        let args = body(&puts, "/boot-source")["boot_args"].as_str().unwrap();
        assert!(args.is_ascii() && !args.contains("10.0.0.7") && !args.contains("console="), "{args}");
        assert_eq!(body(&puts, "/vsock"), &json!({ "guest_cid": 3, "uds_path": "/v.sock" }));
    }

    #[test]
    fn what_is_asked_at_load_depends_on_the_version() {
        let config = FirecrackerConfig { track_dirty_pages: true, ..FirecrackerConfig::default() };
        let of = |version: &str| {
            let puts = load(&config, Version::parse(version).unwrap()).unwrap();
            let fields = body(&puts, "/snapshot/load").as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            fields.join(" ")
        };
        let common = "mem_backend resume_vm snapshot_path";
        assert_eq!(of("1.7.0"), format!("enable_diff_snapshots {common}"));
        assert_eq!(of("1.14.0"), format!("{common} track_dirty_pages"));
        let clock = if cfg!(target_arch = "x86_64") { "clock_realtime " } else { "" };
        assert_eq!(of("1.16.0"), format!("{clock}{common} track_dirty_pages"));
    }
}
