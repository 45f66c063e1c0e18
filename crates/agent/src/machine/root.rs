//! The root file system of the machine, out of its disks.
//!
//! Layers are read-only disks of their own, the lowest first; what is changed goes to the disk after them:
//!
//! ```text
//! /l/<n>                the layers
//! /moat/disk            the writable disk
//!   root/               what becomes `/`
//!   upper, work         what is changed
//!   alloc/, local/, names/   shown over the root: not part of what is changed in it
//! ```
//!
//! Or it is a directory of the host that somebody serves: then only what is shown over it lies on the disk.
//!
//! It looks the same as a container's root and is made by the same code. The initramfs ends up below it, where nobody comes.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use moat_agent::protocol::machine::{GuestRoot, GuestSetup, SERVED_TAG};
use moat_model::ErrorKind;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::MountAttrFlags;
use tokio::time::{Instant, sleep};

use super::names::{self, Resolver};
use crate::agent::Failure;
use crate::launcher::mount::{self, INERT, Reach};
use crate::launcher::tree::{Owner, Tree};
use crate::launcher::{LaunchError, devices, inside, layers, owner, root};

/// More would not fit the letters of disks, and a root of more layers is nothing anybody has.
pub const LAYERS_MAX: u32 = 24;
/// Disks are found by the kernel on its own time; a machine that shares a core with many takes a while.
const FOUND_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// Where the writable disk is mounted.
const DISK: &str = "/moat/disk";
/// Room for names beside a root that was handed in whole.
const BESIDE_BYTES: &str = "1048576";

const OURS: Owner = Owner { uid: 0, gid: 0 };

/// What is kept of it.
#[derive(Debug)]
pub struct Root {
    /// The directory beside the root that nobody else sees.
    pub own: Tree,
    /// What was changed; none in a root that was handed in whole.
    changes: Option<OwnedFd>,
}

impl Root {
    /// The directory of everything changed.
    pub fn changes(&self) -> Result<OwnedFd, Failure> {
        let whole =
            || Failure::new(ErrorKind::Unsupported, "this root is one whole: nobody here knows what was changed in it");
        self.changes.as_ref().ok_or_else(whole)?.try_clone().map_err(|e| Failure::internal("changes", &e))
    }
}

/// How many disks it is made of.
pub fn disks_of(root: &GuestRoot) -> Result<u32, Failure> {
    match root {
        GuestRoot::Overlay { layers } if *layers > LAYERS_MAX => {
            Err(Failure::invalid(format!("root.layers: {layers}, and a machine has at most {LAYERS_MAX}")))
        }
        GuestRoot::Overlay { layers } => Ok(layers + 1),
        GuestRoot::Whole | GuestRoot::Served { .. } => Ok(1),
    }
}

/// Puts it together and makes it the root of this process and of all that come of it.
pub async fn enter(setup: &GuestSetup) -> Result<Root, Failure> {
    let count = disks_of(&setup.root)?;
    let disks = disks(count).await?;
    let assembled = match setup.root {
        GuestRoot::Overlay { .. } => over_layers(&disks)?,
        GuestRoot::Whole => whole(&disks)?,
        GuestRoot::Served { .. } => served(&disks)?,
    };
    furnish(&assembled, setup).map_err(internal)?;
    let Assembled { root, own, changes } = assembled;
    switch(&root)?;
    Ok(Root { own, changes })
}

struct Assembled {
    root: Tree,
    own: Tree,
    changes: Option<OwnedFd>,
}

/// The first so many disks, once they are all there.
async fn disks(count: u32) -> Result<Vec<PathBuf>, Failure> {
    let begun = Instant::now();
    let letters = (b'a'..=b'z').map(char::from).take(usize::try_from(count).unwrap_or(usize::MAX));
    let disks: Vec<PathBuf> = letters.map(|letter| PathBuf::from(format!("/dev/vd{letter}"))).collect();
    while let Some(missing) = disks.iter().find(|disk| !disk.exists()) {
        if begun.elapsed() > FOUND_WITHIN {
            let what = format!("root: this machine has no disk {}, and {count} were to be there", missing.display());
            return Err(Failure::new(ErrorKind::InvalidSpec, what));
        }
        sleep(LOOK_AGAIN).await;
    }
    Ok(disks)
}

/// Mounts a disk, or what is served under a tag, on a directory of the initramfs.
fn mounted(disk: &Path, kind: &str, options: &[(&str, &str)], place: &Path) -> Result<OwnedFd, Failure> {
    let failed = |e: std::io::Error| Failure::internal(&format!("mount {} ({kind})", disk.display()), &e);
    let source = disk.to_string_lossy();
    let options: Vec<(&str, &str)> = std::iter::once(("source", &*source)).chain(options.iter().copied()).collect();
    let made = mount::filesystem(kind, &options, MountAttrFlags::MOUNT_ATTR_NODEV).map_err(failed)?;
    attached(&made, place).map_err(failed)?;
    Ok(made)
}

