//! Time limits: nobody's sandbox ends early, every end has its reason, and standing still costs nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use moat_model::lifecycle::{PauseTo, PhaseName, SandboxView};
use moat_model::spec::{OnTimeout, Owner};
use moat_model::{Cause, ErrorKind, SandboxId, SandboxSpec, TimeLimit, Timestamp};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Bench, bench, config, open};
use crate::error::{Error, Result};
use crate::fake::{FakeConfig, FakeStep, FakeWorld};
use crate::record::{Loaded, SandboxRecord, Store};
use crate::supervisor::{Engine, EngineConfig, Registry};
use crate::testing::{MemoryOutlet, id, spec};

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// One without a main process, with these limits.
pub fn idler(timeout: Option<u64>, idle: Option<u64>, on_timeout: OnTimeout) -> SandboxSpec {
    let limits = SandboxSpec {
        main: None,
        timeout: timeout.map(secs),
        idle_timeout: idle.map(secs),
        on_timeout,
        ..spec("", &[])
    };
    let mut limits = limits;
    limits.origin.owner = Owner::Api;
    limits
}

async fn ended(engine: &Engine, id: &SandboxId) -> SandboxView {
    let mut views = engine.watch(id).unwrap();
    views.wait_for(|view| view.phase.is_terminal()).await.unwrap().clone()
}

async fn reaches(engine: &Engine, id: &SandboxId, phase: PhaseName) -> SandboxView {
    let mut views = engine.watch(id).unwrap();
    views.wait_for(|view| view.phase == phase).await.unwrap().clone()
}

/// Now, to the precision of a timer.
fn assert_now(due: Instant, what: &str) {
    let now = Instant::now();
    assert!(now + Duration::from_millis(10) >= due, "{what}: {:?} early", due - now);
    assert!(now <= due + Duration::from_millis(100), "{what}: {:?} late", now - due);
}

/// Records in memory: ten thousand sandboxes are no test of a file system.
#[derive(Debug, Default)]
struct MemoryStore(Mutex<BTreeMap<SandboxId, SandboxRecord>>);

impl Store for MemoryStore {
    fn load(&self) -> Result<Loaded> {
        Ok(Loaded { records: self.0.lock().unwrap().values().cloned().collect(), ..Loaded::default() })
    }

    fn load_one(&self, id: &SandboxId) -> Result<SandboxRecord> {
        let found = self.0.lock().unwrap().get(id).cloned();
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, "record"))
    }

    fn save(&self, record: &SandboxRecord) -> Result<()> {
        self.0.lock().unwrap().insert(record.state.id.clone(), record.clone());
        Ok(())
    }

    fn remove(&self, id: &SandboxId) -> Result<()> {
        self.0.lock().unwrap().remove(id);
        Ok(())
    }
}

/// Numbers that are always the same for one seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn throw(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    pub fn span(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from * 1000 + self.throw((to - from) * 1000))
    }
}

