//! Members of a pool, and how they become somebody's.

use std::collections::BTreeMap;
use std::time::Duration;

use moat_agent::protocol::StreamName;
use moat_model::file::{FileReply, FileRequest};
use moat_model::lifecycle::{PauseTo, PhaseName, SandboxView};
use moat_model::spec::{
    Artifact, ClaimSpec, ExecSpec, OnTimeout, Owner, ProcessDefaults, Program, Resources, StopSpec,
};
use moat_model::{Cause, ErrorKind, Namespace, ProcessSpec, SandboxId, SandboxSpec, TimeLimit};
use tokio::time::{Instant, sleep};

use super::bench;
use crate::Engine;
use crate::fake::{FakeConfig, FakeStep};
use crate::guest::ExecOutput;
use crate::testing::{id, spec};

/// What a pool makes.
pub fn member() -> SandboxSpec {
    let resources = Resources { memory_bytes: Some(128 << 20), pids_max: Some(64), ..Resources::default() };
    let timeout = Some(Duration::from_secs(5));
    let mut member = SandboxSpec { main: None, resources, timeout, idle_timeout: timeout, ..spec("", &[]) };
    member.origin.owner = Owner::Pool;
    member
}

/// What somebody wants.
pub fn claim(memory: Option<u64>) -> ClaimSpec {
    ClaimSpec {
        namespace: Namespace::parse("team").unwrap(),
        owner: Owner::Api,
        program: None,
        labels: BTreeMap::from([("job".to_owned(), "7".to_owned())]),
        resources: Resources { memory_bytes: memory, ..Resources::default() },
        network: None,
        ingress: moat_model::spec::IngressSpec::default(),
        timeout: Some(Duration::from_secs(60)),
        idle_timeout: None,
        on_timeout: OnTimeout::Kill,
        process: ProcessDefaults {
            env: BTreeMap::from([("TOKEN".to_owned(), "t".to_owned()), ("LEVEL".to_owned(), "1".to_owned())]),
            user: None,
            cwd: None,
        },
    }
}

async fn ended(engine: &Engine, id: &SandboxId) -> SandboxView {
    let mut views = engine.watch(id).unwrap();
    views.wait_for(|view| view.phase.is_terminal()).await.unwrap().clone()
}

