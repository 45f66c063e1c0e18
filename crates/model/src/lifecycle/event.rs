//! What can happen to a sandbox, and what is done about it.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rewire::Rewiring;
use crate::network::NetworkSpec;
use crate::spec::{ClaimSpec, Resources, Signal, StopSpec};
use crate::{Exit, Resource, Timestamp};

/// Something that happened, and when. The only way in which anything changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When, by the clock of whoever saw it.
    pub at: Timestamp,
    /// What.
    pub fact: Fact,
}

impl Event {
    /// A fact at a moment.
    pub fn new(at: Timestamp, fact: Fact) -> Self {
        Self { at, fact }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// The driver named what it will make.
    Planned(Vec<Resource>),
    /// The driver made it.
    Created,
    /// The driver could not make it.
    CreateFailed(String),
    /// The agent answers.
    AgentReady,
    /// The agent could not be brought up.
    AgentStartFailed(String),
    /// The main process runs.
    MainStarted,
    /// The main process could not be started.
    MainStartFailed(String),
    /// The start under way was given up, and nothing of it runs on.
    StartAbandoned,
    /// The main process ended.
    MainExited(Exit),
    /// All output of the main process was taken.
    Drained,
    /// The agent is gone.
    AgentLost(String),
    /// A signal could not be delivered.
    SignalFailed(String),
    /// Nothing in it is scheduled any more.
    Frozen,
    /// It could not be frozen.
    FreezeFailed(String),
    /// It is scheduled again.
    Thawed,
    /// It could not be thawed.
    ThawFailed(String),
    /// It lies on disk, and nothing of it runs.
    Stowed,
    /// It could not be written to disk; it is frozen still.
    StowFailed(String),
    /// It was read back, and runs.
    Unstowed,
    /// It could not be read back; it lies on disk still.
    UnstowFailed(String),
    /// It could not be read back, and what lay on disk is of no use any more.
    UnstowLost(String),
    /// What was to be kept of it is kept.
    Captured,
    /// It could not be kept.
    CaptureFailed(String),
    /// New limits are in force.
    Retuned,
    /// They could not be set.
    RetuneFailed(String),
    /// Another network is in force.
    Rewired,
    /// It could not be given; the one before is in force still.
    RewireFailed(String),
    /// It could not be given, and whether the one before is in force is not known.
    RewireInDoubt(String),
    /// Nothing in it runs any more.
    Destroyed,
    /// Something may still run.
    DestroyFailed(String),
    /// The driver was asked what it used.
    Measured {
        /// Times the kernel killed something in it for memory; absent if the driver could not say.
        oom_kills: Option<u64>,
    },
    /// A resource is gone.
    Released(Resource),
    /// A resource may still be there.
    ReleaseFailed(Resource, String),
    /// The daemon was restarted and has read the record.
    Restarted,
    /// The driver found it, and its agent answers.
    Adopted(MainSeen),
    /// The driver found it on disk.
    FoundStowed,
    /// The driver found that nothing of it runs.
    FoundGone(String),
    /// The driver could not say.
    RecoverFailed(String),
    /// The record could not be written while the sandbox was being brought up, claimed, or given another network.
    RecordUnwritable(String),
    /// The actor of this sandbox broke and was replaced; nothing it was doing goes on.
    ActorBroken(String),
    /// Time passed.
    Ticked,
    /// Somebody asked for something.
    Requested(Request),
}

/// What an adopted agent says of the main process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MainSeen {
    /// None was started.
    Idle,
    /// It runs.
    Running,
    /// It ended.
    Exited(Exit),
}

/// What may be asked of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// End in good order.
    Stop(StopSpec),
    /// End now.
    Kill,
    /// Stand still.
    Pause(PauseTo),
    /// Go on.
    Resume {
        /// With this life span; absent: with what was left, or, if it was paused for a time limit, the spec's again.
        timeout: Option<Duration>,
    },
    /// Live longer. Also a use.
    Keepalive {
        /// Life span from now; absent: the spec's.
        span: Option<Duration>,
        /// Also if that is earlier than what it has.
        shorten: bool,
    },
    /// Be somebody's: only a member of a pool.
    Claim(Box<ClaimSpec>),
    /// Have another network: rules, names, ports, limits.
    Rewire(Box<NetworkSpec>),
    /// Have other limits; what is absent stays.
    Relimit(Box<Resources>),
    /// Keep what others can be made from.
    Capture {
        /// What of it.
        kind: CaptureKind,
        /// In this file, or this directory for a machine; it is new.
        into: PathBuf,
    },
    /// End, from whatever phase, and be forgotten.
    Delete,
    /// Something that needs a live agent: exec, files. Changes nothing but the moment of its last use.
    Use,
}

/// How deep a pause is. Resuming picks whatever level it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseTo {
    /// It stays in memory, frozen: it goes on in no time.
    #[default]
    Memory,
    /// It is written to disk, and its memory goes back to the host.
    Disk,
}

