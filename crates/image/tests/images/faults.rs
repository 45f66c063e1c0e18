//! Registries and networks that misbehave.

use moat_image::store::{ImageStore, Source};
use moat_model::ErrorKind;
use moat_testkit::registry::{Fault, Front, Registry, Wants};
use moat_testkit::{is_root, not_run_here};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::fixture::{Layout, Made, Packed, config, files, here, noise, pull, registry, store};

/// A registry with one image behind a front.
async fn served(name: &str) -> Option<(Registry, Front, Layout, Made, String)> {
    let server = Registry::start().await.unwrap()?;
    let front = Front::start(&server.host(), Wants::Nothing).await.unwrap();
    let mut layout = Layout::new();
    let made = layout.image(&here(), &[&[("a", noise(500_000, 21))], &[("b", noise(2000, 22))]], Packed::Gzip);
    layout.name(&made, "x");
    server.push(&layout.named("x"), &format!("{name}:1")).await.unwrap();
    let at = format!("{}/{name}:1", front.host());
    Some((server, front, layout, made, at))
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_broke() {
    let Some((_server, front, _layout, made, name)) = served("broken").await else { return };
    let big = made.layers[0];
    front.fault(&big.hex(), Fault::Break(150_000));
    front.fault(&big.hex(), Fault::Break(100_000));
    let (store, _dir) = store();
    let (image, _pin) = pull(&store, registry(&name)).await.unwrap();
    assert_eq!(image.digest, made.manifest);
    let asked = front.requests(&format!("/blobs/{big}"));
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert!(asked[1].ends_with(" from 150000") && asked[2].ends_with(" from 250000"), "{asked:?}");
}

#[tokio::test]
async fn passing_refusals_are_asked_again_and_lasting_ones_reported() {
    let Some((_server, front, _layout, made, name)) = served("refused").await else { return };
    front.fault("/manifests/", Fault::Status(503));
    front.fault(&made.config.hex(), Fault::Status(429));
    front.fault(&made.layers[0].hex(), Fault::Status(500));
    let (store, dir) = store();
    pull(&store, registry(&name)).await.unwrap();
    drop(store);
    drop(dir);
    for (status, kind) in [
        (503, ErrorKind::Unavailable),
        (429, ErrorKind::Exhausted),
        (403, ErrorKind::Denied),
        (404, ErrorKind::NotFound),
    ] {
        let (store, dir) = crate::fixture::store();
        for _ in 0..5 {
            front.fault(&made.layers[1].hex(), Fault::Status(status));
        }
        let error = pull(&store, registry(&name)).await.unwrap_err();
        assert_eq!(error.kind, kind, "{}", error.chain());
        assert!(error.chain().contains(&made.layers[1].to_string()), "{}", error.chain());
        assert!(store.list().is_empty() && files(&dir.path().join("roots")).is_empty());
        front.forgive();
    }
}

#[tokio::test]
async fn other_bytes_than_asked_for_are_refused_on_the_way_and_at_rest() {
    let Some((server, front, _layout, made, name)) = served("corrupt").await else { return };
    let (store, dir) = store();
    for part in [made.layers[0].hex(), made.config.hex(), "/manifests/".to_owned()] {
        // More often than anybody asks.
        for _ in 0..10 {
            front.fault(&part, Fault::Corrupt);
        }
        let error = pull(&store, registry(&name)).await.unwrap_err();
        assert!(error.chain().contains("not what was asked for"), "{part}: {}", error.chain());
        front.forgive();
        assert!(store.list().is_empty());
        assert!(files(&dir.path().join("roots")).is_empty());
        assert!(!files(&dir.path().join("blobs")).iter().any(|f| f.contains(&made.layers[0].hex())));
    }
    // The first layer's damage calls the other one off, unless that was quicker.
    let is_there = || files(&dir.path().join("blobs")).iter().any(|f| f.contains(&made.layers[1].hex()));
    for _ in 0..100 {
        if is_there() {
            break;
        }
        for _ in 0..10 {
            front.fault(&made.layers[0].hex(), Fault::Corrupt);
        }
        pull(&store, registry(&name)).await.unwrap_err();
        front.forgive();
    }
    assert!(is_there(), "a layer that was verified is kept");
    // One byte of the registry's own file, its length unchanged.
    let file = server.blob_file(&made.layers[1].hex());
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let (fresh, _dir) = crate::fixture::store();
    let error = pull(&fresh, registry(&name)).await.unwrap_err();
    assert!(error.chain().contains("not what was asked for"), "{}", error.chain());
    // The other store has this layer, verified, from one of the pulls that failed for another reason.
    pull(&store, registry(&name)).await.unwrap();
}

#[tokio::test]
async fn a_blob_longer_or_shorter_than_its_size_is_refused() {
    let Some((server, _front, _layout, made, name)) = served("sizes").await else { return };
    let file = server.blob_file(&made.layers[1].hex());
    let right = std::fs::read(&file).unwrap();
    let (store, dir) = store();
    let name = name.replace(name.split('/').next().unwrap(), &server.host());
    std::fs::write(&file, [right.clone(), b"more".to_vec()].concat()).unwrap();
    let error = pull(&store, registry(&name)).await.unwrap_err();
    assert!(error.chain().contains("more than the"), "{}", error.chain());
    std::fs::write(&file, &right[..right.len() / 2]).unwrap();
    let error = pull(&store, registry(&name)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{}", error.chain());
    std::fs::write(&file, &right).unwrap();
    pull(&store, registry(&name)).await.unwrap();
    assert!(files(&dir.path().join("partial")).is_empty());
}

#[tokio::test]
async fn what_an_earlier_process_left_damaged_is_begun_anew() {
    let Some((_server, front, _layout, made, name)) = served("damaged").await else { return };
    let (store, dir) = store();
    let partial = dir.path().join("partial").join(made.layers[0].hex());
    std::fs::write(&partial, noise(5000, 99)).unwrap();
    let (image, _pin) = pull(&store, registry(&name)).await.unwrap();
    assert_eq!(image.digest, made.manifest);
    let asked = front.requests(&format!("/blobs/{}", made.layers[0]));
    assert!(asked.len() == 2 && asked[0].ends_with(" from 5000"), "{asked:?}");
}

#[tokio::test]
async fn a_layer_that_is_not_its_diff_id_is_refused() {
    let mut layout = Layout::new();
    let tar = crate::fixture::tar_of(&[("a", b"a".to_vec())]);
    let wrong = moat_image::Digest::of(b"something else").to_string();
    let made = layout.image_with(&here(), &[tar], &[wrong], Packed::Gzip);
    layout.name(&made, "x");
    let (store, dir) = store();
    let source = Source::OciLayout { path: layout.path().to_owned(), name: None };
    let error = pull(&store, source).await.unwrap_err();
    assert!(error.chain().contains("diff_id"), "{}", error.chain());
    assert!(files(dir.path()).is_empty(), "{:?}", files(dir.path()));
}

#[tokio::test]
async fn a_redirect_to_plain_http_elsewhere_is_not_followed() {
    let Some((_server, front, _layout, made, name)) = served("redirected").await else { return };
    for part in ["/manifests/", &made.layers[0].hex()] {
        for to in ["http://registry.invalid/x", "http://169.254.169.254/latest/meta-data", "file:///etc/passwd"] {
            let (store, _dir) = store();
            front.fault(part, Fault::Redirect(to));
            let error = pull(&store, registry(&name)).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Denied, "{to}: {}", error.chain());
            let plain = to.starts_with("http:");
            assert_eq!(error.chain().contains("not HTTPS"), plain, "{to}: {}", error.chain());
            front.forgive();
        }
    }
}

#[tokio::test]
async fn a_full_disk_is_named_and_leaves_nothing() {
    if !is_root() {
        return not_run_here("mounting a small file system needs root");
    }
    let Some((_server, _front, _layout, _made, name)) = served("full").await else { return };
    // Too small for the layer, and too small for the root beside it.
    for (size, full) in [(c"size=300k", "partial"), (c"size=800k", "scratch")] {
        let dir = tempfile::tempdir().unwrap();
        rustix::mount::mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), size).unwrap();
        let store = ImageStore::open(config(dir.path())).unwrap();
        let error = pull(&store, registry(&name)).await.unwrap_err();
        rustix::mount::unmount(dir.path(), UnmountFlags::DETACH).unwrap();
        assert_eq!(error.kind, ErrorKind::Exhausted, "{}", error.chain());
        let named = dir.path().join(full).display().to_string();
        assert!(error.chain().contains(&format!("{named} is full")), "{}", error.chain());
    }
}
