//! Pulls that go well.

use std::collections::BTreeSet;

use moat_image::progress::{Progress, PullPhase};
use moat_image::store::{ImageStore, Platform, Source};
use moat_model::ErrorKind;
use moat_testkit::registry::{Front, Registry, Wants};
use moat_testkit::wait_until;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::fixture::{Layout, Packed, config, files, here, noise, pull, registry, root_of, store};

const WITHIN: std::time::Duration = std::time::Duration::from_secs(60);

#[tokio::test]
async fn an_image_is_pulled_by_tag_and_by_digest_with_every_compression() {
    let Some(server) = Registry::start().await.unwrap() else { return };
    let mut roots = BTreeSet::new();
    for (name, packed) in [("plain", Packed::Plain), ("gzip", Packed::Gzip), ("zstd", Packed::Zstd)] {
        let mut layout = Layout::new();
        let layers: [&[_]; 2] = [&[("etc/one", b"1".to_vec())], &[("etc/two", noise(300_000, 7))]];
        let made = layout.image(&here(), &layers, packed);
        layout.name(&made, "x");
        server.push(&layout.named("x"), &format!("a/{name}:v1")).await.unwrap();
        let (store, _dir) = store();
        let by_tag = format!("{}/a/{name}:v1", server.host());
        let (image, _pin) = pull(&store, registry(&by_tag)).await.unwrap();
        assert_eq!(image.digest, made.manifest);
        assert_eq!(image.references, BTreeSet::from([by_tag.clone()]));
        assert_eq!(image.config.env["GREETING"], "hello");
        assert!(image.config.env.contains_key("PATH"));
        assert_eq!(image.config.working_dir.as_deref(), Some("/srv"));
        assert_eq!(std::fs::metadata(&image.root.path).unwrap().len(), image.root.bytes);
        roots.insert(root_of(&image));
        let by_digest = format!("{}/a/{name}@{}", server.host(), made.manifest);
        let (same, _pin) = pull(&store, registry(&by_digest)).await.unwrap();
        assert_eq!(same.root, image.root);
        assert_eq!(store.find(&by_tag).unwrap().0.digest, made.manifest);
        assert_eq!(store.find(&by_digest).unwrap().0.digest, made.manifest);
        assert_eq!(store.find(&made.manifest.to_string()).unwrap().0.digest, made.manifest);
        assert_eq!(store.list().len(), 1);
    }
    assert_eq!(roots.len(), 1, "one root, however the layers are compressed");
}

#[tokio::test]
async fn manifests_of_dockers_own_kind_are_read() {
    let Some(server) = Registry::start().await.unwrap() else { return };
    let mut layout = Layout::new();
    let made = layout.image(&here(), &[&[("a", noise(20_000, 4))], &[("b", b"b".to_vec())]], Packed::Gzip);
    layout.name(&made, "x");
    server.push_as_docker(&layout.named("x"), "docker:1").await.unwrap();
    let (store, _dir) = store();
    let (image, _pin) = pull(&store, registry(&format!("{}/docker:1", server.host()))).await.unwrap();
    assert_ne!(image.digest, made.manifest);
    assert_eq!(image.config.cmd, ["/bin/sh"]);
}

#[tokio::test]
async fn the_platform_is_taken_from_the_index_and_a_missing_one_lists_what_is_there() {
    let Some(server) = Registry::start().await.unwrap() else { return };
    let mut layout = Layout::new();
    let amd = layout.image("linux/amd64", &[&[("arch", b"amd64".to_vec())]], Packed::Gzip);
    let arm = layout.image("linux/arm64", &[&[("arch", b"arm64".to_vec())]], Packed::Gzip);
    let index = layout.index(&[&amd, &arm], "both");
    layout.name(&arm, "arm");
    server.push(&layout.named("both"), "multi:1").await.unwrap();
    server.push(&layout.named("arm"), "single:1").await.unwrap();
    let (store, _dir) = store();
    let at = async |name: &str, platform: &str| {
        let wanted: Platform = platform.parse().unwrap();
        let progress = watch::Sender::new(Progress::default());
        store.pull(registry(name), Some(wanted), progress, CancellationToken::new()).await
    };
    let name = format!("{}/multi:1", server.host());
    assert_eq!(at(&name, "linux/amd64").await.unwrap().0.digest, amd.manifest);
    assert_eq!(at(&name, "linux/arm64").await.unwrap().0.digest, arm.manifest);
    assert_eq!(store.find(&name).unwrap().0.platform.architecture, Platform::host().architecture);
    let pinned = format!("{}/multi@{index}", server.host());
    assert_eq!(at(&pinned, "linux/arm64").await.unwrap().0.digest, arm.manifest);
    let error = at(&name, "linux/s390x").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(error.chain().contains("linux/amd64, linux/arm64"), "{}", error.chain());
    let error = at(&format!("{}/single:1", server.host()), "linux/amd64").await.unwrap_err();
    assert!(error.chain().contains("for linux/arm64 only"), "{}", error.chain());
    let error = at(&format!("{}/none:1", server.host()), "linux/amd64").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound, "{}", error.chain());
}

