//! `/etc/hostname` and `/etc/hosts` of images that leave them to whoever runs them.
//!
//! The files lie beside the root and are shown over it, so a snapshot does not carry the name of the sandbox it was taken of.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Gid, Mode, OFlags, ResolveFlags, Uid, fchown, openat, openat2, statat};
use rustix::mount::MountAttrFlags;

use super::mount::{self, Reach};
use super::tree::Tree;
use super::{LaunchError, at};

/// Shows both files where the image has none, or an empty one.
pub fn give(root: &Tree, own: &Tree, hostname: &str) -> Result<(), LaunchError> {
    let hosts = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (name, text) in [("hostname", format!("{hostname}\n")), ("hosts", hosts)] {
        let path = Path::new("etc").join(name);
        show(root, own, name, &path, &text).map_err(at("names", &path))?;
    }
    Ok(())
}

fn show(root: &Tree, own: &Tree, name: &str, path: &Path, text: &str) -> io::Result<()> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let etc = openat2(root.root(), "etc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), resolve);
    match etc {
        Ok(etc) => match statat(&etc, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
            // Something of the image's own, links included.
            Ok(found) if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile || found.st_size > 0 => {
                return Ok(());
            }
            Ok(_) | Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        },
        Err(rustix::io::Errno::NOENT) => {}
        // `/etc` is a link or a file: the image has its own idea of it.
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    }
    let made = written(own, name, text)?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let copy = mount::bind(made.as_fd(), Path::new(""), Reach::One, flags)?;
    mount::attach(&copy, root.own_file(path)?.as_fd())
}

fn written(own: &Tree, name: &str, text: &str) -> io::Result<OwnedFd> {
    let dir = own.directory(Path::new("names"), Mode::from_raw_mode(0o700))?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file = File::from(openat(&dir, name, flags, Mode::from_raw_mode(0o644))?);
    file.write_all(text.as_bytes())?;
    let (uid, gid) = (Uid::from_raw(own.owner().uid), Gid::from_raw(own.owner().gid));
    fchown(&file, Some(uid), Some(gid))?;
    Ok(file.into())
}
