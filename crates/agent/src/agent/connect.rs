//! A connection the daemon makes to a port of the sandbox's own loopback.
//!
//! It is carried in content frames, not as raw bytes: the end of one direction is a frame, so the end of the stream always
//! means that the daemon has gone, and a connection that broke is never taken for one that ended.

use std::cell::RefCell;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use moat_agent::protocol::frame::{AgentFrame, DaemonFrame, Trouble};
use moat_agent::protocol::mux::Stream;
use moat_agent::protocol::stream::{FrameReader, StreamError, write_frame, write_header};
use moat_agent::protocol::{CONTENT_LEN_MAX, Reply};
use moat_model::ErrorKind;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{sleep, timeout};

use super::Agent;
use super::failure::Failure;
use super::session::{Reader, Writer, answer};

/// A port on loopback answers at once unless the program's queue is full.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// How often a connection whose program does not read looks whether the daemon is still there; nothing wakes it for that.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Connects, and carries bytes both ways until both have ended or one side has gone.
pub async fn serve(agent: &Agent, port: u16, mut reader: Reader, mut writer: Writer) -> Result<(), StreamError> {
    let Ok(_permit) = agent.connects.try_acquire() else {
        let full = Failure::new(ErrorKind::Exhausted, "too many connections to ports of this sandbox");
        return answer(&mut writer, full.into()).await;
    };
    let connected = tokio::select! {
        connected = connect(agent, port) => connected,
        // The daemon says nothing before the answer: it has gone, or broke the protocol.
        _ = reader.next() => return Ok(()),
    };
    let socket = match connected {
        Ok(socket) => socket,
        Err(failure) => return answer(&mut writer, failure.into()).await,
    };
    write_header::<AgentFrame>(&mut writer, &Reply::Connected).await?;
    let (stream, early) = reader.into_parts();
    if !early.is_empty() {
        return Err(StreamError::Unexpected);
    }
    carry(agent, socket, Shared(Rc::new(RefCell::new(stream.unsplit(writer))))).await
}

async fn connect(agent: &Agent, port: u16) -> Result<TcpStream, Failure> {
    if port == 0 {
        return Err(Failure::invalid("port 0 is no port"));
    }
    if agent.config.forward_ports.contains(&port) {
        return Err(Failure::new(ErrorKind::Denied, format!("port {port} is the agent's: it leads to the daemon")));
    }
    let first = match one(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await {
        Ok(socket) => return Ok(socket),
        Err(error) => error,
    };
    // A program may listen on the other loopback only.
    if first.kind() == io::ErrorKind::ConnectionRefused
        && let Ok(socket) = one(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await
    {
        return Ok(socket);
    }
    let kind = match first.kind() {
        io::ErrorKind::ConnectionRefused => ErrorKind::NotFound,
        io::ErrorKind::TimedOut => ErrorKind::Deadline,
        _ => ErrorKind::Unavailable,
    };
    Err(Failure::new(kind, format!("port {port} of the sandbox: {first}")))
}

async fn one(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = timeout(CONNECT_DEADLINE, TcpStream::connect(address)).await??;
    socket.set_nodelay(true)?;
    Ok(socket)
}

async fn carry(agent: &Agent, socket: TcpStream, stream: Shared) -> Result<(), StreamError> {
    let (from_program, to_program) = socket.into_split();
    {
        let mut inward = std::pin::pin!(inward(stream.clone(), to_program));
        let mut outward = std::pin::pin!(outward(agent, from_program, stream.clone()));
        tokio::select! {
            hearing = &mut inward => {
                let mut hearing = hearing?;
                tokio::select! {
                    result = outward => result?,
                    // After its end the daemon says nothing more: it has gone, or broke the protocol.
                    _ = hearing.next() => return Ok(()),
                }
            }
            result = &mut outward => {
                result?;
                inward.await?;
            }
        }
    }
    let mut stream = stream;
    Ok(stream.shutdown().await?)
}

/// What the daemon says, to the program, until the daemon has said everything.
async fn inward(stream: Shared, mut to: OwnedWriteHalf) -> Result<FrameReader<Shared, DaemonFrame>, StreamError> {
    let mut hearing = FrameReader::<_, DaemonFrame>::new(stream.clone());
    let mut listens = true;
    loop {
        match hearing.next().await?.ok_or(StreamError::Ended)? {
            DaemonFrame::Content(bytes) if listens => {
                tokio::select! {
                    // A program that does not listen may still have something to say: the rest is taken and thrown away.
                    written = to.write_all(&bytes) => listens = written.is_ok(),
                    () = stream.left() => return Err(StreamError::Ended),
                }
            }
            DaemonFrame::Content(_) => {}
            DaemonFrame::Finish => {
                // It may have closed its side already.
                let _ = to.shutdown().await;
                return Ok(hearing);
            }
            _ => return Err(StreamError::Unexpected),
        }
    }
}

/// What the program says, to the daemon, until it has said everything or its connection broke.
async fn outward(agent: &Agent, from: OwnedReadHalf, mut stream: Shared) -> Result<(), StreamError> {
    let mut sent = 0_u64;
    loop {
        let read = match from.readable().await {
            Ok(()) => read(agent, &from),
            Err(error) => Err(error),
        };
        match read {
            Ok(bytes) if bytes.is_empty() => {
                return write_frame(&mut stream, &AgentFrame::Done { bytes: sent, entries: 0 }).await;
            }
            Ok(bytes) => {
                sent += bytes.len() as u64;
                write_frame(&mut stream, &AgentFrame::Content(bytes)).await?;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                let message = format!("the program's connection: {error}");
                let failed = AgentFrame::Failed(Trouble { kind: ErrorKind::Unavailable, message });
                write_frame(&mut stream, &failed).await?;
                return Err(error.into());
            }
        }
    }
}

/// Through the buffer everything shares, so that an idle connection holds none.
fn read(agent: &Agent, from: &OwnedReadHalf) -> io::Result<Bytes> {
    let mut scratch = agent.scratch.borrow_mut();
    let len = scratch.len().min(CONTENT_LEN_MAX);
    let buffer = scratch.get_mut(..len).unwrap_or_default();
    let read = from.try_read(buffer)?;
    Ok(Bytes::copy_from_slice(buffer.get(..read).unwrap_or_default()))
}

/// The daemon's stream, for both directions and for looking whether it is still there. All in one task.
#[derive(Debug, Clone)]
struct Shared(Rc<RefCell<Stream>>);

impl Shared {
    /// Resolves soon after the daemon has given the stream up. A reader learns that at once, but it cannot read while the
    /// program does not take what was read last.
    async fn left(&self) {
        while !self.0.borrow().get_ref().is_closed() {
            sleep(LOOK_EVERY).await;
        }
    }
}

impl AsyncRead for Shared {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_read(cx, to)
    }
}

impl AsyncWrite for Shared {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(cx)
    }
}
