//! Other processes in the sandbox: N31 and what a hang-up or a time limit must reach.

use std::time::{Duration, Instant};

use bytes::Bytes;
use moat_agent::protocol::StreamName;
use moat_engine::Guest;
use moat_engine::guest::{ExecInput, ExecOutput};
use moat_model::spec::{ExecSpec, PtySize, Signal};
use moat_model::{ErrorKind, Exit};
use tokio::time::timeout;

use crate::harness::{DEADLINE, Sandbox, exec_sh, listen, marker, process, run, running, until, until_alone};

const SIZE: PtySize = PtySize { rows: 100, cols: 100 };

fn terminal(script: &str) -> ExecSpec {
    ExecSpec { pty: Some(SIZE), stdin: true, ..exec_sh(script) }
}

/// N30: output, error and exit of a command, inside the sandbox.
#[tokio::test]
async fn n30_commands_run_beside_the_main_process() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let said = run(&guest, "echo one; echo two >&2; exit 43").await;
    assert_eq!((said.stdout.as_str(), said.stderr.as_str(), said.exit), ("one\n", "two\n", Some(Exit::code(43))));
    let said = run(&guest, "kill -TERM $$").await;
    assert_eq!(said.exit, Some(Exit::signal(15)));
    let missing = ExecSpec { process: process("no-such-thing", &[]), ..exec_sh("") };
    let error = guest.exec(&missing).await.unwrap_err();
    assert!(error.kind == ErrorKind::InvalidSpec && error.chain().contains("no-such-thing"), "{}", error.chain());
    // N32: without a jail the files are the host's.
    run(&guest, "echo kept > made-here").await;
    assert_eq!(std::fs::read_to_string(sandbox.dir.path().join("made-here")).unwrap(), "kept\n");
    assert_eq!(run(&guest, "cat made-here").await.stdout, "kept\n");
}

/// N31 without a terminal: streaming, standard input, no terminal, background children.
#[tokio::test]
async fn n31_without_a_terminal() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;

    // Streaming: the second piece is written only when the first has arrived.
    let mut session =
        guest.exec(&ExecSpec { stdin: true, ..exec_sh("echo first; read x; echo second $x; exit 43") }).await.unwrap();
    let first = timeout(DEADLINE, session.output.recv()).await.unwrap();
    assert_eq!(first, Some(ExecOutput::Data(StreamName::Stdout, Bytes::from("first\n"))));
    session.input.send(ExecInput::Stdin(Bytes::from("go\n"))).await.unwrap();
    let said = listen(session).await;
    assert_eq!((said.stdout.as_str(), said.exit), ("second go\n", Some(Exit::code(43))));

    // Standard input to its end, more than any buffer holds.
    let text: String = (0..80_000).map(|n| format!("{n}\n")).collect();
    let session = guest.exec(&ExecSpec { stdin: true, process: process("cat", &[]), ..exec_sh("") }).await.unwrap();
    let input = session.input.clone();
    let sent = text.clone();
    tokio::spawn(async move {
        for piece in sent.as_bytes().chunks(50_000) {
            input.send(ExecInput::Stdin(Bytes::copy_from_slice(piece))).await.unwrap();
        }
        input.send(ExecInput::CloseStdin).await.unwrap();
    });
    let said = listen(session).await;
    assert!(said.stdout == text && said.exit == Some(Exit::code(0)), "{} of {} bytes", said.stdout.len(), text.len());

    // Without standard input a program reads end of file; there is no terminal either.
    assert_eq!(run(&guest, "cat; test -t 0 || echo no tty; stty size").await.stdout, "no tty\n");

    // Background children that hold the output are waited for, as docker exec does.
    let said = run(&guest, "( ( sleep 0.5; echo from background ) & ); echo from main").await;
    assert_eq!((said.stdout.as_str(), said.exit), ("from main\nfrom background\n", Some(Exit::code(0))));
}

