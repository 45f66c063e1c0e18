//! One job's plan, carried out by one compare-and-set of its one document.

use moat_model::job::{Allocation, ClientStatus, Desired};
use moat_model::{ErrorKind, Timestamp};
use moat_scheduler::{JobKey, Plan, Seed, plan};

use super::Controller;
use crate::clock;
use crate::error::{Error, Result};
use crate::jobs::declare::{next_version, put_record};
use crate::jobs::document::{
    ALLOCATIONS_MAX, DEPLOYMENTS_MAX, ENDED_MAX, EVALUATIONS_MAX, Evaluated, JobRecord, Outcome, Request,
};
use crate::jobs::evaluation::Trigger;
use crate::jobs::keys::Key;
use crate::jobs::replica::{Held, State};
use crate::jobs::store::WriteError;

/// Conflicts in a row before a job has to wait for its next turn.
const CONFLICTS_MAX: usize = 5;

/// What a plan was made from.
struct Basis {
    revision: u64,
    outcome: Outcome,
    record: Option<Held<JobRecord>>,
}

impl Controller {
    /// Plans a job until its document is as planned.
    pub(super) async fn carry_out(&mut self, key: &JobKey) -> Result<()> {
        for _ in 0..CONFLICTS_MAX {
            let Some(basis) = self.basis(key) else { return Ok(()) };
            let now = clock::now();
            let plan = plan(&self.planner.cluster, key, now, Seed(rand::random()));
            self.planner.at(key, plan.next);
            let Some(outcome) = outcome_of(&basis, &plan, now) else { return Ok(()) };
            if let Some(version) = plan.revert_to {
                self.revert(key, &basis, version).await?;
            }
            match self.write(key, &basis, &outcome).await {
                Ok(()) => {
                    report(key, &plan);
                    return Ok(());
                }
                Err(WriteError::Conflict) => self.reread(key).await?,
                Err(error) => return Err(error.into_error(format!("write what became of job {key}"))),
            }
        }
        Err(Error::new(
            ErrorKind::Conflict,
            format!("the document of job {key} is changed by somebody else all the time"),
        ))
    }

    /// The document, by which the scheduler's picture is brought up to date: what is planned is what is compared.
    fn basis(&mut self, key: &JobKey) -> Option<Basis> {
        let state = self.replica.state();
        if state.is_foreign(key) {
            return None;
        }
        self.planner.read_outcome(&state, key);
        let record = state.jobs.get(key).cloned();
        let revision = state.revision(&Key::Outcome(key.clone())).unwrap_or(0);
        let outcome = state.outcomes.get(key).map(|held| (*held.value).clone());
        // What is left of one that is not declared any more is removed by the collection.
        let record = Some(record?);
        Some(Basis { revision, outcome: outcome.unwrap_or_default(), record })
    }

    async fn write(&mut self, key: &JobKey, basis: &Basis, outcome: &Outcome) -> std::result::Result<(), WriteError> {
        let at = Key::Outcome(key.clone());
        let value = serde_json::to_vec(outcome).unwrap_or_default();
        let revision = self.store.put(&at, value.clone(), Some(basis.revision)).await?;
        self.replica.apply(&at, revision, Some(&value));
        self.planner.read_outcome(&self.replica.state(), key);
        Ok(())
    }

    /// Somebody was faster: what they wrote is read from where it is certain.
    async fn reread(&mut self, key: &JobKey) -> Result<()> {
        for at in [Key::Outcome(key.clone()), Key::Job(key.clone())] {
            self.replica.reread(&self.store, &at).await?;
        }
        Ok(())
    }

    /// The content of an earlier version becomes the next. Before the outcome says that the deployment has failed: who is
    /// killed between the two plans the same again.
    async fn revert(&mut self, key: &JobKey, basis: &Basis, version: u64) -> Result<()> {
        let Some(held) = &basis.record else { return Ok(()) };
        let Some(job) = self.replica.state().version(key, version) else {
            tracing::warn!(job = %key, version, "the version to go back to is not kept any more");
            return Ok(());
        };
        let request =
            Request { id: uuid::Uuid::new_v4().to_string(), trigger: Trigger::DeploymentWatcher, at: clock::now() };
        let next = next_version(&held.value, (*job).clone(), Some(request));
        match put_record(&self.store, &self.replica, key, Some(held), &next).await {
            Ok(()) | Err(WriteError::Conflict) => Ok(()),
            Err(error) => Err(error.into_error(format!("go back to version {version} of job {key}"))),
        }
    }
}

