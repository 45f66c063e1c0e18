//! Our own verbs: what can be done to a running workload, and what can be known of it.
//!
//! A request goes to `$NEX.SANDBOX.<ns>.<node>`; the answer comes in the Nex envelope. `exec`, `pause` and `resume` change
//! something, so they need claims like those of STOP: signed by the workload's issuer, about its name, with a `jti` never
//! seen before and an `exp` at most [`CLAIMS_LIFE_MAX`] away.

use std::time::Duration;

use moat_model::lifecycle::PhaseName;
use moat_model::spec::ExecSpec;
use moat_model::workload::WorkloadKind;
use moat_model::{Cause, Exit, GivenIsolation, Namespace, NodeId, SandboxId, Timestamp, WorkloadId, WorkloadName};
use serde::{Deserialize, Serialize};

use crate::WireError;
use crate::nex::{Level, LogCursor, Template};
use crate::stream::StreamId;

/// Longest life of claims for these verbs: a stolen token is of no use after it.
pub const CLAIMS_LIFE_MAX: Duration = Duration::from_secs(60);

/// Most bytes of log text in one answer: NATS carries 1 MiB by default, and JSON escapes may double it.
pub const LOG_BYTES_MAX: usize = 256 << 10;

/// A request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum SandboxRequest {
    /// Runs another process in it; answered by [`ExecResponse`].
    Exec(ExecRequest),
    /// Lists workloads; answered by [`InspectResponse`].
    Inspect(InspectRequest),
    /// Reads its log; answered by [`LogsResponse`].
    Logs(LogsRequest),
    /// Freezes it; answered by its [`WorkloadView`].
    Pause(ControlRequest),
    /// Lets it go on; answered by its [`WorkloadView`].
    Resume(ControlRequest),
    /// Measures it; answered by [`StatsResponse`].
    Stats(WorkloadRef),
    /// Says what it is made of; answered by [`ExplainResponse`].
    Explain(WorkloadRef),
}

impl SandboxRequest {
    /// Reads a request.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        serde_json::from_slice(bytes).map_err(|e| WireError::invalid(format!("sandbox request: {e}")))
    }
}

/// Names a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadRef {
    /// Which.
    pub workload: WorkloadId,
}

/// Changes a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlRequest {
    /// Which.
    pub workload: WorkloadId,
    /// Signed claims.
    pub claims: String,
}

/// Runs a process in a workload's sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Which.
    pub workload: WorkloadId,
    /// Signed claims.
    pub claims: String,
    /// Stream the client chose, and whose output it already listens to.
    pub stream: StreamId,
    /// What to run.
    pub spec: ExecSpec,
}

/// It runs, and the node listens to the stream's input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecResponse {
    /// Process id inside.
    pub pid: u32,
    /// The stream.
    pub stream: StreamId,
}

/// Which workloads; what is absent matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InspectRequest {
    /// This one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<WorkloadId>,
    /// Those with this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<WorkloadName>,
    /// Also those that have ended and are still remembered.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
}

impl InspectRequest {
    /// Whether a workload is asked for.
    pub fn matches(&self, view: &WorkloadView) -> bool {
        self.id.as_ref().is_none_or(|id| *id == view.id)
            && self.name.as_ref().is_none_or(|name| *name == view.name)
            && (self.ended || !view.ended())
    }
}

