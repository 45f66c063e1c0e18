//! The driver contract, over cgroups and the launcher.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moat_engine::driver::{
    Capturer, Description, Driver, Freezer, Place, Record, Recovered, Requirement, Tuner, Usage,
};
use moat_engine::error::{Error, Result};
use moat_engine::guest::Guest;
use moat_engine::guest::agent::AgentGuest;
use moat_model::spec::{Forward, Resources, RootSpec};
use moat_model::{ErrorKind, Isolation, Resource, SandboxId, SandboxSpec};
use rustix::process::{Signal, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::config::ContainerConfig;
use super::{jail, probe, validate};
use crate::fields;
use crate::linux::agent_binary::AgentBinary;
use crate::linux::capability;
use crate::linux::cgroup::{Devices, Hierarchy, Limits};
use crate::linux::directory::{make_private_dir, remove_dir};
use crate::linux::endpoint::UnixEndpoint;
use crate::linux::identity::ProcessIdentity;
use crate::linux::launch::{LaunchError, launch, listen};
use crate::linux::roots::Roots;
use crate::linux::{lasting, readiness};

/// Name it is registered and recorded under.
const NAME: &str = "container";

/// Version of [`Held`].
const RECORD_VERSION: u32 = 1;

/// How long the first process of a sandbox may take to go after SIGKILL. Its cgroup is empty by then, so what is waited
/// for is the kernel taking the namespace's last process apart.
const END_WAIT: Duration = Duration::from_secs(10);

/// What a record of version 1 holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Held {
    /// The agent, first process of its namespaces.
    pub(super) process: ProcessIdentity,
    /// Its cgroup's name.
    pub(super) cgroup: String,
    /// Where it listens.
    socket: PathBuf,
    /// What it may have the daemon connect to.
    forwards: Vec<Forward>,
    /// What is shown inside in another way than asked.
    notes: Vec<String>,
    /// The agent's descriptor of the directory that holds what changed in the root, if that is one directory.
    #[serde(default)]
    pub(super) changes_fd: Option<u32>,
    /// First host id of its range.
    #[serde(default)]
    pub(super) uid_base: u32,
    /// What it changes outlives it, here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lasting: Option<PathBuf>,
}

/// Runs sandboxes as containers.
#[derive(Debug)]
pub struct ContainerDriver {
    config: ContainerConfig,
    binary: AgentBinary,
    roots: Arc<Roots>,
    pub(super) hierarchy: Hierarchy,
    /// Capabilities a sandbox may be given, as bits.
    ceiling: u64,
    /// Capabilities this kernel has, as bits.
    kernel: u64,
    /// Most open files a process can be allowed on this host.
    nofile_ceiling: u64,
}

impl ContainerDriver {
    /// A driver with these settings, or what is wrong with them.
    pub fn new(mut config: ContainerConfig, binary: AgentBinary) -> Result<Self> {
        config.check()?;
        let nofile_ceiling = probe::nofile_ceiling();
        if config.resources.nofile > nofile_ceiling {
            tracing::warn!(
                asked = config.resources.nofile,
                given = nofile_ceiling,
                "container.resources.nofile is more than this daemon may give: raise its hard limit of open files"
            );
            config.resources.nofile = nofile_ceiling;
        }
        let hierarchy = Hierarchy::detect(&config.cgroup_parent)?.with_exclusive(config.exclusive_cpus.as_deref())?;
        let kernel = capability::of_kernel();
        let ceiling = capability::parse("container.allow_caps", &config.allow_caps, kernel)?;
        let roots = Roots::new(config.roots_dir.clone());
        Ok(Self { config, binary, roots, hierarchy, ceiling, kernel, nofile_ceiling })
    }

    fn limits(&self, asked: &Resources) -> Limits {
        let mut limits = Limits::new(asked, &self.config.resources.to_resources());
        limits.devices = Devices::Stock;
        limits
    }

    fn capabilities(&self, spec: &SandboxSpec) -> Result<u64> {
        Ok(capability::resolve(&spec.security.cap_add, &spec.security.cap_drop, self.ceiling, self.kernel)?)
    }

    /// Everything the launcher works with: directories, the cgroup, the socket.
    fn prepare(&self, place: &Place, spec: &SandboxSpec) -> Result<OwnedFd> {
        let mount_point = mount_point(place);
        make_private_dir(&mount_point)?;
        let cgroup = cgroup_name(&place.id);
        self.hierarchy.create(&cgroup, &self.limits(&spec.resources))?;
        let socket = socket_path(place);
        listen(&socket).map_err(|e| Error::caused_by(ErrorKind::Internal, format!("listen on {}", socket.display()), e))
    }

