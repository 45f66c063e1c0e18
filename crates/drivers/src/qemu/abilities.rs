//! What can be done to a machine beyond the contract: stop it, change its limits, keep its files or all of it.
//!
//! Stopping needs nobody inside: the monitor is told. Keeping does: everything of the user is stopped from inside first and
//! what is cached is written, for which the machine runs a moment. That is noted before it happens, and whoever lets the
//! machine go on later renews it first, which is what lets the user's processes go on.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use moat_agent::protocol::machine::Identity;
use moat_engine::driver::{Captured, Capturer, Freezer, Record, Snapshotter, Stower, Tuner};
use moat_engine::error::{Error, Result};
use moat_engine::guest::Guest;
use moat_engine::guest::agent::AgentGuest;
use moat_model::ErrorKind;
use moat_model::spec::Resources;
use serde_json::json;

use super::driver::QemuDriver;
use super::keep::{self, STATE, stop_saving};
use super::qmp::Qmp;
use crate::linux::cgroup::Limits;
use crate::linux::directory::{make_private_dir, remove_dir};
use crate::vm::bring_up::{First, renew};
use crate::vm::machine::Machine;
use crate::vm::process::{DiskStamp, Vmm};
use crate::vm::snapshot::{DISK, Manifest};
use crate::vm::{disk, layer};

impl QemuDriver {
    /// Who was handed out, or another connection to the same agent.
    async fn agent(&self, machine: &Machine) -> Result<Arc<AgentGuest>> {
        match self.connections.get(&machine.run_dir) {
            Some(guest) => Ok(guest),
            None => self.guest(machine, First::Nothing).await,
        }
    }

    /// Greets an agent whose machine may stand still: it goes on for that moment.
    pub(super) async fn greet_again(&self, machine: &Machine) -> Result<Arc<AgentGuest>> {
        let mut qmp = Self::qmp(machine).await?;
        let stands = qmp.status().await? != "running";
        if stands {
            go_on(&mut qmp).await?;
        }
        let greeted = match self.connections.get(&machine.run_dir) {
            // Whoever has the one connection keeps it: another would wait for its end.
            Some(guest) => guest.hello().await.map(|_| guest),
            None => self.guest(machine, First::Nothing).await,
        };
        if stands {
            stand_still(&mut qmp).await?;
        }
        let guest = greeted?;
        if !stands && machine.is_quiesced() {
            self.renewed(machine, &guest, None).await?;
        }
        Ok(guest)
    }

    async fn renewed(&self, machine: &Machine, guest: &AgentGuest, identity: Option<&Identity>) -> Result<()> {
        renew(guest, identity).await?;
        machine.set_quiesced(false)
    }

    /// Has the user's processes stopped from inside and what is cached written; the machine stands still before and after,
    /// whatever happens in between.
    async fn quiesced<T>(&self, machine: &Machine, work: impl AsyncFnOnce(&AgentGuest) -> Result<T>) -> Result<T> {
        let mut qmp = Self::qmp(machine).await?;
        go_on(&mut qmp).await?;
        let done = async {
            machine.set_quiesced(true)?;
            let guest = self.agent(machine).await?;
            guest.quiesce().await?;
            work(&guest).await
        };
        let done = done.await;
        stand_still(&mut qmp).await?;
        done
    }

    /// Writes the state of a machine that stands still, quiesced.
    async fn save(machine: &Machine, into: &Path) -> Result<()> {
        let mut qmp = Self::qmp(machine).await?;
        let saved = keep::save(&mut qmp, &into.join(STATE)).await;
        if saved.is_err() {
            // The first error says more than what comes of giving up.
            let _ = stop_saving(&mut qmp).await;
        }
        saved
    }

    /// Ends whatever was reading back a machine that lies on disk. False if that had gone so far that the machine's disk was
    /// written to: what lies there fits it no more, and is given up.
    pub(super) async fn unstow_undone(&self, machine: &Machine, vmm: Option<&Vmm>) -> Result<bool> {
        let written_down = Vmm::read(&machine.run_dir)?;
        let stamp = vmm.or(written_down.as_ref()).and_then(|vmm| vmm.unstowing);
        self.end_monitor(machine).await?;
        let untouched = match stamp {
            Some(stamp) => DiskStamp::of(&machine.disk())? == stamp,
            None => true,
        };
        if !untouched {
            Manifest::revoke(&machine.stowed())?;
        }
        Ok(untouched)
    }