/// A life with random limits, keepalives and uses, beside what its end must be by plain arithmetic.
async fn random_life(engine: Engine, n: u16) {
    let mut dice = Dice(u64::from(n));
    let [high, low] = n.to_be_bytes();
    let id = SandboxId::from_parts(Timestamp::from_millis(1), [high, low, 1, 1, 1, 1, 1, 1, 1, 1]);
    let pauses = n.is_multiple_of(4);
    let idle = n.is_multiple_of(3).then(|| dice.span(2, 30));
    let timeout = dice.span(1, 60);
    let policy = if pauses { OnTimeout::Pause } else { OnTimeout::Kill };
    let asked = SandboxSpec { timeout: Some(timeout), idle_timeout: idle, ..idler(None, None, policy) };
    engine.create(id.clone(), asked).await.unwrap();
    let (mut due, mut used) = (Instant::now() + timeout, Instant::now());
    let limit = |due: Instant, used: Instant| idle.map_or(due, |idle| due.min(used + idle));
    for _ in 0..dice.throw(6) {
        let next = Instant::now() + dice.span(0, 25);
        // Not within a moment of the end: who comes first there is not for this test to say.
        if next + Duration::from_millis(20) >= limit(due, used) {
            break;
        }
        sleep_until(next).await;
        if dice.throw(3) == 0 {
            engine.touch(&id);
            used = Instant::now();
        } else {
            let span = dice.span(1, 60);
            let view = engine.keepalive(&id, Some(span), false).await.unwrap_or_else(|e| panic!("{id}: {}", e.chain()));
            assert!(view.expires_at.is_some());
            (due, used) = (due.max(Instant::now() + span), Instant::now());
        }
    }
    let end = limit(due, used);
    sleep_until(end - Duration::from_millis(20)).await;
    assert_eq!(engine.get(&id).unwrap().phase, PhaseName::Running, "{id} ended early");
    if pauses {
        reaches(&engine, &id, PhaseName::Paused).await;
        assert_now(end, "paused");
        engine.delete(&id).await.unwrap();
        return;
    }
    let view = ended(&engine, &id).await;
    assert_now(end, "killed");
    let limit = if end == due { TimeLimit::Absolute } else { TimeLimit::Idle };
    assert_eq!(view.cause, Some(Cause::TimedOut { limit }), "{id}");
    engine.delete(&id).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn e01_of_ten_thousand_sandboxes_none_ends_early_and_each_end_has_its_reason() {
    let (world, dir) = (FakeWorld::new(FakeConfig::default()), tempfile::tempdir().unwrap());
    let config = EngineConfig { sandboxes_max: 20_000, ..config(dir.path()) };
    let (drivers, outlet) = (Registry::new(vec![world.driver()]), Arc::new(MemoryOutlet::default()));
    let (engine, _) = Engine::open_on(config, drivers, outlet, Arc::new(MemoryStore::default())).await.unwrap();
    let mut lives = tokio::task::JoinSet::new();
    for n in 0..10_000 {
        lives.spawn(random_life(engine.clone(), n));
    }
    while let Some(life) = lives.join_next().await {
        life.unwrap();
    }
    assert_eq!((engine.list().len(), engine.uids_taken()), (0, 0));
    assert_eq!((world.resources().len(), world.alive().len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn e04_a_pause_does_not_eat_remaining_time() {
    let b = bench(FakeConfig::default()).await;
    b.engine.create(id(1), idler(Some(60), None, OnTimeout::Kill)).await.unwrap();
    sleep(secs(10)).await;
    let paused = b.engine.pause(&id(1), PauseTo::Memory).await.unwrap();
    assert_eq!((paused.expires_at, paused.remaining.map(|left| left.as_secs())), (None, Some(50)));
    sleep(secs(1000)).await;
    let resumed = b.engine.resume(&id(1)).await.unwrap();
    assert!(resumed.expires_at.is_some() && resumed.remaining.is_none());

    // Nor does a capture, nor a pause that the daemon sleeps through.
    sleep(secs(10)).await;
    b.world.configure_one(&id(1), |fake| fake.capture_takes = secs(300));
    b.engine.capture(&id(1), b.dir.path().join("layer")).await.unwrap();
    sleep(secs(10)).await;
    b.engine.pause(&id(1), PauseTo::Memory).await.unwrap();
    b.engine.clone().detach().await;
    sleep(secs(1000)).await;
    let engine = open(&b.world, &b.outlet, b.dir.path()).await;
    let paused = reaches(&engine, &id(1), PhaseName::Paused).await;
    assert_eq!(paused.remaining.map(|left| left.as_secs_f64().round()), Some(30.0));
    engine.resume(&id(1)).await.unwrap();
    let end = Instant::now() + secs(30);
    let view = ended(&engine, &id(1)).await;
    assert_eq!(view.cause, Some(Cause::TimedOut { limit: TimeLimit::Absolute }));
    assert_now(end, "with what was left");
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_pauses_leaves_it_to_be_resumed() {
    let b = bench(FakeConfig::default()).await;
    for (n, timeout, idle) in [(1, Some(60), None), (2, None, Some(60))] {
        b.engine.create(id(n), idler(timeout, idle, OnTimeout::Pause)).await.unwrap();
        let born = Instant::now();
        let paused = reaches(&b.engine, &id(n), PhaseName::Paused).await;
        assert_now(born + secs(60), "paused");
        assert_eq!((paused.expires_at, paused.remaining), (None, None));
        sleep(secs(1000)).await;
        // The spec's span again.
        b.engine.resume(&id(n)).await.unwrap();
        let resumed = Instant::now();
        sleep(secs(59)).await;
        assert_eq!(b.engine.get(&id(n)).unwrap().phase, PhaseName::Running);
        reaches(&b.engine, &id(n), PhaseName::Paused).await;
        assert_now(resumed + secs(60), "paused again");
    }
    // Or the span it is given.
    b.engine.resume_for(&id(1), secs(5)).await.unwrap();
    let resumed = Instant::now();
    reaches(&b.engine, &id(1), PhaseName::Paused).await;
    assert_now(resumed + secs(5), "paused a third time");
    let told = b.engine.explain(&id(2)).await.unwrap();
    assert!(told.iter().any(|step| step.what == "idle time limit reached"), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn what_should_be_paused_for_a_limit_and_cannot_be_is_killed() {
    let b = bench(FakeConfig { freeze_error: Some("stuck".into()), ..FakeConfig::default() }).await;
    b.engine.create(id(1), idler(Some(60), None, OnTimeout::Pause)).await.unwrap();
    let view = ended(&b.engine, &id(1)).await;
    assert_eq!(view.cause, Some(Cause::TimedOut { limit: TimeLimit::Absolute }));
    b.assert_clean();

    let b = bench(FakeConfig { freezer: false, ..FakeConfig::default() }).await;
    let error = b.engine.create(id(1), idler(Some(60), None, OnTimeout::Pause)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidSpec);
    assert!(error.to_string().starts_with("on_timeout:"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_keepalive_lengthens_and_shortens_only_when_told() {
    let b = bench(FakeConfig::default()).await;
    b.engine.create(id(1), idler(Some(60), None, OnTimeout::Kill)).await.unwrap();
    let born = b.engine.get(&id(1)).unwrap();
    let due = |view: &SandboxView| view.expires_at.unwrap().since(born.created_at).as_secs();
    assert_eq!(due(&born), 60);
    assert_eq!(due(&b.engine.keepalive(&id(1), Some(secs(5)), false).await.unwrap()), 60, "no shorter");
    assert_eq!(due(&b.engine.keepalive(&id(1), Some(secs(90)), false).await.unwrap()), 90);
    assert_eq!(due(&b.engine.keepalive(&id(1), Some(secs(30)), true).await.unwrap()), 30, "shorter, as told");
    sleep(secs(20)).await;
    assert_eq!(due(&b.engine.keepalive(&id(1), None, false).await.unwrap()), 80, "the spec's span");

    // Paused: it will have it when it is resumed.
    b.engine.pause(&id(1), PauseTo::Memory).await.unwrap();
    let paused = b.engine.keepalive(&id(1), Some(secs(500)), false).await.unwrap();
    assert_eq!((paused.expires_at, paused.remaining), (None, Some(secs(500))));
    let left = b.engine.resume(&id(1)).await.unwrap();
    assert_eq!(due(&left), 520);
    assert_eq!(due(&b.engine.resume_for(&id(1), secs(600)).await.unwrap()), 620, "one that runs gets it too");

    // One without a limit gets one only if it is named.
    b.engine.create(id(2), idler(None, None, OnTimeout::Kill)).await.unwrap();
    assert_eq!(b.engine.keepalive(&id(2), None, false).await.unwrap().expires_at, None);
    assert!(b.engine.keepalive(&id(2), Some(secs(5)), false).await.unwrap().expires_at.is_some());
    assert_eq!(ended(&b.engine, &id(2)).await.cause, Some(Cause::TimedOut { limit: TimeLimit::Absolute }));
    assert_eq!(b.engine.keepalive(&id(2), Some(secs(5)), false).await.unwrap_err().kind, ErrorKind::Conflict);
}

#[tokio::test(start_paused = true)]
async fn a_use_is_not_written_down_and_idle_time_begins_anew_with_the_daemon() {
    let b: Bench = bench(FakeConfig::default()).await;
    b.engine.create(id(1), idler(None, Some(60), OnTimeout::Kill)).await.unwrap();
    let record = b.dir.path().join(format!("run/sandboxes/{}.json", id(1)));
    let before = std::fs::read(&record).unwrap();
    for _ in 0..10 {
        sleep(secs(30)).await;
        b.engine.processes(&id(1)).await.unwrap();
    }
    assert_eq!(std::fs::read(&record).unwrap(), before);
    b.engine.clone().detach().await;
    sleep(secs(300)).await;
    let engine = open(&b.world, &b.outlet, b.dir.path()).await;
    let opened = Instant::now();
    let view = ended(&engine, &id(1)).await;
    assert_eq!(view.cause, Some(Cause::TimedOut { limit: TimeLimit::Idle }));
    assert_now(opened + secs(60), "after a whole span");
}

#[tokio::test(start_paused = true)]
async fn a_life_span_that_ended_while_no_daemon_watched_ends_it_then() {
    let b = bench(FakeConfig::default()).await;
    b.engine.create(id(1), idler(Some(60), None, OnTimeout::Kill)).await.unwrap();
    b.engine.clone().detach().await;
    // Half a minute of it is left on the wall clock, which the paused clock of a test does not move between daemons.
    let engine = open(&b.world, &b.outlet, b.dir.path()).await;
    let view = ended(&engine, &id(1)).await;
    assert_eq!(view.cause, Some(Cause::TimedOut { limit: TimeLimit::Absolute }));
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_passes_in_the_middle_of_a_freeze_is_kept() {
    for (on_timeout, phase) in [(OnTimeout::Kill, PhaseName::Stopped), (OnTimeout::Pause, PhaseName::Paused)] {
        let b = bench(FakeConfig::default()).await;
        b.engine.create(id(1), idler(Some(60), None, on_timeout)).await.unwrap();
        sleep(secs(55)).await;
        b.world.configure_one(&id(1), |fake| fake.hang_at = Some(FakeStep::Freeze));
        let (engine, world) = (b.engine.clone(), b.world.clone());
        let pausing = tokio::spawn(async move { engine.pause(&id(1), PauseTo::Memory).await });
        sleep(secs(1)).await;
        world.configure_one(&id(1), |fake| fake.hang_at = None);
        // The freeze that hangs is given up after its bound, five seconds after the limit passed.
        if on_timeout == OnTimeout::Pause {
            let view = ended(&b.engine, &id(1)).await;
            assert_eq!(view.cause, Some(Cause::TimedOut { limit: TimeLimit::Absolute }), "meant to be {phase}");
        } else {
            reaches(&b.engine, &id(1), phase).await;
        }
        assert!(pausing.await.unwrap().is_err());
        b.assert_clean();
    }
}
