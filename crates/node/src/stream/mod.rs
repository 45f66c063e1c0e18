//! Sandbox requests and their byte streams over NATS: `$NEX.SANDBOX.<ns>.<node>`.
//!
//! What is asked is decided here; what is known of workloads comes from a [`WorkloadDirectory`], what is done to their
//! sandboxes goes to [`Sandboxes`]. Reading needs no claims, as with INFO; entering and holding up a workload needs its
//! starter's, see [`claims`].

mod claims;
mod directory;
pub(crate) mod history;
pub mod reach;
mod session;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_nats::{Client, Message, Subscriber};
use futures::StreamExt;
use moat_api::nex::{ReplyType, envelope};
use moat_api::sandbox::{
    ControlRequest, ExecRequest, ExecResponse, ExplainResponse, InspectRequest, InspectResponse, ProcessView,
    SandboxRequest, StatsResponse, WorkloadView,
};
use moat_api::{Subjects, WireError};
use moat_model::lifecycle::PhaseName;
use moat_model::{ErrorKind, Namespace, NodeId, SandboxId, WorkloadId};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock;
use crate::error::{Error, Result};
use crate::outlet::NodeOutlet;

use claims::Guard;
pub use directory::{Found, Sandboxes, WorkloadDirectory};
pub use history::LogPlace;
pub(crate) use session::Session;

/// Requests handled at a time. Each waits for an agent or a disk, and holds little.
const REQUESTS_MAX: usize = 64;

/// Sessions at a time: each holds at most a window each way, so these are 64 MiB at the worst.
const SESSIONS_MAX: usize = 128;

/// Workloads in one answer: with some 1 KiB each, what a message can carry by default.
const VIEWS_MAX: usize = 500;

/// Processes in one answer, for the same reason: a command is at most 4 KiB.
const PROCESSES_MAX: usize = 100;

/// Who answers, and where.
#[derive(Debug, Clone)]
pub struct StreamConfig {
    /// The daemon's client.
    pub client: Client,
    /// Below which prefix.
    pub subjects: Subjects,
    /// Who answers.
    pub node: NodeId,
}

