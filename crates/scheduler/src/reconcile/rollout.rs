//! Deployments: how a version that has to replace another does so, how far it may go, and when it has failed.

use std::sync::Arc;

use moat_model::Timestamp;
use moat_model::job::{Allocation, Deployment, DeploymentGroup, DeploymentStatus, Desired, Job, JobType, TaskGroup};

use super::Planning;
use super::live::Live;
use crate::update::is_destructive;

/// A deployment that comes to its end.
pub(super) fn ended(before: &Deployment, status: DeploymentStatus, why: &str, now: Timestamp) -> Deployment {
    Deployment { status, description: why.to_owned(), modified: now, ..before.clone() }
}

/// Instances of a group in a deployment, counted.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    placed: u32,
    healthy: u32,
    unhealthy: u32,
    healthy_canaries: u32,
}

impl<'a> Planning<'a> {
    /// Ends the deployment of an older version, begins the current one's, and judges it by what is known now.
    pub(super) fn begin_rollout(&mut self) {
        let current = self.state.current;
        if let Some(old) = self.deployment.take() {
            if old.job_version == current && old.status != DeploymentStatus::Cancelled {
                self.deployment = Some(old);
            } else if old.status.is_active() {
                self.out.deployment = Some(ended(&old, DeploymentStatus::Cancelled, "a newer version came", self.now));
            }
        }
        if self.deployment.is_none() {
            self.deployment = self.begun();
        }
        self.judge();
    }

