//! What the daemon reads from an agent.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use moat_agent::protocol::codec::Decoder;
use moat_agent::protocol::frame::{AgentFrame, Frame, from_header};
use moat_agent::protocol::{Reply, HEADER_LEN_MAX};

fuzz_target!(|input: (u8, &[u8])| {
    let (step, wire) = input;
    let mut decoder = Decoder::<AgentFrame>::default();
    for piece in wire.chunks(usize::from(step).max(1)) {
        decoder.push(piece);
        loop {
            match decoder.pop() {
                Ok(Some(frame)) => again(&frame),
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(decoder.buffer_mut().capacity() <= 2 * HEADER_LEN_MAX, "memory follows the bytes, not the lengths");
    }
});

/// Whatever was read is written and read as the same.
fn again(frame: &AgentFrame) {
    if let AgentFrame::Header(body) = frame {
        let _ = from_header::<Reply>(body);
    }
    let mut wire = BytesMut::new();
    frame.encode(&mut wire);
    let mut decoder = Decoder::<AgentFrame>::default();
    decoder.push(&wire);
    assert_eq!(decoder.pop().as_ref(), Ok(&Some(frame.clone())));
}
