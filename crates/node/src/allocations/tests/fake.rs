use moat_engine::fake::FakeConfig;
use moat_model::job::TaskPhase;

use super::*;

fn world() -> FakeWorld {
    FakeWorld::new(FakeConfig::default())
}

#[tokio::test]
async fn j01_a_service_is_started_again_until_its_restarts_are_used_up() {
    let (dir, world) = (tempfile::tempdir().unwrap(), world());
    let bed = Bed::fake(dir.path(), &world, false).await;
    let job = job(JobType::Service, group(vec![sh("main", "echo once; exit 3")]));
    bed.allocations.assign(assignment(1, &job)).await.unwrap();
    let view = bed.until(1, ClientStatus::Failed).await;
    let task = &view.status.tasks["main"];
    assert_eq!((task.restarts, task.failed, task.phase), (2, true, TaskPhase::Dead));
    assert_eq!(task.exit.unwrap().code, 3);
    let kinds: Vec<&str> = task.events.iter().map(|event| event.kind.as_str()).collect();
    assert!(kinds.ends_with(&["Terminated", "Not Restarting"]), "{kinds:?}");
    let log = async || (bed.log(1, "main").await == "once\nonce\nonce\n").then_some(());
    wait_until(SOON, "each start wrote its line", log).await.unwrap();
    wait_until(SOON, "no sandbox is left", async || bed.engine.list().is_empty().then_some(())).await.unwrap();
    bed.allocations.forget(&alloc_id(1)).await.unwrap();
    assert!(!dir.path().join("alloc").join(alloc_id(1).as_str()).exists());
    bed.close().await;
}

#[tokio::test]
async fn assignments_are_taken_once_and_by_generation() {
    let (dir, world) = (tempfile::tempdir().unwrap(), world());
    let bed = Bed::fake(dir.path(), &world, false).await;
    let job = job(JobType::Service, group(vec![sh("main", "sleep 1000")]));
    let wanted = assignment(1, &job);
    let mut statuses = bed.allocations.statuses();
    for _ in 0..3 {
        bed.allocations.assign(wanted.clone()).await.unwrap();
    }
    let view = bed.until(1, ClientStatus::Running).await;
    assert_eq!(world.alive().len(), 1);
    let told = statuses.next().await;
    assert_eq!(told.len(), 1, "the latest only");
    let stop = stopped(&wanted, false);
    bed.allocations.assign(stop.clone()).await.unwrap();
    bed.until(1, ClientStatus::Complete).await;
    bed.allocations.assign(wanted).await.unwrap();
    assert_eq!(bed.allocations.get(&alloc_id(1)).unwrap().status.generation, 2, "older ones are ignored");
    assert!(bed.allocations.forget(&alloc_id(9)).await.is_ok());
    assert_eq!(view.status.generation, 1);
    // One that was never here and is not wanted any more ends without having begun.
    bed.allocations.assign(stopped(&assignment(2, &job), false)).await.unwrap();
    bed.until(2, ClientStatus::Complete).await;
    assert!(world.alive().is_empty());
    bed.close().await;
}

#[tokio::test]
async fn behind_the_fence_all_stands_still_until_it_is_known_what_is_wanted() {
    let (dir, world) = (tempfile::tempdir().unwrap(), world());
    let bed = Bed::fake(dir.path(), &world, false).await;
    let replaceable = job(JobType::Service, group(vec![sh("main", "sleep 1000")]));
    let mut stays = group(vec![sh("main", "sleep 1000")]);
    stays.disconnect.replace = false;
    let stays = job(JobType::Service, stays);
    for (n, job) in [(1, &replaceable), (2, &replaceable), (3, &stays)] {
        bed.allocations.assign(assignment(n, job)).await.unwrap();
        bed.until(n, ClientStatus::Running).await;
    }
    bed.allocations.fence().await.unwrap();
    assert_eq!(world.frozen().len(), 2, "one is never replaced, and runs on");
    bed.allocations.assign(assignment(4, &replaceable)).await.unwrap();
    bed.allocations
        .confirm(&[assignment(1, &replaceable), assignment(3, &stays), assignment(4, &replaceable)])
        .await
        .unwrap();
    bed.until(2, ClientStatus::Complete).await;
    bed.until(4, ClientStatus::Running).await;
    assert!(world.frozen().is_empty());
    for n in [1, 3] {
        let view = bed.until(n, ClientStatus::Running).await;
        assert_eq!(view.status.tasks["main"].restarts, 0, "{n} went on where it was");
    }
    assert_eq!(world.alive().len(), 3);
    bed.close().await;
}

