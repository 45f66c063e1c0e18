//! Pauses to disk: the memory goes back, the program goes on where it was, and it can be ended from everywhere on the way.

use std::time::Duration;

use moat_agent::protocol::StreamName;
use moat_model::lifecycle::{PauseTo, PhaseName, SandboxView};
use moat_model::spec::{OnTimeout, StopSpec};
use moat_model::{Cause, ErrorKind, Exit};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::limits::idler;
use super::network::{stricter, wired};
use super::{Bench, bench, open};
use crate::Engine;
use crate::fake::{FakeConfig, FakeRecover, FakeStep};
use crate::testing::{id, spec};

const SCRIPT: &str = "echo one; sleep 5; echo two; exit 3";

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A sandbox with a script in it that has said its first word.
async fn begun(fake: FakeConfig) -> Bench {
    let b = bench(fake).await;
    b.engine.create(id(1), spec("sh", &["-c", SCRIPT])).await.unwrap();
    sleep(secs(1)).await;
    b
}

fn to_disk(b: &Bench) -> JoinHandle<crate::Result<SandboxView>> {
    let engine = b.engine.clone();
    tokio::spawn(async move { engine.pause(&id(1), PauseTo::Disk).await })
}

async fn reaches(engine: &Engine, reached: impl Fn(&SandboxView) -> bool + Send) -> SandboxView {
    let mut views = engine.watch(&id(1)).unwrap();
    let view = tokio::time::timeout(secs(60), views.wait_for(|view| reached(view))).await.unwrap().unwrap();
    view.clone()
}

