//! The frames of a stream, as values and as bytes.
//!
//! A frame is its length (u32, big endian, counting what follows), its kind (one byte) and its body. The two directions
//! have kinds of their own, so neither side can be made to act on a frame meant for the other.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use moat_model::file::WatchEvent;
use moat_model::spec::{PtySize, Signal};
use moat_model::{ErrorKind, Exit};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{DATA_LEN_MAX, FRAME_LEN_MAX, HEADER_LEN_MAX, Offsets, StreamName};

/// Kind bytes. `0x0_` both ways, `0x1_` from the agent, `0x2_` from the daemon.
mod kind {
    pub const HEADER: u8 = 0x01;
    pub const STDOUT: u8 = 0x10;
    pub const STDERR: u8 = 0x11;
    pub const STDOUT_END: u8 = 0x12;
    pub const STDERR_END: u8 = 0x13;
    pub const STDIN_TAKEN: u8 = 0x14;
    pub const EXIT: u8 = 0x15;
    pub const AGENT_CONTENT: u8 = 0x16;
    pub const DONE: u8 = 0x17;
    pub const FAILED: u8 = 0x18;
    pub const EVENT: u8 = 0x19;
    pub const SKIPPED: u8 = 0x1a;
    pub const STDIN: u8 = 0x20;
    pub const STDIN_END: u8 = 0x21;
    pub const RESIZE: u8 = 0x22;
    pub const SIGNAL: u8 = 0x23;
    pub const ACKNOWLEDGE: u8 = 0x24;
    pub const DAEMON_CONTENT: u8 = 0x25;
    pub const FINISH: u8 = 0x26;
}

/// Longest message of a failure frame: any path fits, and escaped to the utmost it still fits into a frame.
const MESSAGE_LEN_MAX: usize = 8 << 10;

/// Bytes that are not a frame of this direction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length of zero leaves no room for the kind.
    #[error("frame without a kind")]
    Empty,
    /// Over the bound of its kind.
    #[error("frame of kind {kind:#04x} with {len} bytes is over its bound")]
    TooLong {
        /// Its kind.
        kind: u8,
        /// Its length.
        len: u32,
    },
    /// Not a kind of this direction.
    #[error("unknown frame kind {0:#04x}")]
    UnknownKind(u8),
    /// The body does not have the form of its kind.
    #[error("malformed body of frame kind {0:#04x}")]
    Malformed(u8),
    /// The header's JSON is not what was expected, or does not fit into a frame.
    #[error("header: {0}")]
    Header(String),
}

/// One direction's frames.
pub trait Frame: Sized {
    /// Reads a frame whose length was already checked against [`len_max`].
    fn decode(kind: u8, body: Bytes) -> Result<Self, FrameError>;
    /// Appends it as bytes.
    fn encode(&self, out: &mut BytesMut);
    /// Whether this direction knows the kind; asked before anything is allocated for the body.
    fn knows(kind: u8) -> bool;
}

/// Largest length (kind and body) of a kind.
pub fn len_max(kind: u8) -> usize {
    if kind == kind::HEADER { HEADER_LEN_MAX } else { FRAME_LEN_MAX }
}

/// What the daemon sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DaemonFrame {
    /// JSON of a [`super::Request`]; the first frame of a stream and no other.
    Header(Bytes),
    /// Standard input of an exec.
    Stdin(Bytes),
    /// End of it.
    StdinEnd,
    /// New size of an exec's terminal.
    Resize(PtySize),
    /// A signal for an exec's process group.
    Signal(Signal),
    /// Everything of the main process's output before these offsets is safe.
    Acknowledge(Offsets),
    /// Bytes of a file, an archive or a connection; at most [`super::CONTENT_LEN_MAX`].
    Content(Bytes),
    /// All of it was sent.
    Finish,
}

/// What the agent sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentFrame {
    /// JSON of a [`super::Reply`] (or of a [`super::GuestRequest`] on a stream the agent opened); the first frame.
    Header(Bytes),
    /// Output, with the number of bytes of its stream that came before it.
    Data {
        /// Which stream.
        stream: StreamName,
        /// Its place.
        offset: u64,
        /// At most [`DATA_LEN_MAX`].
        bytes: Bytes,
    },
    /// A stream has ended, at this offset.
    End {
        /// Which stream.
        stream: StreamName,
        /// Its length.
        offset: u64,
    },
    /// The process has taken this many bytes of standard input.
    StdinTaken(u64),
    /// An exec has ended; the last frame.
    Exit {
        /// How.
        exit: Exit,
        /// Because its time was up.
        timed_out: bool,
    },
    /// Bytes of a file or an archive; at most [`super::CONTENT_LEN_MAX`].
    Content(Bytes),
    /// A transfer is complete; the last frame.
    Done {
        /// Bytes of content.
        bytes: u64,
        /// Files, directories and links.
        entries: u64,
    },
    /// A transfer or a watch cannot go on; the last frame.
    Failed(Trouble),
    /// Something happened to a file.
    Event(WatchEvent),
    /// Bytes of a stream up to this offset are gone for this follower.
    Skipped {
        /// Which stream.
        stream: StreamName,
        /// Where it goes on.
        to: u64,
    },
}

