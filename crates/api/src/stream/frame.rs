//! Frames, to and from headers and payloads. Pure.

use async_nats::HeaderMap;
use bytes::Bytes;
use moat_model::Exit;
use moat_model::spec::{PtySize, Signal};
use serde::{Deserialize, Serialize};

use super::{CHUNK_LEN_MAX, FRAME_HEADER, SEQUENCE_HEADER};
use crate::WireError;

/// From client to node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InFrame {
    /// Bytes for standard input.
    Stdin(Bytes),
    /// End of standard input.
    Eof,
    /// New size of the terminal.
    Resize(PtySize),
    /// A signal for the process and its group.
    Signal(Signal),
    /// The client consumed so many bytes of output.
    Credit(u32),
    /// The client is gone: end the process.
    Hangup,
    /// The client lives.
    Ping,
}

/// From node to client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutFrame {
    /// Bytes of standard output, or of the terminal.
    Stdout(Bytes),
    /// Bytes of standard error.
    Stderr(Bytes),
    /// It ended; the last frame.
    Exit(ExecExit),
    /// The session failed; the last frame.
    Error(WireError),
    /// The node consumed so many bytes of input.
    Credit(u32),
    /// The node lives.
    Ping,
}

/// How an exec ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecExit {
    /// As the kernel reported it.
    pub exit: Exit,
    /// Its time was up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed_out: bool,
}

/// Why a message is not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No kind, or an unknown one.
    #[error("stream frame of unknown kind {kind:?}")]
    Kind {
        /// As given.
        kind: String,
    },
    /// No number, or not one.
    #[error("stream frame without a number")]
    Sequence,
    /// The payload does not fit the kind.
    #[error("stream frame {kind}: {what}")]
    Content {
        /// Of which frame.
        kind: &'static str,
        /// What is wrong with it.
        what: String,
    },
}

/// Frames are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stream frames {expected} to {found} were lost on the way")]
pub struct Loss {
    /// Number that should have come.
    pub expected: u64,
    /// Number that came.
    pub found: u64,
}

/// Numbers frames on one side, and finds gaps on the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sequence {
    next: u64,
}

impl Sequence {
    /// Number of the next frame sent.
    #[expect(clippy::should_implement_trait, reason = "numbers without end are not an iterator to loop over")]
    pub fn next(&mut self) -> u64 {
        let number = self.next;
        self.next = self.next.saturating_add(1);
        number
    }

    /// Notes a number that arrived.
    pub fn arrived(&mut self, number: u64) -> Result<(), Loss> {
        if number != self.next {
            return Err(Loss { expected: self.next, found: number });
        }
        self.next = self.next.saturating_add(1);
        Ok(())
    }
}

/// Headers of a frame.
pub fn headers(kind: &'static str, sequence: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(FRAME_HEADER, kind);
    headers.insert(SEQUENCE_HEADER, sequence.to_string());
    headers
}

/// Kind and number of a message.
pub fn read_headers(headers: Option<&HeaderMap>) -> Result<(&str, u64), FrameError> {
    let kind = headers
        .and_then(|h| h.get(FRAME_HEADER))
        .map(async_nats::HeaderValue::as_str)
        .ok_or_else(|| FrameError::Kind { kind: String::new() })?;
    let sequence = headers
        .and_then(|h| h.get(SEQUENCE_HEADER))
        .and_then(|value| value.as_str().parse().ok())
        .ok_or(FrameError::Sequence)?;
    Ok((kind, sequence))
}

fn chunk(kind: &'static str, payload: Bytes) -> Result<Bytes, FrameError> {
    if payload.len() > CHUNK_LEN_MAX {
        return Err(FrameError::Content { kind, what: format!("{} bytes, at most {CHUNK_LEN_MAX}", payload.len()) });
    }
    Ok(payload)
}

fn number<T: std::str::FromStr>(kind: &'static str, payload: &[u8]) -> Result<T, FrameError> {
    std::str::from_utf8(payload)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| FrameError::Content { kind, what: "not a number in its range".to_owned() })
}

fn json<T: serde::de::DeserializeOwned>(kind: &'static str, payload: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(payload).map_err(|e| FrameError::Content { kind, what: e.to_string() })
}

fn to_json<T: Serialize>(value: &T) -> Bytes {
    // Structs of numbers and strings always serialise.
    serde_json::to_vec(value).unwrap_or_default().into()
}

impl InFrame {
    /// Kind and payload.
    pub fn encode(&self) -> (&'static str, Bytes) {
        match self {
            Self::Stdin(bytes) => ("stdin", bytes.clone()),
            Self::Eof => ("eof", Bytes::new()),
            Self::Resize(size) => ("resize", to_json(size)),
            Self::Signal(signal) => ("signal", signal.number().to_string().into()),
            Self::Credit(bytes) => ("credit", bytes.to_string().into()),
            Self::Hangup => ("hangup", Bytes::new()),
            Self::Ping => ("ping", Bytes::new()),
        }
    }

