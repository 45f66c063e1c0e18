//! Assembling a container's root, in the launcher's own mount namespace and the host's user namespace.
//!
//! Everything the sandbox may write lies in one tmpfs of limited size on the jail's mount point:
//!
//! ```text
//! <mount point>/            tmpfs
//!   root/                   what becomes `/`
//!   layers/<n>/upper, work  private layer over the n-th host directory; out of the sandbox's reach
//!   lower/<n>, upper, work  shared layers of an image and the private one over them ([`super::layers`]), unless that lasts
//!   alloc/, local/, names/  shown over a root: not part of what is changed in it
//!   empty/                  what masked directories show
//! ```
//!
//! Mounts made here are locked when they are copied into the sandbox's mount namespace, which belongs to another user
//! namespace: nothing in there can unmount them or take their flags away, whatever capabilities it was given.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use moat_agent::launch::{HostPath, JailConfig};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MountAttrFlags, MountPropagationFlags, mount_change};

use super::layers::Stack;
use super::mount::{self, INERT, Reach};
use super::tree::{Owner, Tree, below};
use super::{LaunchError, at, binds, devices, layers};

/// `/private` holds what the agent may need to keep from programs: small files.
const PRIVATE_BYTES: u64 = 1 << 20;

/// A tmpfs of secrets holds few and small files.
const SECRET_FILES: &str = "1024";

/// A file of a tmpfs costs kernel memory even if it is empty. One for each page of its size is the kernel's own ratio.
const BYTES_PER_INODE: u64 = 4096;
const INODES_MIN: u64 = 4096;

/// What came of it.
#[derive(Debug)]
pub struct Assembled {
    /// What the operator should know: what is shown in another way than asked.
    pub notes: Vec<String>,
    /// The directory that holds everything the sandbox changes in its root, if it is one.
    pub changes: Option<OwnedFd>,
}

/// Builds the root and makes it the working directory, which is how the child finds it in its copy of the namespace.
pub fn assemble(jail: &JailConfig, task_user: &str) -> Result<Assembled, LaunchError> {
    own_mounts()?;
    let base = writable_layer(jail, MountAttrFlags::MOUNT_ATTR_NODEV)?;
    let owner = Owner { uid: jail.uid_base, gid: jail.uid_base };
    let own = Tree::new(base, owner);
    let bare = own.directory(Path::new("root"), Mode::from_raw_mode(0o755)).map_err(at("root", &jail.mount_point))?;
    own.directory(Path::new("empty"), Mode::from_raw_mode(0o555)).map_err(at("root", &jail.mount_point))?;

    let mut notes = Vec::new();
    let (root, changes) = if jail.layers.is_empty() && jail.lasting.is_none() {
        let root = Tree::new(bare, owner);
        notes.extend(host_paths(&root, &own, jail)?);
        let changes = jail.host_paths.is_empty().then(|| changes_of(root.root(), jail)).transpose()?;
        (root, changes)
    } else {
        let (root, upper) = layers::mount(&own, Path::new("root"), Stack::of_jail(jail))?;
        (Tree::new(root, owner), Some(changes_of(upper.as_fd(), jail)?))
    };
    if changes.is_some() {
        apart(&root, &own)?;
    }
    standard_directories(&root)?;
    match &jail.network {
        Some(network) => {
            super::names::insist(&root, &own, &super::names::wired(&jail.hostname, network.into()))?;
            super::network::system_files(&root)?;
        }
        None if !jail.layers.is_empty() || jail.lasting.is_some() => super::names::give(&root, &own, &jail.hostname)?,
        None => {}
    }
    devices::give(&root)?;
    of_the_host(&root, jail)?;
    secrets(&root, jail.secrets_bytes, super::owner::of(&root, task_user, jail.uid_base)?)?;
    binds::show(&root, &jail.binds, jail.uid_base)?;
    rustix::process::fchdir(root.root()).map_err(|e| LaunchError::new("enter root", e))?;
    Ok(Assembled { notes, changes })
}

/// File systems that show namespaces of the host: only somebody who belongs there can mount them, so they are shown from it.
fn of_the_host(root: &Tree, jail: &JailConfig) -> Result<(), LaunchError> {
    for (shown, path) in [(jail.host_pid, "/proc"), (jail.host_ipc, "/dev/mqueue")] {
        let path = Path::new(path);
        // A host without message queues has none to share.
        if !shown || !path.exists() {
            continue;
        }
        let copy = mount::bind(CWD, path, Reach::One, INERT).map_err(at("host namespace", path))?;
        let place = root.open(below(path)).map_err(at("host namespace", path))?;
        mount::attach(&copy, place.as_fd()).map_err(at("host namespace", path))?;
    }
    Ok(())
}

