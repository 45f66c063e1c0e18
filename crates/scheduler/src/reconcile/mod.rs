//! From what should run and what does to what has to change: one job, group by group.

mod counted;
mod everywhere;
mod live;
mod outcome;
mod rollout;

use std::collections::BTreeMap;
use std::sync::Arc;

use moat_model::Timestamp;
use moat_model::job::{Allocation, Deployment, DeploymentStatus, Desired, Job, NodeState, RescheduleEvent, TaskGroup};

use crate::cluster::{Cluster, JobEntry, JobKey, JobState, Node};
use crate::feasible::Board;
use crate::place::{NoPlace, Placer, Wanted};
use crate::plan::Plan;
use crate::seed::{Ids, Seed};

use live::Live;
use outcome::Outcome;

/// A plan in the making.
pub(crate) struct Planning<'a> {
    cluster: &'a Cluster,
    entry: &'a JobEntry,
    state: &'a JobState,
    job: &'a Arc<Job>,
    now: Timestamp,
    ids: Ids,
    /// Nothing new is placed: `all_at_once`, and not all of it has a place.
    hold: bool,
    board: Option<Board<'a>>,
    placers: BTreeMap<(u64, &'a str), Placer<'a>>,
    deployment: Option<Deployment>,
    /// Instances of each group that are not yet of the current version, or have no place.
    open_updates: BTreeMap<String, usize>,
    out: Outcome,
}

/// One instance that should be placed.
struct Want<'a> {
    version: u64,
    group: &'a str,
    index: u32,
    /// Whose place it takes.
    previous: Option<&'a Allocation>,
    reschedules: Vec<RescheduleEvent>,
    wanted: Wanted,
    canary: bool,
}

/// Plans one job, `state` in place of what is declared of it.
pub(crate) fn plan(cluster: &Cluster, state: Option<&JobState>, key: &JobKey, now: Timestamp, seed: Seed) -> Plan {
    let empty = JobEntry::default();
    let entry = cluster.jobs.get(key).unwrap_or(&empty);
    let mut ids = Ids::new(seed);
    let evaluation = ids.uuid();
    let before = entry.deployment.as_ref();
    let version = state.map_or(0, |state| state.current);
    // A job nobody has heard of, or whose content has not arrived yet, is no job that should stop.
    let Some(state) = state.filter(|state| state.stopped || state.job().is_some()) else {
        return Outcome::default().into_plan(key, evaluation, version, now, before);
    };
    let Some(job) = state.job().filter(|job| !state.stopped && !job.is_only_a_parent()) else {
        return stop_all(cluster, entry, now).into_plan(key, evaluation, version, now, before);
    };
    let begin = |hold| Planning {
        cluster,
        entry,
        state,
        job,
        now,
        ids: ids.clone(),
        hold,
        board: None,
        placers: BTreeMap::new(),
        deployment: entry.deployment.clone(),
        open_updates: BTreeMap::new(),
        out: Outcome::default(),
    };
    let mut out = begin(false).run();
    if job.all_at_once && !out.failures.is_empty() {
        let failures = std::mem::take(&mut out.failures);
        out = begin(true).run();
        out.failures = failures;
    }
    out.into_plan(key, evaluation, version, now, before)
}

/// Nothing of the job should run.
fn stop_all(cluster: &Cluster, entry: &JobEntry, now: Timestamp) -> Outcome {
    let mut out = Outcome::default();
    for allocation in entry.allocations.values().map(|entry| &entry.allocation) {
        let live = Live::new(cluster, allocation);
        if live.wanted() && !live.client.is_terminal() {
            out.change(stopped(allocation, "the job was stopped", now), &live, now);
            out.summary(&allocation.group).stop += 1;
        } else {
            out.give_up(&live, now);
        }
    }
    if let Some(deployment) = entry.deployment.as_ref().filter(|deployment| deployment.status.is_active()) {
        out.deployment = Some(rollout::ended(deployment, DeploymentStatus::Cancelled, "the job was stopped", now));
    }
    out
}

/// The allocation as one that should not run any more.
fn stopped(allocation: &Allocation, reason: &str, now: Timestamp) -> Allocation {
    let generation = allocation.generation.saturating_add(1);
    let reason = reason.to_owned();
    Allocation { desired: Desired::Stop, reason, generation, modified: now, not_before: None, ..allocation.clone() }
}

impl<'a> Planning<'a> {
    fn run(mut self) -> Outcome {
        self.leave_other_groups();
        self.begin_rollout();
        for group in &self.job.groups {
            if self.job.kind.is_on_every_node() {
                self.everywhere(group);
            } else {
                self.counted(group);
            }
        }
        self.end_rollout();
        self.out
    }

