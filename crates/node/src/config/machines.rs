//! `[guest]`, `[qemu]` and `[firecracker]`: what microVMs boot, how large they are, and what runs them. Members of Nex's JSON
//! and NanoBox's TOML about the same things mean the same things.

use std::path::PathBuf;

use serde::Deserialize;

use super::reference::{Key, key};
use super::service::RawAgent;
use super::span::Size;

/// Room for a guest kernel, an agent and a program that is not picky.
const MEMORY: u64 = 512 << 20;
/// A kernel of a distribution does not come up in less.
const MEMORY_MIN: u64 = 96 << 20;
/// A writable disk is a sparse file: what is not written costs nothing.
const DISK: u64 = 2 << 30;
/// Below this a file system is mostly its own tables.
const DISK_MIN: u64 = 16 << 20;
/// More than either monitor takes.
const VCPUS_MAX: u32 = 32;
/// Templates of CPUs that Firecracker knows by name.
const CPU_TEMPLATES: [&str; 5] = ["T2", "T2S", "T2CL", "T2A", "V1N1"];

/// Names of the drivers that give microVMs, the one with less around it first.
pub const MACHINE_DRIVERS: [&str; 2] = ["firecracker", "qemu"];

/// Everything about microVMs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MachinesConfig {
    /// What they boot, and how large they are.
    pub guest: GuestConfig,
    /// The QEMU driver.
    pub qemu: QemuConfig,
    /// The Firecracker driver.
    pub firecracker: FirecrackerConfig,
    /// Workloads that name no isolation get a microVM wherever hardware runs it, and a container elsewhere: what Nex calls
    /// sandboxed.
    pub preferred: bool,
}

/// What microVMs boot, and how large those are that name no limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestConfig {
    /// What `moat guest build` wrote; `guest` below `data_dir` if absent.
    pub dir: Option<PathBuf>,
    /// Memory.
    pub memory_bytes: u64,
    /// Processors.
    pub vcpus: u32,
    /// Writable disk.
    pub disk_bytes: u64,
    /// Where machines are kept, memory included; `machines` below `data_dir` if absent.
    pub machines_dir: Option<PathBuf>,
}

impl Default for GuestConfig {
    fn default() -> Self {
        Self { dir: None, memory_bytes: MEMORY, vcpus: 1, disk_bytes: DISK, machines_dir: None }
    }
}

/// What executes a guest's instructions under QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// KVM where a guest really runs on it, else translation.
    #[default]
    Auto,
    /// KVM or nothing.
    Kvm,
    /// Translation: everywhere, and slow.
    Tcg,
}

/// The QEMU driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuConfig {
    /// The program: a path, or a name on the path.
    pub program: PathBuf,
    /// What serves roots that outlive their machines; absent: where distributions put it.
    pub virtiofsd: Option<PathBuf>,
    /// What executes the guest's instructions.
    pub accelerator: Accelerator,
}

impl Default for QemuConfig {
    fn default() -> Self {
        let program = format!("qemu-system-{}", std::env::consts::ARCH);
        Self { program: PathBuf::from(program), virtiofsd: None, accelerator: Accelerator::Auto }
    }
}

/// The Firecracker driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirecrackerConfig {
    /// The program: a path, or a name.
    pub program: PathBuf,
    /// Its jailer: a path, or a name.
    pub jailer: PathBuf,
    /// Directories names are looked for in, before the path.
    pub bin_path: Vec<PathBuf>,
    /// An ELF kernel instead of the guest's.
    pub kernel_filepath: Option<PathBuf>,
    /// An ext4 file system instead of an empty one, for sandboxes made of no image.
    pub rootfs_filepath: Option<PathBuf>,
    /// Where those two are looked for, as `vmlinux` and `rootfs.ext4`, if they are not named.
    pub resource_dir: Option<PathBuf>,
    /// Which CPU the guest sees.
    pub cpu_template: Option<CpuTemplate>,
    /// How fast its drives and its link are.
    pub rate_limiters: RateLimiters,
}

impl Default for FirecrackerConfig {
    fn default() -> Self {
        Self {
            program: PathBuf::from("firecracker"),
            jailer: PathBuf::from("jailer"),
            bin_path: Vec::new(),
            kernel_filepath: None,
            rootfs_filepath: None,
            resource_dir: None,
            cpu_template: None,
            rate_limiters: RateLimiters::default(),
        }
    }
}

