//! QEMU in a jail of its own.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use moat_agent::launch::{
    BindConfig, DeviceNode, HostPath, JailConfig, JailNetwork, LaunchConfig, Payload, ProgramConfig, ShownIds,
};
use moat_agent::protocol::machine::CONSOLE_READY;
use moat_engine::driver::VMM_UID;
use moat_engine::error::{Error, Result};
use moat_engine::fabric::NetworkPlace;
use moat_model::ErrorKind;
use serde_json::json;

use super::accelerator::Accelerator;
use super::arguments::{CONSOLE, CONSOLE_LEN, INITRAMFS, KERNEL, Shape};
use super::config::QemuConfig;
use super::host::Found;
use super::qmp::Qmp;
use crate::linux::agent_binary::AgentBinary;
use crate::linux::cgroup::{Hierarchy, Limits};
use crate::linux::directory::{make_private_dir, remove_dir};
use crate::linux::identity::ProcessIdentity;
use crate::linux::launch::{LaunchError, launch, listen};
use crate::linux::seccomp;
use crate::vm::endpoint::said;

/// Numbers of `/dev/kvm`, the same everywhere.
pub(super) const KVM: (u32, u32) = (10, 232);
/// What the root of the jail holds besides what is shown in it: names.
const JAIL_BYTES: u64 = 1 << 20;
/// Descriptors QEMU opens: its threads' events, its libraries while it starts.
const NOFILE: u64 = 1024;
/// Threads: processors, the main loop, and those that read and write disks, of which it starts up to 64.
pub(super) const PIDS_MAX: u32 = 256;
/// What QEMU and its state in the kernel take beside the guest's memory: an estimate, for no KVM here runs a
/// stock guest to measure it with.
pub(super) const OVERHEAD_KVM: u64 = 64 << 20;
/// With emulation its buffer of translated code comes on top, 64 MiB, and what it notes of each page.
pub(super) const OVERHEAD_TCG: u64 = 192 << 20;
/// What a kept state may take beside the guest's memory: devices.
const STATE_EXTRA: u64 = 256 << 20;
/// A stock guest takes a second where KVM runs it.
const TRIAL_WITHIN: Duration = Duration::from_secs(15);
/// Between two looks at the console.
const TRIAL_PAUSE: Duration = Duration::from_millis(50);
/// Range of ids of the trial's jail: above those sandboxes are given, and there is one trial at a time.
const TRIAL_UID_BASE: u32 = 0x7fff_0000;
/// Memory of the trial's guest.
const TRIAL_MEMORY: u64 = 256 << 20;

/// What starts QEMU.
#[derive(Debug, Clone)]
pub(super) struct Launcher {
    pub binary: AgentBinary,
    pub hierarchy: Hierarchy,
}

/// Where and with what.
#[derive(Debug)]
pub(super) struct Start<'a> {
    pub shape: &'a Shape,
    pub run_dir: &'a Path,
    pub log: PathBuf,
    pub uid_base: u32,
    pub cgroup: &'a str,
    /// Read-only layers, then the disk.
    pub disks: Vec<PathBuf>,
    pub disk_bytes: u64,
    /// The line to whoever serves its root.
    pub files: Option<OwnedFd>,
    pub network: Option<&'a NetworkPlace>,
}

/// Where QEMU is told things.
pub(super) fn control_socket(run_dir: &Path) -> PathBuf {
    run_dir.join("qmp.sock")
}

/// Where the agent is reached.
pub(super) fn agent_socket(run_dir: &Path) -> PathBuf {
    run_dir.join("agent.sock")
}

impl Launcher {
    /// Starts it in its jail; returns when it was executed.
    pub async fn start(&self, config: &QemuConfig, found: &Found, mut start: Start<'_>) -> Result<ProcessIdentity> {
        let files = start.files.take();
        let start = &start;
        let mount_point = start.run_dir.join("root");
        make_private_dir(&mount_point)?;
        let jail = jail(config, found, start, mount_point)?;
        let mut descriptors = descriptors(start)?;
        descriptors.extend(files);
        let launched = launch(&self.binary, &self.launch_config(found, start, jail)?, descriptors).await;
        let launched = launched.map_err(|e| launch_failed(e, &start.log))?;
        for note in &launched.notes {
            tracing::warn!(cgroup = start.cgroup, "{note}");
        }
        Ok(launched.identity)
    }