/// Why something failed after it had begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What the caller may decide by.
    pub kind: ErrorKind,
    /// For people; names the path at fault.
    pub message: String,
}

/// Builds a header frame's body.
pub fn to_header<T: Serialize>(value: &T) -> Result<Bytes, FrameError> {
    let text = serde_json::to_vec(value).map_err(|e| FrameError::Header(e.to_string()))?;
    if text.len() >= HEADER_LEN_MAX {
        return Err(FrameError::Header(format!("{} bytes are over {HEADER_LEN_MAX}", text.len())));
    }
    Ok(Bytes::from(text))
}

/// Reads a header frame's body.
pub fn from_header<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(body).map_err(|e| FrameError::Header(e.to_string()))
}

/// Appends length and kind. A body beyond its bound cannot be made here: [`to_header`] refuses and data is cut.
fn open(out: &mut BytesMut, kind: u8, body_len: usize) {
    out.reserve(5 + body_len);
    out.put_u32(u32::try_from(body_len + 1).unwrap_or(u32::MAX));
    out.put_u8(kind);
}

fn put(out: &mut BytesMut, kind: u8, body: &[u8]) {
    open(out, kind, body.len());
    out.put_slice(body);
}

/// Fails unless the whole body was used.
fn whole<T>(kind: u8, body: &Bytes, value: Option<T>) -> Result<T, FrameError> {
    value.filter(|_| body.is_empty()).ok_or(FrameError::Malformed(kind))
}

impl Frame for DaemonFrame {
    fn knows(kind: u8) -> bool {
        matches!(kind, kind::HEADER | kind::STDIN..=kind::FINISH)
    }

    fn decode(kind: u8, mut body: Bytes) -> Result<Self, FrameError> {
        match kind {
            kind::HEADER => Ok(Self::Header(body)),
            kind::STDIN | kind::DAEMON_CONTENT if body.is_empty() => Err(FrameError::Malformed(kind)),
            kind::STDIN => Ok(Self::Stdin(body)),
            kind::DAEMON_CONTENT => Ok(Self::Content(body)),
            kind::FINISH => whole(kind, &body, Some(Self::Finish)),
            kind::STDIN_END => whole(kind, &body, Some(Self::StdinEnd)),
            kind::RESIZE => {
                let size = match (body.try_get_u16(), body.try_get_u16()) {
                    (Ok(rows), Ok(cols)) => Some(Self::Resize(PtySize { rows, cols })),
                    _ => None,
                };
                whole(kind, &body, size)
            }
            kind::SIGNAL => {
                let signal = body.try_get_u8().ok().and_then(|n| Signal::try_from(n).ok());
                whole(kind, &body, signal.map(Self::Signal))
            }
            kind::ACKNOWLEDGE => {
                let offsets = match (body.try_get_u64(), body.try_get_u64()) {
                    (Ok(stdout), Ok(stderr)) => Some(Self::Acknowledge(Offsets { stdout, stderr })),
                    _ => None,
                };
                whole(kind, &body, offsets)
            }
            other => Err(FrameError::UnknownKind(other)),
        }
    }

    fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Header(body) => put(out, kind::HEADER, body),
            Self::Stdin(bytes) => put(out, kind::STDIN, bytes),
            Self::StdinEnd => open(out, kind::STDIN_END, 0),
            Self::Resize(size) => {
                open(out, kind::RESIZE, 4);
                out.put_u16(size.rows);
                out.put_u16(size.cols);
            }
            Self::Signal(signal) => put(out, kind::SIGNAL, &[u8::from(*signal)]),
            Self::Acknowledge(offsets) => {
                open(out, kind::ACKNOWLEDGE, 16);
                out.put_u64(offsets.stdout);
                out.put_u64(offsets.stderr);
            }
            Self::Content(bytes) => put(out, kind::DAEMON_CONTENT, bytes),
            Self::Finish => open(out, kind::FINISH, 0),
        }
    }
}

/// Bits of the flags byte of an exit frame.
mod exit_flag {
    pub const SIGNALLED: u8 = 1;
    pub const TIMED_OUT: u8 = 2;
    pub const OOM_KILLED: u8 = 4;
}

impl Frame for AgentFrame {
    fn knows(kind: u8) -> bool {
        matches!(kind, kind::HEADER | kind::STDOUT..=kind::SKIPPED)
    }

