//! All that is known: nodes, jobs, what was placed and what nodes say of it. Kept up to date piece by piece.
//!
//! What each node's instances take is added up as pieces change, so that planning one job looks at the others' never.

mod jobs;
pub(crate) mod node;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use moat_model::job::{AllocStatus, Allocation, ClientStatus, Deployment, Job, NodeFacts, NodeState, NodeWish};
use moat_model::{AllocId, JobId, Namespace, NodeId};

pub(crate) use jobs::{Entry, JobEntry};
pub use node::Node;

/// One job of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobKey {
    /// Tenant.
    pub namespace: Namespace,
    /// Which.
    pub job: JobId,
}

impl JobKey {
    /// The job of this content.
    pub fn of(job: &Job) -> Self {
        Self { namespace: job.namespace.clone(), job: job.id.clone() }
    }
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.job, self.namespace)
    }
}

/// A declared job with the versions its instances may be of.
#[derive(Debug, Clone, PartialEq)]
pub struct JobState {
    /// Which one.
    pub key: JobKey,
    /// The version that should run.
    pub current: u64,
    /// The content of the versions that are kept, the current one among them.
    pub versions: BTreeMap<u64, Arc<Job>>,
    /// Versions that proved themselves.
    pub stable: BTreeSet<u64>,
    /// Nothing of it should run.
    pub stopped: bool,
}

impl JobState {
    /// The content that should run.
    pub fn job(&self) -> Option<&Arc<Job>> {
        self.versions.get(&self.current)
    }
}

/// All that is known.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) jobs: BTreeMap<JobKey, JobEntry>,
    statuses: HashMap<AllocId, AllocStatus>,
    owners: HashMap<AllocId, JobKey>,
}

impl Cluster {
    /// Nothing known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A node as it is now.
    pub fn set_node(&mut self, facts: NodeFacts, wish: NodeWish, state: NodeState) {
        let id = facts.id.clone();
        match self.nodes.get_mut(&id) {
            Some(node) => node.update(facts, wish, state),
            None => {
                self.nodes.insert(id.clone(), Node::new(facts, wish, state));
            }
        }
        self.count_again(&id);
    }

    /// A node that is known no more. What was placed on it counts as lost.
    pub fn remove_node(&mut self, id: &NodeId) {
        self.nodes.remove(id);
        for entry in self.jobs.values_mut().flat_map(|job| job.allocations.values_mut()) {
            if &entry.allocation.node == id {
                entry.counted = None;
            }
        }
    }

    /// A job as it is declared now.
    pub fn set_job(&mut self, state: JobState) {
        let key = state.key.clone();
        let job = self.jobs.entry(key.clone()).or_default();
        job.state = Some(state);
        let ids: Vec<_> = job.allocations.keys().cloned().collect();
        for id in ids {
            self.recount(&key, &id);
        }
    }

    /// A job that is declared no more. What is left of it has to be stopped before: nothing plans it again.
    pub fn remove_job(&mut self, key: &JobKey) {
        if let Some(job) = self.jobs.get_mut(key) {
            job.state = None;
            if job.allocations.is_empty() {
                self.jobs.remove(key);
            }
        }
    }

    /// All allocations of a job, and its deployment.
    pub fn set_allocations(&mut self, key: &JobKey, allocations: Vec<Allocation>, deployment: Option<Deployment>) {
        let mut new: BTreeMap<AllocId, Allocation> = allocations.into_iter().map(|a| (a.id.clone(), a)).collect();
        let job = self.jobs.entry(key.clone()).or_default();
        job.deployment = deployment;
        let gone: Vec<_> = job.allocations.keys().filter(|id| !new.contains_key(*id)).cloned().collect();
        let mut changed = Vec::new();
        while let Some((id, allocation)) = new.pop_first() {
            match job.allocations.get_mut(&id) {
                Some(entry) if entry.allocation == allocation => continue,
                Some(entry) => entry.allocation = allocation,
                None => {
                    job.allocations.insert(id.clone(), Entry::new(allocation));
                }
            }
            changed.push(id);
        }
        for id in gone {
            self.uncount(key, &id);
            self.owners.remove(&id);
            if let Some(job) = self.jobs.get_mut(key) {
                job.allocations.remove(&id);
            }
        }
        for id in changed {
            self.owners.insert(id.clone(), key.clone());
            self.recount(key, &id);
        }
        let is_nothing = |job: &JobEntry| job.state.is_none() && job.allocations.is_empty() && job.deployment.is_none();
        if self.jobs.get(key).is_some_and(is_nothing) {
            self.jobs.remove(key);
        }
    }

    /// What a node says of an allocation, known or not yet known. Kept as long as nobody calls [`Self::remove_status`].
    pub fn set_status(&mut self, status: AllocStatus) {
        let id = status.id.clone();
        self.statuses.insert(id.clone(), status);
        if let Some(key) = self.owners.get(&id).cloned() {
            self.recount(&key, &id);
        }
    }

    /// What a node said is kept no more.
    pub fn remove_status(&mut self, id: &AllocId) {
        self.statuses.remove(id);
        if let Some(key) = self.owners.get(id).cloned() {
            self.recount(&key, id);
        }
    }

    /// A node.
    pub fn node(&self, id: &NodeId) -> Option<&Node> {
        self.nodes.get(id)
    }

    /// Every node, by its id.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// A job.
    pub fn job(&self, key: &JobKey) -> Option<&JobState> {
        self.jobs.get(key)?.state.as_ref()
    }

    /// Every job, the greater priority first: the order to plan them in.
    pub fn jobs(&self) -> Vec<&JobState> {
        let mut all: Vec<_> = self.jobs.values().filter_map(|job| job.state.as_ref()).collect();
        all.sort_by_key(|state| std::cmp::Reverse(state.job().map_or(0, |job| job.priority)));
        all
    }

    /// A job's deployment.
    pub fn deployment(&self, key: &JobKey) -> Option<&Deployment> {
        self.jobs.get(key)?.deployment.as_ref()
    }

    /// A job's allocations, by their id.
    pub fn allocations(&self, key: &JobKey) -> impl Iterator<Item = &Allocation> {
        self.jobs.get(key).into_iter().flat_map(|job| job.allocations.values().map(|entry| &entry.allocation))
    }

    /// An allocation, and whose it is.
    pub fn allocation(&self, id: &AllocId) -> Option<(&JobKey, &Allocation)> {
        let key = self.owners.get(id)?;
        Some((key, &self.jobs.get(key)?.allocations.get(id)?.allocation))
    }

    /// What its node said of an allocation last.
    pub fn status(&self, id: &AllocId) -> Option<&AllocStatus> {
        self.statuses.get(id)
    }

    /// What has become of an allocation: what its node said, unless nobody hears from that node.
    pub fn client(&self, allocation: &Allocation) -> ClientStatus {
        let said = allocation.client(self.statuses.get(&allocation.id));
        let silent = self.nodes.get(&allocation.node).is_none_or(|node| node.state() == NodeState::Down);
        if silent && !said.is_terminal() { ClientStatus::Unknown } else { said }
    }

    /// Jobs with an allocation on a node: those to plan when it changes.
    pub fn jobs_on(&self, node: &NodeId) -> BTreeSet<JobKey> {
        let Some(node) = self.nodes.get(node) else {
            let on = |job: &JobEntry| job.allocations.values().any(|entry| &entry.allocation.node == node);
            return self.jobs.iter().filter(|(_, job)| on(job)).map(|(key, _)| key.clone()).collect();
        };
        node.holds.values().cloned().collect()
    }
}
