//! What is declared: once, again after it was purged, and not without bound while nobody answers.

use std::sync::Arc;
use std::time::Duration;

use moat_model::{ErrorKind, JobId};
use moat_scheduler::JobKey;
use moat_testkit::{NatsServer, Release};
use tokio::sync::watch;

use super::{default_namespace, job, node};
use crate::jobs::declare::{first_version, put_record};
use crate::jobs::document::REQUESTS_MAX;
use crate::jobs::keys::Key;
use crate::jobs::replica::Replica;
use crate::jobs::store::{Store, WriteError};
use crate::jobs::{Jobs, Link, Live, SubmitOptions};

const SOON: Duration = Duration::from_secs(60);

fn key(name: &str) -> JobKey {
    JobKey { namespace: default_namespace(), job: JobId::parse(name).unwrap() }
}

async fn store(server: &NatsServer) -> Store {
    let store = Store::new(&server.client().await.unwrap(), None);
    store.ensure().await.unwrap();
    store
}

#[tokio::test]
async fn a_job_is_declared_first_by_one_and_again_after_it_was_forgotten() {
    let Some(server) = NatsServer::start(Release::Current).await.unwrap() else { return };
    let store = store(&server).await;
    let (key, replica) = (key("a"), Replica::default());
    let at = Key::Job(key.clone());
    let first = first_version(job("a", 1), None);
    put_record(&store, &replica, &key, None, &first).await.unwrap();
    // Who saw none either does not write over it: not on this node, nor on another.
    for replica in [&replica, &Replica::default()] {
        let second = put_record(&store, replica, &key, None, &first).await;
        assert!(matches!(second, Err(WriteError::Conflict)), "{second:?}");
    }
    let removed = store.remove(&at, None).await.unwrap();
    replica.apply(&at, removed, None);
    // The controller has the bucket forget it; this node remembers until it asks.
    store.forget(&at, removed).await.unwrap();
    assert!(matches!(put_record(&store, &replica, &key, None, &first).await, Err(WriteError::Conflict)));
    replica.reread(&store, &at).await.unwrap();
    put_record(&store, &replica, &key, None, &first).await.unwrap();
}

/// A node on which nobody controls.
struct Quiet {
    jobs: Jobs,
    follow: tokio::task::JoinHandle<()>,
}

impl Quiet {
    async fn new(store: Store) -> Self {
        let replica = Replica::default();
        let follow = tokio::spawn({
            let (replica, store) = (replica.clone(), store.clone());
            async move { replica.follow(&store).await }
        });
        tokio::time::timeout(SOON, replica.synced()).await.unwrap();
        let live = Live { me: node('A'), store, replica };
        Self { jobs: Jobs { tell: Arc::new(watch::Sender::new(Link::Live(Arc::new(live)))) }, follow }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        self.follow.abort();
    }
}

#[tokio::test]
async fn what_a_purged_job_left_does_not_answer_for_the_next_of_its_name() {
    let Some(server) = NatsServer::start(Release::Current).await.unwrap() else { return };
    let store = store(&server).await;
    let left = b"{\"allocations\":[],\"deployment\":null,\"answered\":7}".to_vec();
    store.put(&Key::Outcome(key("a")), left, Some(0)).await.unwrap();
    let quiet = Quiet::new(store).await;
    let submitted = quiet.jobs.submit(&default_namespace(), job("a", 1), SubmitOptions::default()).await.unwrap();
    assert_eq!((submitted.version, submitted.index), (0, 8));
    let all = quiet.jobs.evaluations(&default_namespace(), &submitted.job).await.unwrap();
    assert_eq!(all.iter().map(|view| Some(view.id.clone())).collect::<Vec<_>>(), [submitted.evaluation]);
}

#[tokio::test]
async fn requests_that_nobody_answers_are_bounded() {
    let Some(server) = NatsServer::start(Release::Current).await.unwrap() else { return };
    let quiet = Quiet::new(store(&server).await).await;
    let submitted = quiet.jobs.submit(&default_namespace(), job("a", 1), SubmitOptions::default()).await.unwrap();
    for _ in 0..REQUESTS_MAX {
        quiet.jobs.evaluate(&default_namespace(), &submitted.job).await.unwrap();
    }
    let error = quiet.jobs.evaluate(&default_namespace(), &submitted.job).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{}", error.chain());
}
