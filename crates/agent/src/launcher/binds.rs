//! Files and directories of the host in the root.
//!
//! Each is a copy of the host's mount that is given its flags and its ids while nobody sees it: what is to be read-only never
//! was anything else, and in the sandbox, whose user namespace is another, its flags are locked. Those further up come first.
//! A target that lies in another bind must exist there: nothing is made, replaced or followed in directories of the host.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;

use moat_agent::launch::{BindConfig, ShownIds};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::mount::MountAttrFlags;

use super::ids::IdMap;
use super::mount::{self, Reach};
use super::tree::{Tree, below};
use super::{LaunchError, at};

const STAGE: &str = "bind";

/// Puts all of them into the root.
pub fn show(root: &Tree, binds: &[BindConfig], uid_base: u32) -> Result<(), LaunchError> {
    let mut ordered: Vec<&BindConfig> = binds.iter().collect();
    ordered.sort_by_key(|bind| bind.target.components().count());
    let mut namespaces = Namespaces { uid_base, made: Vec::new() };
    let mut shown: Vec<&BindConfig> = Vec::new();
    for bind in ordered {
        let source = Source::open(bind)?;
        let copy = source.copy(bind, &mut namespaces)?;
        let within = shown.iter().find(|above| bind.target.starts_with(&above.target));
        let place = place(root, bind, source.is_dir, within.map(|above| above.target.as_path()))?;
        mount::attach(&copy, place.as_fd()).map_err(at(STAGE, &bind.target))?;
        shown.push(bind);
    }
    Ok(())
}

/// Where it goes.
fn place(root: &Tree, bind: &BindConfig, is_dir: bool, within: Option<&Path>) -> Result<OwnedFd, LaunchError> {
    let (target, mode) = (below(&bind.target), Mode::from_raw_mode(0o755));
    let found = match (within, bind.ids, is_dir) {
        (Some(above), ..) => {
            return root.existing(target).map_err(|e| {
                let why = format!("{e}: it lies in what is shown at {}, where nothing is made", above.display());
                at(STAGE, &bind.target)(why)
            });
        }
        (None, ShownIds::Foreign, true) => root.own_directory(target, mode),
        (None, ShownIds::Foreign, false) => root.own_file(target),
        (None, _, true) => root.strict_directory(target, mode),
        (None, _, false) => root.strict_file(target),
    };
    found.map_err(|e| match e.raw_os_error() {
        Some(libc::ENOTDIR | libc::ELOOP) => {
            at(STAGE, &bind.target)(format!("{e}: a link in the root is not followed: name where it leads"))
        }
        _ => at(STAGE, &bind.target)(e),
    })
}

/// What is shown.
struct Source {
    opened: OwnedFd,
    is_dir: bool,
}

impl Source {
    fn open(bind: &BindConfig) -> Result<Self, LaunchError> {
        let source = bind.source.as_path();
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        flags.set(OFlags::NOFOLLOW, bind.ids != ShownIds::Foreign);
        let opened = openat(CWD, source, flags, Mode::empty()).map_err(at(STAGE, source))?;
        let kind = FileType::from_raw_mode(fstat(&opened).map_err(at(STAGE, source))?.st_mode);
        match kind {
            FileType::Directory => Ok(Self { opened, is_dir: true }),
            FileType::RegularFile => Ok(Self { opened, is_dir: false }),
            FileType::Symlink => Err(at(STAGE, source)("a symbolic link is not followed: name where it leads")),
            _ => Err(at(STAGE, source)("sockets, pipes and devices are not shown")),
        }
    }

    /// A mount of its own that nobody sees yet.
    fn copy(&self, bind: &BindConfig, namespaces: &mut Namespaces) -> Result<OwnedFd, LaunchError> {
        let mut flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, bind.read_only);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, !bind.exec);
        let failed = at(STAGE, &bind.source);
        let (dir, here) = (self.opened.as_fd(), Path::new(""));
        let Some(map) = namespaces.map_of(bind.ids) else {
            return mount::bind(dir, here, Reach::One, flags).map_err(failed);
        };
        let namespace = namespaces.of(map)?;
        let copy = mount::bind(dir, here, Reach::Tree, MountAttrFlags::empty()).map_err(failed)?;
        mount::map_ids(copy.as_fd(), Reach::Tree, namespace.as_fd(), flags, MountAttrFlags::empty())
            .map_err(|e| at(STAGE, &bind.source)(self.explained(&e)))?;
        Ok(copy)
    }

    /// The one answer of the kernel that says nothing by itself.
    fn explained(&self, error: &io::Error) -> String {
        if error.raw_os_error() != Some(libc::EINVAL) {
            return error.to_string();
        }
        let kind = self.file_system().unwrap_or_else(|| "unknown".to_owned());
        format!(
            "its file system ({kind}), or one mounted below it, cannot be shown with other ids: use a directory on ext4, xfs,              btrfs, or on a tmpfs from Linux 6.3 on"
        )
    }

    fn file_system(&self) -> Option<String> {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.opened.as_raw_fd())).ok()?;
        let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().to_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let line = mounts.lines().find(|line| line.split(' ').next() == Some(&id))?;
        Some(line.split_once(" - ")?.1.split(' ').next()?.to_owned())
    }
}

/// A user namespace for each mapping in use.
struct Namespaces {
    uid_base: u32,
    made: Vec<(IdMap, OwnedFd)>,
}

impl Namespaces {
    fn map_of(&self, ids: ShownIds) -> Option<IdMap> {
        match ids {
            ShownIds::Foreign => None,
            ShownIds::Block(first) => Some(IdMap::of_block(first, self.uid_base)),
            ShownIds::Same => Some(IdMap::of_users(self.uid_base)),
        }
    }

    fn of(&mut self, map: IdMap) -> Result<OwnedFd, LaunchError> {
        let failed = |e: io::Error| LaunchError::new("namespace of the mapping", e);
        if let Some((_, made)) = self.made.iter().find(|(known, _)| *known == map) {
            return made.try_clone().map_err(failed);
        }
        let made = map.namespace()?;
        let copy = made.try_clone().map_err(failed)?;
        self.made.push((map, made));
        Ok(copy)
    }
}
