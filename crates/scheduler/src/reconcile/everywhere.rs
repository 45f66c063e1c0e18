//! System and sysbatch jobs: one instance on every node that may have it.

use std::collections::{BTreeMap, BTreeSet};

use moat_model::NodeId;
use moat_model::job::{JobType, TaskGroup};

use super::live::{Ended, Live};
use super::{Planning, Want};
use crate::feasible::Filter;
use crate::place::Wanted;
use crate::update::is_destructive;

impl<'a> Planning<'a> {
    /// Plans one group of a system or sysbatch job.
    pub(super) fn everywhere(&mut self, group: &'a TaskGroup) {
        let lives = self.lives(&group.name);
        let mut on: BTreeMap<&'a NodeId, Live<'a>> = BTreeMap::new();
        let filter = Filter::new(self.job, group);
        for live in &lives {
            if !live.wanted() {
                self.out.give_up(live, self.now);
            } else if live.is_lost(group) {
                self.out.lose(live, "its node is gone", self.now);
            } else if let Some(reason) = self.has_to_go(group, &filter, live) {
                self.leave_node(group, live, reason);
            } else if !self.is_done_before(group, live)
                && let Some(earlier) = on.insert(&live.allocation.node, live.clone())
            {
                self.leave_node(group, &earlier, "another instance of it is on its node");
            }
        }
        let members: Vec<_> = on.values().cloned().collect();
        let updates = self.update_everywhere(group, &members);
        let (wanted, missing) = self.fill_everywhere(group, &on);
        self.roll_everywhere(group, &members, &updates, missing);
        let held = u32::try_from(members.len()).unwrap_or(u32::MAX);
        let summary = self.out.summary(&group.name);
        summary.ignore = held.saturating_sub(summary.in_place + summary.destructive);
        self.count_for_rollout(group, wanted, updates.len(), missing);
    }

    fn leave_node(&mut self, group: &TaskGroup, live: &Live<'a>, reason: &str) {
        if !live.client.is_terminal() {
            self.stop(live, reason);
            self.out.summary(&group.name).stop += 1;
        }
    }

    /// Why an instance may not stay where it is.
    fn has_to_go(&mut self, group: &TaskGroup, filter: &Filter<'_>, live: &Live<'a>) -> Option<&'static str> {
        if group.count == 0 {
            return Some("the count was lowered");
        }
        let node = live.node.filter(|_| !live.client.is_terminal())?;
        if !super::answers(Some(node)) {
            return None;
        }
        if !filter.admits(node.facts()) {
            return Some("its node may not have it any more");
        }
        let drain = node.wish().drain.as_ref().filter(|drain| !drain.ignore_system)?;
        let over = drain.deadline.map(|deadline| drain.started.plus(deadline));
        if let Some(over) = over {
            self.wake(over);
        }
        // What others on the node rely on leaves last. A sysbatch instance is work that is let come to its end.
        let is_last = self.job.kind == JobType::System && node.held().all(|(_, key)| self.is_system(key));
        (is_last || over.is_some_and(|over| over <= self.now)).then_some("its node is being emptied")
    }

    fn is_system(&self, key: &crate::cluster::JobKey) -> bool {
        let job = self.cluster.job(key).and_then(|state| state.job());
        job.is_some_and(|job| job.kind == JobType::System)
    }

    /// It did another version's work.
    fn is_done_before(&self, group: &TaskGroup, live: &Live<'a>) -> bool {
        live.client.is_terminal()
            && live.allocation.job_version != self.state.current
            && self.version(live.allocation.job_version).is_some_and(|old| is_destructive(old, self.job, &group.name))
    }

    fn update_everywhere(&mut self, group: &'a TaskGroup, members: &[Live<'a>]) -> Vec<Live<'a>> {
        let mut destructive = Vec::new();
        for live in members.iter().filter(|live| live.allocation.job_version != self.state.current) {
            let old = self.version(live.allocation.job_version);
            if live.client.is_terminal() {
                continue;
            }
            // A node that takes nothing new keeps what it has.
            let may_change = live.node.is_some_and(crate::cluster::Node::takes_new);
            if old.is_none_or(|old| is_destructive(old, self.job, &group.name)) {
                if may_change {
                    destructive.push(live.clone());
                }
            } else if !self.is_halted() {
                self.give_version(live, group);
            }
        }
        destructive
    }

    /// Nodes without an instance, and those whose instance failed. Gives back how many should have one, and how many of
    /// them have no room.
    fn fill_everywhere(&mut self, group: &'a TaskGroup, on: &BTreeMap<&'a NodeId, Live<'a>>) -> (u32, usize) {
        if group.count == 0 {
            return (0, 0);
        }
        let admitted = self.admitted(group);
        let mut missing = 0;
        for node in &admitted {
            let live = on.get(node);
            let delay = match live.map(|live| live.ended(self.cluster, self.job.kind, group, self.now)) {
                None => None,
                Some(Ended::No | Ended::Never) => continue,
                Some(Ended::Later(at)) => {
                    self.wake(at);
                    continue;
                }
                Some(Ended::Replace(delay)) => Some(delay),
            };
            let want = Want {
                version: self.version_for(group, live.map(|live| live.allocation)),
                group: &group.name,
                index: 0,
                previous: live.map(|live| live.allocation),
                reschedules: live.zip(delay).map(|(one, wait)| one.history(group, wait, self.now)).unwrap_or_default(),
                wanted: Wanted { only: Some((*node).clone()), ..Wanted::default() },
                canary: false,
            };
            match self.place(want) {
                Ok(()) => {
                    self.out.summary(&group.name).place += 1;
                    if let Some(live) = live {
                        self.stop(live, "it failed, and another took its place");
                    }
                }
                Err(why) => {
                    missing += 1;
                    self.unplaced(&group.name, why);
                }
            }
        }
        if admitted.is_empty() && on.is_empty() {
            self.explain_nowhere(group);
        }
        (u32::try_from(admitted.len()).unwrap_or(u32::MAX), missing)
    }

    fn admitted(&mut self, group: &'a TaskGroup) -> BTreeSet<&'a NodeId> {
        let Some((placer, board)) = self.placer(self.state.current, &group.name) else { return BTreeSet::new() };
        let slots = placer.admitted().filter_map(|at| board.slots.get(at));
        slots.map(|slot| &slot.node.facts().id).collect()
    }

    fn explain_nowhere(&mut self, group: &'a TaskGroup) {
        let failure = self.placer(self.state.current, &group.name).map(|(placer, board)| placer.why(board, None));
        if let Some(failure) = failure {
            self.out.failures.insert(group.name.clone(), failure);
        }
    }

    fn roll_everywhere(&mut self, group: &'a TaskGroup, members: &[Live<'a>], updates: &[Live<'a>], missing: usize) {
        let limit = self.may_replace(group, members, missing);
        let mut order: Vec<_> = updates.iter().collect();
        order.sort_by_key(|live| (live.is_serving(), &live.allocation.node));
        for live in order.into_iter().take(limit) {
            let want = Want {
                version: self.state.current,
                group: &group.name,
                index: 0,
                previous: Some(live.allocation),
                reschedules: Vec::new(),
                wanted: Wanted { only: Some(live.allocation.node.clone()), ..Wanted::default() },
                canary: false,
            };
            if self.exchange(live, want, "it was replaced by a newer version") {
                self.out.summary(&group.name).destructive += 1;
            }
        }
    }
}