fn attached(made: &OwnedFd, place: &Path) -> std::io::Result<()> {
    fs::create_dir_all(place)?;
    let place = openat(CWD, place, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    mount::attach(made, place.as_fd())
}

fn over_layers(disks: &[PathBuf]) -> Result<Assembled, Failure> {
    let failed = |e: std::io::Error| Failure::internal("put the root together", &e);
    let (writable, lower) = disks.split_last().ok_or_else(|| Failure::invalid("root: no disk to write to"))?;
    let own = Tree::new(mounted(writable, "ext4", &[], Path::new(DISK))?, OURS);
    let mode = Mode::from_raw_mode;
    let bare = own.directory(Path::new("root"), mode(0o755)).map_err(failed)?;
    if lower.is_empty() {
        let changes = changes_of(&bare)?;
        // A mount of its own: only such a one can be moved over the initramfs.
        let root = mount::bind(bare.as_fd(), Path::new(""), Reach::One, MountAttrFlags::MOUNT_ATTR_NODEV)
            .and_then(|root| mount::attach(&root, bare.as_fd()).map(|()| root))
            .map_err(failed)?;
        return apart(Assembled { root: Tree::new(root, OURS), own, changes: Some(changes) });
    }
    let mut copies = Vec::with_capacity(lower.len());
    let mut places = Vec::with_capacity(lower.len());
    for (index, layer) in lower.iter().enumerate() {
        // Short, because all of them together are one option of limited length.
        let place = format!("/l/{index}");
        copies.push(mounted(layer, "erofs", &[("ro", "")], Path::new(&place))?);
        places.insert(0, place);
    }
    let upper = own.directory(Path::new("upper"), mode(0o755)).map_err(failed)?;
    own.directory(Path::new("work"), mode(0o700)).map_err(failed)?;
    let top = copies.last().ok_or_else(|| Failure::invalid("root: no layers"))?;
    layers::like(&upper, top).map_err(failed)?;
    let [upper_path, work_path] = ["upper", "work"].map(|name| format!("{DISK}/{name}"));
    let overlay = layers::overlay(&places, &upper_path, &work_path, layers::Life::Sandbox).map_err(failed)?;
    mount::attach(&overlay, bare.as_fd()).map_err(failed)?;
    let changes = changes_of(&upper)?;
    apart(Assembled { root: Tree::new(overlay, OURS), own, changes: Some(changes) })
}

/// What is exchanged with the node is no change of the root.
fn apart(assembled: Assembled) -> Result<Assembled, Failure> {
    root::apart(&assembled.root, &assembled.own).map_err(internal)?;
    Ok(assembled)
}

/// The directory as a mount that nothing is ever mounted on.
fn changes_of(dir: &OwnedFd) -> Result<OwnedFd, Failure> {
    mount::bind(dir.as_fd(), Path::new(""), Reach::One, INERT | MountAttrFlags::MOUNT_ATTR_RDONLY)
        .map_err(|e| Failure::internal("changes", &e))
}

fn whole(disks: &[PathBuf]) -> Result<Assembled, Failure> {
    let disk = disks.first().ok_or_else(|| Failure::invalid("root: no disk"))?;
    let root = mounted(disk, "ext4", &[], Path::new("/root"))?;
    let beside =
        mount::filesystem("tmpfs", &[("size", BESIDE_BYTES), ("mode", "0755")], MountAttrFlags::MOUNT_ATTR_NODEV)
            .and_then(|made| attached(&made, Path::new(DISK)).map(|()| made))
            .map_err(|e| Failure::internal("put the root together", &e))?;
    Ok(Assembled { root: Tree::new(root, OURS), own: Tree::new(beside, OURS), changes: None })
}

fn served(disks: &[PathBuf]) -> Result<Assembled, Failure> {
    let disk = disks.first().ok_or_else(|| Failure::invalid("root: no disk to write to"))?;
    let own = Tree::new(mounted(disk, "ext4", &[], Path::new(DISK))?, OURS);
    let root = mounted(Path::new(SERVED_TAG), "virtiofs", &[], Path::new("/root"))?;
    apart(Assembled { root: Tree::new(root, OURS), own, changes: None })
}

/// What every sandbox has, in the order in which a container gets it.
fn furnish(assembled: &Assembled, setup: &GuestSetup) -> Result<(), LaunchError> {
    let Assembled { root, own, .. } = assembled;
    root::standard_directories(root)?;
    let served = matches!(setup.root, GuestRoot::Served { own_resolver: true });
    let resolver = if served { Resolver::Served } else { Resolver::Ours };
    names::give(root, own, &setup.identity, resolver).map_err(|e| LaunchError::new("names", e.message))?;
    devices::give(root)?;
    root::secrets(root, setup.secrets_bytes, owner::of(root, &setup.agent.default_user, 0)?)?;
    inside::kernel_file_systems(root, inside::There::default())?;
    let empty =
        own.directory(Path::new("empty"), Mode::from_raw_mode(0o555)).map_err(|e| LaunchError::new("masks", e))?;
    inside::masks(root, &empty)
}

/// The root is moved over the initramfs, which cannot be left otherwise. Whoever climbs out of it comes to itself again.
fn switch(root: &Tree) -> Result<(), Failure> {
    let failed = |e: rustix::io::Errno| Failure::internal("enter the root", &e.into());
    rustix::process::fchdir(root.root()).map_err(failed)?;
    rustix::mount::mount_move(".", "/").map_err(failed)?;
    rustix::process::chroot(".").map_err(failed)?;
    rustix::process::chdir("/").map_err(failed)
}

fn internal(error: LaunchError) -> Failure {
    Failure::new(ErrorKind::Internal, error.to_string())
}
