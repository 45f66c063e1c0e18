//! Documents as people see them.

use std::collections::BTreeMap;

use moat_model::job::{Allocation, ClientStatus, Desired, EvaluationStatus, Job, JobType, TaskPhase};
use moat_model::{AllocId, Namespace};
use moat_scheduler::JobKey;

use crate::jobs::controller::{next_launch, node_state};
use crate::jobs::document::{Evaluated, JobRecord, Outcome, Request};
use crate::jobs::evaluation::{DeploymentView, EvaluationView, Progress, Trigger};
use crate::jobs::replica::{Held, State};
use crate::jobs::succession::awaited;
use crate::jobs::view::{
    AllocView, ChildrenSummary, FutureReschedule, GroupSummary, JobStatus, JobSummary, JobView, ServiceInstance,
};

/// What has become of an allocation, by all that is known.
pub fn client(state: &State, allocation: &Allocation) -> ClientStatus {
    let said = state.statuses.get(&allocation.id).map(|held| &*held.value);
    let client = allocation.client(said);
    let down = node_state(state, &allocation.node) == moat_model::job::NodeState::Down;
    if down && !client.is_terminal() { ClientStatus::Unknown } else { client }
}

fn outcome<'a>(state: &'a State, key: &JobKey) -> Option<&'a Outcome> {
    state.outcomes.get(key).map(|held| &*held.value)
}

/// Nothing of it runs, and nothing will by itself.
pub fn is_dead(state: &State, key: &JobKey) -> bool {
    state.jobs.get(key).is_none_or(|held| job_status(state, key, &held.value) == JobStatus::Dead)
}

/// Whether something of it runs.
pub fn job_status(state: &State, key: &JobKey, record: &JobRecord) -> JobStatus {
    let outcome = outcome(state, key);
    let alive = outcome.is_some_and(|o| o.allocations.iter().any(|a| !client(state, a).is_terminal()));
    if alive {
        return JobStatus::Running;
    }
    if record.stop {
        return JobStatus::Dead;
    }
    if record.job.is_only_a_parent() {
        return JobStatus::Running;
    }
    let unanswered = outcome.is_none_or(|o| o.answered < record.index);
    let blocked = outcome.is_some_and(|o| last_status(o) == Some(EvaluationStatus::Blocked));
    let ended = matches!(record.job.kind, JobType::Batch | JobType::Sysbatch)
        && outcome.is_some_and(|o| !o.allocations.is_empty() && o.allocations.iter().all(|a| !may_come_back(state, a)));
    let empty = record.job.groups.iter().all(|group| group.count == 0);
    if !unanswered && !blocked && (ended || empty) { JobStatus::Dead } else { JobStatus::Pending }
}

/// It has failed, and another will take its place.
fn may_come_back(state: &State, allocation: &Allocation) -> bool {
    client(state, allocation) == ClientStatus::Failed
        && allocation.desired == Desired::Run
        && allocation.next.is_none()
        && allocation.not_before.is_some()
}

fn last_status(outcome: &Outcome) -> Option<EvaluationStatus> {
    outcome.evaluations.last().map(|last| last.evaluation.status)
}

fn groups(state: &State, key: &JobKey, record: &JobRecord) -> BTreeMap<String, GroupSummary> {
    let mut groups: BTreeMap<String, GroupSummary> =
        record.job.groups.iter().map(|group| (group.name.clone(), GroupSummary::default())).collect();
    let Some(outcome) = outcome(state, key) else { return groups };
    for allocation in &outcome.allocations {
        let group = groups.entry(allocation.group.clone()).or_default();
        let count = match client(state, allocation) {
            ClientStatus::Pending => &mut group.starting,
            ClientStatus::Running => &mut group.running,
            ClientStatus::Complete => &mut group.complete,
            ClientStatus::Failed => &mut group.failed,
            ClientStatus::Lost => &mut group.lost,
            ClientStatus::Unknown => &mut group.unknown,
        };
        *count += 1;
    }
    if let Some(last) = outcome.evaluations.last() {
        for (name, failure) in &last.evaluation.failures {
            groups.entry(name.clone()).or_default().queued = failure.unplaced;
        }
    }
    groups
}

/// A job in a list.
pub fn summary(state: &State, key: &JobKey, record: &JobRecord) -> JobSummary {
    JobSummary {
        id: key.job.clone(),
        name: record.job.name.clone(),
        namespace: key.namespace.clone(),
        kind: record.job.kind,
        priority: record.job.priority,
        status: job_status(state, key, record),
        stop: record.stop,
        periodic: record.job.periodic.is_some(),
        parameterized: record.job.parameterized.is_some(),
        parent: record.job.parent.clone(),
        version: record.version,
        index: record.index,
        submitted: record.submitted,
        groups: groups(state, key, record),
    }
}