    /// Reads a frame.
    pub fn decode(kind: &str, payload: Bytes) -> Result<Self, FrameError> {
        Ok(match kind {
            "stdin" => Self::Stdin(chunk("stdin", payload)?),
            "eof" => Self::Eof,
            "resize" => Self::Resize(json("resize", &payload)?),
            "signal" => {
                let wrong = |what| FrameError::Content { kind: "signal", what };
                Self::Signal(Signal::try_from(number::<u8>("signal", &payload)?).map_err(wrong)?)
            }
            "credit" => Self::Credit(number("credit", &payload)?),
            "hangup" => Self::Hangup,
            "ping" => Self::Ping,
            other => return Err(FrameError::Kind { kind: other.chars().take(40).collect() }),
        })
    }
}

impl OutFrame {
    /// Kind and payload.
    pub fn encode(&self) -> (&'static str, Bytes) {
        match self {
            Self::Stdout(bytes) => ("stdout", bytes.clone()),
            Self::Stderr(bytes) => ("stderr", bytes.clone()),
            Self::Exit(exit) => ("exit", to_json(exit)),
            Self::Error(error) => ("error", to_json(error)),
            Self::Credit(bytes) => ("credit", bytes.to_string().into()),
            Self::Ping => ("ping", Bytes::new()),
        }
    }

    /// Reads a frame.
    pub fn decode(kind: &str, payload: Bytes) -> Result<Self, FrameError> {
        Ok(match kind {
            "stdout" => Self::Stdout(chunk("stdout", payload)?),
            "stderr" => Self::Stderr(chunk("stderr", payload)?),
            "exit" => Self::Exit(json("exit", &payload)?),
            "error" => Self::Error(json("error", &payload)?),
            "credit" => Self::Credit(number("credit", &payload)?),
            "ping" => Self::Ping,
            other => return Err(FrameError::Kind { kind: other.chars().take(40).collect() }),
        })
    }
}

#[cfg(test)]
mod tests {
    use moat_model::ErrorKind;

    use super::*;

    #[test]
    fn frames_survive_the_wire() {
        let ins = [
            InFrame::Stdin(Bytes::from_static(b"\0\xff")),
            InFrame::Eof,
            InFrame::Resize(PtySize { rows: 24, cols: 80 }),
            InFrame::Signal(Signal::TERM),
            InFrame::Credit(131_072),
            InFrame::Hangup,
            InFrame::Ping,
        ];
        for (number, frame) in (0_u64..).zip(ins) {
            let (kind, payload) = frame.encode();
            let headers = headers(kind, number);
            let (kind, found) = read_headers(Some(&headers)).unwrap();
            assert_eq!((InFrame::decode(kind, payload), found), (Ok(frame), number));
        }
        let outs = [
            OutFrame::Stdout(Bytes::from_static(b"a")),
            OutFrame::Stderr(Bytes::new()),
            OutFrame::Exit(ExecExit { exit: Exit::signal(9), timed_out: true }),
            OutFrame::Error(WireError::new(ErrorKind::Guest, "gone")),
            OutFrame::Credit(0),
            OutFrame::Ping,
        ];
        for frame in outs {
            let (kind, payload) = frame.encode();
            assert_eq!(OutFrame::decode(kind, payload), Ok(frame));
        }
    }

    #[test]
    fn hostile_frames_are_errors() {
        for (kind, payload) in [
            ("", &b""[..]),
            ("stdout", b""),
            ("signal", b"0"),
            ("signal", b"65"),
            ("signal", b"SIGTERM"),
            ("credit", b"-1"),
            ("credit", b"4294967296"),
            ("credit", b"\xff"),
            ("resize", b"{\"rows\":1}"),
            ("resize", b"{\"rows\":1,\"cols\":2,\"x\":3}"),
        ] {
            assert!(InFrame::decode(kind, Bytes::from_static(payload)).is_err(), "{kind} {payload:?}");
        }
        let long = Bytes::from(vec![0; CHUNK_LEN_MAX + 1]);
        assert!(InFrame::decode("stdin", long.clone()).is_err());
        assert!(OutFrame::decode("stdout", long).is_err());
        assert!(OutFrame::decode("stdin", Bytes::new()).is_err());
        assert_eq!(read_headers(None), Err(FrameError::Kind { kind: String::new() }));
        let mut headers = headers("ping", 0);
        headers.insert(SEQUENCE_HEADER, "first");
        assert_eq!(read_headers(Some(&headers)), Err(FrameError::Sequence));
    }

    #[test]
    fn a_gap_is_noticed() {
        let (mut sent, mut seen) = (Sequence::default(), Sequence::default());
        for _ in 0..3 {
            assert_eq!(seen.arrived(sent.next()), Ok(()));
        }
        let _lost = sent.next();
        assert_eq!(seen.arrived(sent.next()), Err(Loss { expected: 3, found: 4 }));
        assert!(seen.arrived(0).is_err(), "nor may one come twice");
    }
}