    /// All of a group's allocations, the oldest first.
    fn lives(&self, group: &str) -> Vec<Live<'a>> {
        let all = self.entry.allocations.values().map(|entry| &entry.allocation);
        let mut lives: Vec<_> = all.filter(|one| one.group == group).map(|one| Live::new(self.cluster, one)).collect();
        lives.sort_by(|a, b| (a.allocation.created, &a.allocation.id).cmp(&(b.allocation.created, &b.allocation.id)));
        lives
    }

    /// What belongs to groups the job has no more.
    fn leave_other_groups(&mut self) {
        for allocation in self.entry.allocations.values().map(|entry| &entry.allocation) {
            if self.job.group(&allocation.group).is_none() {
                let live = Live::new(self.cluster, allocation);
                if live.wanted() && !live.client.is_terminal() {
                    self.stop(&live, "its group is not in the job any more");
                    self.out.summary(&allocation.group).stop += 1;
                } else {
                    self.out.give_up(&live, self.now);
                }
            }
        }
    }

    /// The content an allocation was placed with, if it is kept.
    fn version(&self, version: u64) -> Option<&'a Arc<Job>> {
        self.state.versions.get(&version)
    }

    fn wake(&mut self, at: Timestamp) {
        if at > self.now {
            self.out.next = Some(self.out.next.map_or(at, |next| next.min(at)));
        }
    }

    /// An allocation should run no more.
    fn stop(&mut self, live: &Live<'a>, reason: &str) {
        let new = stopped(live.allocation, reason, self.now);
        self.out.change(new, live, self.now);
        if let Some(board) = &mut self.board {
            leave(board, self.entry, live.allocation);
        }
    }

    fn board(&mut self) -> &mut Board<'a> {
        let (cluster, entry, out) = (self.cluster, self.entry, &self.out);
        self.board.get_or_insert_with(|| {
            let mut board = Board::new(cluster);
            for one in entry.allocations.values().map(|entry| &entry.allocation) {
                let live = Live::new(cluster, one);
                let wanted = out.current(one).desired == Desired::Run;
                if !live.client.is_terminal()
                    && let Some(node) = live.node
                {
                    board.knows(node, &one.group);
                    if !wanted {
                        leave(&mut board, entry, one);
                    }
                }
            }
            board
        })
    }

    /// The places of a group of one version.
    fn placer(&mut self, version: u64, group: &str) -> Option<(&mut Placer<'a>, &mut Board<'a>)> {
        self.board();
        let job = self.state.versions.get(&version)?;
        let group: &'a TaskGroup = job.group(group)?;
        let board = self.board.as_mut()?;
        let placer = self.placers.entry((version, &group.name)).or_insert_with(|| Placer::new(job, group, board));
        Some((placer, board))
    }

    /// Places one instance. What it takes the place of is told so; that it should stop is for the caller to say.
    fn place(&mut self, want: Want<'a>) -> Result<(), NoPlace> {
        if self.hold {
            return Err(NoPlace::NotYet);
        }
        let id = self.ids.alloc();
        let (Some((placer, board)), Some(id)) = (self.placer(want.version, want.group), id) else {
            return Err(NoPlace::NotYet);
        };
        let node = placer.take(board, &want.wanted)?;
        let deployment = self.deployment_of(want.version, want.group);
        let allocation = Allocation {
            id,
            namespace: self.state.key.namespace.clone(),
            job: self.state.key.job.clone(),
            job_version: want.version,
            group: want.group.to_owned(),
            index: want.index,
            node,
            desired: Desired::Run,
            reason: String::new(),
            generation: 1,
            created: self.now,
            modified: self.now,
            previous: want.previous.map(|previous| previous.id.clone()),
            next: None,
            reschedules: want.reschedules,
            not_before: None,
            deployment,
            canary: want.canary,
            lost: false,
            no_shutdown_delay: false,
        };
        if let Some(previous) = want.previous {
            self.out.link(previous, &allocation.id);
        }
        self.out.place.push(allocation);
        Ok(())
    }

    /// An instance has no place.
    fn unplaced(&mut self, group: &str, why: NoPlace) {
        let NoPlace::Nowhere(failure) = why else { return };
        match self.out.failures.get_mut(group) {
            Some(known) => known.unplaced = known.unplaced.saturating_add(failure.unplaced),
            None => {
                self.out.failures.insert(group.to_owned(), *failure);
            }
        }
    }
}

/// What an allocation takes is free soon, and it is no neighbour any more.
fn leave(board: &mut Board<'_>, entry: &JobEntry, allocation: &Allocation) {
    board.forgets(&allocation.node, &allocation.group);
    let counted = entry.allocations.get(&allocation.id).and_then(|entry| entry.counted.as_ref());
    if let Some(counted) = counted {
        board.leaves(&allocation.node, counted.takes, &counted.ports);
    }
}

/// The node of an allocation lives.
fn answers(node: Option<&Node>) -> bool {
    node.is_some_and(|node| node.state() == NodeState::Ready)
}