    fn connect_parts(held: &Held, pidfd: OwnedFd) -> Result<Arc<UnixEndpoint>> {
        let endpoint = UnixEndpoint::new(held.socket.clone(), held.process.pid, pidfd);
        endpoint.map(Arc::new).map_err(|e| Error::caused_by(ErrorKind::Internal, "watch the agent", e))
    }

    /// Greets an agent, which may be frozen: a paused sandbox is let go on for that moment.
    async fn greet_again(&self, held: &Held, pidfd: OwnedFd) -> Result<Arc<AgentGuest>> {
        let endpoint = Self::connect_parts(held, pidfd)?;
        let frozen = self.hierarchy.is_frozen(&held.cgroup)?;
        if frozen {
            self.hierarchy.thaw(&held.cgroup)?;
        }
        let guest = AgentGuest::connect(endpoint, held.forwards.clone()).await;
        if frozen {
            self.hierarchy.freeze(&held.cgroup).await?;
        }
        guest
    }

    /// Ends the first process of the namespaces, and with it every other, and waits until it is gone.
    async fn end_first_process(process: &ProcessIdentity) -> Result<()> {
        let failed = |e: io::Error| Error::caused_by(ErrorKind::Internal, format!("end process {}", process.pid), e);
        let Some(pidfd) = process.open().map_err(failed)? else { return Ok(()) };
        pidfd_send_signal(&pidfd, Signal::KILL).or_else(|e| match e {
            rustix::io::Errno::SRCH => Ok(()),
            e => Err(failed(e.into())),
        })?;
        let ended = readiness::register(pidfd).map_err(failed)?;
        match tokio::time::timeout(END_WAIT, ended.readable()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(failed(e)),
            Err(_) => {
                let why =
                    format!("process {} does not end: not gone {} s after SIGKILL", process.pid, END_WAIT.as_secs());
                Err(Error::new(ErrorKind::Deadline, why))
            }
        }
    }
}

/// Directory of the host the root is assembled on, in the launcher's mount namespace.
fn mount_point(place: &Place) -> PathBuf {
    place.run_dir.join("root")
}

fn socket_path(place: &Place) -> PathBuf {
    place.run_dir.join("agent.sock")
}

fn cgroup_name(id: &SandboxId) -> String {
    id.as_str().to_owned()
}

pub(super) fn held(record: &Record) -> Result<Held> {
    if record.driver != NAME || record.version != RECORD_VERSION {
        return Err(Error::new(
            ErrorKind::Internal,
            format!(
                "record of driver {} version {} given to driver {NAME}, which writes version {RECORD_VERSION}",
                record.driver, record.version
            ),
        ));
    }
    serde_json::from_value(record.data.clone())
        .map_err(|e| Error::caused_by(ErrorKind::Internal, "read the container record", e))
}

fn launch_failed(error: LaunchError) -> Error {
    Error::caused_by(error.kind(), "launch", error)
}

#[async_trait]
impl Driver for ContainerDriver {
    fn describe(&self) -> Description {
        Description {
            name: NAME,
            record_version: RECORD_VERSION,
            isolation: Isolation::Container,
            accelerator: None,
            abilities: vec!["pause", "capture", "tune"],
        }
    }

    fn probe(&self) -> Vec<Requirement> {
        probe::requirements(&self.hierarchy)
    }

    fn validate(&self, spec: &SandboxSpec) -> Result<()> {
        validate::check(spec)?;
        if matches!(spec.root, RootSpec::Layers { .. })
            && let Requirement { met: false, fact, fix, .. } = probe::image_roots()
        {
            let why = format!("root: images cannot be mounted here ({fact}): {}", fix.unwrap_or_default());
            return Err(Error::new(ErrorKind::Unsupported, why));
        }
        self.config.check_host(spec.host)?;
        self.capabilities(spec)?;
        validate::network_capabilities(spec, self.kernel)?;
        validate::limits(&spec.resources, &self.config.resources, self.nofile_ceiling)?;
        Ok(self.hierarchy.check(&self.limits(&spec.resources))?)
    }

    fn plan(&self, place: &Place, spec: &SandboxSpec) -> Vec<Resource> {
        let mut plan = vec![
            Resource::Directory { path: place.run_dir.clone() },
            Resource::Cgroup { name: cgroup_name(&place.id) },
        ];
        if matches!(spec.root, RootSpec::Layers { .. }) {
            plan.push(Resource::Directory { path: self.roots.note_of(&place.id) });
        }
        plan
    }

