//! Whole machines: kept, and others made from them; and what is known of a machine from outside.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use moat_agent::protocol::StreamName;
use moat_model::lifecycle::{Deadlines, PauseTo, PhaseName};
use moat_model::spec::MachineSnapshot;
use moat_model::{Cause, ErrorKind, Exit, Isolation, Resource, SandboxSpec};
use tokio::time::sleep;

use super::network::wired;
use super::{Bench, bench, config, open};
use crate::Engine;
use crate::driver::VMM_UID;
use crate::fake::FakeConfig;
use crate::record::{FileStore, Store};
use crate::supervisor::Registry;
use crate::testing::{id, spec};

const SCRIPT: &str = "echo one; sleep 5; echo two; exit 3";

fn from(dir: PathBuf, asked: SandboxSpec) -> SandboxSpec {
    SandboxSpec { restore: Some(MachineSnapshot { dir, driver: "fake".to_owned() }), ..asked }
}

fn script() -> SandboxSpec {
    spec("sh", &["-c", SCRIPT])
}

/// A sandbox that was kept after its first word.
async fn kept(fake: FakeConfig) -> (Bench, PathBuf) {
    let b = bench(fake).await;
    b.engine.create(id(1), script()).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let dir = b.dir.path().join("machine");
    let captured = b.engine.snapshot(&id(1), dir.clone()).await.unwrap();
    assert!(captured.memory && captured.bytes > 0, "{captured:?}");
    (b, dir)
}

async fn end_of(engine: &Engine, n: u8) -> (Option<Cause>, Option<Exit>) {
    let mut views = engine.watch(&id(n)).unwrap();
    let view = views.wait_for(|view| view.phase.is_terminal()).await.unwrap();
    (view.cause.clone(), view.exit)
}