#[tokio::test]
async fn what_cannot_be_frozen_is_stopped_and_starts_when_it_may() {
    let dir = tempfile::tempdir().unwrap();
    let world = FakeWorld::new(FakeConfig { freezer: false, ..FakeConfig::default() });
    let bed = Bed::fake(dir.path(), &world, false).await;
    let job = job(JobType::Service, group(vec![sh("main", "sleep 1000")]));
    bed.allocations.assign(assignment(1, &job)).await.unwrap();
    bed.until(1, ClientStatus::Running).await;
    bed.allocations.fence().await.unwrap();
    wait_until(SOON, "nothing runs", async || world.alive().is_empty().then_some(())).await.unwrap();
    bed.allocations.confirm(&[assignment(1, &job)]).await.unwrap();
    let view = bed.when(1, "it runs again", |view| view.status.tasks["main"].restarts == 1).await;
    assert!(!view.status.tasks["main"].failed);
    bed.close().await;
}

#[tokio::test]
async fn a_restart_finds_what_runs_again_and_what_ended_meanwhile_once() {
    let (dir, world) = (tempfile::tempdir().unwrap(), world());
    let bed = Bed::fake(dir.path(), &world, false).await;
    let service = job(JobType::Service, group(vec![sh("main", "sleep 1000")]));
    for n in 1..=3 {
        bed.allocations.assign(assignment(n, &service)).await.unwrap();
    }
    let mut before = BTreeMap::new();
    for n in 1..=3 {
        before.insert(n, bed.until(n, ClientStatus::Running).await.status.tasks["main"].clone());
    }
    bed.close().await;
    let ended = before[&2].sandbox.clone().unwrap();
    world.end_main(&ended, moat_model::Exit::code(9));
    let bed = Bed::fake(dir.path(), &world, false).await;
    let again = bed.when(2, "its end was seen", |view| view.status.tasks["main"].restarts == 1).await;
    assert_eq!(again.status.tasks["main"].exit.unwrap().code, 9);
    for n in [1, 3] {
        let view = bed.until(n, ClientStatus::Running).await;
        assert_eq!(view.status.tasks["main"].sandbox, before[&n].sandbox, "the same sandbox");
        assert_eq!(view.status.tasks["main"].restarts, 0);
    }
    bed.until(2, ClientStatus::Running).await;
    assert_eq!(world.alive().len(), 3);
    bed.close().await;
    // The same behind the fence: nothing moves before it is confirmed.
    let bed = Bed::fake(dir.path(), &world, true).await;
    wait_until(SOON, "all are frozen", async || (world.frozen().len() == 3).then_some(())).await.unwrap();
    bed.allocations.confirm(&[assignment(1, &service)]).await.unwrap();
    for n in [2, 3] {
        bed.until(n, ClientStatus::Complete).await;
    }
    wait_until(SOON, "one goes on", async || (world.alive().len() == 1 && world.frozen().is_empty()).then_some(()))
        .await
        .unwrap();
    bed.close().await;
}