impl FirecrackerConfig {
    /// Whether microVMs made of no image get a file system of the operator's own.
    pub fn names_rootfs(&self) -> bool {
        self.rootfs_filepath.is_some() || self.resource_dir.is_some()
    }
}

/// Which CPU a Firecracker guest sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CpuTemplate {
    /// One that Firecracker knows.
    Named(String),
    /// One of the operator's own: a JSON file.
    File(PathBuf),
}

/// Token buckets, as Nex and Firecracker write them. Each drive and each direction of a link has buckets of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimiters {
    /// Bytes.
    pub bandwidth: Option<TokenBucket>,
    /// Operations, or packets.
    pub iops: Option<TokenBucket>,
}

/// A token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenBucket {
    /// Tokens there are once, at the start, beyond `size`.
    pub one_time_burst: Option<u64>,
    /// Milliseconds in which an empty bucket is full again.
    pub refill_time: u64,
    /// Tokens it holds.
    pub size: u64,
}

/// `[guest]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawGuest {
    pub dir: Option<PathBuf>,
    pub memory: Option<Size>,
    pub vcpus: Option<u32>,
    pub disk: Option<Size>,
    pub machines_dir: Option<PathBuf>,
}

/// `[qemu]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawQemu {
    pub program: Option<PathBuf>,
    pub virtiofsd: Option<PathBuf>,
    pub accelerator: Option<Accelerator>,
}

/// `[firecracker]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawFirecracker {
    pub program: Option<PathBuf>,
    pub jailer: Option<PathBuf>,
    pub bin_path: Option<Vec<PathBuf>>,
    pub kernel_filepath: Option<PathBuf>,
    pub kernel: Option<PathBuf>,
    pub rootfs_filepath: Option<PathBuf>,
    pub resource_dir: Option<PathBuf>,
    pub cpu_template: Option<String>,
    pub rate_limiters: Option<RateLimiters>,
    pub boot_args: Option<String>,
}

type Fault = (String, String);

fn fault<T>(key: &str, why: impl Into<String>) -> Result<T, Fault> {
    Err((key.to_owned(), why.into()))
}

pub(super) fn guest(raw: RawGuest, agent: &RawAgent) -> Result<GuestConfig, Fault> {
    let base = GuestConfig::default();
    let memory_bytes = raw.memory.map_or(base.memory_bytes, |s| s.0);
    if memory_bytes < MEMORY_MIN || !memory_bytes.is_multiple_of(1 << 20) {
        return fault("guest.memory", "must be at least 96MiB, which a kernel needs to come up, and whole MiB");
    }
    let disk_bytes = raw.disk.map_or(base.disk_bytes, |s| s.0);
    if disk_bytes < DISK_MIN {
        return fault("guest.disk", "must be at least 16MiB");
    }
    let vcpus = raw.vcpus.unwrap_or(base.vcpus);
    if !(1..=VCPUS_MAX).contains(&vcpus) {
        return fault("guest.vcpus", format!("must lie within 1 and {VCPUS_MAX}"));
    }
    let machines_dir =
        either(("guest.machines_dir", raw.machines_dir), ("agent.snapshot_dir", agent.snapshot_dir.clone()))?;
    Ok(GuestConfig { dir: absolute("guest.dir", raw.dir)?, memory_bytes, vcpus, disk_bytes, machines_dir })
}

pub(super) fn qemu(raw: RawQemu) -> Result<QemuConfig, Fault> {
    let base = QemuConfig::default();
    Ok(QemuConfig {
        program: program("qemu.program", raw.program)?.unwrap_or(base.program),
        virtiofsd: absolute("qemu.virtiofsd", raw.virtiofsd)?,
        accelerator: raw.accelerator.unwrap_or(base.accelerator),
    })
}