/// It runs to its own end, and nothing of what it said was lost or said twice.
async fn runs_to_its_end(b: &Bench, engine: &Engine) {
    let end = reaches(engine, |view| view.phase.is_terminal()).await;
    assert_eq!((end.cause, end.exit), (Some(Cause::Exited), Some(Exit::code(3))));
    assert_eq!(b.outlet.output(&id(1), StreamName::Stdout), "one\ntwo\n");
    assert_eq!(b.world.main_starts(&id(1)), 1);
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_pause_to_disk_gives_the_memory_back_and_the_program_goes_on() {
    let b = begun(FakeConfig::default()).await;
    let view = b.engine.pause(&id(1), PauseTo::Disk).await.unwrap();
    assert_eq!((view.phase, view.stowed), (PhaseName::Paused, true));
    assert_eq!((b.world.stowed(), b.world.alive(), b.world.frozen()), (vec![id(1)], vec![], vec![]));
    sleep(secs(1000)).await;
    assert_eq!(b.engine.get(&id(1)).unwrap().phase, PhaseName::Paused, "that its agent is gone is no news");

    let error = b.engine.processes(&id(1)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert!(error.to_string().contains("paused, not running; resume it first"), "{error}");
    for error in [
        b.engine.capture(&id(1), b.dir.path().join("layer")).await.unwrap_err(),
        b.engine.snapshot(&id(1), b.dir.path().join("machine")).await.unwrap_err(),
    ] {
        assert_eq!(error.kind, ErrorKind::Conflict);
        assert!(error.to_string().contains("paused on disk"), "{error}");
    }
    for to in [PauseTo::Disk, PauseTo::Memory] {
        assert!(b.engine.pause(&id(1), to).await.unwrap().stowed, "already so, or deeper");
    }
    let view = b.engine.resume(&id(1)).await.unwrap();
    assert_eq!((view.phase, view.stowed), (PhaseName::Running, false));
    b.engine.processes(&id(1)).await.unwrap();
    runs_to_its_end(&b, &b.engine).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_is_paused_in_memory_goes_deeper() {
    let b = begun(FakeConfig::default()).await;
    assert!(!b.engine.pause(&id(1), PauseTo::Memory).await.unwrap().stowed);
    assert!(b.engine.pause(&id(1), PauseTo::Disk).await.unwrap().stowed);
    b.engine.resume(&id(1)).await.unwrap();
    assert!(b.engine.pause(&id(1), PauseTo::Disk).await.unwrap().stowed, "and again");
    b.engine.resume(&id(1)).await.unwrap();
    runs_to_its_end(&b, &b.engine).await;
}

#[tokio::test(start_paused = true)]
async fn the_clock_stands_on_disk_too() {
    let b = bench(FakeConfig { stow_takes: secs(5), ..FakeConfig::default() }).await;
    b.engine.create(id(1), idler(Some(60), None, OnTimeout::Kill)).await.unwrap();
    sleep(secs(10)).await;
    let paused = b.engine.pause(&id(1), PauseTo::Disk).await.unwrap();
    let left = paused.remaining.unwrap();
    assert!(left <= secs(50) && left > secs(49), "what the writing took does not count: {left:?}");
    assert_eq!(b.engine.keepalive(&id(1), Some(secs(100)), false).await.unwrap().remaining, Some(secs(100)));
    sleep(secs(5000)).await;
    let resumed = b.engine.resume(&id(1)).await.unwrap();
    assert_eq!(resumed.remaining, None);
    sleep(secs(99)).await;
    assert_eq!(b.engine.get(&id(1)).unwrap().phase, PhaseName::Running);
    sleep(secs(2)).await;
    assert!(matches!(b.engine.get(&id(1)).unwrap().cause, Some(Cause::TimedOut { .. })));
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_stays_in_memory_and_what_cannot_be_read_on_disk() {
    let hang = |step| FakeConfig { hang_at: Some(step), ..FakeConfig::default() };
    let oops = || Some("oops".to_owned());
    let cases = [
        (FakeConfig { stow_error: oops(), ..FakeConfig::default() }, ErrorKind::Unavailable),
        (FakeConfig { stow_takes: secs(3600), ..FakeConfig::default() }, ErrorKind::Deadline),
    ];
    for (fake, kind) in cases {
        let b = begun(fake).await;
        let error = b.engine.pause(&id(1), PauseTo::Disk).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.to_string().contains("pause to disk failed"), "{error}");
        let view = b.engine.get(&id(1)).unwrap();
        assert_eq!((view.phase, view.stowed), (PhaseName::Paused, false));
        assert_eq!(b.world.frozen(), [id(1)]);
        b.engine.resume(&id(1)).await.unwrap();
        runs_to_its_end(&b, &b.engine).await;
    }
    for (fake, kind) in [
        (FakeConfig { unstow_error: oops(), ..FakeConfig::default() }, ErrorKind::Unavailable),
        (hang(FakeStep::Unstow), ErrorKind::Deadline),
    ] {
        let b = begun(fake).await;
        b.engine.pause(&id(1), PauseTo::Disk).await.unwrap();
        let error = b.engine.resume(&id(1)).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.to_string().contains("resume from disk failed"), "{error}");
        assert!(b.engine.get(&id(1)).unwrap().stowed);
        assert_eq!(b.world.stowed(), [id(1)]);
        b.world.configure_one(&id(1), |fake| (fake.unstow_error, fake.hang_at) = (None, None));
        b.engine.resume(&id(1)).await.unwrap();
        runs_to_its_end(&b, &b.engine).await;
    }
    let b = begun(FakeConfig { freeze_error: oops(), ..FakeConfig::default() }).await;
    assert_eq!(b.engine.pause(&id(1), PauseTo::Disk).await.unwrap_err().kind, ErrorKind::Unavailable);
    runs_to_its_end(&b, &b.engine).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_dies_while_it_is_written_is_lost() {
    let b = begun(FakeConfig { dies_in_stow: true, ..FakeConfig::default() }).await;
    assert!(b.engine.pause(&id(1), PauseTo::Disk).await.is_err());
    let end = reaches(&b.engine, |view| view.phase.is_terminal()).await;
    assert!(matches!(end.cause, Some(Cause::AgentLost { .. })), "{end:?}");
    b.assert_clean();

    let b = begun(FakeConfig { unstow_loses: true, ..FakeConfig::default() }).await;
    b.engine.pause(&id(1), PauseTo::Disk).await.unwrap();
    assert!(b.engine.resume(&id(1)).await.is_err());
    let end = reaches(&b.engine, |view| view.phase.is_terminal()).await;
    assert!(matches!(&end.cause, Some(Cause::Lost { detail }) if detail.contains("broke in two")), "{end:?}");
    b.assert_clean();

    // It lies on disk, but nobody said so in time: what runs no more is not taken for paused.
    let b = begun(FakeConfig { hang_at: Some(FakeStep::Stow), ..FakeConfig::default() }).await;
    assert!(b.engine.pause(&id(1), PauseTo::Disk).await.is_err());
    reaches(&b.engine, |view| view.phase == PhaseName::Failed).await;
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn while_it_is_on_its_way_others_wait_or_are_told() {
    let b = begun(FakeConfig { stow_takes: secs(50), ..FakeConfig::default() }).await;
    let (first, second) = (to_disk(&b), to_disk(&b));
    sleep(secs(1)).await;
    for error in [
        b.engine.resume(&id(1)).await.map(drop).unwrap_err(),
        b.engine.processes(&id(1)).await.map(drop).unwrap_err(),
        b.engine.capture(&id(1), b.dir.path().join("layer")).await.map(drop).unwrap_err(),
        b.engine.snapshot(&id(1), b.dir.path().join("machine")).await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
        assert!(error.to_string().contains("being paused or resumed"), "{error}");
    }
    assert!(first.await.unwrap().unwrap().stowed && second.await.unwrap().unwrap().stowed);
    b.engine.resume(&id(1)).await.unwrap();
    runs_to_its_end(&b, &b.engine).await;
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_has_nothing_on_disk_says_so() {
    let b = bench(FakeConfig { stower: false, ..FakeConfig::default() }).await;
    b.engine.create(id(1), spec("app", &[])).await.unwrap();
    let error = b.engine.pause(&id(1), PauseTo::Disk).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert_eq!(b.engine.get(&id(1)).unwrap().phase, PhaseName::Running);
    b.engine.pause(&id(1), PauseTo::Memory).await.unwrap();
    assert_eq!(b.engine.pause(&id(1), PauseTo::Disk).await.unwrap_err().kind, ErrorKind::Unsupported);
}

#[tokio::test(start_paused = true)]
async fn its_network_can_be_changed_where_it_lies() {
    let b = bench(FakeConfig::default()).await;
    b.engine.create(id(1), wired(spec("app", &[]))).await.unwrap();
    b.engine.pause(&id(1), PauseTo::Disk).await.unwrap();
    b.engine.rewire(&id(1), stricter()).await.unwrap();
    assert_eq!(b.world.rules(&id(1)).unwrap().spec, stricter());
    assert_eq!(b.world.unstows(&id(1)), 0);
    b.engine.resume(&id(1)).await.unwrap();
    b.engine.delete(&id(1)).await.unwrap();
    b.assert_clean();
}

/// A sandbox brought to a step of a pause to disk and left there, with whoever asked for that step.
async fn at(step: &str) -> (Bench, JoinHandle<crate::Result<SandboxView>>) {
    let good = FakeConfig::default;
    let b = begun(match step {
        "freezing" => FakeConfig { hang_at: Some(FakeStep::Freeze), ..good() },
        "writing" => FakeConfig { stow_takes: secs(500), ..good() },
        "reading" => FakeConfig { hang_at: Some(FakeStep::Unstow), ..good() },
        _ => good(),
    })
    .await;
    let mut asked = to_disk(&b);
    sleep(secs(1)).await;
    if step == "reading" {
        let engine = b.engine.clone();
        asked = tokio::spawn(async move { engine.resume(&id(1)).await });
        sleep(secs(1)).await;
    }
    (b, asked)
}

#[tokio::test(start_paused = true)]
async fn e16_it_ends_from_every_step_of_a_pause_to_disk() {
    for step in ["freezing", "writing", "lying", "reading"] {
        for how in ["delete", "kill", "stop"] {
            let (b, asked) = at(step).await;
            let what = format!("{how} while {step}");
            let begun = Instant::now();
            let cause = match how {
                "kill" => b.engine.kill(&id(1)).await.unwrap().cause,
                "stop" => {
                    b.engine
                        .stop(&id(1), Some(StopSpec { grace: secs(60), ..StopSpec::default() }))
                        .await
                        .unwrap()
                        .cause
                }
                _ => None,
            };
            match (how, step) {
                ("kill", _) => assert_eq!(cause, Some(Cause::Killed), "{what}"),
                ("stop", _) => assert_eq!(cause, Some(Cause::Stopped), "{what}"),
                _ => {}
            }
            b.engine.delete(&id(1)).await.unwrap_or_else(|error| panic!("{what}: {}", error.chain()));
            // What hangs inside the freezer is given up after its bound.
            let within = if step == "freezing" { secs(11) } else { secs(1) };
            assert!(begun.elapsed() <= within, "{what} took {:?}", begun.elapsed());
            b.assert_clean();
            assert_eq!(b.outlet.ends(&id(1)).len(), 1, "{what}");
            let answer = asked.await.unwrap();
            match step {
                "lying" => assert!(answer.unwrap().stowed),
                _ => assert_eq!(answer.unwrap_err().kind, ErrorKind::Conflict, "{what}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_while_it_is_written_is_in_good_order() {
    let (b, _asked) = at("writing").await;
    let end = b.engine.stop(&id(1), None).await.unwrap();
    assert_eq!((end.cause, end.exit), (Some(Cause::Stopped), Some(Exit::signal(2))), "it was asked, and ended by that");
    assert_eq!(b.outlet.output(&id(1), StreamName::Stdout), "one\n");
}

#[tokio::test(start_paused = true)]
async fn the_next_daemon_leaves_it_on_disk() {
    let b = begun(FakeConfig::default()).await;
    b.engine.pause(&id(1), PauseTo::Disk).await.unwrap();
    b.engine.clone().detach().await;
    let engine = open(&b.world, &b.outlet, b.dir.path()).await;
    let view = engine.get(&id(1)).unwrap();
    assert_eq!((view.phase, view.stowed), (PhaseName::Paused, true));
    assert_eq!(b.world.unstows(&id(1)), 0, "it is not read back just to be found");
    assert_eq!(engine.processes(&id(1)).await.unwrap_err().kind, ErrorKind::Conflict);
    engine.resume(&id(1)).await.unwrap();
    runs_to_its_end(&b, &engine).await;
}

#[tokio::test(start_paused = true)]
async fn the_next_daemon_goes_on_with_what_was_under_way() {
    for step in ["freezing", "writing", "reading"] {
        let (b, _asked) = at(step).await;
        b.engine.clone().detach().await;
        b.world.configure_one(&id(1), |fake| (fake.hang_at, fake.stow_takes) = (None, Duration::ZERO));
        let engine = open(&b.world, &b.outlet, b.dir.path()).await;
        if step != "reading" {
            reaches(&engine, |view| view.stowed).await;
            assert_eq!(b.world.unstows(&id(1)), 0, "{step}");
            engine.resume(&id(1)).await.unwrap();
        }
        runs_to_its_end(&b, &engine).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_daemon_may_find_it_gone_or_be_told_to_end_it() {
    let b = begun(FakeConfig::default()).await;
    b.engine.pause(&id(1), PauseTo::Disk).await.unwrap();
    b.engine.clone().detach().await;
    b.world.configure(|fake| fake.recover = FakeRecover::Gone);
    let engine = open(&b.world, &b.outlet, b.dir.path()).await;
    let end = reaches(&engine, |view| view.phase.is_terminal()).await;
    assert!(matches!(end.cause, Some(Cause::Lost { .. })), "{end:?}");
    b.assert_clean();

    for recover in [FakeRecover::Fails, FakeRecover::Truth] {
        let b = begun(FakeConfig::default()).await;
        b.engine.pause(&id(1), PauseTo::Disk).await.unwrap();
        b.engine.clone().detach().await;
        b.world.configure(|fake| fake.recover = recover);
        let engine = open(&b.world, &b.outlet, b.dir.path()).await;
        let end = engine.kill(&id(1)).await.unwrap();
        assert_eq!(end.cause, Some(Cause::Killed), "{recover:?}");
        assert_eq!(b.world.unstows(&id(1)), 0);
        b.assert_clean();
    }
}
