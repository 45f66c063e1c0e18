//! The nodes as a plan in the making leaves them.

use std::collections::{BTreeMap, HashMap};

use moat_model::NodeId;
use moat_model::job::cluster::Capacity;

use crate::cluster::node::{difference, sum};
use crate::cluster::{Cluster, Node};
use crate::demand::Demand;

/// One node as the plan leaves it.
#[derive(Debug)]
pub(crate) struct Slot<'a> {
    pub(crate) node: &'a Node,
    pub(crate) used: Capacity,
    /// Ports this plan gives away.
    ports: Vec<u16>,
    /// What this job's instances that should stop still take.
    leaving: Capacity,
    leaving_ports: Vec<u16>,
    /// This job's instances that should run here, by group.
    pub(crate) instances: BTreeMap<String, u32>,
}

/// Why nothing more fits.
pub(crate) type Lack = String;

impl Slot<'_> {
    /// What of the node is missing for an instance; nothing if it fits.
    pub(crate) fn lacks(&self, demand: &Demand) -> Option<Lack> {
        self.misses(demand, self.used, |port| self.node.has_port(port) || self.ports.contains(&port))
    }

    /// It would fit if what should stop had ended.
    pub(crate) fn fits_later(&self, demand: &Demand) -> bool {
        let used = difference(self.used, self.leaving);
        let taken = |port| {
            let held = self.node.has_port(port) && !self.leaving_ports.contains(&port);
            held || self.ports.contains(&port)
        };
        self.misses(demand, used, taken).is_none()
    }

    fn misses(&self, demand: &Demand, used: Capacity, taken: impl Fn(u16) -> bool) -> Option<Lack> {
        let facts = self.node.facts();
        let after = sum(used, demand.on(facts));
        let has = facts.capacity;
        let dimensions = [
            ("cpu", after.cpu_mhz > has.cpu_mhz),
            ("cores", after.cores > has.cores),
            ("memory", after.memory_mb > has.memory_mb),
            ("disk", after.disk_mb > has.disk_mb),
        ];
        if let Some((name, _)) = dimensions.iter().find(|(_, short)| *short) {
            return Some((*name).to_owned());
        }
        let collides = |port: &u16| facts.reserved_ports.contains(port) || taken(*port);
        let (port, label) = demand.ports.iter().find(|(port, _)| collides(port))?;
        Some(format!("network: reserved port collision {label}={port}"))
    }
}

/// All nodes that may take something new, as the plan leaves them.
#[derive(Debug)]
pub(crate) struct Board<'a> {
    pub(crate) slots: Vec<Slot<'a>>,
    by_id: HashMap<&'a NodeId, usize>,
    /// Instances of this job that should run, on nodes that take nothing new as well: values they have count.
    pub(crate) elsewhere: Vec<(&'a Node, String)>,
    /// Nodes on which something changed, in that order: who worked something out before reads on from where it was. As long as the
    /// plan, and what it found of this job.
    pub(crate) changed: Vec<usize>,
}

impl<'a> Board<'a> {
    pub(crate) fn new(cluster: &'a Cluster) -> Self {
        let slot = |node: &'a Node| Slot {
            node,
            used: node.used(),
            ports: Vec::new(),
            leaving: Capacity::default(),
            leaving_ports: Vec::new(),
            instances: BTreeMap::new(),
        };
        let slots: Vec<_> = cluster.nodes.values().filter(|node| node.takes_new()).map(slot).collect();
        let by_id = slots.iter().enumerate().map(|(at, slot)| (&slot.node.facts().id, at)).collect();
        Self { slots, by_id, elsewhere: Vec::new(), changed: Vec::new() }
    }

    pub(crate) fn slot(&self, node: &NodeId) -> Option<usize> {
        self.by_id.get(node).copied()
    }

    /// An instance of this job that should run and does so already.
    pub(crate) fn knows(&mut self, node: &'a Node, group: &str) {
        match self.slot(&node.facts().id) {
            Some(at) => self.add(at, group),
            None => self.elsewhere.push((node, group.to_owned())),
        }
    }

    /// An instance of this job should run no more.
    pub(crate) fn forgets(&mut self, node: &NodeId, group: &str) {
        match self.slot(node) {
            Some(at) => {
                if let Some(count) = self.slots.get_mut(at).and_then(|slot| slot.instances.get_mut(group)) {
                    *count = count.saturating_sub(1);
                }
                self.changed.push(at);
            }
            None => {
                let found = self.elsewhere.iter().position(|(on, of)| &on.facts().id == node && of == group);
                if let Some(at) = found {
                    self.elsewhere.swap_remove(at);
                }
            }
        }
    }

    /// An instance of this job is ending: its room is free soon.
    pub(crate) fn leaves(&mut self, node: &NodeId, takes: Capacity, ports: &[u16]) {
        if let Some(slot) = self.slot(node).and_then(|at| self.slots.get_mut(at)) {
            slot.leaving = sum(slot.leaving, takes);
            slot.leaving_ports.extend_from_slice(ports);
        }
    }

    /// A new instance goes there.
    pub(crate) fn gives(&mut self, at: usize, group: &str, demand: &Demand) {
        if let Some(slot) = self.slots.get_mut(at) {
            slot.used = sum(slot.used, demand.on(slot.node.facts()));
            slot.ports.extend(demand.ports.keys());
            self.add(at, group);
        }
    }

    fn add(&mut self, at: usize, group: &str) {
        let Some(slot) = self.slots.get_mut(at) else { return };
        match slot.instances.get_mut(group) {
            Some(count) => *count = count.saturating_add(1),
            None => {
                slot.instances.insert(group.to_owned(), 1);
            }
        }
        self.changed.push(at);
    }
}