/// What a capture keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaptureKind {
    /// What was changed in its file system, as a layer.
    #[default]
    Files,
    /// The whole machine, memory and disks.
    Machine,
}

impl Fact {
    /// Its name in the transition table.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Planned(_) => "planned",
            Self::Created => "created",
            Self::CreateFailed(_) => "create failed",
            Self::AgentReady => "agent ready",
            Self::AgentStartFailed(_) => "agent start failed",
            Self::MainStarted => "main started",
            Self::MainStartFailed(_) => "main start failed",
            Self::StartAbandoned => "start abandoned",
            Self::MainExited(_) => "main exited",
            Self::Drained => "drained",
            Self::AgentLost(_) => "agent lost",
            Self::SignalFailed(_) => "signal failed",
            Self::Frozen => "frozen",
            Self::FreezeFailed(_) => "freeze failed",
            Self::Thawed => "thawed",
            Self::ThawFailed(_) => "thaw failed",
            Self::Stowed => "stowed",
            Self::StowFailed(_) => "stow failed",
            Self::Unstowed => "unstowed",
            Self::UnstowFailed(_) => "unstow failed",
            Self::UnstowLost(_) => "unstow lost",
            Self::Captured => "captured",
            Self::CaptureFailed(_) => "capture failed",
            Self::Retuned => "retuned",
            Self::RetuneFailed(_) => "retune failed",
            Self::Rewired => "rewired",
            Self::RewireFailed(_) => "rewire failed",
            Self::RewireInDoubt(_) => "rewire in doubt",
            Self::Destroyed => "destroyed",
            Self::DestroyFailed(_) => "destroy failed",
            Self::Measured { .. } => "measured",
            Self::Released(_) => "released",
            Self::ReleaseFailed(..) => "release failed",
            Self::Restarted => "daemon restarted",
            Self::Adopted(_) => "adopted",
            Self::FoundStowed => "found on disk",
            Self::FoundGone(_) => "found gone",
            Self::RecoverFailed(_) => "recover failed",
            Self::RecordUnwritable(_) => "record unwritable",
            Self::ActorBroken(_) => "actor broken",
            Self::Ticked => "time passed",
            Self::Requested(Request::Stop(_)) => "stop requested",
            Self::Requested(Request::Kill) => "kill requested",
            Self::Requested(Request::Pause(PauseTo::Memory)) => "pause requested",
            Self::Requested(Request::Pause(PauseTo::Disk)) => "pause to disk requested",
            Self::Requested(Request::Resume { .. }) => "resume requested",
            Self::Requested(Request::Keepalive { .. }) => "keepalive requested",
            Self::Requested(Request::Claim(_)) => "claim requested",
            Self::Requested(Request::Rewire(_)) => "rewire requested",
            Self::Requested(Request::Relimit(_)) => "relimit requested",
            Self::Requested(Request::Capture { .. }) => "capture requested",
            Self::Requested(Request::Delete) => "delete requested",
            Self::Requested(Request::Use) => "use requested",
        }
    }
}

/// What is to be done. Its result comes back as an event; each may be done twice, after a crash in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The network's `attach`, then the driver's `create`.
    Create,
    /// The driver's `start`.
    StartAgent,
    /// The agent's `start_main`.
    StartMain,
    /// Give up `Create`, `StartAgent` or `StartMain`, whichever is under way; always answered by its result or by
    /// `StartAbandoned`.
    AbandonStart,
    /// Watch for the agent's end.
    WatchAgent,
    /// Watch for the main process's end, and take its output.
    WatchMain,
    /// Signal the main process.
    Signal(Signal),
    /// The driver's freezer.
    Freeze,
    /// The driver's freezer.
    Thaw,
    /// The driver's stower.
    Stow,
    /// Give up `Stow`, if it is under way.
    AbandonStow,
    /// The driver's stower.
    Unstow,
    /// The driver's capturer, into this file, or its snapshotter, into this directory.
    Capture {
        /// Which of the two.
        kind: CaptureKind,
        /// Where to.
        into: PathBuf,
    },
    /// Give up `Capture`, if it is under way.
    AbandonCapture,
    /// The driver's tuner.
    Retune(Resources),
    /// The network's `change`.
    Rewire(Box<Rewiring>),
    /// End everything in it: ask the agent, if polite and there is one, then the driver's `kill`. Gives up `Rewire`,
    /// `Stow` and `Unstow`.
    Destroy {
        /// Whether to ask the agent first.
        polite: bool,
    },
    /// The driver's `usage`.
    Measure,
    /// The driver's `release`, the network's `detach`, or the engine's own for a range of user ids.
    Release(Resource),
    /// The driver's `recover`.
    Recover {
        /// It may be frozen, and a frozen agent cannot answer: thaw it first. One that lies on disk stays there.
        thaw: bool,
    },
    /// Remove the record, once everything was told.
    Forget,
}
