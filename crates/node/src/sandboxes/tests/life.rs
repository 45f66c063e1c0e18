//! One sandbox from its creation to what is remembered of it.

use moat_api::rest::sandbox::{ListSandboxes, OnTimeout, ResourceLimits};
use moat_engine::fake::FakeStep;

use moat_api::rest::network::NetworkWish;

use super::*;
use crate::stream::LogPlace;

#[tokio::test]
async fn a_sandbox_is_made_shown_ended_and_explained_also_after_a_restart() {
    let bed = Bed::new().await;
    let limits = ResourceLimits { vcpu: Some(0.5), pids: Some(50), ..ResourceLimits::default() };
    let made = bed.create(CreateSandbox { resources: limits, metadata: label("team", "a"), ..app() }).await;
    assert_eq!(
        (made.state.as_str(), made.template.as_deref(), made.template_version),
        ("running", Some("app"), Some(1))
    );
    assert_eq!(made.image.as_ref(), Some(&bed.image));
    assert_eq!(
        (made.isolation.as_str(), made.isolation_asked.as_str(), made.network.as_str()),
        ("container", "container", "isolated")
    );
    assert_eq!((made.resources.vcpu, made.resources.pids, made.resources.memory_mb), (Some(0.5), Some(50), Some(64)));
    assert!(made.boot_time_ms.is_some_and(|ms| ms > 0.0) && !made.from_pool);
    assert!(made.remaining_sec.is_some_and(|s| (3590..=3600).contains(&s)), "{made:?}");
    let id = id(&made);
    assert_eq!(bed.sandboxes.explain(&own(), &id).await.unwrap().sandbox.state, "running");
    bed.sandboxes.delete(&own(), &id).await.unwrap();
    assert_eq!(bed.sandboxes.delete(&own(), &id).await.unwrap_err().kind, ErrorKind::NotFound);
    let ended = bed.sandboxes.get(&own(), &id).unwrap();
    assert_eq!((ended.state.as_str(), ended.cause.as_deref()), ("stopped", Some("killed")));
    let before = bed.sandboxes.explain(&own(), &id).await.unwrap();
    assert!(before.steps.len() > 3 && before.steps[0].after_ms == 0, "{before:?}");
    assert!(bed.world.alive().is_empty());
    let bed = bed.restart().await;
    assert_eq!(bed.sandboxes.explain(&own(), &id).await.unwrap(), before);
    let all = bed.sandboxes.list(&own(), &ListSandboxes { state: Some("stopped".to_owned()), ..Default::default() });
    assert_eq!(all.unwrap().sandboxes, [ended]);
    assert!(bed.sandboxes.list(&own(), &ListSandboxes::default()).unwrap().sandboxes.is_empty());
}

#[tokio::test]
async fn sandboxes_live_on_over_a_restart() {
    let bed = Bed::new().await;
    let (runs, paused) = (bed.app().await, bed.app().await);
    bed.sandboxes.pause(&own(), &paused, Pause::default()).await.unwrap();
    let bed = bed.restart().await;
    bed.until(&runs, "running").await;
    bed.until(&paused, "paused").await;
    assert_eq!(bed.sandboxes.get(&own(), &runs).unwrap().template.as_deref(), Some("app"));
    // Its layers are known to be needed before anything is collected.
    bed.templates.remove("app").await.unwrap();
    bed.templates.collect(true).await.unwrap();
    assert_eq!(bed.templates.images().images.len(), 1);
    for id in [runs, paused] {
        bed.sandboxes.delete(&own(), &id).await.unwrap();
    }
    bed.templates.collect(true).await.unwrap();
    assert!(bed.templates.images().images.is_empty());
}

