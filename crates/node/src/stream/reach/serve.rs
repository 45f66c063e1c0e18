//! Answering other nodes: `$NEX.ALLOC.<ns>.<node>`.

use std::sync::Arc;

use async_nats::Message;
use async_trait::async_trait;
use moat_api::WireError;
use moat_api::allocation::{AllocationRequest, AllocationVerb, StreamBegun};
use moat_api::nex::{ReplyType, envelope};
use moat_api::stream::StreamId;
use moat_model::{ErrorKind, Namespace};
use tokio::sync::Semaphore;

use super::Reach;
use crate::error::{Error, Result};
use crate::stream::Session;
use crate::stream::listener::{Decided, Listener, Respond};

/// Streams at a time: each holds at most a window each way.
const SESSIONS_MAX: usize = 128;

/// Begins to answer what other nodes ask about allocations of this one.
pub async fn serve(reach: Reach) -> Result<Listener> {
    let (client, subject) = (reach.nats.clone(), reach.subjects.allocation_any(&reach.node));
    let server = Server { reach, sessions: Arc::new(Semaphore::new(SESSIONS_MAX)) };
    Listener::open(client, subject, server).await
}

struct Server {
    reach: Reach,
    sessions: Arc<Semaphore>,
}

#[async_trait]
impl Respond for Server {
    const KIND: ReplyType = ReplyType::Allocation;

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
        Ok((envelope::encode(Self::KIND, &answer), None))
    }
}

impl Server {
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
        let answer = envelope::encode(Self::KIND, &StreamBegun { pid: process.pid });
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