    async fn create(&self, place: &Place, spec: &SandboxSpec) -> Result<Record> {
        self.config.check_host(spec.host)?;
        self.config.check_place(place, spec)?;
        let capabilities = self.capabilities(spec)?;
        let cgroup = cgroup_name(&place.id);
        if !self.hierarchy.procs_files(&cgroup).is_empty() {
            // Whatever is in a cgroup of this name is not part of this sandbox. It must go as a whole: where `cgroup.kill`
            // was ever written, some kernels (6.18 is one) kill every process that is born into the group later.
            self.hierarchy.remove(&cgroup).await?;
        }
        if let Some(lasting) = &spec.lasting {
            lasting::prepare(lasting, place.uid_base).await?;
        }
        let listener = self.prepare(place, spec)?;
        let layers = match &spec.root {
            RootSpec::Layers { layers } => self.roots.mount(&place.id, layers)?,
            RootSpec::Host | RootSpec::Scratch => Vec::new(),
        };
        let config = jail::launch_config(
            &self.config,
            spec,
            &jail::Prepared {
                id: &place.id,
                uid_base: place.uid_base,
                mount_point: mount_point(place),
                layers,
                network: place.network.as_ref(),
                cgroup_procs: self.hierarchy.procs_files(&cgroup),
                capabilities,
            },
        )?;
        let launched = launch(&self.binary, &config, vec![listener]).await.map_err(launch_failed)?;
        for note in &launched.notes {
            tracing::warn!(sandbox = %place.id, "{note}");
        }
        let held = Held {
            process: launched.identity,
            cgroup,
            socket: socket_path(place),
            forwards: spec.forwards.clone(),
            notes: launched.notes,
            changes_fd: launched.changes_fd,
            uid_base: place.uid_base,
            lasting: spec.lasting.as_ref().map(|lasting| lasting.dir.clone()),
        };
        let data = serde_json::to_value(&held)
            .map_err(|e| Error::caused_by(ErrorKind::Internal, "write the container record", e))?;
        Ok(Record { driver: NAME.to_owned(), version: RECORD_VERSION, data })
    }

    async fn start(&self, record: &Record) -> Result<Arc<dyn Guest>> {
        let held = held(record)?;
        let found = held.process.open().map_err(|e| Error::caused_by(ErrorKind::Internal, "find the agent", e))?;
        let Some(pidfd) = found else {
            return Err(Error::new(ErrorKind::Guest, "the agent ended before it was greeted"));
        };
        let endpoint = Self::connect_parts(&held, pidfd)?;
        Ok(AgentGuest::connect(endpoint, held.forwards).await?)
    }

    async fn kill(&self, record: &Record) -> Result<()> {
        let held = held(record)?;
        self.hierarchy.kill(&held.cgroup).await?;
        Self::end_first_process(&held.process).await?;
        if let Some(dir) = held.lasting {
            lasting::write_out(dir).await;
        }
        Ok(())
    }

    async fn release(&self, resource: &Resource) -> Result<()> {
        match resource {
            Resource::Directory { path } if self.roots.is_note(path) => self.roots.forget(path),
            Resource::Directory { path } => remove_dir(path),
            Resource::Cgroup { name } => Ok(self.hierarchy.remove(name).await?),
            Resource::Network(_) | Resource::UidRange { .. } => Err(fields::of_the_engine(resource)),
        }
    }

    async fn recover(&self, record: &Record) -> Result<Recovered> {
        let held = held(record)?;
        let found = held.process.open().map_err(|e| Error::caused_by(ErrorKind::Internal, "find the agent", e))?;
        let Some(pidfd) = found else {
            self.hierarchy.kill(&held.cgroup).await?;
            return Ok(Recovered::Gone { detail: format!("process {} has ended", held.process.pid) });
        };
        Ok(Recovered::Alive(self.greet_again(&held, pidfd).await?))
    }

    async fn usage(&self, record: &Record) -> Result<Usage> {
        let held = held(record)?;
        let mut usage = self.hierarchy.usage(&held.cgroup)?;
        let agent = held.process.open().map_err(|e| Error::caused_by(ErrorKind::Internal, "find the agent", e))?;
        if agent.is_none() {
            // Everything went with the first process of the namespace. The controller goes on counting that one until the
            // host's own first process collects it, which some do once a second.
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
}
