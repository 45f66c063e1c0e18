//! Requests coming in: one subscription a verb, each with its own bound, so that none can hold up another.

use std::sync::Arc;

use async_nats::{Client, Message};
use futures::StreamExt as _;
use moat_api::Subjects;
use moat_model::{ErrorKind, NodeId};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::{Error, Result};

/// What a node is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Who could run this.
    Auction,
    /// Who is there.
    Ping,
    /// Who runs this.
    Wping,
    /// What runs here.
    Info,
    /// Start this.
    Deploy,
    /// Stop this.
    Stop,
    /// Take nothing new.
    LameDuck,
}

impl Verb {
    /// Subjects of a node, each with its verb.
    fn subscriptions(subjects: &Subjects, node: &NodeId) -> [(Self, String); 9] {
        [
            (Self::Auction, subjects.auction()),
            (Self::Ping, subjects.ping()),
            (Self::Ping, subjects.ping_node(node)),
            (Self::Wping, subjects.wping_any()),
            (Self::Info, subjects.info_any(node)),
            (Self::Deploy, subjects.deploy_any(node)),
            (Self::Deploy, subjects.run_any(node)),
            (Self::Stop, subjects.stop_any(node)),
            (Self::LameDuck, subjects.lameduck(node)),
        ]
    }

    /// Requests of a verb handled at a time. A deploy fetches, hashes and starts: more than a few on a small machine only
    /// make all of them late. The others answer from memory.
    fn concurrency(self) -> usize {
        match self {
            Self::Deploy => 16,
            Self::Stop => 64,
            _ => 32,
        }
    }
}

/// Handles requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one, or stays silent.
    fn handle(
        self: Arc<Self>,
        verb: Verb,
        subject: String,
        payload: bytes::Bytes,
    ) -> impl std::future::Future<Output = Option<Vec<u8>>> + Send;
}

/// The running subscriptions.
#[derive(Debug)]
pub struct Intake {
    stop: CancellationToken,
    loops: TaskTracker,
    requests: TaskTracker,
}

impl Intake {
    /// Subscribes to every verb and hands requests to `handler`.
    pub async fn open<H: Handler>(
        client: &Client,
        subjects: &Subjects,
        node: &NodeId,
        handler: Arc<H>,
    ) -> Result<Self> {
        let intake = Self { stop: CancellationToken::new(), loops: TaskTracker::new(), requests: TaskTracker::new() };
        for (verb, subject) in Verb::subscriptions(subjects, node) {
            let subscription = client
                .subscribe(subject.clone())
                .await
                .map_err(|e| Error::caused_by(ErrorKind::Unavailable, format!("subscribe to {subject}"), e))?;
            let (client, handler) = (client.clone(), Arc::clone(&handler));
            let (stop, requests) = (intake.stop.clone(), intake.requests.clone());
            intake.loops.spawn(async move { serve(verb, subscription, client, handler, stop, requests).await });
        }
        Ok(intake)
    }

    /// Takes no more requests; what was taken is still answered.
    pub async fn close(&self) {
        self.stop.cancel();
        self.loops.close();
        self.loops.wait().await;
        self.requests.close();
    }

    /// Waits until everything that was taken is answered.
    pub async fn finished(&self) {
        self.requests.wait().await;
    }
}

async fn serve<H: Handler>(
    verb: Verb,
    mut subscription: async_nats::Subscriber,
    client: Client,
    handler: Arc<H>,
    stop: CancellationToken,
    requests: TaskTracker,
) {
    let permits = Arc::new(Semaphore::new(verb.concurrency()));
    loop {
        // The permit first: what cannot be handled yet stays in the subscription, whose bound is the client's.
        let message = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            next = async {
                let permit = Arc::clone(&permits).acquire_owned().await.ok()?;
                Some((permit, subscription.next().await?))
            } => next,
        };
        let Some((permit, message)) = message else { return };
        let (client, handler) = (client.clone(), Arc::clone(&handler));
        requests.spawn(async move {
            let _permit = permit;
            answer(verb, message, client, handler).await;
        });
    }
    if let Err(error) = subscription.unsubscribe().await {
        tracing::debug!(?verb, %error, "unsubscribe");
    }
}

async fn answer<H: Handler>(verb: Verb, message: Message, client: Client, handler: Arc<H>) {
    let reply = handler.handle(verb, message.subject.to_string(), message.payload).await;
    if let (Some(reply), Some(to)) = (reply, message.reply)
        && let Err(error) = client.publish(to, reply.into()).await
    {
        tracing::warn!(?verb, %error, "reply not sent");
    }
}
