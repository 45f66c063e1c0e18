//! What the API shows of a sandbox.

use moat_api::nex::event::rfc3339;
use moat_api::rest::ErrorBody;
use moat_api::rest::network::NetworkStatus;
use moat_api::rest::sandbox::{ExplainedStep, OnTimeout, Sandbox};
use moat_model::lifecycle::{SandboxView, Step};
use moat_model::spec;
use moat_model::{Cause, NodeId, SandboxSpec, Timestamp};

use crate::error::Error;

use super::limits;

/// A sandbox as it is. `boot_ms` is what the service measured, if it made it.
pub(super) fn sandbox(
    node: &NodeId,
    view: &SandboxView,
    spec: &SandboxSpec,
    networking: NetworkStatus,
    boot_ms: Option<f64>,
    now: Timestamp,
) -> Sandbox {
    let template = view.origin.template.as_ref();
    let remaining = match (view.expires_at, view.remaining) {
        (Some(at), _) => Some(at.since(now)),
        (None, left) => left,
    };
    Sandbox {
        id: view.id.to_string(),
        state: view.phase.to_string(),
        template: template.map(|t| t.name.clone()),
        template_version: template.map(|t| t.version),
        image: view.origin.image.clone(),
        parent: view.origin.parent.as_ref().map(ToString::to_string),
        namespace: view.namespace.to_string(),
        node: node.to_string(),
        stowed: view.stowed,
        isolation: view.isolation_given(),
        isolation_asked: spec.isolation.to_string(),
        driver: view.driver.clone(),
        network: spec.network.mode.to_string(),
        ip: networking.address.map(|address| address.to_string()),
        networking: Some(networking),
        proxy: None,
        // To the microsecond: more digits say nothing, and are not always read back from JSON as they were.
        boot_time_ms: boot_ms.or_else(|| whole_ms(view)).map(|ms| (ms * 1000.0).round() / 1000.0),
        from_pool: view.origin.from_pool,
        resources: limits::shown(&view.resources),
        metadata: view.labels.clone(),
        created_at: rfc3339(view.created_at),
        started_at: view.started_at.map(rfc3339),
        expires_at: view.expires_at.map(rfc3339),
        // A second that has begun is still to be had.
        remaining_sec: remaining.map(|left| left.as_millis().div_ceil(1000)).and_then(|s| u64::try_from(s).ok()),
        idle_timeout_sec: view.idle_timeout.map(|t| t.as_secs()),
        on_timeout: match view.on_timeout {
            spec::OnTimeout::Kill => OnTimeout::Kill,
            spec::OnTimeout::Pause => OnTimeout::Pause,
        },
        ended_at: view.ended_at.map(rfc3339),
        cause: view.cause.as_ref().map(|c| cause_word(c).to_owned()),
        message: view.cause.as_ref().map(Cause::message),
        exit_code: view.exit.map(|e| e.code),
    }
}

/// The engine's clock counts milliseconds.
fn whole_ms(view: &SandboxView) -> Option<f64> {
    let span = view.ready_at?.since(view.created_at);
    Some(span.as_secs_f64() * 1000.0)
}

fn cause_word(cause: &Cause) -> &'static str {
    match cause {
        Cause::Exited => "exited",
        Cause::OutOfMemory => "out_of_memory",
        Cause::Stopped => "stopped",
        Cause::StopTimedOut => "stop_timed_out",
        Cause::Killed => "killed",
        Cause::TimedOut { .. } => "timed_out",
        Cause::AgentLost { .. } => "agent_lost",
        Cause::Lost { .. } => "lost",
        Cause::StartFailed { .. } => "start_failed",
    }
}

/// The steps of its life, timed from the first.
pub(super) fn steps(steps: &[Step]) -> Vec<ExplainedStep> {
    let first = steps.first().map_or(Timestamp::default(), |s| s.at);
    let explained = |step: &Step| ExplainedStep {
        at: rfc3339(step.at),
        after_ms: step.at.as_millis().saturating_sub(first.as_millis()),
        what: step.what.clone(),
        times: step.times,
    };
    steps.iter().map(explained).collect()
}

/// A failure inside a reply that is no failure as a whole.
pub(super) fn error(error: &Error, id: &str) -> ErrorBody {
    ErrorBody { code: error.kind.code().to_owned(), message: error.chain(), hint: None, id: id.to_owned() }
}
