//! The driver contract: one way of isolating.
//!
//! A driver is a shareable value that holds **no per-sandbox state**. The engine's actor calls it for one sandbox at a
//! time, so an implementation needs no locks of its own; calls for different sandboxes run concurrently.
//!
//! Order of calls, as the engine makes them:
//!
//! ```text
//! describe, probe            at start-up and on demand
//! validate                   at admission; nothing exists yet
//! plan                       -> every resource the sandbox will hold, recorded as intended
//! create                     -> a Record; the resources are recorded as held
//! start                      -> a Guest: the agent inside has answered
//!   (Guest::start_main, exec, wait, ...)
//! kill                       at any time after create, any number of times
//! release                    for each resource, in reverse order; until it says yes
//! recover                    from a Record alone, after the daemon was restarted
//! ```
//!
//! What every driver promises:
//!
//! 1. `validate` names the field it cannot honour. Ignoring a limit is a bug; refusing is right.
//! 2. `plan` is pure and complete: whatever `create` leaves behind when the daemon is killed in the middle of it can be
//!    removed by releasing the planned resources, and by nothing else.
//! 3. `create` builds everything up to the last step before the user's code. If it fails, it may leave anything planned.
//! 4. The `Record` it returns is versioned, serialisable and enough to find the thing again. Identity of a process is pid
//!    *and* start time, never a bare pid.
//! 5. `kill` is certain, quick and idempotent: when it returns, nothing of the sandbox runs. It succeeds if nothing did.
//! 6. `release` is idempotent, succeeds if the resource is already gone, and fails rather than forgets.
//! 7. `usage` may be called beside any other call for the same sandbox. The other calls come one at a time.
//! 8. Any of these futures may be dropped at any await; the next call must still be possible.
//! 9. A driver never retries, counts, names or times out on its own: that is policy, and the engine's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use moat_model::spec::Resources;
use moat_model::{Isolation, Resource, SandboxId, SandboxSpec};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::fabric::NetworkPlace;
use crate::guest::Guest;

/// One way of isolating. See the module for the contract.
#[async_trait]
pub trait Driver: Send + Sync + std::fmt::Debug {
    /// Name, version, what it can do. Pure.
    fn describe(&self) -> Description;

    /// Examines this host and returns every requirement, met or not, with the fact that decided it. No side effects.
    fn probe(&self) -> Vec<Requirement>;

    /// Says which field of `spec` this driver cannot honour on this host.
    fn validate(&self, spec: &SandboxSpec) -> Result<()>;

    /// Names everything `create` will make for this sandbox, in the order it will be made. Pure. A range of user ids is
    /// not among it: the engine has taken one before it asks.
    fn plan(&self, place: &Place, spec: &SandboxSpec) -> Vec<Resource>;

    /// Builds the sandbox up to the last step before user code runs.
    async fn create(&self, place: &Place, spec: &SandboxSpec) -> Result<Record>;

    /// Brings it to the point where its agent answers. Called once after `create`.
    async fn start(&self, record: &Record) -> Result<Arc<dyn Guest>>;

    /// Ends everything that runs in it, now.
    async fn kill(&self, record: &Record) -> Result<()>;

    /// Removes one resource named by `plan`; for a control group, whatever runs in it is killed first, because a create
    /// that was given up has no record to kill by. Not called for [`Resource::UidRange`] and [`Resource::Network`].
    async fn release(&self, resource: &Resource) -> Result<()>;

    /// Finds the sandbox again. One that may be frozen is thawed before this is asked. One that lies on disk is left there.
    /// If the daemon died in the middle of a stow or an unstow, what is found decides: where what lies on disk is whole and
    /// nothing else is certain, it is stowed, and whatever was reading it back is ended first; otherwise it is alive or gone.
    async fn recover(&self, record: &Record) -> Result<Recovered>;

    /// What it has used, and whether the kernel killed anything in it for memory. Works after its processes ended, as
    /// long as its resources are held.
    async fn usage(&self, record: &Record) -> Result<Usage>;

    /// Ability: stop it from being scheduled, and let it go on.
    fn freezer(&self) -> Option<&dyn Freezer> {
        None
    }

    /// Ability: keep what was changed in its file system.
    fn capturer(&self) -> Option<&dyn Capturer> {
        None
    }

    /// Ability: change its limits while it lives.
    fn tuner(&self) -> Option<&dyn Tuner> {
        None
    }

    /// Ability: have it lie on disk instead of in memory.
    fn stower(&self) -> Option<&dyn Stower> {
        None
    }

    /// Ability: keep the state of the whole machine, so that others can be made from it.
    fn snapshotter(&self) -> Option<&dyn Snapshotter> {
        None
    }
}

/// Ability to move a frozen sandbox from memory to disk and back: the lowest rung of the pause ladder.
///
/// What lies on disk is in the sandbox's own directories, named by `plan`; its record stays as it is. `kill` and `release`
/// work on a stowed sandbox too, [`Freezer::thaw`] leaves it where it is and succeeds, and `recover` says
/// [`Recovered::Stowed`]. Both calls may be dropped in the middle: after a `stow` that was, or that failed, comes `freeze`,
/// `thaw` or `kill`, after such an `unstow` `recover` or `kill`. The agent's connection ends when the memory is given back; nobody takes that for a loss.
#[async_trait]
pub trait Stower: Send + Sync {
    /// Writes a frozen sandbox to disk, synced, and then ends what ran it: its memory goes back to the host. If this fails,
    /// it is frozen still. Idempotent.
    async fn stow(&self, record: &Record) -> Result<()>;
    /// Brings it back. Its clock is right and its randomness fresh before anything of the user runs; it has the same identity.
    /// If this fails, it is stowed still: what lies on disk is removed no earlier than it runs. Where that cannot be,
    /// because it ran already, `recover`, which is asked next, says that it is gone.
    async fn unstow(&self, record: &Record) -> Result<Arc<dyn Guest>>;
}