    /// Finishes what somebody began who brought a machine back and went away in the middle, if that had gone so far that only
    /// the monitor has the machine: its disk was written to, so what lies there is of the past.
    pub(super) async fn went_on(&self, machine: &Machine, vmm: Option<&Vmm>) -> Option<Arc<AgentGuest>> {
        if !vmm?.has_gone_on(&machine.disk()).ok()? {
            return None;
        }
        let goes_on = async {
            let mut qmp = Self::qmp(machine).await?;
            if qmp.status().await? == "inmigrate" {
                return Err(Error::new(ErrorKind::Internal, "its state was not read to the end"));
            }
            go_on(&mut qmp).await?;
            drop(qmp);
            // Told twice it is as if told once.
            let guest = self.guest(machine, First::Renewal(None)).await?;
            brought_back(machine)?;
            Ok(guest)
        };
        match goes_on.await {
            Ok(guest) => Some(guest),
            Err(error) => {
                tracing::warn!(error = error.chain(), "a machine that was being brought back is lost");
                None
            }
        }
    }

    async fn bring_back(&self, machine: &Machine) -> Result<Arc<AgentGuest>> {
        let dir = machine.stowed();
        let manifest = Manifest::read(&dir)?;
        manifest.makeup.fits(&self.makeup(machine)?)?;
        manifest.verify(&dir, STATE).await?;
        self.launch(machine, true, Some(DiskStamp::of(&machine.disk())?)).await?;
        let mut qmp = Self::qmp(machine).await?;
        keep::load(&mut qmp, &dir.join(STATE)).await?;
        go_on(&mut qmp).await?;
        drop(qmp);
        self.guest(machine, First::Renewal(None)).await
    }
}

/// A machine whose root the host serves is not all there is of it.
fn on_disks(machine: &Machine, what: &str) -> Result<()> {
    if machine.lasting.is_none() {
        return Ok(());
    }
    let why = "the root of this machine outlives it and lies on the host: pause it in memory, or copy the root";
    Err(Error::new(ErrorKind::Unsupported, format!("{what}: {why}")))
}

/// Stops it from being scheduled.
async fn stand_still(qmp: &mut Qmp) -> Result<()> {
    if qmp.status().await? == "running" {
        qmp.run("stop", json!({})).await?;
    }
    Ok(())
}

async fn go_on(qmp: &mut Qmp) -> Result<()> {
    stop_saving(qmp).await?;
    if qmp.status().await? != "running" {
        qmp.run("cont", json!({})).await?;
    }
    Ok(())
}

#[async_trait]
impl Freezer for QemuDriver {
    async fn freeze(&self, record: &Record) -> Result<()> {
        stand_still(&mut Self::qmp(&Self::machine(record)?).await?).await
    }

