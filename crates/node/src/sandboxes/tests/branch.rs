//! Snapshots and forks.

use moat_api::rest::sandbox::{Fork, TakeSnapshot};

use super::*;

fn named(name: &str) -> TakeSnapshot {
    TakeSnapshot { name: Some(name.to_owned()), memory: None }
}

fn from(snapshot: &str) -> CreateSandbox {
    CreateSandbox { snapshot: Some(snapshot.to_owned()), ..CreateSandbox::default() }
}

fn layers(bed: &Bed, sandbox: &Sandbox) -> usize {
    plan::layers_of(&bed.sandboxes.shared.base.engine.spec(&id(sandbox)).unwrap().root).len()
}

#[tokio::test]
async fn a_snapshot_is_used_by_id_and_by_name_and_survives_restart_and_template() {
    let bed = Bed::new().await;
    let env = label("SECRET", "hunter2");
    let parent = id(&bed.create(CreateSandbox { env, ..app() }).await);
    let taken = bed.sandboxes.snapshot(&own(), &parent, named("first")).await.unwrap();
    assert!(taken.id.starts_with("sn-") && !taken.memory && taken.bytes > 0);
    assert_eq!(bed.state(&parent), "running");
    let record = std::fs::read_to_string(bed.dir.path().join(format!("snapshots/{}.json", taken.id))).unwrap();
    assert!(!record.contains("hunter2"), "{record}");
    bed.sandboxes.delete(&own(), &parent).await.unwrap();
    bed.templates.remove("app").await.unwrap();
    bed.templates.collect(true).await.unwrap();
    let bed = bed.restart().await;
    assert_eq!(bed.sandboxes.snapshots(&own()).unwrap().snapshots, std::slice::from_ref(&taken));
    for text in [taken.id.as_str(), "first"] {
        let made = bed.create(from(text)).await;
        assert_eq!((made.template.as_deref(), layers(&bed, &made)), (Some("app"), 2));
        let spec = bed.sandboxes.shared.base.engine.spec(&id(&made)).unwrap();
        assert_eq!(spec.process.env["GREETING"], "hello");
        assert!(!spec.process.env.contains_key("SECRET"));
        let refusal = bed.sandboxes.delete_snapshot(&own(), text).await.unwrap_err();
        assert!(refusal.kind == ErrorKind::Conflict && refusal.chain().contains(&made.id), "{}", refusal.chain());
        bed.sandboxes.delete(&own(), &id(&made)).await.unwrap();
    }
    bed.sandboxes.delete_snapshot(&own(), "first").await.unwrap();
    assert_eq!(bed.sandboxes.delete_snapshot(&own(), &taken.id).await.unwrap_err().kind, ErrorKind::NotFound);
    bed.templates.collect(true).await.unwrap();
    let left = std::fs::read_dir(bed.dir.path().join("images/roots")).unwrap().count();
    assert_eq!(left, 0, "layers that nothing needs are gone");
}

#[tokio::test]
async fn names_are_unique_in_a_namespace_and_free_again() {
    let bed = Bed::new().await;
    let sandbox = bed.app().await;
    bed.sandboxes.snapshot(&own(), &sandbox, named("first")).await.unwrap();
    let refusal = bed.sandboxes.snapshot(&own(), &sandbox, named("first")).await.unwrap_err();
    assert_eq!(refusal.kind, ErrorKind::Conflict);
    for bad in ["../first", "", "sn-first", "a b"] {
        let refusal = bed.sandboxes.snapshot(&own(), &sandbox, named(bad)).await.unwrap_err();
        assert_eq!(refusal.kind, ErrorKind::InvalidSpec, "{bad}");
    }
    bed.sandboxes.delete_snapshot(&own(), "first").await.unwrap();
    bed.sandboxes.snapshot(&own(), &sandbox, named("first")).await.unwrap();
    bed.sandboxes.snapshot(&own(), &sandbox, TakeSnapshot::default()).await.unwrap();
    assert_eq!(bed.sandboxes.snapshots(&own()).unwrap().snapshots.len(), 2);
}