/// Ability to keep the whole machine. Sandboxes are made from what was kept by [`SandboxSpec::restore`]: `create` puts one
/// in place and `start` returns when it has a new identity (host name, machine id, address, hardware address), fresh
/// randomness and the right time; nothing of the user runs before that, and a guest that does not confirm it is killed.
#[async_trait]
pub trait Snapshotter: Send + Sync {
    /// Writes a frozen sandbox into the new directory `into`, synced, with a manifest of what it needs. The sandbox is frozen
    /// afterwards, and may run for moments in between, in which nothing of the user's does. If this fails or is dropped, what is
    /// there is the caller's to remove, and `freeze`, `thaw` or `kill` comes next.
    async fn snapshot(&self, record: &Record, into: &Path) -> Result<Captured>;
}

/// User inside a sandbox's range of ids that a virtual machine monitor runs as, and that owns the link it is given.
pub const VMM_UID: u32 = 1000;

/// Ability to keep what was changed in a sandbox's file system as a layer another sandbox can be made from.
#[async_trait]
pub trait Capturer: Send + Sync {
    /// Writes everything changed above the layers of its root to a new erofs file `into`, as an overlay layer, synced.
    /// Nothing in the sandbox runs meanwhile: the engine has frozen it. `into` does not exist yet; if this fails or is
    /// dropped, what is there is the caller's to remove, and `freeze`, `thaw` or `kill` comes next. Ids in it are those inside
    /// the sandbox.
    async fn capture(&self, record: &Record, into: &Path) -> Result<Captured>;
}

/// What was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// Size of the file, or of everything in the directory.
    pub bytes: u64,
    /// Files, directories, links and whiteouts in it; of a machine, the files it is kept in.
    pub entries: u64,
    /// The state of its processes was kept too.
    pub memory: bool,
}

/// Ability to change the limits of a sandbox while it lives.
#[async_trait]
pub trait Tuner: Send + Sync {
    /// Sets every limit that is present; what is absent stays. Names the field it cannot change on a live sandbox.
    fn validate_live(&self, resources: &Resources) -> Result<()>;
    /// Does it. Idempotent. A lower memory limit than what is in use fails rather than kills.
    async fn tune(&self, record: &Record, resources: &Resources) -> Result<()>;
}

/// Ability to stop a sandbox from being scheduled.
#[async_trait]
pub trait Freezer: Send + Sync {
    /// Returns when nothing in it runs any more. Idempotent.
    async fn freeze(&self, record: &Record) -> Result<()>;
    /// Lets it go on. Idempotent, and succeeds for one that lies on disk or in which nothing runs.
    async fn thaw(&self, record: &Record) -> Result<()>;
}

/// What a driver is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Description {
    /// Name it is registered and recorded under.
    pub name: &'static str,
    /// Version of its record format.
    pub record_version: u32,
    /// What it gives.
    pub isolation: Isolation,
    /// What gives it, where that makes a difference a user must know of: `kvm`, `tcg`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<&'static str>,
    /// Abilities beyond the contract, by name.
    pub abilities: Vec<&'static str>,
}

/// One thing a driver needs from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirement {
    /// Short name, `user namespaces`.
    pub name: String,
    /// How bad it is if it is not met.
    pub need: Need,
    /// Whether it is met.
    pub met: bool,
    /// What was looked at and found.
    pub fact: String,
    /// The command that would fix it, if it is not met.
    pub fix: Option<String>,
}

/// How bad an unmet requirement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// Without it the driver is not offered.
    Required,
    /// Without it some limit or ability is refused when asked for.
    Optional,
}

/// Where a sandbox is put: what the engine decided before the driver is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its id.
    pub id: SandboxId,
    /// Private directory on a tmpfs that survives the daemon (`/run/moat/sandboxes/<id>`). Planned by the driver.
    pub run_dir: PathBuf,
    /// Private directory on disk (`/var/lib/moat/alloc/<id>`). Planned by the driver if it uses it.
    pub data_dir: PathBuf,
    /// First host user id of its range of 65,536. Zero: none was asked for.
    pub uid_base: u32,
    /// Its place in the node's network, if it has one; made before `create` is called. Without one, and unless it is to
    /// have the host's, it gets a network namespace of its own that holds a loopback and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkPlace>,
}

/// What `create` made: opaque to the engine, enough for the driver to find the thing again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Name of the driver that wrote it.
    pub driver: String,
    /// Version of `data`.
    pub version: u32,
    /// The driver's own.
    pub data: serde_json::Value,
}

/// What is left of a sandbox after the daemon was away.
#[derive(Debug)]
pub enum Recovered {
    /// Its agent answers; whether its main process still runs, the agent knows.
    Alive(Arc<dyn Guest>),
    /// Nothing runs, because it lies on disk.
    Stowed,
    /// Nothing runs.
    Gone {
        /// What was observed.
        detail: String,
    },
}

/// What a sandbox has used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Memory now.
    pub memory_bytes: u64,
    /// Memory at its highest, if the kernel tells.
    pub memory_peak_bytes: Option<u64>,
    /// CPU time, user and system.
    pub cpu_usec: u64,
    /// Processes and threads now.
    pub pids: u64,
    /// Times the kernel killed something in it for memory.
    pub oom_kills: u64,
}
