//! The driver contract, over QEMU in a jail.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use moat_engine::driver::{
    Capturer, Description, Driver, Freezer, Place, Record, Recovered, Requirement, Snapshotter, Stower, Tuner, Usage,
};
use moat_engine::error::{Error, Result};
use moat_engine::guest::Guest;
use moat_engine::guest::agent::AgentGuest;
use moat_model::spec::Resources;
use moat_model::{ErrorKind, Isolation, Resource, SandboxSpec};
use serde_json::json;

use super::accelerator::Accelerator;
use super::arguments::Shape;
use super::config::QemuConfig;
use super::host::{self, Found};
use super::keep::{self, STATE};
use super::launch::{
    KVM, Launcher, OVERHEAD_KVM, OVERHEAD_TCG, PIDS_MAX, Start, agent_socket, console, control_socket,
};
use super::probe;
use super::qmp::Qmp;
use super::served::{self, FileServer, Serve};
use crate::fields;
use crate::linux::agent_binary::AgentBinary;
use crate::linux::cgroup::{Devices, Hierarchy, Limits};
use crate::linux::directory::{make_private_dir, remove_dir};
use crate::linux::lasting;
use crate::linux::roots::Roots;
use crate::vm::bring_up::{First, bring_up};
use crate::vm::connections::Connections;
use crate::vm::endpoint::{AgentChannel, MachineEndpoint, said};
use crate::vm::machine::Machine;
use crate::vm::process::{DiskStamp, Vmm};
use crate::vm::setup::lasting_machine_id;
use crate::vm::snapshot::{DISK, Makeup, Manifest, host_cpu};
use crate::vm::validate::Shows;
use crate::vm::{disk, validate};

/// Name it is registered and recorded under.
pub(super) const NAME: &str = "qemu";

/// Version of its record, a [`Machine`].
const RECORD_VERSION: u32 = 1;

/// What is told of a guest's console when it does not come up.
const CONSOLE_TAIL: usize = 600;

/// Runs sandboxes as virtual machines under QEMU.
#[derive(Debug)]
pub struct QemuDriver {
    pub(super) config: QemuConfig,
    pub(super) launcher: Launcher,
    /// What was found at the start, or what is missing.
    found: std::result::Result<Found, (ErrorKind, String)>,
    pub(super) connections: Connections,
    /// What serves roots that last, or why nothing does.
    files: std::result::Result<FileServer, (ErrorKind, String)>,
    /// Layers of roots that last.
    roots: Arc<Roots>,
}

/// Where a machine has its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Root {
    Disks,
    Served,
}

impl Root {
    fn of(lasts: bool) -> Self {
        if lasts { Self::Served } else { Self::Disks }
    }
}

impl QemuDriver {
    /// A driver with these settings, or what is wrong with them. What this host lacks is no error here: it is told by `probe`,
    /// and whoever wants a machine is refused. Where KVM was never tried, this takes some seconds.
    pub fn new(config: QemuConfig, binary: AgentBinary) -> Result<Self> {
        config.check()?;
        let hierarchy = Hierarchy::detect(&config.cgroup_parent)?;
        make_private_dir(&config.run_dir)?;
        make_private_dir(&config.data_dir)?;
        let launcher = Launcher { binary, hierarchy };
        let found = host::find(&config, &launcher).map_err(|e| (e.kind, e.chain()));
        let files = FileServer::find(&config).map_err(|e| (e.kind, e.chain()));
        let roots = Roots::new(config.run_dir.join("roots"));
        Ok(Self { config, launcher, found, connections: Connections::default(), files, roots })
    }

    pub(super) fn found(&self) -> Result<&Found> {
        self.found.as_ref().map_err(|(kind, why)| Error::new(*kind, why.clone()))
    }

    fn files(&self) -> Result<&FileServer> {
        self.files.as_ref().map_err(|(kind, why)| Error::new(*kind, why.clone()))
    }

    /// Whether a root that lasts can be served here.
    fn can_serve(&self, found: &Found) -> Result<()> {
        self.files()?;
        if found.boot.guest.image.absent.iter().any(|name| name == "virtiofs") {
            let why = "lasting: the kernel of the guest has no virtiofs: build it from one with CONFIG_VIRTIO_FS";
            return Err(Error::new(ErrorKind::Unsupported, why));
        }
        Ok(())
    }

    pub(super) fn hierarchy(&self) -> &Hierarchy {
        &self.launcher.hierarchy
    }

    pub(super) fn machine(record: &Record) -> Result<Machine> {
        Machine::of(record, NAME, RECORD_VERSION)
    }

