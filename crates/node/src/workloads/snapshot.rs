//! What others see of a workload.

use moat_api::nex::Template;
use moat_api::sandbox::WorkloadView;
use moat_model::lifecycle::{PhaseName, Step};
use moat_model::spec::RootSpec;
use moat_model::{Cause, NodeId};

use super::record::{Stage, StartClaims, WorkloadRecord};

/// A workload at one moment, without its environment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// What is published.
    pub view: WorkloadView,
    /// What a stop is held against.
    pub claims: StartClaims,
    /// Bytes of its program.
    pub artifact_bytes: u64,
    /// Started by the node itself.
    pub autostart: bool,
    /// Failures in a row.
    pub failures: u32,
    /// What happened to the sandbox of the last attempt, once it has ended.
    pub timeline: Vec<Step>,
}

impl Snapshot {
    /// From a record, and the phase of its sandbox if there is a live one.
    pub(super) fn of(record: &WorkloadRecord, node: &NodeId, live: Option<PhaseName>) -> Self {
        let main = record.spec.main.as_ref();
        let ended = match &record.stage {
            Stage::Ended { at } => Some(*at),
            _ => None,
        };
        let restart_at = match &record.stage {
            Stage::Waiting { until } => Some(*until),
            _ => None,
        };
        let view = WorkloadView {
            id: record.id.clone(),
            namespace: record.namespace().clone(),
            name: record.name.clone(),
            description: record.description.clone(),
            kind: record.kind,
            workload_type: record.workload_type.clone(),
            node: node.clone(),
            isolation: record.isolation.clone().unwrap_or_else(|| record.spec.isolation.into()),
            driver: record.driver.clone().unwrap_or_default(),
            template: match record.spec.root {
                RootSpec::Host => Template::Host,
                RootSpec::Scratch => Template::Scratch,
                // No workload asks for one yet: its program comes from an object store.
                RootSpec::Layers { .. } => Template::Scratch,
            },
            phase: phase(record, live),
            essential: record.essential,
            attempt: record.attempt,
            sandbox: record.sandbox.clone(),
            issuer: record.claims.issuer.clone(),
            hash: record.sha256().to_owned(),
            argv: main.map(|m| m.args.clone()).unwrap_or_default(),
            created_at: record.created_at,
            started_at: record.started_at,
            ended_at: ended,
            exit: record.ending.as_ref().map(|e| e.exit),
            cause: record.ending.as_ref().map(|e| e.cause.clone()),
            restart_at,
        };
        Self {
            view,
            claims: record.claims.clone(),
            artifact_bytes: record.artifact_bytes,
            autostart: record.autostart,
            failures: record.failures,
            timeline: record.timeline.clone(),
        }
    }
}

fn phase(record: &WorkloadRecord, live: Option<PhaseName>) -> PhaseName {
    let failed = record
        .ending
        .as_ref()
        .is_some_and(|e| matches!(e.cause, Cause::StartFailed { .. } | Cause::Lost { .. } | Cause::AgentLost { .. }));
    match record.stage {
        Stage::Starting { .. } => PhaseName::Starting,
        Stage::Running { .. } => live.unwrap_or(PhaseName::Running),
        Stage::Waiting { .. } | Stage::Ended { .. } if failed => PhaseName::Failed,
        Stage::Waiting { .. } | Stage::Ended { .. } => PhaseName::Stopped,
    }
}
