//! The fake driver.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use moat_model::network::NetworkMode;
use moat_model::spec::Resources;
use moat_model::{ErrorKind, Isolation, Resource, SandboxId, SandboxSpec};

use super::files::FakeFiles;
use super::guest::FakeGuest;
use super::machine::{FakeMachine, Kept};
use super::world::{FakeSandbox, Link};
use super::{FakeConfig, FakeRecover, FakeStep};
use crate::driver::{
    Captured, Capturer, Description, Driver, Freezer, Need, Place, Record, Recovered, Requirement, Snapshotter, Stower,
    Tuner, Usage,
};
use crate::error::{Error, Result};
use crate::guest::Guest;

/// A driver in a [`FakeWorld`](super::FakeWorld).
#[derive(Debug)]
pub struct FakeDriver {
    link: Link,
    config: FakeConfig,
}

impl FakeDriver {
    pub(super) fn new(link: Link, config: FakeConfig) -> Self {
        Self { link, config }
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    pub(super) fn name(&self) -> &'static str {
        self.config.name
    }

    pub(super) fn id_of(record: &Record) -> Result<SandboxId> {
        serde_json::from_value(record.data.clone())
            .map_err(|e| Error::caused_by(ErrorKind::Internal, "read the record of a fake sandbox", e))
    }
}

pub(super) fn fails(what: &str, error: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("{what}: {error}"))
}

#[async_trait]
impl Driver for FakeDriver {
    fn describe(&self) -> Description {
        Description {
            name: self.config.name,
            record_version: 1,
            isolation: self.config.isolation,
            accelerator: self.config.accelerator,
            abilities: self.abilities(),
        }
    }

    fn probe(&self) -> Vec<Requirement> {
        vec![Requirement {
            name: "imagination".to_owned(),
            need: Need::Required,
            met: true,
            fact: "nothing is real here".to_owned(),
            fix: None,
        }]
    }

    fn validate(&self, spec: &SandboxSpec) -> Result<()> {
        if spec.network.mode == NetworkMode::Host && self.config.isolation != Isolation::Process {
            return Err(Error::invalid("network", "host is given by the process driver only; leave it isolated"));
        }
        Ok(())
    }

    fn plan(&self, place: &Place, _spec: &SandboxSpec) -> Vec<Resource> {
        vec![Resource::Directory { path: place.run_dir.clone() }, Resource::Cgroup { name: place.id.to_string() }]
    }

    async fn create(&self, place: &Place, spec: &SandboxSpec) -> Result<Record> {
        let planned = self.plan(place, spec);
        // In two halves, so that a crash can fall between them.
        let (first, rest) = planned.split_at(1);
        self.link
            .act(|world| {
                world.check_wired(place);
                world.resources.extend_from_slice(first);
            })
            .await;
        if self.config_of_new().await.hang_at == Some(FakeStep::Create) {
            std::future::pending::<()>().await;
        }
        let result = self
            .link
            .act(|world| {
                world.identities += 1;
                let config = FakeConfig { identity: world.identities, ..world.config.clone() };
                world.resources.extend_from_slice(rest);
                if let Some(error) = &config.create_error {
                    return Err(fails("create", error));
                }
                let machine = spec.restore.as_ref().map(|kept| FakeMachine::read(world, kept)).transpose()?;
                let kill_failures = config.kill_failures;
                let mut sandbox = FakeSandbox {
                    config,
                    agent_alive: false,
                    life: 0,
                    kept: Kept::default(),
                    main: None,
                    frozen: false,
                    leash: None,
                    kill_failures,
                    limits: spec.resources.clone(),
                    files: FakeFiles::default(),
                    spawned: Vec::new(),
                };
                if let Some(machine) = machine {
                    machine.become_new(&mut sandbox);
                }
                world.sandboxes.insert(place.id.clone(), sandbox);
                Ok(())
            })
            .await;
        result?;
        Ok(Record {
            driver: self.config.name.to_owned(),
            version: 1,
            data: serde_json::Value::String(place.id.to_string()),
        })
    }

