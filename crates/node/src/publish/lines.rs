//! From bytes in a log file to messages: lines found, escaped and framed, without a copy or an allocation for each.

use bytes::{Bytes, BytesMut};
use moat_agent::protocol::StreamName;

use crate::logfile::Cursor;

/// Most bytes of text in one message; a longer line goes out in several. Escaped it stays below NATS's default limit of
/// 1 MiB in every case.
pub(super) const TEXT_MAX: usize = 64 << 10;

/// Messages of one stream in a batch.
pub(super) const MESSAGES_MAX: usize = 1000;

/// Bytes of one stream in a batch. More than the longest text, so that a long line always gets on.
pub(super) const BYTES_MAX: usize = 128 << 10;

/// One message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub payload: Bytes,
    pub stream: StreamName,
    /// Position of its first byte.
    pub start: u64,
    /// The cursor after it.
    pub cursor: Cursor,
    /// Bytes that were lost before it could be published; it says so instead of carrying text.
    pub gap: Option<u64>,
}

/// What is the same in all messages of a workload.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    stdout: String,
    stderr: String,
    marker: String,
}

const HEAD: &[u8] = b"{\"text\":\"";

impl Frame {
    pub(super) fn new(workload: &moat_model::WorkloadId) -> Self {
        let tail = |level: &str| format!("\",\"level\":\"{level}\",\"id\":\"{workload}\"}}");
        Self { stdout: tail("INFO"), stderr: tail("ERROR"), marker: tail("WARN") }
    }

    fn tail(&self, stream: StreamName) -> &str {
        match stream {
            StreamName::Stdout => &self.stdout,
            StreamName::Stderr => &self.stderr,
        }
    }
}

/// Collects messages of a batch. All payloads share one buffer.
#[derive(Debug)]
pub(super) struct Batch<'f> {
    frame: &'f Frame,
    buffer: BytesMut,
    pub messages: Vec<Message>,
    /// Where the streams stand after them.
    pub cursor: Cursor,
}

impl<'f> Batch<'f> {
    pub(super) fn new(frame: &'f Frame, cursor: Cursor, capacity: usize) -> Self {
        Self { frame, buffer: BytesMut::with_capacity(capacity), messages: Vec::new(), cursor }
    }

    /// Adds the lines of `bytes`, which continue `stream` where the cursor stands: at most `max` messages of at most
    /// `text_max` bytes. An unfinished last line is taken only if `flush` says so. Says whether one was left.
    pub(super) fn add(&mut self, stream: StreamName, bytes: &[u8], flush: bool, text_max: usize, max: usize) -> bool {
        let mut rest = bytes;
        let mut room = max;
        while room > 0 && !rest.is_empty() {
            let (text, taken) = match memchr::memchr(b'\n', rest) {
                Some(at) if at <= text_max => (rest.get(..at), at + 1),
                None if rest.len() <= text_max => {
                    if !flush {
                        return true;
                    }
                    (Some(rest), rest.len())
                }
                _ => {
                    let at = char_boundary(rest, text_max);
                    (rest.get(..at), at)
                }
            };
            self.push(stream, text.unwrap_or_default(), taken as u64);
            rest = rest.get(taken..).unwrap_or_default();
            room -= 1;
        }
        false
    }

    fn push(&mut self, stream: StreamName, text: &[u8], taken: u64) {
        self.buffer.extend_from_slice(HEAD);
        escape(text, &mut self.buffer);
        self.buffer.extend_from_slice(self.frame.tail(stream).as_bytes());
        self.finish(stream, taken, None);
    }

    /// Adds the message that says that `lost` bytes of a stream are missing here.
    pub(super) fn add_gap(&mut self, stream: StreamName, lost: u64) {
        let name = crate::logfile::stream_text(stream);
        let text =
            format!("moat: {lost} bytes of {name} are missing here: NATS was away for longer than the log files hold");
        self.buffer.extend_from_slice(HEAD);
        self.buffer.extend_from_slice(text.as_bytes());
        self.buffer.extend_from_slice(self.frame.marker.as_bytes());
        self.finish(stream, lost, Some(lost));
    }

    fn finish(&mut self, stream: StreamName, taken: u64, gap: Option<u64>) {
        let place = match stream {
            StreamName::Stdout => &mut self.cursor.stdout,
            StreamName::Stderr => &mut self.cursor.stderr,
        };
        let start = *place;
        *place += taken;
        let payload = self.buffer.split().freeze();
        self.messages.push(Message { payload, stream, start, cursor: self.cursor, gap });
    }
}

/// The largest cut at or below `at` that does not split a character, if there is one nearby.
fn char_boundary(bytes: &[u8], at: usize) -> usize {
    let continues = |at: usize| bytes.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    (at.saturating_sub(3)..=at).rev().find(|at| *at > 0 && !continues(*at)).unwrap_or(at).max(1)
}

/// What a byte becomes inside a JSON string: 0 itself, 1 `\u00XX`, else a backslash and this character.
const fn escape_of(byte: u8) -> u8 {
    match byte {
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        b'"' | b'\\' => byte,
        0..0x20 => 1,
        _ => 0,
    }
}

