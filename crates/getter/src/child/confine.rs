//! What the child gives up before it touches anything from outside.
//!
//! In this order, for each step needs rights that the next takes away: descriptors, a mount namespace in which the staging
//! directory has a path, ids, privileges, resources, paths (Landlock), system calls (seccomp).

#![expect(unsafe_code, reason = "unshare and closing descriptors by number have no safe wrappers")]

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, Scope, path_beneath_rules,
};
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags};
use rustix::process::{Resource, Rlimit, Signal};
use rustix::thread::{Gid, Uid, UnshareFlags};

use super::{Failure, seccomp};
use crate::config::Ids;
use crate::error::FetchErrorKind;
use crate::wire::Order;

/// Programs and what they need to run.
const EXECUTABLE: [&str; 11] = [
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/usr/bin",
    "/usr/lib",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/local/bin",
    "/usr/local/lib",
    "/usr/local/libexec",
];

/// What names, certificates and git need to know.
const READABLE: [&str; 21] = [
    "/etc/resolv.conf",
    "/run/systemd/resolve/stub-resolv.conf",
    "/run/systemd/resolve/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/share/git-core",
    "/etc/passwd",
    "/etc/ssh/ssh_known_hosts",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/dev/urandom",
    "/dev/random",
];

/// Most open descriptors: git's packs and connections.
const DESCRIPTORS: u64 = 512;

/// Most memory: decoders' windows, git's packs.
const MEMORY: u64 = 4 << 30;

/// Where the child works, once it is confined.
#[derive(Debug)]
pub(super) struct Place {
    /// The staging directory.
    pub directory: OwnedFd,
    /// Its path as the child sees it.
    pub path: PathBuf,
}

/// Gives everything up that fetching does not need.
pub(super) fn confine(order: &Order, staging: &OwnedFd) -> Result<Place, Failure> {
    let fail = |what: &str, error: &dyn std::fmt::Display| {
        Failure::new(FetchErrorKind::Child, format!("the fetching child could not {what}: {error}"))
    };
    close_inherited();
    // A group of its own: the parent ends all of it at once.
    rustix::process::setsid().map_err(|e| fail("begin a session", &e))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let path = match order.ids {
        Some(ids) => {
            let path = own_mounts(staging, ids).map_err(|e| fail("get mounts of its own", &e))?;
            become_ids(ids).map_err(|e| fail("give up its ids", &e))?;
            path
        }
        None => order.staging.clone(),
    };
    rustix::thread::set_no_new_privs(true).map_err(|e| fail("give up privileges", &e))?;
    // After the change of ids, which forgets it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| fail("follow its parent", &e))?;
    limit(order).map_err(|e| fail("limit itself", &e))?;
    // Opened by its new path: what is reached through it is below the mount the child was given.
    let directory = File::options()
        .read(true)
        .custom_flags(i32::try_from(rustix::fs::OFlags::DIRECTORY.bits()).unwrap_or(0))
        .open(&path)
        .map_err(|e| fail("open its directory", &e))?;
    rustix::process::fchdir(&directory).map_err(|e| fail("enter its directory", &e))?;
    if order.isolate {
        landlock(order, &path).map_err(|e| fail("restrict its paths", &e))?;
    }
    seccomp::apply().map_err(|e| fail("restrict its system calls", &e))?;
    Ok(Place { directory: directory.into(), path })
}

/// Closes what was inherited by mistake: descriptors without the flag that everything opened or received here has.
fn close_inherited() {
    let numbers: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    for number in numbers {
        // SAFETY: only asked for a flag; a number that is no longer open is an error.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        if rustix::io::fcntl_getfd(borrowed).is_ok_and(|flags| !flags.contains(rustix::io::FdFlags::CLOEXEC)) {
            // SAFETY: nothing in this process owns it, for its flag says that it was not opened here; there is one thread.
            unsafe { rustix::io::close(number) };
        }
    }
}

/// A mount namespace in which the staging directory, below directories only root may enter, has a path that everybody may
/// take, and `/tmp` is nobody's. The user the child becomes has a name, which ssh insists on.
fn own_mounts(staging: &OwnedFd, ids: Ids) -> std::io::Result<PathBuf> {
    // Before the namespace: from another one nothing can be cloned.
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(staging, c"", flags)?;
    // SAFETY: this process has one thread, which shares nothing that a mount namespace would tear apart.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("moat", "/tmp", "tmpfs", flags, c"size=64k,nr_inodes=16,mode=0755")?;
    let path = Path::new("/tmp/fetch");
    std::fs::create_dir(path)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&tree, c"", rustix::fs::CWD, path, flags)?;
    let Ids { uid, gid } = ids;
    std::fs::write("/tmp/passwd", format!("root:x:0:0::/:/bin/false\ngetter:x:{uid}:{gid}::/tmp/fetch:/bin/false\n"))?;
    std::fs::set_permissions("/tmp/passwd", std::fs::Permissions::from_mode(0o644))?;
    rustix::mount::mount_bind("/tmp/passwd", "/etc/passwd")?;
    Ok(path.to_owned())
}

fn become_ids(Ids { uid, gid }: Ids) -> std::io::Result<()> {
    if uid == 0 || gid == 0 {
        return Err(std::io::Error::other("they must be nobody's, not root's"));
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    // Whoever could go back has given nothing up.
    if rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).is_ok() {
        return Err(std::io::Error::other("root came back"));
    }
    Ok(())
}

fn limit(order: &Order) -> std::io::Result<()> {
    let set =
        |resource, most: u64| rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
    let largest = order.limits.http_max_size.max(order.limits.unpacked_size);
    set(Resource::Core, 0)?;
    set(Resource::Nofile, DESCRIPTORS)?;
    set(Resource::Fsize, largest.saturating_add(1 << 20))?;
    set(Resource::Data, MEMORY)?;
    Ok(())
}

/// Only what is listed can be opened. On kernels that know less, as much of it as they know.
fn landlock(order: &Order, staging: &Path) -> Result<(), landlock::RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    // Nothing that was fetched is executed, and neither devices nor sockets are made.
    let not_here = AccessFs::Execute
        | AccessFs::MakeChar
        | AccessFs::MakeBlock
        | AccessFs::MakeFifo
        | AccessFs::MakeSock
        | AccessFs::IoctlDev;
    let all: BitFlags<AccessFs> = AccessFs::from_all(ABI::V6);
    let extra = order.extra_paths.iter().chain(order.ssh_known_hosts.iter());
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        // Without a rule for it: nothing here listens.
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()?
        .add_rules(path_beneath_rules(EXECUTABLE, read | AccessFs::Execute))?
        .add_rules(path_beneath_rules(READABLE, read))?
        .add_rules(path_beneath_rules(extra, read))?
        .add_rules(path_beneath_rules(["/dev/null"], AccessFs::ReadFile | AccessFs::WriteFile))?
        .add_rules(path_beneath_rules([staging], all & !not_here))?
        .restrict_self()
        .map(drop)
}
