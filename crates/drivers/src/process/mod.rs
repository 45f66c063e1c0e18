//! The process driver: no sandbox. A workload is a child process of the host with the rights of its user there.
//!
//! It exists for programs that need the host, and is refused unless the operator enabled it. What it still gives: the same
//! agent, lifecycle and layout as every other driver, limits through the workload's own cgroup, and an end that spares
//! nothing the workload started, whatever sessions and process groups it moved to.
//!
//! What it cannot give it refuses by name: a root, an isolated network, capabilities, a size for its files.

mod builds;
mod config;
mod record;
mod task_dir;
mod user;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use moat_agent::launch::{AgentConfig, LaunchConfig, Payload};
use moat_engine::driver::{Description, Driver, Freezer, Need, Place, Record, Recovered, Requirement, Usage};
use moat_engine::guest::agent::AgentGuest;
use moat_engine::{Error, Guest, Result};
use moat_model::network::{EgressPolicy, NetworkLimits, NetworkMode};
use moat_model::spec::{OnTimeout, RootSpec};
use moat_model::{ErrorKind, Isolation, Resource, SandboxSpec};

use crate::fields;
use crate::linux::agent_binary::AgentBinary;
use crate::linux::cgroup::{Controller, Hierarchy, Limits};
use crate::linux::endpoint::UnixEndpoint;
use crate::linux::launch;

use builds::Builds;
pub use config::ProcessConfig;
use record::ProcessRecord;
use user::Owner;

/// Name it is registered and recorded under.
const NAME: &str = "process";
/// The kernel's own bound: the first to be chosen.
const OOM_SCORE_MAX: u16 = 1000;
/// Unacknowledged output kept for each stream of a main process; the program waits when it is full.
const OUTPUT_BUFFER_BYTES: usize = 256 << 10;

/// No sandbox. See the module.
#[derive(Debug)]
pub struct ProcessDriver {
    config: ProcessConfig,
    binary: AgentBinary,
    cgroups: Hierarchy,
    builds: Builds,
}

impl ProcessDriver {
    /// A driver on this host. Fails where there are no cgroups: without them nothing could be ended for certain.
    pub fn new(config: ProcessConfig, binary: AgentBinary) -> Result<Self> {
        let cgroups = Hierarchy::detect(&config.cgroup_parent)?.with_exclusive(config.exclusive_cpus.as_deref())?;
        Ok(Self { config, binary, cgroups, builds: Builds::default() })
    }

    fn limits(&self, spec: &SandboxSpec) -> Limits {
        Limits::new(&spec.resources, &self.config.resources)
    }

    fn refuse_unless_enabled(&self) -> Result<()> {
        if self.config.enabled {
            return Ok(());
        }
        let why = "isolation: process is no sandbox, and disabled on this node: its operator can enable it with \
                   drivers = [\"container\", \"process\"]";
        Err(Error::new(ErrorKind::Denied, why))
    }

    async fn build(&self, place: &Place, spec: &SandboxSpec, owner: Owner) -> Result<()> {
        let (data_dir, artifact, log_dir) = (place.data_dir.clone(), spec.artifact.clone(), spec.log_dir.clone());
        let build = self.builds.begin(&data_dir);
        // An artifact on another file system is copied, which can take seconds.
        let making = tokio::task::spawn_blocking(move || {
            let _build = build;
            task_dir::build(&data_dir, owner, artifact.as_ref(), log_dir.as_deref())
        });
        making.await.map_err(|e| Error::caused_by(ErrorKind::Internal, "task directory", e))?
    }