#[tokio::test(start_paused = true)]
async fn others_go_on_from_where_one_was_kept() {
    let (b, dir) = kept(FakeConfig::default()).await;
    assert_eq!(b.engine.get(&id(1)).unwrap().phase, PhaseName::Running, "it goes on itself");
    for n in [2, 3] {
        b.engine.create(id(n), from(dir.clone(), script())).await.unwrap();
    }
    for n in [1, 2, 3] {
        assert_eq!(end_of(&b.engine, n).await, (Some(Cause::Exited), Some(Exit::code(3))));
        let said = if n == 1 { "one\ntwo\n" } else { "two\n" };
        assert_eq!(b.outlet.output(&id(n), StreamName::Stdout), said);
        assert_eq!(b.world.main_starts(&id(n)), u32::from(n == 1), "what runs already is not started");
    }
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_dies_finds_one_that_was_made_from_another() {
    let (b, dir) = kept(FakeConfig::default()).await;
    b.engine.create(id(2), from(dir, script())).await.unwrap();
    b.engine.clone().detach().await;
    let engine = open(&b.world, &b.outlet, b.dir.path()).await;
    engine.pause(&id(2), PauseTo::Disk).await.unwrap();
    engine.resume(&id(2)).await.unwrap();
    assert_eq!(end_of(&engine, 2).await, (Some(Cause::Exited), Some(Exit::code(3))));
    assert_eq!(b.outlet.output(&id(2), StreamName::Stdout), "two\n");
}

#[tokio::test(start_paused = true)]
async fn a_machine_without_a_program_gets_one() {
    let b = bench(FakeConfig::default()).await;
    b.engine.create(id(1), SandboxSpec { main: None, ..script() }).await.unwrap();
    let dir = b.dir.path().join("machine");
    b.engine.snapshot(&id(1), dir.clone()).await.unwrap();
    b.engine.create(id(2), from(dir, script())).await.unwrap();
    assert_eq!(end_of(&b.engine, 2).await, (Some(Cause::Exited), Some(Exit::code(3))));
    assert_eq!(b.outlet.output(&id(2), StreamName::Stdout), "one\ntwo\n");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_paused_is_kept_and_stays_paused() {
    let b = bench(FakeConfig::default()).await;
    b.engine.create(id(1), script()).await.unwrap();
    b.engine.pause(&id(1), PauseTo::Memory).await.unwrap();
    b.engine.snapshot(&id(1), b.dir.path().join("machine")).await.unwrap();
    assert_eq!(b.engine.get(&id(1)).unwrap().phase, PhaseName::Paused);
    b.world.configure_one(&id(1), |fake| fake.capture_error = Some("full".to_owned()));
    let error = b.engine.snapshot(&id(1), b.dir.path().join("another")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    b.engine.resume(&id(1)).await.unwrap();
    assert_eq!(end_of(&b.engine, 1).await, (Some(Cause::Exited), Some(Exit::code(3))));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_go_on_here_is_refused_with_the_reason() {
    let (b, dir) = kept(FakeConfig::default()).await;
    let mut elsewhere = from(dir.clone(), script());
    elsewhere.restore = Some(MachineSnapshot { dir: dir.clone(), driver: "firecracker".to_owned() });
    let error = b.engine.create(id(2), elsewhere.clone()).await.unwrap_err();
    assert!(error.to_string().starts_with("restore: the machine was kept by driver firecracker"), "{error}");
    assert_eq!(b.engine.validate(&elsewhere).unwrap_err().kind, error.kind);

    std::fs::write(dir.join("manifest.json"), b"{").unwrap();
    let error = b.engine.create(id(2), from(dir.clone(), script())).await.unwrap_err();
    assert!(error.to_string().contains("manifest.json"), "{error}");
    b.engine.delete(&id(1)).await.unwrap();
    b.assert_clean();

    let b = bench(FakeConfig { snapshotter: false, ..FakeConfig::default() }).await;
    let error = b.engine.create(id(1), from(dir, script())).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidSpec);
    assert!(error.to_string().contains("restore"), "{error}");
    b.engine.create(id(1), script()).await.unwrap();
    let error = b.engine.snapshot(&id(1), b.dir.path().join("machine")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
}

fn virtual_machines() -> FakeConfig {
    FakeConfig { isolation: Isolation::Microvm, accelerator: Some("tcg"), ..FakeConfig::default() }
}

#[tokio::test(start_paused = true)]
async fn what_makes_a_machine_fast_is_shown_and_survives_the_daemon() {
    let b = bench(virtual_machines()).await;
    let view = b.engine.create(id(1), script()).await.unwrap();
    assert_eq!(view.isolation_given(), "microvm/tcg");
    let record = FileStore::open(b.dir.path().join("run/sandboxes")).unwrap().load_one(&id(1)).unwrap();
    let limits = Deadlines::default();
    assert_eq!(record.state.deadlines, limits.of_a_machine());
    assert!(record.state.deadlines.recover > limits.recover && record.state.deadlines.agent == limits.agent);
    b.engine.clone().detach().await;
    b.world.configure(|fake| fake.accelerator = Some("kvm"));
    let engine = open(&b.world, &b.outlet, b.dir.path()).await;
    assert_eq!(engine.get(&id(1)).unwrap().isolation_given(), "microvm/tcg", "as it was made");
    assert!(b.outlet.facts(&id(1)).iter().all(|view| view.accelerator.as_deref() == Some("tcg")));
}

#[tokio::test(start_paused = true)]
async fn the_tap_of_a_machine_is_a_users_of_its_own_range() {
    let b = bench(virtual_machines()).await;
    b.engine.create(id(1), wired(script())).await.unwrap();
    let record = FileStore::open(b.dir.path().join("run/sandboxes")).unwrap().load_one(&id(1)).unwrap();
    let base = record.state.leases.iter().find_map(|lease| match lease.resource {
        Resource::UidRange { base, .. } => Some(base),
        _ => None,
    });
    let owner = base.map(|base| base + VMM_UID);
    assert!(owner.is_some());
    assert_eq!(b.world.rules(&id(1)).unwrap().tap_owner, owner);
    b.engine.rewire(&id(1), super::network::stricter()).await.unwrap();
    assert_eq!(b.world.rules(&id(1)).unwrap().tap_owner, owner);
    b.engine.clone().detach().await;
    let engine = open(&b.world, &b.outlet, b.dir.path()).await;
    assert_eq!(b.world.rules(&id(1)).unwrap().tap_owner, owner);
    engine.delete(&id(1)).await.unwrap();
    assert!(b.world.rules_seen(&id(1)).iter().all(|rules| rules.tap_owner == owner));
    b.assert_clean();

    let b = bench(FakeConfig::default()).await;
    b.engine.create(id(1), wired(script())).await.unwrap();
    assert_eq!(b.world.rules(&id(1)).unwrap().tap_owner, None, "a container uses the link itself");
}

#[tokio::test(start_paused = true)]
async fn of_two_drivers_the_first_serves_unless_the_other_kept_the_machine() {
    let b = bench(FakeConfig { name: "first", ..virtual_machines() }).await;
    let first = b.world.driver();
    b.world.configure(|fake| fake.name = "second");
    let drivers = Registry::new(vec![first, b.world.driver()]);
    b.engine.clone().detach().await;
    let dir = b.dir.path().join("other");
    let (engine, _) = Engine::open(config(&dir), drivers, Arc::new(b.outlet.clone())).await.unwrap();
    assert_eq!(engine.create(id(1), script()).await.unwrap().driver, "first");
    let machine = dir.join("machine");
    engine.snapshot(&id(1), machine.clone()).await.unwrap();
    for driver in ["first", "second"] {
        let restore = Some(MachineSnapshot { dir: machine.clone(), driver: driver.to_owned() });
        let view = engine.create(id(2), SandboxSpec { restore, ..script() }).await.unwrap();
        assert_eq!(view.driver, driver);
        engine.delete(&id(2)).await.unwrap();
    }
}
