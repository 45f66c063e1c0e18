//! Opening what is in a directory that belongs to somebody who is not trusted: a monitor in its own root.
//!
//! It may have put a link where its socket was. Nothing there is opened by a path: a name is looked up in the directory itself,
//! links are not followed, and what was found is asked what it is. Sockets are reached through a descriptor, so that the
//! length of the path, which may be longer than an address can be, does not matter.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use tokio::net::UnixStream;

/// The directory itself. The way to it is ours.
pub fn dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

/// Opens a name in it if it is of this kind.
pub fn open(path: &Path, name: &str, flags: OFlags, kind: FileType) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat2(dir(path)?.as_fd(), name, flags, Mode::empty(), resolve)?;
    let found = FileType::from_raw_mode(fstat(&opened)?.st_mode);
    if found == kind {
        return Ok(opened);
    }
    let what = format!("{name} in the jail is a {found:?}, not a {kind:?}");
    Err(io::Error::new(io::ErrorKind::InvalidData, what))
}

/// Connects to a socket in it.
pub async fn connect(path: &Path, name: &str) -> io::Result<UnixStream> {
    let socket = open(path, name, OFlags::PATH, FileType::Socket)?;
    UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
}