    fn launch_config(&self, found: &Found, start: &Start<'_>, jail: JailConfig) -> Result<LaunchConfig> {
        let devices = match start.shape.accelerator {
            Accelerator::Kvm => {
                let (major, minor) = KVM;
                vec![DeviceNode { path: PathBuf::from("/dev/kvm"), major, minor }]
            }
            Accelerator::Tcg => Vec::new(),
        };
        let state_max = start.shape.memory_bytes + STATE_EXTRA;
        Ok(LaunchConfig {
            cgroup_procs: self.hierarchy.procs_files(start.cgroup),
            jail: Some(jail),
            payload: Payload::Program(ProgramConfig {
                path: found.program.clone(),
                args: start.shape.arguments(),
                uid: VMM_UID,
                serves: None,
                descriptors: start.shape.descriptors(),
                tap: start.network.map(|network| network.tap.clone()),
                devices,
                seccomp: seccomp::default_filters(0)?,
                nofile: NOFILE,
                file_bytes_max: Some(start.disk_bytes.max(state_max)),
            }),
        })
    }

    /// Boots a stock guest with KVM and says how long it took until its agent spoke, in milliseconds. Blocks, with a runtime of
    /// its own: it happens before there is anything else to do.
    pub fn try_kvm(&self, config: &QemuConfig, found: &Found) -> Result<u128> {
        let failed = |e: std::io::Error| Error::caused_by(ErrorKind::Internal, "try KVM", e);
        std::thread::scope(|scope| {
            let trial = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
                runtime.block_on(self.trial(config, found))
            });
            trial.join().unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "try KVM: the thread ended")))
        })
    }

    async fn trial(&self, config: &QemuConfig, found: &Found) -> Result<u128> {
        let run_dir = config.run_dir.join("kvm-trial");
        let cgroup = "kvm-trial";
        remove_dir(&run_dir)?;
        make_private_dir(&run_dir)?;
        self.hierarchy.remove(cgroup).await?;
        let limits =
            Limits { memory_bytes: Some(TRIAL_MEMORY + OVERHEAD_KVM), pids_max: Some(PIDS_MAX), ..Limits::default() };
        self.hierarchy.create(cgroup, &limits)?;
        let shape = Shape {
            accelerator: Accelerator::Kvm,
            memory_bytes: TRIAL_MEMORY,
            vcpus: 1,
            layers: 0,
            disk: false,
            served: false,
            mac: None,
            incoming: false,
        };
        let start = Start {
            shape: &shape,
            run_dir: &run_dir,
            log: run_dir.join("vmm.log"),
            uid_base: TRIAL_UID_BASE,
            cgroup,
            disks: Vec::new(),
            disk_bytes: 0,
            files: None,
            network: None,
        };
        let seen = self.boot_once(config, found, start).await;
        self.hierarchy.remove(cgroup).await?;
        remove_dir(&run_dir)?;
        seen
    }

    async fn boot_once(&self, config: &QemuConfig, found: &Found, start: Start<'_>) -> Result<u128> {
        let (began, run_dir, log) = (Instant::now(), start.run_dir, start.log.clone());
        self.start(config, found, start).await?;
        let ready = async {
            let mut qmp = Qmp::connect(&control_socket(run_dir)).await?;
            let mut text = String::new();
            loop {
                text += &console(&mut qmp).await?;
                if text.contains(CONSOLE_READY) {
                    return Ok::<_, Error>(began.elapsed().as_millis());
                }
                tokio::time::sleep(TRIAL_PAUSE).await;
            }
        };
        match tokio::time::timeout(TRIAL_WITHIN, ready).await {
            Ok(Ok(millis)) => Ok(millis),
            Ok(Err(e)) => Err(Error::caused_by(ErrorKind::Unsupported, format!("QEMU ended{}", said(&log)), e)),
            Err(_) => {
                let why = format!("not up after {} s", TRIAL_WITHIN.as_secs());
                Err(Error::new(ErrorKind::Unsupported, why))
            }
        }
    }
}

