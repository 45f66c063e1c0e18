//! Removing and collecting.

use std::collections::{BTreeMap, BTreeSet};

use moat_image::Digest;
use moat_image::store::{ImageStore, Source};
use moat_model::ErrorKind;
use moat_testkit::registry::Registry;

use crate::fixture::{Layout, Packed, config, files, here, noise, pull, registry, store};

#[tokio::test]
async fn what_is_pinned_used_or_named_stays_and_the_rest_goes() {
    let Some(server) = Registry::start().await.unwrap() else { return };
    let mut layout = Layout::new();
    let base: &[_] = &[("base", noise(30_000, 51))];
    let one = layout.image(&here(), &[base, &[("one", b"1".to_vec())]], Packed::Gzip);
    let two = layout.image(&here(), &[base, &[("two", b"2".to_vec())]], Packed::Gzip);
    for (made, name) in [(&one, "one"), (&two, "two")] {
        layout.name(made, name);
        server.push(&layout.named(name), &format!("gc:{name}")).await.unwrap();
    }
    let (store, dir) = store();
    let name = |tag: &str| format!("{}/gc:{tag}", server.host());
    let (first, pin_one) = pull(&store, registry(&name("one"))).await.unwrap();
    let (second, pin_two) = pull(&store, registry(&name("two"))).await.unwrap();
    drop(pin_two);
    let none = BTreeSet::new();

    // Named: nothing goes. Not named, but pinned or used: neither.
    assert!(store.collect(&none, false).await.unwrap().images.is_empty());
    let used = BTreeSet::from([second.root.digest]);
    assert!(store.collect(&used, true).await.unwrap().images.is_empty());

    // Only the pinned one stays, with the layer that both had.
    let done = store.collect(&none, true).await.unwrap();
    assert_eq!(done.images, [two.manifest]);
    assert_eq!(done.files, 3, "record, root, and the layer of its own");
    assert!(done.bytes >= second.root.bytes);
    assert!(store.get(&two.manifest).is_none() && store.find(&name("two")).is_none());
    assert_eq!(files(&dir.path().join("blobs")).len(), 2);
    assert!(first.root.path.exists() && !second.root.path.exists());

    let error = store.remove(&name("one"), &BTreeMap::new()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{}", error.chain());
    drop(pin_one);
    let users = BTreeMap::from([(first.root.digest, vec!["sandbox sb-1".to_owned(), "template t".to_owned()])]);
    let error = store.remove(&name("one"), &users).await.unwrap_err();
    assert!(error.chain().contains("sandbox sb-1, template t"), "{}", error.chain());
    let done = store.remove(&name("one"), &BTreeMap::new()).await.unwrap();
    assert_eq!((done.images.as_slice(), done.files), ([one.manifest].as_slice(), 4));
    assert!(files(dir.path()).is_empty(), "{:?}", files(dir.path()));
    assert_eq!(store.remove(&name("one"), &BTreeMap::new()).await.unwrap_err().kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn one_name_of_several_is_forgotten_alone() {
    let Some(server) = Registry::start().await.unwrap() else { return };
    let mut layout = Layout::new();
    let made = layout.image(&here(), &[&[("a", b"a".to_vec())]], Packed::Gzip);
    layout.name(&made, "x");
    let (store, _dir) = store();
    let mut names = Vec::new();
    for tag in ["a", "b"] {
        server.push(&layout.named("x"), &format!("names:{tag}")).await.unwrap();
        names.push(format!("{}/names:{tag}", server.host()));
        pull(&store, registry(names.last().unwrap())).await.unwrap();
    }
    assert!(store.remove(&names[0], &BTreeMap::new()).await.unwrap().images.is_empty());
    assert!(store.find(&names[0]).is_none());
    assert_eq!(store.find(&names[1]).unwrap().0.digest, made.manifest);
}

#[tokio::test]
async fn an_adopted_layer_is_kept_by_its_pin_and_then_by_its_use() {
    let (store, dir) = store();
    let file = store.scratch_file();
    std::fs::write(&file, b"a layer").unwrap();
    let (root, pin) = store.adopt_layer(file.clone(), 7).await.unwrap();
    assert_eq!((root.digest, root.bytes, root.entries), (Digest::of(b"a layer"), 7, 7));
    assert!(!file.exists() && root.path.exists());
    store.collect(&BTreeSet::new(), true).await.unwrap();
    assert!(root.path.exists());
    drop(pin);
    store.collect(&BTreeSet::from([root.digest]), true).await.unwrap();
    assert!(root.path.exists());
    let done = store.collect(&BTreeSet::new(), false).await.unwrap();
    assert_eq!((done.files, done.bytes), (1, 7));
    assert!(files(dir.path()).is_empty());
}

#[tokio::test]
async fn opening_sweeps_what_is_half_made_and_forgets_images_without_a_root() {
    let mut layout = Layout::new();
    let made = layout.image(&here(), &[&[("a", b"a".to_vec())]], Packed::Gzip);
    layout.name(&made, "x");
    let (store, dir) = store();
    let source = Source::OciLayout { path: layout.path().to_owned(), name: None };
    let (image, pin) = pull(&store, source.clone()).await.unwrap();
    drop((store, pin));
    std::fs::write(dir.path().join("scratch/17"), b"half a root").unwrap();
    std::fs::write(dir.path().join("index/garbage.json"), b"{").unwrap();
    let store = ImageStore::open(config(dir.path())).unwrap();
    assert_eq!(store.list(), std::slice::from_ref(&image));
    assert!(files(&dir.path().join("scratch")).is_empty());
    assert_eq!(files(&dir.path().join("index")).len(), 1);
    drop(store);
    std::fs::write(&image.root.path, b"cut").unwrap();
    let store = ImageStore::open(config(dir.path())).unwrap();
    assert!(store.list().is_empty());
    assert_eq!(pull(&store, source).await.unwrap().0.root, image.root);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn collections_beside_pulls_take_nothing_that_is_held() {
    let Some(server) = Registry::start().await.unwrap() else { return };
    let mut layout = Layout::new();
    let base: &[_] = &[("base", noise(20_000, 52))];
    let mut names = Vec::new();
    for tag in ["a", "b", "c"] {
        let made = layout.image(&here(), &[base, &[(tag, noise(9000, 53))]], Packed::Gzip);
        layout.name(&made, tag);
        server.push(&layout.named(tag), &format!("race:{tag}")).await.unwrap();
        names.push(format!("{}/race:{tag}", server.host()));
    }
    let (store, dir) = store();
    let pulls = names.into_iter().map(|name| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0..10 {
                // Some are given up on the way, wherever that is.
                let pulling = pull(&store, registry(&name));
                let within = std::time::Duration::from_millis(if round % 3 == 2 { 7 } else { 60_000 });
                let Ok(pulled) = tokio::time::timeout(within, pulling).await else { continue };
                let (image, _pin) = pulled.unwrap();
                assert_eq!(std::fs::metadata(&image.root.path).unwrap().len(), image.root.bytes);
                assert!(store.get(&image.digest).is_some());
            }
        })
    });
    let pulls = futures::future::join_all(pulls);
    let collecting = {
        let store = store.clone();
        tokio::spawn(async move {
            loop {
                store.collect(&BTreeSet::new(), true).await.unwrap();
                tokio::task::yield_now().await;
            }
        })
    };
    for pull in pulls.await {
        pull.unwrap();
    }
    collecting.abort();
    drop(collecting.await);
    // Threads of pulls that were given up may still be at work: when the store is opened anew, nothing of it counts.
    drop(store);
    let store = ImageStore::open(config(dir.path())).unwrap();
    for image in store.list() {
        assert_eq!(std::fs::metadata(&image.root.path).unwrap().len(), image.root.bytes);
    }
}