/// Appends text as the inside of a JSON string. What is not UTF-8 becomes U+FFFD.
fn escape(text: &[u8], out: &mut BytesMut) {
    for chunk in text.utf8_chunks() {
        escape_valid(chunk.valid().as_bytes(), out);
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

fn escape_valid(mut text: &[u8], out: &mut BytesMut) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    while let Some(at) = text.iter().position(|byte| escape_of(*byte) != 0) {
        let (plain, rest) = text.split_at(at);
        out.extend_from_slice(plain);
        let Some((byte, rest)) = rest.split_first() else { return };
        match escape_of(*byte) {
            1 => {
                let digit = |n: u8| HEX.get(usize::from(n)).copied().unwrap_or(b'0');
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
            }
            letter => out.extend_from_slice(&[b'\\', letter]),
        }
        text = rest;
    }
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use moat_api::nex::{Level, LogLine};
    use proptest::prelude::*;

    const ID: &str = "cq1v8k3q7d2c73f0a9g0";

    fn frame() -> Frame {
        Frame::new(&moat_model::WorkloadId::parse(ID).unwrap())
    }

    fn texts(batch: &Batch<'_>) -> Vec<String> {
        batch.messages.iter().map(|m| serde_json::from_slice::<LogLine>(&m.payload).unwrap().text).collect()
    }

    #[test]
    fn a_line_is_written_exactly_as_documented() {
        let frame = frame();
        let mut batch = Batch::new(&frame, Cursor::default(), 0);
        assert!(!batch.add(StreamName::Stdout, b"listening on 8080\n", false, TEXT_MAX, 10));
        let wanted = format!(r#"{{"text":"listening on 8080","level":"INFO","id":"{ID}"}}"#);
        assert_eq!(batch.messages[0].payload, wanted.as_bytes());
        assert_eq!(batch.messages[0].cursor, Cursor { stdout: 18, stderr: 0 });
        batch.add(StreamName::Stderr, b"no\n", false, TEXT_MAX, 10);
        let line: LogLine = serde_json::from_slice(&batch.messages[1].payload).unwrap();
        assert_eq!((line.level, batch.messages[1].start), (Level::ERROR, 0));
        assert_eq!(batch.cursor, Cursor { stdout: 18, stderr: 3 });
    }

    #[test]
    fn an_unfinished_line_waits_until_it_is_flushed() {
        let frame = frame();
        let mut batch = Batch::new(&frame, Cursor::default(), 0);
        assert!(batch.add(StreamName::Stdout, b"one\ntw", false, TEXT_MAX, 10));
        assert_eq!((texts(&batch), batch.cursor.stdout), (vec!["one".to_owned()], 4));
        assert!(!batch.add(StreamName::Stdout, b"tw", true, TEXT_MAX, 10));
        assert_eq!(texts(&batch), ["one", "tw"]);
    }

    #[test]
    fn long_lines_are_cut_between_characters_and_counts_are_kept() {
        let frame = frame();
        let mut batch = Batch::new(&frame, Cursor::default(), 0);
        batch.add(StreamName::Stdout, "aääää\nb\n".as_bytes(), false, 4, 10);
        assert_eq!(texts(&batch), ["aä", "ää", "ä", "b"]);
        assert_eq!(batch.cursor.stdout, 12);
        let mut batch = Batch::new(&frame, Cursor::default(), 0);
        batch.add(StreamName::Stdout, b"\n\n\n\n", false, TEXT_MAX, 3);
        assert_eq!((batch.messages.len(), batch.cursor.stdout), (3, 3));
    }

    #[test]
    fn what_is_missing_is_said() {
        let frame = frame();
        let mut batch = Batch::new(&frame, Cursor { stdout: 10, stderr: 0 }, 0);
        batch.add_gap(StreamName::Stdout, 32);
        let line: LogLine = serde_json::from_slice(&batch.messages[0].payload).unwrap();
        assert!(line.text.contains("32 bytes of stdout"), "{}", line.text);
        assert_eq!((line.level, batch.cursor.stdout), (Level::WARN, 42));
    }

    proptest! {
        /// Whatever bytes, split anywhere: every message is JSON serde reads back as the lossy text of the line.
        #[test]
        fn any_bytes_become_the_lines_they_are(bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..300)) {
            let frame = frame();
            let mut batch = Batch::new(&frame, Cursor::default(), 0);
            prop_assert!(!batch.add(StreamName::Stdout, &bytes, true, TEXT_MAX, 1000));
            let mut wanted: Vec<String> = bytes.split(|b| *b == b'\n').map(|l| String::from_utf8_lossy(l).into_owned()).collect();
            if wanted.last().is_some_and(String::is_empty) {
                wanted.pop();
            }
            prop_assert_eq!(texts(&batch), wanted);
            prop_assert_eq!(batch.cursor.stdout, bytes.len() as u64);
        }
    }
}