    fn launch_config(&self, place: &Place, spec: &SandboxSpec) -> LaunchConfig {
        let nofile = self.config.resources.nofile.unwrap_or(u64::MAX).min(nofile_ceiling());
        // Programs that are executed later and name no user are the main process's companions: they run as it does.
        let user = spec.main.as_ref().and_then(|main| main.user.clone());
        LaunchConfig {
            cgroup_procs: self.cgroups.procs_files(place.id.as_str()),
            jail: None,
            payload: Payload::Agent(AgentConfig {
                default_user: user.unwrap_or_else(|| Owner::of_daemon().to_string()),
                task_dir: Some(spec.task_dir.clone().unwrap_or_else(|| place.data_dir.clone())),
                capabilities: None,
                no_new_privs: !spec.security.allow_new_privs,
                seccomp: Vec::new(),
                nofile: spec.resources.nofile.unwrap_or(nofile),
                forward_ports: Vec::new(),
                oom_score_adj: spec.oom_score_adj.unwrap_or(0),
                output_buffer_bytes: OUTPUT_BUFFER_BYTES,
            }),
        }
    }
}

#[async_trait]
impl Driver for ProcessDriver {
    fn describe(&self) -> Description {
        Description {
            name: NAME,
            record_version: record::VERSION,
            isolation: Isolation::Process,
            accelerator: None,
            abilities: if self.freezer().is_some() { vec!["pause"] } else { Vec::new() },
        }
    }

    fn probe(&self) -> Vec<Requirement> {
        let is_root = rustix::process::geteuid().is_root();
        vec![
            Requirement {
                name: "enabled".to_owned(),
                need: Need::Required,
                met: self.config.enabled,
                fact: if self.config.enabled { "enabled: workloads run without a sandbox" } else { "disabled" }
                    .to_owned(),
                fix: (!self.config.enabled).then(|| "set drivers = [\"container\", \"process\"]".to_owned()),
            },
            Requirement {
                name: "root".to_owned(),
                need: Need::Required,
                met: is_root,
                fact: format!("user id {}", rustix::process::geteuid().as_raw()),
                fix: (!is_root).then(|| "run the daemon as root".to_owned()),
            },
            Requirement {
                name: "cgroups".to_owned(),
                need: Need::Required,
                met: true,
                fact: format!("{} hierarchy", self.cgroups.layout()),
                fix: None,
            },
        ]
    }

    fn validate(&self, spec: &SandboxSpec) -> Result<()> {
        self.refuse_unless_enabled()?;
        refuse_what_needs_a_sandbox(spec)?;
        if spec.on_timeout == OnTimeout::Pause && self.freezer().is_none() {
            let why = "on_timeout: this host has no freezer cgroup, so nothing can be paused: kill";
            return Err(Error::new(ErrorKind::Unsupported, why));
        }
        if let Some(artifact) = &spec.artifact
            && !is_file_name(&artifact.name)
        {
            return Err(Error::invalid("artifact.name", format!("{:?} is not one file name", artifact.name)));
        }
        if let Some(cwd) = spec.main.as_ref().and_then(|main| main.cwd.as_deref())
            && !cwd.starts_with('/')
        {
            return Err(Error::invalid("main.cwd", format!("{cwd:?} is not absolute")));
        }
        if let Some(score) = spec.oom_score_adj
            && score > OOM_SCORE_MAX
        {
            return Err(Error::invalid("oom_score_adj", format!("{score} is not within 0 to {OOM_SCORE_MAX}")));
        }
        if let Some(nofile) = spec.resources.nofile
            && nofile > nofile_ceiling()
        {
            let why = format!("{nofile} is above the daemon's own hard limit of open files, {}", nofile_ceiling());
            return Err(Error::new(ErrorKind::Unsupported, format!("resources.nofile: {why}")));
        }
        Ok(self.cgroups.check(&self.limits(spec))?)
    }

    fn plan(&self, place: &Place, spec: &SandboxSpec) -> Vec<Resource> {
        // A directory that was there before stays when the workload goes.
        let made = spec.task_dir.is_none().then(|| Resource::Directory { path: place.data_dir.clone() });
        let mut plan = vec![Resource::Directory { path: place.run_dir.clone() }];
        plan.extend(made);
        plan.push(Resource::Cgroup { name: place.id.to_string() });
        plan
    }

