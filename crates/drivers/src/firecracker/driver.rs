//! The driver contract, over the jailer and the monitor's interface.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use moat_agent::protocol::machine::GuestRoot;
use moat_engine::driver::{
    Capturer, Description, Driver, Freezer, Place, Record, Recovered, Requirement, Snapshotter, Stower, Tuner, Usage,
};
use moat_engine::error::{Error, Result};
use moat_engine::guest::Guest;
use moat_engine::guest::agent::AgentGuest;
use moat_model::spec::{Resources, RootSpec};
use moat_model::{ErrorKind, Isolation, Resource, SandboxSpec};

use super::api::{Action, VmState};
use super::boot::Boot;
use super::client::{ANSWER_WITHIN, Client, START_WITHIN};
use super::config::{FirecrackerConfig, HugePages};
use super::jail::{self, Jail, Whose};
use super::kept::Verified;
use super::launch::Launch;
use super::version::{Program, Version};
use super::{probe, recorder, shape};
use crate::fields;
use crate::linux::agent_binary::AgentBinary;
use crate::linux::cgroup::{Hierarchy, Limits};
use crate::linux::directory::{make_private_dir, remove_dir};
use crate::vm::bring_up::{First, bring_up};
use crate::vm::connections::Connections;
use crate::vm::endpoint::{MachineEndpoint, said};
use crate::vm::machine::Machine;
use crate::vm::process::{DiskStamp, Vmm};
use crate::vm::snapshot::{DISK, Makeup, Manifest};
use crate::vm::validate::Shows;
use crate::vm::{disk, validate};

/// Name it is registered and recorded under.
pub(super) const NAME: &str = "firecracker";
/// Version of what a record holds: a [`Machine`].
const RECORD_VERSION: u32 = 1;
/// What a monitor needs beside its machine's memory: five MiB by Firecracker's own promise, page tables, and the jailer before.
pub(super) const OVERHEAD_BYTES: u64 = 16 << 20;
/// Threads beside one for each processor: the monitor, its interface, and what the kernel starts for it; and the jailer.
const THREADS: u32 = 16;

/// Runs sandboxes as machines of Firecracker.
#[derive(Debug)]
pub struct FirecrackerDriver {
    pub(super) config: FirecrackerConfig,
    binary: AgentBinary,
    pub(super) hierarchy: Hierarchy,
    firecracker: Program,
    jailer: Program,
    image: Mutex<Option<Arc<Boot>>>,
    pub(super) connections: Connections,
    pub(super) verified: Verified,
}

impl FirecrackerDriver {
    /// A driver with these settings, or what is wrong with them. Neither the programs nor the guest have to be there yet.
    pub fn new(config: FirecrackerConfig, binary: AgentBinary) -> Result<Self> {
        config.check()?;
        let hierarchy = Hierarchy::detect(&config.cgroup_parent)?;
        let (firecracker, jailer) = (Program::new(&config.binary), Program::new(&config.jailer));
        Ok(Self {
            config,
            binary,
            hierarchy,
            firecracker,
            jailer,
            image: Mutex::default(),
            connections: Connections::default(),
            verified: Verified::default(),
        })
    }

    /// The version of both programs.
    pub(super) fn version(&self) -> Result<Version> {
        let unsupported = |why: String| Error::new(ErrorKind::Unsupported, format!("firecracker: {why}"));
        let (version, jailer) =
            (self.firecracker.supported().map_err(unsupported)?, self.jailer.version().map_err(unsupported)?);
        if version != jailer {
            return Err(unsupported(format!(
                "the jailer is version {jailer}, firecracker {version}: install one release"
            )));
        }
        Ok(version)
    }

    /// What machines boot; made when it is first needed, because the guest may be built while the daemon runs.
    pub(super) fn image(&self) -> Result<Arc<Boot>> {
        let mut image = self.image.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = &*image {
            return Ok(image.clone());
        }
        let made = Arc::new(Boot::prepare(&self.config, &self.binary)?);
        *image = Some(made.clone());
        Ok(made)
    }

    /// What a spec comes to at a place.
    fn machine(&self, place: &Place, spec: &SandboxSpec) -> Result<Machine> {
        self.adapted(Machine::new(place, spec, &self.config.resources)?, spec)
    }

    /// With what only this driver's settings decide.
    fn adapted(&self, mut machine: Machine, spec: &SandboxSpec) -> Result<Machine> {
        machine.vcpus = shape::vcpus(machine.vcpus, &self.config);
        if let Some(rootfs) = self.rootfs(spec) {
            machine.setup.root = GuestRoot::Whole;
            machine.disk_bytes = rootfs_bytes(rootfs)?;
        }
        Ok(machine)
    }

