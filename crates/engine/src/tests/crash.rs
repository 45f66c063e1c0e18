//! The daemon killed at every point of a life: before and after every write of a record, every effect in the world and
//! every word to the outlet. A new daemon on the same world must end with every sandbox adopted or released, nothing
//! left, no main process started twice, no output lost or doubled, and each end told exactly once.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use moat_agent::protocol::StreamName;
use moat_model::lifecycle::{PauseTo, PhaseName};
use moat_model::network::{NetworkMode, NetworkSpec};
use moat_model::spec::{MachineSnapshot, OnTimeout};
use moat_model::{Isolation, Resource, SandboxId, SandboxSpec};

use super::{claim, config, limits, network};
use crate::error::Result;
use crate::fabric::Attachment;
use crate::fake::{FakeConfig, FakeWorld};
use crate::record::{FileStore, Loaded, SandboxRecord, Store};
use crate::supervisor::{Engine, Registry};
use crate::testing::{self, MemoryOutlet, id, spec};

const CLAIMED_MEMORY: Option<u64> = Some(1 << 28);
const SCRIPT: &str = "echo one; sleep 1; echo two; sleep 1; exit 3";

/// A store whose writes are points at which the daemon may die.
#[derive(Debug)]
struct MortalStore {
    files: FileStore,
    world: FakeWorld,
    epoch: u64,
}

impl MortalStore {
    /// The process is gone at this instruction: unwinding is as near as a test can come, and everything the unwinding
    /// code touches belongs to a dead daemon already.
    fn point(&self) {
        if self.world.point(self.epoch) {
            std::panic::resume_unwind(Box::new("the daemon was killed"));
        }
    }
}

impl Store for MortalStore {
    fn load(&self) -> Result<Loaded> {
        self.files.load()
    }

    fn load_one(&self, id: &SandboxId) -> Result<SandboxRecord> {
        self.point();
        self.files.load_one(id)
    }

    fn save(&self, record: &SandboxRecord) -> Result<()> {
        self.point();
        self.files.save(record)?;
        self.point();
        Ok(())
    }

    fn remove(&self, id: &SandboxId) -> Result<()> {
        self.point();
        self.files.remove(id)?;
        self.point();
        Ok(())
    }
}

async fn open(world: &FakeWorld, outlet: &MemoryOutlet, dir: &Path) -> Engine {
    outlet.attach(world);
    world.restart();
    let files = FileStore::open(dir.join("run/sandboxes")).unwrap();
    let store = MortalStore { files, world: world.clone(), epoch: world.epoch() };
    let drivers = Registry::new(vec![world.driver()]).with_fabric(world.fabric());
    Engine::open_on(config(dir), drivers, Arc::new(outlet.clone()), Arc::new(store)).await.unwrap().0
}

/// One daemon's time: runs `work` until it is done or the daemon dies, then takes everything of the daemon away.
fn daemon(world: &FakeWorld, work: impl Future<Output = ()>) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let epoch = world.epoch();
    runtime.block_on(async {
        tokio::select! {
            biased;
            () = world.crashed_since(epoch) => false,
            () = work => true,
        }
    })
}

async fn settle(engine: &Engine) {
    for view in engine.list() {
        if let Some(mut views) = engine.watch(&view.id) {
            let settled = |view: &moat_model::lifecycle::SandboxView| view.phase.is_terminal();
            tokio::time::timeout(Duration::from_secs(300), views.wait_for(settled)).await.unwrap().unwrap();
        }
    }
}

