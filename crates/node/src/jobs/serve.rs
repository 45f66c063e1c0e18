//! What runs for jobs on a node as long as its daemon does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use moat_model::NodeId;
use moat_model::job::NodeFacts;
use tokio_util::sync::CancellationToken;

use super::buckets::Missing;
use super::controller::{Bounds, Controller};
use super::hands::Hands;
use super::heart::Heart;
use super::keys::Key;
use super::local::Local;
use super::replica::Replica;
use super::store::Store;
use super::view::DrainRequest;
use super::{Jobs, Link, Live};
use crate::config::jobs::DrainOnShutdown;

/// Between two tries to find or make the buckets.
const AGAIN: Duration = Duration::from_secs(1);
/// The same on a server that has no JetStream: another one may come.
const MUCH_LATER: Duration = Duration::from_secs(15);
/// What was removed is remembered for so long by those who do not control: longer than the controller does, which then has
/// the bucket forget it.
const REMOVED: Duration = Duration::from_secs(1200);
/// What is stopped at a drain's deadline has its own time to end.
const AFTER_DRAIN: Duration = Duration::from_secs(30);
/// Between two looks whether what this node says of itself is still there.
const FACTS: Duration = Duration::from_secs(30);

/// What jobs stand on here.
#[derive(Debug)]
pub struct Parts {
    /// Whose.
    pub me: NodeId,
    /// Its connection.
    pub client: Client,
    /// What it says of itself.
    pub facts: NodeFacts,
    /// What carries out.
    pub hands: Arc<dyn Hands>,
    /// It was opened standing still.
    pub fenced: bool,
    /// Where the last beat is kept; on tmpfs.
    pub beat: PathBuf,
    /// Copies JetStream keeps; as many as there are servers, up to three, if absent.
    pub replicas: Option<u8>,
    /// How long things are kept.
    pub bounds: Bounds,
}

/// Runs until `stop`, then gives the lease back.
pub async fn serve(jobs: Jobs, parts: Parts, stop: CancellationToken) {
    let life = rand::random();
    let store = Store::new(&parts.client, parts.replicas);
    let replica = Replica::default();
    let heart = Heart::new(parts.me.clone(), life, parts.beat);
    let (me, bounds) = (parts.me.clone(), parts.bounds);
    let mut controller = Controller::new(me, life, store.clone(), replica.clone(), heart.clone(), bounds);
    let me = parts.me.clone();
    let local = Local::new(me, store.clone(), replica.clone(), heart.clone(), parts.hands, parts.fenced);
    let connected = async {
        find(&jobs, &store).await;
        let live = Live { me: parts.me.clone(), store: store.clone(), replica: replica.clone() };
        jobs.tell.send_replace(Link::Live(Arc::new(live)));
        tokio::join!(
            replica.follow(&store),
            heart.run(&store, &replica),
            controller.run(),
            say(&store, &replica, &parts.facts)
        );
    };
    let all = async { tokio::join!(connected, local.run()) };
    stop.run_until_cancelled(all).await;
    controller.give_back().await;
}

/// Empties this node before its daemon ends; gives up a little after the deadline.
pub async fn drain_before_end(jobs: &Jobs, me: &NodeId, config: DrainOnShutdown) {
    let deadline = if config.force { Duration::ZERO } else { config.deadline };
    let message = "the daemon ends".to_owned();
    let request = DrainRequest { deadline: Some(deadline), ignore_system: config.ignore_system, message };
    if let Err(error) = jobs.drain(me, request).await {
        tracing::warn!(error = %error.chain(), "this node is not emptied before it ends");
        return;
    }
    let empty = async {
        let Ok(live) = jobs.live() else { return };
        let mut news = live.replica.news();
        while live.replica.state().wishes.get(me).is_some_and(|held| held.value.drain.is_some()) {
            if news.changed().await.is_err() {
                return;
            }
        }
    };
    if tokio::time::timeout(deadline + AFTER_DRAIN, empty).await.is_err() {
        tracing::warn!("this node is not empty, and its daemon ends");
    }
}

async fn find(jobs: &Jobs, store: &Store) {
    loop {
        let (why, wait) = match store.ensure().await {
            Ok(()) => return,
            Err(Missing::Never(why)) => (why, MUCH_LATER),
            Err(Missing::NotNow(why)) => (why, AGAIN),
        };
        tracing::debug!(why, "jobs are not available yet");
        jobs.tell.send_replace(Link::Missing(why));
        tokio::time::sleep(wait).await;
    }
}

/// Says what this node is, whenever that is not what is known of it.
async fn say(store: &Store, replica: &Replica, facts: &NodeFacts) {
    let key = Key::Facts(facts.id.clone());
    loop {
        replica.synced().await;
        replica.state().forget_old(REMOVED);
        let known = replica.state().facts.get(&facts.id).is_some_and(|held| *held.value == *facts);
        if !known {
            let value = serde_json::to_vec(facts).unwrap_or_default();
            match store.put(&key, value.clone(), None).await {
                Ok(revision) => replica.apply(&key, revision, Some(&value)),
                Err(error) => {
                    tracing::debug!(%error, "what this node is, is not told yet");
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            }
        }
        tokio::time::sleep(FACTS).await;
    }
}
