//! Sandboxes of the API on the fake driver, with real files; complaint tests are named after their row.

mod branch;
mod life;
mod machines;
mod network;
mod pool;
mod tenants;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use moat_engine::fake::{FakeConfig, FakeWorld};
use moat_engine::pool::Pool;
use moat_engine::{EngineConfig, Registry};
use moat_model::Isolation;
use moat_testkit::wait_until;

use super::*;
use crate::templates::tests::{import, store};

pub(super) const SOON: Duration = Duration::from_secs(20);

/// What an operator sets, for a test.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    pub sandboxes: SandboxesConfig,
    pub pool: PoolConfig,
    /// What stands ready for workloads.
    pub member: Option<Arc<moat_model::SandboxSpec>>,
    /// Sandboxes can have networks.
    pub networks: bool,
}

pub(super) struct Bed {
    pub dir: tempfile::TempDir,
    pub world: FakeWorld,
    pub settings: Settings,
    pub templates: Templates,
    pub sandboxes: Sandboxes,
    pub image: String,
}

impl Bed {
    pub async fn new() -> Self {
        Self::with(container(), Settings::default()).await
    }

    /// A node's API with one template, `app`.
    pub async fn with(fake: FakeConfig, settings: Settings) -> Self {
        let (dir, world) = (tempfile::tempdir().unwrap(), FakeWorld::new(fake));
        let (templates, sandboxes) = open(dir.path(), &world, &settings).await;
        let image = import(&templates, dir.path(), "localhost/app:1", "one").await.digest;
        let bed = Self { dir, world, settings, templates, sandboxes, image };
        bed.warm("app").await;
        bed
    }

    pub async fn warm(&self, name: &str) {
        let image = self.image.clone();
        let request = moat_api::rest::template::Warmup { name: name.to_owned(), image, ..Default::default() };
        self.templates.warm_up(request).await.unwrap();
        let ready = async || (self.templates.status(name).unwrap().status == "ready").then_some(());
        wait_until(SOON, "the template is ready", ready).await.unwrap();
    }

    /// The daemon ends in order, and another comes.
    pub async fn restart(self) -> Self {
        let Self { dir, world, settings, templates, sandboxes, image } = self;
        templates.close().await;
        sandboxes.close().await;
        let engine = sandboxes.shared.base.engine.clone();
        drop((templates, sandboxes));
        engine.detach().await;
        let (templates, sandboxes) = open(dir.path(), &world, &settings).await;
        Self { dir, world, settings, templates, sandboxes, image }
    }

    pub async fn create(&self, request: CreateSandbox) -> Sandbox {
        self.sandboxes.create(&own(), request).await.unwrap()
    }

    pub async fn app(&self) -> SandboxId {
        id(&self.create(app()).await)
    }

    pub fn state(&self, id: &SandboxId) -> String {
        self.sandboxes.get(&own(), id).unwrap().state
    }

    pub async fn until(&self, id: &SandboxId, state: &str) -> Sandbox {
        let found = async || self.sandboxes.get(&own(), id).ok().filter(|s| s.state == state);
        wait_until(SOON, state, found).await.unwrap()
    }
}

async fn open(dir: &Path, world: &FakeWorld, settings: &Settings) -> (Templates, Sandboxes) {
    let outbox = crate::events::Outbox::open(&dir.join("outbox"), moat_api::Subjects::default()).await.unwrap();
    let outlet_config = crate::outlet::OutletConfig::new(dir.join("logs"), dir.join("bindings"));
    let outlet = NodeOutlet::open(outlet_config, outbox).await.unwrap();
    let config = EngineConfig { sandboxes_max: 50, ..EngineConfig::new(dir.join("run"), dir.join("data")) };
    let registry = Registry::new(vec![world.driver()]);
    let (registry, networks) = match settings.networks {
        true => (registry.with_fabric(world.fabric()), crate::networks::tests::on()),
        false => (registry, crate::networks::tests::off()),
    };
    let (engine, _) = Engine::open(config, registry, Arc::new(outlet.clone())).await.unwrap();
    let templates = Templates::open(&dir.join("templates"), store(dir), engine.clone(), None).unwrap();
    let pool = Pool::open(engine.clone(), super::pool::config(&settings.pool));
    let sandboxes = Sandboxes::open(Foundation {
        node: NodeId::parse("NAO5X4PUZC5L7XRBXMQZC6AGOLT5G3FF5J6S77B4TU3JFLKG6C5PDMEA").unwrap(),
        name: "calm-lynx".to_owned(),
        started_at: clock::now(),
        lameduck: Arc::default(),
        engine,
        outlet,
        templates: templates.clone(),
        config: settings.sandboxes.clone(),
        resources: Resources { memory_bytes: Some(64 << 20), ..Resources::default() },
        sandboxes_max: 50,
        machine: Resources { memory_bytes: Some(128 << 20), disk_bytes: Some(1 << 30), ..Resources::default() },
        machines_dir: dir.join("machines"),
        isolation: vec!["container".to_owned()],
        process_allowed: false,
        pool: settings.pool.clone(),
        ready: Ready { pool, member: settings.member.clone() },
        networks: Arc::new(networks),
        snapshot_dir: dir.join("snapshots"),
        history_dir: dir.join("history"),
    })
    .await
    .unwrap();
    templates.go_on();
    (templates, sandboxes)
}

/// What a driver of containers says of itself.
pub(super) fn container() -> FakeConfig {
    FakeConfig { stower: false, snapshotter: false, ..FakeConfig::default() }
}

pub(super) fn own() -> Namespace {
    Namespace::default_namespace()
}

pub(super) fn app() -> CreateSandbox {
    CreateSandbox { template: Some("app".to_owned()), ..CreateSandbox::default() }
}

pub(super) fn id(sandbox: &Sandbox) -> SandboxId {
    SandboxId::parse(&sandbox.id).unwrap()
}

pub(super) fn label(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_owned(), value.to_owned())])
}