    /// The operator's root file system, for a sandbox that has it.
    fn rootfs(&self, spec: &SandboxSpec) -> Option<&Path> {
        self.config.rootfs.as_deref().filter(|_| spec.root == RootSpec::Scratch)
    }

    /// Of a record of this driver.
    pub(super) fn held(record: &Record) -> Result<Machine> {
        Machine::of(record, NAME, RECORD_VERSION)
    }

    pub(super) fn limits(&self, asked: &Resources) -> Limits {
        let defaults = &self.config.resources;
        let asked = Resources {
            memory_bytes: Some(defaults.memory(asked) + OVERHEAD_BYTES),
            cpu_weight: asked.cpu_weight.or(Some(defaults.cpu_weight)),
            pids_max: Some(shape::vcpus(defaults.vcpus(asked), &self.config) + THREADS),
            ..asked.clone()
        };
        Limits::new(&asked, &Resources::default())
    }

    /// What a machine is made of, for one that is kept.
    pub(super) fn makeup(&self, machine: &Machine) -> Result<Makeup> {
        let (image, version) = (self.image()?, self.version()?);
        let makeup = Makeup {
            driver: NAME.to_owned(),
            vmm_version: version.to_string(),
            machine: "firecracker".to_owned(),
            accelerator: "kvm".to_owned(),
            cpu: self.config.cpu()?,
            // A processor that is described is the same on hosts that differ.
            host_cpu: self.config.cpu_template.is_none().then(crate::vm::snapshot::host_cpu),
            kernel_sha256: image.kernel_sha256.clone(),
            initramfs_sha256: image.initramfs_sha256.clone(),
            layers: Vec::new(),
            memory_bytes: 0,
            vcpus: 0,
            disk_bytes: 0,
            link: false,
        };
        Ok(makeup.sized(machine))
    }

    /// The same of a spec that has no place yet.
    fn makeup_of(&self, spec: &SandboxSpec) -> Result<Makeup> {
        let machine = Machine::sketch(spec, &self.config.resources)?;
        self.makeup(&self.adapted(machine, spec)?)
    }

    /// Starts a monitor in a new jail that holds what the machine is made of.
    pub(super) async fn launch(
        &self,
        machine: &Machine,
        kept: Option<&Path>,
        unstowing: Option<DiskStamp>,
    ) -> Result<Jail> {
        let version = self.version()?;
        let jail = Jail::make(machine, &self.firecracker.file_name())?;
        match kept {
            None => {
                let image = self.image()?;
                jail.give(&image.kernel, jail::KERNEL, image.whose).await?;
                jail.give(&image.initramfs, jail::INITRAMFS, Whose::Ours).await?;
            }
            Some(dir) => {
                for name in [jail::STATE, jail::MEMORY] {
                    jail.give(&dir.join(name), name, Whose::Ours).await?;
                }
            }
        }
        for (index, layer) in machine.layers.iter().enumerate() {
            jail.give(&layer.path, &jail::layer(index), Whose::Ours).await?;
        }
        jail.lend(&machine.disk(), jail::DISK)?;
        let (firecracker, jailer) = (&self.firecracker.path, &self.jailer.path);
        let launch = Launch { machine, jail: &jail, firecracker, jailer, version, unstowing };
        launch.run(&self.binary, &self.hierarchy).await?;
        let puts =
            if kept.is_some() { shape::load(&self.config, version)? } else { shape::boot(machine, &self.config)? };
        let client = Client::new(&jail);
        for put in puts {
            let within = if put.path == "/snapshot/load" { START_WITHIN } else { ANSWER_WITHIN };
            client.put(&put.path, &put.body, within).await?;
        }
        Ok(jail)
    }

    /// Puts the disk in place, and says where the rest of a machine that was kept is.
    async fn furnish(&self, machine: &Machine, spec: &SandboxSpec) -> Result<()> {
        if let Some(dir) = &machine.restore {
            let manifest = Manifest::read(dir)?;
            manifest.makeup.fits(&self.makeup(machine)?)?;
            for name in [jail::STATE, jail::MEMORY, DISK] {
                self.verified.check(&manifest, dir, name).await?;
            }
            machine.set_unnamed(true)?;
            self.keep_base(&dir.join(jail::MEMORY), machine)?;
            return disk::copy(&dir.join(DISK), &machine.disk()).await;
        }
        match self.rootfs(spec) {
            Some(rootfs) => disk::copy(rootfs, &machine.disk()).await,
            None => disk::make(&self.config.cache_dir, machine.disk_bytes, &machine.disk()).await,
        }
    }

