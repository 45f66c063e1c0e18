//! Virtual machines: what we add to the time a kernel takes, what going on saves, what each costs, and claims of ready ones.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use moat_api::rest::sandbox::{CreateSandbox, Pause, PauseTo, ResourceLimits, Resume};
use moat_testkit::{Machines, machines_alone, wait_until};
use serde_json::Value;

use super::node::Node;
use crate::samples::Sample;

/// From the request to the answer: the agent answers, and the machine is what was asked for.
pub const BOOT: &str = "moat: POST /sandboxes, a microVM booted";
/// From starting QEMU to the agent's word on the console.
pub const BY_HAND: &str = "QEMU by hand, same kernel and initramfs";
/// A machine whose memory lay on disk, until it answers again.
pub const RESTORE: &str = "moat: POST …/resume, memory from disk";
const STOW: &str = "moat: POST …/pause, memory to disk";
/// What a machine at rest costs the host.
const MEMORY: &str = "moat: memory of an idle machine of 128 MiB (PSS of its monitor)";
/// A create that finds a machine ready.
pub const CLAIM: &str = "moat: POST /sandboxes, a microVM from the pool";
const COLD: &str = "moat: POST /sandboxes, a microVM, pool empty";

/// An emulated machine takes seconds: few rounds, each of which is far above the noise.
const ROUNDS: usize = 8;
const CLAIMS: usize = 30;
const MEMORY_MB: u64 = 128;
/// An emulated kernel on a loaded machine, with room.
const BOOT_WITHIN: Duration = Duration::from_secs(300);
/// What the agent writes when it waits to be told what it is.
const READY: &str = "NANOBOX_READY";

/// Boots, ours and by hand in turn; each of ours goes to disk and back once.
pub async fn boot() -> anyhow::Result<Vec<Sample>> {
    let stands_on = stands_on("T8")?;
    let node = Node::start_with_top(TOP, &config(&stands_on, "")).await?;
    let mut samples = Vec::new();
    for round in 0..=ROUNDS {
        let begin = Instant::now();
        let sandbox = node.rest.create(&request()).await?;
        let booted = begin.elapsed();
        ensure!(sandbox.isolation == "microvm/tcg", "given {}", sandbox.isolation);
        let vmm = vmm_of(&node.run_dir(), &sandbox.id)?;
        let (memory, ours) = (pss_kib(vmm)?, command_line(vmm)?);
        let begin = Instant::now();
        node.rest.pause(&sandbox.id, &Pause { to: PauseTo::Disk }).await?;
        let stowed = begin.elapsed();
        let begin = Instant::now();
        node.rest.resume(&sandbox.id, &Resume::default()).await?;
        let restored = begin.elapsed();
        node.rest.delete(&sandbox.id).await?;
        let by_hand = by_hand(&stands_on, &initramfs(&node.data_dir())?, &ours)?;
        // The first round fills the page cache with the kernel, the initramfs and QEMU itself.
        if round > 0 {
            samples.push(Sample::time("T8", BOOT, booted));
            samples.push(Sample::time("T8", BY_HAND, by_hand));
            samples.push(Sample::time("T8", STOW, stowed));
            samples.push(Sample::time("T8", RESTORE, restored));
            samples.push(Sample::new("T8", MEMORY, "MiB", memory as f64 / 1024.0));
        }
    }
    node.end().await?;
    Ok(samples)
}

/// Creates that a machine of the pool serves.
pub async fn warm() -> anyhow::Result<Vec<Sample>> {
    let stands_on = stands_on("T1v")?;
    let pool = "[pool]\nreplenish_interval_sec = 1\n[[pool.templates]]\nname = \"scratch\"\nmin_ready = 2\nmax_ready = 2\n\
                isolation = \"microvm\"\n";
    let node = Node::start_with_top(TOP, &config(&stands_on, pool)).await?;
    let mut samples = Vec::new();
    for _ in 0..CLAIMS {
        let ready = async || node.rest.stats().await.ok().filter(|stats| stats.pool_ready > 1).map(drop);
        wait_until(BOOT_WITHIN, "a machine is ready", ready).await?;
        let begin = Instant::now();
        let sandbox = node.rest.create(&request()).await?;
        samples.push(Sample::time("T1v", if sandbox.from_pool { CLAIM } else { COLD }, begin.elapsed()));
        node.rest.delete(&sandbox.id).await?;
    }
    node.end().await?;
    Ok(samples)
}

