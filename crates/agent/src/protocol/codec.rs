//! Bytes in, frames out: the decoder both sides use on what the other says.

use std::marker::PhantomData;

use bytes::{Buf, Bytes, BytesMut};

use super::frame::{Frame, FrameError, len_max};

/// Length and kind: what must be seen before anything is decided.
const PREFIX_LEN: usize = 5;

/// Turns a byte stream into frames of one direction.
///
/// It holds at most one incomplete frame besides what was pushed last, so a caller that takes every frame before it
/// pushes more needs no more memory than the bound of a frame. After an error it stays in error: framing is lost.
#[derive(Debug)]
pub struct Decoder<F> {
    buffer: BytesMut,
    failed: Option<FrameError>,
    direction: PhantomData<fn() -> F>,
}

impl<F> Default for Decoder<F> {
    fn default() -> Self {
        Self { buffer: BytesMut::new(), failed: None, direction: PhantomData }
    }
}

impl<F: Frame> Decoder<F> {
    /// Appends received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// Where received bytes can be put without a copy.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Whether bytes of an incomplete frame are waiting.
    pub fn is_mid_frame(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Takes the next complete frame, if there is one.
    pub fn pop(&mut self) -> Result<Option<F>, FrameError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.decode_next().inspect_err(|error| {
            self.failed = Some(error.clone());
            self.buffer = BytesMut::new();
        })
    }

    fn decode_next(&mut self) -> Result<Option<F>, FrameError> {
        let Some((len, kind)) = prefix(&self.buffer) else { return Ok(None) };
        if len == 0 {
            return Err(FrameError::Empty);
        }
        if !F::knows(kind) {
            return Err(FrameError::UnknownKind(kind));
        }
        let body_len = len as usize - 1;
        if body_len >= len_max(kind) {
            return Err(FrameError::TooLong { kind, len });
        }
        if self.buffer.len() < PREFIX_LEN + body_len {
            // Bounded just above.
            self.buffer.reserve(PREFIX_LEN + body_len - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(PREFIX_LEN);
        let body: Bytes = self.buffer.split_to(body_len).freeze();
        F::decode(kind, body).map(Some)
    }
}

/// Length and kind, once both are there. A zero length is reported without waiting for a kind that need not come.
fn prefix(mut bytes: &[u8]) -> Option<(u32, u8)> {
    let len = bytes.try_get_u32().ok()?;
    if len == 0 {
        return Some((0, 0));
    }
    Some((len, bytes.try_get_u8().ok()?))
}

#[cfg(test)]
mod tests {
    use moat_model::file::{WatchEvent, WatchKind};
    use moat_model::spec::{PtySize, Signal};
    use moat_model::{ErrorKind, Exit};
    use proptest::prelude::*;

    use super::super::frame::{AgentFrame, DaemonFrame, Trouble, pieces};
    use super::super::{DATA_LEN_MAX, HEADER_LEN_MAX, Offsets, StreamName};
    use super::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 1..300).prop_map(Bytes::from)
    }

    fn daemon_frame() -> impl Strategy<Value = DaemonFrame> {
        prop_oneof![
            bytes().prop_map(DaemonFrame::Header),
            bytes().prop_map(DaemonFrame::Stdin),
            Just(DaemonFrame::StdinEnd),
            any::<(u16, u16)>().prop_map(|(rows, cols)| DaemonFrame::Resize(PtySize { rows, cols })),
            (1_u8..=64).prop_map(|n| DaemonFrame::Signal(Signal::try_from(n).unwrap())),
            any::<(u64, u64)>().prop_map(|(stdout, stderr)| DaemonFrame::Acknowledge(Offsets { stdout, stderr })),
            bytes().prop_map(DaemonFrame::Content),
            Just(DaemonFrame::Finish),
        ]
    }

    fn agent_frame() -> impl Strategy<Value = AgentFrame> {
        let stream = prop_oneof![Just(StreamName::Stdout), Just(StreamName::Stderr)];
        prop_oneof![
            bytes().prop_map(AgentFrame::Header),
            (stream.clone(), any::<u64>(), bytes()).prop_map(|(stream, offset, bytes)| AgentFrame::Data {
                stream,
                offset,
                bytes
            }),
            (stream.clone(), any::<u64>()).prop_map(|(stream, offset)| AgentFrame::End { stream, offset }),
            (stream, any::<u64>()).prop_map(|(stream, to)| AgentFrame::Skipped { stream, to }),
            bytes().prop_map(AgentFrame::Content),
            any::<(u64, u64)>().prop_map(|(bytes, entries)| AgentFrame::Done { bytes, entries }),
            any::<String>().prop_map(|message| AgentFrame::Failed(Trouble { kind: ErrorKind::Exhausted, message })),
            any::<(String, Option<String>)>()
                .prop_map(|(path, to)| { AgentFrame::Event(WatchEvent { kind: WatchKind::Renamed, path, to }) }),
            any::<u64>().prop_map(AgentFrame::StdinTaken),
            (any::<i32>(), prop::option::of(1_i32..65), any::<bool>(), any::<bool>()).prop_map(
                |(code, signal, oom_killed, timed_out)| AgentFrame::Exit {
                    exit: Exit { code, signal, oom_killed },
                    timed_out
                }
            ),
        ]
    }

