//! What can be done to a machine beyond the contract: stop it, keep its changes, change its limits, keep all of it.

use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moat_engine::driver::{Captured, Capturer, Freezer, Record, Snapshotter, Stower, Tuner};
use moat_engine::error::{Error, Result};
use moat_engine::guest::Guest;
use moat_engine::guest::agent::AgentGuest;
use moat_model::ErrorKind;
use moat_model::spec::Resources;
use tokio::time::{Instant, sleep};

use super::api::{BalloonStatistics, BalloonUpdate, InstanceInfo, SnapshotCreate, VmState};
use super::client::{Client, SNAPSHOT_WITHIN};
use super::driver::{FirecrackerDriver, OVERHEAD_BYTES, lies_as_it_did};
use super::jail::{self, Jail, MEMORY, MEMORY_OUT, STATE, STATE_OUT};
use super::{kept, memory};
use crate::linux::cgroup::Limits;
use crate::linux::directory::{make_private_dir, remove_dir};
use crate::vm::bring_up::{First, renew};
use crate::vm::machine::Machine;
use crate::vm::process::{DiskStamp, Vmm, sync_parent};
use crate::vm::snapshot::{DISK, Manifest};
use crate::vm::{disk, layer};

/// How long a guest has to give memory up. One that wants to does so in milliseconds.
const BALLOON_WITHIN: Duration = Duration::from_secs(30);
/// How often it is looked whether it has; the guest says so as often as it was set to, in seconds.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const MEMORY_FIELD: &str = "resources.memory_bytes";

impl FirecrackerDriver {
    pub(super) async fn is_paused(&self, jail: &Jail) -> Result<bool> {
        Ok(Client::new(jail).get::<InstanceInfo>("/").await?.state == "Paused")
    }

    pub(super) async fn set_running(&self, jail: &Jail, running: bool) -> Result<()> {
        let state = if running { "Resumed" } else { "Paused" };
        Client::new(jail).patch("/vm", &VmState { state }).await
    }

    /// The guest somebody holds, or another connection to the same agent.
    async fn held_guest(&self, machine: &Machine) -> Result<Arc<AgentGuest>> {
        match self.connections.get(&machine.run_dir) {
            Some(guest) => Ok(guest),
            None => self.guest(machine, First::Nothing).await,
        }
    }

    /// Has the user's processes stopped from inside and what is cached written; the machine stands still before and after,
    /// whatever happens in between. Whoever lets it go on renews it first.
    async fn quiesced<T>(&self, machine: &Machine, work: impl AsyncFnOnce(&AgentGuest) -> Result<T>) -> Result<T> {
        let jail = Jail::of(machine)?;
        if !self.is_paused(&jail).await? {
            return Err(Error::new(ErrorKind::Internal, "a machine that runs cannot be kept: it was not frozen"));
        }
        self.set_running(&jail, true).await?;
        let done = async {
            machine.set_quiesced(true)?;
            let guest = self.held_guest(machine).await?;
            guest.quiesce().await?;
            work(&guest).await
        };
        let done = done.await;
        self.set_running(&jail, false).await?;
        done
    }