/// Nothing mounted from here on shows on the host, and nothing the host mounts shows here.
pub fn own_mounts() -> Result<(), LaunchError> {
    super::kernel::own_mounts().map_err(|e| LaunchError::new("unshare mounts", e))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|e| LaunchError::new("make mounts private", e))
}

/// The directory as a mount that nothing is ever mounted on, so that whoever looks through it sees what lies on the disk and
/// none of the file systems the sandbox sees over it, secrets least of all. Nobody writes through it.
fn changes_of(dir: BorrowedFd<'_>, jail: &JailConfig) -> Result<OwnedFd, LaunchError> {
    let flags = INERT | MountAttrFlags::MOUNT_ATTR_RDONLY;
    mount::bind(dir, Path::new(""), Reach::One, flags).map_err(at("changes", &jail.mount_point))
}

/// Where the node and its workloads exchange files is not part of what a sandbox changes in its root: those directories
/// lie beside it on the same disk.
pub fn apart(root: &Tree, own: &Tree) -> Result<(), LaunchError> {
    for path in ["alloc", "local"].map(Path::new) {
        let open = Mode::from_raw_mode(0o777);
        own.directory(path, open).map_err(at("directories", path))?;
        let copy =
            mount::bind(own.root(), path, Reach::One, MountAttrFlags::empty()).map_err(at("directories", path))?;
        let place = root.own_directory(path, open).map_err(at("directories", path))?;
        mount::attach(&copy, place.as_fd()).map_err(at("directories", path))?;
    }
    Ok(())
}

fn host_paths(root: &Tree, own: &Tree, jail: &JailConfig) -> Result<Vec<String>, LaunchError> {
    let mut notes = Vec::new();
    if jail.host_paths.is_empty() {
        return Ok(notes);
    }
    let private = Mode::from_raw_mode(0o700);
    let layers = own.directory(Path::new("layers"), private).map_err(at("root", &jail.mount_point))?;
    let layers = Tree::new(layers, own.owner());
    let mut paths: Vec<&HostPath> = jail.host_paths.iter().collect();
    // Parents before what lies in them.
    paths.sort_by(|a, b| a.target.cmp(&b.target));
    for (index, path) in paths.into_iter().enumerate() {
        notes.extend(host_path(root, &layers, index, path)?);
    }
    Ok(notes)
}

/// The sandbox's only disk: memory, counted against its memory limit.
pub fn writable_layer(jail: &JailConfig, flags: MountAttrFlags) -> Result<OwnedFd, LaunchError> {
    let (size, id) = (jail.writable_bytes.to_string(), jail.uid_base.to_string());
    let inodes = (jail.writable_bytes / BYTES_PER_INODE).max(INODES_MIN).to_string();
    let options = [("size", size.as_str()), ("nr_inodes", &inodes), ("mode", "0755"), ("uid", &id), ("gid", &id)];
    let layer = mount::filesystem("tmpfs", &options, flags).map_err(at("writable layer", &jail.mount_point))?;
    let place = open_dir(&jail.mount_point).map_err(at("writable layer", &jail.mount_point))?;
    mount::attach(&layer, place.as_fd()).map_err(at("writable layer", &jail.mount_point))?;
    Ok(layer)
}

/// Shows one host path: a directory under a private layer, a file read-only, a link as it is, nothing if it is missing.
fn host_path(root: &Tree, layers: &Tree, index: usize, path: &HostPath) -> Result<Option<String>, LaunchError> {
    let stage = "host path";
    let (source, target) = (path.source.as_path(), below(&path.target));
    let found = match fs::symlink_metadata(source) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(at(stage, source)(e)),
    };
    let kind = found.file_type();
    if kind.is_symlink() {
        let to = fs::read_link(source).map_err(at(stage, source))?;
        root.symlink(target, &to).map_err(at(stage, &path.target))?;
        return Ok(None);
    }
    if kind.is_file() {
        let copy = mount::bind(CWD, source, Reach::One, READ_ONLY).map_err(at(stage, source))?;
        let place = root.file(target).map_err(at(stage, &path.target))?;
        mount::attach(&copy, place.as_fd()).map_err(at(stage, &path.target))?;
        return Ok(None);
    }
    if kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device() {
        return Ok(Some(format!("host path {}: sockets, pipes and devices are not shown", source.display())));
    }
    let mode = Mode::from_raw_mode(found.mode() & 0o1777);
    let place = root.directory(target, mode).map_err(at(stage, &path.target))?;
    let (shown, note) = match overlay(layers, index, source, mode) {
        Ok(overlay) => (overlay, None),
        Err(error) => {
            let note = format!("host path {}: no private layer over it ({error}): shown read-only", source.display());
            (mount::bind(CWD, source, Reach::Tree, READ_ONLY).map_err(at(stage, source))?, Some(note))
        }
    };
    mount::attach(&shown, place.as_fd()).map_err(at(stage, &path.target))?;
    Ok(note)
}