/// What `env` says in it, with `LEVEL` set by the exec itself.
async fn env_inside(engine: &Engine, id: &SandboxId) -> String {
    let process = ProcessSpec {
        command: "env".into(),
        args: vec![],
        env: BTreeMap::from([("LEVEL".to_owned(), "2".to_owned())]),
        cwd: None,
        user: None,
    };
    let exec = ExecSpec { process, pty: None, stdin: false, timeout: None };
    let mut session = engine.exec(id, &exec).await.unwrap();
    let mut said = String::new();
    while let Some(output) = session.output.recv().await {
        if let ExecOutput::Data(StreamName::Stdout, bytes) = output {
            said.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
    said
}

#[tokio::test(start_paused = true)]
async fn e22_a_claim_applies_environment_labels_limits_and_time() {
    let b = bench(FakeConfig::default()).await;
    b.engine.create(id(1), member()).await.unwrap();
    sleep(Duration::from_secs(3600)).await;
    let standing = b.engine.get(&id(1)).unwrap();
    assert_eq!((standing.phase, standing.expires_at), (PhaseName::Running, None), "a member does not expire");
    assert_eq!(b.engine.keepalive(&id(1), None, false).await.unwrap_err().kind, ErrorKind::Conflict);

    let claimed = b.engine.claim(&id(1), claim(Some(256 << 20))).await.unwrap();
    assert_eq!((claimed.namespace.as_str(), claimed.labels.get("job").map(String::as_str)), ("team", Some("7")));
    assert_eq!((claimed.origin.owner, claimed.origin.from_pool), (Owner::Api, true));
    assert!(claimed.generation > standing.generation);
    assert_eq!(claimed.created_at.since(standing.created_at).as_secs(), 3600);
    assert_eq!(claimed.expires_at.unwrap().since(claimed.created_at).as_secs(), 60);
    assert!(claimed.ready_at.unwrap() >= claimed.created_at);
    assert_eq!((claimed.resources.memory_bytes, claimed.resources.pids_max), (Some(256 << 20), Some(64)));
    assert_eq!(b.world.limits(&id(1)).unwrap(), claimed.resources, "in force when the claim is answered");
    assert_eq!(env_inside(&b.engine, &id(1)).await, "LEVEL=2\nTOKEN=t\n");
    assert_eq!(b.engine.spec(&id(1)).unwrap().timeout, Some(Duration::from_secs(60)));
    let told = b.engine.explain(&id(1)).await.unwrap();
    assert!(told.iter().any(|step| step.what.contains("stood in the pool for 3600")), "{told:?}");
    assert!(b.outlet.facts(&id(1)).iter().any(|view| view.origin.owner == Owner::Api), "a claim is news");

    let begun = Instant::now();
    assert_eq!(ended(&b.engine, &id(1)).await.cause, Some(Cause::TimedOut { limit: TimeLimit::Absolute }));
    assert_eq!(begun.elapsed().as_secs_f64().round(), 60.0);
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn of_many_claims_exactly_one_wins() {
    let b = bench(FakeConfig::default()).await;
    b.engine.create(id(1), member()).await.unwrap();
    let claims = (0..20).map(|n| {
        let engine = b.engine.clone();
        tokio::spawn(async move { engine.claim(&id(1), claim((n % 2 == 0).then_some(1 << 28))).await })
    });
    let answers = futures::future::join_all(claims).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().map(Result::unwrap).partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 19));
    for error in lost.into_iter().filter_map(Result::err) {
        assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn limits_that_cannot_be_set_cost_the_claim_and_the_sandbox() {
    let b = bench(FakeConfig { tune_error: Some("in use".into()), ..FakeConfig::default() }).await;
    b.engine.create(id(1), member()).await.unwrap();
    let error = b.engine.claim(&id(1), claim(Some(1))).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.to_string().contains("in use"), "{error}");
    let view = ended(&b.engine, &id(1)).await;
    assert!(matches!(view.cause, Some(Cause::StartFailed { .. })), "{view:?}");
    b.assert_clean();

    // One that needs no new limits is not concerned.
    b.engine.create(id(2), member()).await.unwrap();
    b.engine.claim(&id(2), claim(Some(128 << 20))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_the_driver_cannot_do_is_refused_before_the_member_is_spent() {
    let b = bench(FakeConfig::default()).await;
    b.engine.create(id(1), member()).await.unwrap();
    let mut disk = claim(None);
    disk.resources.disk_bytes = Some(1 << 20);
    assert_eq!(b.engine.claim(&id(1), disk).await.unwrap_err().kind, ErrorKind::InvalidSpec);
    assert_eq!(b.engine.get(&id(1)).unwrap().origin.owner, Owner::Pool);
    b.engine.claim(&id(1), claim(None)).await.unwrap();

    let b = bench(FakeConfig { tuner: false, ..FakeConfig::default() }).await;
    b.engine.create(id(1), member()).await.unwrap();
    assert_eq!(b.engine.claim(&id(1), claim(Some(1))).await.unwrap_err().kind, ErrorKind::Unsupported);
    b.engine.claim(&id(1), claim(None)).await.unwrap();

    // What was never in a pool, or is gone, cannot be claimed.
    b.engine.create(id(2), spec("app", &[])).await.unwrap();
    assert_eq!(b.engine.claim(&id(2), claim(None)).await.unwrap_err().kind, ErrorKind::Conflict);
    b.engine.create(id(3), member()).await.unwrap();
    b.engine.kill(&id(3)).await.unwrap();
    assert_eq!(b.engine.claim(&id(3), claim(None)).await.unwrap_err().kind, ErrorKind::Conflict);
}

#[tokio::test(start_paused = true)]
async fn nothing_uses_a_claimed_sandbox_before_its_limits_hold() {
    let b = bench(FakeConfig { hang_at: Some(FakeStep::Tune), ..FakeConfig::default() }).await;
    b.engine.create(id(1), member()).await.unwrap();
    let engine = b.engine.clone();
    let claiming = tokio::spawn(async move { engine.claim(&id(1), claim(Some(1))).await });
    sleep(Duration::from_secs(1)).await;
    assert_eq!(b.engine.processes(&id(1)).await.unwrap_err().kind, ErrorKind::Conflict);
    assert_eq!(b.engine.pause(&id(1), PauseTo::Memory).await.unwrap_err().kind, ErrorKind::Conflict);
    let into = b.dir.path().join("layer");
    assert_eq!(b.engine.capture(&id(1), into).await.unwrap_err().kind, ErrorKind::Conflict);
    let error = claiming.await.unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Deadline, "{error}");
    ended(&b.engine, &id(1)).await;
    b.assert_clean();
}

/// What a workload wants to run: a word of its own, and then its end. Its file is `artifact`.
fn to_run(word: &str, file: &std::path::Path) -> ClaimSpec {
    std::fs::write(file, format!("the program of {word}")).unwrap();
    let main = spec("sh", &["-c", &format!("echo {word}; sleep 5; echo {word}; exit 7")]).main.unwrap();
    let artifact = Artifact { path: file.to_owned(), name: "app".to_owned(), sha256: "0".repeat(64) };
    ClaimSpec {
        owner: Owner::Workload,
        program: Some(Program { main, artifact: Some(artifact), stop: StopSpec::default() }),
        timeout: None,
        process: ProcessDefaults::default(),
        ..claim(Some(1 << 28))
    }
}

#[tokio::test(start_paused = true)]
async fn members_become_workloads_and_none_is_taken_for_another() {
    let b = bench(FakeConfig::default()).await;
    for n in 1..=4 {
        b.engine.create(id(n), member()).await.unwrap();
    }
    sleep(Duration::from_secs(100)).await;
    let claims = (1..=4).map(|n| {
        let (engine, wanted) =
            (b.engine.clone(), to_run(&format!("word-{n}"), &b.dir.path().join(format!("program-{n}"))));
        tokio::spawn(async move { engine.claim(&id(n), wanted).await })
    });
    for (view, n) in futures::future::join_all(claims).await.into_iter().zip(1..) {
        let view = view.unwrap().unwrap();
        assert_eq!((view.id.clone(), view.phase, view.origin.owner), (id(n), PhaseName::Running, Owner::Workload));
        assert!(view.started_at.unwrap() >= view.created_at, "it started when its program did");
        let guest = b.engine.guest(&id(n)).await.unwrap();
        let stat = guest.file(None, &FileRequest::Stat { path: "/local/app".to_owned() }).await.unwrap();
        let FileReply::Entry(found) = stat else { panic!("{stat:?}") };
        assert_eq!((found.size, found.mode & 0o777), ("the program of word-1".len() as u64, 0o555));
        let again = b.engine.claim(&id(n), claim(None)).await.unwrap_err();
        assert_eq!(again.kind, ErrorKind::Conflict, "it is used once");
    }
    for n in 1..=4 {
        let end = ended(&b.engine, &id(n)).await;
        assert_eq!((end.cause, end.exit.map(|exit| exit.code)), (Some(Cause::Exited), Some(7)));
        assert_eq!(b.outlet.output(&id(n), StreamName::Stdout), format!("word-{n}\nword-{n}\n"));
        assert_eq!(b.world.main_starts(&id(n)), 1);
    }
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_program_that_cannot_be_started_costs_the_claim_and_the_sandbox() {
    for fake in [
        FakeConfig { main_error: Some("no such file".into()), ..FakeConfig::default() },
        FakeConfig { hang_at: Some(FakeStep::StartMain), ..FakeConfig::default() },
        FakeConfig { tune_error: Some("in use".into()), ..FakeConfig::default() },
    ] {
        let b = bench(fake).await;
        b.engine.create(id(1), member()).await.unwrap();
        let error = b.engine.claim(&id(1), to_run("word", &b.dir.path().join("program"))).await.unwrap_err();
        let view = ended(&b.engine, &id(1)).await;
        assert!(matches!(view.cause, Some(Cause::StartFailed { .. })), "{view:?} after {error}");
        b.assert_clean();
    }
    let b = bench(FakeConfig::default()).await;
    b.engine.create(id(1), member()).await.unwrap();
    let wanted = to_run("word", &b.dir.path().join("program"));
    std::fs::remove_file(b.dir.path().join("program")).unwrap();
    let error = b.engine.claim(&id(1), wanted).await.unwrap_err();
    assert!(error.to_string().contains("artifact.path"), "{error}");
    ended(&b.engine, &id(1)).await;
    b.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_dies_in_a_claim_is_followed_by_one_that_goes_on_with_it() {
    for step in [FakeStep::Tune, FakeStep::StartMain] {
        let b = bench(FakeConfig { hang_at: Some(step), ..FakeConfig::default() }).await;
        b.engine.create(id(1), member()).await.unwrap();
        let (engine, wanted) = (b.engine.clone(), to_run("word", &b.dir.path().join("program")));
        let claiming = tokio::spawn(async move { engine.claim(&id(1), wanted).await });
        sleep(Duration::from_secs(1)).await;
        let view = b.engine.get(&id(1)).unwrap();
        assert_eq!((view.phase, view.origin.owner), (PhaseName::Starting, Owner::Workload), "{step:?}");
        b.engine.clone().detach().await;
        assert!(claiming.await.unwrap().is_err());
        b.world.configure_one(&id(1), |fake| fake.hang_at = None);
        let engine = super::open(&b.world, &b.outlet, b.dir.path()).await;
        let end = ended(&engine, &id(1)).await;
        assert_eq!((end.cause, end.exit.map(|exit| exit.code)), (Some(Cause::Exited), Some(7)), "{step:?}");
        assert_eq!(b.outlet.output(&id(1), StreamName::Stdout), "word\nword\n");
        assert_eq!(b.world.main_starts(&id(1)), 1);
        b.assert_clean();
    }
}

#[tokio::test(start_paused = true)]
async fn one_whose_program_is_being_started_can_be_ended() {
    let b = bench(FakeConfig { hang_at: Some(FakeStep::StartMain), ..FakeConfig::default() }).await;
    b.engine.create(id(1), member()).await.unwrap();
    let (engine, wanted) = (b.engine.clone(), to_run("word", &b.dir.path().join("program")));
    let claiming = tokio::spawn(async move { engine.claim(&id(1), wanted).await });
    sleep(Duration::from_secs(1)).await;
    b.engine.kill(&id(1)).await.unwrap();
    assert!(claiming.await.unwrap().is_err());
    assert_eq!(ended(&b.engine, &id(1)).await.cause, Some(Cause::Killed));
    b.assert_clean();
}
