//! A network namespace somebody made for the sandbox.
//!
//! It belongs to the user namespace of the host. What the sandbox's root is allowed there is what anybody is: no address, no
//! route, no raw socket, whatever capabilities it has in its own user namespace.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, fstat, openat, stat};
use rustix::mount::MountAttrFlags;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::mount::{self, INERT};
use super::tree::Tree;
use super::{LaunchError, at};

const STAGE: &str = "enter the network";

/// Enters it, and everything that comes of this process with it.
pub fn join(netns: &Path) -> Result<(), LaunchError> {
    // Links are followed: whoever made it may hold it by a descriptor, and name it by a link to that.
    let file = openat(CWD, netns, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(at(STAGE, netns))?;
    let (theirs, ours) =
        (fstat(&file).map_err(at(STAGE, netns))?, stat("/proc/self/ns/net").map_err(at(STAGE, netns))?);
    if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino) {
        return Err(at(STAGE, netns)("it is the host's own"));
    }
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(at(STAGE, netns))
}

/// Opens a tap of the namespace this process is in; one that is not there is not made. Frames come and go with a header that
/// tells what the receiver need not do again (checksums, segments), which is what virtual machines speak.
pub fn open_tap(name: &str) -> Result<OwnedFd, LaunchError> {
    let path = Path::new("/dev/net/tun");
    let failed = |why: String| LaunchError::new("open the tap", why);
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|e| failed(e.to_string()))?;
    name_to_index(&socket, name).map_err(|e| failed(format!("{name}: {e}")))?;
    let tun = openat(CWD, path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| failed(format!("{}: {e} (modprobe tun)", path.display())))?;
    super::kernel::attach_tap(&tun, name).map_err(|e| failed(format!("{name}: {e}")))?;
    Ok(tun)
}

/// `/sys` of the namespace this process is in. Only who owns the network namespace may mount one, so it cannot be done
/// inside; mounted here, its flags are also beyond the reach of root inside.
pub fn system_files(root: &Tree) -> Result<(), LaunchError> {
    let target = Path::new("sys");
    let made =
        mount::filesystem("sysfs", &[], INERT | MountAttrFlags::MOUNT_ATTR_RDONLY).map_err(at("mount", target))?;
    let place = root.open(target).map_err(at("mount", target))?;
    mount::attach(&made, place.as_fd()).map_err(at("mount", target))
}
