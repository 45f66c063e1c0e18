//! Which nodes may be used for a group at all, whatever is free on them.

mod board;

use std::collections::BTreeSet;

use globset::{Glob, GlobMatcher};
use moat_model::job::{Job, NodeFacts, Operator, TaskGroup};

pub(crate) use board::{Board, Slot};

use crate::constraint::Check;

/// The pool that every node belongs to.
const ALL_POOLS: &str = "all";

/// What a node must fulfil for a group.
#[derive(Debug)]
pub(crate) struct Filter<'a> {
    job: &'a Job,
    group: &'a TaskGroup,
    datacenters: Vec<Datacenter>,
    drivers: BTreeSet<String>,
    checks: Vec<Check>,
    pub(crate) distinct: Vec<Distinct>,
}

/// Which datacenters a text of a job means. Most are a name, or all: no expression is compiled for those.
#[derive(Debug)]
enum Datacenter {
    Any,
    Named(String),
    Like(GlobMatcher),
}

impl Datacenter {
    /// A glob that cannot be read was refused where the job was; here it means nothing.
    fn new(text: &str) -> Option<Self> {
        match text {
            "*" => Some(Self::Any),
            _ if text.contains(GLOB) => Some(Self::Like(Glob::new(text).ok()?.compile_matcher())),
            _ => Some(Self::Named(text.to_owned())),
        }
    }

    fn means(&self, datacenter: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Named(name) => name == datacenter,
            Self::Like(glob) => glob.is_match(datacenter),
        }
    }
}

/// What makes a text a glob.
const GLOB: [char; 5] = ['*', '?', '[', '{', '\\'];

/// What instances of a job must not have in common.
#[derive(Debug)]
pub(crate) struct Distinct {
    /// Instances of all groups count, not only of this one.
    pub(crate) of_job: bool,
    /// The value that counts; the node itself if absent.
    pub(crate) attribute: Option<String>,
    /// Instances with one value, at most.
    pub(crate) most: u32,
    pub(crate) words: String,
}

impl<'a> Filter<'a> {
    pub(crate) fn new(job: &'a Job, group: &'a TaskGroup) -> Self {
        let of_tasks = group.tasks.iter().flat_map(|task| &task.constraints);
        let of_group = group.constraints.iter().chain(of_tasks);
        let all = job.constraints.iter().map(|one| (one, true)).chain(of_group.map(|one| (one, false)));
        let mut checks = Vec::new();
        let mut distinct = Vec::new();
        for (constraint, of_job) in all {
            let check = Check::new(constraint);
            let words = check.words();
            match constraint.operator {
                Operator::DistinctHosts if constraint.value != "false" => {
                    distinct.push(Distinct { of_job, attribute: None, most: 1, words: "distinct_hosts".to_owned() });
                }
                Operator::DistinctHosts => {}
                Operator::DistinctProperty => {
                    let attribute = Some(constraint.attribute.clone());
                    let most = constraint.value.parse().unwrap_or(1);
                    distinct.push(Distinct { of_job, attribute, most, words });
                }
                _ => checks.push(check),
            }
        }
        let datacenters = job.datacenters.iter().filter_map(|text| Datacenter::new(text));
        let drivers = group.tasks.iter().map(|task| format!("driver.{}", task.driver.as_str())).collect();
        Self { job, group, datacenters: datacenters.collect(), drivers, checks, distinct }
    }

    /// The node is of the job's pool.
    pub(crate) fn in_pool(&self, facts: &NodeFacts) -> bool {
        self.job.node_pool == ALL_POOLS || self.job.node_pool == facts.pool
    }

    /// The node is in one of the job's datacenters.
    pub(crate) fn in_datacenter(&self, facts: &NodeFacts) -> bool {
        self.datacenters.iter().any(|one| one.means(&facts.datacenter))
    }

    /// The datacenters the job names in full.
    pub(crate) fn named_datacenters(&self) -> impl Iterator<Item = &String> {
        self.job.datacenters.iter().filter(|name| !name.contains(GLOB))
    }

    /// Why the node may not be used.
    pub(crate) fn excludes(&self, facts: &NodeFacts) -> Option<String> {
        if self.drivers.iter().any(|driver| !has_driver(facts, driver)) {
            return Some("missing drivers".to_owned());
        }
        let offered = |wanted: &moat_model::job::VolumeRequest| {
            let volume = facts.host_volumes.get(&wanted.source);
            volume.is_some_and(|volume| wanted.read_only || !volume.read_only)
        };
        if !self.group.volumes.values().all(offered) {
            return Some("missing compatible host volumes".to_owned());
        }
        self.checks.iter().find(|check| !check.holds(facts)).map(Check::words)
    }

    /// The node may be used, whatever is free on it.
    pub(crate) fn admits(&self, facts: &NodeFacts) -> bool {
        self.in_pool(facts) && self.in_datacenter(facts) && self.excludes(facts).is_none()
    }
}

fn has_driver(facts: &NodeFacts, driver: &str) -> bool {
    facts.attributes.get(driver).is_some_and(|value| value == "1" || value == "true")
}