/// What the guest's console said since it was last asked; bounded by the console's memory.
pub(super) async fn console(qmp: &mut Qmp) -> Result<String> {
    let asked = json!({ "device": CONSOLE, "size": CONSOLE_LEN, "format": "base64" });
    let answer = qmp.run("ringbuf-read", asked).await?;
    Ok(String::from_utf8_lossy(&base64(answer.as_str().unwrap_or_default())).into_owned())
}

/// What does not belong to the code is passed over.
fn base64(text: &str) -> Vec<u8> {
    let value = |letter: u8| match letter {
        b'A'..=b'Z' => Some(letter - b'A'),
        b'a'..=b'z' => Some(letter - b'a' + 26),
        b'0'..=b'9' => Some(letter - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut held, mut bits) = (0_u32, 0);
    for sextet in text.bytes().filter_map(value) {
        held = (held << 6 | u32::from(sextet)) & 0xffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits & 0xff) as u8);
        }
    }
    bytes
}

fn jail(config: &QemuConfig, found: &Found, start: &Start<'_>, mount_point: PathBuf) -> Result<JailConfig> {
    let shown = |source: &Path, target: &str| BindConfig {
        source: source.to_owned(),
        target: PathBuf::from(target),
        read_only: true,
        exec: false,
        ids: ShownIds::Foreign,
    };
    let mut host_paths = config.host_paths.clone();
    if !host_paths.iter().any(|path| found.program.starts_with(path)) {
        host_paths.push(found.program.clone());
    }
    Ok(JailConfig {
        hostname: "vmm".to_owned(),
        uid_base: start.uid_base,
        mount_point,
        writable_bytes: JAIL_BYTES,
        layers: Vec::new(),
        host_paths: host_paths.into_iter().map(|path| HostPath { source: path.clone(), target: path }).collect(),
        binds: vec![shown(&found.boot.guest.kernel(), KERNEL), shown(&found.boot.initramfs, INITRAMFS)],
        secrets_bytes: 0,
        host_pid: false,
        host_ipc: false,
        lasting: None,
        network: start.network.map(|network| JailNetwork {
            netns: network.netns.clone(),
            address: network.address,
            resolver: network.gateway,
            search: network.search.clone(),
            name: None,
        }),
    })
}

/// The log, both sockets, the disks.
fn descriptors(start: &Start<'_>) -> Result<Vec<OwnedFd>> {
    let failed = |path: &Path| {
        let doing = format!("open {} for the machine", path.display());
        move |e: std::io::Error| {
            let kind = if e.kind() == std::io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Internal };
            Error::caused_by(kind, doing, e)
        }
    };
    let log = File::options().append(true).create(true).mode(0o600).open(&start.log).map_err(failed(&start.log))?;
    let mut all = vec![OwnedFd::from(log)];
    for socket in [control_socket(start.run_dir), agent_socket(start.run_dir)] {
        all.push(listen(&socket).map_err(failed(&socket))?);
    }
    for (index, path) in start.disks.iter().enumerate() {
        let writable = index >= start.shape.layers as usize;
        all.push(File::options().read(true).write(writable).open(path).map_err(failed(path))?.into());
    }
    Ok(all)
}

fn launch_failed(error: LaunchError, log: &Path) -> Error {
    let kind = error.kind();
    Error::caused_by(kind, format!("start QEMU{}", said(log)), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_a_console() {
        for (text, bytes) in
            [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmE=", "fooba"), ("Z\nm9v", "foo")]
        {
            assert_eq!(base64(text), bytes.as_bytes(), "{text}");
        }
        assert_eq!(base64("/+8="), [0xff, 0xef]);
    }
}