    async fn thaw(&self, record: &Record) -> Result<()> {
        let machine = Self::machine(record)?;
        let Some((vmm, _)) = Vmm::open(&machine.run_dir)? else { return Ok(()) };
        if Manifest::exists(&machine.stowed()) {
            if vmm.unstowing.is_some() {
                return Ok(());
            }
            // Its memory is here still, and goes on: what was written of it is of the past.
            Manifest::revoke(&machine.stowed())?;
        }
        go_on(&mut Self::qmp(&machine).await?).await?;
        if machine.is_quiesced() {
            let guest = self.agent(&machine).await?;
            self.renewed(&machine, &guest, None).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Tuner for QemuDriver {
    fn validate_live(&self, resources: &Resources) -> Result<()> {
        let fixed = [
            ("resources.memory_bytes", resources.memory_bytes.is_some(), "a machine has the memory it was made with"),
            (
                "resources.memory_reserve_bytes",
                resources.memory_reserve_bytes.is_some(),
                "the host does not see what is in use",
            ),
            ("resources.disk_bytes", resources.disk_bytes.is_some(), "its disk has the size it was made with"),
            ("resources.secrets_bytes", resources.secrets_bytes.is_some(), "/secrets has the size it was made with"),
            ("resources.pids_max", resources.pids_max.is_some(), "it is told once, when it is made"),
            ("resources.nofile", resources.nofile.is_some(), "processes have the limit they were started with"),
        ];
        if let Some((field, _, why)) = fixed.into_iter().find(|(_, asked, _)| *asked) {
            return Err(Error::new(ErrorKind::Unsupported, format!("{field}: {why}; make a new sandbox")));
        }
        Ok(self.hierarchy().check(&changed(resources))?)
    }

    async fn tune(&self, record: &Record, resources: &Resources) -> Result<()> {
        self.validate_live(resources)?;
        Ok(self.hierarchy().tune(&Self::machine(record)?.cgroup, &changed(resources))?)
    }
}

/// What is asked and nothing else: no defaults.
fn changed(resources: &Resources) -> Limits {
    Limits::new(resources, &Resources::default())
}

#[async_trait]
impl Capturer for QemuDriver {
    async fn capture(&self, record: &Record, into: &Path) -> Result<Captured> {
        let machine = Self::machine(record)?;
        on_disks(&machine, "capture")?;
        self.quiesced(&machine, async |guest| layer::write(guest.changes().await?, machine.disk_bytes, into).await)
            .await
    }
}

#[async_trait]
impl Snapshotter for QemuDriver {
    async fn snapshot(&self, record: &Record, into: &Path) -> Result<Captured> {
        let machine = Self::machine(record)?;
        on_disks(&machine, "snapshot")?;
        let makeup = self.makeup(&machine)?;
        make_private_dir(into)?;
        self.quiesced(&machine, async |_| Ok(())).await?;
        Self::save(&machine, into).await?;
        disk::copy(&machine.disk(), &into.join(DISK)).await?;
        let bytes = Manifest::complete(into, makeup, &[STATE, DISK]).await?;
        Ok(Captured { bytes, entries: 3, memory: true })
    }
}

#[async_trait]
impl Stower for QemuDriver {
    async fn stow(&self, record: &Record) -> Result<()> {
        let machine = Self::machine(record)?;
        on_disks(&machine, "pause to disk")?;
        let dir = machine.stowed();
        if !Manifest::exists(&dir) {
            let makeup = self.makeup(&machine)?;
            remove_dir(&dir)?;
            make_private_dir(&dir)?;
            self.quiesced(&machine, async |_| Ok(())).await?;
            Self::save(&machine, &dir).await?;
            // Whatever it once was brought back from is not what is being written now.
            settled(&machine)?;
            Manifest::complete(&dir, makeup, &[STATE]).await?;
            disk::forget_pages(&[dir.join(STATE), machine.disk()]);
        }
        self.end_monitor(&machine).await
    }

    async fn unstow(&self, record: &Record) -> Result<Arc<dyn Guest>> {
        let machine = Self::machine(record)?;
        let dir = machine.stowed();
        let running = Vmm::open(&machine.run_dir)?.map(|(vmm, _)| vmm);
        if Manifest::exists(&dir)
            && let Some(guest) = self.went_on(&machine, running.as_ref()).await
        {
            return Ok(guest);
        }
        if !Manifest::exists(&dir) || !self.unstow_undone(&machine, running.as_ref()).await? {
            return Err(Error::new(ErrorKind::Conflict, "bring the machine back: it does not lie on disk"));
        }
        let guest = match self.bring_back(&machine).await {
            Ok(guest) => guest,
            Err(error) => {
                let vmm = Vmm::read(&machine.run_dir)?;
                if self.unstow_undone(&machine, vmm.as_ref()).await? {
                    return Err(error);
                }
                let what = "bring the machine back: it had written to its disk before it failed, and is lost";
                return Err(Error::caused_by(ErrorKind::Guest, what, error));
            }
        };
        brought_back(&machine)?;
        Ok(guest)
    }
}

/// From here on it lives, and what lies on disk is of the past.
fn brought_back(machine: &Machine) -> Result<()> {
    machine.set_quiesced(false)?;
    Manifest::revoke(&machine.stowed())?;
    settled(machine)?;
    remove_dir(&machine.stowed())
}

/// Its monitor is bringing nothing back any more.
fn settled(machine: &Machine) -> Result<()> {
    match Vmm::read(&machine.run_dir)? {
        Some(vmm) if vmm.unstowing.is_some() => Vmm { unstowing: None, ..vmm }.write(&machine.run_dir),
        _ => Ok(()),
    }
}