    /// What the cgroup of a machine of this size is limited to: the monitor's needs come on top of the guest's memory.
    fn limits(&self, asked: &Resources, root: Root) -> Limits {
        let files = if root == Root::Served { served::OVERHEAD } else { 0 };
        let (overhead, devices) = match self.found.as_ref().map(|found| found.accelerator) {
            Ok(Accelerator::Kvm) => (OVERHEAD_KVM, Devices::StockAnd(&[KVM])),
            _ => (OVERHEAD_TCG, Devices::Stock),
        };
        Limits {
            memory_bytes: Some(self.config.machine.memory(asked) + overhead + files),
            memory_reserve_bytes: None,
            cpu_weight: asked.cpu_weight.or(Some(self.config.machine.cpu_weight)),
            cpu_quota_millis: asked.cpu_quota_millis,
            cpuset: asked.cpuset.clone(),
            cores: None,
            pids_max: Some(PIDS_MAX),
            devices,
        }
    }

    fn shape(&self, machine: &Machine, incoming: bool) -> Result<Shape> {
        Ok(Shape {
            accelerator: self.found()?.accelerator,
            memory_bytes: machine.memory_bytes,
            vcpus: machine.vcpus,
            layers: u32::try_from(machine.layer_disks().len()).unwrap_or(u32::MAX),
            disk: true,
            served: machine.lasting.is_some(),
            mac: machine.network.as_ref().map(|network| network.mac),
            incoming,
        })
    }

    /// What a machine of this record is made of here and now.
    pub(super) fn makeup(&self, machine: &Machine) -> Result<Makeup> {
        let found = self.found()?;
        let shape = self.shape(machine, false)?;
        let makeup = Makeup {
            driver: NAME.to_owned(),
            vmm_version: found.version.clone(),
            machine: shape.machine().to_owned(),
            accelerator: found.accelerator.as_str().to_owned(),
            cpu: shape.cpu().to_owned(),
            host_cpu: (found.accelerator == Accelerator::Kvm).then(host_cpu),
            kernel_sha256: found.boot.guest.image.kernel_sha256.clone(),
            initramfs_sha256: found.boot.initramfs_sha256.clone(),
            layers: Vec::new(),
            memory_bytes: 0,
            vcpus: 0,
            disk_bytes: 0,
            link: false,
        };
        Ok(makeup.sized(machine))
    }

    /// Starts a monitor for it and writes down which process that is.
    pub(super) async fn launch(&self, machine: &Machine, incoming: bool, unstowing: Option<DiskStamp>) -> Result<()> {
        let shape = self.shape(machine, incoming)?;
        let files = match &machine.lasting {
            None => None,
            Some(lasting) => {
                let layers = self.roots.mount(&machine.id, &machine.layers)?;
                Some(self.launcher.serve(&self.config, self.files()?, &Serve { machine, lasting, layers }).await?)
            }
        };
        let disks = machine.layer_disks().iter().map(|layer| layer.path.clone()).chain([machine.disk()]).collect();
        let start = Start {
            shape: &shape,
            run_dir: &machine.run_dir,
            log: machine.log(),
            uid_base: machine.uid_base,
            cgroup: &machine.cgroup,
            disks,
            disk_bytes: machine.disk_bytes,
            files,
            network: machine.network.as_ref(),
        };
        let process = self.launcher.start(&self.config, self.found()?, start).await?;
        Vmm { process, unstowing }.write(&machine.run_dir)?;
        if machine.lasting.is_some() {
            served::watch(machine)?;
        }
        Ok(())
    }

    pub(super) fn endpoint(machine: &Machine) -> Result<Arc<MachineEndpoint>> {
        let channel = AgentChannel::Line(agent_socket(&machine.run_dir));
        MachineEndpoint::open(channel, &machine.run_dir, machine.log()).map(Arc::new)
    }

    pub(super) async fn qmp(machine: &Machine) -> Result<Qmp> {
        let connected = Qmp::connect(&control_socket(&machine.run_dir)).await;
        connected.map_err(|e| Error::caused_by(e.kind, format!("machine {}{}", machine.id, said(&machine.log())), e))
    }

    /// The guest that was handed out, or another connection to the same agent.
    pub(super) async fn guest(&self, machine: &Machine, first: First<'_>) -> Result<Arc<AgentGuest>> {
        let guest = bring_up(Self::endpoint(machine)?, &machine.forwards, first).await?;
        self.connections.remember(&machine.run_dir, &guest);
        Ok(guest)
    }

