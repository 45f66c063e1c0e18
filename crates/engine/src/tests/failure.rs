//! Everything that can fail, failing: nothing is left behind, and the cause says what happened.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use moat_agent::protocol::StreamName;
use moat_model::lifecycle::{PauseTo, PhaseName, SandboxView};
use moat_model::{Cause, ErrorKind, Exit, SandboxId, SandboxSpec};
use tokio::time::Instant;

use super::{Bench, bench, claim, config, network, open};
use crate::error::{Error, Result};
use crate::fake::{FakeConfig, FakeRecover, FakeStep};
use crate::record::{FileStore, Loaded, SandboxRecord, Store};
use crate::supervisor::{Engine, Registry};
use crate::testing::{id, spec};

async fn ended(engine: &Engine, n: u8) -> SandboxView {
    let mut views = engine.watch(&id(n)).unwrap();
    views.wait_for(|view| view.phase.is_terminal()).await.unwrap().clone()
}

/// A create under `fake` fails with this kind and words, with a network and without, and nothing at all is left.
async fn check_create_fails(fake: FakeConfig, kind: ErrorKind, words: &[&str]) {
    if !matches!(fake.hang_at, Some(FakeStep::Attach)) && fake.attach_error.is_none() {
        check_create_of_fails(fake.clone(), spec("app", &[]), kind, words).await;
    }
    check_create_of_fails(fake, network::wired(spec("app", &[])), kind, words).await;
}

