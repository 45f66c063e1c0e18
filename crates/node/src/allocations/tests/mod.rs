//! Allocations on the fake driver, and on the real ones where this machine has them; test ids are those of the catalogue.

mod environment;
mod fake;
mod files;
mod leaks;
mod logs;
mod real;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use moat_engine::fake::FakeWorld;
use moat_engine::{EngineConfig, Registry};
use moat_model::job::cluster::Capacity;
use moat_model::job::{
    Allocation, ClientStatus, Desired, Disconnect, EphemeralDisk, Hook, Job, JobType, Lifecycle, LogLimits, NodeFacts,
    Restart, RestartMode, Task, TaskConfig, TaskDriver, TaskGroup, TaskResources,
};
use moat_model::{JobId, Namespace, Timestamp};
use moat_testkit::wait_until;

use super::*;

pub(super) const SOON: Duration = Duration::from_secs(60);

pub(super) fn node() -> NodeId {
    NodeId::parse("NAO5X4PUZC5L7XRBXMQZC6AGOLT5G3FF5J6S77B4TU3JFLKG6C5PDMEA").unwrap()
}

pub(super) fn alloc_id(n: u32) -> AllocId {
    AllocId::parse(&format!("{n:08x}-1111-4222-8333-444455556666")).unwrap()
}

pub(super) fn facts() -> NodeFacts {
    let text = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    NodeFacts {
        id: node(),
        name: "calm-lynx".to_owned(),
        datacenter: "dc1".to_owned(),
        region: "global".to_owned(),
        class: "big".to_owned(),
        pool: "default".to_owned(),
        attributes: text(&[("cpu.arch", "amd64")]),
        meta: text(&[("rack", "r1")]),
        capacity: Capacity::default(),
        host_volumes: BTreeMap::new(),
        reserved_ports: Vec::new(),
        version: "0".to_owned(),
        http: None,
    }
}

