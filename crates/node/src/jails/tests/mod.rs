//! Jails on the fake driver with real files, and in real containers where this machine has them; ids are those of the catalogue.

mod death;
mod life;
mod real;
mod steps;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use moat_engine::fake::{FakeConfig, FakeWorld};
use moat_engine::{Engine, EngineConfig, Registry};
use moat_getter::Getter;
use moat_model::jail::{Bootstrap, JailName, JailState, JailView, NewJail, ReleaseName, ReleaseSource};
use moat_model::spec::Resources;
use moat_model::{Namespace, NodeId};
use moat_testkit::wait_until;
use tokio::sync::mpsc;

use super::*;
use crate::config::JailsConfig;
use crate::networks::Networks;
use crate::outlet::{NodeOutlet, OutletConfig};
use crate::templates::Templates;

pub(super) const SOON: Duration = Duration::from_secs(60);

pub(super) fn own() -> Namespace {
    Namespace::default_namespace()
}

pub(super) fn name(text: &str) -> JailName {
    JailName::parse(text).unwrap()
}

pub(super) fn release() -> ReleaseName {
    ReleaseName::parse("14.2-RELEASE").unwrap()
}

pub(super) fn thin(text: &str) -> NewJail {
    NewJail::new(name(text), Some(release()))
}

/// A listener that keeps what it is told.
pub(super) fn listen() -> (Listener, mpsc::Receiver<moat_model::jail::JailEvent>) {
    mpsc::channel(10_000)
}

/// One that nobody reads, and that never fills up here.
pub(super) fn nobody() -> Listener {
    let (listener, mut events) = mpsc::channel(EVENTS_WAITING);
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    listener
}

/// A node's jails in a directory; others can be opened there when these are gone.
pub(super) struct Bed {
    pub jails: Jails,
    pub engine: Engine,
    pub templates: Templates,
}

impl Bed {
    pub async fn open(
        dir: &Path,
        registry: Registry,
        networks: Networks,
        config: JailsConfig,
        inside: Option<Inside>,
    ) -> Self {
        let outbox = crate::events::Outbox::open(&dir.join("outbox"), moat_api::Subjects::default()).await.unwrap();
        let outlet_config = OutletConfig::new(dir.join("logs"), dir.join("bindings"));
        let outlet = NodeOutlet::open(outlet_config, outbox).await.unwrap();
        let engine_config = EngineConfig { sandboxes_max: 300, ..EngineConfig::new(dir.join("run"), dir.join("data")) };
        let (engine, _) = Engine::open(engine_config, registry, Arc::new(outlet.clone())).await.unwrap();
        let store = crate::templates::tests::store(dir);
        let templates = Templates::open(&dir.join("templates"), store, engine.clone(), None).unwrap();
        let ids = Some(moat_getter::Ids { uid: 0x3000_0001, gid: 0x3000_0001 });
        let getter =
            moat_getter::GetterConfig { ids, ..moat_getter::GetterConfig::new("/bin/false".into(), Vec::new()) };
        let jails = Jails::open(Foundation {
            node: NodeId::parse("NAO5X4PUZC5L7XRBXMQZC6AGOLT5G3FF5J6S77B4TU3JFLKG6C5PDMEA").unwrap(),
            dir: dir.join("jails"),
            engine: engine.clone(),
            outlet,
            templates: templates.clone(),
            networks: Arc::new(networks),
            getter: Getter::new(getter).unwrap(),
            config,
            resources: Resources { memory_bytes: Some(64 << 20), pids_max: Some(512), ..Resources::default() },
            console: crate::logfile::Rotation { files_max: 2, file_bytes_max: 1 << 20 },
            disk_ids: moat_drivers::container::ContainerConfig::default().disk_ids,
            inside,
        })
        .await
        .unwrap();
        Self { jails, engine, templates }
    }

    /// With networks, on the fake driver.
    pub async fn fake(dir: &Path, world: &FakeWorld) -> Self {
        Self::fake_with(dir, world, JailsConfig::default()).await
    }

    pub async fn fake_with(dir: &Path, world: &FakeWorld, config: JailsConfig) -> Self {
        let registry = Registry::new(vec![world.driver()]).with_fabric(world.fabric());
        Self::open(dir, registry, crate::networks::tests::on(), config, Some(inside())).await
    }

    /// A release of an image made here.
    pub async fn with_release(self, dir: &Path) -> Self {
        self.add_release(dir).await;
        self
    }

    pub async fn add_release(&self, dir: &Path) {
        let image = crate::templates::tests::import(&self.templates, dir, "localhost/base:1", "one").await;
        self.bootstrap(ReleaseSource::Image(image.digest), false).await;
    }

    /// What that release was made of.
    pub fn image(&self) -> String {
        self.templates.images().images.first().unwrap().digest.clone()
    }

    pub async fn bootstrap(&self, source: ReleaseSource, update: bool) {
        let asked = Bootstrap { name: release(), source: Some(source), update };
        self.jails.bootstrap(&own(), asked, nobody()).await.unwrap();
    }

    /// The daemon ends in order; jails live on.
    pub async fn end(self) {
        self.jails.close().await;
        let Self { jails, engine, templates } = self;
        drop(jails);
        templates.close().await;
        engine.detach().await;
    }

    pub async fn create(&self, asked: NewJail) -> JailView {
        self.jails.create(&own(), asked, nobody()).await.unwrap()
    }

    pub fn get(&self, text: &str) -> JailView {
        self.jails.get(&own(), &name(text)).unwrap()
    }

    pub fn is_up(&self, text: &str) -> bool {
        self.get(text).state == JailState::Up
    }

    pub async fn until_up(&self, text: &str) {
        wait_until(SOON, "the jail is up", async || self.is_up(text).then_some(())).await.unwrap();
    }

    pub async fn destroy(&self, text: &str) -> Result<()> {
        let how = moat_model::jail::DestroyJail { force: true };
        self.jails.destroy(&own(), &name(text), how, nobody()).await
    }
}

/// What the fake driver starts runs for ever, whatever it is called.
pub(super) fn inside() -> Inside {
    Inside {
        source: "/tmp".into(),
        target: "/.moat",
        init: "/.moat/init",
        run_as: ["/.moat/shims", "as"],
        path: "/usr/bin:/bin",
    }
}

pub(super) fn world() -> FakeWorld {
    FakeWorld::new(FakeConfig {
        stower: false,
        snapshotter: false,
        lines: vec!["up".to_owned()],
        ..FakeConfig::default()
    })
}

/// What lies in the directory of the jails of this namespace.
pub(super) fn on_disk(dir: &Path) -> Vec<String> {
    let dir = dir.join("jails").join(own().as_str());
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
