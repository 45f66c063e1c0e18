//! What fake sandboxes share with virtual machines: they can lie on disk, and others can be made from them.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use moat_model::spec::MachineSnapshot;
use moat_model::{ErrorKind, SandboxId};

use super::driver::{FakeDriver, fails};
use super::guest::FakeGuest;
use super::world::{FakeMain, FakeSandbox, FakeWorld, WorldState};
use super::{FakeConfig, FakeStep};
use crate::driver::{Captured, Record, Snapshotter, Stower};
use crate::error::{Error, Result};
use crate::guest::Guest;

/// Where a sandbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Kept {
    /// In memory.
    #[default]
    InMemory,
    /// On disk.
    OnDisk,
    /// On disk, and being read into memory.
    Read,
}

/// A machine that was kept.
#[derive(Debug, Clone)]
pub(super) struct FakeMachine {
    main: Option<FakeMain>,
    identity: u64,
    manifest: String,
    state: String,
}

fn manifest_of(driver: &str, id: &SandboxId) -> String {
    format!("{{\"driver\":{driver:?},\"of\":\"{id}\"}}")
}

impl FakeMachine {
    /// What was kept in `snapshot`, if everything there is as it was written.
    pub fn read(world: &WorldState, snapshot: &MachineSnapshot) -> Result<Self> {
        let refuse = |file: &str| Error::invalid("restore", format!("{file} in {} is damaged", snapshot.dir.display()));
        let machine = world.machines.get(&snapshot.dir).ok_or_else(|| refuse("manifest.json"))?;
        for (file, wanted) in [("manifest.json", &machine.manifest), ("state", &machine.state)] {
            if std::fs::read(snapshot.dir.join(file)).ok().as_deref() != Some(wanted.as_bytes()) {
                return Err(refuse(file));
            }
        }
        Ok(machine.clone())
    }

    /// Its processes go on in a sandbox that is another.
    pub fn become_new(self, sandbox: &mut FakeSandbox) {
        if sandbox.config.same_identity {
            sandbox.config.identity = self.identity;
        }
        sandbox.main = self.main;
    }
}

#[async_trait]
impl Stower for FakeDriver {
    async fn stow(&self, record: &Record) -> Result<()> {
        let id = Self::id_of(record)?;
        let link = self.link().about(&id);
        let (takes, hangs) = link
            .act(|world| {
                let sandbox = world.sandboxes.get_mut(&id).ok_or_else(|| fails("stow", "there is no such sandbox"))?;
                if !sandbox.frozen && sandbox.kept == Kept::InMemory {
                    return Err(fails("stow", "it is not frozen"));
                }
                if sandbox.config.dies_in_stow {
                    sandbox.kill();
                    return Err(fails("stow", "it died"));
                }
                sandbox.wake_to_be_kept();
                let FakeConfig { stow_error, stow_takes, hang_at, .. } = &sandbox.config;
                match stow_error {
                    Some(error) => Err(fails("stow", error)),
                    None => Ok((*stow_takes, *hang_at == Some(FakeStep::Stow))),
                }
            })
            .await?;
        tokio::time::sleep(takes).await;
        link.act(|world| {
            world.kept(&id);
            if let Some(sandbox) = world.sandboxes.get_mut(&id).filter(|sandbox| sandbox.frozen) {
                sandbox.frozen = false;
                sandbox.agent_alive = false;
                sandbox.kept = Kept::OnDisk;
            }
        })
        .await;
        if hangs {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn unstow(&self, record: &Record) -> Result<Arc<dyn Guest>> {
        let id = Self::id_of(record)?;
        let link = self.link().about(&id);
        // In two halves, so that a crash can fall between them.
        let hangs = link
            .act(|world| {
                let sandbox =
                    world.sandboxes.get_mut(&id).ok_or_else(|| fails("unstow", "there is no such sandbox"))?;
                if sandbox.kept == Kept::InMemory {
                    return Err(fails("unstow", "it does not lie on disk"));
                }
                if sandbox.config.unstow_loses {
                    sandbox.kill();
                    return Err(fails("unstow", "it broke in two"));
                }
                if let Some(error) = &sandbox.config.unstow_error {
                    return Err(fails("unstow", error));
                }
                sandbox.kept = Kept::Read;
                Ok(sandbox.config.hang_at == Some(FakeStep::Unstow))
            })
            .await?;
        if hangs {
            std::future::pending::<()>().await;
        }
        let life = link
            .act(|world| {
                *world.unstows.entry(id.clone()).or_default() += 1;
                let sandbox = world.sandboxes.get_mut(&id).filter(|sandbox| sandbox.kept == Kept::Read);
                let sandbox = sandbox.ok_or_else(|| fails("unstow", "it was killed"))?;
                sandbox.kept = Kept::InMemory;
                sandbox.agent_alive = true;
                sandbox.life += 1;
                sandbox.set_frozen(false);
                Ok::<u32, Error>(sandbox.life)
            })
            .await?;
        Ok(Arc::new(FakeGuest::new(link.living(life), id)))
    }
}

#[async_trait]
impl Snapshotter for FakeDriver {
    async fn snapshot(&self, record: &Record, into: &Path) -> Result<Captured> {
        let id = Self::id_of(record)?;
        let driver = self.name();
        let (takes, machine) = self
            .link()
            .act(|world| {
                let there = world.sandboxes.get_mut(&id).filter(|sandbox| sandbox.frozen);
                let sandbox = there.ok_or_else(|| fails("snapshot", "it is not frozen"))?;
                sandbox.wake_to_be_kept();
                if let Some(error) = &sandbox.config.capture_error {
                    return Err(fails("snapshot", error));
                }
                let machine = FakeMachine {
                    main: sandbox.main.as_mut().map(FakeMain::fork),
                    identity: sandbox.config.identity,
                    manifest: manifest_of(driver, &id),
                    state: format!("the memory of {id}"),
                };
                Ok((sandbox.config.capture_takes, machine))
            })
            .await?;
        tokio::time::sleep(takes).await;
        let bytes = (machine.manifest.len() + machine.state.len()) as u64;
        let written = self
            .link()
            .act(|world| {
                world.kept(&id);
                std::fs::create_dir(into)?;
                std::fs::write(into.join("manifest.json"), &machine.manifest)?;
                std::fs::write(into.join("state"), &machine.state)?;
                world.machines.insert(into.to_path_buf(), machine);
                Ok(())
            })
            .await;
        written.map_err(|e: std::io::Error| Error::caused_by(ErrorKind::Internal, "write a fake machine", e))?;
        Ok(Captured { bytes, entries: 2, memory: true })
    }
}

impl FakeWorld {
    /// Sandboxes that lie on disk.
    pub fn stowed(&self) -> Vec<SandboxId> {
        let on_disk = |(_, sandbox): &(&SandboxId, &FakeSandbox)| sandbox.kept != Kept::InMemory;
        self.lock().sandboxes.iter().filter(on_disk).map(|(id, _)| id.clone()).collect()
    }

    /// How often a sandbox was read back from disk.
    pub fn unstows(&self, id: &SandboxId) -> u32 {
        self.lock().unstows.get(id).copied().unwrap_or(0)
    }
}