    async fn create(&self, place: &Place, spec: &SandboxSpec) -> Result<Record> {
        self.validate(spec)?;
        let owner = owner(place, spec)?;
        make_private(&place.run_dir)?;
        match &spec.task_dir {
            Some(dir) => task_dir::check(dir)?,
            None => self.build(place, spec, owner).await?,
        }
        self.cgroups.create(place.id.as_str(), &self.limits(spec))?;
        let socket = place.run_dir.join("agent.sock");
        let listener = launch::listen(&socket)
            .map_err(|e| Error::caused_by(ErrorKind::Internal, format!("agent socket {}", socket.display()), e))?;
        let launched = launch::launch(&self.binary, &self.launch_config(place, spec), vec![listener])
            .await
            .map_err(|e| Error::caused_by(e.kind(), "launch", e))?;
        ProcessRecord { cgroup: place.id.to_string(), socket, process: launched.identity }.write()
    }

    async fn start(&self, record: &Record) -> Result<Arc<dyn Guest>> {
        match self.recover(record).await? {
            Recovered::Alive(guest) => Ok(guest),
            Recovered::Gone { detail } => Err(Error::new(ErrorKind::Guest, detail)),
            Recovered::Stowed => Err(Error::new(ErrorKind::Internal, "a process was found on disk")),
        }
    }

    async fn kill(&self, record: &Record) -> Result<()> {
        Ok(self.cgroups.kill(&ProcessRecord::read(record)?.cgroup).await?)
    }

    async fn release(&self, resource: &Resource) -> Result<()> {
        match resource {
            Resource::Directory { path } => {
                self.builds.ended(path).await;
                match tokio::fs::remove_dir_all(path).await {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        Err(Error::caused_by(ErrorKind::Internal, format!("remove {}", path.display()), e))
                    }
                    _ => Ok(()),
                }
            }
            Resource::Cgroup { name } => Ok(self.cgroups.remove(name).await?),
            Resource::Network(_) | Resource::UidRange { .. } => Err(fields::of_the_engine(resource)),
        }
    }

    async fn recover(&self, record: &Record) -> Result<Recovered> {
        let record = ProcessRecord::read(record)?;
        let failed = |e| Error::caused_by(ErrorKind::Internal, "look for the agent", e);
        let Some(pidfd) = record.process.open().map_err(failed)? else {
            // The agent is nobody's reaper any more; what it started may still run.
            self.cgroups.kill(&record.cgroup).await?;
            return Ok(Recovered::Gone { detail: format!("the agent's process {} has ended", record.process.pid) });
        };
        let endpoint = UnixEndpoint::new(record.socket, record.process.pid, pidfd).map_err(failed)?;
        // A paused workload is let go on for the moment of the greeting.
        let frozen = self.freezer().is_some() && self.cgroups.is_frozen(&record.cgroup)?;
        if frozen {
            self.cgroups.thaw(&record.cgroup)?;
        }
        let guest = AgentGuest::connect(Arc::new(endpoint), Vec::new()).await;
        if frozen {
            self.cgroups.freeze(&record.cgroup).await?;
        }
        Ok(Recovered::Alive(guest?))
    }

    async fn usage(&self, record: &Record) -> Result<Usage> {
        Ok(self.cgroups.usage(&ProcessRecord::read(record)?.cgroup)?)
    }

    fn freezer(&self) -> Option<&dyn Freezer> {
        self.cgroups.controller(Controller::Freezer).map(|_| self as &dyn Freezer)
    }
}

#[async_trait]
impl Freezer for ProcessDriver {
    async fn freeze(&self, record: &Record) -> Result<()> {
        Ok(self.cgroups.freeze(&ProcessRecord::read(record)?.cgroup).await?)
    }

