//! System calls without a safe wrapper, each behind a safe function.

#![expect(unsafe_code, reason = "unshare, ioctl, keyctl and taking over descriptors by number have no safe wrappers")]

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Gives this process a mount namespace of its own.
pub fn own_mounts() -> io::Result<()> {
    // SAFETY: only file descriptor sharing makes unsharing unsafe, and that is not asked for.
    Ok(unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?)
}

/// Gives this process host name and System V objects of its own, and a network with nothing in it if asked.
pub fn own_namespaces(network: bool) -> io::Result<()> {
    use rustix::thread::UnshareFlags;
    let flags = if network { UnshareFlags::NEWNET } else { UnshareFlags::empty() };
    // SAFETY: only file descriptor sharing makes unsharing unsafe, and that is not asked for.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS) }?)
}

/// Makes the cgroups this process is in the roots of what it sees.
pub fn own_cgroup_root() -> io::Result<()> {
    // SAFETY: only file descriptor sharing makes unsharing unsafe, and that is not asked for.
    Ok(unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWCGROUP) }?)
}

/// `KEYCTL_JOIN_SESSION_KEYRING` of linux/keyctl.h.
const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;

/// Leaves the session keyring of the daemon for a new, empty one. A kernel without keys has nothing to leave.
pub fn new_session_keyring() -> io::Result<()> {
    // SAFETY: a null name asks for an anonymous keyring; no memory is passed.
    let result =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
    match result {
        -1 => Err(io::Error::last_os_error()).or_else(|e| match e.raw_os_error() {
            Some(libc::ENOSYS) => Ok(()),
            _ => Err(e),
        }),
        _ => Ok(()),
    }
}

/// Sets the one interface of a new network namespace up.
pub fn loopback_up() -> io::Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    // SAFETY: the request names an interface and outlives both calls; the kernel fills and reads its flags.
    unsafe {
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) != 0 {
            return Err(io::Error::last_os_error());
        }
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// `IFF_VNET_HDR` of linux/if_tun.h.
const IFF_VNET_HDR: libc::c_int = 0x4000;

/// Makes an open `/dev/net/tun` the other end of a tap.
pub fn attach_tap(tun: &OwnedFd, name: &str) -> io::Result<()> {
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the request names an interface, says what is wanted of it and outlives the call.
    match unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// First numbers after standard input, output and error.
const LISTENER: RawFd = 3;
const REPORT: RawFd = 4;
/// What the sandbox changes, where the daemon looks for it (`/proc/<agent>/fd/5`).
pub const CHANGES: RawFd = 5;

/// The descriptors an agent begins with.
#[derive(Debug)]
pub struct Kept {
    /// Where it serves.
    pub listener: OwnedFd,
    /// Where it says that all went well.
    pub report: OwnedFd,
    /// The directory of what the sandbox changed; held, never used by the agent.
    pub changes: Option<OwnedFd>,
}

/// Closes every descriptor but these, which get the first free numbers, and points the standard ones at `/dev/null`. The
/// directory stays open for as long as the process lives.
///
/// The caller holds no other descriptor it would use or close after this.
pub fn keep_only(kept: Kept) -> io::Result<(OwnedFd, OwnedFd)> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    // Out of the way of the numbers they will get, whatever those are now.
    let mut moved = Vec::with_capacity(3);
    for (to, fd) in [(LISTENER, Some(kept.listener)), (REPORT, Some(kept.report)), (CHANGES, kept.changes)] {
        if let Some(fd) = fd {
            moved.push((rustix::io::fcntl_dupfd_cloexec(fd, CHANGES + 1)?.into_raw_fd(), to));
        }
    }
    drop(null);
    let above = if moved.len() == 3 { CHANGES } else { REPORT } + 1;
    // SAFETY: the sources are open and owned here; what the targets were is closed by the call, and nobody uses them.
    unsafe {
        for (from, to) in moved {
            if libc::dup3(from, to, libc::O_CLOEXEC) < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        if libc::syscall(libc::SYS_close_range, above, libc::c_uint::MAX, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((OwnedFd::from_raw_fd(LISTENER), OwnedFd::from_raw_fd(REPORT)))
    }
}

/// The descriptors of a program, in place of whatever this process had: `/dev/null` at 0, `log` at 1 and 2, the others from 3
/// on. Behind them, until an exec closes it, the one to report by, which is returned.
///
/// The caller holds no other descriptor it would use or close after this.
pub fn give_descriptors(log: OwnedFd, others: Vec<OwnedFd>, report: OwnedFd) -> io::Result<OwnedFd> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let first = LISTENER;
    let at = first + RawFd::try_from(others.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // Out of the way of the numbers they will get, whatever those are now.
    let mut moved = Vec::with_capacity(others.len());
    for fd in others {
        moved.push(rustix::io::fcntl_dupfd_cloexec(fd, at + 1)?.into_raw_fd());
    }
    let report = rustix::io::fcntl_dupfd_cloexec(report, at + 1)?.into_raw_fd();
    let log = rustix::io::fcntl_dupfd_cloexec(log, first)?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&log)?;
    rustix::stdio::dup2_stderr(&log)?;
    drop((null, log));
    // SAFETY: the sources are open and owned here; what the targets were is closed by the calls, and nobody uses them.
    unsafe {
        for (from, to) in moved.into_iter().zip(first..) {
            if libc::dup3(from, to, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        if libc::dup3(report, at, libc::O_CLOEXEC) < 0
            || libc::syscall(libc::SYS_close_range, at + 1, libc::c_uint::MAX, 0) != 0
        {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(at))
    }
}
