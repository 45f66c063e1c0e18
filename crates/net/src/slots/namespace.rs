//! Threads that are inside a network namespace. Each is made for one job and thrown away: one that came back to other work
//! would do it in the wrong place.

#![expect(unsafe_code, reason = "unshare has no safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::thread::{LinkNameSpaceType, UnshareFlags};

/// Runs a job in a new namespace, which lives as long as what the job is given is open.
pub fn fresh<T: Send>(job: impl FnOnce(OwnedFd) -> io::Result<T> + Send) -> io::Result<T> {
    on_a_thread(|| {
        // SAFETY: Only sharing of descriptors is dangerous to end, and it is not; this thread alone moves, and it ends here.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
        job(File::open("/proc/thread-self/ns/net")?.into())
    })
}

/// Runs a job in a namespace that exists.
pub fn within<T: Send>(namespace: BorrowedFd<'_>, job: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    on_a_thread(|| {
        rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
        job()
    })
}

fn on_a_thread<T: Send>(job: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("moat-netns".to_owned()).spawn_scoped(scope, job)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread in a network namespace panicked")))
    })
}
