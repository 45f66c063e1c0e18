//! Captures: the sandbox stands still, is kept, and goes on; and ends from every phase, in the middle of one too.

use std::time::Duration;

use moat_model::lifecycle::{PauseTo, PhaseName};
use moat_model::spec::{OnTimeout, StopSpec};
use moat_model::{ErrorKind, SandboxSpec};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::limits::idler;
use super::{Bench, bench, claim, open};
use crate::Leash;
use crate::driver::Captured;
use crate::fake::{FakeConfig, FakeRecover, FakeStep};
use crate::testing::{id, spec};

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn capturing(b: &Bench) -> JoinHandle<crate::Result<Captured>> {
    let (engine, into) = (b.engine.clone(), b.dir.path().join("layer"));
    tokio::spawn(async move { engine.capture(&id(1), into).await })
}

#[tokio::test(start_paused = true)]
async fn a_capture_leaves_the_sandbox_as_it_was() {
    let b = bench(FakeConfig { run_for: Some(secs(100)), capture_takes: secs(50), ..FakeConfig::default() }).await;
    b.engine.create(id(1), spec("app", &[])).await.unwrap();
    let task = capturing(&b);
    sleep(secs(10)).await;
    assert_eq!(b.world.frozen(), [id(1)]);
    assert_eq!(b.engine.get(&id(1)).unwrap().phase, PhaseName::Running);
    for error in [
        b.engine.pause(&id(1), PauseTo::Memory).await.map(drop).unwrap_err(),
        b.engine.resume(&id(1)).await.map(drop).unwrap_err(),
        b.engine.capture(&id(1), b.dir.path().join("other")).await.map(drop).unwrap_err(),
        b.engine.processes(&id(1)).await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
        assert!(error.to_string().contains("snapshot"), "{error}");
    }
    assert_eq!(
        task.await.unwrap().unwrap(),
        Captured { bytes: id(1).as_str().len() as u64, entries: 1, memory: false }
    );
    assert_eq!(b.world.frozen(), []);
    b.engine.processes(&id(1)).await.unwrap();

    b.engine.pause(&id(1), PauseTo::Memory).await.unwrap();
    capturing(&b).await.unwrap().unwrap();
    assert_eq!(b.engine.get(&id(1)).unwrap().phase, PhaseName::Paused);
    assert_eq!(b.world.frozen(), [id(1)]);
    b.engine.delete(&id(1)).await.unwrap();
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn every_step_of_a_capture_may_fail() {
    let oops = || Some("oops".to_owned());
    let good = FakeConfig::default;
    for (fake, phase) in [
        (FakeConfig { capture_error: oops(), ..good() }, PhaseName::Running),
        (FakeConfig { freeze_error: oops(), ..good() }, PhaseName::Running),
        (FakeConfig { capture_takes: secs(3600), ..good() }, PhaseName::Running),
        (FakeConfig { hang_at: Some(FakeStep::Freeze), ..good() }, PhaseName::Running),
    ] {
        let b = bench(fake.clone()).await;
        b.engine.create(id(1), spec("app", &[])).await.unwrap();
        let error = capturing(&b).await.unwrap().unwrap_err();
        let hangs = fake.hang_at.is_some() || fake.capture_takes > Duration::ZERO;
        let kind = if hangs { ErrorKind::Deadline } else { ErrorKind::Unavailable };
        assert_eq!(error.kind, kind, "{error} under {fake:?}");
        assert_eq!(b.engine.get(&id(1)).unwrap().phase, phase, "under {fake:?}");
        b.engine.processes(&id(1)).await.unwrap();
        sleep(secs(1)).await;
        assert_eq!(b.world.frozen(), [], "under {fake:?}");
        b.engine.delete(&id(1)).await.unwrap();
        b.assert_clean();
    }
}

/// What is asked of a paused sandbox that is to be kept.
type Keep = fn(Bench) -> JoinHandle<(Bench, crate::Result<()>)>;

#[tokio::test(start_paused = true)]
async fn one_that_was_woken_to_be_kept_is_put_to_sleep_again_however_that_ends() {
    let keeps: [(&str, Keep); 3] = [
        ("capture", |b| {
            tokio::spawn(async move {
                let done = b.engine.capture(&id(1), b.dir.path().join("layer")).await.map(drop);
                (b, done)
            })
        }),
        ("snapshot", |b| {
            tokio::spawn(async move {
                let done = b.engine.snapshot(&id(1), b.dir.path().join("machine")).await.map(drop);
                (b, done)
            })
        }),
        ("stow", |b| {
            tokio::spawn(async move {
                let done = b.engine.pause(&id(1), PauseTo::Disk).await.map(drop);
                (b, done)
            })
        }),
    ];
    let oops = || Some("oops".to_owned());
    let awake = || FakeConfig { kept_awake: true, ..FakeConfig::default() };
    for (what, keep) in keeps {
        for fake in [
            FakeConfig { capture_error: oops(), stow_error: oops(), ..awake() },
            FakeConfig { capture_takes: secs(3600), stow_takes: secs(3600), ..awake() },
        ] {
            let b = bench(fake).await;
            b.engine.create(id(1), spec("app", &[])).await.unwrap();
            b.engine.pause(&id(1), PauseTo::Memory).await.unwrap();
            let (b, done) = keep(b).await.unwrap();
            done.unwrap_err();
            let view = b.engine.get(&id(1)).unwrap();
            assert_eq!((view.phase, view.stowed, b.world.frozen()), (PhaseName::Paused, false, vec![id(1)]), "{what}");
            // So it can be kept after all.
            let good = |fake: &mut FakeConfig| {
                (fake.capture_error, fake.stow_error) = (None, None);
                (fake.capture_takes, fake.stow_takes) = (Duration::ZERO, Duration::ZERO);
            };
            b.world.configure_one(&id(1), good);
            let (b, done) = keep(b).await.unwrap();
            done.unwrap();
            assert_eq!(b.engine.get(&id(1)).unwrap().phase, PhaseName::Paused, "{what}");
            b.engine.resume(&id(1)).await.unwrap();
            assert_eq!(b.world.frozen(), [], "{what}");
            b.engine.delete(&id(1)).await.unwrap();
            b.assert_clean();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_be_put_to_sleep_again_is_told_of() {
    let b = bench(FakeConfig { kept_awake: true, capture_error: Some("full".into()), ..FakeConfig::default() }).await;
    b.engine.create(id(1), spec("app", &[])).await.unwrap();
    b.engine.pause(&id(1), PauseTo::Memory).await.unwrap();
    b.world.configure_one(&id(1), |fake| fake.freeze_error = Some("stuck".into()));
    let error = capturing(&b).await.unwrap().unwrap_err().to_string();
    assert!(
        error.contains("full") && error.contains("could not be frozen again") && error.contains("stuck"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_go_on_after_a_capture_is_paused_and_can_be_resumed() {
    let b = bench(FakeConfig { thaw_error: Some("stuck".into()), ..FakeConfig::default() }).await;
    b.engine.create(id(1), spec("app", &[])).await.unwrap();
    capturing(&b).await.unwrap().unwrap();
    assert_eq!(b.engine.get(&id(1)).unwrap().phase, PhaseName::Paused);
    assert_eq!(b.engine.resume(&id(1)).await.unwrap_err().kind, ErrorKind::Unavailable);
    b.world.configure_one(&id(1), |fake| fake.thaw_error = None);
    b.engine.resume(&id(1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_cannot_capture_says_so() {
    let b = bench(FakeConfig { capturer: false, ..FakeConfig::default() }).await;
    b.engine.create(id(1), spec("app", &[])).await.unwrap();
    assert_eq!(capturing(&b).await.unwrap().unwrap_err().kind, ErrorKind::Unsupported);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_dies_in_a_capture_finds_the_sandbox_running() {
    let b = bench(FakeConfig { capture_takes: secs(50), ..FakeConfig::default() }).await;
    b.engine.create(id(1), spec("app", &[])).await.unwrap();
    let task = capturing(&b);
    sleep(secs(10)).await;
    b.engine.clone().detach().await;
    assert_eq!(task.await.unwrap().unwrap_err().kind, ErrorKind::Unavailable);
    let engine = open(&b.world, &b.outlet, b.dir.path()).await;
    assert_eq!(engine.get(&id(1)).unwrap().phase, PhaseName::Running);
    assert_eq!(b.world.frozen(), []);
}

/// Brings a sandbox to a phase and leaves it there.
async fn brought_to(fake: FakeConfig, asked: SandboxSpec) -> Bench {
    let b = bench(fake).await;
    let engine = b.engine.clone();
    tokio::spawn(async move { engine.create(id(1), asked).await });
    sleep(Duration::from_millis(20)).await;
    b
}

/// Deletes it: nothing is left, its end was told once, and who waited for it was told too.
async fn check_delete(b: &Bench, what: &str, within: Duration) {
    let begun = Instant::now();
    b.engine.delete(&id(1)).await.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
    assert!(begun.elapsed() <= within, "{what} took {:?}", begun.elapsed());
    b.assert_clean();
    assert!(b.engine.get(&id(1)).is_none(), "{what}");
    assert_eq!(b.outlet.ends(&id(1)).len(), 1, "{what}");
}

/// Whoever needs its grace to end in order is not stopped in the middle of it.
#[tokio::test(start_paused = true)]
async fn one_that_is_being_stopped_is_told_that_it_may_run_on() {
    let b = bench(FakeConfig { ignores_signals: true, ..FakeConfig::default() }).await;
    b.engine.create(id(1), SandboxSpec { leashed: true, ..spec("app", &[]) }).await.unwrap();
    b.engine.leash(Leash::new(secs(7), secs(0))).await;
    assert_eq!(b.world.leash(&id(1)), Some(secs(7)));
    let engine = b.engine.clone();
    let how = StopSpec { grace: secs(25), ..StopSpec::default() };
    let stopping = tokio::spawn(async move { engine.stop(&id(1), Some(how)).await });
    sleep(secs(5)).await;
    assert_eq!(b.engine.get(&id(1)).unwrap().phase, PhaseName::Stopping);
    b.engine.leash(Leash::new(secs(12), secs(5))).await;
    assert_eq!(b.world.leash(&id(1)), Some(secs(12)));
    stopping.await.unwrap().unwrap();
    b.engine.delete(&id(1)).await.unwrap();
    b.assert_clean();
}

/// Actors and those who wait for them run beside each other, as in a daemon.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn e16_whoever_deleted_it_finds_it_no_more_and_may_make_it_again() {
    let b = bench(FakeConfig::default()).await;
    for round in 0..500 {
        b.engine.create(id(1), spec("app", &[])).await.unwrap_or_else(|e| panic!("{round}: {}", e.chain()));
        b.engine.delete(&id(1)).await.unwrap();
        assert_eq!(b.engine.list(), [], "{round}");
    }
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn e16_delete_works_from_every_phase() {
    let good = FakeConfig::default;
    let soon = secs(1);
    for step in [FakeStep::Create, FakeStep::Start, FakeStep::StartMain] {
        let b = brought_to(FakeConfig { hang_at: Some(step), ..good() }, spec("app", &[])).await;
        check_delete(&b, &format!("{step:?}"), soon).await;
    }
    let b = brought_to(good(), spec("app", &[])).await;
    check_delete(&b, "running", soon).await;
    let b = brought_to(good(), idler(Some(60), None, OnTimeout::Pause)).await;
    b.engine.pause(&id(1), PauseTo::Memory).await.unwrap();
    check_delete(&b, "paused", soon).await;

    let b = brought_to(FakeConfig { ignores_signals: true, ..good() }, spec("app", &[])).await;
    let engine = b.engine.clone();
    let stopping =
        tokio::spawn(
            async move { engine.stop(&id(1), Some(StopSpec { grace: secs(600), ..StopSpec::default() })).await },
        );
    sleep(soon).await;
    check_delete(&b, "stopping", soon).await;
    stopping.await.unwrap().unwrap();

    let b = brought_to(good(), spec("app", &[])).await;
    b.engine.kill(&id(1)).await.unwrap();
    check_delete(&b, "stopped", soon).await;

    // What hangs inside the driver is given up after its bound.
    let within = secs(11);
    let b = brought_to(FakeConfig { hang_at: Some(FakeStep::Freeze), ..good() }, spec("app", &[])).await;
    let engine = b.engine.clone();
    let pausing = tokio::spawn(async move { engine.pause(&id(1), PauseTo::Memory).await });
    sleep(soon).await;
    check_delete(&b, "freezing", within).await;
    assert_eq!(pausing.await.unwrap().unwrap_err().kind, ErrorKind::Conflict);

    let b = brought_to(FakeConfig { hang_at: Some(FakeStep::Tune), ..good() }, claim::member()).await;
    let engine = b.engine.clone();
    let claiming = tokio::spawn(async move { engine.claim(&id(1), claim::claim(Some(1))).await });
    sleep(soon).await;
    check_delete(&b, "claiming", within).await;
    assert!(claiming.await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn e16_delete_and_kill_in_a_capture_give_it_up_at_once() {
    for (pause, kill) in [(false, false), (false, true), (true, false), (true, true)] {
        let b = brought_to(FakeConfig { capture_takes: secs(500), ..FakeConfig::default() }, spec("app", &[])).await;
        if pause {
            b.engine.pause(&id(1), PauseTo::Memory).await.unwrap();
        }
        let task = capturing(&b);
        sleep(secs(10)).await;
        if kill {
            b.engine.kill(&id(1)).await.unwrap();
        }
        check_delete(&b, "capturing", secs(1)).await;
        let error = task.await.unwrap().unwrap_err();
        assert_eq!(error.kind, ErrorKind::Conflict);
        assert!(error.to_string().contains("given up"), "{error}");
        assert!(!b.dir.path().join("layer").exists(), "the driver's future was dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn e16_delete_while_the_daemon_looks_for_it() {
    for fake in [
        FakeConfig { hang_at: Some(FakeStep::Recover), ..FakeConfig::default() },
        FakeConfig { recover: FakeRecover::Fails, ..FakeConfig::default() },
    ] {
        let b = brought_to(FakeConfig::default(), spec("app", &[])).await;
        b.engine.clone().detach().await;
        b.world.configure(|config| *config = fake);
        let engine = open(&b.world, &b.outlet, b.dir.path()).await;
        engine.delete(&id(1)).await.unwrap();
        b.assert_clean();
        assert_eq!(b.outlet.ends(&id(1)).len(), 1);
    }
}
