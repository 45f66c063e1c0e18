//! Sandbox requests and their byte streams over NATS: `$NEX.SANDBOX.<ns>.<node>`.
//!
//! What is asked is decided here; what is known of workloads comes from a [`WorkloadDirectory`], what is done to their
//! sandboxes goes to [`Sandboxes`]. Reading needs no claims, as with INFO; entering and holding up a workload needs its
//! starter's, see [`claims`].

mod claims;
mod directory;
pub(crate) mod history;
mod listener;
pub mod reach;
mod session;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_nats::{Client, Message};
use async_trait::async_trait;
use moat_api::nex::{ReplyType, envelope};
use moat_api::sandbox::{
    ControlRequest, ExecRequest, ExecResponse, ExplainResponse, InspectRequest, InspectResponse, ProcessView,
    SandboxRequest, StatsResponse, WorkloadView,
};
use moat_api::{Subjects, WireError};
use moat_model::lifecycle::PhaseName;
use moat_model::{ErrorKind, Namespace, NodeId, SandboxId, WorkloadId};
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::clock;
use crate::error::Result;
use crate::outlet::NodeOutlet;

use claims::Guard;
pub use directory::{Found, Sandboxes, WorkloadDirectory};
pub use history::LogPlace;
pub use listener::Listener;
use listener::{Decided, Respond};
pub(crate) use session::Session;

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

/// Begins to answer requests about sandboxes.
pub async fn serve(
    config: StreamConfig,
    directory: Arc<dyn WorkloadDirectory>,
    sandboxes: Arc<dyn Sandboxes>,
    outlet: NodeOutlet,
) -> Result<Listener> {
    let (client, subject) = (config.client.clone(), config.subjects.sandbox_any(&config.node));
    let (guard, sessions) = (Guard::default(), Arc::new(Semaphore::new(SESSIONS_MAX)));
    Listener::open(client, subject, Server { config, directory, sandboxes, outlet, guard, sessions }).await
}

struct Server {
    config: StreamConfig,
    directory: Arc<dyn WorkloadDirectory>,
    sandboxes: Arc<dyn Sandboxes>,
    outlet: NodeOutlet,
    guard: Guard,
    sessions: Arc<Semaphore>,
}

type Answer = std::result::Result<Vec<u8>, WireError>;

#[async_trait]
impl Respond for Server {
    const KIND: ReplyType = ReplyType::Sandbox;

    async fn decide(&self, message: &Message) -> Decided {
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
}

impl Server {
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
