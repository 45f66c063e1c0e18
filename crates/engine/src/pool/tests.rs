//! Pools on the fake driver, with paused time.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use moat_model::lifecycle::PhaseName;
use moat_model::spec::{ClaimSpec, MachineSnapshot, OnTimeout, Owner, ProcessDefaults, Resources};
use moat_model::{ErrorKind, Namespace, SandboxId, SandboxSpec};
use tokio::time::{sleep, timeout};

use super::{Pool, PoolConfig, Shape, ShapeStatus};
use crate::fake::{FakeConfig, FakeStep, FakeWorld};
use crate::supervisor::{Engine, EngineConfig, Registry};
use crate::testing::{MemoryOutlet, spec};

struct Bench {
    world: FakeWorld,
    engine: Engine,
    pool: Pool,
    outlet: MemoryOutlet,
    dir: tempfile::TempDir,
}

async fn engine(world: &FakeWorld, outlet: &MemoryOutlet, dir: &Path) -> Engine {
    let config = EngineConfig::new(dir.join("run"), dir.join("data"));
    Engine::open(config, Registry::new(vec![world.driver()]), Arc::new(outlet.clone())).await.unwrap().0
}

async fn bench(fake: FakeConfig) -> Bench {
    let (world, outlet, dir) = (FakeWorld::new(fake), MemoryOutlet::default(), tempfile::tempdir().unwrap());
    let engine = engine(&world, &outlet, dir.path()).await;
    let pool = Pool::open(engine.clone(), PoolConfig::default());
    Bench { world, engine, pool, outlet, dir }
}

fn shape(key: &str, version: u64, (min_ready, max_ready): (usize, usize)) -> Shape {
    let spec = SandboxSpec { main: None, ..spec("", &[]) };
    Shape { key: key.to_owned(), version, spec, machine: None, min_ready, max_ready }
}

fn claim() -> ClaimSpec {
    ClaimSpec {
        namespace: Namespace::default_namespace(),
        owner: Owner::Api,
        program: None,
        labels: [("mine".to_owned(), "yes".to_owned())].into(),
        resources: Resources::default(),
        network: None,
        ingress: moat_model::spec::IngressSpec::default(),
        timeout: None,
        idle_timeout: None,
        on_timeout: OnTimeout::Kill,
        process: ProcessDefaults::default(),
    }
}

fn members(engine: &Engine) -> BTreeSet<SandboxId> {
    engine.list().into_iter().filter(|view| view.origin.owner == Owner::Pool).map(|view| view.id).collect()
}

/// Waits until the shape fares so.
async fn fares(pool: &Pool, key: &str, so: impl Fn(&ShapeStatus) -> bool) -> ShapeStatus {
    let looking = async {
        loop {
            match pool.status(key) {
                Some(status) if so(&status) => return status,
                _ => sleep(Duration::from_millis(10)).await,
            }
        }
    };
    timeout(Duration::from_secs(3000), looking).await.unwrap_or_else(|_| panic!("{:?}", pool.status(key)))
}