    /// Connects to the agent, and has it do what is due before the user's programs go on.
    pub(super) async fn guest(&self, machine: &Machine, first: First<'_>) -> Result<Arc<AgentGuest>> {
        let jail = Jail::of(machine)?;
        let endpoint = Arc::new(MachineEndpoint::open(jail.channel(), &machine.run_dir, machine.log())?);
        let guest = bring_up(endpoint, &machine.forwards, first).await?;
        self.connections.remember(&machine.run_dir, &guest);
        Ok(guest)
    }

    /// What a machine that goes on has to be told.
    pub(super) fn renewal(machine: &Machine) -> First<'_> {
        if machine.is_unnamed() {
            First::Renewal(Some(&machine.setup.identity))
        } else if machine.is_quiesced() {
            First::Renewal(None)
        } else {
            First::Nothing
        }
    }

    /// It has been told.
    pub(super) fn renewed(machine: &Machine) -> Result<()> {
        machine.set_quiesced(false)?;
        machine.set_unnamed(false)
    }

    /// From a monitor that was told everything to a guest.
    async fn begin(&self, machine: &Machine) -> Result<Arc<AgentGuest>> {
        let jail = Jail::of(machine)?;
        let client = Client::new(&jail);
        if machine.restore.is_none() {
            client.put("/actions", &Action { action_type: "InstanceStart" }, START_WITHIN).await?;
            return self.guest(machine, First::Setup(machine)).await;
        }
        client.patch("/vm", &VmState { state: "Resumed" }).await?;
        let guest = self.guest(machine, First::Renewal(Some(&machine.setup.identity))).await?;
        Self::renewed(machine)?;
        Ok(guest)
    }

    /// Greets an agent whose machine may stand still: it goes on for that moment. One that may think it is another, or whose
    /// programs were stopped, is renewed before it is handed out.
    async fn greet_again(&self, machine: &Machine, jail: &Jail) -> Result<Arc<AgentGuest>> {
        let stands = self.is_paused(jail).await? && !machine.is_unnamed();
        self.set_running(jail, true).await?;
        if stands {
            let greeted = self.guest(machine, First::Nothing).await;
            self.set_running(jail, false).await?;
            return greeted;
        }
        let guest = self.guest(machine, Self::renewal(machine)).await?;
        Self::renewed(machine)?;
        Ok(guest)
    }

    /// Writes down what the monitor of an earlier daemon says, until it ends, which others tell.
    fn watch(machine: &Machine, pidfd: OwnedFd) -> Result<()> {
        let recorder = recorder::start(&Jail::of(machine)?, pidfd, machine.log(), &machine.run_dir);
        let failed = |e: io::Error| Error::caused_by(ErrorKind::Internal, "watch the machine's monitor", e);
        recorder.map(drop).map_err(failed)
    }

    /// Ends the monitor. Not by its cgroup, which may be needed again: where `cgroup.kill` was ever written, some kernels (6.18
    /// is one) kill every process that is born into the group later. It is the first of its process namespace, so nothing
    /// of it is left.
    pub(super) async fn end(&self, machine: &Machine) -> Result<()> {
        self.connections.forget(&machine.run_dir);
        Vmm::end(&machine.run_dir).await
    }
}

/// Whether what lies on disk still fits the disk: a machine that was taken up may have written to it.
pub(super) fn lies_as_it_did(machine: &Machine) -> Result<bool> {
    match Vmm::read(&machine.run_dir)?.and_then(|vmm| vmm.unstowing) {
        None => Ok(true),
        Some(stamp) => Ok(DiskStamp::of(&machine.disk())? == stamp),
    }
}

fn rootfs_bytes(rootfs: &Path) -> Result<u64> {
    let found = fs::metadata(rootfs)
        .map_err(|e| Error::caused_by(ErrorKind::NotFound, format!("firecracker.rootfs: {}", rootfs.display()), e))?;
    Ok(found.len())
}

#[async_trait]
impl Driver for FirecrackerDriver {
    fn describe(&self) -> Description {
        let mut abilities = vec!["pause", "capture", "tune"];
        if self.stower().is_some() {
            abilities.extend(["stow", "snapshot"]);
        }
        Description {
            name: NAME,
            record_version: RECORD_VERSION,
            isolation: Isolation::Microvm,
            accelerator: Some("kvm"),
            abilities,
        }
    }

    fn probe(&self) -> Vec<Requirement> {
        probe::requirements(&self.config, &self.hierarchy, &self.firecracker, &self.jailer)
    }

