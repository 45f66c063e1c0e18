//! The yamux session over the one byte channel, driven the same way on both sides.

use std::future::poll_fn;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};
pub use yamux::{ConnectionError, Mode};

/// A stream of the session, with tokio's traits.
pub type Stream = Compat<yamux::Stream>;

/// Concurrent execs in one sandbox.
pub const EXECS_MAX: usize = 64;
/// Concurrent streams for everything else the daemon asks; it opens few and they end at once.
pub const VERBS_MAX: usize = 64;
/// Concurrent forwarded connections.
pub const FORWARDS_MAX: usize = 64;
/// Concurrent transfers of files; each is a process inside and up to a megabyte on its way.
pub const TRANSFERS_MAX: usize = 32;
/// Concurrent watches; each is a process inside.
pub const WATCHES_MAX: usize = 16;
/// Concurrent followers of spawned processes.
pub const ATTACHES_MAX: usize = 64;
/// Concurrent connections to ports inside: those of some twenty browsers.
pub const CONNECTS_MAX: usize = 128;
/// All that the daemon opens.
pub const REQUESTS_MAX: usize = EXECS_MAX + VERBS_MAX + TRANSFERS_MAX + WATCHES_MAX + ATTACHES_MAX + CONNECTS_MAX;
/// What a session bears. A stream that was dropped counts until its last frame is out, so this is a third more than the
/// bounds together; reaching it ends the session.
pub const STREAMS_MAX: usize = (REQUESTS_MAX + FORWARDS_MAX) / 3 * 4;

/// Somebody who waits for a stream.
pub type OpenReply = oneshot::Sender<Stream>;

/// Windows never grow beyond the 256 KiB that every stream starts with: the channel is local, its delay is nothing, and
/// growth would only hold more of what nobody reads.
fn config() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(STREAMS_MAX);
    config.set_max_connection_receive_window(Some(STREAMS_MAX * yamux::DEFAULT_CREDIT as usize));
    config
}

/// Drives a session until it ends: opens a stream for everybody who asks through `opens`, hands those the other side
/// opens to `inbound`. `Ok` when the other side closed it or nobody can ask any more. Dropping the future ends the
/// session and every stream of it.
pub async fn drive<T>(
    io: T,
    mode: Mode,
    opens: &mut mpsc::Receiver<OpenReply>,
    mut inbound: impl FnMut(Stream),
) -> Result<(), ConnectionError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = yamux::Connection::new(io.compat(), config(), mode);
    let mut asked: Option<OpenReply> = None;
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = poll_opens(cx, &mut connection, opens, &mut asked) {
                return Poll::Ready(result);
            }
            match connection.poll_next_inbound(cx) {
                Poll::Ready(Some(Ok(stream))) => inbound(stream.compat()),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

/// Serves everybody who waits for a stream; ready only when the session is over.
fn poll_opens<T>(
    cx: &mut Context<'_>,
    connection: &mut yamux::Connection<T>,
    opens: &mut mpsc::Receiver<OpenReply>,
    asked: &mut Option<OpenReply>,
) -> Poll<Result<(), ConnectionError>>
where
    T: futures::AsyncRead + futures::AsyncWrite + Unpin,
{
    loop {
        if asked.is_none() {
            match opens.poll_recv(cx) {
                Poll::Ready(Some(reply)) => *asked = Some(reply),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
        if asked.as_ref().is_some_and(oneshot::Sender::is_closed) {
            *asked = None;
            continue;
        }
        match connection.poll_new_outbound(cx) {
            Poll::Ready(Ok(stream)) => {
                if let Some(reply) = asked.take() {
                    // Whoever asked may have gone; the stream then ends with this value.
                    let _ = reply.send(stream.compat());
                }
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        }
    }
}
