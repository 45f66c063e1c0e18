//! Nodes, jobs, and a cluster that does what plans say, for tests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use moat_model::job::cluster::Capacity;
use moat_model::job::group::GroupNetworkMode;
use moat_model::job::{
    AllocStatus, Allocation, ClientStatus, DelayFunction, Deployment, Desired, Disconnect, DrainSpec, Eligibility,
    EphemeralDisk, GroupNetwork, HealthCheck, Job, JobType, LogLimits, Migrate, NodeFacts, NodeState, NodeWish,
    PortSpec, Reschedule, Restart, RestartMode, Task, TaskConfig, TaskDriver, TaskGroup, TaskResources, Update,
};
use moat_model::spec::StopSpec;
use moat_model::{AllocId, JobId, Namespace, NodeId, Timestamp};

use crate::{Cluster, JobKey, JobState, Plan, Seed, plan};

pub(crate) fn node_id(number: usize) -> NodeId {
    const DIGITS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let tail: String = (0..4).rev().map(|at| char::from(DIGITS[(number >> (5 * at)) & 31])).collect();
    NodeId::parse(&format!("N{}{tail}", "A".repeat(51))).unwrap()
}

/// A node with 4 cores, 4,000 MHz, 8,000 MiB, 10,000 MiB of disk, all drivers.
pub(crate) fn facts(number: usize) -> NodeFacts {
    let drivers = ["driver.exec", "driver.raw_exec", "kernel.name"];
    NodeFacts {
        id: node_id(number),
        name: format!("node-{number}"),
        datacenter: "dc1".to_owned(),
        region: "global".to_owned(),
        class: String::new(),
        pool: "default".to_owned(),
        attributes: drivers.map(|name| (name.to_owned(), "1".to_owned())).into(),
        meta: BTreeMap::new(),
        capacity: Capacity { cpu_mhz: 4000, cores: 4, memory_mb: 8000, disk_mb: 10_000 },
        host_volumes: BTreeMap::new(),
        reserved_ports: Vec::new(),
        version: "0.1.0".to_owned(),
        http: None,
    }
}

pub(crate) fn update() -> Update {
    Update {
        max_parallel: 1,
        health_check: HealthCheck::Checks,
        min_healthy_time: Duration::from_secs(10),
        healthy_deadline: Duration::from_secs(300),
        progress_deadline: Duration::from_secs(600),
        auto_revert: false,
        auto_promote: false,
        canary: 0,
    }
}

pub(crate) fn task(name: &str) -> Task {
    Task {
        name: name.to_owned(),
        driver: TaskDriver::Exec,
        config: TaskConfig { command: "/bin/server".to_owned(), ..TaskConfig::default() },
        user: None,
        env: BTreeMap::new(),
        resources: TaskResources { cpu_mhz: 500, memory_mb: 256, ..TaskResources::default() },
        restart: None,
        kill_signal: StopSpec::default().signal,
        kill_timeout: Duration::from_secs(5),
        shutdown_delay: Duration::ZERO,
        leader: false,
        lifecycle: None,
        logs: LogLimits::default(),
        artifacts: Vec::new(),
        templates: Vec::new(),
        volume_mounts: Vec::new(),
        constraints: Vec::new(),
        affinities: Vec::new(),
        services: Vec::new(),
        meta: BTreeMap::new(),
        dispatch_payload: None,
    }
}

pub(crate) fn group(name: &str, kind: JobType, count: u32) -> TaskGroup {
    let unlimited = Reschedule {
        attempts: 0,
        interval: Duration::ZERO,
        delay: Duration::from_secs(30),
        delay_function: DelayFunction::Exponential,
        max_delay: Duration::from_secs(3600),
        unlimited: true,
    };
    let once = Reschedule {
        attempts: 1,
        interval: Duration::from_secs(86_400),
        delay: Duration::from_secs(5),
        delay_function: DelayFunction::Constant,
        unlimited: false,
        ..unlimited
    };
    TaskGroup {
        name: name.to_owned(),
        count,
        constraints: Vec::new(),
        affinities: Vec::new(),
        spreads: Vec::new(),
        volumes: BTreeMap::new(),
        restart: Restart {
            attempts: 2,
            interval: Duration::from_secs(1800),
            delay: Duration::from_secs(15),
            mode: RestartMode::Fail,
        },
        reschedule: match kind {
            JobType::Service => Some(unlimited),
            JobType::Batch => Some(once),
            JobType::System | JobType::Sysbatch => None,
        },
        update: kind.is_long_running().then(update),
        migrate: (kind == JobType::Service).then(Migrate::default),
        disconnect: Disconnect::default(),
        ephemeral_disk: EphemeralDisk::default(),
        network: None,
        services: Vec::new(),
        shutdown_delay: Duration::ZERO,
        max_run_duration: None,
        meta: BTreeMap::new(),
        tasks: vec![task("main")],
    }
}

