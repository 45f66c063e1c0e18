//! Descriptors the runtime waits for.

#![expect(unsafe_code, reason = "registering a descriptor is unsafe for types that could swap theirs; OwnedFd cannot")]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Hands a descriptor to the runtime. Needs one around the call.
pub fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open and keeps naming the same description until it is dropped, with the AsyncFd.
    Ok(unsafe { AsyncFd::register(fd) }?)
}
