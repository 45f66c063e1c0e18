//! Answering other nodes: `$NEX.ALLOC.<ns>.<node>`.

use std::sync::Arc;

use async_nats::{Message, Subscriber};
use futures::StreamExt;
use moat_api::WireError;
use moat_api::allocation::{AllocationRequest, AllocationVerb, StreamBegun};
use moat_api::nex::{ReplyType, envelope};
use moat_api::stream::StreamId;
use moat_model::{ErrorKind, Namespace};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Reach;
use crate::error::{Error, Result};
use crate::stream::Session;

/// Requests handled at a time. Each waits for an agent or a disk, and holds little.
const REQUESTS_MAX: usize = 64;
/// Streams at a time: each holds at most a window each way.
const SESSIONS_MAX: usize = 128;

/// The running server.
#[derive(Debug)]
pub struct ReachServer {
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl ReachServer {
    /// Stops taking requests, hangs up every stream and waits for their end.
    pub async fn close(self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Begins to answer what other nodes ask about allocations of this one.
pub async fn serve(reach: Reach) -> Result<ReachServer> {
    let subject = reach.subjects.allocation_any(&reach.node);
    let requests = reach
        .nats
        .subscribe(subject.clone())
        .await
        .map_err(|error| Error::caused_by(ErrorKind::Unavailable, format!("subscribe to {subject}"), error))?;
    let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
    let server = Arc::new(Server {
        reach,
        sessions: Arc::new(Semaphore::new(SESSIONS_MAX)),
        tasks: tasks.clone(),
        cancel: cancel.clone(),
    });
    tasks.spawn(server.take(requests));
    Ok(ReachServer { cancel, tasks })
}

struct Server {
    reach: Reach,
    sessions: Arc<Semaphore>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

type Decided = std::result::Result<(Vec<u8>, Option<Session>), WireError>;

impl Server {
    async fn take(self: Arc<Self>, mut requests: Subscriber) {
        let permits = Arc::new(Semaphore::new(REQUESTS_MAX));
        let next = async {
            loop {
                let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
                let Some(message) = requests.next().await else { return };
                self.tasks.spawn(Arc::clone(&self).reply(message, permit));
            }
        };
        self.cancel.run_until_cancelled(next).await;
    }

    async fn reply(self: Arc<Self>, message: Message, _permit: OwnedSemaphorePermit) {
        let Some(to) = message.reply.clone() else { return };
        let (answer, session) = match self.decide(&message).await {
            Ok(decided) => decided,
            Err(error) => (envelope::encode_error(ReplyType::Allocation, &error), None),
        };
        if let Err(error) = self.reach.nats.publish(to, answer.into()).await {
            tracing::warn!(%error, "a reply was not sent");
            return;
        }
        // Only now: the first frame must not overtake the answer.
        if let Some(session) = session {
            self.tasks.spawn(session.run(self.cancel.clone()));
        }
    }

    async fn decide(&self, message: &Message) -> Decided {
        let namespace = self
            .reach
            .subjects
            .namespace_of(&message.subject)
            .ok_or_else(|| WireError::invalid("the subject names no valid namespace"))?;
        let AllocationRequest { allocation, verb } = AllocationRequest::decode(&message.payload)?;
        if let Some(stream) = stream_of(&verb).cloned() {
            return self.stream(&namespace, &allocation, verb, &stream).await;
        }
        let answer = self.reach.answer(&namespace, &allocation, verb).await.map_err(wire)?;
        Ok((envelope::encode(ReplyType::Allocation, &answer), None))
    }

    async fn stream(
        &self,
        namespace: &Namespace,
        allocation: &moat_model::AllocId,
        verb: AllocationVerb,
        stream: &StreamId,
    ) -> Decided {
        let permit = Arc::clone(&self.sessions).try_acquire_owned().map_err(|_| {
            let why = format!("this node carries {SESSIONS_MAX} streams of allocations; try again later");
            WireError::new(ErrorKind::Exhausted, why)
        })?;
        let (nats, subjects) = (&self.reach.nats, &self.reach.subjects);
        // Before anything runs: what the asker sends at once must find a listener.
        let frames = nats
            .subscribe(subjects.stream_in(stream))
            .await
            .map_err(|error| WireError::new(ErrorKind::Unavailable, format!("listen to the stream: {error}")))?;
        let process = self.reach.begin(namespace, allocation, verb).await.map_err(wire)?;
        let answer = envelope::encode(ReplyType::Allocation, &StreamBegun { pid: process.pid });
        Ok((answer, Some(Session::new(nats.clone(), subjects.stream_out(stream), frames, process, permit))))
    }
}

fn stream_of(verb: &AllocationVerb) -> Option<&StreamId> {
    match verb {
        AllocationVerb::Exec { stream, .. }
        | AllocationVerb::Logs { stream, .. }
        | AllocationVerb::Read { stream, .. } => Some(stream),
        _ => None,
    }
}

fn wire(error: Error) -> WireError {
    WireError::new(error.kind, error.chain())
}