    fn decode(kind: u8, mut body: Bytes) -> Result<Self, FrameError> {
        match kind {
            kind::HEADER => Ok(Self::Header(body)),
            kind::STDOUT | kind::STDERR => {
                let stream = if kind == kind::STDOUT { StreamName::Stdout } else { StreamName::Stderr };
                match body.try_get_u64() {
                    Ok(offset) if !body.is_empty() => Ok(Self::Data { stream, offset, bytes: body }),
                    _ => Err(FrameError::Malformed(kind)),
                }
            }
            kind::STDOUT_END | kind::STDERR_END => {
                let stream = if kind == kind::STDOUT_END { StreamName::Stdout } else { StreamName::Stderr };
                let end = body.try_get_u64().ok().map(|offset| Self::End { stream, offset });
                whole(kind, &body, end)
            }
            kind::STDIN_TAKEN => {
                let taken = body.try_get_u64().ok().map(Self::StdinTaken);
                whole(kind, &body, taken)
            }
            kind::EXIT => {
                let exit = decode_exit(&mut body);
                whole(kind, &body, exit)
            }
            kind::AGENT_CONTENT if body.is_empty() => Err(FrameError::Malformed(kind)),
            kind::AGENT_CONTENT => Ok(Self::Content(body)),
            kind::DONE => {
                let done = match (body.try_get_u64(), body.try_get_u64()) {
                    (Ok(bytes), Ok(entries)) => Some(Self::Done { bytes, entries }),
                    _ => None,
                };
                whole(kind, &body, done)
            }
            kind::FAILED => match from_json::<Trouble>(kind, &body)? {
                trouble if trouble.message.len() > MESSAGE_LEN_MAX => Err(FrameError::Malformed(kind)),
                trouble => Ok(Self::Failed(trouble)),
            },
            kind::EVENT => from_json(kind, &body).map(Self::Event),
            kind::SKIPPED => {
                let skipped = match (body.try_get_u8(), body.try_get_u64()) {
                    (Ok(0), Ok(to)) => Some(Self::Skipped { stream: StreamName::Stdout, to }),
                    (Ok(1), Ok(to)) => Some(Self::Skipped { stream: StreamName::Stderr, to }),
                    _ => None,
                };
                whole(kind, &body, skipped)
            }
            other => Err(FrameError::UnknownKind(other)),
        }
    }

    fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Header(body) => put(out, kind::HEADER, body),
            Self::Data { stream, offset, bytes } => {
                let kind = if *stream == StreamName::Stdout { kind::STDOUT } else { kind::STDERR };
                open(out, kind, 8 + bytes.len());
                out.put_u64(*offset);
                out.put_slice(bytes);
            }
            Self::End { stream, offset } => {
                let kind = if *stream == StreamName::Stdout { kind::STDOUT_END } else { kind::STDERR_END };
                put(out, kind, &offset.to_be_bytes());
            }
            Self::StdinTaken(taken) => put(out, kind::STDIN_TAKEN, &taken.to_be_bytes()),
            Self::Exit { exit, timed_out } => {
                open(out, kind::EXIT, 9);
                out.put_i32(exit.code);
                let mut flags = 0;
                for (set, bit) in [
                    (exit.signal.is_some(), exit_flag::SIGNALLED),
                    (*timed_out, exit_flag::TIMED_OUT),
                    (exit.oom_killed, exit_flag::OOM_KILLED),
                ] {
                    flags |= if set { bit } else { 0 };
                }
                out.put_u8(flags);
                out.put_i32(exit.signal.unwrap_or(0));
            }
            Self::Content(bytes) => put(out, kind::AGENT_CONTENT, bytes),
            Self::Done { bytes, entries } => {
                open(out, kind::DONE, 16);
                out.put_u64(*bytes);
                out.put_u64(*entries);
            }
            Self::Failed(trouble) => {
                let end = trouble.message.floor_char_boundary(MESSAGE_LEN_MAX);
                let message = trouble.message.get(..end).unwrap_or_default().to_owned();
                put(out, kind::FAILED, &to_json(&Trouble { kind: trouble.kind, message }));
            }
            Self::Event(event) => put(out, kind::EVENT, &to_json(event)),
            Self::Skipped { stream, to } => {
                open(out, kind::SKIPPED, 9);
                out.put_u8(u8::from(*stream == StreamName::Stderr));
                out.put_u64(*to);
            }
        }
    }
}

/// Plain structures of strings and numbers, which always have a JSON form.
fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

fn from_json<T: DeserializeOwned>(kind: u8, body: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(body).map_err(|_| FrameError::Malformed(kind))
}

fn decode_exit(body: &mut Bytes) -> Option<AgentFrame> {
    let code = body.try_get_i32().ok()?;
    let flags = body.try_get_u8().ok()?;
    let signal = body.try_get_i32().ok()?;
    if flags & !(exit_flag::SIGNALLED | exit_flag::TIMED_OUT | exit_flag::OOM_KILLED) != 0 {
        return None;
    }
    let signalled = flags & exit_flag::SIGNALLED != 0;
    if signalled != (signal != 0) {
        return None;
    }
    let exit = Exit { code, signal: signalled.then_some(signal), oom_killed: flags & exit_flag::OOM_KILLED != 0 };
    Some(AgentFrame::Exit { exit, timed_out: flags & exit_flag::TIMED_OUT != 0 })
}

/// Cuts bytes into pieces that fit into a frame.
pub fn pieces(mut bytes: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        Some(bytes.split_to(bytes.len().min(DATA_LEN_MAX)))
    })
}
