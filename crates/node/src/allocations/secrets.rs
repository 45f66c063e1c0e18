//! `<task>/secrets` on a file system in memory, for tasks whose secrets are made before their sandbox is. Blocking.
//!
//! Made once, however often it is asked for; made again after the machine was started anew; taken away with its directory.

use std::io;
use std::path::Path;

use rustix::fs::{Gid, Mode, Uid};
use rustix::mount::{MountFlags, UnmountFlags};

/// Mounts it where nothing is mounted. Without the right to mount, the plain directory is all there is.
pub(super) fn mount(dir: &Path, mib: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if is_mounted(dir)? || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let flags = MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    // Swap would put secrets on a disk. Older kernels do not know how to say so.
    let options = |more: &str| std::ffi::CString::new(format!("size={}m,mode=0755{more}", mib.max(1)));
    let first = rustix::mount::mount("tmpfs", dir, "tmpfs", flags, options(",noswap")?.as_c_str());
    if first.is_err() {
        rustix::mount::mount("tmpfs", dir, "tmpfs", flags, options("")?.as_c_str())?;
    }
    if let Some((uid, gid)) = owner {
        rustix::fs::chown(dir, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        rustix::fs::chmod(dir, Mode::from_raw_mode(0o755))?;
    }
    Ok(())
}

/// Takes it away. What is not mounted is away already.
pub(super) fn unmount(dir: &Path) -> io::Result<()> {
    if !is_mounted(dir)? {
        return Ok(());
    }
    Ok(rustix::mount::unmount(dir, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?)
}

fn is_mounted(dir: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let parent = dir.parent().unwrap_or(Path::new("/"));
    let device = |path: &Path| std::fs::symlink_metadata(path).map(|found| found.dev());
    match (device(dir), device(parent)) {
        (Ok(one), Ok(other)) => Ok(one != other),
        (Err(error), _) | (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}
