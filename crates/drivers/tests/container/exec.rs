//! Programs besides the main one.

use std::time::Duration;

use bytes::Bytes;
use moat_agent::protocol::StreamName;
use moat_drivers::linux::cgroup::Hierarchy;
use moat_engine::guest::{ExecInput, ExecOutput, ExecSession};
use moat_model::spec::{ExecSpec, PtySize, RootSpec};

use crate::harness::*;

fn pty(words: &[&str], rows: u16, cols: u16) -> ExecSpec {
    ExecSpec { process: process(words), pty: Some(PtySize { rows, cols }), stdin: true, timeout: None }
}

fn piped(words: &[&str]) -> ExecSpec {
    ExecSpec { process: process(words), pty: None, stdin: true, timeout: None }
}

/// Reads until standard output and error hold `text`, or the end.
async fn until(session: &mut ExecSession, text: &str) -> String {
    let mut said = String::new();
    let read = async {
        while !said.contains(text) {
            match session.output.recv().await {
                Some(ExecOutput::Data(_, bytes)) => said += &String::from_utf8_lossy(&bytes),
                other => panic!("{other:?} before {text:?}; so far {said:?}"),
            }
        }
        said
    };
    tokio::time::timeout(DEADLINE, read).await.expect(text)
}

#[tokio::test]
async fn n30_programs_join_the_cgroup_and_their_failure_is_told() {
    let Some(host) = Host::new("N30") else { return };
    let sandbox = host.sandbox(spec(RootSpec::Host)).await;
    let mut session = sandbox.guest().exec(&piped(&["/bin/sh", "-c", "echo up; exec cat"])).await.unwrap();
    until(&mut session, "up").await;
    for file in Hierarchy::detect(CGROUP_PARENT).unwrap().procs_files(sandbox.place.id.as_str()) {
        // The agent, its guard over this program, and the program.
        assert_eq!(read(&file).lines().count(), 3, "{}", file.display());
    }
    drop(session);
    let failed = sandbox.sh("echo because >&2; exit 7").await;
    assert_eq!((failed.exit.code, failed.stderr.as_str()), (7, "because\n"));
}

#[tokio::test]
async fn n31_streaming() {
    let Some(host) = Host::new("N31") else { return };
    let sandbox = host.sandbox(spec(RootSpec::Host)).await;

    // Pipes: output of both, and the code.
    let output = sandbox.sh("echo out; echo err >&2; exit 43").await;
    assert_eq!((output.stdout.as_str(), output.stderr.as_str(), output.exit.code), ("out\n", "err\n", 43));
    // A terminal: one stream, line ends as a terminal has them, the same code.
    let output = sandbox.exec_spec(&pty(&["/bin/sh", "-c", "echo out; echo err >&2; exit 43"], 24, 80)).await;
    assert_eq!((output.stdout.as_str(), output.stderr.as_str(), output.exit.code), ("out\r\nerr\r\n", "", 43));
    // Its size.
    let output = sandbox.exec_spec(&pty(&["stty", "size"], 100, 100)).await;
    assert_eq!(output.stdout, "100 100\r\n");
    // No terminal, no size.
    let output = sandbox.exec(&["stty", "size"]).await;
    assert_ne!(output.exit.code, 0, "{output:?}");

    // Streaming: each line arrives before the next is asked for.
    let mut session = sandbox.guest().exec(&piped(&["cat"])).await.unwrap();
    for line in ["one\n", "two\n"] {
        session.input.send(ExecInput::Stdin(Bytes::from(line))).await.unwrap();
        assert_eq!(until(&mut session, line).await, line);
    }
    session.input.send(ExecInput::CloseStdin).await.unwrap();
    assert!(matches!(session.output.recv().await, Some(ExecOutput::Exited { exit, .. }) if exit.code == 0));

    // The same through a terminal, with its echo; and a new size while it runs.
    let mut session = sandbox.guest().exec(&pty(&["/bin/sh"], 24, 80)).await.unwrap();
    session.input.send(ExecInput::Resize(PtySize { rows: 50, cols: 60 })).await.unwrap();
    session.input.send(ExecInput::Stdin(Bytes::from("stty size; exit 5\n"))).await.unwrap();
    until(&mut session, "50 60\r\n").await;
    let exit = loop {
        match tokio::time::timeout(DEADLINE, session.output.recv()).await.unwrap() {
            Some(ExecOutput::Exited { exit, .. }) => break exit,
            Some(ExecOutput::Data(StreamName::Stdout, _)) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(exit.code, 5);

    // Without standard input it reads end of file.
    assert_eq!(sandbox.exec(&["cat"]).await.ok(), "");
    // A child in the background does not delay the end: of a terminal never, of pipes unless it holds them.
    let run = tokio::time::timeout(Duration::from_secs(15), sandbox.sh("sleep 30 > /dev/null 2>&1 & echo gone"));
    assert_eq!(run.await.expect("not held up").ok(), "gone");
    let background = pty(&["/bin/sh", "-c", "sleep 30 & echo gone"], 24, 80);
    let run = tokio::time::timeout(Duration::from_secs(15), sandbox.exec_spec(&background));
    assert_eq!(run.await.expect("not held up").ok(), "gone");
}

#[tokio::test]
async fn n32_files_written_stay_inside() {
    let Some(host) = Host::new("N32") else { return };
    let sandbox = host.sandbox(spec(RootSpec::Host)).await;
    let file = format!("/tmp/moat-n32-{}", std::process::id());
    sandbox.sh(&format!("echo inside > {file}")).await.ok();
    assert!(!std::path::Path::new(&file).exists());
    assert_eq!(sandbox.sh(&format!("cat {file}")).await.ok(), "inside");
}

#[tokio::test]
async fn n34_only_its_own_processes_are_seen() {
    let Some(host) = Host::new("N34") else { return };
    let sandbox = host.sandbox(spec_with_main(RootSpec::Host, &["sleep", "1000"])).await;
    sandbox.start_main().await;
    // Agent (and its guard over the program that looks), sleeper, and the one that looks.
    let seen = sandbox.sh("cat /proc/[0-9]*/comm").await;
    let names: std::collections::BTreeSet<&str> = seen.ok().lines().collect();
    // The shell lists them before it starts the one that reads, which may therefore be missing.
    let own = ["cat", "moat-agent", "sh", "sleep"].into();
    assert!(names.is_subset(&own) && names.contains("moat-agent") && names.contains("sleep"), "{names:?}");
    // The guard of the program that looked may still be on its way out.
    let two = async || {
        let listed = sandbox.guest().processes().await.unwrap();
        (listed.len() == 2).then_some(listed)
    };
    let listed = moat_testkit::wait_until(DEADLINE, "agent and sleeper alone", two).await.unwrap();
    assert!(listed.iter().any(|p| p.pid == 1) && listed.iter().any(|p| p.command.starts_with("sleep")), "{listed:?}");
}

/// The agent is process 1 of every sandbox that does not ask for the host's processes.
#[tokio::test]
async fn n35_process_ids_begin_anew() {
    let Some(host) = Host::new("N35") else { return };
    let sandbox =
        host.sandbox(spec_with_main(RootSpec::Host, &["/bin/sh", "-c", "echo my pid is $$, my parent $PPID"])).await;
    sandbox.start_main().await;
    assert_eq!(sandbox.main_to_end().await.ok(), "my pid is 2, my parent 1");
}
