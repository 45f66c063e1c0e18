//! The child's part: in its new namespaces, from a copy of the launcher's mounts to a process with nothing left of the host.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use moat_agent::launch::JailConfig;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};
use rustix::process::{Gid, Uid, chdir, fchdir, pivot_root};

use super::mount::{self, INERT, Reach};
use super::tree::{Owner, Tree};
use super::{LaunchError, at};

/// Parts of `/proc` and `/sys` that tell about the host and that no program needs. Absent ones are skipped.
const MASKED: [&str; 13] = [
    "proc/acpi",
    "proc/asound",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/timer_list",
    "proc/timer_stats",
    "sys/devices/virtual/powercap",
    "sys/firmware",
    "sys/fs/selinux",
];

/// Parts of `/proc` that may be read but are also switches. Absent ones are skipped.
const READ_ONLY: [&str; 5] = ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];

/// Group of terminals, as every distribution numbers it.
const TTY_GROUP: &str = "5";

/// Which file systems of the kernel the root gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// All that programs expect of a machine.
    Sandbox,
    /// The processes of its own namespace and nothing of the machine.
    Processes,
    /// Those, and what the kernel says of itself: masked like a sandbox's.
    Kernel,
}

/// Turns this process, whose working directory is the assembled root, into one that has nothing else.
pub fn enter(jail: &JailConfig, shown: Shown) -> Result<(), LaunchError> {
    become_mapped_root()?;
    super::kernel::own_cgroup_root().map_err(|e| LaunchError::new("unshare cgroup view", e))?;
    // The mounts copied into this namespace are locked, and a locked one cannot become a root: a copy of the copy can.
    let empty = openat(CWD, "../empty", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| LaunchError::new("root", e))?;
    let here = openat(CWD, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| LaunchError::new("root", e))?;
    let copy =
        mount::bind(CWD, Path::new("."), Reach::Tree, MountAttrFlags::empty()).map_err(at("root", Path::new(".")))?;
    mount::attach(&copy, here.as_fd()).map_err(at("root", Path::new(".")))?;
    let root = Tree::new(copy, Owner { uid: 0, gid: 0 });
    match shown {
        Shown::Sandbox => kernel_file_systems(&root, There::of(jail))?,
        Shown::Processes => processes(&root)?,
        Shown::Kernel => mounted(&root, "proc", "proc", &[], INERT)?,
    }
    masks(&root, &empty)?;
    leave_the_host(&root)?;
    own_identity(&jail.hostname)?;
    if jail.network.is_none() {
        super::kernel::loopback_up().map_err(|e| LaunchError::new("bring loopback up", e))?;
    }
    Ok(())
}

/// The ids this process had are not mapped; files made with them would be refused. By raw system calls: glibc's own
/// would be fine in a single-threaded process, but its cached state is the parent's.
fn become_mapped_root() -> Result<(), LaunchError> {
    let failed = |e: Errno| LaunchError::new("become root of the user namespace", e);
    rustix::thread::set_thread_groups(&[]).map_err(failed)?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).map_err(failed)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).map_err(failed)
}

/// File systems of the kernel that were shown while the root was built, because they are of somebody else's namespaces.
#[derive(Debug, Clone, Copy, Default)]
pub struct There {
    sys: bool,
    proc: bool,
    mqueue: bool,
}

impl There {
    fn of(jail: &JailConfig) -> Self {
        Self { sys: jail.network.is_some(), proc: jail.host_pid, mqueue: jail.host_ipc }
    }
}

/// File systems that show the namespaces of whoever mounts them, but those that are there.
pub fn kernel_file_systems(root: &Tree, there: There) -> Result<(), LaunchError> {
    let read_only = INERT | MountAttrFlags::MOUNT_ATTR_RDONLY;
    let terminals = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let pts = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", TTY_GROUP)];
    if !there.proc {
        mounted(root, "proc", "proc", &[], INERT)?;
    }
    if !there.sys {
        mounted(root, "sysfs", "sys", &[], read_only)?;
    }
    if !there.mqueue {
        mounted(root, "mqueue", "dev/mqueue", &[], INERT)?;
    }
    mounted(root, "devpts", "dev/pts", &pts, terminals)
}

/// Kernels before 5.8 cannot leave the rest of `/proc` out; there it is masked like a sandbox's.
fn processes(root: &Tree) -> Result<(), LaunchError> {
    mounted(root, "proc", "proc", &[("subset", "pid")], INERT).or_else(|_| mounted(root, "proc", "proc", &[], INERT))
}

fn mounted(
    root: &Tree,
    kind: &str,
    target: &str,
    options: &[(&str, &str)],
    flags: MountAttrFlags,
) -> Result<(), LaunchError> {
    let target = Path::new(target);
    let made = mount::filesystem(kind, options, flags).map_err(at("mount", target))?;
    let place = root.open(target).map_err(at("mount", target))?;
    mount::attach(&made, place.as_fd()).map_err(at("mount", target))
}

/// Covers what [`MASKED`] and [`READ_ONLY`] name.
pub fn masks(root: &Tree, empty: &OwnedFd) -> Result<(), LaunchError> {
    let read_only = INERT | MountAttrFlags::MOUNT_ATTR_RDONLY;
    let nothing = Path::new("");
    for path in MASKED.map(Path::new) {
        let Some(place) = present(root, path)? else { continue };
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&place).map_err(at("mask", path))?.st_mode);
        let cover = if kind.is_dir() {
            mount::bind(empty.as_fd(), nothing, Reach::One, read_only)
        } else {
            mount::bind(root.root(), Path::new("dev/null"), Reach::One, MountAttrFlags::MOUNT_ATTR_RDONLY)
        };
        mount::attach(&cover.map_err(at("mask", path))?, place.as_fd()).map_err(at("mask", path))?;
    }
    for path in READ_ONLY.map(Path::new) {
        let Some(place) = present(root, path)? else { continue };
        let cover = mount::bind(place.as_fd(), nothing, Reach::One, read_only).map_err(at("make read-only", path))?;
        mount::attach(&cover, place.as_fd()).map_err(at("make read-only", path))?;
    }
    Ok(())
}

/// Opens a path of `/proc` or `/sys` if this kernel has it.
fn present(root: &Tree, path: &Path) -> Result<Option<OwnedFd>, LaunchError> {
    match root.open(path) {
        Ok(place) => Ok(Some(place)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(at("mask", path)(e)),
    }
}

/// The copy becomes `/`; everything else this namespace had copied from the host goes.
fn leave_the_host(root: &Tree) -> Result<(), LaunchError> {
    let failed = |e: Errno| LaunchError::new("pivot_root", e);
    fchdir(root.root()).map_err(failed)?;
    // The same directory twice: the old root ends up on top of the new one, and goes from there.
    pivot_root(".", ".").map_err(failed)?;
    unmount(".", UnmountFlags::DETACH).map_err(failed)?;
    chdir("/").map_err(failed)
}

fn own_identity(hostname: &str) -> Result<(), LaunchError> {
    rustix::system::sethostname(hostname.as_bytes())
        .map_err(|e| LaunchError::new("set host name", format!("{hostname}: {e}")))?;
    super::kernel::new_session_keyring().map_err(|e| LaunchError::new("new session keyring", e))
}
