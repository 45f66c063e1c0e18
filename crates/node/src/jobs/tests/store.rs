//! The buckets on both servers.

use std::time::Duration;

use moat_model::{JobId, NodeId};
use moat_scheduler::JobKey;
use moat_testkit::{NatsServer, Release};

use super::{default_namespace, node};
use crate::jobs::keys::{JOBS, Key};
use crate::jobs::replica::Replica;
use crate::jobs::store::{Store, WriteError};

const SOON: Duration = Duration::from_secs(60);

fn fence(id: NodeId) -> Key {
    Key::Fence(id)
}

#[tokio::test]
async fn compare_and_set_watch_and_removal_on_both_servers() {
    for release in [Release::Current, Release::Debian] {
        let Some(server) = NatsServer::start(release).await.unwrap() else { continue };
        let store = Store::new(&server.client().await.unwrap(), None);
        store.ensure().await.unwrap();
        store.ensure().await.unwrap();
        let key = fence(node('A'));
        let value = |down: bool| format!("{{\"epoch\":1,\"down\":{down}}}").into_bytes();
        let first = store.put(&key, value(false), Some(0)).await.unwrap();
        assert!(matches!(store.put(&key, value(true), Some(0)).await, Err(WriteError::Conflict)));
        let second = store.put(&key, value(true), Some(first)).await.unwrap();
        assert!(second > first);
        assert_eq!(store.read(&key).await.unwrap().unwrap().revision, second);
        assert!(store.read(&fence(node('Z'))).await.unwrap().is_none());

        let dotted = JobKey { namespace: default_namespace(), job: JobId::parse("a.b/periodic-1").unwrap() };
        let job_key = Key::Outcome(dotted.clone());
        store.put(&job_key, b"{\"allocations\":[],\"deployment\":null}".to_vec(), Some(0)).await.unwrap();

        let replica = Replica::default();
        let follow = tokio::spawn({
            let (replica, store) = (replica.clone(), store.clone());
            async move { replica.follow(&store).await }
        });
        tokio::time::timeout(SOON, replica.synced()).await.unwrap();
        assert!(replica.state().outcomes.contains_key(&dotted));
        assert_eq!(replica.state().fences.get(&node('A')).unwrap().revision, second);

        let third = store.remove(&key, Some(second)).await.unwrap();
        tokio::time::timeout(SOON, replica.reaches(JOBS, third)).await.unwrap();
        assert!(replica.state().fences.is_empty());
        assert_eq!(replica.state().revision(&key), Some(third));
        assert!(matches!(store.put(&key, value(true), Some(0)).await, Err(WriteError::Conflict)));
        store.put(&key, value(true), Some(third)).await.unwrap();
        let fourth = store.remove(&key, None).await.unwrap();
        store.forget(&key, fourth - 1).await.unwrap();
        assert!(store.read(&key).await.unwrap().is_some(), "it was written again since");
        store.forget(&key, fourth).await.unwrap();
        assert!(store.read(&key).await.unwrap().is_none());
        store.put(&key, value(true), Some(0)).await.unwrap();

        let large = vec![b' '; store.value_max() + 1];
        let refused = store.put(&job_key, large, None).await.unwrap_err().to_string();
        assert!(refused.contains("max_payload"), "{refused}");
        follow.abort();
    }
}

#[tokio::test]
async fn a_watch_that_was_cut_off_finds_what_changed_and_what_is_gone() {
    let Some(mut server) = NatsServer::start(Release::Current).await.unwrap() else { return };
    let store = Store::new(&server.client().await.unwrap(), None);
    store.ensure().await.unwrap();
    let down = b"{\"epoch\":1,\"down\":true}".to_vec();
    let first = store.put(&fence(node('A')), down.clone(), Some(0)).await.unwrap();
    let replica = Replica::default();
    let follow = tokio::spawn({
        let (replica, store) = (replica.clone(), store.clone());
        async move { replica.follow(&store).await }
    });
    tokio::time::timeout(SOON, replica.synced()).await.unwrap();
    assert_eq!(replica.state().fences.len(), 1);
    // The watcher's own connection comes back later than this one.
    server.restart().await.unwrap();
    let other = Store::new(&server.client().await.unwrap(), None);
    let removed = other.remove(&fence(node('A')), Some(first)).await.unwrap();
    other.forget(&fence(node('A')), removed).await.unwrap();
    let last = other.put(&fence(node('B')), down, Some(0)).await.unwrap();
    tokio::time::timeout(SOON, replica.reaches(JOBS, last)).await.unwrap();
    assert_eq!(replica.state().fences.keys().cloned().collect::<Vec<_>>(), [node('B')]);
    follow.abort();
}
