//! Allocations of jobs, and the adding up of what they take.

use std::collections::BTreeMap;
use std::sync::Arc;

use moat_model::job::cluster::Capacity;
use moat_model::job::{Allocation, Deployment, TaskGroup};
use moat_model::{AllocId, NodeId};

use super::{Cluster, JobKey, JobState};
use crate::demand::{Demand, demand};

/// One job as a whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct JobEntry {
    pub(crate) state: Option<JobState>,
    pub(crate) allocations: BTreeMap<AllocId, Entry>,
    pub(crate) deployment: Option<Deployment>,
}

/// One allocation, and what of its node it is counted for.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) allocation: Allocation,
    pub(crate) counted: Option<Counted>,
    /// Kept, so that an instance whose version is kept no more still counts as what it is.
    demand: Option<(u64, Arc<Demand>)>,
}

/// What of a node an allocation takes.
#[derive(Debug, Clone)]
pub(crate) struct Counted {
    pub(crate) node: NodeId,
    pub(crate) takes: Capacity,
    pub(crate) ports: Vec<u16>,
}

impl Entry {
    pub(crate) fn new(allocation: Allocation) -> Self {
        Self { allocation, counted: None, demand: None }
    }
}

impl JobState {
    /// The group an allocation is an instance of, in its own version or else the nearest that is kept.
    pub(crate) fn group_of(&self, allocation: &Allocation) -> Option<&TaskGroup> {
        let nearest = || self.versions.range(allocation.job_version..).map(|(_, job)| job);
        nearest().chain(self.versions.values().rev()).find_map(|job| job.group(&allocation.group))
    }
}

impl Cluster {
    /// Takes an allocation off what its node is used for.
    pub(super) fn uncount(&mut self, key: &JobKey, id: &AllocId) {
        let Some(entry) = self.jobs.get_mut(key).and_then(|job| job.allocations.get_mut(id)) else { return };
        if let Some(counted) = entry.counted.take()
            && let Some(node) = self.nodes.get_mut(&counted.node)
        {
            node.release(&counted);
        }
        let on = entry.allocation.node.clone();
        if let Some(node) = self.nodes.get_mut(&on) {
            node.holds.remove(id);
        }
    }

    /// Counts an allocation as what it is now. Until its end is known it takes its room, wanted or not: that it should
    /// stop is no room yet.
    pub(super) fn recount(&mut self, key: &JobKey, id: &AllocId) {
        self.uncount(key, id);
        let status = self.statuses.get(id);
        let Some(job) = self.jobs.get_mut(key) else { return };
        let Some(entry) = job.allocations.get_mut(id) else { return };
        let allocation = &entry.allocation;
        let Some(node) = self.nodes.get_mut(&allocation.node) else { return };
        if allocation.client(status).is_terminal() {
            return;
        }
        node.holds.insert(id.clone(), key.clone());
        let version = allocation.job_version;
        let known = entry.demand.as_ref().filter(|(of, _)| *of == version).map(|(_, demand)| Arc::clone(demand));
        let computed = || job.state.as_ref()?.group_of(allocation).map(|group| Arc::new(demand(group)));
        let Some(demand) = known.or_else(computed).or_else(|| entry.demand.as_ref().map(|(_, d)| Arc::clone(d))) else {
            return;
        };
        let given = status.into_iter().flat_map(|status| status.ports.values().map(|port| port.host_port));
        let mut ports: Vec<u16> = demand.ports.keys().copied().chain(given).collect();
        ports.sort_unstable();
        ports.dedup();
        let counted = Counted { node: allocation.node.clone(), takes: demand.on(node.facts()), ports };
        node.take(&counted);
        entry.demand = Some((version, demand));
        entry.counted = Some(counted);
    }

    /// A node's numbers have changed: what its instances take of it may have, too.
    pub(super) fn count_again(&mut self, node: &NodeId) {
        let ids: Vec<_> = match self.nodes.get(node) {
            Some(node) if !node.is_new => node.holds.iter().map(|(id, key)| (key.clone(), id.clone())).collect(),
            _ => self.everything_on(node),
        };
        if let Some(node) = self.nodes.get_mut(node) {
            node.is_new = false;
        }
        for (key, id) in ids {
            self.recount(&key, &id);
        }
    }

    fn everything_on(&self, node: &NodeId) -> Vec<(JobKey, AllocId)> {
        let on = |entry: &Entry| &entry.allocation.node == node;
        let of = |(key, job): (&JobKey, &JobEntry)| {
            job.allocations.iter().filter(|(_, e)| on(e)).map(|(id, _)| (key.clone(), id.clone())).collect::<Vec<_>>()
        };
        self.jobs.iter().flat_map(of).collect()
    }
}
