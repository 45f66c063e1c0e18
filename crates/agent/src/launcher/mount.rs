//! Mounts made detached, given their flags, and only then put in place: nothing is visible with too few flags, not even
//! for a moment, and a bind is read-only from the start (mount(2) ignores that flag on a first bind).

#![expect(unsafe_code, reason = "mount_setattr has no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

/// Flags of every mount a program inside has no business executing or finding devices on.
pub const INERT: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Makes a new file system. An option with an empty value is a bare flag.
pub fn filesystem(kind: &str, options: &[(&str, &str)], flags: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    let configure = || -> Result<(), Errno> {
        for (key, value) in options {
            match *value {
                "" => fsconfig_set_flag(&context, *key)?,
                value => fsconfig_set_string(&context, *key, value)?,
            }
        }
        fsconfig_create(&context)
    };
    configure().map_err(|errno| explained(&context, errno))?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?)
}

/// The kernel leaves a sentence in the context that says more than the errno: `e overlay: ...`.
fn explained(context: &OwnedFd, errno: Errno) -> io::Error {
    let mut sentence = [0_u8; 256];
    let said = rustix::io::read(context, &mut sentence).ok().and_then(|n| sentence.get(..n));
    match said.map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned()).filter(|text| !text.is_empty()) {
        Some(text) => io::Error::new(errno.kind(), format!("{} ({text})", io::Error::from(errno))),
        None => errno.into(),
    }
}

/// How far a copy of a mount reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// This mount only; what is mounted below it stays out.
    One,
    /// With everything mounted below it.
    Tree,
}

/// Copies what is at `path` as a mount of its own, private, with `flags` added everywhere in it.
pub fn bind(dir: BorrowedFd<'_>, path: &Path, reach: Reach, flags: MountAttrFlags) -> io::Result<OwnedFd> {
    let mut how = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if reach == Reach::Tree {
        how |= OpenTreeFlags::AT_RECURSIVE;
    }
    let copy = open_tree(dir, path, how)?;
    if !flags.is_empty() {
        add_flags(copy.as_fd(), reach, flags)?;
    }
    Ok(copy)
}

/// Puts a detached mount on an open path.
pub fn attach(mount: &OwnedFd, target: BorrowedFd<'_>) -> io::Result<()> {
    let how = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount.as_fd(), "", target, "", how)?)
}

fn add_flags(mount: BorrowedFd<'_>, reach: Reach, flags: MountAttrFlags) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: u64::from(flags.bits()),
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    set_attributes(mount, reach, &attributes)
}

/// Gives a copy of a layer that nobody sees yet the ids of a user namespace. It stays read-only and without devices; programs
/// in it can be executed, which the mount it was copied from forbids.
pub fn map_layer(mount: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let kept = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
    let lifted = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    map_ids(mount, Reach::One, namespace, kept, lifted)
}

/// Shows the files of a mount that nobody sees yet with the ids of a user namespace, and sets and lifts flags with it.
pub fn map_ids(
    mount: BorrowedFd<'_>,
    reach: Reach,
    namespace: BorrowedFd<'_>,
    set: MountAttrFlags,
    lifted: MountAttrFlags,
) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: u64::from(set.bits()) | libc::MOUNT_ATTR_IDMAP,
        attr_clr: u64::from(lifted.bits()),
        propagation: libc::MS_PRIVATE,
        userns_fd: u64::from(namespace.as_raw_fd().cast_unsigned()),
    };
    set_attributes(mount, reach, &attributes)
}

fn set_attributes(mount: BorrowedFd<'_>, reach: Reach, attributes: &libc::mount_attr) -> io::Result<()> {
    let how = libc::AT_EMPTY_PATH | if reach == Reach::Tree { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, the structure outlives the call and its size is passed with it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            how,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
