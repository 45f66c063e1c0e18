//! The way to the daemon, and who came last on it.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::time::Duration;

use moat_agent::protocol::line;
use rustix::net::{SocketFlags, accept_with};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::failure::Failure;
use super::io::Port;
use crate::machine::Device;

/// After accepting failed: no descriptors are left, and some must be closed first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whatever bytes come and go through.
pub trait Connection: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Connection for T {}

/// Where the daemon connects.
#[derive(Debug)]
pub enum Channel {
    /// A socket, for a sandbox that is no machine.
    Unix(UnixListener),
    /// A port, with connections marked in it.
    Port(Device),
    /// A listening socket of another kind.
    Vsock(Port),
}

/// The connection that began last and was not taken yet.
#[derive(Default)]
pub struct Newest {
    waiting: RefCell<Option<Box<dyn Connection>>>,
    begun: Notify,
}

impl Newest {
    fn put(&self, connection: Box<dyn Connection>) {
        self.waiting.replace(Some(connection));
        self.begun.notify_one();
    }

    /// Takes it, or the next.
    pub async fn take(&self) -> Box<dyn Connection> {
        loop {
            if let Some(connection) = self.waiting.take() {
                return connection;
            }
            self.begun.notified().await;
        }
    }
}

impl Channel {
    /// Puts every connection where it is taken from. Ends only if there can be no more.
    pub async fn listen(self, newest: &Newest) -> Failure {
        match self {
            Self::Unix(listener) => loop {
                match listener.accept().await {
                    Ok((socket, _)) => newest.put(Box::new(socket)),
                    Err(_) => sleep(ACCEPT_PAUSE).await,
                }
            },
            Self::Port(mut device) => loop {
                // Without an error: the daemon is gone, and another will come.
                if let Err(error) = line::serve(&mut device, |connection| newest.put(Box::new(connection))).await {
                    return Failure::internal("the port to the daemon", &error);
                }
            },
            Self::Vsock(listener) => loop {
                listener.readable().await;
                match accept(&listener) {
                    Some(Ok(socket)) => newest.put(Box::new(socket)),
                    Some(Err(_)) => sleep(ACCEPT_PAUSE).await,
                    None => {}
                }
            },
        }
    }
}

/// The next connection, if there is one. What reads and writes a Unix socket does the same with any stream socket.
fn accept(listener: &Port) -> Option<std::io::Result<UnixStream>> {
    let accepted = listener.attempt(|fd| Ok(accept_with(fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?));
    match accepted {
        Ok(fd) => Some(UnixStream::from_std(StdUnixStream::from(fd))),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
        Err(error) => Some(Err(error)),
    }
}

/// The listening socket of a sandbox that is no machine.
pub fn unix(listener: OwnedFd) -> Result<Channel, Failure> {
    let failed = |e: std::io::Error| Failure::internal("listening socket", &e);
    let listener = StdUnixListener::from(listener);
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(Channel::Unix(UnixListener::from_std(listener).map_err(failed)?))
}
