//! The main process's output, read from an agent that is not believed.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use moat_agent::protocol::frame::{AgentFrame, DaemonFrame, Frame};
use moat_agent::protocol::stream::StreamError;
use moat_agent::protocol::{Offsets, StreamName};
use moat_model::ErrorKind;
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use super::{Opened, stream_error};
use crate::error::{Error, Result};
use crate::guest::{Chunk, OutputReader};

const DOING: &str = "read the main process's output";

/// Where one stream stands.
#[derive(Debug, Clone, Copy)]
struct Progress {
    /// Offset the next piece must have.
    next: u64,
    ended: bool,
}

/// A reader of the main process's output.
#[derive(Debug)]
pub struct Output {
    opened: Opened,
    stdout: Progress,
    stderr: Progress,
    /// Acknowledgements that are not written yet: a write that was interrupted goes on where it was.
    unwritten: BytesMut,
    broken: Arc<Notify>,
}

impl Output {
    /// Over a stream on which the agent has accepted to send output from these offsets on.
    pub fn new(opened: Opened, from: Offsets, broken: Arc<Notify>) -> Self {
        let begin = |next| Progress { next, ended: false };
        Self { opened, stdout: begin(from.stdout), stderr: begin(from.stderr), unwritten: BytesMut::new(), broken }
    }

    fn progress(&mut self, stream: StreamName) -> &mut Progress {
        match stream {
            StreamName::Stdout => &mut self.stdout,
            StreamName::Stderr => &mut self.stderr,
        }
    }

    /// The stream it is about, if the agent may say this now.
    fn expect(&mut self, stream: StreamName, offset: u64) -> Result<&mut Progress> {
        let progress = self.progress(stream);
        if progress.ended || progress.next != offset {
            return Err(stream_error(&self.broken, DOING, StreamError::Unexpected));
        }
        Ok(self.progress(stream))
    }
}

#[async_trait]
impl OutputReader for Output {
    async fn next(&mut self) -> Result<Option<Chunk>> {
        while !(self.stdout.ended && self.stderr.ended) {
            let frame = self.opened.reader.next().await.map_err(|e| stream_error(&self.broken, DOING, e))?;
            match frame {
                Some(AgentFrame::Data { stream, offset, bytes }) => {
                    let progress = self.expect(stream, offset)?;
                    progress.next = offset.saturating_add(bytes.len() as u64);
                    return Ok(Some(Chunk { stream, offset, bytes }));
                }
                Some(AgentFrame::End { stream, offset }) => self.expect(stream, offset)?.ended = true,
                Some(_) => return Err(stream_error(&self.broken, DOING, StreamError::Unexpected)),
                None => return Err(Error::caused_by(ErrorKind::Unavailable, DOING, StreamError::Ended)),
            }
        }
        Ok(None)
    }

    async fn acknowledge(&mut self, upto: Offsets) -> Result<()> {
        DaemonFrame::Acknowledge(upto).encode(&mut self.unwritten);
        while self.unwritten.has_remaining() {
            let written = self.opened.writer.write_buf(&mut self.unwritten).await;
            written.map_err(|e| stream_error(&self.broken, "acknowledge output", e.into()))?;
        }
        Ok(())
    }
}
