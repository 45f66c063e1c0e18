//! Processes that outlive their connection, and who follows them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use moat_agent::protocol::{Offsets, StreamName};
use moat_engine::Guest;
use moat_engine::guest::agent::AgentGuest;
use moat_engine::guest::{AttachOutput, Attachment, ExecInput};
use moat_model::spec::{ExecSpec, PtySize, Signal};
use moat_model::{ErrorKind, Exit};
use tokio::time::timeout;

use crate::harness::{DEADLINE, Sandbox, exec_sh, marker, process, running, until, until_alone};

/// What a follower heard.
#[derive(Debug, Default)]
pub struct Heard {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub skipped: u64,
    pub exit: Option<(Exit, bool)>,
}

/// Follows to the end.
pub async fn hear(mut attachment: Attachment) -> Heard {
    let mut heard = Heard::default();
    let mut next = Offsets::default();
    while let Some(said) = timeout(DEADLINE, attachment.output.recv()).await.expect("something") {
        match said {
            AttachOutput::Data(chunk) => {
                let (at, kept) = match chunk.stream {
                    StreamName::Stdout => (&mut next.stdout, &mut heard.stdout),
                    StreamName::Stderr => (&mut next.stderr, &mut heard.stderr),
                };
                assert!(chunk.offset >= *at);
                *at = chunk.offset + chunk.bytes.len() as u64;
                kept.extend_from_slice(&chunk.bytes);
            }
            AttachOutput::Skipped { stream: StreamName::Stdout, to } => {
                heard.skipped += to - next.stdout;
                next.stdout = to;
            }
            AttachOutput::Skipped { stream: StreamName::Stderr, to } => next.stderr = to,
            AttachOutput::Exited { exit, timed_out } => heard.exit = Some((exit, timed_out)),
        }
    }
    heard
}

pub async fn follow(guest: &AgentGuest, pid: u32) -> Attachment {
    guest.attach(pid, Offsets::default()).await.unwrap_or_else(|e| panic!("{}", e.chain()))
}

#[tokio::test]
async fn spawned_processes_outlive_connections() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let script = "echo before; echo oops >&2; read line; echo got $line; exit 3";
    let pid = guest.spawn(&ExecSpec { stdin: true, ..exec_sh(script) }).await.unwrap();
    let first = follow(&guest, pid).await;
    drop(first);
    drop(guest);
    let guest = sandbox.connect().await;
    let listed = guest.spawned().await.unwrap();
    assert_eq!(listed.len(), 1);
    let one = &listed[0];
    assert_eq!((one.pid, one.command[0].as_str(), one.pty, one.exit), (pid, "/bin/sh", false, None));
    assert!(one.started_ms > 1_600_000_000_000);

    // Two followers, one of which speaks; its going away changes nothing.
    let (listener, speaker) = (follow(&guest, pid).await, follow(&guest, pid).await);
    speaker.input.send(ExecInput::Stdin(Bytes::from("li"))).await.unwrap();
    let Attachment { input, output } = speaker;
    drop(input);
    tokio::spawn(hear(Attachment { input: listener.input.clone(), output }));
    let third = follow(&guest, pid).await;
    third.input.send(ExecInput::Stdin(Bytes::from("ne\n"))).await.unwrap();
    for heard in [hear(listener).await, hear(third).await, hear(follow(&guest, pid).await).await] {
        assert_eq!((heard.stdout.as_slice(), heard.stderr.as_slice()), (&b"before\ngot line\n"[..], &b"oops\n"[..]));
        assert_eq!(heard.exit, Some((Exit::code(3), false)));
    }
    // From an offset.
    let rest = hear(guest.attach(pid, Offsets { stdout: 7, stderr: 5 }).await.unwrap()).await;
    assert_eq!((rest.stdout.as_slice(), rest.stderr.as_slice()), (&b"got line\n"[..], &b""[..]));
    let listed = guest.spawned().await.unwrap();
    assert_eq!((listed[0].exit, listed[0].written), (Some(Exit::code(3)), Offsets { stdout: 16, stderr: 5 }));

    let error = guest.attach(pid, Offsets { stdout: 999, stderr: 0 }).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidSpec);
    assert_eq!(guest.attach(999_999, Offsets::default()).await.unwrap_err().kind, ErrorKind::NotFound);
    let missing = ExecSpec { process: process("no-such-thing", &[]), ..exec_sh("") };
    assert_eq!(guest.spawn(&missing).await.unwrap_err().kind, ErrorKind::InvalidSpec);
    until_alone(&guest).await;
}

#[tokio::test]
async fn spawned_terminals_signals_and_limits() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let size = PtySize { rows: 100, cols: 100 };
    let script = "trap 'stty size; exit 9' WINCH; echo up; while :; do sleep 0.02; done";
    let pid = guest.spawn(&ExecSpec { pty: Some(size), stdin: true, ..exec_sh(script) }).await.unwrap();
    let mut follower = follow(&guest, pid).await;
    assert!(matches!(timeout(DEADLINE, follower.output.recv()).await.unwrap(), Some(AttachOutput::Data(_))));
    follower.input.send(ExecInput::Resize(PtySize { rows: 33, cols: 44 })).await.unwrap();
    let heard = hear(follower).await;
    assert_eq!((heard.stdout.as_slice(), heard.exit), (&b"33 44\r\n"[..], Some((Exit::code(9), false))));

    let sleeping = marker();
    let pid = guest.spawn(&exec_sh(&format!("sleep {sleeping} & sleep {sleeping}; wait"))).await.unwrap();
    until("two sleepers", || running(&sleeping).len() == 2).await;
    let follower = follow(&guest, pid).await;
    follower.input.send(ExecInput::Signal(Signal::KILL)).await.unwrap();
    assert_eq!(hear(follower).await.exit, Some((Exit::signal(9), false)));
    until("both to end", || running(&sleeping).is_empty()).await;
    until_alone(&guest).await;
}

/// 64 run at once and 64 that ended are remembered; an idle agent keeps little of them.
#[tokio::test]
async fn spawned_processes_are_bounded() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let sleep = ExecSpec { process: process("sleep", &["1000"]), ..exec_sh("") };
    let mut running = Vec::new();
    let refused = loop {
        match guest.spawn(&sleep).await {
            Ok(pid) => running.push(pid),
            Err(error) => break error,
        }
    };
    assert!(refused.kind == ErrorKind::Exhausted && running.len() == 64, "{} {}", running.len(), refused.chain());
    let kill = format!("kill -9 {}", running.iter().map(u32::to_string).collect::<Vec<_>>().join(" "));
    drop(guest.exec(&exec_sh(&kill)).await.unwrap().output.recv().await);
    until_alone(&guest).await;
    let last = guest.spawn(&exec_sh("exit 5")).await.unwrap();
    assert_eq!(hear(follow(&guest, last).await).await.exit, Some((Exit::code(5), false)));
    let listed = guest.spawned().await.unwrap();
    assert_eq!((listed.len(), listed.last().map(|one| one.pid)), (64, Some(last)));
    println!("agent: {} KiB with 64 ended", sandbox.rss() >> 10);
    // Which of those killed at once ended first is the kernel's choice.
    let forgotten: Vec<u32> = running.iter().copied().filter(|pid| !listed.iter().any(|one| one.pid == *pid)).collect();
    assert_eq!(forgotten.len(), 1);
    let began = Instant::now();
    assert_eq!(guest.attach(forgotten[0], Offsets::default()).await.unwrap_err().kind, ErrorKind::NotFound);
    assert!(began.elapsed() < Duration::from_secs(5));
}
