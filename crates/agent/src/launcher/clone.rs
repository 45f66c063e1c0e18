//! The one process creation of the launcher.

#![expect(unsafe_code, reason = "clone3 has no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use moat_agent::launch::JailConfig;
use rustix::process::Pid;

/// Everything a container has of its own but the cgroup namespace: that would begin at the cgroup of this process, and the
/// copy is born into another one. It has no network namespace of its own if it is born into one somebody made for it.
pub fn container(jail: &JailConfig) -> i32 {
    let own = |namespace, own: bool| if own { namespace } else { 0 };
    libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWUTS
        | own(libc::CLONE_NEWPID, !jail.host_pid)
        | own(libc::CLONE_NEWIPC, !jail.host_ipc)
        | own(libc::CLONE_NEWNET, jail.network.is_none())
}

/// Which side of the call this is.
#[derive(Debug)]
pub enum Side {
    /// The new process.
    Child,
    /// The old one.
    Parent {
        /// Id of the new process.
        pid: Pid,
        /// The new process itself.
        pidfd: OwnedFd,
    },
}

/// `CLONE_INTO_CGROUP` of linux/sched.h: it does not fit the type of the others.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Copies this process into new namespaces (none if zero) and into the version 2 cgroup whose directory is given.
///
/// Sound only because the launcher never starts a second thread: the child may then run ordinary code. The thread id that
/// glibc keeps in memory is stale in the child; only `raise` and `abort` look at it, and both still end the process.
pub fn clone3(namespaces: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Side> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from(namespaces.cast_unsigned() | libc::CLONE_PIDFD.cast_unsigned());
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM the child gets a copy of the whole memory, stack included, and continues here; the process
    // is single-threaded, so no lock is held by a thread that does not exist in the copy.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match result {
        0 => Ok(Side::Child),
        pid if pid > 0 => {
            // SAFETY: CLONE_PIDFD made the kernel store a new descriptor there, and nobody else has it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            pid.map(|pid| Side::Parent { pid, pidfd }).ok_or_else(|| io::Error::other("clone3 returned no process id"))
        }
        _ => Err(io::Error::last_os_error()),
    }
}
