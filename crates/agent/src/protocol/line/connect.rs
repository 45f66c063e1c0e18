//! The daemon's side: one connection.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::PIECE_LEN;
use super::codec::{Decoder, Event, Nonce, Word, encode, encode_word};

/// A connection over a line.
#[derive(Debug)]
pub struct Line<T> {
    inner: T,
    nonce: Nonce,
    decoder: Decoder,
    /// What arrived and was not looked at; at most one piece.
    input: BytesMut,
    /// What is to be sent; at most one piece, of which every byte may have become two.
    output: BytesMut,
    /// The other side said that it is over.
    ended: bool,
    /// This side did.
    closed: bool,
}

/// Begins a connection. `nonce` is random and used once. Returns when the other side has answered, however long that takes and
/// however much of an older connection arrives before; whoever does not want to wait that long drops this.
pub async fn connect<T: AsyncRead + AsyncWrite + Unpin>(inner: T, nonce: Nonce) -> io::Result<Line<T>> {
    let mut output = BytesMut::new();
    encode_word(Word::Begin, nonce, &mut output);
    let input = BytesMut::with_capacity(PIECE_LEN);
    let mut line = Line { inner, nonce, decoder: Decoder::default(), input, output, ended: false, closed: false };
    poll_fn(|cx| line.poll_begun(cx)).await?;
    Ok(line)
}

impl<T: AsyncRead + AsyncWrite + Unpin> Line<T> {
    /// Says that a connection begins, and throws away what comes until the answer. Both at once: the other side may have to be
    /// rid of something before it can listen.
    fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(Err(error)) = self.poll_drain(cx) {
            return Poll::Ready(Err(error));
        }
        loop {
            if self.input.is_empty() && ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let mut rest = &self.input[..];
            let event = self.decoder.next(&mut rest);
            let begun = matches!(event, Some(Event::Word(Word::Begun, nonce)) if nonce == self.nonce);
            let taken = self.input.len() - rest.len();
            self.input.advance(taken);
            if begun {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Reads one piece; 0 at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.input.clear();
        self.input.resize(PIECE_LEN, 0);
        let mut buffer = ReadBuf::new(&mut self.input);
        let read = Pin::new(&mut self.inner).poll_read(cx, &mut buffer);
        let length = buffer.filled().len();
        self.input.truncate(if read.is_ready() { length } else { 0 });
        read.map_ok(|()| length)
    }

    /// Sends what is to be sent.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.output))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what it can of what arrived; true if the caller should be told.
    fn take(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<bool> {
        // What is decoded is never longer than what it was decoded from.
        let length = self.input.len().min(buffer.remaining());
        let mut rest = self.input.get(..length).unwrap_or_default();
        let mut heard = Ok(false);
        while let Some(event) = self.decoder.next(&mut rest) {
            match event {
                Event::Data(bytes) => {
                    buffer.put_slice(bytes);
                    heard = Ok(true);
                    continue;
                }
                Event::Word(Word::End, nonce) if nonce == self.nonce => {
                    self.ended = true;
                    heard = Ok(true);
                }
                Event::Word(..) | Event::Broken => {
                    heard = Err(io::Error::new(io::ErrorKind::InvalidData, "the line is broken"));
                }
            }
            break;
        }
        let taken = length - rest.len();
        self.input.advance(taken);
        heard
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Line<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.ended || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if this.input.is_empty() && ready!(this.poll_fill(cx))? == 0 {
                this.ended = true;
                return Poll::Ready(Ok(()));
            }
            if this.take(buffer)? {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Line<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(self.poll_drain(cx))?;
        let piece = bytes.get(..bytes.len().min(PIECE_LEN)).unwrap_or_default();
        encode(piece, &mut self.output);
        // As much as goes out at once; the rest goes before the next piece or with a flush.
        if let Poll::Ready(Err(error)) = self.poll_drain(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closed {
            self.closed = true;
            let nonce = self.nonce;
            encode_word(Word::End, nonce, &mut self.output);
        }
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
