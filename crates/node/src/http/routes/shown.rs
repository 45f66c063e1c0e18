//! What is known of jobs, as the API says it.

use std::collections::BTreeMap;

use moat_api::rest::allocation::{AllocationList, AllocationView};
use moat_api::rest::deployment::{Deployment, DeploymentGroup};
use moat_api::rest::evaluation::{Evaluation, PlacementFailure};
use moat_api::rest::job::{
    ChildrenSummary, FutureReschedule, GroupSummary, JobDetail, JobPlan, JobRow, JobVersion, Submitted,
};
use moat_api::rest::node::ClusterNode;
use moat_model::job::NodeWish;

use super::jobs::moment;
use crate::jobs;

pub(super) fn row(job: &jobs::JobSummary) -> JobRow {
    JobRow {
        id: job.id.to_string(),
        name: job.name.clone(),
        kind: job.kind.as_str().to_owned(),
        priority: job.priority,
        status: status(job.status).to_owned(),
        stopped: job.stop,
        version: job.version,
        submitted_at: moment(job.submitted),
        periodic: job.periodic,
        parameterized: job.parameterized,
        parent: job.parent.as_ref().map(ToString::to_string),
    }
}

fn status(status: jobs::JobStatus) -> &'static str {
    match status {
        jobs::JobStatus::Pending => "pending",
        jobs::JobStatus::Running => "running",
        jobs::JobStatus::Dead => "dead",
    }
}

pub(super) fn groups(groups: &BTreeMap<String, jobs::GroupSummary>) -> BTreeMap<String, GroupSummary> {
    let shown = |s: &jobs::GroupSummary| GroupSummary {
        queued: s.queued,
        starting: s.starting,
        running: s.running,
        failed: s.failed,
        complete: s.complete,
        lost: s.lost,
        unknown: s.unknown,
    };
    groups.iter().map(|(name, summary)| (name.clone(), shown(summary))).collect()
}

pub(super) fn detail(view: jobs::JobView) -> JobDetail {
    let summary = &view.summary;
    let reschedules = view.reschedules.iter().map(|r| FutureReschedule {
        group: r.group.clone(),
        allocation: r.alloc.clone(),
        at: moment(r.at),
    });
    JobDetail {
        version: summary.version,
        modify_index: summary.index,
        status: status(summary.status).to_owned(),
        stopped: summary.stop,
        submitted_at: moment(summary.submitted),
        summary: groups(&summary.groups),
        deployment: view.deployment.as_ref().map(deployment),
        blocked: view.blocked.as_ref().map(evaluation),
        reschedules: reschedules.collect(),
        next_launch: view.next_launch.map(moment),
        children: view.children.map(|c| ChildrenSummary { pending: c.pending, running: c.running, dead: c.dead }),
        job: view.job,
    }
}

pub(super) fn submitted(submitted: &jobs::Submitted) -> Submitted {
    Submitted {
        id: submitted.job.to_string(),
        version: submitted.version,
        modify_index: submitted.index,
        evaluation: submitted.evaluation.clone(),
        next_launch: submitted.next_launch.map(moment),
        warnings: submitted.warnings.clone(),
    }
}

pub(super) fn plan(plan: jobs::JobPlan) -> JobPlan {
    JobPlan {
        diff: plan.diff,
        changes: plan.changes,
        failures: failures(&plan.failures),
        modify_index: plan.index,
        next_launch: plan.next_launch.map(moment),
        warnings: plan.warnings,
    }
}

fn failures(failures: &BTreeMap<String, moat_model::job::PlacementFailure>) -> BTreeMap<String, PlacementFailure> {
    let shown = |f: &moat_model::job::PlacementFailure| PlacementFailure { unplaced: f.unplaced, reasons: f.reasons() };
    failures.iter().map(|(group, failure)| (group.clone(), shown(failure))).collect()
}

pub(super) fn evaluation(view: &jobs::EvaluationView) -> Evaluation {
    let status = match view.status {
        jobs::Progress::Pending => "pending",
        jobs::Progress::Blocked => "blocked",
        jobs::Progress::Complete => "complete",
        jobs::Progress::Failed => "failed",
        jobs::Progress::Canceled => "canceled",
    };
    Evaluation {
        id: view.id.clone(),
        job: view.job.to_string(),
        job_version: view.version,
        status: status.to_owned(),
        description: view.description.clone(),
        triggered_by: view.triggered_by.as_str().to_owned(),
        deployment: view.deployment.clone(),
        failures: failures(&view.failures),
        created_at: moment(view.created),
    }
}

pub(super) fn deployment(view: &jobs::DeploymentView) -> Deployment {
    let d = &view.deployment;
    let group = |g: &moat_model::job::DeploymentGroup| DeploymentGroup {
        desired: g.desired,
        placed: g.placed,
        healthy: g.healthy,
        unhealthy: g.unhealthy,
        canaries: g.desired_canaries,
        promoted: g.promoted,
        auto_promote: g.auto_promote,
        auto_revert: g.auto_revert,
        progress_by: g.progress_by.map(moment),
    };
    Deployment {
        id: d.id.clone(),
        job: view.job.to_string(),
        job_version: d.job_version,
        status: d.status.as_str().to_owned(),
        description: d.description.clone(),
        groups: d.groups.iter().map(|(name, g)| (name.clone(), group(g))).collect(),
    }
}

/// The newest first; each against the one before it, as far as that is kept.
pub(super) fn versions(versions: Vec<jobs::JobVersion>) -> Vec<JobVersion> {
    let earlier: Vec<_> = versions.iter().skip(1).map(|v| Some(v.job.clone())).chain([None]).collect();
    let shown = |(v, before): (jobs::JobVersion, Option<moat_model::job::Job>)| JobVersion {
        version: v.version,
        stable: v.stable,
        current: v.current,
        submitted_at: moment(v.submitted),
        diff: before.map(|before| moat_scheduler::diff::diff(Some(&before), &v.job)),
        job: v.job,
    };
    versions.into_iter().zip(earlier).map(shown).collect()
}

pub(super) fn allocation(view: jobs::AllocView) -> AllocationView {
    AllocationView {
        allocation: view.allocation,
        node_name: view.node_name,
        client: view.client,
        description: view.description,
        status: view.status,
    }
}

/// The newest first.
pub(super) fn allocations(views: Vec<jobs::AllocView>) -> AllocationList {
    let mut allocations: Vec<_> = views.into_iter().map(allocation).collect();
    allocations.sort_by(|a, b| {
        let key = |v: &AllocationView| (v.allocation.created, v.allocation.id.clone());
        key(b).cmp(&key(a))
    });
    AllocationList { allocations }
}

pub(super) fn node(view: jobs::NodeView) -> ClusterNode {
    ClusterNode {
        facts: view.facts,
        wish: NodeWish { eligibility: view.eligibility, drain: view.drain },
        state: view.state,
    }
}
