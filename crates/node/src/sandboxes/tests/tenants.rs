//! What one tenant has is not there for another.

use moat_api::rest::sandbox::{Fork, ListSandboxes, TakeSnapshot};

use super::*;
use crate::stream::LogPlace;

fn not_found<T>(what: &str, result: Result<T>) {
    match result {
        Ok(_) => panic!("{what}: another tenant's is there"),
        Err(error) => assert_eq!(error.kind, ErrorKind::NotFound, "{what}: {}", error.chain()),
    }
}

#[tokio::test]
async fn another_tenants_id_is_not_found_everywhere() {
    let bed = Bed::new().await;
    let (mine, other) = (bed.app().await, Namespace::parse("other").unwrap());
    let ended = bed.app().await;
    bed.sandboxes.delete(&own(), &ended).await.unwrap();
    let snapshot =
        bed.sandboxes.snapshot(&own(), &mine, TakeSnapshot { name: Some("s".to_owned()), memory: None }).await.unwrap();
    let sandboxes = &bed.sandboxes;
    for id in [&mine, &ended] {
        not_found("get", sandboxes.get(&other, id));
        not_found("delete", sandboxes.delete(&other, id).await);
        not_found("keepalive", sandboxes.keepalive(&other, id, Keepalive::default()).await);
        not_found("pause", sandboxes.pause(&other, id, Pause::default()).await);
        not_found("resume", sandboxes.resume(&other, id, Resume::default()).await);
        not_found("fork", sandboxes.fork(&other, id, Fork::default()).await);
        not_found("snapshot", sandboxes.snapshot(&other, id, TakeSnapshot::default()).await);
        not_found("explain", sandboxes.explain(&other, id).await);
        not_found("usage", sandboxes.usage(&other, id).await);
        not_found("guest", sandboxes.guest(&other, id).await);
        not_found("logs", sandboxes.logs(&other, id, LogPlace::default()).await);
    }
    for text in [snapshot.id.as_str(), "s"] {
        not_found("delete snapshot", sandboxes.delete_snapshot(&other, text).await);
        let request = CreateSandbox { snapshot: Some(text.to_owned()), ..CreateSandbox::default() };
        not_found("create from snapshot", sandboxes.create(&other, request).await);
    }
    let all = ListSandboxes { state: Some("running,stopped".to_owned()), ..ListSandboxes::default() };
    assert!(sandboxes.list(&other, &all).unwrap().sandboxes.is_empty());
    assert_eq!(sandboxes.list(&own(), &all).unwrap().sandboxes.len(), 2);
    assert!(sandboxes.snapshots(&other).unwrap().snapshots.is_empty());
    assert!(sandboxes.stats(Some(&other)).await.sandboxes.is_empty());
    assert_eq!(sandboxes.usage(&own(), &mine).await.unwrap().memory_limit_bytes, Some(64 << 20));
    // A name another tenant uses is free here.
    let theirs = SandboxId::parse(&sandboxes.create(&other, app()).await.unwrap().id).unwrap();
    sandboxes.snapshot(&other, &theirs, TakeSnapshot { name: Some("s".to_owned()), memory: None }).await.unwrap();
    assert_eq!(bed.state(&mine), "running");
}