    async fn thaw(&self, record: &Record) -> Result<()> {
        Ok(self.cgroups.thaw(&ProcessRecord::read(record)?.cgroup)?)
    }
}

/// Why there is nothing to set of a network.
const OF_THE_HOST: &str = "without a sandbox the network is the host's, which is not the node's to change";

/// Names the first field that asks for something only a sandbox has.
fn refuse_what_needs_a_sandbox(spec: &SandboxSpec) -> Result<()> {
    let unsupported = [
        (spec.isolation > Isolation::Process, "isolation", "the process driver isolates nothing"),
        (spec.root != RootSpec::Host, "root", "without a sandbox there is only the host's root: template host"),
        (spec.network.mode != NetworkMode::Host, "network", "without a sandbox there is only the host's network: host"),
        (spec.network.address.is_some(), "network.address", OF_THE_HOST),
        (spec.network.name.is_some(), "network.name", OF_THE_HOST),
        (spec.network.egress != EgressPolicy::default(), "network.egress", OF_THE_HOST),
        (!spec.network.publish.is_empty(), "network.publish", OF_THE_HOST),
        (spec.network.limits != NetworkLimits::default(), "network.limits", OF_THE_HOST),
        (spec.lasting.is_some(), "lasting", "without a sandbox there is only the host's root, which lasts by itself"),
        (spec.hostname.is_some(), "hostname", "without a sandbox there is only the host's name"),
        (!spec.host.is_none(), "host", "without a sandbox every namespace is the host's"),
        (
            !spec.binds.is_empty(),
            "binds",
            "without a sandbox the host's directories are where they are: use their paths",
        ),
        (
            spec.task_dir.is_some() && spec.artifact.is_some(),
            "artifact",
            "nothing is put into a task directory that was made before: the program is one of its files",
        ),
        (
            spec.task_dir.is_some() && spec.log_dir.is_some(),
            "log_dir",
            "nothing is put into a task directory that was made before",
        ),
        (!spec.forwards.is_empty(), "forwards", "without a sandbox there is no loopback of its own: connect directly"),
        (!spec.security.cap_add.is_empty(), "security.cap_add", "without a sandbox capabilities are those of the user"),
        (
            !spec.security.cap_drop.is_empty(),
            "security.cap_drop",
            "without a sandbox capabilities are those of the user",
        ),
        (spec.resources.disk_bytes.is_some(), "resources.disk_bytes", "without a sandbox files are on the host's disk"),
        (
            spec.resources.secrets_bytes.is_some(),
            "resources.secrets_bytes",
            "without a sandbox files are on the host's disk",
        ),
    ];
    match unsupported.into_iter().find(|(asked, ..)| *asked) {
        Some((_, field, why)) => Err(Error::new(ErrorKind::Unsupported, format!("{field}: {why}"))),
        None => Ok(()),
    }
}

/// Whom the workload's files belong to; refuses a user who could not reach them.
fn owner(place: &Place, spec: &SandboxSpec) -> Result<Owner> {
    let Some(asked) = spec.main.as_ref().and_then(|main| main.user.as_deref()) else { return Ok(Owner::of_daemon()) };
    let owner = Owner::find(asked)
        .ok_or_else(|| Error::invalid("main.user", format!("{asked:?} is not a user of this host")))?;
    match task_dir::barrier(spec.task_dir.as_deref().unwrap_or(&place.data_dir)) {
        Some(closed) if owner.uid != 0 => {
            let why = format!("{asked:?} cannot enter {}: chmod o+x {}", closed.display(), closed.display());
            Err(Error::new(ErrorKind::Denied, format!("main.user: {why}")))
        }
        _ => Ok(owner),
    }
}

fn make_private(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| Error::caused_by(ErrorKind::Internal, format!("make {}", dir.display()), e))
}

fn is_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

/// As many as the daemon itself may have; the node's default is brought down to it.
fn nofile_ceiling() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(1 << 20)
}

#[cfg(test)]
mod tests;