    /// Decodes everything that arrives in pieces of `step` bytes.
    fn decode_all<F: Frame>(wire: &[u8], step: usize) -> Result<Vec<F>, FrameError> {
        let mut decoder = Decoder::<F>::default();
        let mut frames = Vec::new();
        for part in wire.chunks(step) {
            decoder.push(part);
            while let Some(frame) = decoder.pop()? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    fn round_trip<F: Frame + PartialEq + std::fmt::Debug>(frames: &[F], step: usize) {
        let mut wire = BytesMut::new();
        for frame in frames {
            frame.encode(&mut wire);
        }
        assert_eq!(decode_all::<F>(&wire, step).unwrap(), frames);
    }

    proptest! {
        #[test]
        fn what_the_daemon_says_is_read_back(frames in prop::collection::vec(daemon_frame(), 0..8), step in 1_usize..64) {
            round_trip(&frames, step);
        }

        #[test]
        fn what_the_agent_says_is_read_back(frames in prop::collection::vec(agent_frame(), 0..8), step in 1_usize..64) {
            round_trip(&frames, step);
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_stay_bounded(
            wire in prop::collection::vec(any::<u8>(), 0..2000),
            step in 1_usize..200,
        ) {
            let _ = decode_all::<DaemonFrame>(&wire, step);
            let _ = decode_all::<AgentFrame>(&wire, step);
        }

        #[test]
        fn plausible_bytes_never_panic(kind in 0_u8..0x30, body in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut wire = u32::try_from(body.len() + 1).unwrap().to_be_bytes().to_vec();
            wire.push(kind);
            wire.extend_from_slice(&body);
            let _ = decode_all::<DaemonFrame>(&wire, 7);
            let _ = decode_all::<AgentFrame>(&wire, 7);
        }
    }

    #[test]
    fn lengths_are_refused_before_the_body_arrives() {
        let mut decoder = Decoder::<AgentFrame>::default();
        decoder.push(&[0xff, 0xff, 0xff, 0xff, 0x10]);
        assert_eq!(decoder.pop(), Err(FrameError::TooLong { kind: 0x10, len: u32::MAX }));
        decoder.push(&[0; 100]);
        assert!(decoder.pop().is_err(), "an error stays");
        assert!(decoder.buffer.capacity() < 1024, "and keeps no memory");

        let header = u32::try_from(HEADER_LEN_MAX).unwrap();
        for (len, fits) in [(header, true), (header + 1, false)] {
            let mut decoder = Decoder::<DaemonFrame>::default();
            decoder.push(&len.to_be_bytes());
            decoder.push(&[0x01]);
            assert_eq!(decoder.pop().is_ok(), fits, "{len}");
        }
    }

    #[test]
    fn neither_side_takes_the_other_sides_kinds() {
        let mut wire = BytesMut::new();
        DaemonFrame::StdinEnd.encode(&mut wire);
        assert_eq!(decode_all::<AgentFrame>(&wire, 5), Err(FrameError::UnknownKind(0x21)));
        let mut wire = BytesMut::new();
        AgentFrame::StdinTaken(1).encode(&mut wire);
        assert_eq!(decode_all::<DaemonFrame>(&wire, 5), Err(FrameError::UnknownKind(0x14)));
    }

    /// The longest paths and messages there are, escaped to the utmost, still make a frame the other side takes.
    #[test]
    fn the_longest_text_fits_into_a_frame() {
        let path = "\u{1}".repeat(moat_model::file::PATH_LEN_MAX);
        round_trip(
            &[AgentFrame::Event(WatchEvent { kind: WatchKind::Renamed, path: path.clone(), to: Some(path) })],
            999,
        );
        let mut wire = BytesMut::new();
        AgentFrame::Failed(Trouble { kind: ErrorKind::Denied, message: "\u{1}".repeat(100_000) }).encode(&mut wire);
        assert_eq!(decode_all::<AgentFrame>(&wire, 4096).unwrap().len(), 1, "cut, not refused");
    }

    #[test]
    fn long_data_is_cut_to_frames_that_fit() {
        let parts: Vec<Bytes> = pieces(Bytes::from(vec![7; DATA_LEN_MAX * 2 + 1])).collect();
        assert_eq!(parts.iter().map(Bytes::len).collect::<Vec<_>>(), [DATA_LEN_MAX, DATA_LEN_MAX, 1]);
        for bytes in parts {
            round_trip(&[AgentFrame::Data { stream: StreamName::Stdout, offset: 1, bytes }], 4096);
        }
    }
}
