//! One allocation with all that is known of it.

use std::collections::BTreeSet;
use std::time::Duration;

use moat_model::job::{
    AllocStatus, Allocation, ClientStatus, DelayFunction, Desired, JobType, NO_ROOM, NodeState, Reschedule,
    RescheduleEvent, TaskGroup,
};
use moat_model::{NodeId, Timestamp};

use crate::cluster::{Cluster, Node};
use crate::reschedule;

/// Wait before an instance that was refused for want of room is placed again, if the one before it was refused as well.
const REFUSED_AGAIN: Duration = Duration::from_secs(5);

/// How failed instances of system jobs come back: there is nowhere else to go, and no block to say how.
const OF_SYSTEM: Reschedule = Reschedule {
    attempts: 0,
    interval: Duration::ZERO,
    delay: Duration::from_secs(30),
    delay_function: DelayFunction::Exponential,
    max_delay: Duration::from_secs(3600),
    unlimited: true,
};

/// One allocation with all that is known of it.
#[derive(Debug, Clone)]
pub(super) struct Live<'a> {
    pub(super) allocation: &'a Allocation,
    pub(super) status: Option<&'a AllocStatus>,
    pub(super) client: ClientStatus,
    pub(super) node: Option<&'a Node>,
}

/// What becomes of an instance that ended although it should not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// It has not.
    No,
    /// Another takes its place now, after this wait.
    Replace(Duration),
    /// Another takes its place then.
    Later(Timestamp),
    /// Nothing takes its place.
    Never,
}

impl<'a> Live<'a> {
    pub(super) fn new(cluster: &'a Cluster, allocation: &'a Allocation) -> Self {
        let status = cluster.status(&allocation.id);
        Self { allocation, status, client: cluster.client(allocation), node: cluster.node(&allocation.node) }
    }

    /// It should run.
    pub(super) fn wanted(&self) -> bool {
        self.allocation.desired == Desired::Run
    }

    /// Its node is gone, or silent and may be replaced.
    pub(super) fn is_lost(&self, group: &TaskGroup) -> bool {
        self.client == ClientStatus::Unknown
            && match self.node {
                None => true,
                Some(node) => node.state() == NodeState::Down && group.disconnect.replace,
            }
    }

    /// It ran to its end.
    pub(super) fn is_complete(&self) -> bool {
        self.client == ClientStatus::Complete
    }

    /// Its node is being emptied.
    pub(super) fn is_draining(&self) -> bool {
        self.node.is_some_and(|node| node.state() == NodeState::Ready && node.wish().drain.is_some())
    }

    /// It was found not to be healthy, or has failed.
    pub(super) fn is_unhealthy(&self) -> bool {
        self.client == ClientStatus::Failed || self.status.is_some_and(|status| status.healthy == Some(false))
    }

    /// It was found healthy, as a deployment demands.
    pub(super) fn is_healthy(&self) -> bool {
        self.client == ClientStatus::Running && self.status.is_some_and(|status| status.healthy == Some(true))
    }

    /// It does its work, as far as anybody can say.
    pub(super) fn is_serving(&self) -> bool {
        self.client == ClientStatus::Running && !self.is_unhealthy()
    }

    /// When it ended.
    fn ended_at(&self) -> Timestamp {
        let Some(status) = self.status else { return self.allocation.modified };
        status.tasks.values().filter_map(|task| task.finished).max().unwrap_or(status.modified)
    }

    fn was_refused(status: Option<&AllocStatus>) -> bool {
        status.is_some_and(|status| status.client == ClientStatus::Failed && status.description.starts_with(NO_ROOM))
    }

    /// What becomes of it, if it ended although it should not have.
    pub(super) fn ended(&self, cluster: &Cluster, kind: JobType, group: &TaskGroup, now: Timestamp) -> Ended {
        let ended = match self.client {
            ClientStatus::Failed => true,
            ClientStatus::Complete => kind.is_long_running(),
            _ => false,
        };
        if !ended {
            return Ended::No;
        }
        let at = self.ended_at();
        if Self::was_refused(self.status) {
            let before = self.allocation.previous.as_ref().and_then(|previous| cluster.status(previous));
            let delay = if Self::was_refused(before) { REFUSED_AGAIN } else { Duration::ZERO };
            return Self::at(at.plus(delay), delay, now);
        }
        let policy = match kind {
            JobType::System => Some(&OF_SYSTEM),
            JobType::Sysbatch => None,
            JobType::Service | JobType::Batch => group.reschedule.as_ref(),
        };
        let events = &self.allocation.reschedules;
        match policy.and_then(|policy| reschedule::when(policy, events, self.allocation.created, at)) {
            None => Ended::Never,
            Some((at, delay)) => Self::at(at, delay, now),
        }
    }

    fn at(at: Timestamp, delay: Duration, now: Timestamp) -> Ended {
        if at <= now { Ended::Replace(delay) } else { Ended::Later(at) }
    }

    /// The failures its successor is told of, its own included unless it never ran.
    pub(super) fn history(&self, group: &TaskGroup, delay: Duration, now: Timestamp) -> Vec<RescheduleEvent> {
        let mut events = self.allocation.reschedules.clone();
        if !Self::was_refused(self.status) {
            let (alloc, node) = (self.allocation.id.clone(), self.allocation.node.clone());
            events.push(RescheduleEvent { at: now, alloc, node, delay_secs: delay.as_secs() });
        }
        let attempts = group.reschedule.map_or(0, |policy| policy.attempts).min(EVENTS_MAX);
        let keep = usize::try_from(attempts.max(EVENTS_MIN)).unwrap_or(usize::MAX);
        let surplus = events.len().saturating_sub(keep);
        events.drain(..surplus);
        events
    }

    /// Nodes its successor had better not be on.
    pub(super) fn failed_on(&self) -> BTreeSet<NodeId> {
        let earlier = self.allocation.reschedules.iter().map(|event| event.node.clone());
        earlier.chain([self.allocation.node.clone()]).collect()
    }
}

/// Failures of one instance that are remembered: enough for any sequence of waits …
const EVENTS_MIN: u32 = 16;
/// … and for counting attempts, as long as the record stays small.
const EVENTS_MAX: u32 = 256;
