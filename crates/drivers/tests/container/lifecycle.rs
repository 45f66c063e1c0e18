//! Starting, ending, and finding a sandbox again.

use std::time::{Duration, Instant};

use moat_drivers::container::ContainerConfig;
use moat_drivers::linux::cgroup::Hierarchy;
use moat_engine::driver::{Driver as _, Recovered};
use moat_model::spec::{RootSpec, Signal};
use moat_model::{ErrorKind, ProcessSpec, SandboxSpec};
use rustix::process::{Pid, kill_process};

use crate::harness::*;

/// Processes in the sandbox's cgroup, as the host sees them.
fn pids(sandbox: &Sandbox) -> Vec<String> {
    let files = Hierarchy::detect(CGROUP_PARENT).unwrap().procs_files(sandbox.place.id.as_str());
    read(&files[0]).lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn n12_after_a_kill_nothing_more_is_said() {
    let Some(host) = Host::new("N12") else { return };
    let deaf = "trap '' INT TERM; while :; do date +%s%N; sleep 0.05; done";
    let sandbox = host.sandbox(spec_with_main(RootSpec::Host, &["/bin/sh", "-c", deaf])).await;
    sandbox.start_main().await;
    let guest = sandbox.guest();
    let mut reader = guest.output(Default::default()).await.unwrap();
    assert!(reader.next().await.unwrap().is_some());
    guest.signal_main(Signal::INT).await.unwrap();
    assert!(reader.next().await.unwrap().is_some(), "it ignores SIGINT");
    let begin = Instant::now();
    host.driver.kill(sandbox.record()).await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(pids(&sandbox), Vec::<String>::new());
    assert!(guest.lost().await.contains("has ended"));
    // Killing what is dead is fine.
    host.driver.kill(sandbox.record()).await.unwrap();
}

#[tokio::test]
async fn n15_working_directory() {
    let Some(host) = Host::new("N15") else { return };
    let sandbox = host.sandbox(spec(RootSpec::Host)).await;
    let within = |cwd: &str, line: &str| ProcessSpec { cwd: Some(cwd.to_owned()), ..process(&["/bin/sh", "-c", line]) };
    assert_eq!(sandbox.exec_process(within("/etc", "pwd")).await.ok(), "/etc");
    assert_eq!(sandbox.sh("pwd; echo text > /local/file").await.ok(), "/");
    assert_eq!(sandbox.exec_process(within("/local", "cat file")).await.ok(), "text");
}

#[tokio::test]
async fn n16_user_is_in_the_environment() {
    let Some(host) = Host::new("N16") else { return };
    let main = Some(ProcessSpec {
        user: Some("daemon".to_owned()),
        ..process(&["/bin/sh", "-c", "echo $USER $LOGNAME; id -un"])
    });
    let sandbox = host.sandbox(SandboxSpec { main, ..spec(RootSpec::Host) }).await;
    // Programs executed beside it run as it does.
    assert_eq!(sandbox.sh("echo $USER $LOGNAME; id -un").await.ok(), "daemon daemon\ndaemon");
    sandbox.start_main().await;
    assert_eq!(sandbox.main_to_end().await.ok(), "daemon daemon\ndaemon");
}

#[tokio::test]
async fn n18_a_terminated_agent_takes_everything_with_it() {
    let Some(host) = Host::new("N18") else { return };
    let sandbox = host.sandbox(spec_with_main(RootSpec::Host, &["sleep", "1000"])).await;
    sandbox.start_main().await;
    let begin = Instant::now();
    kill_process(Pid::from_raw(sandbox.pid().cast_signed()).unwrap(), rustix::process::Signal::TERM).unwrap();
    let observed = tokio::time::timeout(DEADLINE, sandbox.guest().lost()).await.unwrap();
    assert!(observed.contains("has ended"), "{observed}");
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    assert_eq!(pids(&sandbox), Vec::<String>::new());
}

#[tokio::test]
async fn n20_exit_codes_and_signals() {
    let Some(host) = Host::new("N20") else { return };
    for (words, signal, code, by) in [
        (["exit", "0"].as_slice(), None, 0, None),
        (["exit", "3"].as_slice(), None, 3, None),
        (["hold"].as_slice(), Some(Signal::INT), 0, None),
        (["spin", "600000"].as_slice(), Some(Signal::INT), 130, Some(2)),
        (["hold", "ignore"].as_slice(), Some(Signal::KILL), 137, Some(9)),
    ] {
        let words: Vec<&str> = ["/local/probe"].into_iter().chain(words.iter().copied()).collect();
        let sandbox = host.sandbox(SandboxSpec { main: Some(process(&words)), ..probe_spec() }).await;
        sandbox.start_main().await;
        if let Some(signal) = signal {
            if words[1] == "hold" {
                let mut reader = sandbox.guest().output(Default::default()).await.unwrap();
                assert!(reader.next().await.unwrap().is_some(), "ready");
            }
            sandbox.guest().signal_main(signal).await.unwrap();
        }
        let exit = sandbox.wait_main().await;
        assert_eq!((exit.code, exit.signal), (code, by), "{words:?}");
        sandbox.end().await;
    }
}

#[tokio::test]
async fn n21_the_end_of_main_is_not_delayed_by_its_children() {
    let Some(host) = Host::new("N21") else { return };
    let words = ["/bin/sh", "-c", "(sleep 30 &); exec sleep 1"];
    let sandbox = host.sandbox(spec_with_main(RootSpec::Host, &words)).await;
    sandbox.start_main().await;
    let begin = Instant::now();
    assert_eq!(sandbox.wait_main().await.code, 0);
    assert!(begin.elapsed() < Duration::from_secs(7), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn n22_children_left_behind_die_with_the_sandbox() {
    let Some(host) = Host::new("N22") else { return };
    let words = ["/bin/sh", "-c", "sleep 1000 & setsid sleep 1000 & sleep 0.2"];
    let sandbox = host.sandbox(spec_with_main(RootSpec::Host, &words)).await;
    sandbox.start_main().await;
    assert_eq!(sandbox.wait_main().await.code, 0);
    // Only the agent outlives it, to tell how it ended; ending that is the engine's next step.
    let alone = async || (pids(&sandbox) == [sandbox.pid().to_string()]).then_some(());
    moat_testkit::wait_until(DEADLINE, "the children's end", alone).await.unwrap();
    host.driver.kill(sandbox.record()).await.unwrap();
    assert_eq!(pids(&sandbox), Vec::<String>::new());
}

#[tokio::test]
async fn n23_a_failed_start_leaves_no_process() {
    let config = ContainerConfig { default_user: "no-such-user".to_owned(), ..config() };
    let Some(host) = Host::with("N23", config) else { return };
    let (place, spec) = (host.place(), spec(RootSpec::Host));
    let error = host.driver.create(&place, &spec).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidSpec);
    assert!(error.chain().contains("no-such-user"), "{}", error.chain());
    for file in Hierarchy::detect(CGROUP_PARENT).unwrap().procs_files(place.id.as_str()) {
        moat_testkit::wait_until(DEADLINE, "an empty cgroup", async || read(&file).is_empty().then_some(()))
            .await
            .unwrap();
    }
    for resource in host.driver.plan(&place, &spec).iter().rev() {
        host.driver.release(resource).await.unwrap();
    }
    assert!(!place.run_dir.exists());
}

#[tokio::test]
async fn n24_recovered_from_its_record_alone() {
    let Some(host) = Host::new("N24") else { return };
    let mut sandbox =
        host.sandbox(spec_with_main(RootSpec::Host, &["/bin/sh", "-c", "echo said; exec sleep 1000"])).await;
    sandbox.start_main().await;
    drop(sandbox.forget_guest());
    let Recovered::Alive(guest) = host.driver.recover(sandbox.record()).await.unwrap() else { panic!("it lives") };
    sandbox.set_guest(guest.clone());
    let mut reader = guest.output(Default::default()).await.unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap().bytes, "said\n");
    guest.signal_main(Signal::TERM).await.unwrap();
    assert_eq!(sandbox.wait_main().await.signal, Some(15));
    // Dead agent: nothing to adopt, and nothing left of it.
    host.driver.kill(sandbox.record()).await.unwrap();
    let Recovered::Gone { detail } = host.driver.recover(sandbox.record()).await.unwrap() else { panic!("it is dead") };
    assert!(detail.contains("has ended"), "{detail}");
}

#[tokio::test]
async fn paused_it_does_nothing_and_is_recovered_paused() {
    let Some(host) = Host::new("pause") else { return };
    let words = ["/bin/sh", "-c", "while :; do echo tick; sleep 0.02; done"];
    let sandbox = host.sandbox(spec_with_main(RootSpec::Host, &words)).await;
    sandbox.start_main().await;
    let freezer = host.driver.freezer().unwrap();
    freezer.freeze(sandbox.record()).await.unwrap();
    freezer.freeze(sandbox.record()).await.unwrap();
    let before = host.driver.usage(sandbox.record()).await.unwrap().cpu_usec;
    let Recovered::Alive(guest) = host.driver.recover(sandbox.record()).await.unwrap() else { panic!("it lives") };
    let hierarchy = Hierarchy::detect(CGROUP_PARENT).unwrap();
    assert!(hierarchy.is_frozen(sandbox.place.id.as_str()).unwrap());
    drop(guest);
    freezer.thaw(sandbox.record()).await.unwrap();
    let moved = async || (host.driver.usage(sandbox.record()).await.unwrap().cpu_usec > before).then_some(());
    moat_testkit::wait_until(DEADLINE, "it goes on", moved).await.unwrap();
    freezer.freeze(sandbox.record()).await.unwrap();
    // A frozen sandbox is killed like any other.
    host.driver.kill(sandbox.record()).await.unwrap();
    assert_eq!(pids(&sandbox), Vec::<String>::new());
}
