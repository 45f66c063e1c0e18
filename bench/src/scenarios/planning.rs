//! How long the planner thinks: a cluster of five thousand nodes that is not there, with twenty thousand instances.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use moat_model::job::{AllocStatus, ClientStatus, DrainSpec, Eligibility, Job, NodeFacts, NodeState, NodeWish};
use moat_model::{NodeId, Timestamp};
use moat_scheduler::{Cluster, JobKey, JobState, Plan, Seed, plan};
use serde_json::json;

use crate::samples::Sample;

/// A new job of ten.
const NEW: &str = "moat: plan a new job of 10 instances";
/// Each job on a node that is lost.
const LOSS: &str = "moat: plan a job after the loss of a node";
/// Each job on a node that is being emptied.
const DRAIN: &str = "moat: plan a job on a node that is being emptied";
/// Ten instances more.
const COUNT: &str = "moat: plan a job of 100 that becomes one of 110";
const NOTHING: &str = "moat: plan a job of 100, nothing to do";
const LARGE: &str = "moat: plan a new job of 1000 instances";

const NODES: usize = 5000;
const JOBS: usize = 200;
const INSTANCES: usize = 100;
const ROUNDS: usize = 100;

/// Plans in a full cluster, each one carried out before the next.
pub async fn run() -> anyhow::Result<Vec<Sample>> {
    tokio::task::spawn_blocking(measure).await.context("the simulation ended")?
}

fn measure() -> anyhow::Result<Vec<Sample>> {
    let mut world = World::filled()?;
    let mut samples = Vec::new();
    let mut take = |subject: &str, taken: Duration| samples.push(Sample::time("PL", subject, taken));
    for round in 0..ROUNDS {
        let job = job(&format!("new-{round}"), 10)?;
        let (plan, taken) = world.submit(job);
        ensure!(plan.place.len() == 10, "a new job of 10 has its places");
        take(NEW, taken);
        let key = world.filled_job(round)?;
        let (plan, taken) = world.plan(&key);
        ensure!(plan.is_empty(), "nothing has changed");
        take(NOTHING, taken);
    }
    for round in 0..ROUNDS {
        let (plan, taken) = world.submit(job(&format!("job-{round}"), 110)?);
        ensure!(plan.place.len() == 10 && plan.change.len() == INSTANCES, "ten more, the others in place");
        take(COUNT, taken);
    }
    for round in 0..ROUNDS {
        let node = node_id(round * 37)?;
        for (wish, state, subject) in
            [(NodeWish::default(), NodeState::Down, LOSS), (draining(world.now), NodeState::Ready, DRAIN)]
        {
            let node = if state == NodeState::Down { node.clone() } else { node_id(round * 37 + 11)? };
            world.set(&node, wish, state)?;
            for key in world.cluster.jobs_on(&node) {
                let (plan, taken) = world.plan(&key);
                ensure!(!plan.is_empty(), "what was on the node goes elsewhere");
                take(subject, taken);
            }
        }
    }
    for round in 0..10 {
        let (plan, taken) = world.submit(job(&format!("large-{round}"), 1000)?);
        ensure!(plan.place.len() == 1000, "a new job of 1000 has its places");
        take(LARGE, taken);
    }
    Ok(samples)
}

fn draining(now: Timestamp) -> NodeWish {
    let drain =
        DrainSpec { deadline: Some(Duration::ZERO), started: now, ignore_system: false, message: String::new() };
    NodeWish { eligibility: Eligibility::Ineligible, drain: Some(drain) }
}

/// The cluster and what carries plans out: at once, and everything that is placed runs and is healthy.
struct World {
    cluster: Cluster,
    jobs: BTreeMap<JobKey, JobState>,
    now: Timestamp,
    plans: u128,
}

impl World {
    fn filled() -> anyhow::Result<Self> {
        let now = Timestamp::from_millis(1_700_000_000_000);
        let mut world = Self { cluster: Cluster::new(), jobs: BTreeMap::new(), now, plans: 0 };
        for number in 0..NODES {
            world.cluster.set_node(facts(number)?, NodeWish::default(), NodeState::Ready);
        }
        for number in 0..JOBS {
            let (plan, _) = world.submit(job(&format!("job-{number}"), INSTANCES)?);
            ensure!(plan.place.len() == INSTANCES, "job {number} has its places");
        }
        Ok(world)
    }

    fn filled_job(&self, number: usize) -> anyhow::Result<JobKey> {
        Ok(JobKey::of(&job(&format!("job-{number}"), INSTANCES)?))
    }

    fn set(&mut self, node: &NodeId, wish: NodeWish, state: NodeState) -> anyhow::Result<()> {
        let facts = self.cluster.node(node).context("a node that was made")?.facts().clone();
        self.cluster.set_node(facts, wish, state);
        Ok(())
    }

    fn submit(&mut self, job: Job) -> (Plan, Duration) {
        let key = JobKey::of(&job);
        let state = self.jobs.entry(key.clone()).or_insert_with(|| JobState {
            key: key.clone(),
            current: 0,
            versions: BTreeMap::new(),
            stable: BTreeSet::new(),
            stopped: false,
        });
        state.current = state.versions.keys().next_back().map_or(0, |last| last + 1);
        state.versions.insert(state.current, Arc::new(job));
        self.cluster.set_job(state.clone());
        self.plan(&key)
    }