/// The workloads of one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InspectResponse {
    /// Who answers.
    pub node: NodeId,
    /// What was found.
    pub workloads: Vec<WorkloadView>,
    /// There were more than fit into one answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// What others see of a workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkloadView {
    /// Its id: the same for all its attempts.
    pub id: WorkloadId,
    /// Tenant.
    pub namespace: Namespace,
    /// Its name.
    pub name: WorkloadName,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What it is for.
    pub kind: WorkloadKind,
    /// `native`, ...
    #[serde(rename = "type")]
    pub workload_type: String,
    /// Node that runs it.
    pub node: NodeId,
    /// Isolation it was given.
    pub isolation: GivenIsolation,
    /// Driver that gives it.
    pub driver: String,
    /// What its root file system is made of.
    pub template: Template,
    /// Where its current attempt is.
    pub phase: PhaseName,
    /// Started again when it fails.
    pub essential: bool,
    /// Which start of it this is: 1 the first time.
    pub attempt: u32,
    /// Sandbox of the current attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<SandboxId>,
    /// Who signed its claims, and who alone may stop or enter it.
    pub issuer: String,
    /// Hex SHA-256 of its program.
    pub hash: String,
    /// Program arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub argv: Vec<String>,
    /// When it was deployed.
    pub created_at: Timestamp,
    /// When its current attempt started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When its last attempt ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// How its last attempt ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// When it will be started again, if it will.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_at: Option<Timestamp>,
}

impl WorkloadView {
    /// It will not run again.
    pub fn ended(&self) -> bool {
        self.phase.is_terminal() && self.restart_at.is_none()
    }
}

/// Reads a workload's log from the node's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogsRequest {
    /// Which.
    pub workload: WorkloadId,
    /// Only so many lines before the end. Ignored with `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<u32>,
    /// Only what comes after this place: the `cursor` of the answer before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<LogCursor>,
}

/// A piece of a log, at most [`LOG_BYTES_MAX`] of text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsResponse {
    /// The lines.
    pub lines: Vec<HistoryLine>,
    /// The place after the last of them.
    pub cursor: LogCursor,
    /// There is more after that place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

/// A line from a log file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryLine {
    /// Without its line end.
    pub text: String,
    /// INFO for standard output, ERROR for standard error.
    pub level: Level,
}

/// What a workload uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatsResponse {
    /// Which.
    pub workload: WorkloadId,
    /// Memory now.
    pub memory_bytes: u64,
    /// Memory at its highest, if the kernel tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak_bytes: Option<u64>,
    /// CPU time, user and system.
    pub cpu_usec: u64,
    /// Processes and threads now.
    pub pids: u64,
    /// Times the kernel killed something in it for memory.
    pub oom_kills: u64,
    /// What runs in it.
    pub processes: Vec<ProcessView>,
}

/// A process inside a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessView {
    /// Process id inside.
    pub pid: u32,
    /// Parent inside.
    pub ppid: u32,
    /// User id inside.
    pub uid: u32,
    /// Program and arguments.
    pub command: String,
    /// Resident memory.
    pub rss_bytes: u64,
    /// CPU time, user and system.
    pub cpu_usec: u64,
}

/// What a workload is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExplainResponse {
    /// What everybody sees.
    pub workload: WorkloadView,
    /// What the node did for it: effective limits, privileges, host resources. For people; its shape may change.
    pub details: serde_json::Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "cq1v8k3q7d2c73f0a9g0";

    #[test]
    fn requests_name_their_verb() {
        let request =
            SandboxRequest::Logs(LogsRequest { workload: WorkloadId::parse(ID).unwrap(), tail: Some(10), after: None });
        let json = serde_json::to_string(&request).unwrap();
        assert_eq!(json, format!(r#"{{"op":"logs","workload":"{ID}","tail":10}}"#));
        assert_eq!(SandboxRequest::decode(json.as_bytes()), Ok(request));
        let all = SandboxRequest::decode(br#"{"op":"inspect"}"#).unwrap();
        assert_eq!(all, SandboxRequest::Inspect(InspectRequest::default()));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [
            r#"{}"#.to_owned(),
            r#"{"op":"destroy"}"#.to_owned(),
            format!(r#"{{"op":"logs","workload":"{ID}","tial":10}}"#),
            r#"{"op":"stats","workload":"../etc"}"#.to_owned(),
        ] {
            let error = SandboxRequest::decode(bad.as_bytes()).unwrap_err();
            assert_eq!(error.kind, moat_model::ErrorKind::InvalidSpec, "{bad}");
        }
    }
}
