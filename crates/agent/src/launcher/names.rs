//! `/etc/hostname` and `/etc/hosts` of images that leave them to whoever runs them; with a network those of every root, and
//! `/etc/resolv.conf`.
//!
//! The files lie beside the root and are shown over it, so a snapshot does not carry the name and the address of the sandbox
//! it was taken of, and nothing of an image or of the host is written to. The sandbox's root may write to them.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use moat_agent::launch::JailNetwork;
use rustix::fs::{FileType, Gid, Mode, OFlags, ResolveFlags, Uid, fchown, openat, openat2, statat};
use rustix::mount::MountAttrFlags;

use super::mount::{self, Reach};
use super::tree::Tree;
use super::{LaunchError, at};

/// A file's name and what is in it.
pub type Text = (&'static str, String);

/// What is said without a network.
pub fn alone(hostname: &str) -> Vec<Text> {
    let hosts = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    vec![("hostname", format!("{hostname}\n")), ("hosts", hosts)]
}

/// Shows both files where the image has none, or an empty one.
pub fn give(root: &Tree, own: &Tree, hostname: &str) -> Result<(), LaunchError> {
    for (name, text) in alone(hostname) {
        let path = Path::new("etc").join(name);
        show(root, own, name, &path, &text).map_err(at("names", &path))?;
    }
    Ok(())
}

/// What is known of a network.
#[derive(Debug, Clone, Copy)]
pub struct Wire<'a> {
    /// The sandbox's address.
    pub address: Ipv4Addr,
    /// The resolver.
    pub resolver: Ipv4Addr,
    /// Domain that names without a dot are looked up in; may be empty.
    pub search: &'a str,
    /// What the sandbox is called in it.
    pub name: Option<&'a str>,
}

impl<'a> From<&'a JailNetwork> for Wire<'a> {
    fn from(network: &'a JailNetwork) -> Self {
        let JailNetwork { address, resolver, search, name, .. } = network;
        Self { address: *address, resolver: *resolver, search, name: name.as_deref() }
    }
}

/// What is said with a network.
pub fn wired(hostname: &str, network: Wire<'_>) -> Vec<Text> {
    let Wire { address, resolver, search, name } = network;
    let mut names: Vec<String> = match name {
        Some(name) if !search.is_empty() => vec![hostname.to_owned(), format!("{name}.{search}"), name.to_owned()],
        Some(name) => vec![hostname.to_owned(), name.to_owned()],
        None => vec![hostname.to_owned()],
    };
    // A host name that somebody chose may be the name that others know it by.
    names.dedup();
    let mut conf = format!("nameserver {resolver}\n");
    if !search.is_empty() {
        conf += &format!("search {search}\n");
    }
    // There is no IPv6 in it, and a `localhost` of ::1 would only be in the way.
    let hosts = format!("127.0.0.1\tlocalhost\n{address}\t{}\n", names.join(" "));
    vec![("hostname", format!("{hostname}\n")), ("hosts", hosts), ("resolv.conf", conf)]
}

/// Shows files over whatever the root has there.
pub fn insist(root: &Tree, own: &Tree, texts: &[Text]) -> Result<(), LaunchError> {
    let etc = etc(root).map_err(at("names", Path::new("etc")))?;
    for (name, text) in texts {
        let path = Path::new("etc").join(name);
        cover(&etc, own, name, text).map_err(at("names", &path))?;
    }
    Ok(())
}

/// The directory that names are looked for in, where the root's own links lead to it, inside the root. One that leads nowhere
/// is replaced.
fn etc(root: &Tree) -> io::Result<Tree> {
    let path = Path::new("etc");
    let found = root.open_with(path, OFlags::PATH | OFlags::DIRECTORY);
    let etc = found.or_else(|_| root.own_directory(path, Mode::from_raw_mode(0o755)))?;
    Ok(Tree::new(etc, root.owner()))
}

/// Shows a file of ours over what is there: a link is covered itself, not followed. Where a kernel mounts nothing on links,
/// it is replaced, which is a change of the root like any other.
fn cover(etc: &Tree, own: &Tree, name: &str, text: &str) -> io::Result<()> {
    let shown = made(own, name, text)?;
    let there = openat(etc.root(), name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    match there {
        Ok(there) if mount::attach(&shown, there.as_fd()).is_ok() => Ok(()),
        Ok(_) | Err(rustix::io::Errno::NOENT) => mount::attach(&shown, etc.own_file(Path::new(name))?.as_fd()),
        Err(errno) => Err(errno.into()),
    }
}

/// A file of ours, as a mount.
fn made(own: &Tree, name: &str, text: &str) -> io::Result<OwnedFd> {
    let file = written(own, name, text)?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    mount::bind(file.as_fd(), Path::new(""), Reach::One, flags)
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
    mount::attach(&made(own, name, text)?, root.own_file(path)?.as_fd())
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