async fn check_create_of_fails(fake: FakeConfig, asked: SandboxSpec, kind: ErrorKind, words: &[&str]) {
    let b = bench(fake.clone()).await;
    let error = b.engine.create(id(1), asked).await.unwrap_err();
    assert_eq!(error.kind, kind, "{error} under {fake:?}");
    for word in words {
        assert!(error.to_string().contains(word), "{error} under {fake:?}");
    }
    b.assert_clean();
    assert_eq!(b.engine.list(), [], "{fake:?}");
    assert_eq!(std::fs::read_dir(b.dir.path().join("run/sandboxes")).unwrap().count(), 0);
    let ends = b.outlet.ends(&id(1));
    let [end] = ends.as_slice() else { panic!("{ends:?} under {fake:?}") };
    assert_eq!(end.phase, PhaseName::Failed);
    assert!(matches!(end.cause, Some(Cause::StartFailed { .. })), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn every_step_of_a_start_may_fail() {
    let good = FakeConfig::default;
    let oops = || Some("oops".to_owned());
    let unavailable = ErrorKind::Unavailable;
    check_create_fails(FakeConfig { create_error: oops(), ..good() }, unavailable, &["create:", "oops"]).await;
    check_create_fails(FakeConfig { start_error: oops(), ..good() }, unavailable, &["start agent:", "oops"]).await;
    check_create_fails(FakeConfig { main_error: oops(), ..good() }, ErrorKind::Guest, &["start main:", "oops"]).await;
    check_create_fails(FakeConfig { attach_error: oops(), ..good() }, unavailable, &["create:", "attach", "oops"])
        .await;
    for (step, words) in [
        (FakeStep::Attach, "create:"),
        (FakeStep::Create, "create:"),
        (FakeStep::Start, "start agent:"),
        (FakeStep::StartMain, "start main:"),
    ] {
        let hanging = FakeConfig { hang_at: Some(step), ..good() };
        check_create_fails(hanging, ErrorKind::Deadline, &[words, "took longer than"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_can_be_ended_at_every_step() {
    for step in [FakeStep::Attach, FakeStep::Create, FakeStep::Start, FakeStep::StartMain] {
        let b = bench(FakeConfig { hang_at: Some(step), ..FakeConfig::default() }).await;
        let begun = Instant::now();
        let (engine, target) = (b.engine.clone(), id(1));
        let creating = tokio::spawn(async move { engine.create(id(1), network::wired(spec("app", &[]))).await });
        tokio::time::sleep(Duration::from_millis(10)).await;
        b.engine.delete(&target).await.unwrap();
        let error = creating.await.unwrap().unwrap_err();
        assert_eq!(error.kind, ErrorKind::Conflict, "{error} at {step:?}");
        assert!(begun.elapsed() < Duration::from_secs(1), "{step:?} took {:?}", begun.elapsed());
        b.assert_clean();
        assert_eq!(b.outlet.ends(&target).len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn failed_releases_and_kills_are_tried_until_they_succeed() {
    let b = bench(FakeConfig { release_failures: 5, kill_failures: 4, ..FakeConfig::default() }).await;
    b.engine.create(id(1), spec("app", &[])).await.unwrap();
    let view = b.engine.stop(&id(1), None).await.unwrap();
    assert_eq!(view.cause, Some(Cause::Stopped));
    b.assert_clean();
    let told = b.engine.explain(&id(1)).await.unwrap();
    let retried: u32 = told.iter().filter(|step| step.what.starts_with("release failed")).map(|step| step.times).sum();
    assert_eq!(retried, 10, "five for each of two resources: {told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_start_with_failing_releases_does_not_hold_up_its_caller_for_ever() {
    let fake = FakeConfig { create_error: Some("oops".into()), release_failures: 12, ..FakeConfig::default() };
    let b = bench(fake).await;
    let begun = Instant::now();
    let error = b.engine.create(id(1), spec("app", &[])).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(!b.world.resources().is_empty());
    // It is forgotten by itself when the releases at last succeed.
    if let Some(mut views) = b.engine.watch(&id(1)) {
        views.wait_for(|view| view.phase.is_terminal()).await.unwrap();
    }
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_dies_takes_the_sandbox_with_it() {
    let b = bench(FakeConfig { die_after: Some(Duration::from_secs(3)), ..FakeConfig::default() }).await;
    b.engine.create(id(1), spec("app", &[])).await.unwrap();
    let view = ended(&b.engine, 1).await;
    assert_eq!((view.phase, view.exit), (PhaseName::Failed, Some(Exit::unknown())));
    assert!(matches!(view.cause, Some(Cause::AgentLost { .. })), "{view:?}");
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn memory_is_named_as_the_cause() {
    let b = bench(FakeConfig { oom_kills: 1, ..FakeConfig::default() }).await;
    b.engine.create(id(1), spec("app", &[])).await.unwrap();
    b.world.end_main(&id(1), Exit::signal(9));
    let view = ended(&b.engine, 1).await;
    assert_eq!(view.cause, Some(Cause::OutOfMemory));
    assert_eq!(view.exit, Some(Exit { oom_killed: true, ..Exit::signal(9) }));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_does_not_shut_down_is_killed() {
    let b = bench(FakeConfig { hang_at: Some(FakeStep::Shutdown), ..FakeConfig::default() }).await;
    b.engine.create(id(1), spec("app", &[])).await.unwrap();
    let begun = Instant::now();
    b.engine.stop(&id(1), None).await.unwrap();
    assert!(begun.elapsed() <= Duration::from_secs(1), "{:?}", begun.elapsed());
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_failed_freeze_is_told_and_undone() {
    let b = bench(FakeConfig { freeze_error: Some("stuck".into()), ..FakeConfig::default() }).await;
    b.engine.create(id(1), spec("app", &[])).await.unwrap();
    let error = b.engine.pause(&id(1), PauseTo::Memory).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.to_string().contains("stuck"), "{error}");
    assert_eq!(b.engine.get(&id(1)).unwrap().phase, PhaseName::Running);
    b.engine.stop(&id(1), None).await.unwrap();
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn an_outlet_that_fails_loses_nothing() {
    let b = bench(FakeConfig::default()).await;
    b.outlet.fail(7);
    b.engine.create(id(1), spec("sh", &["-c", "echo one; sleep 1; echo two"])).await.unwrap();
    assert_eq!(ended(&b.engine, 1).await.exit, Some(Exit::code(0)));
    b.engine.delete(&id(1)).await.unwrap();
    assert_eq!(b.outlet.output(&id(1), StreamName::Stdout), "one\ntwo\n");
    assert_eq!(b.outlet.ends(&id(1)).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_child_that_holds_the_pipe_open_delays_the_end_no_longer_than_the_bound() {
    // Flooding: more output than the fake outlet takes before the drain deadline, since it fails all the time.
    let b = bench(FakeConfig::default()).await;
    b.engine.create(id(1), spec("sh", &["-c", "sleep 1; head -c 1000 /dev/zero"])).await.unwrap();
    b.outlet.fail(u32::MAX);
    let begun = Instant::now();
    assert_eq!(ended(&b.engine, 1).await.cause, Some(Cause::Exited));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    b.assert_clean();
}

/// Detaches from a running sandbox and opens again under another configuration of the world.
async fn reopened(fake: impl FnOnce(&mut FakeConfig)) -> (Bench, Engine) {
    let b = bench(FakeConfig::default()).await;
    b.engine.create(id(1), spec("app", &[])).await.unwrap();
    b.engine.clone().detach().await;
    b.world.configure(fake);
    let engine = open(&b.world, &b.outlet, b.dir.path()).await;
    (b, engine)
}

#[tokio::test(start_paused = true)]
async fn recovery_ends_in_one_of_three_named_ways() {
    for recover in [FakeRecover::Gone, FakeRecover::Fails] {
        let (b, engine) = reopened(|fake| fake.recover = recover).await;
        let view = ended(&engine, 1).await;
        assert!(matches!(view.cause, Some(Cause::Lost { .. })), "{recover:?}: {view:?}");
        b.assert_clean();
    }
    let (b, engine) = reopened(|fake| fake.hang_at = Some(FakeStep::Recover)).await;
    assert_eq!(engine.get(&id(1)).unwrap().phase, PhaseName::Recovering, "one that hangs does not hold up the start");
    let begun = Instant::now();
    assert!(matches!(ended(&engine, 1).await.cause, Some(Cause::Lost { .. })));
    assert!(begun.elapsed() <= Duration::from_secs(5), "{:?}", begun.elapsed());
    b.assert_clean();
}

/// A daemon that has just come up may still be greeting it: no reason to send anybody away.
#[tokio::test(start_paused = true)]
async fn who_asks_for_a_recovering_agent_waits_for_what_comes_of_it() {
    let (b, engine) = reopened(|fake| fake.hang_at = Some(FakeStep::Recover)).await;
    assert_eq!(engine.get(&id(1)).unwrap().phase, PhaseName::Recovering);
    let refused = engine.guest(&id(1)).await.err().unwrap();
    assert!(!refused.to_string().contains("recovering"), "{refused}");
    assert!(matches!(ended(&engine, 1).await.cause, Some(Cause::Lost { .. })));
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_recovering_sandbox_can_be_deleted() {
    let (b, engine) = reopened(|fake| fake.hang_at = Some(FakeStep::Recover)).await;
    engine.delete(&id(1)).await.unwrap();
    b.assert_clean();
    assert_eq!(b.outlet.ends(&id(1)).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_is_gone_leaves_its_sandboxes_on_record() {
    let b = bench(FakeConfig::default()).await;
    b.engine.create(id(1), spec("app", &[])).await.unwrap();
    b.engine.clone().detach().await;
    let (engine, _) =
        Engine::open(config(b.dir.path()), Registry::new(vec![]), Arc::new(b.outlet.clone())).await.unwrap();
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(!engine.get(&id(1)).unwrap().phase.is_terminal());
    let told = engine.explain(&id(1)).await.unwrap();
    assert!(told.iter().any(|step| step.what.contains("enable it and restart")), "{told:?}");
    assert!(!b.world.resources().is_empty());
    engine.detach().await;

    let engine = open(&b.world, &b.outlet, b.dir.path()).await;
    ended(&engine, 1).await;
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn what_has_no_readable_record_is_released() {
    let b = bench(FakeConfig::default()).await;
    b.engine.create(id(1), spec("app", &[])).await.unwrap();
    b.engine.create(id(2), spec("app", &[])).await.unwrap();
    b.engine.clone().detach().await;
    std::fs::write(b.dir.path().join(format!("run/sandboxes/{}.json", id(1))), b"scribble").unwrap();
    std::fs::create_dir_all(b.dir.path().join("run/sandboxes/not-ours")).unwrap();
    let engine = open(&b.world, &b.outlet, b.dir.path()).await;
    assert!(engine.get(&id(1)).is_none());
    // Deleting the other gives the sweep, which runs beside it, all the time it needs.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(b.world.alive(), [id(2)]);
    engine.delete(&id(2)).await.unwrap();
    b.assert_clean();
    assert!(b.dir.path().join("run/sandboxes/not-ours").exists());
}

/// A store that fails or breaks when told to.
#[derive(Debug)]
struct BadStore {
    good: FileStore,
    fails: AtomicBool,
    breaks: AtomicBool,
}

impl Store for BadStore {
    fn load(&self) -> Result<Loaded> {
        self.good.load()
    }

    fn load_one(&self, id: &SandboxId) -> Result<SandboxRecord> {
        self.good.load_one(id)
    }

    fn save(&self, record: &SandboxRecord) -> Result<()> {
        if self.breaks.swap(false, Ordering::SeqCst) {
            // Without the noise of a panic message.
            std::panic::resume_unwind(Box::new("broken on purpose"));
        }
        if self.fails.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Internal, "write record: disk full"));
        }
        self.good.save(record)
    }

    fn remove(&self, id: &SandboxId) -> Result<()> {
        self.good.remove(id)
    }
}

async fn bench_on_bad_store() -> (Bench, Engine, Arc<BadStore>) {
    let b = bench(FakeConfig::default()).await;
    let dir = b.dir.path().join("bad");
    let good = FileStore::open(dir.join("records")).unwrap();
    let store = Arc::new(BadStore { good, fails: AtomicBool::new(false), breaks: AtomicBool::new(false) });
    let drivers = Registry::new(vec![b.world.driver()]).with_fabric(b.world.fabric());
    let opened = Engine::open_on(config(&dir), drivers, Arc::new(b.outlet.clone()), Arc::<BadStore>::clone(&store));
    let (engine, _) = opened.await.unwrap();
    (b, engine, store)
}

#[tokio::test(start_paused = true)]
async fn nothing_is_made_that_is_not_written_down() {
    let (b, engine, store) = bench_on_bad_store().await;
    store.fails.store(true, Ordering::SeqCst);
    let error = engine.create(id(1), spec("app", &[])).await.unwrap_err();
    assert_eq!(b.world.points(), b.world.points(), "{error}");
    b.assert_clean();
    assert_eq!(b.world.main_starts(&id(1)), 0);

    // One that runs is not harmed, and its end is told once it could be written down.
    store.fails.store(false, Ordering::SeqCst);
    engine.create(id(2), spec("app", &[])).await.unwrap();
    store.fails.store(true, Ordering::SeqCst);
    b.world.end_main(&id(2), Exit::code(0));
    tokio::time::sleep(Duration::from_secs(30)).await;
    b.assert_clean();
    assert_eq!(b.outlet.ends(&id(2)), []);
    store.fails.store(false, Ordering::SeqCst);
    assert_eq!(ended(&engine, 2).await.exit, Some(Exit::code(0)));
}

#[tokio::test(start_paused = true)]
async fn a_network_is_not_changed_unless_that_is_written_down() {
    let (b, engine, store) = bench_on_bad_store().await;
    engine.create(id(1), network::wired(spec("app", &[]))).await.unwrap();
    engine.create(id(2), network::wired(claim::member())).await.unwrap();
    let before = b.world.attached();
    store.fails.store(true, Ordering::SeqCst);
    let error = engine.rewire(&id(1), network::stricter()).await.unwrap_err();
    assert!(error.to_string().contains("disk full"), "{error}");
    assert_eq!((b.world.attached(), engine.get(&id(1)).unwrap().phase), (before, PhaseName::Running));
    let error = engine.claim(&id(2), network::claim_with(Some(1), network::stricter())).await.unwrap_err();
    assert!(error.to_string().contains("disk full"), "{error}");
    assert!(b.world.rules_seen(&id(2)).iter().all(|rules| rules.pooled));
    // Its place is given back when that can be written down, and not before.
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!((b.world.attached().len(), b.world.places().len(), engine.uids_taken()), (1, 2, 2));
    store.fails.store(false, Ordering::SeqCst);
    ended(&engine, 2).await;
    assert_eq!((b.world.places().len(), engine.uids_taken()), (1, 1));
    engine.rewire(&id(1), network::stricter()).await.unwrap();
    engine.delete(&id(1)).await.unwrap();
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_broken_actor_gives_its_network_back_once() {
    let (b, engine, store) = bench_on_bad_store().await;
    engine.create(id(1), network::wired(spec("app", &[]))).await.unwrap();
    engine.create(id(2), network::wired(spec("app", &[]))).await.unwrap();
    b.world.configure(|fake| fake.hang_at = Some(FakeStep::Change));
    let changing = engine.clone();
    let changing = tokio::spawn(async move { changing.rewire(&id(1), network::stricter()).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    store.breaks.store(true, Ordering::SeqCst);
    b.world.end_main(&id(1), Exit::code(0));
    ended(&engine, 1).await;
    changing.await.unwrap().unwrap_err();
    assert_eq!((engine.panics(), b.world.places().len(), b.world.attached().len()), (1, 1, 1));
    engine.delete(&id(1)).await.unwrap();
    engine.delete(&id(2)).await.unwrap();
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_broken_actor_costs_one_sandbox_and_is_counted() {
    let (b, engine, store) = bench_on_bad_store().await;
    engine.create(id(1), spec("app", &[])).await.unwrap();
    engine.create(id(2), spec("app", &[])).await.unwrap();
    store.breaks.store(true, Ordering::SeqCst);
    b.world.end_main(&id(1), Exit::code(0));
    let view = ended(&engine, 1).await;
    assert_eq!(view.phase, PhaseName::Failed);
    assert!(view.cause.as_ref().unwrap().message().contains("internal error"), "{view:?}");
    assert_eq!(engine.panics(), 1);
    assert_eq!(b.outlet.ends(&id(1)).len(), 1);
    assert_eq!(engine.get(&id(2)).unwrap().phase, PhaseName::Running);
    engine.delete(&id(1)).await.unwrap();
    engine.delete(&id(2)).await.unwrap();
    b.assert_clean();
}
