//! The bytes of a layer, uncompressed: counted against the limits and hashed on their way.

use std::io::{BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use moat_model::ErrorKind;
use sha2::{Digest as _, Sha256};

use super::limits::Budget;
use crate::Digest;
use crate::error::{Error, Result};

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not.
    None,
    /// gzip, several members in a row allowed.
    Gzip,
    /// zstd, several frames in a row allowed.
    Zstd,
}

/// What is read from the decoder at once: large enough that hashing and writing work on long runs, small enough for the
/// processor's cache.
const PIECE: usize = 256 << 10;

/// Uncompressed bytes of a layer. Reads are of its own buffer.
pub(super) struct Stream<'a, R: Read> {
    decoder: Decoder<R>,
    budget: &'a Budget,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    hash: Sha256,
    total: u64,
    compressed_len: u64,
}

enum Decoder<R: Read> {
    None(Source<R>),
    Gzip(Box<MultiGzDecoder<BufReader<Source<R>>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<Source<R>>>>),
}

/// The compressed bytes. It remembers whether reading them failed, to tell a broken source from a broken archive, and how
/// many there were.
struct Source<R> {
    inner: R,
    failed: bool,
    taken: u64,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let result = self.inner.read(buffer);
        match &result {
            Ok(count) => self.taken += *count as u64,
            Err(error) => self.failed = error.kind() != std::io::ErrorKind::Interrupted,
        }
        result
    }
}

impl<R: Read> Decoder<R> {
    fn source(&self) -> &Source<R> {
        match self {
            Self::None(source) => source,
            Self::Gzip(decoder) => decoder.get_ref().get_ref(),
            Self::Zstd(decoder) => decoder.get_ref().get_ref(),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::None(source) => source.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

impl<'a, R: Read> Stream<'a, R> {
    /// Of `compressed_len` bytes, or 0 if that is not known.
    pub(super) fn new(budget: &'a Budget, compression: Compression, compressed_len: u64, source: R) -> Result<Self> {
        let source = Source { inner: source, failed: false, taken: 0 };
        let decoder = match compression {
            Compression::None => Decoder::None(source),
            Compression::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(BufReader::with_capacity(PIECE, source)))),
            Compression::Zstd => {
                let buffered = BufReader::with_capacity(PIECE, source);
                let decoder = zstd::stream::read::Decoder::with_buffer(buffered)
                    .map_err(|e| Error::caused_by(ErrorKind::Internal, "prepare to expand zstd", e))?;
                Decoder::Zstd(Box::new(decoder))
            }
        };
        Ok(Self {
            decoder,
            budget,
            buffer: vec![0; PIECE].into_boxed_slice(),
            start: 0,
            end: 0,
            hash: Sha256::new(),
            total: 0,
            compressed_len,
        })
    }

    /// What is there, at most `most` bytes; empty at the end of the layer only. Taken by [`Stream::consume`].
    pub(super) fn peek(&mut self, most: u64) -> Result<&[u8]> {
        if self.start == self.end {
            self.fill()?;
        }
        let there = self.buffer.get(self.start..self.end).unwrap_or_default();
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(there.len());
        Ok(there.get(..most).unwrap_or(there))
    }

    /// Takes so many of the bytes last peeked at.
    pub(super) fn consume(&mut self, count: usize) {
        self.start = self.end.min(self.start + count);
    }

    /// Fills `out`. False if the layer ended before its first byte; ending within it is a failure.
    pub(super) fn read_whole(&mut self, out: &mut [u8]) -> Result<bool> {
        let mut filled = 0;
        while filled < out.len() {
            let wanted = (out.len() - filled) as u64;
            let piece = self.peek(wanted)?;
            if piece.is_empty() {
                return if filled == 0 { Ok(false) } else { Err(truncated()) };
            }
            let count = piece.len();
            if let Some(place) = out.get_mut(filled..filled + count) {
                place.copy_from_slice(piece);
            }
            filled += count;
            self.consume(count);
        }
        Ok(true)
    }

    /// Passes over so many bytes.
    pub(super) fn pass(&mut self, mut count: u64) -> Result<()> {
        while count > 0 {
            let there = self.peek(count)?.len();
            if there == 0 {
                return Err(truncated());
            }
            self.consume(there);
            count -= there as u64;
        }
        Ok(())
    }

    /// Everything up to here was read: digest and number of the uncompressed bytes.
    pub(super) fn finish(self) -> (Digest, u64) {
        (Digest::from_bytes(self.hash.finalize().into()), self.total)
    }

    fn fill(&mut self) -> Result<()> {
        let count = loop {
            match self.decoder.read(&mut self.buffer) {
                Ok(count) => break count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if self.decoder.source().failed => {
                    return Err(Error::caused_by(ErrorKind::Unavailable, "read the layer", error));
                }
                Err(error) => return Err(Error::caused_by(ErrorKind::InvalidSpec, "expand the layer", error)),
            }
        };
        (self.start, self.end) = (0, count);
        self.total += count as u64;
        self.budget.bytes(count as u64)?;
        if !matches!(self.decoder, Decoder::None(_)) {
            let compressed = self.compressed_len.max(self.decoder.source().taken);
            self.budget.ratio(compressed, self.total)?;
        }
        self.hash.update(self.buffer.get(..count).unwrap_or_default());
        Ok(())
    }
}

/// The layer ended too early.
pub(super) fn truncated() -> Error {
    Error::new(ErrorKind::InvalidSpec, "layer: it ends within an entry")
}