#[tokio::test(start_paused = true)]
async fn members_stand_ready_are_handed_out_oldest_first_and_replaced() {
    let b = bench(FakeConfig::default()).await;
    b.pool.set_shapes(vec![shape("py", 1, (3, 3))]).unwrap();
    fares(&b.pool, "py", |s| s.ready == 3 && s.starting == 0).await;
    let oldest = b.engine.list().into_iter().min_by_key(|view| (view.created_at, view.id.clone())).unwrap().id;
    let taken = b.pool.take("py", 1).unwrap();
    assert_eq!(b.engine.get(&taken).unwrap().created_at, b.engine.get(&oldest).unwrap().created_at);
    b.engine.claim(&taken, claim()).await.unwrap();
    let status = fares(&b.pool, "py", |s| s.ready == 3).await;
    assert_eq!((status.hits, status.misses), (1, 0));
    assert_eq!(b.engine.list().len(), 4);
    assert!(!members(&b.engine).contains(&taken));

    assert_eq!(b.pool.take("py", 2), None, "another version");
    assert_eq!(b.pool.take("js", 1), None, "another shape");
    // Nobody is handed out twice, and an empty shelf says so.
    let all: BTreeSet<SandboxId> = std::iter::from_fn(|| b.pool.take("py", 1)).collect();
    assert_eq!(all.len(), 3);
    assert_eq!(b.pool.status("py").unwrap().misses, 1);
    b.engine.delete(&taken).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn demand_grows_the_shelf_and_a_lull_shrinks_it() {
    let b = bench(FakeConfig::default()).await;
    b.pool.set_shapes(vec![shape("py", 1, (1, 4))]).unwrap();
    fares(&b.pool, "py", |s| s.ready == 1).await;
    for _ in 0..9 {
        if let Some(id) = b.pool.take("py", 1) {
            b.engine.claim(&id, claim()).await.unwrap();
        }
    }
    fares(&b.pool, "py", |s| s.ready == 4).await;
    sleep(Duration::from_secs(300)).await;
    assert_eq!(b.pool.status("py").unwrap().ready, 4, "not before max_idle");
    fares(&b.pool, "py", |s| s.ready == 1).await;
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(b.pool.status("py").unwrap().ready, 1);
    assert_eq!(members(&b.engine).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn starts_come_a_few_at_a_time_and_failures_are_told_and_waited_after() {
    let b = bench(FakeConfig { hang_at: Some(FakeStep::Start), ..FakeConfig::default() }).await;
    b.pool.set_shapes(vec![shape("py", 1, (8, 8))]).unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(b.pool.status("py").unwrap().starting, 2);
    assert_eq!(members(&b.engine).len(), 2);
    b.world.configure(|fake| (fake.hang_at, fake.create_error) = (None, Some("no space".into())));
    let status = fares(&b.pool, "py", |s| s.problem.as_deref().is_some_and(|p| p.contains("no space"))).await;
    assert_eq!(status.ready, 0);
    let before = b.world.points();
    sleep(Duration::from_secs(600)).await;
    let tries = (b.world.points() - before) / 4;
    assert!((5..40).contains(&tries), "{tries} tries in ten minutes");
    b.world.configure(|fake| fake.create_error = None);
    let status = fares(&b.pool, "py", |s| s.ready == 8).await;
    assert_eq!(status.problem, None);
}

#[tokio::test(start_paused = true)]
async fn stale_and_dead_members_are_never_handed_out() {
    let b = bench(FakeConfig::default()).await;
    b.pool.set_shapes(vec![shape("py", 1, (2, 2)), shape("js", 1, (1, 1))]).unwrap();
    fares(&b.pool, "py", |s| s.ready == 2).await;
    let first = members(&b.engine);
    // A new version of one shape, and the other gone.
    b.pool.set_shapes(vec![shape("py", 2, (2, 2))]).unwrap();
    assert_eq!(b.pool.take("py", 1), None);
    assert_eq!(b.pool.take("py", 2), None, "those on the shelf are of the old version");
    fares(&b.pool, "py", |s| s.ready == 2).await;
    sleep(Duration::from_secs(20)).await;
    assert!(members(&b.engine).is_disjoint(&first));
    assert_eq!(members(&b.engine).len(), 2);
    // One that died on the shelf.
    let dead = members(&b.engine).into_iter().min_by_key(|id| b.engine.get(id).unwrap().created_at).unwrap();
    b.world.lose_agent(&dead);
    let mut views = b.engine.watch(&dead).unwrap();
    views.wait_for(|view| view.phase.is_terminal()).await.unwrap();
    assert_ne!(b.pool.take("py", 2).unwrap(), dead);
    sleep(Duration::from_secs(20)).await;
    assert!(b.engine.get(&dead).is_none(), "and its record is forgotten");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_taken_and_never_claimed_does_not_stand_unseen() {
    let b = bench(FakeConfig::default()).await;
    b.pool.set_shapes(vec![shape("py", 1, (1, 1))]).unwrap();
    fares(&b.pool, "py", |s| s.ready == 1).await;
    let taken = b.pool.take("py", 1).unwrap();
    fares(&b.pool, "py", |s| s.ready == 1).await;
    assert_eq!(b.engine.get(&taken).unwrap().phase, PhaseName::Running);
    sleep(Duration::from_secs(120)).await;
    // Taken up again, as what it still is: a member nobody has. One of the two is more than wanted.
    assert_eq!(members(&b.engine).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn members_outlive_the_daemon_and_are_taken_up_again() {
    let b = bench(FakeConfig::default()).await;
    b.pool.set_shapes(vec![shape("py", 1, (3, 3)), shape("js", 1, (1, 1))]).unwrap();
    fares(&b.pool, "py", |s| s.ready == 3).await;
    fares(&b.pool, "js", |s| s.ready == 1).await;
    let (before, Bench { world, engine: old, pool, outlet, dir }) = (members(&b.engine), b);
    drop(pool);
    old.detach().await;

    let engine = engine(&world, &outlet, dir.path()).await;
    let pool = Pool::open(engine.clone(), PoolConfig::default());
    sleep(Duration::from_secs(60)).await;
    assert_eq!(members(&engine), before, "nothing happens before the shapes are known");
    pool.set_shapes(vec![shape("py", 1, (3, 3))]).unwrap();
    fares(&pool, "py", |s| s.ready == 3).await;
    sleep(Duration::from_secs(20)).await;
    let after = members(&engine);
    assert_eq!(after.len(), 3, "that of the shape that is gone is deleted");
    assert!(after.is_subset(&before), "none was started anew");
    assert!(before.contains(&pool.take("py", 1).unwrap()));

    pool.empty().await;
    assert_eq!(members(&engine).len(), 0);
    assert_eq!((world.resources(), world.alive()), (vec![], vec![]));
}

#[tokio::test(start_paused = true)]
async fn shapes_that_cannot_be_kept_are_refused() {
    let b = bench(FakeConfig::default()).await;
    let twice = b.pool.set_shapes(vec![shape("py", 1, (1, 1)), shape("py", 2, (1, 1))]).unwrap_err();
    assert_eq!(twice.kind, ErrorKind::InvalidSpec);
    let main = Shape { spec: spec("app", &[]), ..shape("py", 1, (1, 1)) };
    assert_eq!(b.pool.set_shapes(vec![main]).unwrap_err().kind, ErrorKind::InvalidSpec);
    assert_eq!(b.pool.statuses(), []);
}

#[tokio::test(start_paused = true)]
async fn what_is_lent_is_nobody_elses_and_comes_back() {
    let b = bench(FakeConfig::default()).await;
    b.pool.set_shapes(vec![shape("py", 1, (1, 1))]).unwrap();
    fares(&b.pool, "py", |s| s.ready == 1).await;
    let id = b.pool.lend("py", 1).unwrap();
    assert_eq!((b.pool.lend("py", 1), b.pool.take("py", 1)), (None, None));
    sleep(Duration::from_secs(20)).await;
    assert_eq!(members(&b.engine), BTreeSet::from([id.clone()]), "none is started in its place");
    b.pool.give_back(&id);
    assert_eq!(b.pool.take("py", 1), Some(id));
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_nothing_can_be_made_of_is_dropped_and_members_start_from_nothing() {
    let b = bench(FakeConfig::default()).await;
    let machine = MachineSnapshot { dir: "/nowhere".into(), driver: "fake".to_owned() };
    let broken = || Shape { machine: Some(machine.clone()), ..shape("py", 1, (2, 2)) };
    b.pool.set_shapes(vec![broken()]).unwrap();
    let status = fares(&b.pool, "py", |s| s.ready == 2 && s.starting == 0).await;
    assert!(status.broken.is_some() && status.problem.is_none(), "{status:?}");
    // Named again it is not tried again, until somebody has named none.
    b.pool.set_shapes(vec![broken()]).unwrap();
    assert!(b.pool.status("py").unwrap().broken.is_some());
    b.pool.set_shapes(vec![shape("py", 1, (2, 2))]).unwrap();
    assert_eq!(b.pool.status("py").unwrap().broken, None);
    assert_eq!(members(&b.engine).len(), 2, "members stay");
}
