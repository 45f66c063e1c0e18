//! What an instance of a group takes of its node.

use std::collections::BTreeMap;

use moat_model::job::cluster::Capacity;
use moat_model::job::{Hook, NodeFacts, Task, TaskGroup};

/// What an instance takes. The node refuses by the same numbers ([`demand`], [`Demand::on`]).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Demand {
    /// MHz that are shared.
    pub cpu_mhz: u64,
    /// Whole cores.
    pub cores: u32,
    /// MiB.
    pub memory_mb: u64,
    /// MiB.
    pub disk_mb: u64,
    /// Ports of the node that have to be just these, with their labels.
    pub ports: BTreeMap<u16, String>,
}

/// What an instance of `group` takes.
///
/// Tasks that never run at the same time share: the greatest of before, during and after counts, and sidecars always.
pub fn demand(group: &TaskGroup) -> Demand {
    let mut phases = [Sum::default(); 3];
    let mut always = Sum::default();
    for task in &group.tasks {
        let sum = match task.lifecycle {
            Some(lifecycle) if lifecycle.sidecar => &mut always,
            Some(lifecycle) => match (lifecycle.hook, &mut phases) {
                (Hook::Prestart, [before, _, _]) => before,
                (Hook::Poststart, [_, during, _]) => during,
                (Hook::Poststop, [_, _, after]) => after,
            },
            None => {
                let [_, during, _] = &mut phases;
                during
            }
        };
        sum.add(task);
    }
    let greatest = |of: fn(&Sum) -> u64| phases.iter().map(of).max().unwrap_or(0).saturating_add(of(&always));
    let ports = group.network.iter().flat_map(|network| &network.ports);
    Demand {
        cpu_mhz: greatest(|sum| sum.cpu_mhz),
        cores: u32::try_from(greatest(|sum| sum.cores)).unwrap_or(u32::MAX),
        memory_mb: greatest(|sum| sum.memory_mb),
        disk_mb: u64::from(group.ephemeral_disk.size_mb),
        ports: ports.filter_map(|(label, port)| Some((port.fixed?, label.clone()))).collect(),
    }
}

impl Demand {
    /// The same in the node's own numbers: a whole core takes its share of the node's MHz too.
    pub fn on(&self, facts: &NodeFacts) -> Capacity {
        let of_a_core = match facts.capacity.cores {
            0 => 0,
            cores => facts.capacity.cpu_mhz / u64::from(cores),
        };
        Capacity {
            cpu_mhz: self.cpu_mhz.saturating_add(of_a_core.saturating_mul(u64::from(self.cores))),
            cores: self.cores,
            memory_mb: self.memory_mb,
            disk_mb: self.disk_mb,
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    cpu_mhz: u64,
    cores: u64,
    memory_mb: u64,
}

impl Sum {
    fn add(&mut self, task: &Task) {
        if task.resources.cores == 0 {
            self.cpu_mhz = self.cpu_mhz.saturating_add(u64::from(task.resources.cpu_mhz));
        }
        self.cores = self.cores.saturating_add(u64::from(task.resources.cores));
        self.memory_mb = self.memory_mb.saturating_add(u64::from(task.resources.memory_mb));
    }
}
