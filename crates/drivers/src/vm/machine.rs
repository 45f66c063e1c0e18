//! What a record of a machine holds: paths, names and what was decided. Which process runs it is in a file of its own
//! ([`super::process`]), because that changes while the record does not.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use moat_agent::protocol::machine::GuestSetup;
use moat_engine::driver::{Place, Record};
use moat_engine::error::{Error, Result};
use moat_engine::fabric::NetworkPlace;
use moat_model::spec::{Artifact, Bind, Forward, Resources, RootLayer, RootSpec};
use moat_model::{ErrorKind, SandboxId, SandboxSpec, Timestamp};
use serde::{Deserialize, Serialize};

use super::config::MachineDefaults;
use super::setup::guest_setup;

/// A machine, as it was decided when it was created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Whose.
    pub id: SandboxId,
    /// Its directory on a tmpfs: sockets, the monitor's log and identity.
    pub run_dir: PathBuf,
    /// Its directory on disk: its disk, and all of it while it is stowed.
    pub data_dir: PathBuf,
    /// Its cgroup's name.
    pub cgroup: String,
    /// First host id of its range.
    pub uid_base: u32,
    /// Memory it sees.
    pub memory_bytes: u64,
    /// Processors it sees.
    pub vcpus: u32,
    /// Size of the disk it writes to.
    pub disk_bytes: u64,
    /// Read-only layers of its root, the lowest first.
    pub layers: Vec<RootLayer>,
    /// Limits asked for, should its cgroup have to be made anew.
    pub resources: Resources,
    /// Its link, if it has one.
    pub network: Option<NetworkPlace>,
    /// What its agent is told; the moment in it is that of its creation and is renewed when it is sent.
    pub setup: GuestSetup,
    /// What is put below `/local`.
    pub artifact: Option<Artifact>,
    /// What it may have the daemon connect to.
    pub forwards: Vec<Forward>,
    /// Directory of the machine it goes on as.
    pub restore: Option<PathBuf>,
    /// Where on the host its root is written to, if that outlives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasting: Option<PathBuf>,
    /// Directories of the host shown in such a root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub binds: Vec<Bind>,
}

impl Machine {
    /// What a spec comes to at a place.
    pub fn new(place: &Place, spec: &SandboxSpec, defaults: &MachineDefaults) -> Result<Self> {
        if place.uid_base == 0 {
            return Err(Error::new(ErrorKind::Internal, "a machine was given no range of user ids"));
        }
        if spec.network.is_wired() != place.network.is_some() {
            let made = if place.network.is_some() { "one" } else { "none" };
            let what = format!("network: {} was asked for and {made} was made", spec.network.mode);
            return Err(Error::new(ErrorKind::Internal, what));
        }
        Ok(Self {
            id: place.id.clone(),
            run_dir: place.run_dir.clone(),
            data_dir: place.data_dir.clone(),
            cgroup: place.id.as_str().to_owned(),
            uid_base: place.uid_base,
            memory_bytes: defaults.memory(&spec.resources),
            vcpus: defaults.vcpus(&spec.resources),
            disk_bytes: defaults.disk(&spec.resources),
            layers: layers(&spec.root),
            resources: spec.resources.clone(),
            network: place.network.clone(),
            setup: guest_setup(place, spec, defaults)?,
            artifact: spec.artifact.clone(),
            forwards: spec.forwards.clone(),
            restore: spec.restore.as_ref().map(|snapshot| snapshot.dir.clone()),
            lasting: spec.lasting.as_ref().map(|lasting| lasting.dir.clone()),
            binds: spec.binds.clone(),
        })
    }

    /// What a spec comes to wherever it is put: enough to say what it is made of, and no more.
    pub fn sketch(spec: &SandboxSpec, defaults: &MachineDefaults) -> Result<Self> {
        let link = NetworkPlace {
            netns: PathBuf::new(),
            address: Ipv4Addr::UNSPECIFIED,
            gateway: Ipv4Addr::UNSPECIFIED,
            search: String::new(),
            mac: [0; 6],
            gateway_mac: [0; 6],
            tap: String::new(),
        };
        let place = Place {
            id: SandboxId::from_parts(Timestamp::from_millis(0), [0; 10]),
            run_dir: PathBuf::new(),
            data_dir: PathBuf::new(),
            uid_base: 1,
            network: spec.network.is_wired().then_some(link),
        };
        Self::new(&place, spec, defaults)
    }

    /// Layers it has as disks of its own: none of a root the host puts together.
    pub fn layer_disks(&self) -> &[RootLayer] {
        if self.lasting.is_some() { &[] } else { &self.layers }
    }

    /// The file it writes to.
    pub fn disk(&self) -> PathBuf {
        self.data_dir.join("disk.ext4")
    }

    /// The directory it lies in while it is stowed.
    pub fn stowed(&self) -> PathBuf {
        self.data_dir.join("stowed")
    }

    /// What its monitor says; bounded.
    pub fn log(&self) -> PathBuf {
        self.run_dir.join("vmm.log")
    }

    /// There while the agent was told to stop everything of the user: a renewal has to come before they go on.
    fn quiesced_mark(&self) -> PathBuf {
        self.run_dir.join("quiesced")
    }

    /// Whether everything of the user was stopped from inside.
    pub fn is_quiesced(&self) -> bool {
        self.quiesced_mark().exists()
    }

    /// Notes it before the agent is told, and takes the note away after it was renewed.
    pub fn set_quiesced(&self, quiesced: bool) -> Result<()> {
        mark(&self.quiesced_mark(), quiesced)
    }

    /// There until a machine that goes on as this one has proved that it is this one.
    fn unnamed_mark(&self) -> PathBuf {
        self.run_dir.join("unnamed")
    }

    /// Whether the machine may still think that it is another.
    pub fn is_unnamed(&self) -> bool {
        self.unnamed_mark().exists()
    }

    /// Notes it before the machine goes on, and takes the note away after it has proved who it is.
    pub fn set_unnamed(&self, unnamed: bool) -> Result<()> {
        mark(&self.unnamed_mark(), unnamed)
    }

    /// As a record of a driver.
    pub fn to_record(&self, driver: &str, version: u32) -> Result<Record> {
        let data = serde_json::to_value(self)
            .map_err(|e| Error::caused_by(ErrorKind::Internal, "write the machine's record", e))?;
        Ok(Record { driver: driver.to_owned(), version, data })
    }

    /// Of a record of this driver.
    pub fn of(record: &Record, driver: &str, version: u32) -> Result<Self> {
        if record.driver != driver || record.version != version {
            let given = format!("record of driver {} version {}", record.driver, record.version);
            let why = format!("{given} given to driver {driver}, which writes version {version}");
            return Err(Error::new(ErrorKind::Internal, why));
        }
        serde_json::from_value(record.data.clone())
            .map_err(|e| Error::caused_by(ErrorKind::Internal, "read the machine's record", e))
    }
}

fn mark(path: &std::path::Path, there: bool) -> Result<()> {
    let done = if there { std::fs::write(path, "") } else { std::fs::remove_file(path) };
    match done {
        Err(e) if there || e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::caused_by(ErrorKind::Internal, format!("note in {}", path.display()), e))
        }
        _ => Ok(()),
    }
}

fn layers(root: &RootSpec) -> Vec<RootLayer> {
    match root {
        RootSpec::Layers { layers } => layers.clone(),
        RootSpec::Scratch | RootSpec::Host => Vec::new(),
    }
}
