//! Sandboxes whose driver keeps machines: paused to disk, kept whole, made again.

use moat_api::rest::sandbox::{Fork, PauseTo, ResourceLimits, SecurityOptions, TakeSnapshot};
use moat_model::network::NetworkMode;

use super::*;
use crate::config::PoolTemplate;

/// What a driver of microVMs says of itself.
fn machines() -> FakeConfig {
    FakeConfig { isolation: Isolation::Microvm, accelerator: Some("tcg"), ..FakeConfig::default() }
}

async fn bed() -> Bed {
    Bed::with(machines(), Settings::default()).await
}

fn machine() -> CreateSandbox {
    CreateSandbox { isolation: Some("microvm".to_owned()), ..app() }
}

fn from(snapshot: &str) -> CreateSandbox {
    CreateSandbox { snapshot: Some(snapshot.to_owned()), ..CreateSandbox::default() }
}

impl Bed {
    /// What lies in the directory of machines.
    fn kept(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join("machines")).into_iter().flatten();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    async fn nothing_kept(&self) {
        wait_until(SOON, "no machine is kept", async || self.kept().is_empty().then_some(())).await.unwrap();
    }
}

#[tokio::test]
async fn a_reply_says_what_executes_it_and_what_it_has() {
    let bed = bed().await;
    let made = bed.create(machine()).await;
    assert_eq!((made.isolation.as_str(), made.isolation_asked.as_str()), ("microvm/tcg", "microvm"));
    assert_eq!((made.resources.memory_mb, made.resources.disk_mb), (Some(128), Some(1024)), "those of machines");
    let weaker = bed.create(app()).await;
    assert_eq!((weaker.isolation.as_str(), weaker.isolation_asked.as_str()), ("microvm/tcg", "container"));
    let container = Bed::new().await;
    let refusal = container.sandboxes.create(&own(), machine()).await.unwrap_err();
    assert!(refusal.kind == ErrorKind::Unsupported && refusal.chain().contains("isolation: "), "{}", refusal.chain());
}

#[tokio::test]
async fn a_pause_to_disk_is_shown_and_survives_the_daemon() {
    let bed = bed().await;
    let sandbox = bed.app().await;
    let disk = Pause { to: PauseTo::Disk };
    assert!(!bed.sandboxes.pause(&own(), &sandbox, Pause::default()).await.unwrap().stowed);
    let stowed = bed.sandboxes.pause(&own(), &sandbox, disk).await.unwrap();
    assert!(stowed.stowed && stowed.state == "paused");
    assert_eq!(bed.world.stowed(), std::slice::from_ref(&sandbox));
    let refusal = bed.sandboxes.fork(&own(), &sandbox, Fork::default()).await.unwrap_err();
    assert_eq!(refusal.kind, ErrorKind::Conflict, "{}", refusal.chain());
    bed.nothing_kept().await;
    let bed = bed.restart().await;
    assert!(bed.until(&sandbox, "paused").await.stowed);
    let resumed = bed.sandboxes.resume(&own(), &sandbox, Resume::default()).await.unwrap();
    assert!(!resumed.stowed && resumed.state == "running");
}

#[tokio::test]
async fn what_cannot_lie_on_disk_says_so() {
    let bed = Bed::with(FakeConfig { stower: false, ..FakeConfig::default() }, Settings::default()).await;
    let sandbox = bed.app().await;
    let refusal = bed.sandboxes.pause(&own(), &sandbox, Pause { to: PauseTo::Disk }).await.unwrap_err();
    assert!(refusal.kind == ErrorKind::Unsupported && refusal.chain().starts_with("to: "), "{}", refusal.chain());
    assert_eq!(bed.state(&sandbox), "running");
}

