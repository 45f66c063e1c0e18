//! Answering requests that may open a stream: so many at a time, and all hung up together.

use std::sync::Arc;

use async_nats::{Client, Message, Subscriber};
use async_trait::async_trait;
use futures::StreamExt;
use moat_api::WireError;
use moat_api::nex::{ReplyType, envelope};
use moat_model::ErrorKind;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Session;
use crate::error::{Error, Result};

/// Requests handled at a time. Each waits for an agent or a disk, and holds little.
const REQUESTS_MAX: usize = 64;

/// The answer, and the stream that begins with it.
pub(super) type Decided = std::result::Result<(Vec<u8>, Option<Session>), WireError>;

/// Who decides what is answered.
#[async_trait]
pub(super) trait Respond: Send + Sync + 'static {
    /// What its answers are called.
    const KIND: ReplyType;

    async fn decide(&self, message: &Message) -> Decided;
}

/// One subject that is answered.
#[derive(Debug)]
pub struct Listener {
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Listener {
    /// Begins to answer.
    pub(super) async fn open(client: Client, subject: String, respond: impl Respond) -> Result<Self> {
        let requests = client
            .subscribe(subject.clone())
            .await
            .map_err(|error| Error::caused_by(ErrorKind::Unavailable, format!("subscribe to {subject}"), error))?;
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        let answering = Answering { client, respond, cancel: cancel.clone(), tasks: tasks.clone() };
        tasks.spawn(Arc::new(answering).take(requests));
        Ok(Self { cancel, tasks })
    }

    /// Stops taking requests, hangs up every stream and waits for their end.
    pub async fn close(self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

struct Answering<R> {
    client: Client,
    respond: R,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl<R: Respond> Answering<R> {
    async fn take(self: Arc<Self>, mut requests: Subscriber) {
        let permits = Arc::new(Semaphore::new(REQUESTS_MAX));
        let next = async {
            loop {
                let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
                let Some(message) = requests.next().await else { return };
                self.tasks.spawn(Arc::clone(&self).answer(message, permit));
            }
        };
        self.cancel.run_until_cancelled(next).await;
    }

    async fn answer(self: Arc<Self>, message: Message, _permit: OwnedSemaphorePermit) {
        let Some(to) = message.reply.clone() else { return };
        let (answer, session) = match self.respond.decide(&message).await {
            Ok(decided) => decided,
            Err(error) => (envelope::encode_error(R::KIND, &error), None),
        };
        if let Err(error) = self.client.publish(to, answer.into()).await {
            tracing::warn!(%error, "a reply was not sent");
            return;
        }
        // Only now: the first frame must not overtake the answer.
        if let Some(session) = session {
            self.tasks.spawn(session.run(self.cancel.clone()));
        }
    }
}
