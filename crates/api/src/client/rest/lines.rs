//! JSON, one document a line, as it comes.

use std::marker::PhantomData;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use moat_model::ErrorKind;
use serde::de::DeserializeOwned;

use super::{ByteStream, Error, Result, SILENCE_MAX};

/// Longest line: a piece of output in base64 is a fraction of it.
const LINE_MAX: usize = 4 << 20;

/// What a node says, line by line. Dropping it hangs up.
pub struct Lines<T> {
    doing: String,
    stream: ByteStream,
    buffer: BytesMut,
    ended: bool,
    kind: PhantomData<fn() -> T>,
}

impl<T> std::fmt::Debug for Lines<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("doing", &self.doing).finish_non_exhaustive()
    }
}

impl<T: DeserializeOwned> Lines<T> {
    pub(super) fn new(doing: &str, stream: ByteStream) -> Self {
        Self { doing: doing.to_owned(), stream, buffer: BytesMut::new(), ended: false, kind: PhantomData }
    }

    /// The next one. A connection that breaks, or is silent for too long, is a failure, and the last.
    pub async fn next(&mut self) -> Option<Result<T>> {
        loop {
            if let Some(line) = self.line() {
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                let read = serde_json::from_slice(&line);
                return Some(
                    read.map_err(|e| Error::new(ErrorKind::Internal, format!("{}: read a line", self.doing), e)),
                );
            }
            if self.ended {
                return None;
            }
            if let Err(error) = self.fill().await {
                self.ended = true;
                self.buffer.clear();
                return Some(Err(error));
            }
        }
    }

    /// A whole line from the buffer; what is left at the end counts as one.
    fn line(&mut self) -> Option<Bytes> {
        match self.buffer.iter().position(|byte| *byte == b'\n') {
            Some(at) => Some(self.buffer.split_to(at + 1).freeze()),
            None if self.ended && !self.buffer.is_empty() => Some(self.buffer.split().freeze()),
            None => None,
        }
    }

    async fn fill(&mut self) -> Result<()> {
        let broken = |kind, why: String| Error::new(kind, &self.doing, why);
        if self.buffer.len() > LINE_MAX {
            return Err(broken(ErrorKind::Internal, format!("a line is longer than {LINE_MAX} bytes")));
        }
        match tokio::time::timeout(SILENCE_MAX, self.stream.next()).await {
            Ok(Some(Ok(piece))) => self.buffer.extend_from_slice(&piece),
            Ok(Some(Err(error))) => return Err(Error::new(ErrorKind::Unavailable, &self.doing, error)),
            Ok(None) => self.ended = true,
            Err(_) => return Err(broken(ErrorKind::Unavailable, format!("the node was silent for {SILENCE_MAX:?}"))),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&'static str]) -> Lines<u32> {
        let pieces: Vec<_> = pieces.iter().map(|p| Ok(Bytes::from_static(p.as_bytes()))).collect();
        Lines::new("count", futures::stream::iter(pieces).boxed())
    }

    #[tokio::test]
    async fn lines_may_come_in_any_pieces() {
        let mut lines = lines(&["1\n2", "", "3\n\n4\n", "5"]);
        let mut seen = Vec::new();
        while let Some(number) = lines.next().await {
            seen.push(number.unwrap());
        }
        assert_eq!(seen, [1, 23, 4, 5]);
        assert!(lines.next().await.is_none());
    }

    #[tokio::test]
    async fn what_is_no_json_is_a_failure() {
        let error = lines(&["one\n"]).next().await.unwrap().unwrap_err();
        assert_eq!(error.kind, ErrorKind::Internal);
    }

    #[tokio::test]
    async fn a_line_without_end_is_given_up() {
        let endless = futures::stream::repeat_with(|| Ok(Bytes::from_static(&[b'1'; 64 << 10])));
        let mut lines = Lines::<u32>::new("count", endless.boxed());
        assert!(lines.next().await.unwrap().is_err());
        assert!(lines.next().await.is_none());
    }
}