/// What is done with an engine before the next daemon takes over.
#[derive(Clone, Copy)]
struct Story {
    name: &'static str,
    run: fn(Engine) -> std::pin::Pin<Box<dyn Future<Output = ()>>>,
    /// The program ends by itself, with everything said and status 3.
    by_itself: bool,
    /// What it says, and how often it is started for that.
    says: (&'static str, u32),
}

const SAYS: (&str, u32) = ("one\ntwo\n", 1);

const LIFE: Story = Story { name: "runs to its end", run: runs_to_its_end, by_itself: true, says: SAYS };
const STOP: Story = Story { name: "is stopped", run: is_stopped, by_itself: false, says: SAYS };
const PAUSE: Story = Story { name: "is paused and deleted", run: is_paused_and_deleted, by_itself: false, says: SAYS };
const CAPTURE: Story = Story { name: "is captured", run: is_captured, by_itself: false, says: SAYS };
const CLAIM: Story = Story { name: "is claimed", run: is_claimed, by_itself: false, says: SAYS };
const EXPIRY: Story = Story { name: "is paused for its time limit", run: expires, by_itself: false, says: SAYS };
const WIRED: Story = Story { name: "runs to its end with a network", run: runs_wired, by_itself: true, says: SAYS };
const WIRED_CLAIM: Story =
    Story { name: "is claimed with a network", run: is_claimed_wired, by_itself: false, says: SAYS };
const REWIRE: Story = Story { name: "gets other networks", run: is_rewired, by_itself: false, says: SAYS };
const WIRED_FAILURE: Story =
    Story { name: "fails to start with a network", run: fails_wired, by_itself: false, says: SAYS };
const FAILURE: Story = Story { name: "fails to start", run: fails_to_start, by_itself: false, says: SAYS };

const STOWED: Story = Story { name: "is paused to disk", run: is_stowed, by_itself: true, says: SAYS };
const KEPT: Story = Story { name: "is kept as a machine", run: is_kept, by_itself: false, says: SAYS };
const RESTORED: Story = Story { name: "is made from a machine", run: is_restored, by_itself: true, says: ("two\n", 0) };

/// Paused to disk from memory and from life, with a network.
fn is_stowed(engine: Engine) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        drop(engine.create(id(1), network::wired(spec("sh", &["-c", SCRIPT]))).await);
        drop(engine.pause(&id(1), PauseTo::Disk).await);
        drop(engine.resume(&id(1)).await);
        drop(engine.pause(&id(1), PauseTo::Memory).await);
        drop(engine.pause(&id(1), PauseTo::Disk).await);
        drop(engine.resume(&id(1)).await);
        settle(&engine).await;
    })
}

/// Kept while running and while paused, and ended where it lies on disk.
fn is_kept(engine: Engine) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        let dir = tempfile::tempdir().unwrap();
        drop(engine.create(id(1), spec("app", &[])).await);
        drop(engine.snapshot(&id(1), dir.path().join("one")).await);
        drop(engine.pause(&id(1), PauseTo::Memory).await);
        drop(engine.snapshot(&id(1), dir.path().join("two")).await);
        drop(engine.pause(&id(1), PauseTo::Disk).await);
        drop(engine.delete(&id(1)).await);
    })
}

fn is_restored(engine: Engine) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        let dir = tempfile::tempdir().unwrap();
        drop(engine.create(id(2), spec("sh", &["-c", SCRIPT])).await);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let machine = MachineSnapshot { dir: dir.path().join("machine"), driver: "fake".to_owned() };
        drop(engine.snapshot(&id(2), machine.dir.clone()).await);
        drop(engine.kill(&id(2)).await);
        let asked = network::wired(spec("sh", &["-c", SCRIPT]));
        drop(engine.create(id(1), SandboxSpec { restore: Some(machine), ..asked }).await);
        settle(&engine).await;
    })
}

fn runs_to_its_end(engine: Engine) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        drop(engine.create(id(1), spec("sh", &["-c", SCRIPT])).await);
        settle(&engine).await;
    })
}

fn is_stopped(engine: Engine) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        drop(engine.create(id(1), spec("sh", &["-c", "echo one; trap '' INT; sleep 1000"])).await);
        drop(engine.stop(&id(1), None).await);
    })
}

fn is_paused_and_deleted(engine: Engine) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        drop(engine.create(id(1), spec("app", &[])).await);
        drop(engine.pause(&id(1), PauseTo::Memory).await);
        drop(engine.resume(&id(1)).await);
        drop(engine.pause(&id(1), PauseTo::Memory).await);
        drop(engine.delete(&id(1)).await);
    })
}

