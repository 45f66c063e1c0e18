//! The main process: output exactly once, the exit kept, nothing left behind.

use std::sync::Arc;
use std::time::Duration;

use moat_agent::protocol::{MainState, Offsets, StreamName};
use moat_engine::Guest;
use moat_engine::guest::agent::AgentGuest;
use moat_engine::guest::{Chunk, OutputReader};
use moat_model::spec::Signal;
use moat_model::{ErrorKind, Exit};
use tokio::time::timeout;

use crate::harness::{DEADLINE, Sandbox, exec_sh, marker, process, running, sh, until, until_alone};

/// Reads to the end, acknowledging everything.
async fn read_all(reader: &mut Box<dyn OutputReader>, mut at: Offsets) -> (Vec<u8>, Vec<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(Chunk { stream, offset, bytes }) = timeout(DEADLINE, reader.next()).await.unwrap().unwrap() {
        let (text, place) = match stream {
            StreamName::Stdout => (&mut out, &mut at.stdout),
            StreamName::Stderr => (&mut err, &mut at.stderr),
        };
        assert_eq!(offset, *place);
        *place += bytes.len() as u64;
        text.extend_from_slice(&bytes);
        reader.acknowledge(at).await.unwrap();
    }
    (out, err)
}

async fn wait(guest: &AgentGuest) -> Exit {
    timeout(DEADLINE, guest.wait_main()).await.expect("main did not end").unwrap()
}

/// N20, N35: start, hello, output, exit.
#[tokio::test]
async fn n20_runs_once_and_tells() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    assert_eq!(guest.hello().await.unwrap().main, MainState::Idle);
    assert_eq!(guest.wait_main().await.unwrap_err().kind, ErrorKind::Conflict);
    let pid = guest.start_main(&sh("echo out; echo err >&2; echo $$; exit 7")).await.unwrap();
    let again = guest.start_main(&sh("true")).await.unwrap_err();
    assert_eq!(again.kind, ErrorKind::Conflict);
    let mut reader = guest.output(Offsets::default()).await.unwrap();
    let (out, err) = read_all(&mut reader, Offsets::default()).await;
    assert_eq!(String::from_utf8(out).unwrap(), format!("out\n{pid}\n"));
    assert_eq!(err, b"err\n");
    assert_eq!(wait(&guest).await, Exit::code(7));
    assert_eq!(guest.hello().await.unwrap().main, MainState::Exited { exit: Exit::code(7) });
    assert_eq!(guest.exec(&exec_sh("true")).await.unwrap_err().kind, ErrorKind::Conflict);
}

/// N20: death by signal.
#[tokio::test]
async fn n20_signals_reach_the_main_process() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    guest.start_main(&sh("trap 'echo caught; exit 3' USR1; echo ready; while :; do sleep 0.02; done")).await.unwrap();
    let mut reader = guest.output(Offsets::default()).await.unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap().bytes, "ready\n");
    guest.signal_main(Signal::parse("USR1").unwrap()).await.unwrap();
    let (out, _) = read_all(&mut reader, Offsets { stdout: 6, stderr: 0 }).await;
    assert_eq!(out, b"caught\n");
    assert_eq!(wait(&guest).await, Exit::code(3));
    assert_eq!(guest.signal_main(Signal::TERM).await.unwrap_err().kind, ErrorKind::Conflict);

    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    guest.start_main(&process("sleep", &["1000"])).await.unwrap();
    guest.signal_main(Signal::KILL).await.unwrap();
    assert_eq!(wait(&guest).await, Exit::signal(9));
}

/// The daemon dies in the middle: what it had not taken comes again, nothing twice, nothing lost.
#[tokio::test]
async fn output_arrives_exactly_once_across_dropped_connections() {
    let sandbox = Sandbox::launch_with(|agent| agent.output_buffer_bytes = 64 << 10);
    let guest = sandbox.connect().await;
    guest.start_main(&sh("seq 1 60000; echo done >&2")).await.unwrap();
    let mut at = Offsets::default();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut guest = Some(guest);
    let mut rounds = 0;
    'rounds: loop {
        let guest = match guest.take() {
            Some(guest) => guest,
            None => sandbox.connect().await,
        };
        rounds += 1;
        let mut reader = guest.output(at).await.unwrap();
        let mut safe = at;
        for taken in 0..=5 {
            let Some(chunk) = timeout(DEADLINE, reader.next()).await.unwrap().unwrap() else { break 'rounds };
            // The last piece of a round is read but not made safe: it must come again.
            if taken == 5 {
                break;
            }
            let (text, place) = match chunk.stream {
                StreamName::Stdout => (&mut out, &mut safe.stdout),
                StreamName::Stderr => (&mut err, &mut safe.stderr),
            };
            assert_eq!(chunk.offset, *place);
            *place += chunk.bytes.len() as u64;
            text.extend_from_slice(&chunk.bytes);
            reader.acknowledge(safe).await.unwrap();
        }
        at = safe;
    }
    let expected: String = (1..=60_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(out.len(), expected.len());
    assert!(out == expected.as_bytes(), "bytes differ");
    assert_eq!(err, b"done\n");
    assert!(rounds > 3, "the connection was dropped {rounds} times");
}

/// N24: the exit and the output wait for whoever comes.
#[tokio::test]
async fn n24_exit_is_kept_while_nobody_is_connected() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let sleeping = marker();
    let pid = guest.start_main(&sh(&format!("sleep 0.1; echo last words; exit 42; sleep {sleeping}"))).await.unwrap();
    drop(guest);
    until("main to end", || !crate::harness::alive(pid)).await;
    let guest = sandbox.connect().await;
    assert_eq!(wait(&guest).await, Exit::code(42));
    let mut reader = guest.output(Offsets::default()).await.unwrap();
    assert_eq!(read_all(&mut reader, Offsets::default()).await.0, b"last words\n");
    let mut reader = guest.output(Offsets { stdout: 11, stderr: 0 }).await.unwrap();
    assert!(reader.next().await.unwrap().is_none(), "again, from the end");
}

