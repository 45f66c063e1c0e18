//! Service and batch jobs: `count` instances of a group, wherever they find a place.

use std::collections::{BTreeMap, BTreeSet};

use moat_model::Timestamp;
use moat_model::job::{Allocation, ClientStatus, TaskGroup};

use super::live::{Ended, Live};
use super::{Planning, Want, answers};
use crate::feasible::Filter;
use crate::place::{NoPlace, Wanted};
use crate::update::is_destructive;

/// Instances of a group that have an index of `count`, and those that are tried beside them.
#[derive(Default)]
struct Holding<'a> {
    members: Vec<Live<'a>>,
    canaries: Vec<Live<'a>>,
}

impl<'a> Planning<'a> {
    /// Plans one group of a service or batch job.
    pub(super) fn counted(&mut self, group: &'a TaskGroup) {
        let lives = self.lives(&group.name);
        let mut holding = self.hold_on(group, &lives);
        self.promote_canaries(group, &mut holding);
        self.shrink(group, &mut holding);
        let updates = self.update_in_place(group, &mut holding);
        self.replace_failed(group, &mut holding);
        let missing = self.fill(group, &lives, &mut holding);
        self.canaries(group, &holding, &updates);
        let replaced = self.roll(group, &holding, &updates, missing);
        self.migrate(group, &holding, &replaced);
        let stays = u32::try_from(holding.members.len()).unwrap_or(u32::MAX);
        let summary = self.out.summary(&group.name);
        summary.ignore = stays.saturating_sub(summary.in_place + summary.destructive + summary.migrate);
        self.count_for_rollout(group, group.count, updates.len(), missing);
    }