    async fn start(&self, record: &Record) -> Result<Arc<dyn Guest>> {
        let id = Self::id_of(record)?;
        let hangs = self
            .link
            .about(&id)
            .act(|world| {
                let sandbox = world.sandboxes.get_mut(&id).ok_or_else(|| fails("start", "there is no such sandbox"))?;
                if let Some(error) = &sandbox.config.start_error {
                    return Err(fails("start", error));
                }
                sandbox.agent_alive = true;
                // The processes of a machine that was kept go on.
                sandbox.set_frozen(false);
                Ok(sandbox.config.hang_at == Some(FakeStep::Start))
            })
            .await?;
        if hangs {
            std::future::pending::<()>().await;
        }
        Ok(Arc::new(FakeGuest::new(self.link.about(&id).living(0), id)))
    }

    async fn kill(&self, record: &Record) -> Result<()> {
        let id = Self::id_of(record)?;
        let hangs = |sandbox: &FakeSandbox| sandbox.config.hang_at == Some(FakeStep::Kill);
        if self.link.look(|world| world.sandboxes.get(&id).is_some_and(hangs)).await {
            std::future::pending::<()>().await;
        }
        self.link
            .about(&id)
            .act(|world| {
                let Some(sandbox) = world.sandboxes.get_mut(&id) else { return Ok(()) };
                if sandbox.kill_failures > 0 {
                    sandbox.kill_failures -= 1;
                    return Err(fails("kill", "not yet"));
                }
                sandbox.kill();
                Ok(())
            })
            .await
    }

    async fn release(&self, resource: &Resource) -> Result<()> {
        self.link
            .act(|world| {
                let failures = world.config.release_failures;
                let refused = world.refusals.entry(format!("{resource:?}")).or_default();
                if *refused < failures {
                    *refused += 1;
                    return Err(fails("release", "busy"));
                }
                if let Some(at) = world.resources.iter().position(|held| held == resource) {
                    world.resources.swap_remove(at);
                }
                if let Resource::Cgroup { name } = resource
                    && let Ok(id) = SandboxId::parse(name)
                {
                    world.sandboxes.remove(&id);
                    if let Some(changed) = world.changed.remove(&id) {
                        changed.notify_waiters();
                    }
                }
                Ok(())
            })
            .await
    }

    async fn recover(&self, record: &Record) -> Result<Recovered> {
        let id = Self::id_of(record)?;
        let config = self.config_of_new().await;
        if config.hang_at == Some(FakeStep::Recover) {
            std::future::pending::<()>().await;
        }
        match config.recover {
            FakeRecover::Fails => return Err(fails("recover", "cannot look")),
            FakeRecover::Gone => return Ok(Recovered::Gone { detail: "as told".to_owned() }),
            FakeRecover::Truth => {}
        }
        let (alive, frozen, life, kept) = self
            .link
            .look(|world| match world.sandboxes.get_mut(&id) {
                Some(sandbox) => {
                    sandbox.advance();
                    if sandbox.kept == Kept::Read {
                        // Whoever was reading it has died.
                        sandbox.kept = Kept::OnDisk;
                    }
                    (sandbox.agent_alive, sandbox.frozen, sandbox.life, sandbox.kept)
                }
                None => (false, false, 0, Kept::default()),
            })
            .await;
        if kept == Kept::OnDisk {
            return Ok(Recovered::Stowed);
        }
        if !alive {
            return Ok(Recovered::Gone { detail: "no agent".to_owned() });
        }
        if frozen {
            return Err(fails("recover", "a frozen agent does not answer"));
        }
        Ok(Recovered::Alive(Arc::new(FakeGuest::new(self.link.about(&id).living(life), id))))
    }

    async fn usage(&self, record: &Record) -> Result<Usage> {
        let id = Self::id_of(record)?;
        self.link
            .look(|world| {
                let sandbox = world.sandboxes.get(&id).ok_or_else(|| fails("usage", "there is no such sandbox"))?;
                Ok(Usage {
                    memory_bytes: u64::from(sandbox.agent_alive) << 20,
                    memory_peak_bytes: Some(2 << 20),
                    cpu_usec: 1000,
                    pids: u64::from(sandbox.agent_alive)
                        + u64::from(sandbox.main.is_some() && sandbox.kept == Kept::InMemory),
                    oom_kills: sandbox.config.oom_kills,
                })
            })
            .await
    }

    fn freezer(&self) -> Option<&dyn Freezer> {
        if self.config.freezer { Some(self) } else { None }
    }

