//! Files inside, through an agent that is not believed: content both ways, and what happens to them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use moat_agent::protocol::CONTENT_LEN_MAX;
use moat_agent::protocol::frame::{AgentFrame, DaemonFrame, Frame, Trouble};
use moat_agent::protocol::stream::StreamError;
use moat_model::ErrorKind;
use moat_model::file::WatchEvent;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, mpsc};

use super::{Opened, shorten, stream_error, within};
use crate::error::{Error, Result};
use crate::guest::{BytesIn, BytesOut, PushSink, Pushed};

/// Pieces (of at most 64 KiB) waiting for whoever reads a file.
const PIECES_MAX: usize = 4;
/// Events waiting for whoever watches; more wait in the kernel inside, which has a bound of its own.
const EVENTS_MAX: usize = 256;
/// Putting in place what was pushed: what is still on the way is written first.
const FINISH_DEADLINE: Duration = Duration::from_secs(120);

const PULLING: &str = "read from the sandbox";
const PUSHING: &str = "write into the sandbox";

/// What the agent says went wrong.
fn trouble(doing: &str, trouble: Trouble) -> Error {
    Error::caused_by(trouble.kind, doing, shorten(trouble.message))
}

/// Passes content on until all of it was delivered, something goes wrong, or nobody listens.
pub fn pull(opened: Opened, broken: Arc<Notify>) -> BytesOut {
    let (out, pieces) = mpsc::channel(PIECES_MAX);
    tokio::spawn(async move {
        // All of it lives as long as this task: the stream, and the permission to have it open.
        let Opened { mut reader, writer: _writer, permit: _permit } = opened;
        let mut received = 0_u64;
        let failure = loop {
            let frame = tokio::select! {
                frame = reader.next() => frame,
                // Dropping the stream hangs up.
                () = out.closed() => return,
            };
            match frame {
                Ok(Some(AgentFrame::Content(bytes))) => {
                    received += bytes.len() as u64;
                    if out.send(Ok(bytes)).await.is_err() {
                        return;
                    }
                }
                Ok(Some(AgentFrame::Done { bytes, .. })) if bytes == received => return,
                Ok(Some(AgentFrame::Failed(said))) => break trouble(PULLING, said),
                Ok(Some(_)) => break stream_error(&broken, PULLING, StreamError::Unexpected),
                // The process that reads was killed, or the sandbox ended.
                Ok(None) => break Error::caused_by(ErrorKind::Unavailable, PULLING, StreamError::Ended),
                Err(error) => break stream_error(&broken, PULLING, error),
            }
        };
        // Nobody may be listening any more.
        let _ = out.send(Err(failure)).await;
    });
    pieces
}

/// Takes content to a sandbox.
pub struct Push {
    opened: Opened,
    /// Frames that are not written yet: a write that was interrupted goes on where it was.
    unwritten: BytesMut,
    broken: Arc<Notify>,
}

impl Push {
    /// Over a stream on which the agent has accepted to take content.
    pub fn start(opened: Opened, broken: Arc<Notify>) -> BytesIn {
        Box::new(Self { opened, unwritten: BytesMut::new(), broken })
    }

    async fn flush(&mut self) -> Result<()> {
        while self.unwritten.has_remaining() {
            tokio::select! {
                biased;
                // Before the end the agent says something only if it cannot go on.
                said = self.opened.reader.next() => return Err(self.refusal(said)),
                written = self.opened.writer.write_buf(&mut self.unwritten) => {
                    if written.is_err() {
                        let said = self.opened.reader.next().await;
                        return Err(self.refusal(said));
                    }
                }
            }
        }
        Ok(())
    }

    fn refusal(&self, said: std::result::Result<Option<AgentFrame>, StreamError>) -> Error {
        match said {
            Ok(Some(AgentFrame::Failed(said))) => trouble(PUSHING, said),
            Ok(Some(_)) => stream_error(&self.broken, PUSHING, StreamError::Unexpected),
            Ok(None) => Error::caused_by(ErrorKind::Unavailable, PUSHING, StreamError::Ended),
            Err(error) => stream_error(&self.broken, PUSHING, error),
        }
    }
}

#[async_trait]
impl PushSink for Push {
    async fn send(&mut self, mut bytes: Bytes) -> Result<()> {
        self.flush().await?;
        while !bytes.is_empty() {
            DaemonFrame::Content(bytes.split_to(bytes.len().min(CONTENT_LEN_MAX))).encode(&mut self.unwritten);
            if self.unwritten.len() >= CONTENT_LEN_MAX && !bytes.is_empty() {
                self.flush().await?;
            }
        }
        self.flush().await
    }

    async fn finish(mut self: Box<Self>) -> Result<Pushed> {
        within(FINISH_DEADLINE, PUSHING, async {
            DaemonFrame::Finish.encode(&mut self.unwritten);
            self.flush().await?;
            match self.opened.reader.next().await {
                Ok(Some(AgentFrame::Done { bytes, entries })) => Ok(Pushed { bytes, entries }),
                said => Err(self.refusal(said)),
            }
        })
        .await
    }
}

/// Passes events on until nobody listens or the agent has nothing more to tell.
pub fn watch(opened: Opened, broken: Arc<Notify>) -> mpsc::Receiver<WatchEvent> {
    let (out, events) = mpsc::channel(EVENTS_MAX);
    tokio::spawn(async move {
        let Opened { mut reader, writer: _writer, permit: _permit } = opened;
        loop {
            let frame = tokio::select! {
                frame = reader.next() => frame,
                () = out.closed() => return,
            };
            let error = match frame {
                Ok(Some(AgentFrame::Event(event))) => match out.send(event).await {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                Ok(Some(AgentFrame::Done { .. }) | None) => return,
                Ok(Some(AgentFrame::Failed(said))) => trouble("watch files", said),
                Ok(Some(_)) => stream_error(&broken, "watch files", StreamError::Unexpected),
                Err(error) => stream_error(&broken, "watch files", error),
            };
            return tracing::debug!(error = error.chain(), "a watch was lost");
        }
    });
    events
}
