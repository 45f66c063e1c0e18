//! The examples of `docs/agent-protocol.md`, read from it: each line of bytes is the frame written below it.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should say where")]

use std::fmt::Write as _;

use bytes::BytesMut;
use moat_agent::protocol::codec::Decoder;
use moat_agent::protocol::frame::{AgentFrame, DaemonFrame, Frame, from_header};
use moat_agent::protocol::{GuestRequest, Reply, Request, StreamName};

const DOCUMENT: &str = include_str!("../../../docs/agent-protocol.md");

/// Side, bytes and meaning of every example.
fn examples() -> Vec<(String, Vec<u8>, String)> {
    let mut found = Vec::new();
    let mut side = None;
    let mut bytes: Option<Vec<u8>> = None;
    for line in DOCUMENT.lines() {
        if let Some(from) = line.strip_prefix("```wire ") {
            side = Some(from.to_owned());
        } else if line.starts_with("```") {
            side = None;
        } else if let Some(side) = &side {
            if let Some(meaning) = line.strip_prefix("  = ") {
                found.push((side.clone(), bytes.take().expect("bytes come first"), meaning.to_owned()));
            } else {
                bytes = Some(line.split(' ').map(|hex| u8::from_str_radix(hex, 16).expect(line)).collect());
            }
        }
    }
    found
}

/// Decodes exactly one frame, and checks that it is written the same.
fn one<F: Frame>(bytes: &[u8]) -> F {
    let mut decoder = Decoder::<F>::default();
    decoder.push(bytes);
    let frame = decoder.pop().unwrap().expect("a whole frame");
    assert!(!decoder.is_mid_frame(), "and nothing more");
    let mut again = BytesMut::new();
    frame.encode(&mut again);
    assert_eq!(again, bytes);
    frame
}

fn name(stream: StreamName) -> &'static str {
    if stream == StreamName::Stdout { "stdout" } else { "stderr" }
}

fn header(body: &[u8]) -> String {
    format!("header {}", String::from_utf8_lossy(body))
}

fn of_daemon(frame: &DaemonFrame) -> String {
    match frame {
        DaemonFrame::Header(body) => {
            from_header::<Request>(body).unwrap();
            header(body)
        }
        DaemonFrame::Stdin(bytes) => format!("stdin \"{}\"", bytes.escape_ascii()),
        DaemonFrame::StdinEnd => "stdin ends".to_owned(),
        DaemonFrame::Resize(size) => format!("resize {} rows {} columns", size.rows, size.cols),
        DaemonFrame::Signal(signal) => format!("signal {}", signal.number()),
        DaemonFrame::Content(bytes) => format!("content \"{}\"", bytes.escape_ascii()),
        DaemonFrame::Finish => "finish".to_owned(),
        DaemonFrame::Acknowledge(upto) => format!("acknowledge stdout {} stderr {}", upto.stdout, upto.stderr),
    }
}

fn of_agent(frame: &AgentFrame) -> String {
    match frame {
        AgentFrame::Header(body) => {
            if from_header::<GuestRequest>(body).is_err() {
                from_header::<Reply>(body).unwrap();
            }
            header(body)
        }
        AgentFrame::Data { stream, offset, bytes } => {
            format!("{} at {offset} \"{}\"", name(*stream), bytes.escape_ascii())
        }
        AgentFrame::End { stream, offset } => format!("{} ends at {offset}", name(*stream)),
        AgentFrame::StdinTaken(taken) => format!("stdin taken {taken}"),
        AgentFrame::Exit { exit, timed_out } => {
            let mut text = format!("exit code {}", exit.code);
            if let Some(signal) = exit.signal {
                write!(text, " signal {signal}").unwrap();
            }
            text.push_str(if *timed_out { " timed out" } else { "" });
            text
        }
        AgentFrame::Content(bytes) => format!("content \"{}\"", bytes.escape_ascii()),
        AgentFrame::Done { bytes, entries } => format!("done {bytes} bytes {entries} entries"),
        AgentFrame::Failed(trouble) => format!("failed {}: {}", trouble.kind.code(), trouble.message),
        AgentFrame::Event(event) => format!("event {}", serde_json::to_string(event).unwrap()),
        AgentFrame::Skipped { stream, to } => format!("{} skipped to {to}", name(*stream)),
    }
}

#[test]
fn the_examples_are_what_they_say() {
    let examples = examples();
    for (side, bytes, meaning) in &examples {
        let read = match side.as_str() {
            "daemon" => of_daemon(&one(bytes)),
            "agent" => of_agent(&one(bytes)),
            other => panic!("neither side: {other}"),
        };
        assert_eq!(&read, meaning);
    }
    for kind in [
        "header",
        "stdout at",
        "stderr at",
        "stdout ends",
        "stderr ends",
        "stdin taken",
        "exit",
        "stdin \"",
        "stdin ends",
        "resize",
        "signal",
        "acknowledge",
        "content",
        "finish",
        "done",
        "failed",
        "event",
        "stdout skipped",
    ] {
        assert!(examples.iter().any(|(_, _, meaning)| meaning.starts_with(kind)), "no example of {kind}");
    }
}
