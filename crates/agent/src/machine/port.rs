//! A virtio port without blocking.
//!
//! While nobody is at its other end a port is hung up: reading gives an end of file and a poller says so without a pause. That is
//! no end: the next daemon will be there. So it is watched by a poller of its own that tells of changes only, and that
//! poller is what the agent's waits on.
//!
//! That somebody came is told apart from what they say, and perhaps after it: a port that seems hung up may have given bytes
//! that nobody is to lose.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::event::{Timespec, epoll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use crate::agent::Port;

/// The port.
#[derive(Debug)]
pub struct Device {
    port: OwnedFd,
    /// Readable when something about the port has changed.
    changes: Port,
    /// Somebody was at the other end when the port was last asked: bytes alone do not prove it.
    met: bool,
}

impl Device {
    /// Opens a device file. Nobody else may have it open.
    pub fn open(path: &Path) -> io::Result<Self> {
        let port = rustix::fs::open(path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
        let changes = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let what = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&changes, &port, epoll::EventData::new_u64(0), what)?;
        Ok(Self { port, changes: Port::new(changes, Interest::READABLE)?, met: false })
    }

    /// Ready when something has changed since it was last ready.
    fn poll_changed(&self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.changes.poll_news(cx, |poller| {
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let mut told = Vec::with_capacity(4);
            let _ = epoll::wait(poller, rustix::buffer::spare_capacity(&mut told), Some(&now));
        }));
        // News of the one direction may be taken in by the other, which cannot tell them apart: both try once more.
        cx.waker().wake_by_ref();
        Poll::Ready(())
    }
}

impl AsyncRead for Device {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            match rustix::io::read(&self.port, buffer.initialize_unfilled()) {
                Ok(0) if self.met => {
                    self.met = false;
                    return Poll::Ready(Ok(()));
                }
                Ok(0) => {}
                Ok(n) => {
                    buffer.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Err(Errno::AGAIN) => self.met = true,
                Err(Errno::INTR) => continue,
                Err(errno) => return Poll::Ready(Err(errno.into())),
            }
            ready!(self.poll_changed(cx));
        }
    }
}

impl AsyncWrite for Device {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match rustix::io::write(&self.port, bytes) {
                Err(Errno::AGAIN) => {}
                Err(Errno::INTR) => continue,
                Ok(n) => {
                    self.met = true;
                    return Poll::Ready(Ok(n));
                }
                Err(errno) => return Poll::Ready(Err(errno.into())),
            }
            ready!(self.poll_changed(cx));
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