/// As often as a node is stopped: that is no failure of what runs there.
#[tokio::test]
async fn a_node_that_leaves_nothing_running_ends_its_tasks_and_the_next_daemon_begins_them_anew() {
    let (dir, world) = (tempfile::tempdir().unwrap(), world());
    let service = job(JobType::Service, group(vec![sh("main", "sleep 1000")]));
    let batch = job(JobType::Batch, group(vec![sh("main", "sleep 1000")]));
    let mut before = BTreeMap::new();
    for round in 0..5 {
        let bed = Bed::fake(dir.path(), &world, false).await;
        for (n, job) in [(1, &service), (2, &batch), (3, &service)] {
            bed.allocations.assign(assignment(n, job)).await.unwrap();
            let new = |view: &AllocView| {
                let sandbox = view.status.tasks["main"].sandbox.clone();
                view.status.client == ClientStatus::Running && sandbox != before.get(&n).cloned().flatten()
            };
            let view = bed.when(n, "it runs anew", new).await;
            assert!(!view.status.tasks["main"].failed, "{round}: {view:?}");
            before.insert(n, view.status.tasks["main"].sandbox.clone());
        }
        assert_eq!(world.alive().len(), 3, "{round}");
        bed.allocations.stop_all(Duration::from_secs(5)).await;
        assert_eq!(world.alive(), [], "{round}");
        assert_eq!(bed.engine.list(), [], "{round}");
        bed.close().await;
    }
    // What was not wanted any more when the node stopped is over, and nothing of it begins.
    let bed = Bed::fake(dir.path(), &world, false).await;
    bed.until(3, ClientStatus::Running).await;
    bed.allocations.assign(stopped(&assignment(3, &service), true)).await.unwrap();
    bed.allocations.stop_all(Duration::from_secs(5)).await;
    bed.close().await;
    let bed = Bed::fake(dir.path(), &world, false).await;
    bed.until(3, ClientStatus::Complete).await;
    bed.until(1, ClientStatus::Running).await;
    bed.close().await;
}

/// A disk that takes no records keeps nothing running.
#[tokio::test]
async fn a_node_that_cannot_write_ends_its_tasks_all_the_same() {
    let (dir, world) = (tempfile::tempdir().unwrap(), world());
    let bed = Bed::fake(dir.path(), &world, false).await;
    bed.allocations.assign(assignment(1, &job(JobType::Service, group(vec![sh("main", "sleep 1000")])))).await.unwrap();
    bed.until(1, ClientStatus::Running).await;
    std::fs::rename(dir.path().join("records"), dir.path().join("away")).unwrap();
    bed.allocations.stop_all(Duration::from_secs(5)).await;
    assert_eq!((world.alive(), bed.engine.list()), (Vec::new(), Vec::new()));
    bed.close().await;
}

/// The daemon is killed at any moment, again and again; nothing is doubled and nothing forgotten.
#[test]
fn killed_at_any_moment_it_goes_on_and_doubles_nothing() {
    let rounds: u64 = std::env::var("MOAT_KILL_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    for round in 0..rounds {
        let (dir, world) = (tempfile::tempdir().unwrap(), world());
        let mut of_group = group(vec![
            hook(sh("init", "echo init"), Hook::Prestart, false),
            sh("main", "sleep 1000"),
            hook(sh("side", "sleep 1000"), Hook::Prestart, true),
        ]);
        of_group.restart.attempts = 0;
        let job = job(JobType::Service, of_group);
        for lives_for in [Some(round * 7), Some(round * 13), None] {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                world.restart();
                let life = one_life(dir.path(), &world, &job, lives_for.is_none());
                match lives_for {
                    // A daemon that is not through with it by then is dead in the middle of it.
                    Some(millis) => drop(tokio::time::timeout(Duration::from_millis(millis), life).await),
                    None => life.await,
                }
            });
            world.crash();
            // Writes under way end before another daemon begins, as the kernel sees to it with a real one.
            runtime.shutdown_timeout(SOON);
        }
    }
}

async fn one_life(dir: &Path, world: &FakeWorld, job: &Arc<Job>, to_the_end: bool) {
    let bed = Bed::fake(dir, world, false).await;
    bed.allocations.assign(assignment(1, job)).await.unwrap();
    let is_running =
        |view: &AllocView| ["main", "side"].iter().all(|task| view.status.tasks[*task].phase == TaskPhase::Running);
    let view = bed.when(1, "both run", is_running).await;
    wait_until(SOON, "two sandboxes live", async || (world.alive().len() == 2).then_some(())).await.unwrap();
    for task in ["main", "side"] {
        let task = &view.status.tasks[task];
        assert!(world.alive().contains(task.sandbox.as_ref().unwrap()), "{task:#?}");
        assert!(!task.failed, "{task:#?}");
    }
    if to_the_end {
        bed.allocations.stop(&alloc_id(1), true).await.unwrap();
        bed.until(1, ClientStatus::Complete).await;
        bed.close().await;
    } else {
        std::future::pending().await
    }
}