    /// There once it was handed out.
    fn started_mark(machine: &Machine) -> PathBuf {
        machine.run_dir.join("started")
    }

    /// From a monitor that runs to a guest that may be handed out.
    async fn bring_to_life(&self, machine: &Machine) -> Result<Arc<AgentGuest>> {
        let guest = match &machine.restore {
            None => self.guest(machine, First::Setup(machine)).await?,
            Some(dir) => {
                let mut qmp = Self::qmp(machine).await?;
                keep::load(&mut qmp, &dir.join(STATE)).await?;
                qmp.run("cont", json!({})).await?;
                drop(qmp);
                self.guest(machine, First::Renewal(Some(&machine.setup.identity))).await?
            }
        };
        let mark = Self::started_mark(machine);
        std::fs::write(&mark, "")
            .map_err(|e| Error::caused_by(ErrorKind::Internal, format!("note in {}", mark.display()), e))?;
        Ok(guest)
    }

    /// What the console said last, for whoever wonders why a machine does not come up.
    async fn why(machine: &Machine, error: Error) -> Error {
        let Ok(mut qmp) = Self::qmp(machine).await else { return error };
        let Ok(text) = console(&mut qmp).await else { return error };
        let clean: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let skipped = clean.chars().count().saturating_sub(CONSOLE_TAIL);
        let tail: String = clean.chars().skip(skipped).collect();
        if tail.is_empty() {
            return error;
        }
        Error::caused_by(error.kind, format!("start the machine; its console says last: {tail:?}"), error)
    }

    /// Ends whatever runs for it.
    pub(super) async fn end(&self, machine: &Machine) -> Result<()> {
        self.connections.forget(&machine.run_dir);
        self.hierarchy().kill(&machine.cgroup).await?;
        Vmm::end(&machine.run_dir).await?;
        if let Some(dir) = &machine.lasting {
            served::ended(machine).await?;
            lasting::write_out(dir.clone()).await;
        }
        Ok(())
    }

    /// Ends its monitor and leaves its cgroup as it is, for another one. Where a cgroup is killed as a whole, some kernels (6.18
    /// is one) kill every process that is born into it later.
    pub(super) async fn end_monitor(&self, machine: &Machine) -> Result<()> {
        self.connections.forget(&machine.run_dir);
        Vmm::end(&machine.run_dir).await?;
        if self.hierarchy().usage(&machine.cgroup)?.pids > 0 {
            // One that a daemon started and died before it wrote that down. Limits set later are lost with the group.
            self.hierarchy().remove(&machine.cgroup).await?;
            self.hierarchy()
                .create(&machine.cgroup, &self.limits(&machine.resources, Root::of(machine.lasting.is_some())))?;
        }
        Ok(())
    }

    fn gone(machine: &Machine) -> Recovered {
        Recovered::Gone { detail: format!("the machine's monitor has ended{}", said(&machine.log())) }
    }

    /// Puts the disk of a machine that goes on from one that was kept in place, if that one fits.
    async fn place_kept(&self, machine: &Machine, dir: &Path) -> Result<()> {
        let manifest = Manifest::read(dir)?;
        manifest.makeup.fits(&self.makeup(machine)?)?;
        manifest.verify(dir, STATE).await?;
        manifest.verify(dir, DISK).await?;
        disk::copy(&dir.join(DISK), &machine.disk()).await
    }
}

#[async_trait]
impl Driver for QemuDriver {
    fn describe(&self) -> Description {
        Description {
            name: NAME,
            record_version: RECORD_VERSION,
            isolation: Isolation::Microvm,
            accelerator: self.found.as_ref().ok().map(|found| found.accelerator.as_str()),
            abilities: vec!["pause", "capture", "tune", "stow", "snapshot"],
        }
    }

    fn probe(&self) -> Vec<Requirement> {
        probe::requirements(&self.config, self.hierarchy(), self.found.as_ref(), self.files.as_ref())
    }

    fn validate(&self, spec: &SandboxSpec) -> Result<()> {
        validate::check(spec, &self.config.machine, Shows::Directories)?;
        let found = self.found()?;
        if spec.lasting.is_some() {
            self.can_serve(found)?;
        }
        if let Some(snapshot) = &spec.restore {
            if snapshot.driver != NAME {
                let why = format!("restore: the snapshot was written by driver {}, this is {NAME}", snapshot.driver);
                return Err(Error::new(ErrorKind::Conflict, why));
            }
            let wanted = self.makeup(&Machine::sketch(spec, &self.config.machine)?)?;
            Manifest::read(&snapshot.dir)?.makeup.fits(&wanted)?;
        }
        Ok(self.hierarchy().check(&self.limits(&spec.resources, Root::of(spec.lasting.is_some())))?)
    }