#[tokio::test]
async fn a_cached_image_asks_for_one_manifest_and_by_digest_for_nothing() {
    let Some(server) = Registry::start().await.unwrap() else { return };
    let front = Front::start(&server.host(), Wants::Nothing).await.unwrap();
    let mut layout = Layout::new();
    let made = layout.image(&here(), &[&[("a", noise(50_000, 1))], &[("b", b"b".to_vec())]], Packed::Gzip);
    layout.name(&made, "x");
    server.push(&layout.named("x"), "cached:1").await.unwrap();
    let (store, dir) = store();
    let name = format!("{}/cached:1", front.host());
    let (first, _) = pull(&store, registry(&name)).await.unwrap();
    assert_eq!(front.requests("/blobs/").len(), 3);
    // Also after the store was closed and opened again.
    drop(store);
    let store = ImageStore::open(config(dir.path())).unwrap();
    let before = front.requests("/v2/cached").len();
    let progress = watch::Sender::new(Progress::default());
    let (second, _) = store.pull(registry(&name), None, progress.clone(), CancellationToken::new()).await.unwrap();
    assert_eq!(second, first);
    assert_eq!(progress.borrow().phase, PullPhase::Done);
    assert_eq!(front.requests("/v2/cached").len(), before + 1);
    let pinned = format!("{}/cached@{}", front.host(), made.manifest);
    pull(&store, registry(&pinned)).await.unwrap();
    assert_eq!(front.requests("/v2/cached").len(), before + 1);
    assert_eq!(front.requests("/blobs/").len(), 3);
}

#[tokio::test]
async fn pulls_at_once_are_one_and_layers_in_common_are_fetched_once() {
    let Some(server) = Registry::start().await.unwrap() else { return };
    let front = Front::start(&server.host(), Wants::Nothing).await.unwrap();
    let mut layout = Layout::new();
    let base: &[_] = &[("base", noise(400_000, 3))];
    let one = layout.image(&here(), &[base, &[("one", b"1".to_vec())]], Packed::Gzip);
    let two = layout.image(&here(), &[base, &[("two", b"2".to_vec())]], Packed::Gzip);
    layout.name(&one, "one");
    layout.name(&two, "two");
    server.push(&layout.named("one"), "same:one").await.unwrap();
    server.push(&layout.named("two"), "same:two").await.unwrap();
    let (store, dir) = store();
    let (name_one, name_two) = (format!("{}/same:one", front.host()), format!("{}/same:two", front.host()));
    let follower = watch::Sender::new(Progress::default());
    let followed = store.pull(registry(&name_one), None, follower.clone(), CancellationToken::new());
    let (a, b, c, d) = tokio::join!(
        pull(&store, registry(&name_one)),
        followed,
        pull(&store, registry(&name_two)),
        pull(&store, registry(&name_one)),
    );
    assert_eq!(a.unwrap().0.root, b.unwrap().0.root);
    assert_eq!(d.unwrap().0.digest, one.manifest);
    assert_eq!(c.unwrap().0.digest, two.manifest);
    assert_eq!(follower.borrow().phase, PullPhase::Done);
    for blob in one.layers.iter().chain(&two.layers).chain([&one.config, &two.config]) {
        assert_eq!(front.requests(&format!("/blobs/{blob}")).len(), 1, "{blob}");
    }
    assert_eq!(files(&dir.path().join("roots")).len(), 2);
    assert!(files(&dir.path().join("scratch")).is_empty());
    assert!(files(&dir.path().join("partial")).is_empty());
}

