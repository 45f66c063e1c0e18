//! The outlet as the engine meets it: bindings, facts, and both after a restart.

use std::collections::BTreeMap;
use std::path::Path;

use moat_api::Subjects;
use moat_model::lifecycle::PhaseName;
use moat_model::spec::{OnTimeout, Origin, Resources};
use moat_model::{Cause, Exit, Isolation, Namespace, NodeId, Timestamp, WorkloadName};

use super::*;

fn workload() -> WorkloadRef {
    WorkloadRef {
        namespace: Namespace::default_namespace(),
        name: WorkloadName::parse("app").unwrap(),
        id: WorkloadId::parse("cq1v8k3q7d2c73f0a9g0").unwrap(),
        node: NodeId::parse("NAO5X4PUZC5L7XRBXMQZC6AGOLT5G3FF5J6S77B4TU3JFLKG6C5PDMEA").unwrap(),
    }
}

fn sandbox(n: u8) -> SandboxId {
    SandboxId::from_parts(Timestamp::from_millis(i64::from(n)), [n; 10])
}

fn view(n: u8, phase: PhaseName) -> SandboxView {
    let ended = phase.is_terminal();
    SandboxView {
        id: sandbox(n),
        generation: 3,
        namespace: Namespace::default_namespace(),
        labels: BTreeMap::new(),
        phase,
        stowed: false,
        isolation: Isolation::Container,
        accelerator: None,
        driver: "fake".to_owned(),
        created_at: Timestamp::from_millis(1),
        started_at: Some(Timestamp::from_millis(2)),
        ready_at: None,
        expires_at: None,
        remaining: None,
        idle_timeout: None,
        on_timeout: OnTimeout::Kill,
        resources: Resources::default(),
        origin: Origin::default(),
        address: None,
        ended_at: ended.then(|| Timestamp::from_millis(3)),
        exit: ended.then(|| Exit::code(7)),
        cause: ended.then_some(Cause::Exited),
    }
}

async fn open(dir: &Path) -> (NodeOutlet, Outbox) {
    let outbox = Outbox::open(&dir.join("outbox"), Subjects::default()).await.unwrap();
    let outlet =
        NodeOutlet::open(OutletConfig::new(dir.join("logs"), dir.join("bindings")), outbox.clone()).await.unwrap();
    (outlet, outbox)
}

/// What waits in the outbox: type and code of each event.
fn waiting(dir: &Path) -> Vec<(String, i64)> {
    let mut files: Vec<_> = std::fs::read_dir(dir.join("outbox")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let read = |path: &Path| -> (String, i64) {
        let kept: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let event: serde_json::Value = serde_json::from_str(kept["body"].as_str().unwrap()).unwrap();
        (event["type"].as_str().unwrap().to_owned(), event["data"]["code"].as_i64().unwrap())
    };
    files.iter().map(|path| read(path)).collect()
}

#[tokio::test]
async fn output_and_facts_of_two_attempts_survive_restarts_and_are_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let (outlet, _) = open(dir.path()).await;
    outlet.bind(sandbox(1), workload()).await.unwrap();
    outlet.append(&sandbox(1), StreamName::Stdout, 0, Bytes::from_static(b"one\n")).await.unwrap();
    outlet.announce(&view(1, PhaseName::Running)).await.unwrap();
    drop(outlet);

    // The engine recovers before anybody binds anything.
    let (outlet, outbox) = open(dir.path()).await;
    assert_eq!(outlet.position(&sandbox(1)).await.unwrap(), Offsets { stdout: 4, stderr: 0 });
    for phase in [PhaseName::Running, PhaseName::Running, PhaseName::Stopped, PhaseName::Stopped] {
        outlet.announce(&view(1, phase)).await.unwrap();
    }
    outlet.bind_attempt(sandbox(2), workload(), Attempt { number: 2, artifact_bytes: 9 }).await.unwrap();
    outlet.append(&sandbox(2), StreamName::Stdout, 0, Bytes::from_static(b"two\n")).await.unwrap();
    assert_eq!(outlet.position(&sandbox(1)).await.unwrap().stdout, 4);
    assert_eq!(outlet.position(&sandbox(2)).await.unwrap().stdout, 4);
    outlet.unbind(&sandbox(1)).await.unwrap();
    let kept = std::fs::read(outlet.log_dir(&workload()).await.unwrap().join("app.stdout.0")).unwrap();
    assert_eq!(kept, b"one\ntwo\n");
    let told: Vec<(String, i64)> =
        [("workload_deployed", 0), ("workload_undeployed", 7)].map(|(t, c)| (t.to_owned(), c)).into();
    assert_eq!((waiting(dir.path()), outbox.depth()), (told, 2));
}