pub(super) fn firecracker(raw: RawFirecracker, agent: &RawAgent) -> Result<FirecrackerConfig, Fault> {
    let base = FirecrackerConfig::default();
    let named = program("firecracker.program", raw.program)?;
    let nanobox = absolute("agent.firecracker_bin", agent.firecracker_bin.clone())?;
    if let (Some(a), Some(b)) = (&named, &nanobox)
        && a != b
    {
        return fault("agent.firecracker_bin", "means the same as firecracker.program, which says otherwise: give one");
    }
    let mut bin_path = Vec::new();
    for dir in raw.bin_path.unwrap_or_default() {
        bin_path.extend(absolute("firecracker.bin_path", Some(dir))?);
    }
    Ok(FirecrackerConfig {
        program: named.or(nanobox).unwrap_or(base.program),
        jailer: program("firecracker.jailer", raw.jailer)?.unwrap_or(base.jailer),
        bin_path,
        kernel_filepath: either(
            ("firecracker.kernel_filepath", raw.kernel_filepath),
            ("firecracker.kernel", raw.kernel),
        )?,
        rootfs_filepath: absolute("firecracker.rootfs_filepath", raw.rootfs_filepath)?,
        resource_dir: absolute("firecracker.resource_dir", raw.resource_dir)?,
        cpu_template: raw.cpu_template.map(cpu_template).transpose()?,
        rate_limiters: rate_limiters(raw.rate_limiters.unwrap_or_default())?,
    })
}

fn absolute(key: &str, path: Option<PathBuf>) -> Result<Option<PathBuf>, Fault> {
    match path {
        Some(path) if !path.is_absolute() => fault(key, format!("{} is not an absolute path", path.display())),
        path => Ok(path),
    }
}

/// A program: an absolute path, or a name without any slash.
fn program(key: &str, path: Option<PathBuf>) -> Result<Option<PathBuf>, Fault> {
    match path {
        Some(path) if !path.is_absolute() && path.components().count() != 1 => {
            fault(key, format!("{} is neither an absolute path nor a plain name", path.display()))
        }
        path => Ok(path),
    }
}

/// Two keys that mean the same.
fn either(ours: (&str, Option<PathBuf>), theirs: (&str, Option<PathBuf>)) -> Result<Option<PathBuf>, Fault> {
    let (a, b) = (absolute(ours.0, ours.1)?, absolute(theirs.0, theirs.1)?);
    match (&a, &b) {
        (Some(one), Some(other)) if one != other => {
            fault(theirs.0, format!("means the same as {}, which says otherwise: give one", ours.0))
        }
        _ => Ok(a.or(b)),
    }
}

fn cpu_template(text: String) -> Result<CpuTemplate, Fault> {
    if CPU_TEMPLATES.contains(&text.as_str()) {
        Ok(CpuTemplate::Named(text))
    } else if text.starts_with('/') {
        Ok(CpuTemplate::File(PathBuf::from(text)))
    } else {
        let known = CPU_TEMPLATES.join(", ");
        fault("firecracker.cpu_template", format!("{text:?} is none of {known}, nor the absolute path of a JSON file"))
    }
}

fn rate_limiters(given: RateLimiters) -> Result<RateLimiters, Fault> {
    for (name, bucket) in [("bandwidth", given.bandwidth), ("iops", given.iops)] {
        if bucket.is_some_and(|b| b.size == 0 || b.refill_time == 0) {
            let key = format!("firecracker.rate_limiters.{name}");
            return fault(&key, "size and refill_time must be at least 1; leave the bucket out for no limit");
        }
    }
    Ok(given)
}

pub(super) const GUEST: &[Key] = &[
    key(
        "dir",
        "path",
        "`guest` in `data_dir`",
        "Kernel and modules that microVMs boot, as `moat guest build` writes them.",
    ),
    key(
        "memory",
        "size",
        "`512MiB`",
        "Memory of a microVM where neither whoever asks nor `[resources]` says. What the monitor itself needs comes on top.",
    ),
    key("vcpus", "1 to 32", "`1`", "Processors, likewise. A fraction of one is a whole one with a quota."),
    key(
        "disk",
        "size",
        "`2GiB`",
        "Writable disk, likewise: a sparse file in `data_dir`, so that what is not written costs nothing.",
    ),
    key(
        "machines_dir",
        "path",
        "`machines` in `data_dir`",
        "Snapshots that have memory in them. They hold whatever the programs in them knew.",
    ),
];

pub(super) const QEMU: &[Key] = &[
    key("program", "path or name", "`qemu-system-` and the architecture", "The monitor; 7.2 or newer."),
    key(
        "virtiofsd",
        "path",
        "where distributions put it",
        "What serves the roots of jails in machines: QEMU's own (package qemu-system-common of Debian 12) or the later one.",
    ),
    key(
        "accelerator",
        "`auto`, `kvm` or `tcg`",
        "`auto`",
        "What executes the guest's instructions. `auto` takes `kvm` if a guest was seen to come up with it on this host, else `tcg`, which works everywhere and is slow. Replies say which: `microvm/kvm`.",
    ),
];

