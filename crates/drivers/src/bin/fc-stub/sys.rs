//! The calls a jailer makes, each behind a safe function. Both programs have one thread when they are made.

#![expect(unsafe_code, reason = "fork, unshare and changing ids have no safe wrapper")]

use std::io;

/// In the child 0, else its number.
pub fn fork_into_new_pid_namespace() -> io::Result<i32> {
    // SAFETY: only file descriptor sharing makes unsharing unsafe, and that is not asked for.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWPID) }?;
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid),
    }
}

/// Gives up every other user.
pub fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    let done = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: none of them takes memory, but for the null list of no groups.
    unsafe {
        done(libc::setgroups(0, std::ptr::null()))?;
        done(libc::setgid(gid))?;
        done(libc::setuid(uid))
    }
}

/// Whether the network this process is in has such a link.
pub fn has_link(name: &str) -> bool {
    let Ok(name) = std::ffi::CString::new(name) else { return false };
    // SAFETY: the name is a C string that lives for the call.
    unsafe { libc::if_nametoindex(name.as_ptr()) != 0 }
}