/// Captured while running and while paused, into files of the test's own directory.
fn is_captured(engine: Engine) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        let dir = tempfile::tempdir().unwrap();
        drop(engine.create(id(1), spec("app", &[])).await);
        drop(engine.capture(&id(1), dir.path().join("one")).await);
        drop(engine.pause(&id(1), PauseTo::Memory).await);
        drop(engine.capture(&id(1), dir.path().join("two")).await);
        drop(engine.delete(&id(1)).await);
    })
}

fn is_claimed(engine: Engine) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        drop(engine.create(id(1), claim::member()).await);
        drop(engine.claim(&id(1), claim::claim(CLAIMED_MEMORY)).await);
        drop(engine.processes(&id(1)).await);
        drop(engine.delete(&id(1)).await);
    })
}

fn runs_wired(engine: Engine) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        drop(engine.create(id(1), network::wired(spec("sh", &["-c", SCRIPT]))).await);
        settle(&engine).await;
    })
}

fn is_claimed_wired(engine: Engine) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        drop(engine.create(id(1), network::wired(claim::member())).await);
        drop(engine.claim(&id(1), network::claim_with(CLAIMED_MEMORY, network::stricter())).await);
        drop(engine.processes(&id(1)).await);
        drop(engine.delete(&id(1)).await);
    })
}

/// The networks one gets in turn that is rewired.
fn in_turn() -> [NetworkSpec; 3] {
    [NetworkSpec::new(NetworkMode::Internal), network::stricter(), NetworkSpec::new(NetworkMode::Internet)]
}

fn is_rewired(engine: Engine) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        let [_, second, third] = in_turn();
        drop(engine.create(id(1), network::wired(spec("app", &[]))).await);
        drop(engine.rewire(&id(1), second).await);
        drop(engine.pause(&id(1), PauseTo::Memory).await);
        drop(engine.rewire(&id(1), third).await);
        drop(engine.resume(&id(1)).await);
        drop(engine.delete(&id(1)).await);
    })
}

fn fails_wired(engine: Engine) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        drop(engine.create(id(1), network::wired(spec("missing", &[]))).await);
    })
}

/// The rules in force become those that the record says.
async fn check_network(engine: &Engine, world: &FakeWorld, what: &str) {
    let agree = async {
        while engine.get(&id(1)).is_some_and(|view| matches!(view.phase, PhaseName::Running | PhaseName::Paused)) {
            let spec = engine.spec(&id(1)).unwrap();
            let wanted =
                spec.network.is_wired().then(|| Attachment::of(&testing::place(&id(1)), Isolation::Container, &spec));
            if world.rules(&id(1)) == wanted {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let agreed = tokio::time::timeout(Duration::from_secs(30), agree).await;
    assert!(
        agreed.is_ok(),
        "{what}: {:?} are in force, and asked for is {:?}",
        world.rules(&id(1)),
        engine.spec(&id(1))
    );
}

/// Whatever came between: rules that were given up never came back, and a member had none but its claimer's.
fn check_rules_seen(world: &FakeWorld, what: &str) {
    let seen: Vec<Attachment> = world.rules_seen(&id(1)).into_iter().filter(|rules| !rules.pooled).collect();
    let steps = in_turn();
    let at: Vec<usize> = seen.iter().map(|rules| steps.iter().position(|step| *step == rules.spec).unwrap()).collect();
    assert!(at.is_sorted(), "{what}: {at:?}");
    if world.rules_seen(&id(1)).first().is_some_and(|first| first.namespace != claim::claim(None).namespace) {
        let claimed = seen.iter().filter(|rules| rules.namespace == claim::claim(None).namespace);
        assert!(claimed.clone().all(|rules| rules.spec == network::stricter()), "{what}: {seen:?}");
    }
    assert_eq!(world.network_wrongs(), [] as [String; 0], "{what}");
    assert_eq!(world.attached(), [], "{what}");
}

fn expires(engine: Engine) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        let asked = limits::idler(Some(5), None, OnTimeout::Pause);
        if engine.create(id(1), asked).await.is_ok() {
            let mut views = engine.watch(&id(1)).unwrap();
            drop(views.wait_for(|view| view.phase == PhaseName::Paused).await);
            drop(engine.resume(&id(1)).await);
        }
        drop(engine.delete(&id(1)).await);
    })
}