#[tokio::test]
async fn what_is_not_bound_has_nowhere_to_go() {
    let dir = tempfile::tempdir().unwrap();
    let (outlet, outbox) = open(dir.path()).await;
    outlet.announce(&view(1, PhaseName::Stopped)).await.unwrap();
    assert_eq!(outbox.depth(), 0);
    let error = outlet.append(&sandbox(1), StreamName::Stdout, 0, Bytes::from_static(b"x")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    outlet.unbind(&sandbox(1)).await.unwrap();
}

#[derive(Debug)]
struct Always;

impl Judge for Always {
    fn restarts(&self, _: &WorkloadRef, _: &SandboxView) -> bool {
        true
    }
}

#[tokio::test]
async fn an_end_that_is_not_the_end_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (outlet, _) = open(dir.path()).await;
    outlet.set_judge(Arc::new(Always));
    outlet.bind(sandbox(1), workload()).await.unwrap();
    let mut never = view(1, PhaseName::Failed);
    (never.started_at, never.exit) = (None, None);
    outlet.announce(&never).await.unwrap();
    assert_eq!(waiting(dir.path()), [("workload_undeployed".to_owned(), -1)]);
    let text = std::fs::read_to_string(dir.path().join("outbox").join(format!("{:020}.json", 0))).unwrap();
    assert!(text.contains("restarting"), "{text}");
}

/// A log that was not published when its workload ended is found again; the directories are private, the files are not.
#[tokio::test]
async fn an_ended_log_is_kept_until_it_is_published_and_then_for_a_while() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (outlet, _) = open(dir.path()).await;
    outlet.bind(sandbox(1), workload()).await.unwrap();
    outlet.append(&sandbox(1), StreamName::Stderr, 0, Bytes::from_static(b"late\n")).await.unwrap();
    outlet.unbind(&sandbox(1)).await.unwrap();
    drop(outlet);
    let (outlet, _) = open(dir.path()).await;
    assert_eq!((outlet.active().len(), outlet.lag()), (1, 5));
    assert_eq!(outlet.sweep().await.unwrap(), 0);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir.path().join("logs")), 0o700);
    let own = outlet.log_dir(&workload()).await.unwrap();
    assert_eq!((mode(&own), mode(&own.join("app.stderr.0"))), (0o755, 0o644));
    let log = outlet.active().remove(0);
    assert!(!outlet.retire(&workload().id), "not published yet");
    log.set_published(log.end());
    log.store_cursor(log.end()).unwrap();
    assert!(outlet.retire(&workload().id));
    drop((log, outlet));
    let config = OutletConfig {
        retention: Retention { ended_for: std::time::Duration::ZERO, ..Retention::default() },
        ..OutletConfig::new(dir.path().join("logs"), dir.path().join("bindings"))
    };
    let outbox = Outbox::open(&dir.path().join("outbox"), Subjects::default()).await.unwrap();
    let outlet = NodeOutlet::open(config, outbox).await.unwrap();
    assert_eq!((outlet.active().len(), outlet.sweep().await.unwrap()), (0, 1));
    assert!(!own.exists());
}