#[tokio::test]
async fn a_list_is_filtered_and_paged() {
    let bed = Bed::new().await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(bed.create(CreateSandbox { metadata: label("parity", ["even", "odd"][n % 2]), ..app() }).await.id);
    }
    ids.sort();
    let mut query = ListSandboxes { limit: Some(2), ..ListSandboxes::default() };
    let mut seen = Vec::new();
    loop {
        let page = bed.sandboxes.list(&own(), &query).unwrap();
        seen.extend(page.sandboxes.into_iter().map(|s| s.id));
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    assert_eq!(seen, ids);
    let count = |query: ListSandboxes| bed.sandboxes.list(&own(), &query).unwrap().sandboxes.len();
    assert_eq!(count(ListSandboxes { metadata: Some("parity=odd".to_owned()), ..Default::default() }), 2);
    assert_eq!(count(ListSandboxes { template: Some("host".to_owned()), ..Default::default() }), 0);
    assert_eq!(count(ListSandboxes { state: Some("paused".to_owned()), ..Default::default() }), 0);
    assert_eq!(bed.sandboxes.node().sandboxes, 5);
    assert_eq!(bed.sandboxes.stats(None).await.sandboxes["running"], 5);
    assert_eq!(bed.templates.get("app").unwrap().sandboxes, 5);
}

/// Pause and resume again and again: nothing of it wears out.
#[tokio::test]
async fn e02_fifty_pauses_and_resumes() {
    let bed = Bed::new().await;
    let id = bed.app().await;
    for round in 0..50 {
        let paused = bed.sandboxes.pause(&own(), &id, Pause::default()).await.unwrap();
        assert_eq!(paused.state, "paused", "round {round}");
        assert!(paused.expires_at.is_none() && paused.remaining_sec.is_some());
        assert_eq!(bed.sandboxes.exec(&own(), &id, &exec()).await.unwrap_err().kind, ErrorKind::Conflict);
        assert_eq!(bed.sandboxes.resume(&own(), &id, Resume::default()).await.unwrap().state, "running");
    }
    assert_eq!(bed.sandboxes.resume(&own(), &id, Resume::default()).await.unwrap().state, "running");
    bed.sandboxes.exec(&own(), &id, &exec()).await.unwrap();
}

fn exec() -> ExecSpec {
    let process = moat_model::ProcessSpec {
        command: "sh".to_owned(),
        args: vec!["-c".to_owned(), "true".to_owned()],
        env: BTreeMap::new(),
        cwd: None,
        user: None,
    };
    ExecSpec { process, pty: None, stdin: false, timeout: None }
}

#[tokio::test]
async fn e03_a_new_life_span_never_shortens_a_life_and_changes_nothing_else() {
    let bed = Bed::new().await;
    let asked =
        CreateSandbox { timeout_sec: Some(1000), idle_timeout_sec: Some(500), on_timeout: OnTimeout::Pause, ..app() };
    let made = bed.create(asked).await;
    let id = id(&made);
    let short = Keepalive { timeout_sec: Some(5), shorten: false };
    let kept = bed.sandboxes.keepalive(&own(), &id, short.clone()).await.unwrap();
    assert!(kept.remaining_sec.unwrap() > 900, "{kept:?}");
    let longer = Keepalive { timeout_sec: Some(5000), shorten: false };
    let longer = bed.sandboxes.keepalive(&own(), &id, longer).await.unwrap();
    assert!(longer.remaining_sec.unwrap() > 4900);
    let left = bed.sandboxes.pause(&own(), &id, Pause::default()).await.unwrap().remaining_sec.unwrap();
    let resumed = bed.sandboxes.resume(&own(), &id, Resume::default()).await.unwrap();
    assert!(left > 4900 && resumed.remaining_sec.unwrap() > 4900);
    assert_eq!((resumed.on_timeout, resumed.idle_timeout_sec), (OnTimeout::Pause, Some(500)));
    let shortened = bed.sandboxes.keepalive(&own(), &id, Keepalive { shorten: true, ..short }).await.unwrap();
    assert!(shortened.remaining_sec.unwrap() <= 5);
    let zero = Keepalive { timeout_sec: Some(0), shorten: false };
    assert_eq!(bed.sandboxes.keepalive(&own(), &id, zero).await.unwrap_err().kind, ErrorKind::InvalidSpec);
}