    /// Writes the state and the memory of a machine that stands still into `into`. Files the monitor wrote are copied: it may
    /// have them open still, and lives on.
    async fn keep(&self, machine: &Machine, into: &Path) -> Result<()> {
        self.quiesced(machine, async |_| Ok(())).await?;
        let jail = Jail::of(machine)?;
        let (base, before) = (kept::base(machine), machine.data_dir.join("memory.before"));
        // From the moment the monitor has written it, it counts from there. If what follows fails, the next one is whole.
        let differences = match fs::rename(&base, &before) {
            Ok(()) => self.config.track_dirty_pages,
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(failed("move", &base)(e)),
        };
        let kept = self.keep_as(&jail, differences.then_some(before.as_path()), into).await;
        for name in [STATE_OUT, MEMORY_OUT] {
            jail.remove(name)?;
        }
        match fs::remove_file(&before) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &before)(e)),
            _ => {}
        }
        kept?;
        self.keep_base(&into.join(MEMORY), machine)
    }

    async fn keep_as(&self, jail: &Jail, before: Option<&Path>, into: &Path) -> Result<()> {
        let create = SnapshotCreate {
            snapshot_type: if before.is_some() { "Diff" } else { "Full" },
            snapshot_path: jail::inside(STATE_OUT),
            mem_file_path: jail::inside(MEMORY_OUT),
        };
        for name in [STATE_OUT, MEMORY_OUT] {
            jail.remove(name)?;
        }
        Client::new(jail).put("/snapshot/create", &create, SNAPSHOT_WITHIN).await?;
        let (state, memory) = (into.join(STATE), into.join(MEMORY));
        copy_out(jail, STATE_OUT, &state).await?;
        match before {
            None => copy_out(jail, MEMORY_OUT, &memory).await?,
            Some(before) => {
                disk::copy(before, &memory).await?;
                let changes = jail.open_file(MEMORY_OUT).map_err(failed("open", Path::new(MEMORY_OUT)))?;
                memory::merge(changes, &memory).await?;
            }
        }
        for path in [&state, &memory] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o444)).map_err(failed("close", path))?;
        }
        Ok(())
    }

    /// Lets a machine that lies on disk go on. Until the manifest is gone, it lies there still, as long as its disk is what it was.
    async fn take_up(&self, machine: &Machine) -> Result<Arc<AgentGuest>> {
        let stowed = machine.stowed();
        let manifest = Manifest::read(&stowed)?;
        manifest.makeup.fits(&self.makeup(machine)?)?;
        for name in [STATE, MEMORY] {
            manifest.verify(&stowed, name).await?;
        }
        self.end(machine).await?;
        if !lies_as_it_did(machine)? {
            return Err(Error::new(
                ErrorKind::Guest,
                "somebody took the machine up, and it wrote to its disk before it was lost",
            ));
        }
        let stamp = DiskStamp::of(&machine.disk())?;
        let jail = self.launch(machine, Some(&stowed), Some(stamp)).await?;
        self.keep_base(&stowed.join(MEMORY), machine)?;
        self.taken_up(machine, &jail).await
    }

    /// Finishes what somebody began who took a machine up and went away in the middle, if that had gone so far that only the
    /// monitor has the machine: its disk was written to, so what lies there is of the past.
    pub(super) async fn went_on(&self, machine: &Machine, vmm: Option<&Vmm>) -> Option<Arc<AgentGuest>> {
        if !vmm?.has_gone_on(&machine.disk()).ok()? {
            return None;
        }
        // Told twice it is as if told once.
        match async { self.taken_up(machine, &Jail::of(machine)?).await }.await {
            Ok(guest) => Some(guest),
            Err(error) => {
                tracing::warn!(error = error.chain(), "a machine that was being taken up is lost");
                None
            }
        }
    }

    /// From a monitor that has read everything to a machine that lives, so that what lies on disk is of the past.
    async fn taken_up(&self, machine: &Machine, jail: &Jail) -> Result<Arc<AgentGuest>> {
        let stowed = machine.stowed();
        if self.is_paused(jail).await? {
            self.set_running(jail, true).await?;
        }
        let guest = self.guest(machine, First::Renewal(None)).await?;
        Self::renewed(machine)?;
        Manifest::revoke(&stowed)?;
        sync_parent(&stowed.join(STATE)).map_err(failed("sync", &stowed))?;
        if let Some((vmm, _)) = Vmm::open(&machine.run_dir)? {
            Vmm { unstowing: None, ..vmm }.write(&machine.run_dir)?;
        }
        remove_dir(&stowed)?;
        Ok(guest)
    }

    /// MiB the guest has given up by now.
    async fn balloon(&self, machine: &Machine) -> Result<u64> {
        let jail = Jail::of(machine)?;
        Ok(Client::new(&jail).get::<BalloonStatistics>("/balloon/statistics").await?.actual_mib)
    }

    /// Has the guest give up so many MiB and no more. If it does not, it has all it had.
    async fn inflate(&self, machine: &Machine, target: u64) -> Result<()> {
        let jail = Jail::of(machine)?;
        let client = Client::new(&jail);
        client.patch("/balloon", &BalloonUpdate { amount_mib: target }).await?;
        let end = Instant::now() + BALLOON_WITHIN;
        loop {
            let actual = self.balloon(machine).await?;
            // Given back too late, it has less than it may: that is between it and its kernel.
            if actual >= target {
                return Ok(());
            }
            if Instant::now() >= end {
                client.patch("/balloon", &BalloonUpdate { amount_mib: 0 }).await?;
                let why = format!("the machine gave up {actual} MiB of {target}: more is in use");
                return Err(Error::new(ErrorKind::Exhausted, format!("{MEMORY_FIELD}: {why}")));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn tune_group(&self, machine: &Machine, resources: &Resources) -> Result<()> {
        let (hierarchy, cgroup, limits) = (self.hierarchy.clone(), machine.cgroup.clone(), changed(resources));
        // A lower memory limit makes the kernel give memory back first, which takes its time.
        tokio::task::spawn_blocking(move || hierarchy.tune(&cgroup, &limits))
            .await
            .map_err(|e| Error::caused_by(ErrorKind::Internal, "change limits", e))??;
        Ok(())
    }
}

/// Copies a file of the monitor's.
async fn copy_out(jail: &Jail, name: &str, to: &Path) -> Result<()> {
    let file = jail.open_file(name).map_err(failed("open", Path::new(name)))?;
    disk::copy(&PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())), to).await
}