/// A wait that was begun survives the connection it was begun on.
#[tokio::test]
async fn waiting_goes_on_over_a_new_connection() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    guest
        .start_main(&sh("read x < /dev/null; trap 'exit 5' TERM; echo up; while :; do sleep 0.02; done"))
        .await
        .unwrap();
    let mut reader = guest.output(Offsets::default()).await.unwrap();
    reader.next().await.unwrap().unwrap();
    let waiting = {
        let guest: Arc<AgentGuest> = guest.clone();
        tokio::spawn(async move { guest.wait_main().await })
    };
    // A second connection takes the agent away from the first guest, which then connects again.
    let other = sandbox.connect().await;
    drop(other);
    guest.hello().await.unwrap();
    guest.signal_main(Signal::TERM).await.unwrap();
    assert_eq!(timeout(DEADLINE, waiting).await.unwrap().unwrap().unwrap(), Exit::code(5));
    assert!(reader.next().await.is_err(), "the old reader's stream is gone");
}

/// N21, N22: what main leaves behind is ended, wherever it hid, and its end is not waited for longer than that.
#[tokio::test]
async fn n22_nothing_survives_the_main_process() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let sleeping = marker();
    let script = format!("(sleep {sleeping} &); setsid sh -c 'setsid sleep {sleeping} & sleep {sleeping}' & sleep 0.2");
    guest.start_main(&sh(&script)).await.unwrap();
    until("children", || running(&sleeping).len() == 3).await;
    let began = std::time::Instant::now();
    assert_eq!(wait(&guest).await, Exit::code(0));
    assert!(began.elapsed() < Duration::from_secs(7), "N21: {:?}", began.elapsed());
    assert_eq!(running(&sleeping), Vec::<u32>::new());
    let mut reader = guest.output(Offsets::default()).await.unwrap();
    assert!(reader.next().await.unwrap().is_none(), "the streams have ended although others held them");
}

/// A reader that takes nothing slows the program down, and costs no memory.
#[tokio::test]
async fn a_reader_who_acknowledges_nothing_holds_the_writer_back() {
    const TOTAL: u64 = 64 << 20;
    const KEPT: u64 = 1 << 20;
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    guest.start_main(&process("head", &["-c", &TOTAL.to_string(), "/dev/zero"])).await.unwrap();
    let mut reader = guest.output(Offsets::default()).await.unwrap();
    let mut at = Offsets::default();
    while at.stdout < KEPT {
        let chunk = timeout(DEADLINE, reader.next()).await.unwrap().unwrap().unwrap();
        at.stdout += chunk.bytes.len() as u64;
    }
    // Everything the agent keeps has been read: more would have to come from memory it must not use.
    let more = timeout(Duration::from_millis(300), reader.next()).await;
    assert!(more.is_err(), "{more:?}");
    assert_eq!(at.stdout, KEPT);
    assert!(sandbox.rss() < 8 << 20, "agent has {} KiB", sandbox.rss() >> 10);
    assert!(matches!(guest.hello().await.unwrap().main, MainState::Running { .. }), "and it still answers");
    reader.acknowledge(at).await.unwrap();
    let (rest, _) = read_all(&mut reader, at).await;
    assert_eq!(at.stdout + rest.len() as u64, TOTAL);
    assert!(sandbox.rss() < 8 << 20, "agent has {} KiB", sandbox.rss() >> 10);
    assert_eq!(wait(&guest).await, Exit::code(0));
}

/// Output nobody reads does not keep the exit from being told, and is still there afterwards.
#[tokio::test]
async fn a_full_window_does_not_hide_the_exit() {
    let sandbox = Sandbox::launch_with(|agent| agent.output_buffer_bytes = 4096);
    let guest = sandbox.connect().await;
    guest.start_main(&process("head", &["-c", "40000", "/dev/zero"])).await.unwrap();
    assert_eq!(wait(&guest).await, Exit::code(0));
    let mut reader = guest.output(Offsets::default()).await.unwrap();
    assert_eq!(read_all(&mut reader, Offsets::default()).await.0.len(), 40_000);
}