#[tokio::test]
async fn a_fork_keeps_memory_unless_files_are_asked_for_and_leaves_nothing() {
    let bed = bed().await;
    let parent = bed.create(CreateSandbox { template: Some("scratch".to_owned()), ..machine() }).await;
    let forked = bed.sandboxes.fork(&own(), &id(&parent), Fork { count: Some(2), ..Fork::default() }).await.unwrap();
    assert!(forked.memory);
    for child in &forked.children {
        let child = child.sandbox.as_ref().unwrap();
        assert_eq!((child.parent.as_ref(), &child.resources), (Some(&parent.id), &parent.resources));
        assert_eq!(child.isolation, "microvm/tcg");
    }
    bed.nothing_kept().await;
    let with_layers = bed.app().await;
    let files = Fork { memory: Some(false), ..Fork::default() };
    assert!(!bed.sandboxes.fork(&own(), &with_layers, files).await.unwrap().memory);
    let required = Fork { require_memory: true, ..Fork::default() };
    assert!(bed.sandboxes.fork(&own(), &with_layers, required.clone()).await.unwrap().memory);
    let refusal = bed.sandboxes.fork(&own(), &with_layers, Fork { memory: Some(false), ..required }).await.unwrap_err();
    assert_eq!(refusal.kind, ErrorKind::InvalidSpec);
    bed.nothing_kept().await;
}

#[tokio::test]
async fn a_fork_that_comes_to_nothing_leaves_nothing() {
    let bed = bed().await;
    let parent = bed.app().await;
    bed.world.configure(|fake| fake.start_error = Some("the guest did not confirm who it is".to_owned()));
    let forked = bed.sandboxes.fork(&own(), &parent, Fork::default()).await.unwrap();
    let error = forked.children[0].error.as_ref().unwrap();
    assert!(error.message.contains("did not confirm"), "{error:?}");
    bed.nothing_kept().await;
    assert_eq!((bed.state(&parent).as_str(), bed.world.alive().len()), ("running", 1));
}

#[tokio::test]
async fn a_snapshot_with_memory_is_made_again_after_a_restart_and_goes_when_it_is_removed() {
    let bed = bed().await;
    let limits = ResourceLimits { memory_mb: Some(256), vcpu: Some(2.0), ..ResourceLimits::default() };
    let command = Some(vec!["/bin/serve".to_owned()]);
    let parent = bed.create(CreateSandbox { resources: limits, command, ..machine() }).await;
    let taken = bed.sandboxes.snapshot(&own(), &id(&parent), TakeSnapshot::default()).await.unwrap();
    assert!(taken.memory && taken.bytes > 0 && taken.driver.as_deref() == Some("fake"));
    assert_eq!(taken.resources.as_ref(), Some(&parent.resources));
    assert_eq!(bed.kept(), std::slice::from_ref(&taken.id));
    bed.sandboxes.delete(&own(), &id(&parent)).await.unwrap();
    std::fs::create_dir(bed.dir.path().join("machines/fork-of-a-dead-daemon")).unwrap();
    let bed = bed.restart().await;
    assert_eq!(bed.kept(), std::slice::from_ref(&taken.id), "what nobody names is swept");
    assert_eq!(bed.sandboxes.snapshots(&own()).unwrap().snapshots, std::slice::from_ref(&taken));
    let made = bed.create(from(&taken.id)).await;
    assert_eq!((made.isolation.as_str(), made.isolation_asked.as_str()), ("microvm/tcg", "microvm"));
    assert_eq!(made.resources, parent.resources);
    let spec = bed.sandboxes.shared.base.engine.spec(&id(&made)).unwrap();
    assert_eq!(spec.main.as_ref().unwrap().command, "/bin/serve", "its main process goes on");
    let same = ResourceLimits { memory_mb: Some(256), ..ResourceLimits::default() };
    bed.create(CreateSandbox { resources: same, ..from(&taken.id) }).await;
    let other = ResourceLimits { memory_mb: Some(512), ..ResourceLimits::default() };
    let caps = SecurityOptions { cap_drop: vec!["all".to_owned()], ..SecurityOptions::default() };
    for (request, field) in [
        (CreateSandbox { resources: other, ..from(&taken.id) }, "resources.memory_mb"),
        (CreateSandbox { isolation: Some("process".to_owned()), ..from(&taken.id) }, "isolation"),
        (CreateSandbox { command: Some(vec!["sh".to_owned()]), ..from(&taken.id) }, "command"),
        (CreateSandbox { run_entrypoint: true, ..from(&taken.id) }, "run_entrypoint"),
        (CreateSandbox { security: caps, ..from(&taken.id) }, "security"),
    ] {
        let refusal = bed.sandboxes.create(&own(), request).await.unwrap_err().chain();
        assert!(refusal.starts_with(&format!("{field}: ")), "{field}: {refusal}");
    }
    // Those that were made of it do not need it.
    bed.sandboxes.delete_snapshot(&own(), &taken.id).await.unwrap();
    bed.nothing_kept().await;
    assert_eq!(bed.state(&id(&made)), "running");
}

