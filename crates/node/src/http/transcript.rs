//! Output as events: text where it is text. A character that was cut in two by a pipe is put together again.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use data_encoding::BASE64;
use moat_agent::protocol::StreamName;
use moat_api::rest::exec::ExecEvent;

/// Turns output into events.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    stdout: Half,
    stderr: Half,
}

/// One stream: the first bytes of a character whose rest has not come yet.
#[derive(Debug, Default)]
struct Half {
    start: u64,
    bytes: BytesMut,
}

impl Transcript {
    /// Takes bytes; gives the events they make.
    pub fn take(&mut self, stream: StreamName, offset: u64, bytes: Bytes, events: &mut VecDeque<ExecEvent>) {
        let half = self.half(stream);
        let (start, whole) = if half.bytes.is_empty() {
            (offset, bytes)
        } else if half.start + half.bytes.len() as u64 == offset {
            let mut joined = half.bytes.split();
            joined.extend_from_slice(&bytes);
            (half.start, joined.freeze())
        } else {
            half.flush(stream, events);
            (offset, bytes)
        };
        let keep = unfinished(&whole);
        let done = whole.len() - keep;
        half.start = start + done as u64;
        half.bytes.extend_from_slice(whole.get(done..).unwrap_or_default());
        if done > 0 {
            events.push_back(event(stream, start, whole.get(..done).unwrap_or_default()));
        }
    }

    /// There is no more of anything.
    pub fn end(&mut self, events: &mut VecDeque<ExecEvent>) {
        self.stdout.flush(StreamName::Stdout, events);
        self.stderr.flush(StreamName::Stderr, events);
    }

    fn half(&mut self, stream: StreamName) -> &mut Half {
        match stream {
            StreamName::Stdout => &mut self.stdout,
            StreamName::Stderr => &mut self.stderr,
        }
    }
}

impl Half {
    fn flush(&mut self, stream: StreamName, events: &mut VecDeque<ExecEvent>) {
        if !self.bytes.is_empty() {
            events.push_back(event(stream, self.start, &self.bytes.split()));
        }
    }
}

/// How many bytes at the end begin a character and do not finish it.
fn unfinished(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Ok(_) => 0,
        Err(error) if error.error_len().is_none() => bytes.len() - error.valid_up_to(),
        Err(_) => 0,
    }
}

fn event(stream: StreamName, offset: u64, bytes: &[u8]) -> ExecEvent {
    let (text, base64) = match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(BASE64.encode(bytes))),
    };
    match stream {
        StreamName::Stdout => ExecEvent::Stdout { text, base64, offset },
        StreamName::Stderr => ExecEvent::Stderr { text, base64, offset },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_cut_in_two_is_one_again_and_other_bytes_stay_what_they_are() {
        let (mut transcript, mut events) = (Transcript::default(), VecDeque::new());
        let text = "aé€".as_bytes();
        transcript.take(StreamName::Stdout, 0, Bytes::from_static(&text[..2]), &mut events);
        transcript.take(StreamName::Stdout, 2, Bytes::from_static(&text[2..5]), &mut events);
        transcript.take(StreamName::Stdout, 5, Bytes::from_static(&text[5..]), &mut events);
        transcript.take(StreamName::Stderr, 0, Bytes::from_static(&[0xff, b'x']), &mut events);
        transcript.take(StreamName::Stdout, 6, Bytes::from_static(&[0xc3]), &mut events);
        transcript.end(&mut events);
        let out = |text: &str, offset| ExecEvent::Stdout { text: Some(text.to_owned()), base64: None, offset };
        let raw = |base64: &str| (None, Some(base64.to_owned()));
        let ((text, base64), (last, last_base64)) = (raw("/3g="), raw("ww=="));
        assert_eq!(
            Vec::from(events),
            [
                out("a", 0),
                out("é", 1),
                out("€", 3),
                ExecEvent::Stderr { text, base64, offset: 0 },
                ExecEvent::Stdout { text: last, base64: last_base64, offset: 6 },
            ]
        );
    }
}