    fn capturer(&self) -> Option<&dyn Capturer> {
        if self.config.capturer { Some(self) } else { None }
    }

    fn tuner(&self) -> Option<&dyn Tuner> {
        if self.config.tuner { Some(self) } else { None }
    }

    fn stower(&self) -> Option<&dyn Stower> {
        if self.config.stower { Some(self) } else { None }
    }

    fn snapshotter(&self) -> Option<&dyn Snapshotter> {
        if self.config.snapshotter { Some(self) } else { None }
    }
}

impl FakeDriver {
    fn abilities(&self) -> Vec<&'static str> {
        let FakeConfig { freezer, capturer, tuner, stower, snapshotter, .. } = self.config;
        let all =
            [(freezer, "pause"), (capturer, "capture"), (tuner, "tune"), (stower, "stow"), (snapshotter, "snapshot")];
        all.into_iter().filter_map(|(has, name)| has.then_some(name)).collect()
    }

    async fn config_of_new(&self) -> FakeConfig {
        self.link.look(|world| world.config.clone()).await
    }

    async fn set_frozen(&self, record: &Record, frozen: bool) -> Result<()> {
        let id = Self::id_of(record)?;
        let hangs = self
            .link
            .about(&id)
            .act(|world| {
                let Some(sandbox) = world.sandboxes.get_mut(&id) else { return Ok(false) };
                let FakeConfig { freeze_error, thaw_error, hang_at, .. } = &sandbox.config;
                match if frozen { freeze_error } else { thaw_error } {
                    Some(error) if frozen => return Err(fails("freeze", error)),
                    Some(error) => return Err(fails("thaw", error)),
                    None => {}
                }
                let hangs = frozen && *hang_at == Some(FakeStep::Freeze);
                sandbox.set_frozen(frozen);
                Ok(hangs)
            })
            .await?;
        if hangs {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

#[async_trait]
impl Freezer for FakeDriver {
    async fn freeze(&self, record: &Record) -> Result<()> {
        self.set_frozen(record, true).await
    }

    async fn thaw(&self, record: &Record) -> Result<()> {
        self.set_frozen(record, false).await
    }
}

#[async_trait]
impl Capturer for FakeDriver {
    async fn capture(&self, record: &Record, into: &Path) -> Result<Captured> {
        let id = Self::id_of(record)?;
        let takes = self
            .link
            .act(|world| {
                let there = world.sandboxes.get_mut(&id).filter(|sandbox| sandbox.frozen);
                let sandbox = there.ok_or_else(|| fails("capture", "it is not frozen"))?;
                sandbox.wake_to_be_kept();
                match &sandbox.config.capture_error {
                    Some(error) => Err(fails("capture", error)),
                    None => Ok(sandbox.config.capture_takes),
                }
            })
            .await?;
        tokio::time::sleep(takes).await;
        let content = id.to_string();
        let written = self
            .link
            .act(|world| {
                world.kept(&id);
                std::fs::write(into, &content)
            })
            .await;
        written.map_err(|e| Error::caused_by(ErrorKind::Internal, "write a fake capture", e))?;
        Ok(Captured { bytes: content.len() as u64, entries: 1, memory: false })
    }
}

#[async_trait]
impl Tuner for FakeDriver {
    fn validate_live(&self, resources: &Resources) -> Result<()> {
        if resources.disk_bytes.is_some() {
            return Err(Error::invalid("disk_bytes", "cannot be changed while it lives; leave it out"));
        }
        Ok(())
    }

    async fn tune(&self, record: &Record, resources: &Resources) -> Result<()> {
        let id = Self::id_of(record)?;
        let hangs = |sandbox: &FakeSandbox| sandbox.config.hang_at == Some(FakeStep::Tune);
        if self.link.look(|world| world.sandboxes.get(&id).is_some_and(hangs)).await {
            std::future::pending::<()>().await;
        }
        self.link
            .act(|world| {
                let sandbox = world.sandboxes.get_mut(&id).ok_or_else(|| fails("tune", "there is no such sandbox"))?;
                if let Some(error) = &sandbox.config.tune_error {
                    return Err(fails("tune", error));
                }
                sandbox.limits = resources.over(&sandbox.limits);
                Ok(())
            })
            .await
    }
}