/// A job with all that is known of it.
pub fn view(state: &State, key: &JobKey, record: &JobRecord) -> JobView {
    let outcome = outcome(state, key);
    let blocked = evaluations(state, key).pop().filter(|last| last.status == Progress::Blocked);
    let waits = |allocation: &Allocation| {
        let at = allocation.not_before.filter(|_| may_come_back(state, allocation))?;
        Some(FutureReschedule { group: allocation.group.clone(), alloc: allocation.id.to_string(), at })
    };
    JobView {
        summary: summary(state, key, record),
        job: record.job.clone(),
        blocked,
        deployment: deployments(key, outcome).into_iter().next(),
        reschedules: outcome.map(|o| o.allocations.iter().filter_map(waits).collect()).unwrap_or_default(),
        children: record.job.is_only_a_parent().then(|| children(state, key)),
        next_launch: next_launch(record, outcome),
    }
}

fn children(state: &State, key: &JobKey) -> ChildrenSummary {
    let mut summary = ChildrenSummary::default();
    let mine = |held: &Held<JobRecord>| held.value.job.parent.as_ref() == Some(&key.job);
    for (child, held) in state.jobs.iter().filter(|(child, held)| child.namespace == key.namespace && mine(held)) {
        match job_status(state, child, &held.value) {
            JobStatus::Pending => summary.pending += 1,
            JobStatus::Running => summary.running += 1,
            JobStatus::Dead => summary.dead += 1,
        }
    }
    summary
}

/// Deployments of a job, the newest first.
pub fn deployments(key: &JobKey, outcome: Option<&Outcome>) -> Vec<DeploymentView> {
    let Some(outcome) = outcome else { return Vec::new() };
    let all = outcome.deployment.iter().chain(outcome.deployments.iter().rev());
    let view = |deployment: &moat_model::job::Deployment| DeploymentView {
        namespace: key.namespace.clone(),
        job: key.job.clone(),
        deployment: deployment.clone(),
    };
    all.map(view).collect()
}

/// Evaluations of a job, the oldest first; what waits for the controller is last.
pub fn evaluations(state: &State, key: &JobKey) -> Vec<EvaluationView> {
    let record = state.jobs.get(key).map(|held| &*held.value);
    let priority = record.map_or(0, |record| record.job.priority);
    let version = record.map_or(0, |record| record.version);
    let outcome = outcome(state, key);
    let done = outcome.map(|outcome| outcome.evaluations.as_slice()).unwrap_or_default();
    let mut all: Vec<EvaluationView> = done.iter().map(|done| evaluated(key, priority, done)).collect();
    // Only the last one still waits for room: what came after it took its place.
    let last = all.len().saturating_sub(1);
    for earlier in all.iter_mut().take(last).filter(|view| view.status == Progress::Blocked) {
        earlier.status = Progress::Canceled;
    }
    let asked = record.filter(|record| outcome.is_none_or(|o| o.answered < record.index));
    let asked = asked.and_then(|record| record.request.as_ref());
    let waiting = outcome.map(|o| o.requests.as_slice()).unwrap_or_default();
    all.extend(waiting.iter().chain(asked).map(|request| pending(key, priority, version, request)));
    all
}

fn pending(key: &JobKey, priority: u8, version: u64, request: &Request) -> EvaluationView {
    EvaluationView {
        id: request.id.clone(),
        namespace: key.namespace.clone(),
        job: key.job.clone(),
        version,
        priority,
        triggered_by: request.trigger,
        status: Progress::Pending,
        description: "the controller has not looked yet".to_owned(),
        deployment: None,
        failures: BTreeMap::new(),
        queued: BTreeMap::new(),
        blocked: None,
        previous: None,
        created: request.at,
        modified: request.at,
    }
}

fn evaluated(key: &JobKey, priority: u8, done: &Evaluated) -> EvaluationView {
    let evaluation = &done.evaluation;
    let is_blocked = evaluation.status == EvaluationStatus::Blocked;
    EvaluationView {
        status: if is_blocked { Progress::Blocked } else { Progress::Complete },
        description: if is_blocked {
            "something has no place yet; it waits for room".to_owned()
        } else {
            String::new()
        },
        deployment: evaluation.deployment.clone(),
        failures: evaluation.failures.clone(),
        queued: evaluation.failures.iter().map(|(name, failure)| (name.clone(), failure.unplaced)).collect(),
        blocked: is_blocked.then(|| evaluation.id.clone()),
        modified: evaluation.at,
        ..pending(key, priority, evaluation.job_version, &done.request)
    }
}

