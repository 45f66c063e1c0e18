//! What happens to files is told.

use std::collections::BTreeSet;
use std::path::Path;

use moat_engine::Guest;
use moat_model::ErrorKind;
use moat_model::file::{WatchEvent, WatchKind};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

use crate::files::text;
use crate::harness::{DEADLINE, Sandbox, until_alone};

/// Events up to and with this one.
async fn up_to(events: &mut Receiver<WatchEvent>, kind: WatchKind, path: &Path) -> Vec<WatchEvent> {
    let mut seen = Vec::new();
    loop {
        let event = timeout(DEADLINE, events.recv()).await.unwrap_or_else(|_| panic!("only {seen:?}")).expect("open");
        seen.push(event.clone());
        if event.kind == kind && event.path == text(path) {
            return seen;
        }
    }
}

#[tokio::test]
async fn changes_are_told_in_order() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let top = sandbox.dir.path().join("local");
    let mut events = guest.watch(None, &text(&top), true).await.unwrap();
    let file = top.join("f");
    std::fs::write(&file, "x").unwrap();
    std::fs::rename(&file, top.join("g")).unwrap();
    std::fs::rename(top.join("g"), sandbox.dir.path().join("away")).unwrap();
    std::fs::rename(sandbox.dir.path().join("away"), top.join("h")).unwrap();
    std::fs::remove_file(top.join("h")).unwrap();
    let seen = up_to(&mut events, WatchKind::Removed, &top.join("h")).await;
    let event = |kind, name: &str, to: Option<&str>| WatchEvent {
        kind,
        path: text(&top.join(name)),
        to: to.map(|to| text(&top.join(to))),
    };
    assert_eq!(
        seen,
        [
            event(WatchKind::Created, "f", None),
            event(WatchKind::Written, "f", None),
            event(WatchKind::Renamed, "f", Some("g")),
            event(WatchKind::Renamed, "g", None),
            event(WatchKind::Created, "h", None),
            event(WatchKind::Removed, "h", None),
        ]
    );
    // Directories that are renamed keep being watched, under their new name.
    std::fs::create_dir(top.join("d")).unwrap();
    up_to(&mut events, WatchKind::Created, &top.join("d")).await;
    std::fs::rename(top.join("d"), top.join("e")).unwrap();
    up_to(&mut events, WatchKind::Renamed, &top.join("d")).await;
    std::fs::write(top.join("e/in"), "").unwrap();
    up_to(&mut events, WatchKind::Created, &top.join("e/in")).await;
    // It ends with what is watched, or when nobody listens.
    std::fs::remove_dir_all(&top).unwrap();
    up_to(&mut events, WatchKind::Removed, &top).await;
    assert_eq!(timeout(DEADLINE, events.recv()).await.unwrap(), None);
    let events = guest.watch(None, &text(sandbox.dir.path()), false).await.unwrap();
    drop(events);
    until_alone(&guest).await;
    let missing = guest.watch(None, "/not/there", true).await.unwrap_err();
    assert_eq!(missing.kind, ErrorKind::NotFound);
}

/// What is made in a directory before it is watched is found.
#[tokio::test]
async fn nothing_made_in_new_directories_is_lost() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let top = sandbox.dir.path().join("local");
    let mut events = guest.watch(None, &text(&top), true).await.unwrap();
    let mut expected = BTreeSet::new();
    for n in 0..300 {
        let deep = top.join(format!("{n}/a/b"));
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("file"), "x").unwrap();
        expected.insert(text(&deep.join("file")));
    }
    let mut created = BTreeSet::new();
    while !expected.is_subset(&created) {
        let event = timeout(DEADLINE, events.recv()).await.expect("an event").expect("open");
        if event.kind == WatchKind::Created {
            assert!(created.insert(event.path.clone()), "{} twice", event.path);
        }
    }
}

#[tokio::test]
async fn watches_are_bounded() {
    let sandbox = Sandbox::launch();
    let guest = sandbox.connect().await;
    let top = sandbox.dir.path().join("local");
    for n in 0..8200 {
        std::fs::create_dir(top.join(n.to_string())).unwrap();
    }
    let error = guest.watch(None, &text(&top), true).await.unwrap_err();
    assert!(error.kind == ErrorKind::Exhausted && error.chain().contains("8192"), "{}", error.chain());
    guest.watch(None, &text(&top), false).await.unwrap();
    let path = text(&top);
    let mut held = Vec::new();
    let refused = loop {
        match guest.watch(None, &path, false).await {
            Ok(events) => held.push(events),
            Err(error) => break error,
        }
    };
    assert!(refused.kind == ErrorKind::Exhausted && held.len() <= 16, "{} {}", held.len(), refused.chain());
}
