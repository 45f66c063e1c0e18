//! The scheduler's picture of the cluster, kept from this node's copy of the buckets, and when which job is planned anew.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use moat_model::job::{EvaluationStatus, NodeState, NodeWish};
use moat_model::{NodeId, Timestamp};
use moat_scheduler::{Cluster, JobKey, JobState};

use crate::clock;
use crate::jobs::keys::Key;
use crate::jobs::replica::State;

/// A plan that was not carried out is tried again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Planner {
    pub(super) cluster: Cluster,
    /// Jobs whose last evaluation found no place for something.
    blocked: BTreeSet<JobKey>,
    due: BTreeMap<JobKey, Timestamp>,
}

impl Planner {
    /// Forgets everything and reads it anew.
    pub(super) fn rebuild(&mut self, state: &State) {
        self.cluster = picture(state);
        self.blocked =
            state.outcomes.iter().filter(|(_, held)| is_blocked(&held.value)).map(|(k, _)| k.clone()).collect();
    }

    /// Takes what changed; the jobs that are to be planned for it.
    pub(super) fn update(&mut self, state: &State, keys: &BTreeSet<Key>) -> BTreeSet<JobKey> {
        let mut jobs = BTreeSet::new();
        for key in keys {
            match key {
                Key::Job(of) | Key::Version(of, _) => {
                    set_job(&mut self.cluster, state, of);
                    jobs.insert(of.clone());
                }
                Key::Outcome(of) => {
                    self.read_outcome(state, of);
                    jobs.insert(of.clone());
                }
                Key::Fence(node) | Key::Facts(node) | Key::Wish(node) => {
                    jobs.extend(self.cluster.jobs_on(node));
                    set_node(&mut self.cluster, state, node);
                    jobs.extend(self.on_every_node());
                    jobs.extend(self.blocked.iter().cloned());
                }
                Key::Status(id) => {
                    match state.statuses.get(id) {
                        Some(held) => {
                            if held.value.client.is_terminal() {
                                jobs.extend(self.blocked.iter().cloned());
                            }
                            self.cluster.set_status((*held.value).clone());
                        }
                        None => self.cluster.remove_status(id),
                    }
                    jobs.extend(state.owners.get(id).cloned());
                }
                Key::Barrier(_) | Key::Beat(_) | Key::Lease => {}
            }
        }
        jobs
    }

    /// A job's outcome is another one.
    pub(super) fn read_outcome(&mut self, state: &State, key: &JobKey) {
        set_outcome(&mut self.cluster, state, key);
        set_job(&mut self.cluster, state, key);
        if state.outcomes.get(key).is_some_and(|held| is_blocked(&held.value)) {
            self.blocked.insert(key.clone());
        } else {
            self.blocked.remove(key);
        }
    }

    fn on_every_node(&self) -> Vec<JobKey> {
        let every = |state: &&&JobState| state.job().is_some_and(|job| job.kind.is_on_every_node());
        self.cluster.jobs().iter().filter(every).map(|state| state.key.clone()).collect()
    }

    /// Every job.
    pub(super) fn all(&self) -> BTreeSet<JobKey> {
        self.cluster.jobs().into_iter().map(|state| state.key.clone()).collect()
    }

    /// These, the greater priority first; those that are not declared any more last.
    pub(super) fn in_order(&self, todo: &BTreeSet<JobKey>) -> Vec<JobKey> {
        let mut order: Vec<JobKey> = todo.iter().cloned().collect();
        let priority = |key: &JobKey| self.cluster.job(key).and_then(JobState::job).map_or(0, |job| job.priority);
        order.sort_by_key(|key| std::cmp::Reverse(priority(key)));
        order
    }

    /// Planning this job again makes a difference then.
    pub(super) fn at(&mut self, key: &JobKey, next: Option<Timestamp>) {
        match next {
            Some(at) => drop(self.due.insert(key.clone(), at)),
            None => drop(self.due.remove(key)),
        }
    }

    /// The plan of this job was not carried out.
    pub(super) fn again(&mut self, key: JobKey) {
        self.due.insert(key, clock::now().plus(AGAIN));
    }

    /// Jobs whose time has come.
    pub(super) fn due(&mut self) -> Vec<JobKey> {
        let now = clock::now();
        let due: Vec<JobKey> = self.due.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in &due {
            self.due.remove(key);
        }
        due
    }
}

fn is_blocked(outcome: &crate::jobs::document::Outcome) -> bool {
    outcome.evaluations.last().is_some_and(|last| last.evaluation.status == EvaluationStatus::Blocked)
}

/// All that is known, as the scheduler sees it.
pub fn picture(state: &State) -> Cluster {
    let mut cluster = Cluster::new();
    for node in state.facts.keys() {
        set_node(&mut cluster, state, node);
    }
    for held in state.statuses.values() {
        cluster.set_status((*held.value).clone());
    }
    for key in state.jobs.keys() {
        set_job(&mut cluster, state, key);
    }
    for key in state.outcomes.keys() {
        set_outcome(&mut cluster, state, key);
    }
    cluster
}

fn set_node(cluster: &mut Cluster, state: &State, node: &NodeId) {
    let Some(facts) = state.facts.get(node) else {
        cluster.remove_node(node);
        return;
    };
    let wish = state.wishes.get(node).map_or_else(NodeWish::default, |held| (*held.value).clone());
    cluster.set_node((*facts.value).clone(), wish, node_state(state, node));
}

/// What the fence says, and only that: it is in one order with what was placed.
pub fn node_state(state: &State, node: &NodeId) -> NodeState {
    if state.fences.get(node).is_some_and(|held| !held.value.down) { NodeState::Ready } else { NodeState::Down }
}

fn set_job(cluster: &mut Cluster, state: &State, key: &JobKey) {
    let Some(held) = state.jobs.get(key) else {
        cluster.remove_job(key);
        return;
    };
    let record = &held.value;
    let earlier = state.versions.get(key).into_iter().flatten();
    let mut versions: BTreeMap<_, _> =
        earlier.map(|(number, kept)| (*number, std::sync::Arc::new(kept.job.clone()))).collect();
    versions.insert(record.version, std::sync::Arc::new(record.job.clone()));
    let stable = state.outcomes.get(key).map(|held| held.value.stable.clone()).unwrap_or_default();
    cluster.set_job(JobState {
        key: key.clone(),
        current: record.version,
        versions,
        stable,
        stopped: record.stop || record.job.is_only_a_parent(),
    });
}

fn set_outcome(cluster: &mut Cluster, state: &State, key: &JobKey) {
    let outcome = state.outcomes.get(key).map(|held| &held.value);
    let allocations = outcome.map(|outcome| outcome.allocations.clone()).unwrap_or_default();
    let deployment = outcome.and_then(|outcome| outcome.deployment.clone());
    cluster.set_allocations(key, allocations, deployment);
}