/// What stands before the tables of the node's configuration.
const TOP: &str = "drivers = [\"container\", \"qemu\"]\nagent_start_timeout = \"240s\"\n";

fn config(stands_on: &Machines, more: &str) -> String {
    let (qemu, guest) = (&stands_on.qemu, &stands_on.guest);
    let sizes = format!("memory = \"{MEMORY_MB}MiB\"\ndisk = \"64MiB\"\n");
    format!("[qemu]\nprogram = {qemu:?}\naccelerator = \"tcg\"\n[guest]\ndir = {guest:?}\n{sizes}{more}")
}

fn stands_on(id: &str) -> anyhow::Result<Machines> {
    machines_alone(id).context("no QEMU, no guest, or not root")
}

fn request() -> CreateSandbox {
    CreateSandbox {
        template: Some("scratch".to_owned()),
        isolation: Some("microvm".to_owned()),
        resources: ResourceLimits { memory_mb: Some(MEMORY_MB), disk_mb: Some(64), ..ResourceLimits::default() },
        ..CreateSandbox::default()
    }
}

/// The kernel and the initramfs that ours boots, in the machine that ours is, until the agent in it is as far. Which machine,
/// accelerator, processor and line of the kernel: `ours`, the command line of one that the driver started.
fn by_hand(stands_on: &Machines, initramfs: &Path, ours: &[String]) -> anyhow::Result<Duration> {
    let mut command = Command::new(&stands_on.qemu);
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-monitor", "none"]);
    for name in ["-machine", "-accel", "-cpu", "-smp", "-m", "-append"] {
        let at = ours.iter().position(|word| word == name).with_context(|| format!("ours has no {name}"))?;
        command.arg(name).arg(ours.get(at + 1).context("and nothing behind it")?);
    }
    let serial = ours.iter().find_map(|word| word.split(',').next().filter(|w| w.starts_with("virtio-serial-")));
    command.args(["-serial", "stdio", "-device", serial.context("ours has no line to its agent")?]);
    command.args(["-chardev", "null,id=agent", "-device", "virtserialport,chardev=agent,name=moat.agent,nr=1"]);
    command.arg("-kernel").arg(stands_on.guest.join("vmlinux")).arg("-initrd").arg(initramfs);
    let begin = Instant::now();
    let mut qemu = Running(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start QEMU")?);
    let console = qemu.0.stdout.take().context("QEMU's console")?;
    let mut said = String::new();
    for line in BufReader::new(console).split(b'\n') {
        said += &(String::from_utf8_lossy(&line.context("read the console")?) + "\n");
        if said.contains(READY) {
            return Ok(begin.elapsed());
        }
    }
    bail!("the machine started by hand ended: {said}")
}

/// The words a process was started with.
fn command_line(pid: u64) -> anyhow::Result<Vec<String>> {
    let text = fs::read(format!("/proc/{pid}/cmdline")).context("read the monitor's command line")?;
    Ok(text.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect())
}

/// A process that does not outlive whoever watches it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Every file below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            _ => found.push(entry.path()),
        }
    }
    found
}

/// The initramfs the node made for its machines.
fn initramfs(data_dir: &Path) -> anyhow::Result<PathBuf> {
    let ours = |path: &PathBuf| {
        path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("initramfs-")) && path.extension().is_some()
    };
    files(data_dir).into_iter().find(ours).context("the node has made no initramfs")
}

/// The process that is a machine.
fn vmm_of(run_dir: &Path, id: &str) -> anyhow::Result<u64> {
    let ours = |path: &PathBuf| path.ends_with("vmm.json") && path.to_string_lossy().contains(id);
    let path = files(run_dir).into_iter().find(ours).context("the driver wrote down no monitor")?;
    let text: Value = serde_json::from_slice(&fs::read(path)?)?;
    text.pointer("/process/pid").and_then(Value::as_u64).context("vmm.json: no pid")
}

/// What a process has of the memory, shared pages counted in parts.
pub(super) fn pss_kib(pid: u64) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("read the monitor's memory")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Whether a boot costs little more than by hand, and going on much less.
pub fn kept(of: &super::Lookup) -> Option<bool> {
    let (ours, by_hand, restore) = (of(BOOT)?.p50, of(BY_HAND)?.p50, of(RESTORE)?.p50);
    Some(ours <= 1.05 * by_hand && restore <= 0.2 * ours)
}