    /// What holds an index. What is lost, or belongs to canaries of a deployment that has ended, is let go of.
    fn hold_on(&mut self, group: &'a TaskGroup, lives: &[Live<'a>]) -> Holding<'a> {
        let mut holding = Holding::default();
        for live in lives {
            if !live.wanted() {
                self.out.give_up(live, self.now);
            } else if live.is_lost(group) {
                self.out.lose(live, "its node is gone", self.now);
                self.forget(live);
            } else if live.allocation.canary && !self.is_of_rollout(live.allocation) {
                self.stop(live, "the deployment it was a canary of has ended");
                self.out.summary(&group.name).stop += 1;
            } else if live.allocation.canary {
                holding.canaries.push(live.clone());
            } else if !self.is_to_run_again(group, live) {
                holding.members.push(live.clone());
            }
        }
        holding
    }

    fn forget(&mut self, live: &Live<'a>) {
        if let Some(board) = &mut self.board {
            super::leave(board, self.entry, live.allocation);
        }
    }

    /// A batch instance that has done another version's work holds no index of this one.
    fn is_to_run_again(&self, group: &TaskGroup, live: &Live<'a>) -> bool {
        live.is_complete()
            && !self.job.kind.is_long_running()
            && live.allocation.job_version != self.state.current
            && self.version(live.allocation.job_version).is_some_and(|old| is_destructive(old, self.job, &group.name))
    }

    /// Canaries that were found good become members; the old ones of their index have done their work.
    fn promote_canaries(&mut self, group: &'a TaskGroup, holding: &mut Holding<'a>) {
        if self.waits_for_promotion(&group.name) {
            return;
        }
        for canary in std::mem::take(&mut holding.canaries) {
            let index = canary.allocation.index;
            let (old, others): (Vec<_>, _) = std::mem::take(&mut holding.members)
                .into_iter()
                .partition(|live: &Live<'_>| live.allocation.index == index);
            holding.members = others;
            for old in &old {
                self.stop(old, "its canary was promoted");
                self.out.link(old.allocation, &canary.allocation.id);
                self.out.summary(&group.name).destructive += 1;
            }
            let generation = canary.allocation.generation.saturating_add(1);
            let new = Allocation { canary: false, generation, modified: self.now, ..canary.allocation.clone() };
            self.out.change(new, &canary, self.now);
            holding.members.push(canary);
        }
    }

    /// Too many: the highest index goes first, and before it whatever serves nobody.
    fn shrink(&mut self, group: &'a TaskGroup, holding: &mut Holding<'a>) {
        let count = usize::try_from(group.count).unwrap_or(usize::MAX);
        let mut seen = BTreeSet::new();
        let twice: BTreeSet<_> = holding
            .members
            .iter()
            .filter(|live| !seen.insert(live.allocation.index))
            .map(|live| live.allocation.id.clone())
            .collect();
        while holding.members.len() > count {
            let rank = |live: &Live<'a>| {
                (
                    twice.contains(&live.allocation.id),
                    live.allocation.index >= group.count,
                    !live.is_complete(),
                    !live.is_serving(),
                    live.is_draining(),
                    live.allocation.index,
                )
            };
            let last = holding.members.iter().enumerate().max_by_key(|(_, live)| rank(live)).map(|(at, _)| at);
            let Some(at) = last else { return };
            let surplus = holding.members.remove(at);
            if !surplus.client.is_terminal() {
                self.stop(&surplus, "the count was lowered");
                self.out.summary(&group.name).stop += 1;
            } else if surplus.client == ClientStatus::Failed {
                // Otherwise its place would be taken again.
                self.stop(&surplus, "the count was lowered");
            }
        }
    }

    /// Gives members the current version where they can have it as they run; gives back those that cannot.
    fn update_in_place(&mut self, group: &'a TaskGroup, holding: &mut Holding<'a>) -> Vec<Live<'a>> {
        let mut destructive = Vec::new();
        let filter = Filter::new(self.job, group);
        for live in &holding.members {
            let allocation = live.allocation;
            if allocation.job_version == self.state.current {
                continue;
            }
            let same_work =
                self.version(allocation.job_version).is_some_and(|old| !is_destructive(old, self.job, &group.name));
            let stays = live.client.is_terminal() || live.node.is_some_and(|node| filter.admits(node.facts()));
            if live.is_complete() && !self.job.kind.is_long_running() {
                continue;
            }
            if !same_work || !stays {
                destructive.push(live.clone());
            } else if !self.is_halted() {
                self.give_version(live, group);
            }
        }
        destructive
    }

    /// The current version is what it runs already.
    pub(super) fn give_version(&mut self, live: &Live<'a>, group: &'a TaskGroup) {
        let deployment = self.deployment_of(self.state.current, &group.name);
        let new = Allocation {
            job_version: self.state.current,
            generation: live.allocation.generation.saturating_add(1),
            modified: self.now,
            deployment,
            ..live.allocation.clone()
        };
        self.out.change(new, live, self.now);
        self.out.summary(&group.name).in_place += 1;
    }

    /// Others take the place of those that failed, at once or when their wait is over.
    fn replace_failed(&mut self, group: &'a TaskGroup, holding: &mut Holding<'a>) {
        let all: Vec<_> = holding.members.iter().chain(&holding.canaries).cloned().collect();
        for live in all {
            let delay = match live.ended(self.cluster, self.job.kind, group, self.now) {
                Ended::No | Ended::Never => continue,
                Ended::Later(at) => {
                    self.wake(at);
                    if live.allocation.not_before != Some(at) {
                        let later = Allocation { not_before: Some(at), ..self.out.current(live.allocation).clone() };
                        self.out.change(later, &live, self.now);
                    }
                    continue;
                }
                Ended::Replace(delay) => delay,
            };
            let want = Want {
                version: self.version_for(group, Some(live.allocation)),
                group: &group.name,
                index: live.allocation.index,
                previous: Some(live.allocation),
                reschedules: live.history(group, delay, self.now),
                wanted: Wanted { avoid: live.failed_on(), ..Wanted::default() },
                canary: live.allocation.canary,
            };
            match self.place(want) {
                Ok(()) => {
                    self.stop(&live, "it failed, and another took its place");
                    self.out.summary(&group.name).place += 1;
                }
                Err(why) => self.unplaced(&group.name, why),
            }
        }
    }

    /// Indexes that nobody holds. Gives back how many are without a place.
    fn fill(&mut self, group: &'a TaskGroup, lives: &[Live<'a>], holding: &mut Holding<'a>) -> usize {
        let held: BTreeSet<u32> = holding.members.iter().map(|live| live.allocation.index).collect();
        let count = usize::try_from(group.count).unwrap_or(usize::MAX);
        let missing = count.saturating_sub(holding.members.len());
        let mut last: BTreeMap<u32, &Live<'a>> = BTreeMap::new();
        let mut without_next: Vec<_> =
            lives.iter().filter(|live| !live.allocation.canary && live.allocation.next.is_none()).collect();
        // What should have run until now comes after what was stopped before; both are the oldest first already.
        without_next.sort_by_key(|live| live.wanted());
        for live in without_next {
            last.insert(live.allocation.index, live);
        }
        let free: Vec<u32> = (0..group.count).filter(|index| !held.contains(index)).take(missing).collect();
        let mut without = 0;
        for index in free {
            let previous = last.get(&index).copied();
            let Some(version) = self.version_for_missing(group, previous) else { continue };
            let sticky = group.ephemeral_disk.sticky;
            let want = Want {
                version,
                group: &group.name,
                index,
                previous: previous.map(|live| live.allocation),
                reschedules: previous
                    .filter(|live| live.client == ClientStatus::Lost || live.client == ClientStatus::Unknown)
                    .map(|live| live.allocation.reschedules.clone())
                    .unwrap_or_default(),
                wanted: Wanted {
                    prefer: previous.filter(|_| sticky).map(|live| live.allocation.node.clone()),
                    ..Wanted::default()
                },
                canary: false,
            };
            match self.place(want) {
                Ok(()) => self.out.summary(&group.name).place += 1,
                Err(why) => {
                    without += 1;
                    self.unplaced(&group.name, why);
                }
            }
        }
        without
    }

    /// Tries the current version beside the old one.
    fn canaries(&mut self, group: &'a TaskGroup, holding: &Holding<'a>, updates: &[Live<'a>]) {
        if !self.waits_for_promotion(&group.name) || self.is_halted() || updates.is_empty() {
            return;
        }
        let wanted = group.update.map_or(0, |update| update.canary);
        let held: BTreeSet<u32> = holding.canaries.iter().map(|live| live.allocation.index).collect();
        for index in (0..wanted).filter(|index| !held.contains(index)) {
            let want = Want {
                version: self.state.current,
                group: &group.name,
                index,
                previous: None,
                reschedules: Vec::new(),
                wanted: Wanted::default(),
                canary: true,
            };
            match self.place(want) {
                Ok(()) => self.out.summary(&group.name).canary += 1,
                Err(why) => self.unplaced(&group.name, why),
            }
        }
    }

    /// Replaces as many of those that cannot have the current version as they run, as may be missing at once. Gives
    /// back their indexes.
    fn roll(
        &mut self,
        group: &'a TaskGroup,
        holding: &Holding<'a>,
        updates: &[Live<'a>],
        missing: usize,
    ) -> BTreeSet<u32> {
        let limit = self.may_replace(group, &holding.members, missing);
        let mut order: Vec<_> = updates.iter().collect();
        // Those that failed may have been replaced already.
        order.retain(|live| self.out.current(live.allocation).desired == live.allocation.desired);
        // Nor is there a successor for those that are cut off and not to be replaced.
        order.retain(|live| live.client != ClientStatus::Unknown);
        order.sort_by_key(|live| (live.is_serving(), live.allocation.index));
        let mut replaced = BTreeSet::new();
        for live in order.into_iter().take(limit) {
            let sticky = group.ephemeral_disk.sticky;
            let want = Want {
                version: self.state.current,
                group: &group.name,
                index: live.allocation.index,
                previous: Some(live.allocation),
                reschedules: Vec::new(),
                wanted: Wanted { prefer: Some(live.allocation.node.clone()).filter(|_| sticky), ..Wanted::default() },
                canary: false,
            };
            if self.exchange(live, want, "it was replaced by a newer version") {
                replaced.insert(live.allocation.index);
                self.out.summary(&group.name).destructive += 1;
            }
        }
        replaced
    }

    /// Stops one and places another, if that has or will have a place. Whether it stops.
    pub(super) fn exchange(&mut self, live: &Live<'a>, want: Want<'a>, reason: &str) -> bool {
        let (group, hold) = (want.group, self.hold);
        // Its own room and ports may be what the other needs.
        if let Some(board) = (!hold).then(|| self.board()) {
            board.forgets(&live.allocation.node, &live.allocation.group);
        }
        if let Some(counted) = self.entry.allocations.get(&live.allocation.id).and_then(|one| one.counted.clone())
            && !hold
        {
            self.board().leaves(&live.allocation.node, counted.takes, &counted.ports);
        }
        let failed = match self.place(want) {
            Ok(()) => None,
            Err(NoPlace::NotYet) if !hold => None,
            Err(why) => Some(why),
        };
        if let Some(why) = failed {
            if let (Some(node), false) = (live.node, hold) {
                self.board().knows(node, &live.allocation.group);
            }
            self.unplaced(group, why);
            return false;
        }
        let new = super::stopped(live.allocation, reason, self.now);
        self.out.change(new, live, self.now);
        true
    }

    /// Moves what is on nodes that are being emptied, as many at once as its `migrate` block allows.
    fn migrate(&mut self, group: &'a TaskGroup, holding: &Holding<'a>, replaced: &BTreeSet<u32>) {
        let mut may = self.may_move(group, &holding.members);
        for live in &holding.members {
            let going = self.out.current(live.allocation).desired != live.allocation.desired;
            let Some(drain) = live.node.filter(|_| live.is_draining()).and_then(|node| node.wish().drain.as_ref())
            else {
                continue;
            };
            if live.client.is_terminal() || going || replaced.contains(&live.allocation.index) {
                continue;
            }
            let over = drain.deadline.map(|deadline| drain.started.plus(deadline));
            let is_over = over.is_some_and(|over| over <= self.now);
            if let Some(over) = over {
                self.wake(over);
            }
            let frees_itself = group.migrate.is_some() && (may > 0 || !live.is_serving());
            if !is_over && !frees_itself {
                continue;
            }
            if live.is_serving() {
                may = may.saturating_sub(1);
            }
            let want = Want {
                version: self.version_for(group, Some(live.allocation)),
                group: &group.name,
                index: live.allocation.index,
                previous: Some(live.allocation),
                reschedules: live.allocation.reschedules.clone(),
                wanted: Wanted::default(),
                canary: false,
            };
            let moved = self.exchange(live, want, "its node is being emptied");
            if !moved && is_over {
                self.stop(live, "its node is being emptied, and the deadline is over");
            }
            if moved || is_over {
                self.out.summary(&group.name).migrate += 1;
            }
        }
    }

    /// How many that serve may leave at once: all that are healthy but those that `migrate` keeps.
    fn may_move(&mut self, group: &TaskGroup, members: &[Live<'a>]) -> u32 {
        let Some(migrate) = group.migrate.filter(|_| members.iter().any(Live::is_draining)) else { return 0 };
        let mut healthy = 0_u32;
        for live in members.iter().filter(|live| live.is_serving() && answers(live.node)) {
            if live.is_healthy() || live.is_draining() || self.has_had_its_time(live, migrate.healthy_deadline) {
                healthy = healthy.saturating_add(1);
            }
        }
        healthy.saturating_sub(group.count.saturating_sub(migrate.max_parallel.max(1)))
    }

    /// Nobody said whether it is healthy, and the time for that is over.
    fn has_had_its_time(&mut self, live: &Live<'a>, deadline: std::time::Duration) -> bool {
        let over: Timestamp = live.allocation.created.plus(deadline);
        self.wake(over);
        over <= self.now
    }
}
