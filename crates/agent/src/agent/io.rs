//! A pipe or a terminal without blocking.

#![expect(unsafe_code, reason = "registering a descriptor with the poller promises that it stays open")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What a read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// So many bytes.
    Bytes(usize),
    /// No writer is left. A terminal whose other side is closed says so with an error, which is an end like any other.
    End,
    /// Nothing for now.
    Nothing,
}

impl Read {
    fn of(result: io::Result<usize>) -> Self {
        match result {
            Ok(0) => Self::End,
            Ok(n) => Self::Bytes(n),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Self::Nothing,
            Err(_) => Self::End,
        }
    }
}

/// One end of a pipe, or the master of a terminal.
#[derive(Debug)]
pub struct Port(AsyncFd<OwnedFd>);

impl Port {
    /// For reading, or for writing, or (a terminal) for both.
    pub fn new(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        // SAFETY: the descriptor is owned by the value that is registered, which neither closes nor replaces it.
        let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
        Ok(Self(registered.map_err(io::Error::from)?))
    }

    /// Resolves when there may be something to read.
    pub async fn readable(&self) {
        // An error means that the runtime ends.
        let _ = self.0.readable().await;
    }

    /// Reads what [`readable`](Self::readable) promised.
    pub fn read(&self, buffer: &mut [u8]) -> Read {
        Read::of(self.0.try_io(Interest::READABLE, |fd| read_once(fd.as_fd(), buffer)))
    }

    /// Reads what is there, whatever the poller knows of it.
    pub fn read_now(&self, buffer: &mut [u8]) -> Read {
        Read::of(read_once(self.0.as_fd(), buffer))
    }

    /// Ready when the poller has news, after `take` has taken them in.
    pub fn poll_news(&self, cx: &mut Context<'_>, take: impl FnOnce(BorrowedFd<'_>)) -> Poll<()> {
        match ready!(self.0.poll_read_ready(cx)) {
            Ok(mut guard) => {
                take(self.0.as_fd());
                guard.clear_ready();
                Poll::Ready(())
            }
            // The runtime ends.
            Err(_) => Poll::Pending,
        }
    }

    /// Does what [`readable`](Self::readable) promised to work.
    pub fn attempt<T>(&self, what: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        self.0.try_io(Interest::READABLE, |fd| what(fd.as_fd()))
    }

    /// Writes at least one byte.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|fd| Ok(rustix::io::write(fd, bytes)?)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn read_once(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::io::read(fd, &mut *buffer) {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}
