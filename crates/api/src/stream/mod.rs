//! Streams over NATS: the frames of an exec session.
//!
//! ```text
//! client                                            node
//!   | chooses an id, subscribes STREAM.<id>.out       |
//!   | SANDBOX exec {stream: id} --------------------> | subscribes STREAM.<id>.in, starts the process
//!   | <----------------------------- {pid, stream: id} |
//!   | STREAM.<id>.in   stdin eof resize signal ------> |
//!   | <------------ stdout stderr exit error  .out     |
//!   |      credit ping, both ways                      |
//! ```
//!
//! A frame is one message: its kind in the header [`FRAME_HEADER`], its number in [`SEQUENCE_HEADER`] (from 0, each way),
//! its content in the payload. NATS delivers in order but at most once, so a gap in the numbers is a loss and ends the
//! session with an error; nothing is ever silently missing.
//!
//! Bytes (`stdin` one way, `stdout` and `stderr` together the other) need credit: each side begins with
//! [`WINDOW`] bytes, and gets more as the other consumes. Each side pings every [`PING_EVERY`]; one that has been silent
//! for [`SILENCE_MAX`] is hung up, which ends the process.

pub mod credit;
pub mod frame;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use credit::{Overrun, ReceiveCredit, SendCredit};
pub use frame::{FrameError, InFrame, Loss, OutFrame, Sequence};

/// Header that names the kind of a frame.
pub const FRAME_HEADER: &str = "Moat-Frame";
/// Header that numbers it.
pub const SEQUENCE_HEADER: &str = "Moat-Seq";
/// Bytes that may be under way in one direction: a round trip of 10 ms still allows 25 MB/s, and it is all a session can
/// make either side hold.
pub const WINDOW: u32 = 256 << 10;
/// Most bytes in one frame: small against the window, so that credit flows; far below any server's message limit.
pub const CHUNK_LEN_MAX: usize = 32 << 10;
/// How often each side says that it lives.
pub const PING_EVERY: Duration = Duration::from_secs(10);
/// How long a side may be silent: two pings may be lost to a reconnect.
pub const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Name of a stream: 32 hex digits nobody can guess, because whoever knows them can write to the stream.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct StreamId(String);

impl StreamId {
    /// From 16 random bytes.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(data_encoding::HEXLOWER.encode(&bytes))
    }

    /// Reads one.
    pub fn parse(text: &str) -> Option<Self> {
        let valid = text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        valid.then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for StreamId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for StreamId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("a stream id is 32 hex digits in lower case"))
    }
}
