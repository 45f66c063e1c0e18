//! What users of other sandboxes complain about, tried here: rows of part E of the field study that an agent answers for.

use std::time::{Duration, Instant};

use bytes::Bytes;
use moat_agent::protocol::StreamName;
use moat_engine::Guest;
use moat_engine::guest::{AttachOutput, ExecInput, ExecOutput};
use moat_model::Exit;
use moat_model::spec::ExecSpec;
use tokio::time::timeout;

use crate::harness::{DEADLINE, Sandbox, exec_sh, listen, marker, process, run, running, until, until_alone};
use crate::spawned::{follow, hear};

/// A time limit is an answer, not a hang, and nothing the command started is left: neither a pipeline, nor what forked
/// twice, nor what left the session.
#[tokio::test]
async fn e08_a_time_limit_is_a_result_and_leaves_nothing() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let sleeping = marker();
    let script = format!(
        "trap '' TERM INT HUP; (setsid sleep {sleeping} >/dev/null 2>&1 &); sleep {sleeping} | cat & \
         setsid sh -c 'trap \"\" TERM; sleep {sleeping} & wait' & echo begun; wait"
    );
    let limited = ExecSpec { timeout: Some(Duration::from_millis(900)), ..exec_sh(&script) };
    let began = Instant::now();
    let said = listen(guest.exec(&limited).await.unwrap()).await;
    assert_eq!((said.stdout.as_str(), said.exit, said.timed_out), ("begun\n", Some(Exit::signal(9)), true));
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!(running(&sleeping), Vec::<u32>::new());
    // The same for one that belongs to nobody.
    let pid = guest.spawn(&limited).await.unwrap();
    let heard = hear(follow(&guest, pid).await).await;
    assert_eq!((heard.stdout.as_slice(), heard.exit), (&b"begun\n"[..], Some((Exit::signal(9), true))));
    assert_eq!(running(&sleeping), Vec::<u32>::new());
    until_alone(&guest).await;
}

/// Commands that close their output, whose children keep it, or that never read their input: each behaves as documented and
/// none keeps others from working.
#[tokio::test]
async fn e09_odd_descriptors_disturb_nobody() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let sleeping = marker();
    let closes = guest.exec(&exec_sh("exec >&- 2>&-; sleep 0.3; exit 4")).await.unwrap();
    let keeps = guest.exec(&exec_sh(&format!("sleep {sleeping} & echo main; exit 5"))).await.unwrap();
    let deaf = ExecSpec { stdin: true, process: process("sleep", &[&sleeping]), ..exec_sh("") };
    let deaf = guest.exec(&deaf).await.unwrap();
    let piece = Bytes::from(vec![b'x'; 64 << 10]);
    while timeout(Duration::from_millis(200), deaf.input.send(ExecInput::Stdin(piece.clone()))).await.is_ok() {}
    let began = Instant::now();
    for _ in 0..10 {
        assert_eq!(run(&guest, "echo ok").await.stdout, "ok\n");
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(listen(closes).await.exit, Some(Exit::code(4)));
    // The grandchild holds the output, so it is still heard, until it is ended.
    until("two sleepers", || running(&sleeping).len() == 2).await;
    drop(deaf);
    until("one sleeper", || running(&sleeping).len() == 1).await;
    let mut keeps = keeps;
    let first = timeout(DEADLINE, keeps.output.recv()).await.unwrap();
    assert_eq!(first, Some(ExecOutput::Data(StreamName::Stdout, Bytes::from("main\n"))));
    assert!(timeout(Duration::from_millis(300), keeps.output.recv()).await.is_err(), "its output has not ended");
    drop(keeps);
    until_alone(&guest).await;
    assert_eq!(running(&sleeping), Vec::<u32>::new());
}

/// Three followers of one process, one of which never reads: the others hear every byte, and at once.
#[tokio::test]
async fn e10_a_follower_that_never_reads_holds_up_nobody() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let script =
        "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); printf '%0999d\\n' $i; [ $((i % 100)) = 0 ] && sleep 0.05; done";
    let pid = guest.spawn(&ExecSpec { stdin: true, ..exec_sh(&format!("read go; {script}")) }).await.unwrap();
    let stuck = follow(&guest, pid).await;
    let (one, two) = (follow(&guest, pid).await, follow(&guest, pid).await);
    one.input.send(ExecInput::Stdin(Bytes::from("go\n"))).await.unwrap();
    let (one, two) = tokio::join!(hear(one), hear(two));
    let expected: String = (1..=2000).map(|n| format!("{n:0999}\n")).collect();
    for heard in [one, two] {
        assert!(heard.stdout == expected.as_bytes(), "{} bytes, {} skipped", heard.stdout.len(), heard.skipped);
        assert_eq!((heard.skipped, heard.exit), (0, Some((Exit::code(0), false))));
    }
    // The one that slept learns what it missed, and of the end.
    let heard = hear(stuck).await;
    assert!(heard.skipped + heard.stdout.len() as u64 == 2_000_000, "{} {}", heard.skipped, heard.stdout.len());
    assert_eq!(heard.exit, Some((Exit::code(0), false)));
    assert!(sandbox.rss() < 10 << 20, "agent has {} KiB", sandbox.rss() >> 10);
}

/// A program that writes without end, with and without somebody who listens.
#[tokio::test]
async fn e32_endless_output_is_bounded() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let yes = ExecSpec { process: process("yes", &[]), ..exec_sh("") };
    let pid = guest.spawn(&yes).await.unwrap();
    let unread = guest.exec(&yes).await.unwrap();
    let begun = moat_testkit::wait_until(DEADLINE, "a hundred megabytes", async || {
        let written = guest.spawned().await.unwrap()[0].written.stdout;
        (written > 100 << 20).then_some(())
    });
    begun.await.unwrap();
    let rss = sandbox.rss() >> 10;
    println!("e32: agent has {rss} KiB");
    assert!(rss < 10 << 10, "agent has {rss} KiB");
    assert_eq!(run(&guest, "echo ok").await.stdout, "ok\n");
    let mut late = follow(&guest, pid).await;
    let first = timeout(DEADLINE, late.output.recv()).await.unwrap();
    assert!(matches!(first, Some(AttachOutput::Skipped { .. })), "{first:?}");
    let second = timeout(DEADLINE, late.output.recv()).await.unwrap();
    assert!(matches!(second, Some(AttachOutput::Data(_)) | Some(AttachOutput::Skipped { .. })), "{second:?}");
    late.input.send(ExecInput::Signal(moat_model::spec::Signal::KILL)).await.unwrap();
    assert_eq!(hear(late).await.exit, Some((Exit::signal(9), false)));
    drop(unread);
    until_alone(&guest).await;
}