#[tokio::test]
async fn e11_another_can_be_made_at_once_where_one_was_deleted() {
    let only_one = SandboxesConfig { max_per_namespace: Some(1), ..SandboxesConfig::default() };
    let bed = Bed::with(container(), Settings { sandboxes: only_one, ..Settings::default() }).await;
    for _ in 0..10 {
        let id = bed.app().await;
        let refusal = bed.sandboxes.create(&own(), app()).await.unwrap_err();
        assert_eq!(refusal.kind, ErrorKind::Exhausted);
        assert!(refusal.chain().contains("sandboxes.max_per_namespace"), "{}", refusal.chain());
        bed.sandboxes.delete(&own(), &id).await.unwrap();
    }
}

#[tokio::test]
async fn e14_what_cannot_be_given_is_refused_and_what_is_given_is_said() {
    let bed = Bed::new().await;
    let text = |t: &str| Some(t.to_owned());
    let wish = |mode: &str| Some(NetworkWish::Mode(mode.to_owned()));
    for (request, kind, word) in [
        (CreateSandbox { isolation: text("microvm"), ..app() }, ErrorKind::Unsupported, "isolation"),
        (CreateSandbox { isolation: text("Container"), ..app() }, ErrorKind::InvalidSpec, "isolation"),
        (CreateSandbox { isolation: text("process"), ..app() }, ErrorKind::Denied, "isolation"),
        (CreateSandbox { network: wish("internet"), ..app() }, ErrorKind::Unsupported, "network"),
        (CreateSandbox { network: wish("none"), ..app() }, ErrorKind::InvalidSpec, "network"),
        (CreateSandbox { image: text("alpine"), ..app() }, ErrorKind::InvalidSpec, "exactly one of"),
        (CreateSandbox::default(), ErrorKind::InvalidSpec, "exactly one of"),
        (CreateSandbox { template: text("nothing"), ..Default::default() }, ErrorKind::NotFound, "nothing"),
        (CreateSandbox { template: text("app@7"), ..Default::default() }, ErrorKind::NotFound, "app@7"),
        (CreateSandbox { snapshot: text("nothing"), ..Default::default() }, ErrorKind::NotFound, "nothing"),
        (CreateSandbox { command: Some(vec![]), ..app() }, ErrorKind::InvalidSpec, "command"),
        (CreateSandbox { workdir: text("tmp"), ..app() }, ErrorKind::InvalidSpec, "workdir"),
        (CreateSandbox { timeout_sec: Some(u64::MAX), ..app() }, ErrorKind::InvalidSpec, "timeout_sec"),
    ] {
        let refusal = bed.sandboxes.create(&own(), request).await.unwrap_err();
        assert_eq!(refusal.kind, kind, "{}", refusal.chain());
        assert!(refusal.chain().contains(word), "{word}: {}", refusal.chain());
    }
    assert!(bed.world.alive().is_empty());
    // Members nobody knows are refused where the JSON is read.
    for body in
        [r#"{"template":"app","allowInternetAccess":false}"#, r#"{"template":"app","security":{"capDrop":["all"]}}"#]
    {
        assert!(serde_json::from_str::<CreateSandbox>(body).is_err(), "{body}");
    }
}

#[tokio::test]
async fn e16_delete_succeeds_from_every_state() {
    let bed = Bed::new().await;
    let (running, paused) = (bed.app().await, bed.app().await);
    bed.sandboxes.pause(&own(), &paused, Pause::default()).await.unwrap();
    for id in [&running, &paused] {
        bed.sandboxes.delete(&own(), id).await.unwrap();
    }
    for step in [FakeStep::Create, FakeStep::Start] {
        bed.world.configure(|fake| fake.hang_at = Some(step));
        let sandboxes = bed.sandboxes.clone();
        let create = tokio::spawn(async move { sandboxes.create(&own(), app()).await });
        let coming = async || bed.sandboxes.views().into_iter().find(|view| !view.phase.is_terminal());
        let id = wait_until(SOON, "it is being made", coming).await.unwrap().id;
        bed.sandboxes.delete(&own(), &id).await.unwrap();
        assert!(create.await.unwrap().is_err());
        bed.world.configure(|fake| fake.hang_at = None);
    }
    // Whoever asked for it goes away: nobody knows its id, so it goes too.
    bed.world.configure(|fake| fake.hang_at = Some(FakeStep::Start));
    let sandboxes = bed.sandboxes.clone();
    let create = tokio::spawn(async move { sandboxes.create(&own(), app()).await });
    wait_until(SOON, "it is being made", async || bed.sandboxes.views().pop()).await.unwrap();
    create.abort();
    wait_until(SOON, "it is gone", async || bed.sandboxes.views().is_empty().then_some(())).await.unwrap();
    bed.world.configure(|fake| fake.hang_at = None);
    bed.sandboxes.delete(&own(), &bed.app().await).await.unwrap();
    assert!(bed.world.alive().is_empty() && bed.world.resources().is_empty());
}

#[tokio::test]
async fn a_life_span_that_ends_is_explained() {
    let bed = Bed::new().await;
    let id = id(&bed.create(CreateSandbox { timeout_sec: Some(1), ..app() }).await);
    let ended = bed.until(&id, "stopped").await;
    assert_eq!(ended.cause.as_deref(), Some("timed_out"));
    wait_until(SOON, "its record is forgotten", async || bed.sandboxes.views().is_empty().then_some(())).await.unwrap();
    assert!(bed.sandboxes.explain(&own(), &id).await.unwrap().steps.len() > 3);
}

#[tokio::test]
async fn a_main_process_is_the_images_or_ones_own_and_its_output_is_kept() {
    let bed = Bed::new().await;
    let script = |text: &str| Some(["sh", "-c", text].map(str::to_owned).to_vec());
    let own_program = CreateSandbox { command: script("echo hello; echo oops >&2; exit 3"), ..app() };
    let id = id(&bed.create(own_program).await);
    let ended = bed.until(&id, "stopped").await;
    assert_eq!((ended.exit_code, ended.cause.as_deref()), (Some(3), Some("exited")));
    let logs = bed.sandboxes.logs(&own(), &id, LogPlace::default()).await.unwrap();
    let mut lines: Vec<String> = logs.lines.into_iter().map(|l| l.text).collect();
    lines.sort();
    assert_eq!(lines, ["hello", "oops"]);
    let other = Namespace::parse("other").unwrap();
    assert_eq!(bed.sandboxes.logs(&other, &id, LogPlace::default()).await.unwrap_err().kind, ErrorKind::NotFound);
    let images = bed.create(CreateSandbox { run_entrypoint: true, ..app() }).await;
    assert_eq!(images.state, "running");
    let spec = bed.sandboxes.shared.base.engine.spec(&super::id(&images)).unwrap();
    let main = spec.main.clone().unwrap();
    assert_eq!((main.command.as_str(), main.args.as_slice()), ("/bin/serve", ["--fast".to_owned()].as_slice()));
    assert_eq!((spec.stop.signal.number(), spec.process.cwd.as_deref()), (3, Some("/srv")));
    let both = CreateSandbox { run_entrypoint: true, command: script("true"), ..app() };
    assert_eq!(bed.sandboxes.create(&own(), both).await.unwrap_err().kind, ErrorKind::InvalidSpec);
}

#[tokio::test]
async fn what_is_remembered_is_bounded() {
    let few = SandboxesConfig { keep_ended_max: 3, ..SandboxesConfig::default() };
    let bed = Bed::with(container(), Settings { sandboxes: few, ..Settings::default() }).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        let id = bed.app().await;
        bed.sandboxes.delete(&own(), &id).await.unwrap();
        ids.push(id);
    }
    let files = || std::fs::read_dir(bed.dir.path().join("history")).unwrap().count();
    wait_until(SOON, "three are left", async || (files() == 3).then_some(())).await.unwrap();
    assert_eq!(bed.sandboxes.get(&own(), &ids[0]).unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(bed.sandboxes.explain(&own(), &ids[0]).await.unwrap_err().kind, ErrorKind::NotFound);
    assert!(bed.sandboxes.explain(&own(), &ids[4]).await.is_ok());
}