fn failed<'a>(doing: &'a str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
    move |e| Error::caused_by(ErrorKind::Internal, format!("{doing} {}", path.display()), e)
}

#[async_trait]
impl Freezer for FirecrackerDriver {
    /// Nobody inside is asked: one that does not answer is stopped too.
    async fn freeze(&self, record: &Record) -> Result<()> {
        self.set_running(&Jail::of(&Self::held(record)?)?, false).await
    }

    async fn thaw(&self, record: &Record) -> Result<()> {
        let machine = Self::held(record)?;
        let Some((vmm, _)) = Vmm::open(&machine.run_dir)? else { return Ok(()) };
        if Manifest::exists(&machine.stowed()) {
            if vmm.unstowing.is_some() {
                return Ok(());
            }
            // Its memory is here still, and goes on: what was written of it is of the past.
            Manifest::revoke(&machine.stowed())?;
        }
        self.set_running(&Jail::of(&machine)?, true).await?;
        match Self::renewal(&machine) {
            First::Renewal(identity) => {
                let guest = self.held_guest(&machine).await?;
                renew(&guest, identity).await?;
                Self::renewed(&machine)
            }
            First::Setup(_) | First::Nothing => Ok(()),
        }
    }
}

#[async_trait]
impl Capturer for FirecrackerDriver {
    async fn capture(&self, record: &Record, into: &Path) -> Result<Captured> {
        let machine = Self::held(record)?;
        self.quiesced(&machine, async |guest| layer::write(guest.changes().await?, machine.disk_bytes, into).await)
            .await
    }
}

#[async_trait]
impl Tuner for FirecrackerDriver {
    fn validate_live(&self, resources: &Resources) -> Result<()> {
        let made = "it is what the machine was made with";
        let fixed = [
            ("resources.disk_bytes", resources.disk_bytes.is_some(), made),
            ("resources.secrets_bytes", resources.secrets_bytes.is_some(), made),
            ("resources.nofile", resources.nofile.is_some(), made),
            ("resources.pids_max", resources.pids_max.is_some(), made),
            ("resources.memory_reserve_bytes", resources.memory_reserve_bytes.is_some(), "machines have none"),
            (
                "resources.memory_bytes",
                resources.memory_bytes.is_some() && self.config.balloon_statistics_s == 0,
                "whether a machine gave memory up is not known with firecracker.balloon_statistics_s = 0",
            ),
        ];
        if let Some((field, _, why)) = fixed.into_iter().find(|(_, asked, _)| *asked) {
            return Err(Error::new(ErrorKind::Unsupported, format!("{field}: {why}; make a new sandbox")));
        }
        if let Some(bytes) = resources.memory_bytes.filter(|bytes| bytes % (1 << 20) != 0) {
            return Err(Error::invalid("resources.memory_bytes", format!("{bytes} is not in whole MiB")));
        }
        Ok(self.hierarchy.check(&changed(resources))?)
    }