#[tokio::test]
async fn a_snapshot_that_does_not_fit_any_more_is_refused_with_the_reason() {
    let bed = bed().await;
    let taken = bed.sandboxes.snapshot(&own(), &bed.app().await, TakeSnapshot::default()).await.unwrap();
    std::fs::write(bed.dir.path().join("machines").join(&taken.id).join("state"), "other").unwrap();
    let refusal = bed.sandboxes.create(&own(), from(&taken.id)).await.unwrap_err();
    assert!(refusal.chain().contains("damaged"), "{}", refusal.chain());
    assert_eq!(bed.kept(), [taken.id], "it is the operator's to look at");
}

#[tokio::test]
async fn files_of_a_machine_are_a_snapshot_like_any_other() {
    let bed = bed().await;
    let files = TakeSnapshot { memory: Some(false), name: Some("files".to_owned()) };
    let taken = bed.sandboxes.snapshot(&own(), &bed.app().await, files).await.unwrap();
    assert!(!taken.memory && taken.driver.is_none() && taken.resources.is_none());
    let made = bed.create(CreateSandbox { isolation: Some("container".to_owned()), ..from("files") }).await;
    assert_eq!(made.isolation_asked, "container");
    bed.nothing_kept().await;
}

fn pool() -> Settings {
    let template = PoolTemplate {
        name: "app".to_owned(),
        min_ready: 2,
        max_ready: 3,
        image: None,
        network: NetworkMode::Isolated,
        isolation: Isolation::Microvm,
    };
    Settings { pool: PoolConfig { templates: vec![template], ..PoolConfig::default() }, ..Settings::default() }
}

#[tokio::test]
async fn members_are_made_from_the_first_of_them() {
    let bed = Bed::with(machines(), pool()).await;
    let ready = async || {
        let pool = bed.templates.get("app").unwrap().pool.unwrap();
        (pool.ready >= 2 && pool.starting == 0).then_some(())
    };
    wait_until(SOON, "two members are ready", ready).await.unwrap();
    let kept = bed.kept();
    assert!(kept.len() == 1 && seeds::is_whole(&kept[0]), "{kept:?}");
    let engine = &bed.sandboxes.shared.base.engine;
    let restored = |view: &SandboxView| engine.spec(&view.id).is_some_and(|spec| spec.restore.is_some());
    assert_eq!(engine.list().iter().filter(|view| restored(view)).count(), engine.list().len() - 1, "one was booted");
    let made = bed.create(machine()).await;
    assert!(made.from_pool && made.isolation == "microvm/tcg", "{made:?}");
    // With its template goes what its members were made from.
    bed.templates.remove("app").await.unwrap();
    bed.nothing_kept().await;
}

#[tokio::test]
async fn members_boot_when_nothing_can_be_made_from_what_was_kept() {
    let bed = Bed::with(machines(), pool()).await;
    wait_until(SOON, "a machine is kept", async || (bed.kept().len() == 1).then_some(())).await.unwrap();
    let state = bed.dir.path().join("machines").join(&bed.kept()[0]).join("state");
    std::fs::write(state, "other").unwrap();
    let ready = async || {
        // Whatever could still be made before it broke is used up.
        let made = bed.create(machine()).await;
        let gone = bed.kept().is_empty() && bed.templates.get("app").unwrap().pool.unwrap().ready >= 2;
        bed.sandboxes.delete(&own(), &id(&made)).await.unwrap();
        gone.then_some(())
    };
    wait_until(SOON, "members boot again", ready).await.unwrap();
}