#[tokio::test]
async fn offsets_outside_the_window_are_refused() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    guest.start_main(&sh("echo 0123456789; sleep 1000")).await.unwrap();
    let mut reader = guest.output(Offsets::default()).await.unwrap();
    reader.next().await.unwrap().unwrap();
    reader.acknowledge(Offsets { stdout: 5, stderr: 0 }).await.unwrap();
    // The acknowledgement travels on another stream than the question, so ask until it has arrived.
    let asked = moat_testkit::wait_until(DEADLINE, "the acknowledgement", async || {
        guest.output(Offsets { stdout: 4, stderr: 0 }).await.err()
    });
    assert!(asked.await.unwrap().chain().contains("kept 5 to 11"));
    let ahead = guest.output(Offsets { stdout: 12, stderr: 0 }).await.err().unwrap();
    assert!(ahead.chain().contains("stdout: offset 12"), "{}", ahead.chain());
    let mut newer = guest.output(Offsets { stdout: 5, stderr: 0 }).await.unwrap();
    assert_eq!(newer.next().await.unwrap().unwrap().bytes, "56789\n");
    assert!(reader.next().await.is_err(), "the newest reader is the only one");
}

/// N26, N08: refusals name what is wrong, and leave nothing behind.
#[tokio::test]
async fn n26_unknown_users_and_commands_are_named() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let mut spec = sh("true");
    spec.user = Some("mallory".to_owned());
    let error = guest.start_main(&spec).await.unwrap_err();
    assert!(error.kind == ErrorKind::InvalidSpec && error.chain().contains("\"mallory\""), "{}", error.chain());
    let error = guest.start_main(&process("no-such-thing", &[])).await.unwrap_err();
    assert!(error.chain().contains("\"no-such-thing\"") && error.chain().contains("/local/"), "{}", error.chain());
    // The task's own file is made executable, so what is left to refuse is that it is no program; a file with a second
    // name is not certainly its own, and stays as it is.
    std::fs::write(sandbox.dir.path().join("local/plain"), "text").unwrap();
    let error = guest.start_main(&process("plain", &[])).await.unwrap_err();
    assert!(error.chain().contains("not a program for this machine"), "{}", error.chain());
    std::fs::write(sandbox.dir.path().join("elsewhere"), "text").unwrap();
    std::fs::hard_link(sandbox.dir.path().join("elsewhere"), sandbox.dir.path().join("local/linked")).unwrap();
    let error = guest.start_main(&process("linked", &[])).await.unwrap_err();
    assert!(error.chain().contains("permission denied"), "{}", error.chain());
    let mut spec = sh("true");
    spec.cwd = Some("/no/such/dir".to_owned());
    let error = guest.start_main(&spec).await.unwrap_err();
    assert!(error.chain().contains("/no/such/dir"), "{}", error.chain());
    assert_eq!(guest.hello().await.unwrap().main, MainState::Idle);
    until_alone(&guest).await;
    guest.start_main(&sh("exit 1")).await.unwrap();
    assert_eq!(wait(&guest).await, Exit::code(1), "and it still can be started");
}

/// N09, N16, N42: what a program finds when it begins.
#[tokio::test]
async fn n42_a_program_begins_clean() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let script = "ls /proc/self/fd | tr '\\n' ' '; pwd; id -u; id -g; cat /proc/self/oom_score_adj; \
                  grep -E '^(SigBlk|SigIgn|NoNewPrivs)' /proc/self/status | tr -d '\\t'; ulimit -n; umask; env | sort";
    let mut spec = sh(script);
    spec.user = Some("nobody".to_owned());
    spec.cwd = Some("/".to_owned());
    guest.start_main(&spec).await.unwrap();
    let mut reader = guest.output(Offsets::default()).await.unwrap();
    let (out, err) = read_all(&mut reader, Offsets::default()).await;
    assert_eq!(String::from_utf8_lossy(&err), "");
    let out = String::from_utf8(out).unwrap();
    // The fourth descriptor is the directory that ls has open.
    let expected =
        "0 1 2 3 /\n65534\n65534\n0\nSigBlk:0000000000000000\nSigIgn:0000000000000000\nNoNewPrivs:1\n1024\n0022\n";
    let (head, env) = out.split_at(out.find("HOME=").expect("HOME"));
    assert_eq!(head, expected);
    for line in ["HOME=/nonexistent", "LOGNAME=nobody", "USER=nobody", "PATH=/usr/local/bin:/usr/bin:/bin"] {
        assert!(env.lines().any(|l| l == line), "{line} in {env}");
    }
    assert!(!env.contains("CARGO"), "nothing is inherited: {env}");
}

#[tokio::test]
async fn shutdown_ends_everything_and_the_agent() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let sleeping = marker();
    guest.start_main(&sh(&format!("setsid sleep {sleeping} & sleep {sleeping}"))).await.unwrap();
    until("children", || running(&sleeping).len() == 2).await;
    guest.shutdown().await.unwrap();
    let why = timeout(DEADLINE, guest.lost()).await.unwrap();
    assert!(why.contains("has ended"), "{why}");
    assert_eq!(running(&sleeping), Vec::<u32>::new());
    assert_eq!(guest.hello().await.unwrap_err().kind, ErrorKind::Unavailable);
}
