//! What a plan in the making has come to so far.

use std::collections::BTreeMap;

use moat_model::job::{Allocation, ClientStatus, Deployment, Desired, Evaluation, EvaluationStatus, PlacementFailure};
use moat_model::{AllocId, Timestamp};

use super::live::Live;
use super::stopped;
use crate::cluster::JobKey;
use crate::plan::{GroupSummary, Plan};

/// What a plan in the making has come to so far.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) place: Vec<Allocation>,
    changed: BTreeMap<AllocId, Allocation>,
    pub(super) deployment: Option<Deployment>,
    pub(super) stable: Option<u64>,
    pub(super) revert_to: Option<u64>,
    pub(super) failures: BTreeMap<String, PlacementFailure>,
    pub(super) next: Option<Timestamp>,
    groups: BTreeMap<String, GroupSummary>,
}

impl Outcome {
    pub(super) fn summary(&mut self, group: &str) -> &mut GroupSummary {
        self.groups.entry(group.to_owned()).or_default()
    }

    /// The allocation as it will be.
    pub(super) fn current<'b>(&'b self, allocation: &'b Allocation) -> &'b Allocation {
        self.changed.get(&allocation.id).unwrap_or(allocation)
    }

    /// An allocation that exists becomes another. What should not run and cannot be heard of is given up as well.
    pub(super) fn change(&mut self, new: Allocation, live: &Live<'_>, now: Timestamp) {
        let next = self.current(live.allocation).next.clone();
        self.changed.insert(new.id.clone(), Allocation { next, ..new });
        self.give_up(live, now);
    }

    /// Written down as lost, if it should not run and its node is gone.
    pub(super) fn give_up(&mut self, live: &Live<'_>, now: Timestamp) {
        let current = self.current(live.allocation);
        if current.desired != Desired::Run && live.client == ClientStatus::Unknown && !current.lost {
            let lost = Allocation { lost: true, modified: now, ..current.clone() };
            self.changed.insert(lost.id.clone(), lost);
        }
    }

    /// The node of an allocation is gone for good, as far as the job is concerned.
    pub(super) fn lose(&mut self, live: &Live<'_>, reason: &str, now: Timestamp) {
        self.change(stopped(live.allocation, reason, now), live, now);
    }

    /// Who takes an allocation's place. No change of what is wanted of it, so its generation stays.
    pub(super) fn link(&mut self, previous: &Allocation, next: &AllocId) {
        let current = self.current(previous).clone();
        if current.next.is_none() {
            self.changed.insert(current.id.clone(), Allocation { next: Some(next.clone()), ..current });
        }
    }

    /// An allocation with the plan's change, for counting.
    pub(super) fn into_plan(
        self,
        key: &JobKey,
        id: String,
        job_version: u64,
        now: Timestamp,
        before: Option<&Deployment>,
    ) -> Plan {
        let deployment = self.deployment.filter(|new| before.is_none_or(|old| differs(old, new)));
        let mut placed: BTreeMap<String, u32> = BTreeMap::new();
        for allocation in &self.place {
            *placed.entry(allocation.group.clone()).or_default() += 1;
        }
        let status = if self.failures.is_empty() { EvaluationStatus::Complete } else { EvaluationStatus::Blocked };
        let works_on = deployment.as_ref().or(before).filter(|one| one.job_version == job_version);
        let evaluation = Evaluation {
            id,
            at: now,
            job_version,
            status,
            deployment: works_on.map(|one| one.id.clone()),
            placed,
            failures: self.failures,
        };
        Plan {
            job: key.clone(),
            place: self.place,
            change: self.changed.into_values().collect(),
            deployment,
            stable: self.stable,
            revert_to: self.revert_to,
            evaluation,
            next: self.next,
            groups: self.groups,
        }
    }
}

/// Anything but the moment of the change.
fn differs(old: &Deployment, new: &Deployment) -> bool {
    Deployment { modified: old.modified, ..new.clone() } != *old
}
