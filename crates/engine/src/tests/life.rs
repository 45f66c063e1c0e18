//! How sandboxes live when nothing goes wrong.

use std::time::Duration;

use moat_agent::protocol::StreamName;
use moat_model::lifecycle::{PauseTo, PhaseName};
use moat_model::spec::{ExecSpec, Signal, StopSpec};
use moat_model::{Cause, ErrorKind, Exit, Isolation, TimeLimit};
use tokio::time::Instant;

use super::{bench, open};
use crate::fake::{FakeConfig, FakeWorld};
use crate::guest::ExecOutput;
use crate::supervisor::{Absent, Registry};
use crate::testing::{id, spec};

async fn ended(engine: &crate::Engine, n: u8) -> moat_model::lifecycle::SandboxView {
    let mut views = engine.watch(&id(n)).unwrap();
    let view = views.wait_for(|view| view.phase.is_terminal()).await.unwrap();
    view.clone()
}

#[tokio::test(start_paused = true)]
async fn a_program_runs_to_its_end() {
    let b = bench(FakeConfig::default()).await;
    let view = b.engine.create(id(1), spec("sh", &["-c", "echo hello; sleep 2; echo oh >&2; exit 7"])).await.unwrap();
    assert_eq!((view.phase, view.driver.as_str()), (PhaseName::Running, "fake"));
    let view = ended(&b.engine, 1).await;
    assert_eq!((view.phase, view.exit, view.cause), (PhaseName::Stopped, Some(Exit::code(7)), Some(Cause::Exited)));
    assert_eq!(b.outlet.output(&id(1), StreamName::Stdout), "hello\n");
    assert_eq!(b.outlet.output(&id(1), StreamName::Stderr), "oh\n");
    b.assert_clean();
    b.engine.delete(&id(1)).await.unwrap();
    assert!(b.engine.get(&id(1)).is_none());
    assert_eq!(b.outlet.ends(&id(1)).len(), 1);
    let phases: Vec<PhaseName> = b.outlet.facts(&id(1)).iter().map(|view| view.phase).collect();
    use PhaseName::{Preparing, Running, Starting, Stopped, Stopping};
    assert_eq!(phases, [Preparing, Starting, Running, Stopping, Stopped]);
    assert_eq!(std::fs::read_dir(b.dir.path().join("run/sandboxes")).unwrap().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn stop_asks_and_then_insists() {
    let b = bench(FakeConfig::default()).await;
    b.engine.create(id(1), spec("app", &[])).await.unwrap();
    let view = b.engine.stop(&id(1), None).await.unwrap();
    assert_eq!((view.cause, view.exit), (Some(Cause::Stopped), Some(Exit::signal(2))));

    b.engine.create(id(2), spec("sh", &["-c", "trap '' TERM; sleep 1000"])).await.unwrap();
    let begun = Instant::now();
    let how = StopSpec { signal: Signal::TERM, grace: Duration::from_secs(3) };
    let view = b.engine.stop(&id(2), Some(how)).await.unwrap();
    assert_eq!((view.cause, view.exit), (Some(Cause::StopTimedOut), Some(Exit::signal(9))));
    assert_eq!(begun.elapsed().as_secs(), 3);
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn kill_overtakes_a_stop() {
    let b = bench(FakeConfig { ignores_signals: true, ..FakeConfig::default() }).await;
    b.engine.create(id(1), spec("app", &[])).await.unwrap();
    let begun = Instant::now();
    let how = StopSpec { signal: Signal::TERM, grace: Duration::from_secs(600) };
    let (id1, id2) = (id(1), id(1));
    let (stopped, killed) = tokio::join!(b.engine.stop(&id1, Some(how)), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        b.engine.kill(&id2).await
    });
    assert_eq!(killed.unwrap().cause, Some(Cause::Killed));
    assert_eq!(stopped.unwrap().cause, Some(Cause::Killed));
    assert_eq!(begun.elapsed().as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_time_limit_ends_it() {
    let b = bench(FakeConfig::default()).await;
    let limited = moat_model::SandboxSpec { timeout: Some(Duration::from_secs(60)), ..spec("app", &[]) };
    b.engine.create(id(1), limited).await.unwrap();
    let begun = Instant::now();
    assert_eq!(ended(&b.engine, 1).await.cause, Some(Cause::TimedOut { limit: TimeLimit::Absolute }));
    assert_eq!(begun.elapsed().as_secs(), 60);
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn pause_stops_time_inside() {
    let b = bench(FakeConfig { run_for: Some(Duration::from_secs(10)), ..FakeConfig::default() }).await;
    b.engine.create(id(1), spec("app", &[])).await.unwrap();
    assert_eq!(b.engine.pause(&id(1), PauseTo::Memory).await.unwrap().phase, PhaseName::Paused);
    assert_eq!(b.engine.pause(&id(1), PauseTo::Memory).await.unwrap().phase, PhaseName::Paused, "already so");
    assert_eq!(b.engine.processes(&id(1)).await.unwrap_err().kind, ErrorKind::Conflict);
    assert_eq!(b.engine.usage(&id(1)).await.unwrap().memory_bytes, 1 << 20);
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(b.engine.resume(&id(1)).await.unwrap().phase, PhaseName::Running);
    let begun = Instant::now();
    assert_eq!(ended(&b.engine, 1).await.cause, Some(Cause::Exited));
    assert_eq!(begun.elapsed().as_secs(), 10);
    assert_eq!(b.engine.pause(&id(1), PauseTo::Memory).await.unwrap_err().kind, ErrorKind::Conflict);

    // One that is paused can be ended.
    b.engine.create(id(2), spec("app", &[])).await.unwrap();
    b.engine.pause(&id(2), PauseTo::Memory).await.unwrap();
    assert_eq!(b.engine.stop(&id(2), None).await.unwrap().exit, Some(Exit::signal(2)));
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn pause_is_refused_by_name_without_a_freezer() {
    let b = bench(FakeConfig { freezer: false, ..FakeConfig::default() }).await;
    b.engine.create(id(1), spec("app", &[])).await.unwrap();
    let error = b.engine.pause(&id(1), PauseTo::Memory).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(error.to_string().contains("driver fake"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn exec_goes_to_the_agent() {
    let b = bench(FakeConfig::default()).await;
    b.engine.create(id(1), spec("app", &[])).await.unwrap();
    let process = spec("sh", &["-c", "echo hi; exit 4"]).main.unwrap();
    let exec = ExecSpec { process, pty: None, stdin: false, timeout: None };
    let mut session = b.engine.exec(&id(1), &exec).await.unwrap();
    let mut said = Vec::new();
    while let Some(output) = session.output.recv().await {
        said.push(output);
    }
    assert_eq!(
        said,
        [
            ExecOutput::Data(StreamName::Stdout, "hi\n".into()),
            ExecOutput::Exited { exit: Exit::code(4), timed_out: false }
        ]
    );
    assert_eq!(b.engine.processes(&id(1)).await.unwrap().len(), 2);
    b.engine.kill(&id(1)).await.unwrap();
    assert_eq!(b.engine.exec(&id(1), &exec).await.unwrap_err().kind, ErrorKind::Conflict);
    assert_eq!(b.engine.exec(&id(9), &exec).await.unwrap_err().kind, ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_without_a_program_idles() {
    let b = bench(FakeConfig::default()).await;
    let view = b.engine.create(id(1), moat_model::SandboxSpec { main: None, ..spec("", &[]) }).await.unwrap();
    assert_eq!(view.phase, PhaseName::Running);
    let view = b.engine.stop(&id(1), None).await.unwrap();
    assert_eq!((view.cause, view.exit), (Some(Cause::Stopped), None));
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn ids_and_capacity_are_guarded() {
    let (world, outlet, dir) =
        (FakeWorld::new(FakeConfig::default()), Default::default(), tempfile::tempdir().unwrap());
    let config = crate::EngineConfig { sandboxes_max: 1, ..super::config(dir.path()) };
    let outlet: crate::testing::MemoryOutlet = outlet;
    let drivers = Registry::new(vec![world.driver()]);
    let (engine, found) = crate::Engine::open(config, drivers, std::sync::Arc::new(outlet)).await.unwrap();
    assert_eq!(found, []);
    engine.create(id(1), spec("app", &[])).await.unwrap();
    assert_eq!(engine.create(id(1), spec("app", &[])).await.unwrap_err().kind, ErrorKind::Conflict);
    assert_eq!(engine.create(id(2), spec("app", &[])).await.unwrap_err().kind, ErrorKind::Exhausted);
    engine.kill(&id(1)).await.unwrap();
    engine.create(id(2), spec("app", &[])).await.unwrap();
    assert_eq!(engine.list().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_block_of_user_ids_is_held_as_long_as_anything_else_is() {
    let b = bench(FakeConfig { release_failures: 3, ..FakeConfig::default() }).await;
    b.engine.create(id(1), spec("app", &[])).await.unwrap();
    b.engine.create(id(2), spec("app", &[])).await.unwrap();
    assert_eq!(b.engine.uids_taken(), 2);
    b.engine.clone().detach().await;
    let engine = open(&b.world, &b.outlet, b.dir.path()).await;
    assert_eq!(engine.uids_taken(), 2, "rebuilt from the records");
    let target = id(1);
    let killing = engine.kill(&target);
    let mut killing = std::pin::pin!(killing);
    assert!(tokio::time::timeout(Duration::from_millis(150), &mut killing).await.is_err(), "releases fail for a while");
    assert_eq!(engine.uids_taken(), 2);
    killing.await.unwrap();
    assert_eq!(engine.uids_taken(), 1);
    // The record of the ended one is still there, and must not free a block that is somebody else's by now.
    engine.create(id(3), spec("app", &[])).await.unwrap();
    engine.delete(&id(1)).await.unwrap();
    assert_eq!(engine.uids_taken(), 2);
}

#[test]
fn isolation_is_never_weakened() {
    let driver = |name, isolation| FakeWorld::new(FakeConfig { name, isolation, ..FakeConfig::default() }).driver();
    let all = Registry::new(vec![
        driver("vm", Isolation::Microvm),
        driver("jail", Isolation::Container),
        driver("bare", Isolation::Process),
    ]);
    let asking = |isolation| moat_model::SandboxSpec { isolation, ..spec("app", &[]) };
    for (asked, name) in [(Isolation::Process, "bare"), (Isolation::Container, "jail"), (Isolation::Microvm, "vm")] {
        assert_eq!(all.pick(&asking(asked)).unwrap().describe().name, name);
    }
    let some = Registry::new(vec![driver("vm", Isolation::Microvm), driver("bare", Isolation::Process)]);
    assert_eq!(some.pick(&asking(Isolation::Container)).unwrap().describe().name, "vm");
    let few = Registry::new(vec![driver("jail", Isolation::Container)]);
    for refused in [Isolation::Microvm, Isolation::Process] {
        let error = few.pick(&asking(refused)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(error.to_string().starts_with("isolation:"), "{error}");
    }
    let absent = Absent { driver: "vm".into(), isolation: Isolation::Microvm, why: "kvm: none".into() };
    let told = few.with_absent(vec![absent]);
    let error = told.pick(&asking(Isolation::Microvm)).unwrap_err().to_string();
    assert!(error.ends_with("; not vm: kvm: none"), "{error}");
    assert!(!told.pick(&asking(Isolation::Process)).unwrap_err().to_string().contains("kvm"));
    let kept = moat_model::spec::MachineSnapshot { dir: "/kept".into(), driver: "vm".to_owned() };
    let restored = moat_model::SandboxSpec { restore: Some(kept), ..asking(Isolation::Container) };
    assert_eq!(all.pick(&restored).unwrap().describe().name, "vm", "whoever kept it");
    let error = told.pick(&restored).unwrap_err().to_string();
    assert!(error.starts_with("restore: ") && error.ends_with("kvm: none"), "{error}");
    assert_eq!(told.offer(Isolation::Container).unwrap().shown(), "container");
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_outlives_the_daemon() {
    let b = bench(FakeConfig::default()).await;
    let script = "echo one; sleep 10; echo two; sleep 10; exit 5";
    b.engine.create(id(1), spec("sh", &["-c", script])).await.unwrap();
    b.engine.create(id(2), spec("app", &[])).await.unwrap();
    b.engine.pause(&id(2), PauseTo::Memory).await.unwrap();
    b.engine.clone().detach().await;
    assert_eq!(b.engine.stop(&id(1), None).await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(b.world.alive().len(), 2);

    let engine = open(&b.world, &b.outlet, b.dir.path()).await;
    assert_eq!(engine.get(&id(1)).unwrap().phase, PhaseName::Running);
    let mut paused = engine.watch(&id(2)).unwrap();
    paused.wait_for(|view| view.phase == PhaseName::Paused).await.unwrap();
    let view = ended(&engine, 1).await;
    assert_eq!((view.exit, view.cause), (Some(Exit::code(5)), Some(Cause::Exited)));
    assert_eq!(b.outlet.output(&id(1), StreamName::Stdout), "one\ntwo\n");
    assert_eq!(b.world.main_starts(&id(1)), 1);
    engine.delete(&id(2)).await.unwrap();
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn what_ended_while_nobody_watched_ends_with_its_true_status() {
    let b = bench(FakeConfig::default()).await;
    b.engine.create(id(1), spec("sh", &["-c", "sleep 5; echo late; exit 3"])).await.unwrap();
    b.engine.create(id(2), spec("app", &[])).await.unwrap();
    b.engine.clone().detach().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    b.world.lose_agent(&id(2));
    let engine = open(&b.world, &b.outlet, b.dir.path()).await;
    let view = ended(&engine, 1).await;
    assert_eq!((view.exit, view.cause), (Some(Exit::code(3)), Some(Cause::Exited)));
    assert_eq!(b.outlet.output(&id(1), StreamName::Stdout), "late\n");
    let view = ended(&engine, 2).await;
    assert_eq!((view.phase, view.exit), (PhaseName::Failed, Some(Exit::unknown())));
    assert!(matches!(view.cause, Some(Cause::Lost { .. })), "{view:?}");
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn explain_tells_it_in_order() {
    let b = bench(FakeConfig::default()).await;
    b.engine.create(id(1), spec("app", &[])).await.unwrap();
    b.engine.stop(&id(1), None).await.unwrap();
    let told: Vec<String> = b.engine.explain(&id(1)).await.unwrap().into_iter().map(|step| step.what).collect();
    assert_eq!(told.first().unwrap(), "accepted");
    assert!(told.iter().any(|step| step.starts_with("stop requested")), "{told:?}");
    assert_eq!(told.last().unwrap(), "stopped");
}