#[tokio::test]
async fn e17_a_snapshot_that_failed_has_no_name_and_leaves_nothing() {
    let bed = Bed::new().await;
    bed.world.configure(|fake| fake.freeze_error = Some("No space left on device (os error 28)".to_owned()));
    let sandbox = bed.app().await;
    let refused = |error: &Error| {
        assert_eq!(bed.sandboxes.snapshots(&own()).unwrap().snapshots, [], "{}", error.chain());
    };
    let error = bed.sandboxes.snapshot(&own(), &sandbox, named("first")).await.unwrap_err();
    assert!(error.chain().contains("No space left"), "{}", error.chain());
    refused(&error);
    assert_eq!(bed.sandboxes.create(&own(), from("first")).await.unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(bed.state(&sandbox), "running");
    // The layer is there, and its record cannot be written.
    bed.world.configure(|fake| fake.freeze_error = None);
    let sandbox = bed.app().await;
    let records = bed.dir.path().join("snapshots");
    std::fs::remove_dir(&records).unwrap();
    let error = bed.sandboxes.snapshot(&own(), &sandbox, named("first")).await.unwrap_err();
    refused(&error);
    assert_eq!(bed.sandboxes.create(&own(), from("first")).await.unwrap_err().kind, ErrorKind::NotFound);
    let scratch = || std::fs::read_dir(bed.dir.path().join("images/scratch")).unwrap().count();
    wait_until(SOON, "no file is left half made", async || (scratch() == 0).then_some(())).await.unwrap();
    std::fs::create_dir(&records).unwrap();
    bed.sandboxes.snapshot(&own(), &sandbox, named("first")).await.unwrap();
    bed.create(from("first")).await;
}

#[tokio::test]
async fn e18_a_fork_has_the_files_and_says_that_it_has_no_memory() {
    let bed = Bed::new().await;
    let labels = BTreeMap::from([("team".to_owned(), "a".to_owned()), ("role".to_owned(), "parent".to_owned())]);
    let parent = bed.create(CreateSandbox { metadata: labels, env: label("A", "1"), ..app() }).await;
    let request = Fork { count: Some(3), metadata: label("role", "child"), timeout_sec: Some(77), ..Fork::default() };
    let forked = bed.sandboxes.fork(&own(), &id(&parent), request).await.unwrap();
    assert!(!forked.memory);
    assert_eq!(forked.children.len(), 3);
    for child in forked.children {
        let child = child.sandbox.unwrap();
        assert_eq!((child.parent.as_ref(), child.template.as_deref()), (Some(&parent.id), Some("app")));
        assert_eq!((child.metadata["team"].as_str(), child.metadata["role"].as_str()), ("a", "child"));
        assert_eq!((layers(&bed, &child), child.state.as_str()), (2, "running"));
        assert!(child.remaining_sec.unwrap() <= 77);
        let spec = bed.sandboxes.shared.base.engine.spec(&id(&child)).unwrap();
        assert_eq!(spec.process.env["A"], "1");
    }
    assert_eq!(bed.state(&id(&parent)), "running");
    let memory = Fork { require_memory: true, ..Fork::default() };
    let refusal = bed.sandboxes.fork(&own(), &id(&parent), memory).await.unwrap_err();
    assert!(refusal.kind == ErrorKind::Unsupported && refusal.chain().contains("require_memory"));
    for count in [0, 17] {
        let refusal = bed.sandboxes.fork(&own(), &id(&parent), Fork { count: Some(count), ..Fork::default() }).await;
        assert_eq!(refusal.unwrap_err().kind, ErrorKind::InvalidSpec);
    }
    // A paused one too, and it stays paused.
    bed.sandboxes.pause(&own(), &id(&parent), Pause::default()).await.unwrap();
    let forked = bed.sandboxes.fork(&own(), &id(&parent), Fork::default()).await.unwrap();
    assert_eq!(forked.children[0].sandbox.as_ref().unwrap().state, "running");
    assert_eq!(bed.state(&id(&parent)), "paused");
}

#[tokio::test]
async fn e18_what_has_no_layers_cannot_be_forked_and_says_so() {
    let bed = Bed::new().await;
    for template in ["host", "scratch"] {
        let made = bed.create(CreateSandbox { template: Some(template.to_owned()), ..Default::default() }).await;
        let refusal = bed.sandboxes.fork(&own(), &id(&made), Fork::default()).await.unwrap_err();
        assert!(refusal.kind == ErrorKind::Unsupported && refusal.chain().contains("image"), "{}", refusal.chain());
        let refusal = bed.sandboxes.snapshot(&own(), &id(&made), TakeSnapshot::default()).await.unwrap_err();
        assert_eq!(refusal.kind, ErrorKind::Unsupported);
    }
}

#[tokio::test]
async fn e19_a_child_that_cannot_be_made_does_not_take_the_others_with_it() {
    let three = SandboxesConfig { max_per_namespace: Some(3), ..SandboxesConfig::default() };
    let bed = Bed::with(container(), Settings { sandboxes: three, ..Settings::default() }).await;
    let parent = bed.app().await;
    let forked = bed.sandboxes.fork(&own(), &parent, Fork { count: Some(4), ..Fork::default() }).await.unwrap();
    let (made, failed): (Vec<_>, Vec<_>) = forked.children.into_iter().partition(|c| c.sandbox.is_some());
    assert_eq!((made.len(), failed.len()), (2, 2));
    assert!(failed.iter().all(|c| c.error.as_ref().unwrap().code == "exhausted"));
}