/// The running server.
#[derive(Debug)]
pub struct StreamServer {
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl StreamServer {
    /// Stops taking requests, hangs up every session and waits for their end.
    pub async fn close(self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Begins to answer requests about sandboxes.
pub async fn serve(
    config: StreamConfig,
    directory: Arc<dyn WorkloadDirectory>,
    sandboxes: Arc<dyn Sandboxes>,
    outlet: NodeOutlet,
) -> Result<StreamServer> {
    let subject = config.subjects.sandbox_any(&config.node);
    let requests = config
        .client
        .subscribe(subject.clone())
        .await
        .map_err(|error| Error::caused_by(ErrorKind::Unavailable, format!("subscribe to {subject}"), error))?;
    let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
    let server = Arc::new(Server {
        config,
        directory,
        sandboxes,
        outlet,
        guard: Guard::default(),
        sessions: Arc::new(Semaphore::new(SESSIONS_MAX)),
        tasks: tasks.clone(),
        cancel: cancel.clone(),
    });
    tasks.spawn(server.take(requests));
    Ok(StreamServer { cancel, tasks })
}

struct Server {
    config: StreamConfig,
    directory: Arc<dyn WorkloadDirectory>,
    sandboxes: Arc<dyn Sandboxes>,
    outlet: NodeOutlet,
    guard: Guard,
    sessions: Arc<Semaphore>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

type Answer = std::result::Result<Vec<u8>, WireError>;

impl Server {
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
        let (answer, session) = match self.decide(&message).await {
            Ok(decided) => decided,
            Err(error) => (envelope::encode_error(ReplyType::Sandbox, &error), None),
        };
        if let Err(error) = self.config.client.publish(to, answer.into()).await {
            tracing::warn!(%error, "a reply was not sent");
            return;
        }
        // Only now: the first frame must not overtake the answer.
        if let Some(session) = session {
            self.tasks.spawn(session.run(self.cancel.clone()));
        }
    }

    async fn decide(&self, message: &Message) -> std::result::Result<(Vec<u8>, Option<Session>), WireError> {
        let namespace = self
            .config
            .subjects
            .namespace_of(&message.subject)
            .ok_or_else(|| WireError::invalid("the subject names no valid namespace"))?;
        let answer = match SandboxRequest::decode(&message.payload)? {
            SandboxRequest::Exec(request) => {
                let (answer, session) = self.exec(&namespace, request).await?;
                return Ok((answer, Some(session)));
            }
            SandboxRequest::Inspect(request) => self.inspect(&namespace, &request),
            SandboxRequest::Logs(request) => {
                let log = self.outlet.log(&request.workload).await.map_err(|e| WireError::new(e.kind, e.chain()))?;
                let log = log.filter(|log| log.workload().namespace == namespace);
                history::answer(log.ok_or_else(|| no_such(&request.workload))?, request).await?
            }
            SandboxRequest::Pause(request) => self.hold(&namespace, request, true).await?,
            SandboxRequest::Resume(request) => self.hold(&namespace, request, false).await?,
            SandboxRequest::Stats(request) => self.stats(&namespace, &request.workload).await?,
            SandboxRequest::Explain(request) => self.explain(&namespace, &request.workload).await?,
        };
        Ok((answer, None))
    }

    fn find(&self, namespace: &Namespace, id: &WorkloadId) -> std::result::Result<Found, WireError> {
        self.directory.find(id).filter(|found| found.view.namespace == *namespace).ok_or_else(|| no_such(id))
    }

    fn inspect(&self, namespace: &Namespace, request: &InspectRequest) -> Vec<u8> {
        let mut workloads: Vec<WorkloadView> = self.directory.list();
        workloads.retain(|view| view.namespace == *namespace && request.matches(view));
        let truncated = workloads.len() > VIEWS_MAX;
        if truncated {
            // The newest are what somebody looks for.
            workloads.drain(..workloads.len() - VIEWS_MAX);
        }
        encode(&InspectResponse { node: self.config.node.clone(), workloads, truncated })
    }

    async fn hold(&self, namespace: &Namespace, request: ControlRequest, pause: bool) -> Answer {
        let found = self.find(namespace, &request.workload)?;
        self.guard.admit(&request.claims, &found.start, clock::now())?;
        let sandbox = running(&found.view)?;
        let after = if pause { self.sandboxes.pause(&sandbox).await } else { self.sandboxes.resume(&sandbox).await };
        let phase = after.map_err(wire)?.phase;
        Ok(encode(&WorkloadView { phase, ..found.view }))
    }

    async fn stats(&self, namespace: &Namespace, id: &WorkloadId) -> Answer {
        let found = self.find(namespace, id)?;
        let sandbox = running(&found.view)?;
        let usage = self.sandboxes.usage(&sandbox).await.map_err(wire)?;
        // A frozen agent cannot say what runs beside it.
        let processes = match found.view.phase {
            PhaseName::Paused => Vec::new(),
            _ => self.sandboxes.processes(&sandbox).await.map_err(wire)?,
        };
        let processes = processes.into_iter().take(PROCESSES_MAX).map(|p| ProcessView {
            pid: p.pid,
            ppid: p.ppid,
            uid: p.uid,
            command: p.command,
            rss_bytes: p.rss_bytes,
            cpu_usec: p.cpu_usec,
        });
        Ok(encode(&StatsResponse {
            workload: id.clone(),
            memory_bytes: usage.memory_bytes,
            memory_peak_bytes: usage.memory_peak_bytes,
            cpu_usec: usage.cpu_usec,
            pids: usage.pids,
            oom_kills: usage.oom_kills,
            processes: processes.collect(),
        }))
    }

    async fn explain(&self, namespace: &Namespace, id: &WorkloadId) -> Answer {
        let found = self.find(namespace, id)?;
        let steps = match &found.view.sandbox {
            Some(sandbox) if !found.view.phase.is_terminal() => self.sandboxes.explain(sandbox).await.map_err(wire)?,
            _ => found.timeline,
        };
        let details = serde_json::json!({ "steps": steps });
        Ok(encode(&ExplainResponse { workload: found.view, details }))
    }

    async fn exec(
        &self,
        namespace: &Namespace,
        request: ExecRequest,
    ) -> std::result::Result<(Vec<u8>, Session), WireError> {
        let found = self.find(namespace, &request.workload)?;
        self.guard.admit(&request.claims, &found.start, clock::now())?;
        let sandbox = running(&found.view)?;
        let permit = Arc::clone(&self.sessions).try_acquire_owned().map_err(|_| {
            WireError::new(
                ErrorKind::Exhausted,
                format!("this node holds {SESSIONS_MAX} exec sessions; try again later"),
            )
        })?;
        // Before the process runs: what the client sends at once must find a listener.
        let subject = self.config.subjects.stream_in(&request.stream);
        let frames = self
            .config
            .client
            .subscribe(subject)
            .await
            .map_err(|error| WireError::new(ErrorKind::Unavailable, format!("listen to the stream: {error}")))?;
        let process = self.sandboxes.exec(&sandbox, &request.spec).await.map_err(wire)?;
        let answer = encode(&ExecResponse { pid: process.pid, stream: request.stream.clone() });
        let out = self.config.subjects.stream_out(&request.stream);
        Ok((answer, Session::new(self.config.client.clone(), out, frames, process, permit)))
    }
}

fn encode<T: Serialize>(data: &T) -> Vec<u8> {
    envelope::encode(ReplyType::Sandbox, data)
}

fn wire(error: moat_engine::Error) -> WireError {
    WireError::new(error.kind, error.chain())
}

/// The same text for what does not exist and for what another namespace has.
fn no_such(id: &WorkloadId) -> WireError {
    WireError::new(ErrorKind::NotFound, format!("no such workload {id}"))
}

fn running(view: &WorkloadView) -> std::result::Result<SandboxId, WireError> {
    let not_now =
        || WireError::new(ErrorKind::Conflict, format!("workload {} is {}: it does not run", view.id, view.phase));
    match &view.sandbox {
        Some(sandbox) if matches!(view.phase, PhaseName::Running | PhaseName::Paused) => Ok(sandbox.clone()),
        _ => Err(not_now()),
    }
}
