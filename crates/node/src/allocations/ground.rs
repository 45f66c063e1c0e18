//! What the work for one task stands on: the allocation as it is written down, and the node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use moat_model::job::allocation::PortMapping;
use moat_model::job::{Allocation, Job, Task, TaskDriver, TaskGroup};
use moat_model::network::NetworkMode;

use super::Shared;
use super::dirs::AllocDirs;
use super::env::{self, Given};
use super::interpolate::Names;
use crate::error::{Error, Result};

/// Cheap to make anew whenever the record changes.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    pub shared: Arc<Shared>,
    pub allocation: Arc<Allocation>,
    pub job: Arc<Job>,
    pub ports: Arc<BTreeMap<String, PortMapping>>,
    pub fetched: Arc<BTreeSet<String>>,
}

impl Ground {
    pub(super) fn group(&self) -> Result<&TaskGroup> {
        let name = &self.allocation.group;
        self.job.group(name).ok_or_else(|| Error::invalid("group", format!("{name}: the job has no such group")))
    }

    pub(super) fn task(&self, name: &str) -> Result<&Task> {
        let found = self.group()?.task(name);
        found.ok_or_else(|| Error::invalid("task", format!("{name}: the group has no such task")))
    }

    pub(super) fn dirs(&self) -> AllocDirs {
        self.shared.dirs_of(&self.allocation.id)
    }

    /// The environment of a task, with what its templates say.
    pub(super) fn env(&self, task: &Task, templates: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
        let jobs = &self.shared.base.jobs;
        let mut denied = jobs.env_denied.clone();
        denied.extend(task.config.denied_envvars.clone());
        let wired = matches!(self.network_mode(task), Ok(NetworkMode::Internal | NetworkMode::Internet));
        Ok(env::environment(&Given {
            allocation: &self.allocation,
            job: &self.job,
            group: self.group()?,
            task,
            facts: &self.shared.base.facts,
            ports: &self.ports,
            port_owner: &owners(self.group()?)?,
            domain: wired.then(|| self.shared.domain()),
            dirs: &env::dirs(task.driver, self.dirs().root(), &task.name),
            host: &env::host(&jobs.env_allowed, &denied),
            templates,
        }))
    }

    /// `${…}` replaced for a task with this environment.
    pub(super) fn replaced(&self, env: &BTreeMap<String, String>, text: &str) -> String {
        Names { facts: &self.shared.base.facts, env }.replaced(text)
    }

    /// The first id of the block the files of sandboxed tasks belong to on disk.
    pub(super) fn owner(&self, task: &Task, uid: Option<u32>, gid: Option<u32>) -> Option<(u32, u32)> {
        let base = if task.driver == TaskDriver::RawExec { 0 } else { self.shared.base.disk_ids };
        let root = rustix::process::geteuid().is_root();
        root.then(|| (base + uid.unwrap_or(0), base + gid.or(uid).unwrap_or(0)))
    }

    /// The network of its tasks in moat's word.
    pub(super) fn network_mode(&self, task: &Task) -> Result<NetworkMode> {
        use moat_model::job::group::GroupNetworkMode as Mode;
        if task.driver == TaskDriver::RawExec {
            return Ok(NetworkMode::Host);
        }
        match self.group()?.network.as_ref().map(|network| network.mode) {
            None | Some(Mode::Bridge) => Ok(self.shared.default_network()),
            Some(Mode::None) => Ok(NetworkMode::Isolated),
            Some(Mode::Host) => Err(Error::invalid(
                "network.mode",
                format!("host: task {} has a network of its own; only raw_exec tasks share the host's", task.name),
            )),
        }
    }
}

/// Which task each port leads to: the one whose service names it, else the only main task, else the leader.
pub(super) fn owners(group: &TaskGroup) -> Result<BTreeMap<String, String>> {
    let Some(network) = &group.network else { return Ok(BTreeMap::new()) };
    let mains: Vec<&Task> = group.tasks.iter().filter(|task| task.lifecycle.is_none()).collect();
    let mut owners = BTreeMap::new();
    for label in network.ports.keys() {
        let named = |task: &&Task| task.services.iter().any(|service| service.port.as_ref() == Some(label));
        let mut candidates: BTreeSet<&str> = group.tasks.iter().filter(named).map(|t| t.name.as_str()).collect();
        let of_group = group.services.iter().filter(|service| service.port.as_ref() == Some(label));
        candidates.extend(of_group.filter_map(|service| service.task.as_deref()));
        let one = match candidates.len() {
            1 => candidates.first().map(|name| (*name).to_owned()),
            0 if mains.len() == 1 => mains.first().map(|task| task.name.clone()),
            0 => mains.iter().find(|task| task.leader).map(|task| task.name.clone()),
            _ => None,
        };
        let Some(one) = one else {
            let why = "more than one task could have it: name the port in one task's service, or make one the leader";
            return Err(Error::invalid(&format!("network.port {label:?}"), why));
        };
        owners.insert(label.clone(), one);
    }
    Ok(owners)
}
