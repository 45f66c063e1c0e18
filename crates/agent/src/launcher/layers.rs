//! A root made of read-only layers that many sandboxes share.
//!
//! Each layer is mounted on the host once. Here it is copied, and the copy's ids are mapped to the sandbox's range: what
//! root owns in an image, the sandbox's root owns, and no byte was copied for it. An overlay puts the sandbox's own layer
//! over the copies. That one lies on a plain tmpfs, or on the host's disk if it lasts ([`lasting`]), and is not mapped (an id-mapped upper layer would silently make the
//! overlay read-only): what is written there has the ids the sandbox's processes have on the host.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use moat_agent::launch::{JailConfig, ServedRoot};
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, openat};
use rustix::mount::MountAttrFlags;

use super::ids::IdMap;
use super::lasting;
use super::mount::{self, Reach};
use super::tree::Tree;
use super::{LaunchError, at};

const STAGE: &str = "layers";

/// Longest value of a mount option the kernel takes.
const OPTION_LEN_MAX: usize = 255;

/// What a root is made of.
#[derive(Debug, Clone, Copy)]
pub struct Stack<'a> {
    /// Mount points of the layers, the lowest first.
    layers: &'a [PathBuf],
    /// Where the private one lies, if it outlives the sandbox.
    lasting: Option<&'a Path>,
    /// A list of resolvers is shown in it.
    wired: bool,
    uid_base: u32,
    /// What errors name.
    mount_point: &'a Path,
}

impl<'a> Stack<'a> {
    /// Of a container.
    pub fn of_jail(jail: &'a JailConfig) -> Self {
        Self {
            layers: &jail.layers,
            lasting: jail.lasting.as_deref(),
            wired: jail.network.is_some(),
            uid_base: jail.uid_base,
            mount_point: &jail.mount_point,
        }
    }

    /// Of what a program in `jail` serves.
    pub fn served(jail: &'a JailConfig, served: &'a ServedRoot) -> Self {
        Self {
            layers: &served.layers,
            lasting: Some(&served.lasting),
            wired: served.wired,
            uid_base: jail.uid_base,
            mount_point: &jail.mount_point,
        }
    }
}

/// Mounts the root on the directory `place` of `own`, the sandbox's writable tmpfs. Returns the mount and the directory
/// that holds what the sandbox changes.
pub fn mount(own: &Tree, place: &Path, of: Stack<'_>) -> Result<(OwnedFd, OwnedFd), LaunchError> {
    let ids = IdMap::of_sandbox(of.uid_base).namespace()?;
    let mut copies = Vec::with_capacity(of.layers.len() + 1);
    if of.lasting.is_some() {
        copies.push(lasting::furniture(own, of.wired)?);
    }
    for (index, layer) in of.layers.iter().enumerate() {
        let copy = mount::bind(CWD, layer, Reach::One, MountAttrFlags::empty()).map_err(at(STAGE, layer))?;
        mount::map_layer(copy.as_fd(), ids.as_fd()).map_err(at("map ids of layer", layer))?;
        // Overlays of kernels before 6.15 take nothing that is not mounted somewhere.
        let spot = PathBuf::from(format!("lower/{index}"));
        let spot = own.directory(&spot, Mode::from_raw_mode(0o700)).map_err(at(STAGE, layer))?;
        mount::attach(&copy, spot.as_fd()).map_err(at(STAGE, layer))?;
        copies.push(copy);
    }
    let top = copies.last().ok_or_else(|| LaunchError::new(STAGE, "there is none"))?;
    let (upper, work, life) = match of.lasting {
        Some(dir) => {
            let (upper, work) = lasting::open(dir, of.uid_base, top)?;
            (upper, work, Life::Lasts)
        }
        None => {
            let made = |name, mode| own.directory(Path::new(name), Mode::from_raw_mode(mode));
            let upper = made("upper", 0o755).map_err(at(STAGE, of.mount_point))?;
            like(&upper, top).map_err(at(STAGE, of.mount_point))?;
            (upper, made("work", 0o700).map_err(at(STAGE, of.mount_point))?, Life::Sandbox)
        }
    };
    let path = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    // The kernel wants the top one first.
    let lower: Vec<String> = copies.iter().rev().map(path).collect();
    let overlay = overlay(&lower, &path(&upper), &path(&work), life).map_err(at(STAGE, of.mount_point))?;
    let place = own.open(place).map_err(at(STAGE, of.mount_point))?;
    mount::attach(&overlay, place.as_fd()).map_err(at(STAGE, of.mount_point))?;
    Ok((overlay, upper))
}

/// The top directory of an overlay is that of its upper layer: it gets the image's owner and mode.
pub fn like(upper: &OwnedFd, top: &OwnedFd) -> io::Result<()> {
    let found = fstat(top)?;
    let upper = openat(upper, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    fchown(&upper, Some(Uid::from_raw(found.st_uid)), Some(Gid::from_raw(found.st_gid)))?;
    Ok(fchmod(&upper, Mode::from_raw_mode(found.st_mode & 0o7777))?)
}

/// How long what is written to an overlay is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// As long as the sandbox lives: nothing is ever written out for its own sake.
    Sandbox,
    /// Longer: what a program has synced survives the power.
    Lasts,
}

/// Paths of directories, the top one first. Set-user-id programs keep their bit here; whether it means anything is decided
/// by no_new_privs.
pub fn overlay(lower: &[String], upper: &str, work: &str, life: Life) -> io::Result<OwnedFd> {
    let joined = lower.join(":");
    let mut options: Vec<(&str, &str)> = if joined.len() <= OPTION_LEN_MAX {
        vec![("lowerdir", joined.as_str())]
    } else {
        // One by one: from Linux 6.8 on.
        lower.iter().map(|path| ("lowerdir+", path.as_str())).collect()
    };
    options.extend([
        ("upperdir", upper),
        ("workdir", work),
        // A captured or copied layer must be complete by itself: no bookkeeping, no references.
        ("xino", "off"),
        ("index", "off"),
        ("metacopy", "off"),
        ("redirect_dir", "nofollow"),
    ]);
    if life == Life::Sandbox {
        options.push(("volatile", ""));
    }
    mount::filesystem("overlay", &options, MountAttrFlags::MOUNT_ATTR_NODEV)
}