    fn plan(&self, place: &Place, spec: &SandboxSpec) -> Vec<Resource> {
        let mut plan = vec![
            Resource::Directory { path: place.run_dir.clone() },
            Resource::Directory { path: place.data_dir.clone() },
            Resource::Cgroup { name: place.id.as_str().to_owned() },
        ];
        if spec.lasting.is_some() {
            plan.push(Resource::Directory { path: self.roots.note_of(&place.id) });
        }
        plan
    }

    async fn create(&self, place: &Place, spec: &SandboxSpec) -> Result<Record> {
        let mut machine = Machine::new(place, spec, &self.config.machine)?;
        if let Some(lasting) = &spec.lasting {
            lasting::prepare(lasting, place.uid_base).await?;
            machine.setup.identity.machine_id = lasting_machine_id(&lasting.dir)?;
        }
        let record = machine.to_record(NAME, RECORD_VERSION)?;
        make_private_dir(&machine.run_dir)?;
        make_private_dir(&machine.data_dir)?;
        if !self.hierarchy().procs_files(&machine.cgroup).is_empty() {
            // Whatever is in a cgroup of this name is not part of this sandbox.
            self.hierarchy().remove(&machine.cgroup).await?;
        }
        self.hierarchy().create(&machine.cgroup, &self.limits(&spec.resources, Root::of(spec.lasting.is_some())))?;
        match &machine.restore {
            Some(dir) => self.place_kept(&machine, dir).await?,
            None => disk::make(&self.config.data_dir.join("blank"), machine.disk_bytes, &machine.disk()).await?,
        }
        self.launch(&machine, machine.restore.is_some(), None).await?;
        Ok(record)
    }

    async fn start(&self, record: &Record) -> Result<Arc<dyn Guest>> {
        let machine = Self::machine(record)?;
        match self.bring_to_life(&machine).await {
            Ok(guest) => Ok(guest),
            Err(error) => {
                let error = Self::why(&machine, error).await;
                // It has proven nothing: nothing of the user may run in it.
                self.end(&machine).await?;
                Err(error)
            }
        }
    }

    async fn kill(&self, record: &Record) -> Result<()> {
        let machine = Self::machine(record)?;
        self.end(&machine).await?;
        // Nobody is to go on from there any more.
        Manifest::revoke(&machine.stowed())
    }

    async fn release(&self, resource: &Resource) -> Result<()> {
        match resource {
            Resource::Directory { path } if self.roots.is_note(path) => self.roots.forget(path),
            Resource::Directory { path } => remove_dir(path),
            Resource::Cgroup { name } => Ok(self.hierarchy().remove(name).await?),
            Resource::Network(_) | Resource::UidRange { .. } => Err(fields::of_the_engine(resource)),
        }
    }

    async fn recover(&self, record: &Record) -> Result<Recovered> {
        let machine = Self::machine(record)?;
        let running = Vmm::open(&machine.run_dir)?.map(|(vmm, _)| vmm);
        if Manifest::exists(&machine.stowed()) {
            // Either all of it was written and its monitor was about to be ended, or somebody was about to bring it back.
            if let Some(guest) = self.went_on(&machine, running.as_ref()).await {
                return Ok(Recovered::Alive(guest));
            }
            let untouched = self.unstow_undone(&machine, running.as_ref()).await?;
            return Ok(if untouched { Recovered::Stowed } else { Self::gone(&machine) });
        }
        if running.is_none() || (machine.lasting.is_some() && !served::watch(&machine)?) {
            self.end(&machine).await?;
            return Ok(Self::gone(&machine));
        }
        if !Self::started_mark(&machine).exists() {
            if machine.restore.is_some() {
                // How far it came cannot be told from outside, and nothing of it was handed out.
                self.end(&machine).await?;
                return Ok(Recovered::Gone { detail: "the daemon ended before the machine had gone on".to_owned() });
            }
            return Ok(Recovered::Alive(self.bring_to_life(&machine).await?));
        }
        Ok(Recovered::Alive(self.greet_again(&machine).await?))
    }

    async fn usage(&self, record: &Record) -> Result<Usage> {
        let machine = Self::machine(record)?;
        let mut usage = self.hierarchy().usage(&machine.cgroup)?;
        if Vmm::open(&machine.run_dir)?.is_none() {
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
        Some(self)
    }

    fn snapshotter(&self) -> Option<&dyn Snapshotter> {
        Some(self)
    }
}