fn fails_to_start(engine: Engine) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        drop(engine.create(id(1), spec("missing", &[])).await);
    })
}

/// One that is somebody's has the limits it was claimed with, as soon as it may be used.
async fn check_claimed(engine: &Engine, world: &FakeWorld, what: &str) {
    let Some(mut views) = engine.watch(&id(1)) else { return };
    if !views.borrow().origin.from_pool {
        return;
    }
    let view = views.wait_for(|view| view.ready_at.is_some() || view.phase.is_terminal()).await.unwrap().clone();
    if view.phase == PhaseName::Running {
        assert_eq!(world.limits(&id(1)).and_then(|limits| limits.memory_bytes), CLAIMED_MEMORY, "{what}: {view:?}");
    }
}

/// Lets it go on, from wherever it comes to a stand.
async fn resumed(engine: &Engine, id: &SandboxId) {
    while engine.get(id).is_some_and(|view| matches!(view.phase, PhaseName::Running | PhaseName::Paused)) {
        // Refused while it is being paused.
        if engine.resume(id).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Runs `story` with a daemon that dies at point `n`, then daemons that die at the points in `later`, then one that
/// lives. False: the story has no point `n`.
fn check_crash(story: Story, fake: &FakeConfig, n: u64, later: &[u64]) -> bool {
    let world = FakeWorld::new(fake.clone());
    let outlet = MemoryOutlet::default();
    let dir = tempfile::tempdir().unwrap();
    let what = format!("{}, killed at {n}, then at {later:?}", story.name);
    world.crash_at(n);
    if daemon(&world, async { (story.run)(open(&world, &outlet, dir.path()).await).await }) {
        return false;
    }
    for next in later {
        world.crash_at(*next);
        daemon(&world, async { settle(&open(&world, &outlet, dir.path()).await).await });
        // One that came to the end of its work before that point dies now.
        world.crash();
    }
    let lived = daemon(&world, async {
        let engine = open(&world, &outlet, dir.path()).await;
        // Adopted or released: whatever is there can be brought to an end.
        let limit = Duration::from_secs(30);
        for view in engine.list() {
            let id = view.id.clone();
            let mut views = engine.watch(&id).unwrap();
            let known = views.wait_for(|view| view.phase != moat_model::lifecycle::PhaseName::Recovering);
            tokio::time::timeout(limit, known).await.unwrap_or_else(|_| panic!("{what}: {view:?} stays")).unwrap();
            if story.by_itself {
                // A pause that was asked for is gone on with; who asked has died.
                tokio::time::timeout(limit, resumed(&engine, &id)).await.unwrap();
                settle(&engine).await;
            }
            check_claimed(&engine, &world, &what).await;
            check_network(&engine, &world, &what).await;
            tokio::time::timeout(limit, engine.delete(&id)).await.unwrap().unwrap();
        }
        assert_eq!(engine.uids_taken(), 0, "{what}");
        assert_eq!(world.places(), [], "{what}");
    });
    assert!(lived, "{what}");
    assert_eq!(world.resources(), [] as [Resource; 0], "{what}");
    assert_eq!(world.alive(), [] as [SandboxId; 0], "{what}");
    assert!(world.main_starts(&id(1)) <= story.says.1, "{what}");
    check_rules_seen(&world, &what);
    let left: Vec<_> = std::fs::read_dir(dir.path().join("run/sandboxes")).unwrap().collect();
    assert!(left.is_empty(), "{what}: {left:?}");

    let ends = outlet.ends(&id(1));
    let facts = outlet.facts(&id(1));
    assert!(ends.len() <= 1, "{what}: {ends:?}");
    assert_eq!(ends.is_empty(), facts.is_empty(), "{what}: told of but not ended: {facts:?}");
    if let (Some(end), true) = (ends.first(), story.by_itself) {
        let said = outlet.output(&id(1), StreamName::Stdout);
        if world.main_starts(&id(1)) == story.says.1 && end.started_at.is_some() {
            assert_eq!(end.exit.map(|exit| exit.code), Some(3), "{what}: {end:?}");
            assert_eq!(said, story.says.0, "{what}");
        }
    }
    true
}

/// Kills the daemon at every point there is. Returns how many there were.
fn check_every_point(story: Story, fake: &FakeConfig) -> u64 {
    let mut n = 0;
    while check_crash(story, fake, n, &[]) {
        n += 1;
        assert!(n < 500, "{} never ends", story.name);
    }
    n
}

#[test]
fn killed_at_every_point_of_a_life() {
    let points = check_every_point(LIFE, &FakeConfig::default());
    assert!(points > 40, "only {points} points");
}

#[test]
fn killed_at_every_point_of_a_stop() {
    check_every_point(STOP, &FakeConfig::default());
}

#[test]
fn killed_at_every_point_of_a_pause_and_a_delete() {
    check_every_point(PAUSE, &FakeConfig::default());
}

#[test]
fn killed_at_every_point_of_two_captures() {
    check_every_point(CAPTURE, &FakeConfig::default());
}

#[test]
fn killed_at_every_point_of_pauses_to_disk() {
    let points = check_every_point(STOWED, &FakeConfig::default());
    assert!(points > 100, "only {points} points");
    check_every_point(STOWED, &FakeConfig { stow_takes: Duration::from_secs(1), ..FakeConfig::default() });
}

#[test]
fn killed_at_every_point_of_pauses_to_disk_that_fail() {
    let oops = || Some("oops".to_owned());
    check_every_point(STOWED, &FakeConfig { stow_error: oops(), ..FakeConfig::default() });
    check_every_point(KEPT, &FakeConfig { unstow_error: oops(), capture_error: oops(), ..FakeConfig::default() });
    check_every_point(KEPT, &FakeConfig { release_failures: 1, kill_failures: 1, ..FakeConfig::default() });
}

#[test]
fn killed_at_every_point_of_two_machines_that_are_kept() {
    check_every_point(KEPT, &FakeConfig::default());
}

#[test]
fn killed_at_every_point_of_one_made_from_a_machine() {
    check_every_point(RESTORED, &FakeConfig::default());
}

#[test]
fn killed_at_every_point_of_a_claim() {
    check_every_point(CLAIM, &FakeConfig::default());
}

#[test]
fn killed_at_every_point_of_a_time_limit_that_pauses() {
    check_every_point(EXPIRY, &FakeConfig::default());
}

#[test]
fn killed_at_every_point_of_a_failed_start() {
    check_every_point(FAILURE, &FakeConfig::default());
}

#[test]
fn killed_at_every_point_of_a_life_with_a_network() {
    let points = check_every_point(WIRED, &FakeConfig::default());
    assert!(points > 48, "only {points} points");
    check_every_point(WIRED_FAILURE, &FakeConfig::default());
}

#[test]
fn killed_at_every_point_of_a_claim_with_a_network() {
    check_every_point(WIRED_CLAIM, &FakeConfig::default());
}

#[test]
fn killed_at_every_point_of_changes_of_the_network() {
    check_every_point(REWIRE, &FakeConfig::default());
    check_every_point(REWIRE, &FakeConfig { change_takes: Duration::from_secs(1), ..FakeConfig::default() });
}

#[test]
fn killed_at_every_point_while_networks_fail() {
    let busy = FakeConfig { detach_failures: 2, kill_failures: 1, ..FakeConfig::default() };
    check_every_point(WIRED, &busy);
    check_every_point(WIRED_CLAIM, &busy);
    check_every_point(WIRED, &FakeConfig { attach_error: Some("oops".into()), ..FakeConfig::default() });
    check_every_point(WIRED_CLAIM, &FakeConfig { change_error: Some("oops".into()), ..FakeConfig::default() });
}

#[test]
fn killed_at_every_point_while_releases_fail() {
    let fake = FakeConfig { release_failures: 2, kill_failures: 1, ..FakeConfig::default() };
    check_every_point(STOP, &fake);
}

#[test]
fn killed_again_while_recovering() {
    let mut pairs = 0;
    for n in (0..500).step_by(3) {
        let mut any = false;
        for again in (0..40).step_by(4) {
            any |= check_crash(LIFE, &FakeConfig::default(), n, &[again, again / 2]);
            pairs += 1;
        }
        if !any {
            break;
        }
    }
    assert!(pairs > 100);
}
