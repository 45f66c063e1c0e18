//! The few system calls that need `unsafe`, each behind a safe function.

#![expect(unsafe_code, reason = "fork has no safe wrapper")]

use std::io;

use rustix::process::Pid;

/// Which side of a fork this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// The new process.
    Child,
    /// The old one, with the id of the new.
    Parent(Pid),
}

/// Forks this process.
///
/// Sound only because the launcher and the agent never start a second thread: the child may then run ordinary code.
pub fn fork() -> io::Result<Fork> {
    // SAFETY: the process is single-threaded, so no lock is held by a thread that does not exist in the child.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => Ok(Fork::Child),
        pid => Pid::from_raw(pid).filter(|_| pid > 0).map(Fork::Parent).ok_or_else(io::Error::last_os_error),
    }
}