    async fn tune(&self, record: &Record, resources: &Resources) -> Result<()> {
        self.validate_live(resources)?;
        let machine = Self::held(record)?;
        let Some(bytes) = resources.memory_bytes else { return self.tune_group(&machine, resources).await };
        let target = balloon_target(&machine, bytes)?;
        // The host's limit is above what the machine has at every moment: raised before, lowered after.
        if target > self.balloon(&machine).await? {
            self.inflate(&machine, target).await?;
            self.tune_group(&machine, resources).await
        } else {
            self.tune_group(&machine, resources).await?;
            self.inflate(&machine, target).await
        }
    }
}

/// What is asked of the host's cgroup, and nothing else: no defaults.
fn changed(resources: &Resources) -> Limits {
    let memory_bytes = resources.memory_bytes.map(|bytes| bytes + OVERHEAD_BYTES);
    Limits::new(&Resources { memory_bytes, ..resources.clone() }, &Resources::default())
}

/// MiB a machine has to give up to have this much.
fn balloon_target(machine: &Machine, bytes: u64) -> Result<u64> {
    let whole = machine.memory_bytes;
    if bytes > whole {
        let why = format!("a machine cannot have more than the {whole} it was made with; make a new one");
        return Err(Error::new(ErrorKind::Unsupported, format!("{MEMORY_FIELD}: {why}")));
    }
    Ok((whole - bytes) >> 20)
}

#[async_trait]
impl Stower for FirecrackerDriver {
    async fn stow(&self, record: &Record) -> Result<()> {
        let machine = Self::held(record)?;
        let stowed = machine.stowed();
        if !Manifest::exists(&stowed) {
            remove_dir(&stowed)?;
            make_private_dir(&stowed)?;
            let makeup = self.makeup(&machine)?;
            self.keep(&machine, &stowed).await?;
            Manifest::complete(&stowed, makeup, &[STATE, MEMORY]).await?;
        }
        // From here on it lies on disk, whatever happens.
        self.end(&machine).await
    }

    async fn unstow(&self, record: &Record) -> Result<Arc<dyn Guest>> {
        let machine = Self::held(record)?;
        if !Manifest::exists(&machine.stowed()) {
            return Err(Error::new(ErrorKind::Conflict, "take the machine up: it does not lie on disk"));
        }
        let running = Vmm::open(&machine.run_dir)?.map(|(vmm, _)| vmm);
        if let Some(guest) = self.went_on(&machine, running.as_ref()).await {
            return Ok(guest);
        }
        match self.take_up(&machine).await {
            Ok(guest) => Ok(guest),
            Err(error) => {
                self.end(&machine).await?;
                if !lies_as_it_did(&machine)? {
                    Manifest::revoke(&machine.stowed())?;
                    return Err(Error::caused_by(
                        ErrorKind::Guest,
                        "the machine wrote to its disk, and then failed",
                        error,
                    ));
                }
                Err(error)
            }
        }
    }
}

#[async_trait]
impl Snapshotter for FirecrackerDriver {
    async fn snapshot(&self, record: &Record, into: &Path) -> Result<Captured> {
        let machine = Self::held(record)?;
        let makeup = self.makeup(&machine)?;
        make_private_dir(into)?;
        self.keep(&machine, into).await?;
        disk::copy(&machine.disk(), &into.join(DISK)).await?;
        let bytes = Manifest::complete(into, makeup, &[STATE, MEMORY, DISK]).await?;
        Ok(Captured { bytes, entries: 0, memory: true })
    }
}
