//! Frames over an asynchronous byte stream: the codec with a reader or a writer under it.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::codec::Decoder;
use super::frame::{AgentFrame, DaemonFrame, Frame, FrameError, from_header, to_header};

/// Read from a stream in one go; a frame that is longer makes the decoder reserve what it needs.
const READ_LEN: usize = 8 << 10;

/// A stream that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The connection beneath is broken.
    #[error("connection failed")]
    Io(#[from] io::Error),
    /// The other side does not speak the protocol.
    #[error("protocol error")]
    Frame(#[from] FrameError),
    /// The stream ended where something had to come.
    #[error("stream ended early")]
    Ended,
    /// A frame came where another kind had to.
    #[error("unexpected frame")]
    Unexpected,
}

impl StreamError {
    /// Whether the other side broke the protocol, rather than the connection having broken.
    pub fn is_protocol(&self) -> bool {
        matches!(self, Self::Frame(_) | Self::Unexpected)
    }
}

/// Reads frames of one direction.
#[derive(Debug)]
pub struct FrameReader<R, F> {
    inner: R,
    decoder: Decoder<F>,
}

impl<R: AsyncRead + Unpin, F: Frame> FrameReader<R, F> {
    /// Over a byte stream.
    pub fn new(inner: R) -> Self {
        Self { inner, decoder: Decoder::default() }
    }

    /// The next frame, or `None` at the end. May be dropped at any point and called again.
    pub async fn next(&mut self) -> Result<Option<F>, StreamError> {
        loop {
            if let Some(frame) = self.decoder.pop()? {
                return Ok(Some(frame));
            }
            let buffer = self.decoder.buffer_mut();
            buffer.reserve(READ_LEN);
            if self.inner.read_buf(&mut BufMut::limit(&mut *buffer, READ_LEN)).await? == 0 {
                return if self.decoder.is_mid_frame() { Err(StreamError::Ended) } else { Ok(None) };
            }
        }
    }

    /// The byte stream again, and what was read beyond the last frame.
    pub fn into_parts(self) -> (R, BytesMut) {
        let mut decoder = self.decoder;
        (self.inner, std::mem::take(decoder.buffer_mut()))
    }
}

/// A frame that can carry a JSON header.
pub trait HeaderFrame: Frame {
    /// The header's JSON, if this is one.
    fn header(&self) -> Option<&[u8]>;
    /// As a frame.
    fn from_header(body: Bytes) -> Self;
}

impl HeaderFrame for DaemonFrame {
    fn header(&self) -> Option<&[u8]> {
        if let Self::Header(body) = self { Some(body) } else { None }
    }
    fn from_header(body: Bytes) -> Self {
        Self::Header(body)
    }
}

impl HeaderFrame for AgentFrame {
    fn header(&self) -> Option<&[u8]> {
        if let Self::Header(body) = self { Some(body) } else { None }
    }
    fn from_header(body: Bytes) -> Self {
        Self::Header(body)
    }
}

impl<R: AsyncRead + Unpin, F: HeaderFrame> FrameReader<R, F> {
    /// The JSON header a stream begins with.
    pub async fn header<T: DeserializeOwned>(&mut self) -> Result<T, StreamError> {
        let frame = self.next().await?.ok_or(StreamError::Ended)?;
        Ok(from_header(frame.header().ok_or(StreamError::Unexpected)?)?)
    }
}

/// Writes one frame.
pub async fn write_frame<F: Frame>(to: &mut (impl AsyncWrite + Unpin), frame: &F) -> Result<(), StreamError> {
    let mut wire = BytesMut::new();
    frame.encode(&mut wire);
    to.write_all(&wire).await?;
    to.flush().await?;
    Ok(())
}

/// Writes the JSON header a stream begins with.
pub async fn write_header<F: HeaderFrame>(
    to: &mut (impl AsyncWrite + Unpin),
    value: &impl Serialize,
) -> Result<(), StreamError> {
    write_frame(to, &F::from_header(to_header(value)?)).await
}