/// The document after the plan; nothing if it stays as it is.
fn outcome_of(basis: &Basis, plan: &Plan, now: Timestamp) -> Option<Outcome> {
    let mut outcome = basis.outcome.clone();
    let mut requests = std::mem::take(&mut outcome.requests);
    let asked = basis.record.as_ref().filter(|held| held.value.index > basis.outcome.answered);
    if let Some(held) = asked {
        outcome.answered = held.value.index;
        requests.extend(held.value.request.clone());
    }
    let last = basis.outcome.evaluations.last();
    let same = last.is_some_and(|last| last.evaluation.failures == plan.evaluation.failures)
        || (last.is_none() && plan.evaluation.failures.is_empty());
    if plan.is_empty() && same && requests.is_empty() {
        return None;
    }
    for changed in &plan.change {
        if let Some(old) = outcome.allocations.iter_mut().find(|old| old.id == changed.id) {
            *old = changed.clone();
        }
    }
    outcome.allocations.extend(plan.place.iter().cloned());
    if let Some(held) = &basis.record
        && held.value.stop
        && held.value.no_shutdown_delay
    {
        let stopping = outcome.allocations.iter_mut().filter(|a| a.desired != Desired::Run && !a.no_shutdown_delay);
        stopping.for_each(|allocation| allocation.no_shutdown_delay = true);
    }
    if let Some(deployment) = &plan.deployment {
        if let Some(old) = outcome.deployment.take_if(|old| old.id != deployment.id) {
            outcome.deployments.push(old);
        }
        outcome.deployment = Some(deployment.clone());
    }
    outcome.stable.extend(plan.stable);
    let by_itself = Request { id: plan.evaluation.id.clone(), trigger: Trigger::Scheduled, at: now };
    if requests.is_empty() {
        requests.push(by_itself);
    }
    outcome.evaluations.extend(requests.into_iter().map(|request| {
        let evaluation = moat_model::job::Evaluation { id: request.id.clone(), ..plan.evaluation.clone() };
        Evaluated { evaluation, request }
    }));
    trim(&mut outcome.evaluations, EVALUATIONS_MAX);
    trim(&mut outcome.deployments, DEPLOYMENTS_MAX);
    Some(outcome)
}

fn trim<T>(list: &mut Vec<T>, most: usize) {
    let over = list.len().saturating_sub(most);
    list.drain(..over);
}

fn report(key: &JobKey, plan: &Plan) {
    let (placed, changed, failures) = (plan.place.len(), plan.change.len(), plan.evaluation.failures.len());
    if placed + changed + failures > 0 {
        tracing::info!(job = %key, placed, changed, groups_without_place = failures, "planned");
    }
}

/// Allocations that are to be dropped from a document: ended ones beyond the bound, the oldest first, and those older than
/// `ended_before`. One that another still points back to as its predecessor goes as well.
pub(super) fn droppable(outcome: &Outcome, state: &State, ended_before: Timestamp) -> Vec<moat_model::AllocId> {
    let ended = |allocation: &&Allocation| {
        let status = state.statuses.get(&allocation.id).map(|held| &*held.value);
        let client = allocation.client(status);
        // A failed one that still waits for its replacement is the memory of that.
        let waits = client == ClientStatus::Failed && allocation.desired == Desired::Run && allocation.next.is_none();
        client.is_terminal() && !waits && allocation.desired != Desired::Run
            || client.is_terminal() && allocation.next.is_some()
    };
    let mut all: Vec<&Allocation> = outcome.allocations.iter().filter(ended).collect();
    all.sort_by_key(|allocation| allocation.modified);
    let over = all.len().saturating_sub(ENDED_MAX);
    let drop = |(at, allocation): &(usize, &&Allocation)| *at < over || allocation.modified < ended_before;
    all.iter().enumerate().filter(drop).map(|(_, allocation)| allocation.id.clone()).collect()
}

/// Instances a job asks for may not be more than fit its document.
pub fn check_size(job: &moat_model::job::Job, nodes: usize) -> Result<()> {
    let each = if job.kind.is_on_every_node() { u64::try_from(nodes.max(1)).unwrap_or(u64::MAX) } else { 1 };
    let wanted: u64 = job.groups.iter().map(|group| u64::from(group.count).saturating_mul(each)).sum();
    if wanted > ALLOCATIONS_MAX {
        let why = format!("{wanted} instances are asked for, and {ALLOCATIONS_MAX} is the most of one job; split it");
        return Err(Error::invalid("count", why));
    }
    Ok(())
}
