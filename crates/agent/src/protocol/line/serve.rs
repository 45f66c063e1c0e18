//! The agent's side: connections one after another over one device.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

use super::PIECE_LEN;
use super::codec::{Decoder, Event, Nonce, Word, encode, encode_word};

/// Between the device and whoever serves a connection, each way.
const HELD_LEN: usize = 64 << 10;

/// Gives each connection that begins on the device to `begun`. The one before has ended by then: nothing more comes out of
/// it, and what is still written to it goes nowhere.
///
/// Ends when the device does, or when it says that nobody is at its other end any more; a device that can have another one
/// there later is served again.
pub async fn serve<T>(device: &mut T, mut begun: impl FnMut(DuplexStream)) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut carrier = Carrier {
        device,
        decoder: Decoder::default(),
        piece: vec![0; PIECE_LEN],
        input: BytesMut::new(),
        arrived: BytesMut::new(),
        output: BytesMut::new(),
        current: None,
        denied: false,
    };
    poll_fn(|cx| carrier.poll(cx, &mut begun)).await
}

struct Carrier<'a, T> {
    device: &'a mut T,
    decoder: Decoder,
    /// What is read is read into this.
    piece: Vec<u8>,
    /// What the device gave and was not looked at; at most one piece.
    input: BytesMut,
    /// Bytes for the current connection that it has not taken; at most one piece.
    arrived: BytesMut,
    /// What the device is to take; at most one piece, of which every byte may have become two.
    output: BytesMut,
    current: Option<(Nonce, DuplexStream)>,
    /// Whoever spoke without a connection was told so; once, until somebody begins one.
    denied: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Carrier<'_, T> {
    fn poll(&mut self, cx: &mut Context<'_>, begun: &mut impl FnMut(DuplexStream)) -> Poll<io::Result<()>> {
        // Both directions, whatever stops one of them: the other side may have to be heard before it listens.
        let outward = self.poll_outward(cx)?;
        if let Poll::Ready(result) = self.poll_inward(cx, begun) {
            return Poll::Ready(result);
        }
        if outward.is_ready() || !self.output.is_empty() {
            // A word was added meanwhile.
            let _ = self.poll_outward(cx)?;
        }
        Poll::Pending
    }

    /// From the connection to the device, until one of them cannot.
    fn poll_outward(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !self.output.is_empty() {
                let written = ready!(Pin::new(&mut *self.device).poll_write(cx, &self.output))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.output.advance(written);
            }
            let _ = Pin::new(&mut *self.device).poll_flush(cx)?;
            let Some((nonce, connection)) = &mut self.current else { return Poll::Ready(Ok(())) };
            let mut buffer = ReadBuf::new(&mut self.piece);
            match ready!(Pin::new(connection).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => encode(buffer.filled(), &mut self.output),
                _ => {
                    encode_word(Word::End, *nonce, &mut self.output);
                    self.current = None;
                }
            }
        }
    }

    /// From the device to the connection, until one of them cannot. Ready only at the end of the device.
    fn poll_inward(&mut self, cx: &mut Context<'_>, begun: &mut impl FnMut(DuplexStream)) -> Poll<io::Result<()>> {
        loop {
            while !self.arrived.is_empty() {
                let Some((_, connection)) = &mut self.current else {
                    self.arrived.clear();
                    break;
                };
                match ready!(Pin::new(connection).poll_write(cx, &self.arrived)) {
                    Ok(written) if written > 0 => self.arrived.advance(written),
                    // Whoever served it is done; the outward direction says so.
                    _ => self.arrived.clear(),
                }
            }
            if self.input.is_empty() {
                let mut buffer = ReadBuf::new(&mut self.piece);
                ready!(Pin::new(&mut *self.device).poll_read(cx, &mut buffer))?;
                if buffer.filled().is_empty() {
                    return Poll::Ready(Ok(()));
                }
                self.input.extend_from_slice(buffer.filled());
            }
            self.hear(begun);
        }
    }

    /// Takes one thing of what the device gave.
    fn hear(&mut self, begun: &mut impl FnMut(DuplexStream)) {
        let mut rest = &self.input[..];
        let event = self.decoder.next(&mut rest);
        match event {
            None => {}
            Some(Event::Data(bytes)) if self.current.is_some() => self.arrived.extend_from_slice(bytes),
            // Somebody believes to have a connection that is over here: when a device says that nobody is there any more, it may mean
            // the one before them. They would wait for ever. The end of a connection that nobody has breaks theirs, and is
            // nothing to whoever is only about to begin one.
            Some(Event::Data(_)) if self.denied => {}
            Some(Event::Data(_)) => {
                self.denied = true;
                encode_word(Word::End, Nonce::default(), &mut self.output);
            }
            Some(Event::Word(Word::Begin, nonce)) => {
                // What the device has not taken of the connection before is cut off wherever it is: the word after it is
                // heard all the same.
                self.output.clear();
                self.denied = false;
                encode_word(Word::Begun, nonce, &mut self.output);
                let (ours, theirs) = duplex(HELD_LEN);
                self.current = Some((nonce, ours));
                begun(theirs);
            }
            Some(Event::Word(..)) => self.current = None,
            Some(Event::Broken) => {
                if let Some((nonce, _)) = self.current.take() {
                    encode_word(Word::End, nonce, &mut self.output);
                }
            }
        }
        let taken = self.input.len() - rest.len();
        self.input.advance(taken);
    }
}