    /// A deployment, if the current version changes anything.
    fn begun(&mut self) -> Option<Deployment> {
        if !self.job.kind.is_long_running() {
            return None;
        }
        let mut groups = std::collections::BTreeMap::new();
        for group in self.job.groups.iter().filter(|group| group.update.is_some()) {
            let update = group.update?;
            let lives = self.lives(&group.name);
            let wanted: Vec<_> = lives.iter().filter(|live| live.wanted()).collect();
            let older = |live: &&&Live<'_>| live.allocation.job_version != self.state.current;
            let is_new = group.count > 0 && lives.iter().all(|live| live.allocation.job_version != self.state.current);
            if !is_new && wanted.iter().filter(older).count() == 0 {
                continue;
            }
            let replaces = |live: &&Live<'_>| {
                let old = self.version(live.allocation.job_version);
                old.is_none_or(|old| is_destructive(old, self.job, &group.name))
            };
            let canaries = if self.job.kind == JobType::Service && wanted.iter().copied().any(|one| replaces(&one)) {
                update.canary
            } else {
                0
            };
            let of_group = DeploymentGroup {
                desired: group.count,
                desired_canaries: canaries,
                auto_promote: update.auto_promote,
                auto_revert: update.auto_revert,
                ..DeploymentGroup::default()
            };
            groups.insert(group.name.clone(), of_group);
        }
        if groups.is_empty() {
            return None;
        }
        Some(Deployment {
            id: self.ids.uuid(),
            job_version: self.state.current,
            status: DeploymentStatus::Running,
            description: "instances are being replaced".to_owned(),
            groups,
            created: self.now,
            modified: self.now,
        })
    }

    /// What health so far means: progress, promotion, failure.
    fn judge(&mut self) {
        let Some(mut deployment) = self.deployment.take() else { return };
        if deployment.status != DeploymentStatus::Running {
            self.deployment = Some(deployment);
            return;
        }
        let mut failed = None;
        let mut all_good = true;
        for (name, group) in &mut deployment.groups {
            let counts = self.counts(&deployment.id, name, &[]);
            let Some(update) = self.job.group(name).and_then(|group| group.update) else { continue };
            if counts.healthy > group.healthy {
                group.progress_by = None;
            }
            let waits = group.needs_promotion() && counts.healthy_canaries >= group.desired_canaries;
            let late = group.progress_by.is_some_and(|by| by <= self.now);
            let unfinished = counts.healthy < group.desired || group.needs_promotion();
            if update.progress_deadline.is_zero() && counts.unhealthy > 0 {
                failed = Some(format!("an instance of group {name:?} is not healthy"));
            } else if late && unfinished && !waits {
                failed = Some(format!("group {name:?} made no progress within its progress_deadline"));
            }
            all_good &= !group.needs_promotion() || group.auto_promote && waits;
        }
        if let Some(why) = failed {
            deployment = ended(&deployment, DeploymentStatus::Failed, &why, self.now);
        } else if all_good {
            for group in deployment.groups.values_mut().filter(|group| group.needs_promotion()) {
                group.promoted = true;
                group.progress_by = None;
            }
        }
        self.deployment = Some(deployment);
    }

    /// Takes the deployment's numbers down, and sees whether it is finished.
    pub(super) fn end_rollout(&mut self) {
        let Some(mut deployment) = self.deployment.take() else { return };
        if deployment.status.is_active() {
            let mut finished = deployment.status == DeploymentStatus::Running;
            for (name, group) in &mut deployment.groups {
                let counts = self.counts(&deployment.id, name, &self.out.place);
                let waits = group.needs_promotion() && counts.healthy_canaries >= group.desired_canaries;
                let deadline =
                    self.job.group(name).and_then(|group| group.update).map(|update| update.progress_deadline);
                group.placed = counts.placed;
                group.healthy = counts.healthy;
                group.unhealthy = counts.unhealthy;
                let done = self.open_updates.get(name).copied().unwrap_or(0) == 0
                    && !group.needs_promotion()
                    && counts.healthy >= group.desired;
                finished &= done;
                group.progress_by = match deadline.filter(|deadline| !deadline.is_zero()) {
                    Some(deadline) if deployment.status == DeploymentStatus::Running && !done && !waits => {
                        group.progress_by.or(Some(self.now.plus(deadline)))
                    }
                    _ => None,
                };
            }
            if finished {
                let why = "all its instances are healthy";
                deployment = ended(&deployment, DeploymentStatus::Successful, why, self.now);
                self.out.stable = Some(deployment.job_version);
            }
        }
        if deployment.status == DeploymentStatus::Failed && deployment.groups.values().any(|group| group.auto_revert) {
            self.out.revert_to = self.stable_before();
        }
        let wakes: Vec<_> = deployment.groups.values().filter_map(|group| group.progress_by).collect();
        wakes.into_iter().for_each(|at| self.wake(at));
        self.out.deployment = Some(deployment);
    }

    /// The last version that proved itself, if its content is another.
    fn stable_before(&self) -> Option<u64> {
        let older = self.state.stable.range(..self.state.current).next_back()?;
        let content = self.state.versions.get(older)?;
        (**content != **self.job).then_some(*older)
    }

    fn counts(&self, deployment: &str, group: &str, placed: &[Allocation]) -> Counts {
        let mut counts = Counts::default();
        for live in self.lives(group) {
            let current = self.out.current(live.allocation);
            if current.deployment.as_deref() != Some(deployment) {
                continue;
            }
            counts.placed += 1;
            if live.is_unhealthy() {
                counts.unhealthy += 1;
            } else if live.is_healthy() && current.desired == Desired::Run {
                counts.healthy += 1;
                counts.healthy_canaries += u32::from(current.canary);
            }
        }
        let new = placed.iter().filter(|one| one.group == group && one.deployment.as_deref() == Some(deployment));
        counts.placed += u32::try_from(new.count()).unwrap_or(u32::MAX);
        counts
    }

    /// The deployment that an instance of this version belongs to.
    pub(super) fn deployment_of(&self, version: u64, group: &str) -> Option<String> {
        let deployment = self.deployment.as_ref()?;
        let belongs =
            deployment.status.is_active() && deployment.job_version == version && deployment.groups.contains_key(group);
        belongs.then(|| deployment.id.clone())
    }

    /// The allocation belongs to the deployment of the current version, and that goes on or was finished.
    pub(super) fn is_of_rollout(&self, allocation: &Allocation) -> bool {
        self.deployment.as_ref().is_some_and(|deployment| {
            allocation.deployment.as_ref() == Some(&deployment.id)
                && (deployment.status.is_active() || deployment.status == DeploymentStatus::Successful)
        })
    }

    /// Nothing is replaced: the current version's deployment has failed, or somebody holds it.
    pub(super) fn is_halted(&self) -> bool {
        self.deployment.as_ref().is_some_and(|deployment| {
            !matches!(deployment.status, DeploymentStatus::Running | DeploymentStatus::Successful)
        })
    }

    /// Canaries of the group are being tried.
    pub(super) fn waits_for_promotion(&self, group: &str) -> bool {
        let of_group = self.deployment.as_ref().and_then(|deployment| deployment.groups.get(group));
        of_group.is_some_and(DeploymentGroup::needs_promotion)
    }

    /// How many may be replaced by the current version now.
    pub(super) fn may_replace(&self, group: &TaskGroup, members: &[Live<'a>], missing: usize) -> usize {
        if self.is_halted() || self.waits_for_promotion(&group.name) {
            return 0;
        }
        let Some(update) = group.update.filter(|update| update.max_parallel > 0) else { return usize::MAX };
        let newer = members
            .iter()
            .filter(|live| self.out.current(live.allocation).job_version == self.state.current && !live.is_complete());
        let (mut unhealthy, mut on_the_way) = (false, missing);
        for live in newer {
            unhealthy |= live.is_unhealthy();
            on_the_way += usize::from(!live.is_healthy());
        }
        let placed = self
            .out
            .place
            .iter()
            .filter(|one| one.group == group.name && one.job_version == self.state.current && !one.canary);
        on_the_way += placed.count();
        let at_once = usize::try_from(update.max_parallel).unwrap_or(usize::MAX);
        if unhealthy { 0 } else { at_once.saturating_sub(on_the_way) }
    }

    /// Which version takes the place of an instance: the current one, unless that may not spread.
    pub(super) fn version_for(&self, group: &TaskGroup, previous: Option<&Allocation>) -> u64 {
        let held_back = self.is_halted() || self.waits_for_promotion(&group.name);
        let older = previous.filter(|previous| held_back && !previous.canary).map(|previous| previous.job_version);
        let has = |version: &u64| self.version(*version).and_then(|job: &Arc<Job>| job.group(&group.name)).is_some();
        older.filter(has).unwrap_or(self.state.current)
    }

    /// The same for an index nobody holds; none if it has to stay empty.
    pub(super) fn version_for_missing(&self, group: &TaskGroup, previous: Option<&Live<'a>>) -> Option<u64> {
        let held_back = self.is_halted() || self.waits_for_promotion(&group.name);
        if held_back && previous.is_none() {
            let older = self.lives(&group.name).into_iter().filter(|live| live.wanted() && !live.allocation.canary);
            return older.map(|live| live.allocation.job_version).find(|version| self.version(*version).is_some());
        }
        Some(self.version_for(group, previous.map(|live| live.allocation)))
    }

    /// What the group still has to become: its deployment is not finished before that.
    pub(super) fn count_for_rollout(&mut self, group: &TaskGroup, desired: u32, updates: usize, missing: usize) {
        self.open_updates.insert(group.name.clone(), updates + missing);
        let Some(deployment) = &mut self.deployment else { return };
        if deployment.status.is_active()
            && let Some(of_group) = deployment.groups.get_mut(&group.name)
        {
            of_group.desired = desired;
        }
    }
}