#[tokio::test]
async fn a_tag_that_moved_means_the_new_image() {
    let Some(server) = Registry::start().await.unwrap() else { return };
    let mut layout = Layout::new();
    let old = layout.image(&here(), &[&[("v", b"1".to_vec())]], Packed::Gzip);
    let new = layout.image(&here(), &[&[("v", b"2".to_vec())]], Packed::Gzip);
    layout.name(&old, "old");
    layout.name(&new, "new");
    let (store, _dir) = store();
    let name = format!("{}/moves:latest", server.host());
    for (which, made) in [("old", &old), ("new", &new), ("old", &old)] {
        server.push(&layout.named(which), "moves:latest").await.unwrap();
        assert_eq!(pull(&store, registry(&name)).await.unwrap().0.digest, made.manifest);
        assert_eq!(store.find(&name).unwrap().0.digest, made.manifest);
    }
    assert!(store.get(&new.manifest).unwrap().0.references.is_empty());
    let done = store.collect(&BTreeSet::new(), false).await.unwrap();
    assert_eq!(done.images, [new.manifest]);
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_the_registry_when_it_does_not_help() {
    let Some(server) = Registry::start().await.unwrap() else { return };
    let front = Front::start(&server.host(), Wants::Nothing).await.unwrap();
    let mut layout = Layout::new();
    let made = layout.image(&here(), &[&[("m", noise(10_000, 5))]], Packed::Gzip);
    layout.name(&made, "x");
    server.push(&layout.named("x"), "library/mirrored:1").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut with_mirrors = config(dir.path());
    // Nobody listens on port 1. The name itself leads nowhere: only the second mirror can have helped.
    with_mirrors.mirrors.insert("docker.io".to_owned(), vec!["127.0.0.1:1".to_owned(), front.host()]);
    let mirrored = ImageStore::open(with_mirrors).unwrap();
    let (image, _pin) = pull(&mirrored, registry("mirrored:1")).await.unwrap();
    assert_eq!(image.digest, made.manifest);
    assert!(image.references.contains("docker.io/library/mirrored:1"));

    // A mirror with other bytes: the registry has the right ones.
    let dir = tempfile::tempdir().unwrap();
    let mut with_mirrors = config(dir.path());
    with_mirrors.mirrors.insert(server.host(), vec![front.host()]);
    front.fault(&made.layers[0].hex(), moat_testkit::registry::Fault::Corrupt);
    let other = ImageStore::open(with_mirrors).unwrap();
    let (image, _pin) = pull(&other, registry(&format!("{}/library/mirrored:1", server.host()))).await.unwrap();
    assert_eq!(image.digest, made.manifest);
}

#[tokio::test]
async fn a_cancelled_pull_leaves_only_what_the_next_goes_on_with() {
    let Some(server) = Registry::start().await.unwrap() else { return };
    let front = Front::start(&server.host(), Wants::Nothing).await.unwrap();
    let mut layout = Layout::new();
    let made = layout.image(&here(), &[&[("a", noise(600_000, 11))], &[("b", noise(1000, 12))]], Packed::Gzip);
    layout.name(&made, "x");
    server.push(&layout.named("x"), "cancelled:1").await.unwrap();
    let (store, dir) = store();
    let name = format!("{}/cancelled:1", front.host());
    front.fault(&made.layers[0].hex(), moat_testkit::registry::Fault::Silence(200_000));
    let (progress, cancel) = (watch::Sender::new(Progress::default()), CancellationToken::new());
    let mut seen = progress.subscribe();
    let pulling = tokio::spawn({
        let (store, name, cancel) = (store.clone(), name.clone(), cancel.clone());
        async move { store.pull(registry(&name), None, progress, cancel).await }
    });
    let moved = seen.wait_for(|p| p.layers.first().is_some_and(|l| l.bytes_done >= 200_000));
    tokio::time::timeout(WITHIN, moved).await.unwrap().unwrap();
    cancel.cancel();
    let error = pulling.await.unwrap().unwrap_err();
    assert!(error.chain().contains("cancelled"), "{}", error.chain());
    assert!(store.list().is_empty());
    // Threads that were writing end on their own.
    wait_until(WITHIN, "scratch is empty", async || files(&dir.path().join("scratch")).is_empty().then_some(()))
        .await
        .unwrap();
    assert!(files(&dir.path().join("roots")).is_empty());
    let partial = dir.path().join("partial").join(made.layers[0].hex());
    wait_until(WITHIN, "the partial blob is written", async || {
        std::fs::metadata(&partial).is_ok_and(|meta| meta.len() >= 200_000).then_some(())
    })
    .await
    .unwrap();
    let (image, _pin) = pull(&store, registry(&name)).await.unwrap();
    assert_eq!(image.digest, made.manifest);
    let asked = front.requests(&format!("/blobs/{}", made.layers[0]));
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked[1].contains(" from 2"), "{asked:?}");
    assert!(files(&dir.path().join("partial")).is_empty());
}

#[tokio::test]
async fn what_a_source_lacks_is_said_with_its_name() {
    let (store, dir) = store();
    for source in [
        Source::OciLayout { path: dir.path().join("none"), name: None },
        Source::DockerArchive { path: dir.path().join("none"), name: None },
        Source::RootArchive { path: dir.path().join("none") },
        Source::Directory { path: dir.path().join("none") },
    ] {
        let error = pull(&store, source).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert!(error.chain().contains("none"), "{}", error.chain());
    }
    let error = pull(&store, registry("127.0.0.1:1/a")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{}", error.chain());
}
