//! The worker's line to the daemon: frames, blocking.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use bytes::{Bytes, BytesMut};
use moat_agent::protocol::codec::Decoder;
use moat_agent::protocol::frame::{AgentFrame, DaemonFrame, Frame, Trouble, to_header};
use moat_agent::protocol::{CONTENT_LEN_MAX, FRAME_LEN_MAX, Reply};
use moat_model::ErrorKind;

use crate::agent::failure::Failure;

/// Why work ends early.
#[derive(Debug)]
pub enum Stop {
    /// It cannot go on, and whoever asked is told.
    Failed(Failure),
    /// Nobody is there any more who could be told.
    HungUp,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// The line.
#[derive(Debug)]
pub struct Line {
    socket: UnixStream,
    decoder: Decoder<DaemonFrame>,
    scratch: Vec<u8>,
    wire: BytesMut,
    /// The reply header was sent.
    replied: bool,
}

impl Line {
    /// Over the worker's end of the socket.
    pub fn new(socket: UnixStream) -> Self {
        Self { socket, decoder: Decoder::default(), scratch: Vec::new(), wire: BytesMut::new(), replied: false }
    }

    /// The header that answers the request; once.
    pub fn reply(&mut self, reply: &Reply) -> Result<(), Stop> {
        let header =
            to_header(reply).map_err(|e| Failure::new(ErrorKind::Exhausted, format!("the answer is too long: {e}")))?;
        self.replied = true;
        self.say(&AgentFrame::Header(header))
    }

    /// Another frame.
    pub fn say(&mut self, frame: &AgentFrame) -> Result<(), Stop> {
        self.wire.clear();
        frame.encode(&mut self.wire);
        self.socket.write_all(&self.wire).map_err(|_| Stop::HungUp)
    }

    /// The last thing said, if there is somebody to hear it.
    pub fn fail(&mut self, failure: Failure) {
        let _ = if self.replied {
            self.say(&AgentFrame::Failed(Trouble { kind: failure.kind, message: failure.message }))
        } else {
            self.reply(&Reply::from(failure))
        };
    }

    /// The next frame.
    pub fn hear(&mut self) -> Result<DaemonFrame, Stop> {
        loop {
            if let Some(frame) = self.decoder.pop().map_err(|_| Stop::HungUp)? {
                return Ok(frame);
            }
            self.scratch.resize(FRAME_LEN_MAX, 0);
            match self.socket.read(&mut self.scratch) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return Err(Stop::HungUp),
                Ok(n) => self.decoder.push(self.scratch.get(..n).unwrap_or_default()),
            }
        }
    }

    /// The next piece of content, or `None` when all was sent.
    pub fn content(&mut self) -> Result<Option<Bytes>, Stop> {
        match self.hear()? {
            DaemonFrame::Content(bytes) => Ok(Some(bytes)),
            DaemonFrame::Finish => Ok(None),
            _ => Err(Stop::HungUp),
        }
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Content on its way out, in frames as large as they may be.
#[derive(Debug)]
pub struct Outward<'a> {
    line: &'a mut Line,
    buffer: Vec<u8>,
    bytes: u64,
}

impl<'a> Outward<'a> {
    /// Nothing yet.
    pub fn new(line: &'a mut Line) -> Self {
        Self { line, buffer: Vec::with_capacity(CONTENT_LEN_MAX), bytes: 0 }
    }

    /// Appends.
    pub fn put(&mut self, mut bytes: &[u8]) -> Result<(), Stop> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CONTENT_LEN_MAX - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == CONTENT_LEN_MAX {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Stop> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.bytes += self.buffer.len() as u64;
        let content = AgentFrame::Content(Bytes::copy_from_slice(&self.buffer));
        self.buffer.clear();
        self.line.say(&content)
    }

    /// All was delivered: says so, which nothing else does.
    pub fn finish(mut self, entries: u64) -> Result<(), Stop> {
        self.flush()?;
        self.line.say(&AgentFrame::Done { bytes: self.bytes, entries })
    }
}

/// Content on its way in, as a stream of bytes.
#[derive(Debug)]
pub struct Inward<'a> {
    line: &'a mut Line,
    piece: Bytes,
    finished: bool,
}

impl<'a> Inward<'a> {
    /// From its first byte.
    pub fn new(line: &'a mut Line) -> Self {
        Self { line, piece: Bytes::new(), finished: false }
    }

    /// At most `len` bytes, and none only at the end.
    pub fn take(&mut self, len: usize) -> Result<Bytes, Stop> {
        while self.piece.is_empty() && !self.finished {
            match self.line.content()? {
                Some(piece) => self.piece = piece,
                None => self.finished = true,
            }
        }
        Ok(self.piece.split_to(self.piece.len().min(len)))
    }

    /// Fills the buffer; returns how much there was before the end.
    pub fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, Stop> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let piece = self.take(rest.len())?;
            if piece.is_empty() {
                break;
            }
            for (to, from) in rest.iter_mut().zip(&piece) {
                *to = *from;
            }
            filled += piece.len();
        }
        Ok(filled)
    }
}