    /// Plans until its nodes have told of everything; the first plan is the one that counts.
    fn plan(&mut self, key: &JobKey) -> (Plan, Duration) {
        let (first, taken) = self.plan_once(key);
        for _ in 0..3 {
            let (next, _) = self.plan_once(key);
            if next.is_empty() {
                break;
            }
        }
        (first, taken)
    }

    fn plan_once(&mut self, key: &JobKey) -> (Plan, Duration) {
        self.plans += 1;
        let begin = Instant::now();
        let plan = plan(&self.cluster, key, self.now, Seed(self.plans.to_le_bytes()));
        let taken = begin.elapsed();
        let mut all: BTreeMap<_, _> = self.cluster.allocations(key).map(|one| (one.id.clone(), one.clone())).collect();
        for one in plan.change.iter().chain(&plan.place) {
            all.insert(one.id.clone(), one.clone());
        }
        let deployment = plan.deployment.clone().or_else(|| self.cluster.deployment(key).cloned());
        self.cluster.set_allocations(key, all.into_values().collect(), deployment);
        for one in plan.place.iter().chain(&plan.change) {
            let runs = one.desired == moat_model::job::Desired::Run;
            self.cluster.set_status(AllocStatus {
                id: one.id.clone(),
                node: one.node.clone(),
                generation: one.generation,
                client: if runs { ClientStatus::Running } else { ClientStatus::Complete },
                description: String::new(),
                tasks: BTreeMap::new(),
                healthy: runs.then_some(true),
                ports: BTreeMap::new(),
                checks: BTreeMap::new(),
                modified: self.now,
            });
        }
        (plan, taken)
    }
}

fn node_id(number: usize) -> anyhow::Result<NodeId> {
    const DIGITS: [char; 8] = ['A', 'B', 'C', 'D', 'E', 'F', 'G', 'H'];
    let tail = (0..5).rev().filter_map(|at| DIGITS.get((number >> (3 * at)) & 7));
    Ok(NodeId::parse(&format!("N{}{}", "A".repeat(50), tail.collect::<String>()))?)
}

fn facts(number: usize) -> anyhow::Result<NodeFacts> {
    let facts = json!({
        "id": node_id(number)?,
        "name": format!("node-{number}"),
        "datacenter": format!("dc{}", number % 5),
        "region": "global",
        "class": if number.is_multiple_of(2) { "small" } else { "large" },
        "pool": "default",
        "attributes": {
            "driver.exec": "1", "driver.raw_exec": "1", "kernel.name": "linux", "kernel.version": "6.12.9",
            "cpu.arch": "amd64", "cpu.numcores": "16",
        },
        "meta": { "rack": format!("r{}", number % 250) },
        "capacity": { "cpu_mhz": 48_000, "cores": 16, "memory_mb": 64_000, "disk_mb": 500_000 },
        "host_volumes": {},
        "version": "0.1.0",
    });
    Ok(serde_json::from_value(facts)?)
}

fn job(id: &str, count: usize) -> anyhow::Result<Job> {
    let second = |secs: u64| json!({ "secs": secs, "nanos": 0 });
    let job = json!({
        "id": id, "name": id, "namespace": "default", "region": "global", "type": "service", "priority": 50,
        "datacenters": ["dc*"], "node_pool": "default",
        "constraints": [
            { "attribute": "${attr.kernel.name}", "operator": "equal", "value": "linux" },
            { "attribute": "${attr.kernel.version}", "operator": "version", "value": ">= 5.10" },
        ],
        "affinities": [
            { "constraint": { "attribute": "${node.class}", "operator": "equal", "value": "large" }, "weight": 50 },
        ],
        "spreads": [{ "attribute": "${node.datacenter}", "weight": 50 }],
        "groups": [{
            "name": "web", "count": count,
            "restart": { "attempts": 2, "interval": second(1800), "delay": second(15), "mode": "fail" },
            "update": {
                "max_parallel": 1, "health_check": "checks", "min_healthy_time": second(10),
                "healthy_deadline": second(300), "progress_deadline": second(600), "auto_revert": false,
                "auto_promote": false, "canary": 0,
            },
            "migrate": {
                "max_parallel": 1, "health_check": "checks", "min_healthy_time": second(10),
                "healthy_deadline": second(300),
            },
            "disconnect": { "replace": true },
            "ephemeral_disk": { "size_mb": 300, "sticky": false, "migrate": false },
            "tasks": [{
                "name": "main", "driver": "exec", "config": { "command": "/bin/server" },
                "resources": { "cpu_mhz": 500, "memory_mb": 256, "secrets_mb": 1 },
                "kill_signal": 15, "kill_timeout": second(5),
                "logs": { "max_files": 10, "max_file_size_mb": 10, "disabled": false },
            }],
        }],
    });
    serde_json::from_value(job).context("a job of the simulation")
}
