//! What follows for one job from what is known: the front of planning.

use std::collections::BTreeMap;

use moat_model::Timestamp;
use moat_model::job::{Allocation, Deployment, Evaluation};

use crate::cluster::{Cluster, JobKey};
use crate::reconcile;
use crate::seed::Seed;

/// What should change for one job. Carried out as a whole or not at all: its parts rely on each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Whose.
    pub job: JobKey,
    /// New allocations.
    pub place: Vec<Allocation>,
    /// Allocations that exist, as they should be from now on; each replaces the one of its id.
    pub change: Vec<Allocation>,
    /// The deployment as it should be from now on, if that differs.
    pub deployment: Option<Deployment>,
    /// The current version has proved itself: it may be gone back to.
    pub stable: Option<u64>,
    /// The deployment failed and wants this version's content as the next version.
    pub revert_to: Option<u64>,
    /// What came of planning. It is worth writing down only if something changes, or its failures differ from the last.
    pub evaluation: Evaluation,
    /// Planning again makes a difference then, even if nothing else happens.
    pub next: Option<Timestamp>,
    /// What happens to instances, by group.
    pub groups: BTreeMap<String, GroupSummary>,
}

impl Plan {
    /// Nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.place.is_empty()
            && self.change.is_empty()
            && self.deployment.is_none()
            && self.stable.is_none()
            && self.revert_to.is_none()
    }
}

/// What happens to a group's instances, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GroupSummary {
    /// New ones.
    pub place: u32,
    /// Stopped, and nothing takes their place.
    pub stop: u32,
    /// Moved from a node that drains.
    pub migrate: u32,
    /// Given the new version as they run.
    pub in_place: u32,
    /// Replaced by the new version.
    pub destructive: u32,
    /// Tried beside the old version.
    pub canary: u32,
    /// Left as they are.
    pub ignore: u32,
}

/// Plans one job. The same input gives the same plan; `seed` is other random bytes each time. The plan of a job that is not
/// known, or whose current content is not, is empty.
pub fn plan(cluster: &Cluster, key: &JobKey, now: Timestamp, seed: Seed) -> Plan {
    reconcile::plan(cluster, cluster.job(key), key, now, seed)
}