    fn validate(&self, spec: &SandboxSpec) -> Result<()> {
        validate::check(spec, &self.config.resources, Shows::Disks)?;
        self.version()?;
        if self.rootfs(spec).is_some() && spec.resources.disk_bytes.is_some() {
            let why =
                "this node's machines have the file system of firecracker.rootfs, as large as it is; leave it out";
            return Err(Error::new(ErrorKind::Unsupported, format!("resources.disk_bytes: {why}")));
        }
        if let Some(kept) = &spec.restore {
            if self.config.huge_pages != HugePages::None {
                let why = "machines with huge pages cannot be made from one that was kept";
                return Err(Error::new(ErrorKind::Unsupported, format!("restore: {why}; see firecracker.huge_pages")));
            }
            Manifest::read(&kept.dir)?.makeup.fits(&self.makeup_of(spec)?)?;
        }
        Ok(self.hierarchy.check(&self.limits(&spec.resources))?)
    }

    fn plan(&self, place: &Place, _: &SandboxSpec) -> Vec<Resource> {
        vec![
            Resource::Directory { path: place.run_dir.clone() },
            Resource::Directory { path: place.data_dir.clone() },
            Resource::Cgroup { name: place.id.as_str().to_owned() },
        ]
    }

    async fn create(&self, place: &Place, spec: &SandboxSpec) -> Result<Record> {
        let machine = self.machine(place, spec)?;
        if !self.hierarchy.procs_files(&machine.cgroup).is_empty() {
            // Whatever is in a cgroup of this name is not part of this sandbox.
            self.hierarchy.remove(&machine.cgroup).await?;
        }
        make_private_dir(&machine.run_dir)?;
        make_private_dir(&machine.data_dir)?;
        self.hierarchy.create(&machine.cgroup, &self.limits(&spec.resources))?;
        self.furnish(&machine, spec).await?;
        self.launch(&machine, machine.restore.as_deref(), None).await?;
        machine.to_record(NAME, RECORD_VERSION)
    }

    async fn start(&self, record: &Record) -> Result<Arc<dyn Guest>> {
        let machine = Self::held(record)?;
        match self.begin(&machine).await {
            Ok(guest) => Ok(guest),
            Err(error) => {
                // Whoever does not prove that it is who it was told to be does not live on.
                self.end(&machine).await?;
                Err(error)
            }
        }
    }

    async fn kill(&self, record: &Record) -> Result<()> {
        let machine = Self::held(record)?;
        self.connections.forget(&machine.run_dir);
        self.hierarchy.kill(&machine.cgroup).await?;
        Vmm::end(&machine.run_dir).await?;
        // One that lies on disk would be found again.
        Manifest::revoke(&machine.stowed())
    }

    async fn release(&self, resource: &Resource) -> Result<()> {
        match resource {
            Resource::Directory { path } => remove_dir(path),
            Resource::Cgroup { name } => Ok(self.hierarchy.remove(name).await?),
            Resource::Network(_) | Resource::UidRange { .. } => Err(fields::of_the_engine(resource)),
        }
    }

    async fn recover(&self, record: &Record) -> Result<Recovered> {
        let machine = Self::held(record)?;
        let found = Vmm::open(&machine.run_dir)?;
        if Manifest::exists(&machine.stowed()) {
            // A daemon died before the monitor had ended, or before the next one had taken over.
            if let Some((vmm, pidfd)) = found
                && let Some(guest) = self.went_on(&machine, Some(&vmm)).await
            {
                Self::watch(&machine, pidfd)?;
                return Ok(Recovered::Alive(guest));
            }
            self.end(&machine).await?;
            if lies_as_it_did(&machine)? {
                return Ok(Recovered::Stowed);
            }
            Manifest::revoke(&machine.stowed())?;
            return Ok(Recovered::Gone { detail: "a daemon died while the machine was taken from disk".to_owned() });
        }
        let Some((_, pidfd)) = found else {
            self.hierarchy.kill(&machine.cgroup).await?;
            return Ok(Recovered::Gone { detail: format!("the machine's monitor has ended{}", said(&machine.log())) });
        };
        Self::watch(&machine, pidfd)?;
        Ok(Recovered::Alive(self.greet_again(&machine, &Jail::of(&machine)?).await?))
    }

    async fn usage(&self, record: &Record) -> Result<Usage> {
        let machine = Self::held(record)?;
        let mut usage = self.hierarchy.usage(&machine.cgroup)?;
        if Vmm::open(&machine.run_dir)?.is_none() {
            // The controller goes on counting a process until the host's first one collects it.
            usage.pids = 0;
        }
        Ok(usage)
    }

    fn freezer(&self) -> Option<&dyn Freezer> {
        Some(self)
    }

    fn capturer(&self) -> Option<&dyn Capturer> {
        Some(self)
    }

    fn tuner(&self) -> Option<&dyn Tuner> {
        Some(self)
    }

    fn stower(&self) -> Option<&dyn Stower> {
        (self.config.huge_pages == HugePages::None).then_some(self)
    }

    fn snapshotter(&self) -> Option<&dyn Snapshotter> {
        (self.config.huge_pages == HugePages::None).then_some(self)
    }
}