/// N31 with a terminal: one stream, carriage returns, its size, its end.
#[tokio::test]
async fn n31_with_a_terminal() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let said = listen(guest.exec(&terminal("echo one; echo two >&2; exit 43")).await.unwrap()).await;
    assert_eq!((said.stdout.as_str(), said.stderr.as_str(), said.exit), ("one\r\ntwo\r\n", "", Some(Exit::code(43))));
    let said =
        listen(guest.exec(&terminal("stty size; tty >/dev/null && echo tty; : > /dev/tty")).await.unwrap()).await;
    assert_eq!((said.stdout.as_str(), said.exit), ("100 100\r\ntty\r\n", Some(Exit::code(0))));

    // Standard input, its echo, and its end.
    let session = guest.exec(&terminal("cat; echo after")).await.unwrap();
    session.input.send(ExecInput::Stdin(Bytes::from("typed\n"))).await.unwrap();
    session.input.send(ExecInput::CloseStdin).await.unwrap();
    let said = listen(session).await;
    assert_eq!(said.stdout, "typed\r\ntyped\r\nafter\r\n");

    // It ends with the process, even if a child still holds the terminal.
    let sleeping = marker();
    let began = Instant::now();
    let script = format!("trap '' HUP; sleep {sleeping} & echo from main");
    let said = listen(guest.exec(&terminal(&script)).await.unwrap()).await;
    assert_eq!((said.stdout.as_str(), said.exit), ("from main\r\n", Some(Exit::code(0))));
    assert!(began.elapsed() < Duration::from_secs(5));
    until("the child to go on", || running(&sleeping).len() == 1).await;

    // Everything a process wrote before it ended is there.
    let said = listen(guest.exec(&terminal("seq 1 5000")).await.unwrap()).await;
    let expected: String = (1..=5000).map(|n| format!("{n}\r\n")).collect();
    assert!(said.stdout == expected, "{} of {} bytes", said.stdout.len(), expected.len());
}

#[tokio::test]
async fn a_terminal_changes_its_size_and_passes_signals() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let mut session =
        guest.exec(&terminal("trap 'stty size; exit 9' WINCH; echo up; while :; do sleep 0.02; done")).await.unwrap();
    assert!(matches!(timeout(DEADLINE, session.output.recv()).await.unwrap(), Some(ExecOutput::Data(..))));
    session.input.send(ExecInput::Resize(PtySize { rows: 33, cols: 44 })).await.unwrap();
    let said = listen(session).await;
    assert_eq!((said.stdout.as_str(), said.exit), ("33 44\r\n", Some(Exit::code(9))));

    // A signal goes to the whole process group.
    let sleeping = marker();
    let session = guest.exec(&exec_sh(&format!("sleep {sleeping} & sleep {sleeping}; wait"))).await.unwrap();
    until("two sleepers", || running(&sleeping).len() == 2).await;
    session.input.send(ExecInput::Signal(Signal::TERM)).await.unwrap();
    assert_eq!(listen(session).await.exit, Some(Exit::signal(15)));
    until("both to end", || running(&sleeping).is_empty()).await;
}

/// Starts a tree whose members left session and parent, with everything closed that could betray them.
fn tree(sleeping: &str) -> String {
    format!(
        "setsid sh -c 'setsid sh -c \"setsid sleep {sleeping} >/dev/null 2>&1 & sleep {sleeping}\" >/dev/null 2>&1 & \
         exec sleep {sleeping}' >/dev/null 2>&1 & sleep {sleeping}"
    )
}

#[tokio::test]
async fn a_time_limit_ends_the_whole_tree() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let sleeping = marker();
    let spec = ExecSpec { timeout: Some(Duration::from_millis(800)), ..exec_sh(&tree(&sleeping)) };
    let session = guest.exec(&spec).await.unwrap();
    until("the tree", || running(&sleeping).len() == 4).await;
    let said = listen(session).await;
    assert_eq!((said.exit, said.timed_out), (Some(Exit::signal(9)), true));
    assert_eq!(running(&sleeping), Vec::<u32>::new());
    until_alone(&guest).await;

    // Also after the process itself has ended, while its children hold the output.
    let spec = ExecSpec { timeout: Some(Duration::from_millis(500)), ..exec_sh(&format!("sleep {sleeping} & exit 4")) };
    let said = listen(guest.exec(&spec).await.unwrap()).await;
    assert_eq!((said.exit, said.timed_out), (Some(Exit::code(4)), true));
    assert_eq!(running(&sleeping), Vec::<u32>::new());
}

