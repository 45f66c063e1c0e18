//! Log lines on their way to NATS.
//!
//! For each workload one task, a *feed*, follows the log files from a cursor and publishes what it finds line by line. It
//! holds nothing that is not in the files, so it may be killed and begun again anywhere:
//!
//! - All feeds share one connection that belongs to them alone and **never reconnects by itself**. What the client had
//!   queued when the connection broke is gone for certain, so what the server has of a log is always a beginning of it,
//!   in order: never a tail without its head. A new connection is opened, and each feed asks the history for the last line
//!   it holds of its workload; the header `Moat-Cursor` on that line says where to go on.
//! - Lines go out in batches whose last message is acknowledged. The first message after a resumption goes out alone and
//!   only if nothing has arrived since the question (`Nats-Expected-Last-Subject-Sequence`), so a straggler from the old
//!   connection is noticed.
//! - Every line has a `Nats-Msg-Id` made of its workload, stream and position, so a batch sent twice is kept once.
//!
//! Without JetStream there is no history: a batch counts as told when the server has processed it, and the cursor is kept
//! in a file.

mod feed;
mod lines;
mod link;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use moat_api::Subjects;
use moat_model::WorkloadId;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::events::{self, Outbox};
use crate::jetstream::{HistoryConfig, StreamSpec};
use crate::outlet::NodeOutlet;

use feed::Feed;
pub use link::Dial;
use link::Link;

/// Batches under way in the whole node. A stream of a 2.15 server takes 10,000 waiting messages and then drops; four
/// batches of at most 2,000 stay below that, and a waiting workload gets its turn after four.
const BATCHES_MAX: usize = 4;

/// How often old logs are looked for. They are kept for hours.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// What the publisher talks to.
#[derive(Debug, Clone)]
pub struct PublisherConfig {
    /// The daemon's client, for events.
    pub client: Client,
    /// Opens the connection for log lines.
    pub dial: Arc<dyn Dial>,
    /// Below which prefix.
    pub subjects: Subjects,
    /// What history is kept.
    pub history: HistoryConfig,
}

/// Publishes logs and events until it is cancelled.
#[derive(Debug)]
pub struct Publisher {
    outlet: NodeOutlet,
    tasks: Vec<JoinHandle<()>>,
}

impl Publisher {
    /// Begins to publish everything `outlet` and `outbox` have and get.
    pub fn spawn(config: PublisherConfig, outlet: NodeOutlet, outbox: Outbox, cancel: CancellationToken) -> Self {
        let (links_in, links) = watch::channel(None);
        let spec = StreamSpec::logs(config.subjects.logs_all(), &config.history);
        let keeper = link::keep(Arc::clone(&config.dial), spec, config.history, links_in, outlet.clone());
        let (link_cancel, feed_cancel) = (cancel.clone(), cancel.clone());
        let tasks = vec![
            tokio::spawn(async move {
                link_cancel.run_until_cancelled(keeper).await;
            }),
            tokio::spawn(supervise(outlet.clone(), config.subjects, links, feed_cancel)),
            tokio::spawn(events::run(outbox, config.client, config.history, cancel)),
        ];
        Self { outlet, tasks }
    }

    /// Waits until every line that is in the files now is published and confirmed, at most this long. Says whether it is.
    pub async fn drain(&self, within: Duration) -> bool {
        let logs = self.outlet.active();
        let caught_up = async {
            for log in logs {
                log.caught_up().await;
            }
        };
        tokio::time::timeout(within, caught_up).await.is_ok()
    }

    /// Waits for its end, after it was cancelled.
    pub async fn join(self) {
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a publishing task ended badly");
            }
        }
    }
}

/// Keeps one feed for every log that has, or may get, something to publish.
async fn supervise(
    outlet: NodeOutlet,
    subjects: Subjects,
    links: watch::Receiver<Option<Arc<Link>>>,
    cancel: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(BATCHES_MAX));
    let mut news = outlet.watch_news();
    let mut feeds: JoinSet<WorkloadId> = JoinSet::new();
    let mut fed: HashSet<WorkloadId> = HashSet::new();
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    loop {
        news.mark_unchanged();
        for log in outlet.active() {
            if fed.insert(log.workload().id.clone()) {
                let feed = Feed::new(log, &subjects, links.clone(), Arc::clone(&permits));
                feeds.spawn(feed.run(cancel.clone()));
            }
        }
        tokio::select! {
            () = cancel.cancelled() => break,
            _ = news.changed() => {}
            Some(ended) = feeds.join_next() => match ended {
                Ok(id) => {
                    fed.remove(&id);
                    outlet.retire(&id);
                }
                Err(error) => {
                    tracing::error!(%error, "a feed ended badly; all begin again");
                    metrics::counter!("moat_actor_panics_total", "actor" => "feed").increment(1);
                    feeds.shutdown().await;
                    fed.clear();
                }
            },
            _ = sweep.tick() => match outlet.sweep().await {
                Ok(0) => {}
                Ok(deleted) => tracing::info!(deleted, "deleted the logs of ended workloads"),
                Err(error) => tracing::warn!(error = error.chain(), "old logs could not be deleted"),
            },
        }
    }
    while feeds.join_next().await.is_some() {}
}