pub(crate) fn job(id: &str, kind: JobType, count: u32) -> Job {
    Job {
        id: JobId::parse(id).unwrap(),
        name: id.to_owned(),
        namespace: Namespace::default_namespace(),
        region: "global".to_owned(),
        kind,
        priority: 50,
        all_at_once: false,
        datacenters: vec!["*".to_owned()],
        node_pool: "default".to_owned(),
        constraints: Vec::new(),
        affinities: Vec::new(),
        spreads: Vec::new(),
        periodic: None,
        parameterized: None,
        meta: BTreeMap::new(),
        groups: vec![group("web", kind, count)],
        parent: None,
        payload: None,
    }
}

pub(crate) fn fixed_port(group: &mut TaskGroup, port: u16) {
    let ports = [("http".to_owned(), PortSpec { fixed: Some(port), to: None })].into();
    group.network = Some(GroupNetwork { mode: GroupNetworkMode::Bridge, ports, hostname: None });
}

/// A cluster that does what plans say.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) now: Timestamp,
    jobs: BTreeMap<JobKey, JobState>,
    rounds: u64,
}

impl World {
    pub(crate) fn new(nodes: usize) -> Self {
        let mut world = Self { now: Timestamp::from_millis(1_000_000), ..Self::default() };
        (0..nodes).for_each(|number| world.node(facts(number)));
        world
    }

    pub(crate) fn pass(&mut self, seconds: u64) {
        self.now = self.now.plus(Duration::from_secs(seconds));
    }

    pub(crate) fn node(&mut self, facts: NodeFacts) {
        self.cluster.set_node(facts, NodeWish::default(), NodeState::Ready);
    }

    fn change_node(&mut self, number: usize, wish: Option<NodeWish>, state: Option<NodeState>) {
        let node = self.cluster.node(&node_id(number)).unwrap().clone();
        let wish = wish.unwrap_or_else(|| node.wish().clone());
        self.cluster.set_node(node.facts().clone(), wish, state.unwrap_or(node.state()));
    }

    pub(crate) fn down(&mut self, number: usize) {
        self.change_node(number, None, Some(NodeState::Down));
    }

    pub(crate) fn up(&mut self, number: usize) {
        self.change_node(number, None, Some(NodeState::Ready));
    }

    pub(crate) fn drain(&mut self, number: usize, deadline: Option<u64>, ignore_system: bool) {
        let started = self.now;
        let deadline = deadline.map(Duration::from_secs);
        let drain = DrainSpec { deadline, started, ignore_system, message: String::new() };
        let wish = NodeWish { eligibility: Eligibility::Ineligible, drain: Some(drain) };
        self.change_node(number, Some(wish), None);
    }

    pub(crate) fn wish(&mut self, number: usize, wish: NodeWish) {
        self.change_node(number, Some(wish), None);
    }

    /// Declares a job, or its next version.
    pub(crate) fn submit(&mut self, job: Job) -> JobKey {
        let key = JobKey::of(&job);
        let state = self.jobs.entry(key.clone()).or_insert_with(|| JobState {
            key: key.clone(),
            current: 0,
            versions: BTreeMap::new(),
            stable: BTreeSet::new(),
            stopped: false,
        });
        if !state.versions.is_empty() {
            state.current += 1;
        }
        state.stopped = false;
        state.versions.insert(state.current, Arc::new(job));
        self.cluster.set_job(state.clone());
        key
    }

    pub(crate) fn stop(&mut self, key: &JobKey) {
        let state = self.jobs.get_mut(key).unwrap();
        state.stopped = true;
        self.cluster.set_job(state.clone());
    }

    pub(crate) fn dry(&mut self, key: &JobKey) -> Plan {
        let seed = self.seed();
        plan(&self.cluster, key, self.now, seed)
    }

    /// Another one each time.
    pub(crate) fn seed(&mut self) -> Seed {
        self.rounds += 1;
        Seed(u128::from(self.rounds).to_le_bytes())
    }

    /// Plans a job and does what the plan says.
    pub(crate) fn plan(&mut self, key: &JobKey) -> Plan {
        let plan = self.dry(key);
        self.apply(&plan);
        plan
    }