pub(super) const FIRECRACKER: &[Key] = &[
    key("program", "path or name", "`firecracker`", "The monitor. Which versions: `moat node preflight` says."),
    key("jailer", "path or name", "`jailer`", "Its jailer, of the same version."),
    key("bin_path", "list of paths", "`[]`", "Directories plain names are looked for in, before the path. Nex's."),
    key(
        "kernel_filepath",
        "path",
        "the guest's",
        "An ELF kernel instead of the one in `guest.dir`. It must have built in what the modules there bring. Nex's.",
    ),
    key("kernel", "path", "none", "NanoBox's; the same as `kernel_filepath`."),
    key(
        "rootfs_filepath",
        "path",
        "none",
        "An ext4 file system that microVMs made of no image (`scratch`) get a copy of, instead of an empty one. Nex's.",
    ),
    key(
        "resource_dir",
        "path",
        "none",
        "Where `vmlinux` and `rootfs.ext4` are looked for if those two are not named. Nex's `default_resource_dir`.",
    ),
    key(
        "cpu_template",
        "`T2`, `T2S`, `T2CL`, `T2A`, `V1N1` or path",
        "none",
        "Which CPU guests see, so that snapshots fit on hosts that differ; a path is a template of your own, in JSON.",
    ),
    key(
        "rate_limiters",
        "table",
        "none",
        "Token buckets `bandwidth` (bytes) and `iops` (operations, packets) for each drive and each direction of the link: `{ size, refill_time, one_time_burst }`, the time in milliseconds. Nex's.",
    ),
    key("boot_args", "text", "none", "NanoBox's; no effect (see the end)."),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NodeConfig;

    fn toml(text: &str) -> MachinesConfig {
        NodeConfig::from_toml(text, "moat.toml").unwrap().machines
    }

    #[test]
    fn everything_written_is_what_is_meant() {
        let all = toml(
            "[guest]\ndir = '/g'\nmemory = '256MiB'\nvcpus = 2\ndisk = '1GiB'\nmachines_dir = '/m'\n\
             [qemu]\nprogram = '/usr/bin/qemu'\nvirtiofsd = '/v'\naccelerator = 'tcg'\n\
             [firecracker]\nprogram = '/f'\njailer = 'jailer-1'\nbin_path = ['/opt']\nkernel_filepath = '/k'\n\
             rootfs_filepath = '/r'\ncpu_template = 'T2'\n\
             rate_limiters = { bandwidth = { size = 10, refill_time = 100, one_time_burst = 5 } }",
        );
        assert_eq!(all.guest.dir, Some(PathBuf::from("/g")));
        assert_eq!((all.guest.memory_bytes, all.guest.vcpus, all.guest.disk_bytes), (256 << 20, 2, 1 << 30));
        assert_eq!(all.guest.machines_dir, Some(PathBuf::from("/m")));
        let qemu = QemuConfig {
            program: PathBuf::from("/usr/bin/qemu"),
            virtiofsd: Some(PathBuf::from("/v")),
            accelerator: Accelerator::Tcg,
        };
        assert_eq!(all.qemu, qemu);
        let fc = all.firecracker;
        assert_eq!((fc.program, fc.jailer), (PathBuf::from("/f"), PathBuf::from("jailer-1")));
        assert_eq!((fc.kernel_filepath, fc.rootfs_filepath), (Some("/k".into()), Some("/r".into())));
        assert_eq!((fc.bin_path, fc.cpu_template), (vec!["/opt".into()], Some(CpuTemplate::Named("T2".to_owned()))));
        let bucket = TokenBucket { one_time_burst: Some(5), refill_time: 100, size: 10 };
        assert_eq!(fc.rate_limiters, RateLimiters { bandwidth: Some(bucket), iops: None });
        assert_eq!(toml(""), MachinesConfig::default());
    }

    #[test]
    fn nanoboxs_words_mean_the_same() {
        let config = toml("[agent]\nfirecracker_bin = '/f'\nsnapshot_dir = '/s'\n[firecracker]\nkernel = '/k'");
        assert_eq!(config.firecracker.program, PathBuf::from("/f"));
        assert_eq!(config.firecracker.kernel_filepath, Some("/k".into()));
        assert_eq!(config.guest.machines_dir, Some("/s".into()));
    }
}
