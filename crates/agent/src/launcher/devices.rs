//! `/dev`: a small file system of the sandbox's own, with the harmless devices of the host bound into it.
//!
//! It is made while this process is root of the host, so device nodes in it work; in the sandbox's user namespace nobody can
//! make one.

use std::os::fd::AsFd as _;
use std::path::{Component, Path};

use moat_agent::launch::DeviceNode;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Uid, chmodat, chownat, makedev, mknodat};
use rustix::mount::MountAttrFlags;

use super::mount::{self, INERT, Reach};
use super::tree::{Owner, Tree, below};
use super::{LaunchError, at};

const STAGE: &str = "devices";

/// Devices every sandbox has.
const STOCK: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Devices a program of ours has: no terminal.
const PLAIN: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// Links every `/dev` has.
const LINKS: [(&str, &str); 4] = [
    ("dev/fd", "/proc/self/fd"),
    ("dev/stdin", "/proc/self/fd/0"),
    ("dev/stdout", "/proc/self/fd/1"),
    ("dev/stderr", "/proc/self/fd/2"),
];

/// Room for `/dev` itself: a few links, sockets such as `/dev/log`, no data.
const BYTES: &str = "65536";

/// Files in it.
const FILES: &str = "1024";

/// The size container engines have agreed on.
const SHM_BYTES: &str = "67108864";

/// The usual one of a container.
pub fn give(root: &Tree) -> Result<(), LaunchError> {
    base(root, &STOCK)?;
    let ptmx = Path::new("dev/ptmx");
    root.symlink(ptmx, Path::new("pts/ptmx")).map_err(at(STAGE, ptmx))?;
    for path in ["/dev/pts", "/dev/mqueue"] {
        root.directory(below(Path::new(path)), Mode::from_raw_mode(0o755)).map_err(at(STAGE, Path::new(path)))?;
    }
    let Owner { uid, gid } = root.owner();
    let options = [("size", SHM_BYTES), ("mode", "1777"), ("uid", &*uid.to_string()), ("gid", &*gid.to_string())];
    shown(root, "/dev/shm", &options, INERT)
}

/// That of a program: without terminals and shared memory, and with these nodes, which belong to `user`, a host id.
pub fn give_nodes(root: &Tree, nodes: &[DeviceNode], user: u32) -> Result<(), LaunchError> {
    base(root, &PLAIN)?;
    nodes.iter().try_for_each(|node| make(root, node, user))
}

fn base(root: &Tree, devices: &[&str]) -> Result<(), LaunchError> {
    let Owner { uid, gid } = root.owner();
    let ids = [uid.to_string(), gid.to_string()];
    let [uid, gid] = &ids;
    let options = [("size", BYTES), ("nr_inodes", FILES), ("mode", "0755"), ("uid", uid), ("gid", gid)];
    shown(root, "/dev", &options, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC)?;
    for name in devices {
        let host = Path::new("/dev").join(name);
        let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let copy = mount::bind(CWD, &host, Reach::One, flags).map_err(at(STAGE, &host))?;
        let place = root.file(below(&host)).map_err(at(STAGE, &host))?;
        mount::attach(&copy, place.as_fd()).map_err(at(STAGE, &host))?;
    }
    for (path, to) in LINKS {
        root.symlink(Path::new(path), Path::new(to)).map_err(at(STAGE, Path::new(path)))?;
    }
    Ok(())
}

fn shown(root: &Tree, path: &str, options: &[(&str, &str)], flags: MountAttrFlags) -> Result<(), LaunchError> {
    let path = Path::new(path);
    let made = mount::filesystem("tmpfs", options, flags).map_err(at(STAGE, path))?;
    let place = root.own_directory(below(path), Mode::from_raw_mode(0o755)).map_err(at(STAGE, path))?;
    mount::attach(&made, place.as_fd()).map_err(at(STAGE, path))
}

/// A node of its own, not the host's bound: what the host's permits, and whom it belongs to, changes with the host's rules.
fn make(root: &Tree, node: &DeviceNode, user: u32) -> Result<(), LaunchError> {
    let path = node.path.as_path();
    let inside = path.strip_prefix("/dev").ok().filter(|rest| {
        rest.file_name().is_some() && rest.components().all(|part| matches!(part, Component::Normal(_)))
    });
    let (Some(inside), Some(name)) = (inside, path.file_name()) else {
        return Err(at(STAGE, path)("a device lies below /dev"));
    };
    let parent = Path::new("dev").join(inside.parent().unwrap_or(Path::new("")));
    let parent = root.directory(&parent, Mode::from_raw_mode(0o755)).map_err(at(STAGE, path))?;
    let mode = Mode::from_raw_mode(0o600);
    mknodat(&parent, name, FileType::CharacterDevice, mode, makedev(node.major, node.minor))
        .map_err(at(STAGE, path))?;
    chmodat(&parent, name, mode, AtFlags::empty()).map_err(at(STAGE, path))?;
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(at(STAGE, path))
}
