//! One node, and what is used of it.

use std::collections::{BTreeMap, BTreeSet};

use moat_model::AllocId;
use moat_model::job::cluster::Capacity;
use moat_model::job::{Eligibility, NodeFacts, NodeState, NodeWish};

use super::JobKey;
use super::jobs::Counted;

/// A node, and what is used of it.
#[derive(Debug, Clone)]
pub struct Node {
    facts: NodeFacts,
    wish: NodeWish,
    state: NodeState,
    used: Capacity,
    /// Fixed and given ports, with how many have each: two may overlap while one of them ends.
    ports: BTreeMap<u16, u32>,
    /// What is not known to have ended.
    pub(crate) holds: BTreeMap<AllocId, JobKey>,
    pub(super) is_new: bool,
}

impl Node {
    pub(super) fn new(facts: NodeFacts, wish: NodeWish, state: NodeState) -> Self {
        let (used, ports, holds) = (Capacity::default(), BTreeMap::new(), BTreeMap::new());
        Self { facts, wish, state, used, ports, holds, is_new: true }
    }

    pub(super) fn update(&mut self, facts: NodeFacts, wish: NodeWish, state: NodeState) {
        self.facts = facts;
        self.wish = wish;
        self.state = state;
    }

    /// What it says of itself.
    pub fn facts(&self) -> &NodeFacts {
        &self.facts
    }

    /// What is wanted of it.
    pub fn wish(&self) -> &NodeWish {
        &self.wish
    }

    /// Whether it lives.
    pub fn state(&self) -> NodeState {
        self.state
    }

    /// What instances take of it.
    pub fn used(&self) -> Capacity {
        self.used
    }

    /// Ports of it that instances have.
    pub fn used_ports(&self) -> BTreeSet<u16> {
        self.ports.keys().copied().collect()
    }

    /// Instances on it that are not known to have ended.
    pub fn held(&self) -> impl Iterator<Item = (&AllocId, &JobKey)> {
        self.holds.iter()
    }

    /// Anything new may be placed on it.
    pub fn takes_new(&self) -> bool {
        self.state == NodeState::Ready && self.wish.eligibility == Eligibility::Eligible && self.wish.drain.is_none()
    }

    pub(crate) fn has_port(&self, port: u16) -> bool {
        self.ports.contains_key(&port)
    }

    pub(super) fn take(&mut self, counted: &Counted) {
        self.used = sum(self.used, counted.takes);
        for port in &counted.ports {
            let holders = self.ports.entry(*port).or_default();
            *holders = holders.saturating_add(1);
        }
    }

    pub(super) fn release(&mut self, counted: &Counted) {
        self.used = difference(self.used, counted.takes);
        for port in &counted.ports {
            if let Some(holders) = self.ports.get_mut(port) {
                *holders = holders.saturating_sub(1);
                if *holders == 0 {
                    self.ports.remove(port);
                }
            }
        }
    }
}

/// Both together.
pub(crate) fn sum(a: Capacity, b: Capacity) -> Capacity {
    Capacity {
        cpu_mhz: a.cpu_mhz.saturating_add(b.cpu_mhz),
        cores: a.cores.saturating_add(b.cores),
        memory_mb: a.memory_mb.saturating_add(b.memory_mb),
        disk_mb: a.disk_mb.saturating_add(b.disk_mb),
    }
}

/// What is left of `a` without `b`.
pub(crate) fn difference(a: Capacity, b: Capacity) -> Capacity {
    Capacity {
        cpu_mhz: a.cpu_mhz.saturating_sub(b.cpu_mhz),
        cores: a.cores.saturating_sub(b.cores),
        memory_mb: a.memory_mb.saturating_sub(b.memory_mb),
        disk_mb: a.disk_mb.saturating_sub(b.disk_mb),
    }
}