/// An allocation; with its job if `whole`.
pub fn alloc_view(state: &State, key: &JobKey, allocation: &Allocation, whole: bool) -> AllocView {
    let status = state.statuses.get(&allocation.id).map(|held| (*held.value).clone());
    let facts = state.facts.get(&allocation.node).map(|held| &held.value);
    let client = client(state, allocation);
    let description = match client {
        ClientStatus::Lost => "its node was given up".to_owned(),
        ClientStatus::Unknown => "nobody hears from its node".to_owned(),
        ClientStatus::Pending if status.is_none() => {
            let waits = |previous: &Allocation| format!("waits for the end of {}, which it replaces", previous.id);
            awaited(state, allocation).map(waits).unwrap_or_default()
        }
        _ => status.as_ref().map(|status| status.description.clone()).unwrap_or_default(),
    };
    AllocView {
        name: allocation.name(),
        client,
        description,
        node_name: facts.map(|facts| facts.name.clone()).unwrap_or_default(),
        node_http: facts.and_then(|facts| facts.http.clone()),
        job: if whole { state.version(key, allocation.job_version).map(|job| (*job).clone()) } else { None },
        allocation: allocation.clone(),
        status,
    }
}

/// Instances of services that may be used, in a fixed order.
pub fn services(state: &State, namespace: &Namespace, name: Option<&str>) -> Vec<ServiceInstance> {
    let mut found = Vec::new();
    let mut jobs: BTreeMap<(&JobKey, u64), Option<std::sync::Arc<Job>>> = BTreeMap::new();
    for (key, held) in state.outcomes.iter().filter(|(key, _)| &key.namespace == namespace) {
        for allocation in held.value.allocations.iter().filter(|a| client(state, a) == ClientStatus::Running) {
            let version = allocation.job_version;
            let job = jobs.entry((key, version)).or_insert_with(|| state.version(key, version));
            if let Some(job) = job {
                instances(state, key, allocation, job, name, &mut found);
            }
        }
    }
    found.sort_by(|a, b| (&a.service, &a.alloc).cmp(&(&b.service, &b.alloc)));
    found
}

fn instances(
    state: &State,
    key: &JobKey,
    allocation: &Allocation,
    job: &Job,
    name: Option<&str>,
    found: &mut Vec<ServiceInstance>,
) {
    let Some(group) = job.group(&allocation.group) else { return };
    let Some(status) = state.statuses.get(&allocation.id).map(|held| &held.value) else { return };
    let of_group = group.services.iter().map(|service| (service, service.task.clone()));
    let of_task = |task: &moat_model::job::Task| task.name.clone();
    let of_tasks = group.tasks.iter().flat_map(|task| task.services.iter().map(move |s| (s, Some(of_task(task)))));
    for (service, task) in of_group.chain(of_tasks) {
        if name.is_some_and(|name| name != service.name) {
            continue;
        }
        let of: Vec<_> = match &task {
            Some(task) => status.tasks.get(task).into_iter().collect(),
            None => status.tasks.values().collect(),
        };
        let usable = !of.is_empty() && of.iter().all(|t| t.phase == TaskPhase::Running && !t.withdrawn)
            || task.is_none() && of.iter().any(|t| t.phase == TaskPhase::Running) && !of.iter().any(|t| t.withdrawn);
        if !usable || !passes(status, service) {
            continue;
        }
        let mapping = service.port.as_ref().and_then(|label| status.ports.get(label));
        let tags =
            if allocation.canary && !service.canary_tags.is_empty() { &service.canary_tags } else { &service.tags };
        found.push(ServiceInstance {
            service: service.name.clone(),
            alloc: allocation.id.to_string(),
            job: key.job.clone(),
            group: allocation.group.clone(),
            task,
            node: allocation.node.clone(),
            address: mapping.map(|mapping| mapping.host_ip.clone()),
            port: mapping.map(|mapping| mapping.host_port),
            tags: tags.clone(),
        });
    }
}

/// None of its checks has failed last.
fn passes(status: &moat_model::job::AllocStatus, service: &moat_model::job::ServiceSpec) -> bool {
    let of = |check: &moat_model::job::Check| status.checks.get(&format!("{}/{}", service.name, check.name));
    service.checks.iter().filter_map(of).all(|result| result.status != "failure")
}

/// Something whose id begins so, and nothing else does.
pub fn only<T>(what: &str, given: &str, found: Vec<(String, T)>) -> crate::error::Result<T> {
    use crate::error::Error;
    use moat_model::ErrorKind;
    let mut found = found;
    if let Some(at) = found.iter().position(|(id, _)| id == given) {
        return Ok(found.swap_remove(at).1);
    }
    if found.len() > 1 {
        let ids: Vec<&str> = found.iter().take(5).map(|(id, _)| id.as_str()).collect();
        let why = format!("{given:?} is the beginning of {} {what}s: {}", found.len(), ids.join(", "));
        return Err(Error::new(ErrorKind::Conflict, why));
    }
    found.pop().map(|(_, thing)| thing).ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no {what} {given:?}")))
}

/// Why a trigger is what it is, where only the id is known.
pub fn request(trigger: Trigger) -> Request {
    Request { id: uuid::Uuid::new_v4().to_string(), trigger, at: crate::clock::now() }
}

/// Whose an allocation is.
pub fn owner<'a>(state: &'a State, id: &AllocId) -> Option<(&'a JobKey, &'a Allocation)> {
    let key = state.owners.get(id)?;
    Some((key, state.outcomes.get(key)?.value.allocation(id)?))
}