    pub(crate) fn apply(&mut self, plan: &Plan) {
        let key = &plan.job;
        let mut all: BTreeMap<AllocId, Allocation> =
            self.cluster.allocations(key).map(|one| (one.id.clone(), one.clone())).collect();
        for one in plan.change.iter().chain(&plan.place) {
            all.insert(one.id.clone(), one.clone());
        }
        let deployment = plan.deployment.clone().or_else(|| self.cluster.deployment(key).cloned());
        self.cluster.set_allocations(key, all.into_values().collect(), deployment);
        let state = self.jobs.get_mut(key).unwrap();
        state.stable.extend(plan.stable);
        if let Some(content) = plan.revert_to.and_then(|version| state.versions.get(&version).cloned()) {
            state.current += 1;
            state.versions.insert(state.current, content);
        }
        self.cluster.set_job(state.clone());
    }

    pub(crate) fn set_deployment(&mut self, key: &JobKey, deployment: Deployment) {
        let all = self.cluster.allocations(key).cloned().collect();
        self.cluster.set_allocations(key, all, Some(deployment));
    }

    pub(crate) fn allocs(&self, key: &JobKey) -> Vec<Allocation> {
        self.cluster.allocations(key).cloned().collect()
    }

    /// Those that should run and are not known to have ended.
    pub(crate) fn running(&self, key: &JobKey) -> Vec<Allocation> {
        let mut all = self.allocs(key);
        all.retain(|one| one.desired == Desired::Run && !self.cluster.client(one).is_terminal());
        all.sort_by_key(|one| (one.index, one.id.clone()));
        all
    }

    pub(crate) fn say(&mut self, alloc: &Allocation, client: ClientStatus, healthy: Option<bool>, why: &str) {
        self.cluster.set_status(AllocStatus {
            id: alloc.id.clone(),
            node: alloc.node.clone(),
            generation: alloc.generation,
            client,
            description: why.to_owned(),
            tasks: BTreeMap::new(),
            healthy,
            ports: BTreeMap::new(),
            checks: BTreeMap::new(),
            modified: self.now,
        });
    }

    pub(crate) fn fail(&mut self, alloc: &Allocation) {
        self.say(alloc, ClientStatus::Failed, Some(false), "it ended with 1");
    }

    /// Living nodes do what is wanted of them: new instances run and are healthy, others end.
    pub(crate) fn nodes_act(&mut self) {
        let keys: Vec<_> = self.jobs.keys().cloned().collect();
        let all: Vec<_> = keys.iter().flat_map(|key| self.allocs(key)).collect();
        for alloc in all {
            let client = self.cluster.client(&alloc);
            match (client, alloc.desired) {
                (ClientStatus::Pending, Desired::Run) => self.say(&alloc, ClientStatus::Running, Some(true), ""),
                (ClientStatus::Pending | ClientStatus::Running, Desired::Stop | Desired::Evict) => {
                    self.say(&alloc, ClientStatus::Complete, None, "stopped");
                }
                _ => {}
            }
        }
    }

    /// Plans and acts until nothing is left to do.
    pub(crate) fn settle(&mut self, key: &JobKey) {
        for _ in 0..200 {
            let plan = self.plan(key);
            self.nodes_act();
            if plan.is_empty() && self.dry(key).is_empty() {
                return;
            }
            self.pass(1);
        }
        panic!("it does not come to rest: {:#?}", self.dry(key));
    }
}

impl World {
    pub(crate) fn keys(&self) -> Vec<JobKey> {
        self.jobs.keys().cloned().collect()
    }

    pub(crate) fn state(&self, key: &JobKey) -> &JobState {
        &self.jobs[key]
    }

    /// The same knowledge, come by in another order.
    pub(crate) fn rebuilt(&self) -> Cluster {
        let mut cluster = Cluster::new();
        for alloc in self.keys().iter().rev().flat_map(|key| self.allocs(key)).rev() {
            if let Some(status) = self.cluster.status(&alloc.id) {
                cluster.set_status(status.clone());
            }
        }
        for key in self.keys().iter().rev() {
            let mut all = self.allocs(key);
            all.reverse();
            cluster.set_allocations(key, all, self.cluster.deployment(key).cloned());
        }
        let nodes: Vec<_> = self.cluster.nodes().collect();
        for node in nodes.into_iter().rev() {
            cluster.set_node(node.facts().clone(), node.wish().clone(), node.state());
        }
        self.jobs.values().for_each(|state| cluster.set_job(state.clone()));
        cluster
    }
}