pub(super) fn task(name: &str, command: &str, args: &[&str]) -> Task {
    Task {
        name: name.to_owned(),
        driver: TaskDriver::Exec,
        config: TaskConfig {
            command: command.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            ..TaskConfig::default()
        },
        user: None,
        env: BTreeMap::new(),
        resources: TaskResources { memory_mb: 64, ..TaskResources::default() },
        restart: None,
        kill_signal: Signal::TERM,
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

pub(super) fn sh(name: &str, script: &str) -> Task {
    task(name, "/bin/sh", &["-c", script])
}

pub(super) fn hook(task: Task, hook: Hook, sidecar: bool) -> Task {
    Task { lifecycle: Some(Lifecycle { hook, sidecar }), ..task }
}

pub(super) fn group(tasks: Vec<Task>) -> TaskGroup {
    TaskGroup {
        name: "g".to_owned(),
        count: 1,
        constraints: Vec::new(),
        affinities: Vec::new(),
        spreads: Vec::new(),
        volumes: BTreeMap::new(),
        restart: Restart {
            attempts: 2,
            interval: Duration::from_secs(600),
            delay: Duration::ZERO,
            mode: RestartMode::Fail,
        },
        reschedule: None,
        update: None,
        migrate: None,
        disconnect: Disconnect::default(),
        ephemeral_disk: EphemeralDisk::default(),
        network: None,
        services: Vec::new(),
        shutdown_delay: Duration::ZERO,
        max_run_duration: None,
        meta: BTreeMap::new(),
        tasks,
    }
}

pub(super) fn job(kind: JobType, group: TaskGroup) -> Arc<Job> {
    Arc::new(Job {
        id: JobId::parse("web").unwrap(),
        name: "web".to_owned(),
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
        groups: vec![group],
        parent: None,
        payload: None,
    })
}

pub(super) fn assignment(n: u32, job: &Arc<Job>) -> Assignment {
    let at = Timestamp::from_millis(1);
    let mut allocation: Allocation = serde_json::from_value(serde_json::json!({
        "id": alloc_id(n), "namespace": "default", "job": "web", "job_version": 0, "group": "g", "index": 0,
        "node": node(), "desired": "run", "generation": 1, "created": at, "modified": at,
    }))
    .unwrap();
    allocation.desired = Desired::Run;
    Assignment { allocation, job: Arc::clone(job) }
}

pub(super) fn stopped(assignment: &Assignment, no_shutdown_delay: bool) -> Assignment {
    let mut assignment = assignment.clone();
    assignment.allocation.desired = Desired::Stop;
    assignment.allocation.no_shutdown_delay = no_shutdown_delay;
    assignment.allocation.generation += 1;
    assignment
}

/// A node's allocations in a directory; another can be opened there when this one is gone.
pub(super) struct Bed {
    pub allocations: Allocations,
    pub engine: Engine,
}

impl Bed {
    pub async fn open(dir: &Path, registry: Registry, networks: Networks, fenced: bool) -> Self {
        let outbox = crate::events::Outbox::open(&dir.join("outbox"), moat_api::Subjects::default()).await.unwrap();
        let outlet_config = crate::outlet::OutletConfig::new(dir.join("logs"), dir.join("bindings"));
        let outlet = NodeOutlet::open(outlet_config, outbox).await.unwrap();
        let config = EngineConfig { sandboxes_max: 100, ..EngineConfig::new(dir.join("run"), dir.join("data")) };
        let (engine, found) = Engine::open(config, registry, Arc::new(outlet.clone())).await.unwrap();
        let store = crate::templates::tests::store(dir);
        let templates = Templates::open(&dir.join("templates"), store, engine.clone(), None).unwrap();
        let ids = Some(moat_getter::Ids { uid: 0x3000_0001, gid: 0x3000_0001 });
        let getter =
            moat_getter::GetterConfig { ids, ..moat_getter::GetterConfig::new("/bin/false".into(), Vec::new()) };
        let base = Foundation {
            node: node(),
            facts: Arc::new(facts()),
            dir: dir.join("alloc"),
            records: dir.join("records"),
            disk_ids: moat_drivers::container::ContainerConfig::default().disk_ids,
            engine: engine.clone(),
            outlet,
            templates,
            networks: Arc::new(networks),
            getter: Getter::new(getter).unwrap(),
            jobs: JobsConfig::default(),
        };
        let allocations = Allocations::open(base, found, fenced).await.unwrap();
        Self { allocations, engine }
    }

    pub async fn fake(dir: &Path, world: &FakeWorld, fenced: bool) -> Self {
        Self::open(dir, Registry::new(vec![world.driver()]), crate::networks::tests::off(), fenced).await
    }

    pub async fn close(self) {
        self.allocations.detach().await;
        self.engine.detach().await;
    }

    pub async fn until(&self, n: u32, client: ClientStatus) -> Arc<AllocView> {
        self.when(n, &format!("allocation {n} is {}", client.as_str()), |view| view.status.client == client).await
    }

    pub async fn when(&self, n: u32, what: &str, holds: impl Fn(&AllocView) -> bool) -> Arc<AllocView> {
        let look = async || self.allocations.get(&alloc_id(n)).filter(|view| holds(view));
        match wait_until(SOON, what, look).await {
            Ok(view) => view,
            Err(_) => panic!("not so: {what}: {:#?}", self.allocations.get(&alloc_id(n)).map(|v| v.status.clone())),
        }
    }

    /// All of a log that is over, as text.
    pub async fn log(&self, n: u32, task: &str) -> String {
        let wanted = LogsWanted {
            task: task.to_owned(),
            stream: moat_agent::protocol::StreamName::Stdout,
            from: Origin::Start(0),
            follow: false,
        };
        let mut pieces = self.allocations.logs(&alloc_id(n), wanted).await.unwrap();
        let mut text = Vec::new();
        while let Some(piece) = pieces.recv().await {
            text.extend_from_slice(&piece.unwrap().bytes);
        }
        String::from_utf8(text).unwrap()
    }
}