#[tokio::test]
async fn hanging_up_ends_the_whole_tree() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let sleeping = marker();
    let session = guest.exec(&exec_sh(&tree(&sleeping))).await.unwrap();
    until("the tree", || running(&sleeping).len() == 4).await;
    drop(session);
    until("the tree to end", || running(&sleeping).is_empty()).await;

    // So does the daemon's death.
    let _session = guest.exec(&exec_sh(&tree(&sleeping))).await.unwrap();
    until("the tree", || running(&sleeping).len() == 4).await;
    drop(guest);
    until("the tree to end", || running(&sleeping).is_empty()).await;
    let guest = sandbox.connect().await;
    until_alone(&guest).await;
}

/// N31: a command that ends well leaves what it put in the background alone.
#[tokio::test]
async fn n31_background_children_go_on() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let sleeping = marker();
    let said = run(&guest, &format!("setsid sleep {sleeping} >/dev/null 2>&1 & echo started")).await;
    assert_eq!((said.stdout.as_str(), said.exit), ("started\n", Some(Exit::code(0))));
    until("the child to run", || running(&sleeping).len() == 1).await;
    // The supervisor is gone, the agent is its parent now.
    let listed = guest.processes().await.unwrap();
    let child = listed.iter().find(|p| p.command.contains(&sleeping)).expect("listed");
    assert_eq!(child.ppid, sandbox.pid);
    drop(guest);
    let guest = sandbox.connect().await;
    guest.hello().await.unwrap();
    assert_eq!(running(&sleeping).len(), 1, "nor does a later hang-up concern it");
}

/// Input nobody reads, output nobody reads: neither keeps anything else from working.
#[tokio::test]
async fn one_stuck_exec_disturbs_nobody() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let sleeping = marker();
    let deaf =
        guest.exec(&ExecSpec { stdin: true, process: process("sleep", &[&sleeping]), ..exec_sh("") }).await.unwrap();
    let piece = Bytes::from(vec![b'x'; 64 << 10]);
    // As much as every bound on the way allows, until nothing is taken any more.
    while timeout(Duration::from_millis(200), deaf.input.send(ExecInput::Stdin(piece.clone()))).await.is_ok() {}
    let loud = guest
        .exec(&ExecSpec { process: process("head", &["-c", "50000000", "/dev/zero"]), ..exec_sh("") })
        .await
        .unwrap();
    for _ in 0..20 {
        assert_eq!(run(&guest, "echo ok").await.stdout, "ok\n");
    }
    assert!(sandbox.rss() < 8 << 20, "agent has {} KiB", sandbox.rss() >> 10);
    assert_eq!(listen(loud).await.stdout.len(), 50_000_000);
    drop(deaf);
    until("the deaf one to end", || running(&sleeping).is_empty()).await;

    // Signals pass input that waits.
    let deaf =
        guest.exec(&ExecSpec { stdin: true, process: process("sleep", &[&sleeping]), ..exec_sh("") }).await.unwrap();
    for _ in 0..3 {
        deaf.input.send(ExecInput::Stdin(piece.clone())).await.unwrap();
    }
    deaf.input.send(ExecInput::Signal(Signal::INT)).await.unwrap();
    assert_eq!(listen(deaf).await.exit, Some(Exit::signal(2)));
}

#[tokio::test]
async fn fifty_at_once() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let mut running = tokio::task::JoinSet::new();
    for n in 0..50 {
        let guest = guest.clone();
        running.spawn(async move { (n, run(&guest, &format!("echo {n}; sleep 0.2; exit {n}")).await) });
    }
    while let Some(done) = running.join_next().await {
        let (n, said) = done.unwrap();
        assert_eq!((said.stdout, said.exit), (format!("{n}\n"), Some(Exit::code(n))));
    }
    until_alone(&guest).await;
}

/// N33, N34: what runs, seen from inside.
#[tokio::test]
async fn n33_processes_and_measurements() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let sleeping = marker();
    let main = guest.start_main(&process("sleep", &[&sleeping])).await.unwrap();
    let listed = guest.processes().await.unwrap();
    let pids: Vec<u32> = listed.iter().map(|p| p.pid).collect();
    assert_eq!(pids.len(), 2, "the agent and main, nothing of the host: {listed:?}");
    let main = listed.iter().find(|p| p.pid == main).expect("main");
    assert_eq!((main.command.as_str(), main.ppid), (format!("sleep {sleeping}").as_str(), sandbox.pid));
    let stats = guest.stats().await.unwrap();
    assert_eq!(stats.processes, 2);
    assert!(stats.rss_bytes > stats.agent_rss_bytes && stats.agent_rss_bytes > 0);
}