/// Flags of what is shown of the host and cannot be written through.
pub const READ_ONLY: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_RDONLY.union(MountAttrFlags::MOUNT_ATTR_NOSUID).union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// The host directory below, a private layer above.
///
/// The directory below is not id-mapped: to everybody in the sandbox its files belong to nobody they could become, so only
/// the permissions for others apply, and a file only the host's root may read stays unreadable. The top directory of the
/// layer belongs to the sandbox's root, so that files can be added to and replaced in the mapped directory itself.
/// Mounts below the host directory are not part of an overlay.
fn overlay(layers: &Tree, index: usize, source: &Path, mode: Mode) -> io::Result<OwnedFd> {
    let lower = open_dir(source)?;
    let upper = layers.directory(&PathBuf::from(format!("{index}/upper")), mode)?;
    let work = layers.directory(&PathBuf::from(format!("{index}/work")), Mode::from_raw_mode(0o700))?;
    // Paths through descriptors: no escaping of ':' and ',', and the thing looked at is the thing shown.
    let [lower, upper, work] = [&lower, &upper, &work].map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let options = [
        ("lowerdir", lower.as_str()),
        ("upperdir", &upper),
        ("workdir", &work),
        // Inode numbers need not be unique across layers, nothing is exported, nothing survives: no bookkeeping.
        ("xino", "off"),
        ("index", "off"),
        ("metacopy", "off"),
        ("redirect_dir", "nofollow"),
        ("volatile", ""),
    ];
    mount::filesystem("overlay", &options, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV)
}

/// Directories every sandbox has, and their modes.
pub const DIRECTORIES: [(&str, u32); 11] = [
    ("/alloc", 0o777),
    ("/alloc/logs", 0o755),
    ("/alloc/tmp", 0o1777),
    ("/alloc/data", 0o777),
    ("/dev", 0o755),
    ("/local", 0o777),
    ("/private", 0o700),
    ("/proc", 0o555),
    ("/secrets", 0o700),
    ("/sys", 0o555),
    ("/tmp", 0o1777),
];

/// The layout every sandbox has, whatever its template.
pub fn standard_directories(root: &Tree) -> Result<(), LaunchError> {
    for (path, mode) in DIRECTORIES {
        root.own_directory(below(Path::new(path)), Mode::from_raw_mode(mode))
            .map_err(at("directories", Path::new(path)))?;
    }
    Ok(())
}

/// `/secrets` for the task's user alone, `/private` for the agent alone. Neither is ever written to swap.
pub fn secrets(root: &Tree, secrets_bytes: u64, task: Owner) -> Result<(), LaunchError> {
    for (path, owner, bytes) in [("/secrets", task, secrets_bytes), ("/private", root.owner(), PRIVATE_BYTES)] {
        let path = Path::new(path);
        let (size, uid, gid) = (bytes.to_string(), owner.uid.to_string(), owner.gid.to_string());
        let options = [
            ("noswap", ""),
            ("size", &size),
            ("nr_inodes", SECRET_FILES),
            ("mode", "0700"),
            ("uid", &uid),
            ("gid", &gid),
        ];
        // Kernels before 6.4 do not know `noswap`; there the sandbox's own swap limit of zero has to do.
        let made = mount::filesystem("tmpfs", &options, INERT)
            .or_else(|_| mount::filesystem("tmpfs", options.get(1..).unwrap_or_default(), INERT))
            .map_err(at("secrets", path))?;
        let place = root.open(below(path)).map_err(at("secrets", path))?;
        mount::attach(&made, place.as_fd()).map_err(at("secrets", path))?;
    }
    Ok(())
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}
