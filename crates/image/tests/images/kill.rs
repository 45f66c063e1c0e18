//! A store whose process is killed at any moment is whole when it is opened again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use moat_image::Digest;
use moat_image::store::ImageStore;

use crate::fixture::{Layout, Packed, config, files, here, noise, pull, registry, root_of};
use moat_testkit::registry::Registry;

/// Set for the child: the store's directory.
const CHILD_STORE: &str = "MOAT_IMAGE_KILL_STORE";
/// Set for the child: what to pull, one a line.
const CHILD_NAMES: &str = "MOAT_IMAGE_KILL_NAMES";

/// Kills in all.
const KILLS: u64 = 24;

/// What the child prints after each thing it did.
const STEP: &str = "STEP";

/// Things the child does until it begins again.
const STEPS: u64 = 7;

#[tokio::test]
async fn a_kill_at_any_moment_leaves_whole_images_only() {
    let Some(server) = Registry::start().await.unwrap() else { return };
    let mut layout = Layout::new();
    let base: &[_] = &[("base", noise(300_000, 61))];
    let mut names = Vec::new();
    let mut expected = BTreeMap::new();
    for (tag, seed) in [("a", 62), ("b", 63), ("c", 64)] {
        let made = layout.image(&here(), &[base, &[(tag, noise(200_000, seed))]], Packed::Gzip);
        layout.name(&made, tag);
        server.push(&layout.named(tag), &format!("kill:{tag}")).await.unwrap();
        names.push(format!("{}/kill:{tag}", server.host()));
        let (reference, _dir) = crate::fixture::store();
        let (image, _pin) = pull(&reference, registry(names.last().unwrap())).await.unwrap();
        expected.insert(made.manifest, root_of(&image));
    }
    let dir = tempfile::tempdir().unwrap();
    let said = tempfile::NamedTempFile::new().unwrap();
    let mut found = 0;
    for round in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["kill::works_in_a_child", "--exact", "--nocapture"])
            .env(CHILD_STORE, dir.path())
            .env(CHILD_NAMES, names.join("\n"))
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(said.path()).unwrap())
            .spawn()
            .unwrap();
        // After any of its steps, and then somewhere within the next, of some 10 to 50 ms each.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        for _ in 0..round % STEPS {
            let step = lines.find(|line| line.contains(STEP));
            assert!(step.is_some(), "the child got no further: {}", std::fs::read_to_string(said.path()).unwrap());
        }
        tokio::time::sleep(Duration::from_millis(round * 17 % 60)).await;
        let ended = child.try_wait().unwrap();
        assert_eq!(ended, None, "the child ended on its own: {}", std::fs::read_to_string(said.path()).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        found += check(dir.path(), &expected);
    }
    assert!(found > 0, "no kill ever found an image: the child never got that far");
    let store = ImageStore::open(config(dir.path())).unwrap();
    for name in &names {
        pull(&store, registry(name)).await.unwrap();
    }
    assert_eq!(check(dir.path(), &expected), 3);
    drop(store);
    let store = ImageStore::open(config(dir.path())).unwrap();
    store.collect(&BTreeSet::new(), true).await.unwrap();
    assert!(files(dir.path()).is_empty(), "{:?}", files(dir.path()));
}

/// Opens the store and looks at all that has its final name. Tells how many images there are.
fn check(dir: &Path, expected: &BTreeMap<Digest, Digest>) -> usize {
    let store = ImageStore::open(config(dir)).unwrap();
    let images = store.list();
    for image in &images {
        assert_eq!(root_of(image), expected[&image.digest], "the root of {}", image.digest);
    }
    for blob in files(&dir.join("blobs/sha256")) {
        let content = std::fs::read(dir.join("blobs/sha256").join(&blob)).unwrap();
        assert_eq!(Digest::of(&content).hex(), blob);
    }
    assert!(files(&dir.join("scratch")).is_empty());
    images.len()
}

/// Does something only in the child of the test above: pulls, adopts, removes and collects until it is killed.
#[tokio::test]
async fn works_in_a_child() {
    let (Ok(dir), Ok(names)) = (std::env::var(CHILD_STORE), std::env::var(CHILD_NAMES)) else { return };
    let store = ImageStore::open(config(&PathBuf::from(dir))).unwrap();
    let names: Vec<&str> = names.lines().collect();
    loop {
        for name in &names {
            let pulled = pull(&store, registry(name)).await;
            drop(pulled.unwrap());
            println!("{STEP} pull");
        }
        let file = store.scratch_file();
        std::fs::write(&file, noise(50_000, 65)).unwrap();
        drop(store.adopt_layer(file, 1).await.unwrap());
        println!("{STEP} adopt");
        store.collect(&BTreeSet::new(), false).await.unwrap();
        println!("{STEP} collect");
        store.remove(names[0], &BTreeMap::new()).await.unwrap();
        println!("{STEP} remove");
        store.collect(&BTreeSet::new(), true).await.unwrap();
    }
}
