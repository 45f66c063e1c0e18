//! A connection to a port inside: content frames under a byte channel.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures::task::AtomicWaker;
use moat_agent::protocol::CONTENT_LEN_MAX;
use moat_agent::protocol::frame::{AgentFrame, DaemonFrame, Frame};
use moat_agent::protocol::mux::Stream;
use moat_agent::protocol::stream::FrameReader;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::{Opened, shorten};

/// Reads and writes one connection. Dropping it tells the agent that nobody is there any more.
#[derive(Debug)]
pub struct Connection {
    reader: FrameReader<ReadHalf<Stream>, AgentFrame>,
    writer: WriteHalf<Stream>,
    /// Received and not read yet: the rest of one frame.
    unread: Bytes,
    received: u64,
    /// The program has said everything.
    ended: bool,
    /// At most one frame that was accepted and not written yet.
    unwritten: BytesMut,
    /// We have.
    finished: bool,
    wakers: Arc<Wakers>,
    broken: Arc<Notify>,
    _permit: OwnedSemaphorePermit,
}

/// Who reads and who writes. Beneath is one place for a waker that both directions use, so each wakes both.
#[derive(Debug, Default)]
struct Wakers {
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.reader.wake();
        self.writer.wake();
    }
}

impl Connection {
    /// Over a stream on which the agent said that it is connected.
    pub fn new(opened: Opened, broken: Arc<Notify>) -> Self {
        let Opened { reader, writer, permit } = opened;
        Self {
            reader,
            writer,
            unread: Bytes::new(),
            received: 0,
            ended: false,
            unwritten: BytesMut::new(),
            finished: false,
            wakers: Arc::default(),
            broken,
            _permit: permit,
        }
    }

    /// Takes one more frame from the agent.
    fn poll_hear(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let reset = |what: String| Err(io::Error::new(io::ErrorKind::ConnectionReset, what));
        let said = ready!(pin!(self.reader.next()).poll(cx));
        Poll::Ready(match said {
            Ok(Some(AgentFrame::Content(bytes))) => {
                self.received += bytes.len() as u64;
                self.unread = bytes;
                Ok(())
            }
            Ok(Some(AgentFrame::Done { bytes, .. })) if bytes == self.received => {
                self.ended = true;
                Ok(())
            }
            Ok(Some(AgentFrame::Failed(said))) => reset(shorten(said.message)),
            Ok(Some(_)) => Err(self.protocol_error()),
            Ok(None) => reset("the agent ended the connection".to_owned()),
            Err(error) if error.is_protocol() => Err(self.protocol_error()),
            Err(error) => reset(error.to_string()),
        })
    }

    fn protocol_error(&self) -> io::Error {
        self.broken.notify_one();
        io::Error::new(io::ErrorKind::InvalidData, "the agent broke the protocol")
    }

    fn poll_unwritten(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.unwritten.has_remaining() {
            let written = ready!(Pin::new(&mut self.writer).poll_write(cx, &self.unwritten)).map_err(gone)?;
            self.unwritten.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

/// Writing fails beneath only when the stream is there no more.
fn gone(error: io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, error)
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.wakers.reader.register(cx.waker());
        let waker = Waker::from(this.wakers.clone());
        let mut cx = Context::from_waker(&waker);
        while this.unread.is_empty() && !this.ended {
            ready!(this.poll_hear(&mut cx))?;
        }
        to.put_slice(&this.unread.split_to(this.unread.len().min(to.remaining())));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        this.wakers.writer.register(cx.waker());
        let waker = Waker::from(this.wakers.clone());
        let mut cx = Context::from_waker(&waker);
        ready!(this.poll_unwritten(&mut cx))?;
        let taken = bytes.get(..bytes.len().min(CONTENT_LEN_MAX)).unwrap_or_default();
        if !taken.is_empty() {
            DaemonFrame::Content(Bytes::copy_from_slice(taken)).encode(&mut this.unwritten);
        }
        match this.poll_unwritten(&mut cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // What could not be written yet is, before anything else or when it is flushed.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken.len())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.wakers.writer.register(cx.waker());
        let waker = Waker::from(this.wakers.clone());
        let mut cx = Context::from_waker(&waker);
        ready!(this.poll_unwritten(&mut cx))?;
        Pin::new(&mut this.writer).poll_flush(&mut cx).map_err(gone)
    }

    /// Ends one direction by a frame: the stream itself stays open, so that the agent learns when this is dropped.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.as_mut().get_mut();
        if !this.finished {
            this.wakers.writer.register(cx.waker());
            let waker = Waker::from(this.wakers.clone());
            ready!(this.poll_unwritten(&mut Context::from_waker(&waker)))?;
            DaemonFrame::Finish.encode(&mut this.unwritten);
            this.finished = true;
        }
        self.poll_flush(cx)
    }
}
