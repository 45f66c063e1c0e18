//! What is true of one sandbox here: the value that [`step`](super::step) turns into the next one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{CaptureKind, Deadlines, PhaseName, Rewiring, SandboxView, Stow, StowStep, Timeline};
use crate::network::NetworkLease;
use crate::spec::{Resources, Signal, StopSpec};
use crate::{Cause, Exit, Isolation, Lease, SandboxId, SandboxSpec, TimeLimit, Timestamp};

/// Everything known of a sandbox, apart from what its driver keeps for itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Which.
    pub id: SandboxId,
    /// As asked; a claim changes it.
    pub spec: Arc<SandboxSpec>,
    /// Driver that makes it.
    pub driver: String,
    /// Isolation that driver gives.
    pub isolation: Isolation,
    /// What gives it, where that makes a difference: `kvm`, `tcg`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<String>,
    /// Bounds of its waits.
    pub deadlines: Deadlines,
    /// Grows with every change of this value.
    pub generation: u64,
    /// Generation of the last change that others can see.
    pub view_generation: u64,
    /// Where it is.
    pub phase: Phase,
    /// What must be undone, in the order it was made.
    pub leases: Vec<Lease>,
    /// The driver's `create` succeeded: there is a record to kill and to recover by.
    pub created: bool,
    /// The main process was started.
    pub main_started: bool,
    /// All output of the main process was taken.
    pub drained: bool,
    /// Its record goes when it has ended.
    pub deleting: bool,
    /// When it was accepted; for one from a pool, claimed.
    pub created_at: Timestamp,
    /// When its main process started, or its agent was ready if it has none.
    pub started_at: Option<Timestamp>,
    /// When it could first be used; for one from a pool, when its claim was done.
    #[serde(default)]
    pub ready_at: Option<Timestamp>,
    /// When its life span ends. Absent without one, before it is ready, and while its clock stands.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// What is left of its life span while its clock stands.
    #[serde(default)]
    pub remaining: Option<Duration>,
    /// When it was last used. Alone among all fields it changes without a new generation, so it is written down only
    /// together with others: idle time counts from the daemon's last start at the earliest.
    #[serde(default)]
    pub last_use: Timestamp,
    /// The time limit it was, or is just being, paused for.
    #[serde(default)]
    pub expired: Option<TimeLimit>,
    /// Limits of a claim that are not in force yet.
    #[serde(default)]
    pub retuning: Option<Resources>,
    /// Limits that were asked for while it lives and are not in force yet; those in `spec` were before them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relimiting: Option<Resources>,
    /// Its place in the node's network. Kept when it has ended; by then the place may be another's.
    #[serde(default)]
    pub network: Option<NetworkLease>,
    /// A network that is asked for and not in force yet; the one in `spec` was before it.
    #[serde(default)]
    pub rewiring: Option<Rewiring>,
    /// When it reached a terminal phase.
    pub ended_at: Option<Timestamp>,
    /// How its main process ended.
    pub exit: Option<Exit>,
    /// What happened, step by step.
    pub timeline: Timeline,
}

/// Where a sandbox is; each phase owns only the data that exists then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "name", deny_unknown_fields)]
pub enum Phase {
    /// Accepted; nothing exists yet.
    Pending,
    /// The driver's `create` runs; every lease is recorded.
    Preparing {
        /// When it has taken too long.
        deadline: Timestamp,
    },
    /// Its agent, then its main process, is being brought up.
    Starting {
        /// Which of the two.
        step: StartStep,
        /// When that has taken too long.
        deadline: Timestamp,
    },
    /// It runs.
    Running {
        /// A freeze is under way.
        freezing: bool,
    },
    /// It is frozen, in memory.
    Paused {
        /// A thaw is under way.
        thawing: bool,
    },
    /// It is being paused to disk, or lies there.
    Stow(Stow),
    /// What others can be made from is being kept, while it is frozen.
    Capturing(Capturing),
    /// It is being ended.
    Stopping(Stopping),
    /// The daemon was restarted; the driver is looking for it.
    Recovering {
        /// When it counts as lost.
        deadline: Timestamp,
        /// What it goes on with when found.
        then: Then,
        /// Looks that failed, in a row.
        failures: u32,
        /// When to look again; absent while a look is under way.
        retry_at: Option<Timestamp>,
    },
    /// It ended, and nothing of it is left. Terminal.
    Stopped {
        /// Why.
        cause: Cause,
    },
    /// It could not start, or was lost, and nothing of it is left. Terminal.
    Failed {
        /// Why.
        cause: Cause,
    },
}

/// A capture under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capturing {
    /// How far it is.
    pub step: CaptureStep,
    /// It was paused before, and will be after.
    pub from_paused: bool,
    /// What is kept.
    #[serde(default)]
    pub kind: CaptureKind,
    /// File or directory it goes to.
    pub into: PathBuf,
}

/// The steps of a capture, in order. One that was paused has only the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaptureStep {
    /// It is being frozen.
    Freezing,
    /// The driver writes.
    Writing,
    /// It is let go on.
    Thawing,
}

/// What is being brought up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartStep {
    /// The agent.
    Agent,
    /// The main process.
    Main,
}

/// What a found sandbox goes on with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// Starting its main process.
    Start,
    /// Running.
    Run,
    /// Being frozen.
    Pause,
    /// Being paused to disk.
    Stow,
    /// Lying on disk, as it did when it was last seen.
    Lie,
    /// Being read back from disk, and running.
    Unstow,
    /// Being ended.
    Stop(Stopping),
}

/// The end under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stopping {
    /// Why it ends.
    pub cause: Cause,
    /// How far down it is.
    pub rung: Rung,
}

/// The rungs of the ladder down, in order. A sandbox enters where it must and never climbs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "name", deny_unknown_fields)]
pub enum Rung {
    /// A start under way is being abandoned. Bounded by the abort of one task.
    Settling,
    /// It was frozen, and must run to be ended in good order.
    Thawing {
        /// How its main process is then asked; absent: it is killed.
        ask: Option<Ask>,
    },
    /// The main process was asked to end.
    Asking(Ask),
    /// The main process was killed through the agent.
    Killing {
        /// When the driver kills everything from outside.
        deadline: Timestamp,
    },
    /// The main process ended; its output is being taken.
    Draining {
        /// When the rest is given up.
        deadline: Timestamp,
    },
    /// Everything in it is being ended.
    Destroying {
        /// The agent is asked first.
        polite: bool,
        /// Tries that failed, in a row.
        failures: u32,
        /// When to try again; absent while a try is under way.
        retry_at: Option<Timestamp>,
    },
    /// Nothing runs; the driver tells what was used, and whether memory was the reason.
    Measuring,
    /// Leases are being released, last one first.
    Releasing {
        /// Tries that failed, in a row.
        failures: u32,
        /// When to try again; absent while a try is under way.
        retry_at: Option<Timestamp>,
    },
}

/// A main process asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// By which signal.
    pub signal: Signal,
    /// Until when, before it is killed.
    pub deadline: Timestamp,
}

impl State {
    /// A sandbox that was just accepted.
    pub fn accepted(
        id: SandboxId,
        spec: SandboxSpec,
        driver: &str,
        isolation: Isolation,
        deadlines: Deadlines,
        at: Timestamp,
    ) -> Self {
        let mut timeline = Timeline::default();
        timeline.note(at, "accepted");
        Self {
            id,
            spec: Arc::new(spec),
            driver: driver.to_owned(),
            isolation,
            accelerator: None,
            deadlines,
            generation: 1,
            view_generation: 1,
            phase: Phase::Pending,
            leases: Vec::new(),
            created: false,
            main_started: false,
            drained: false,
            deleting: false,
            created_at: at,
            started_at: None,
            ready_at: None,
            expires_at: None,
            remaining: None,
            last_use: at,
            expired: None,
            retuning: None,
            relimiting: None,
            network: None,
            rewiring: None,
            ended_at: None,
            exit: None,
            timeline,
        }
    }

    /// What others see of it.
    pub fn view(&self) -> SandboxView {
        let cause = match &self.phase {
            Phase::Stopped { cause } | Phase::Failed { cause } => Some(cause.clone()),
            _ => None,
        };
        SandboxView {
            id: self.id.clone(),
            generation: self.view_generation,
            namespace: self.spec.namespace.clone(),
            labels: self.spec.labels.clone(),
            phase: match &self.phase {
                // Nothing of what it is for runs.
                Phase::Running { .. } if self.awaits_program() => PhaseName::Starting,
                phase => phase.name(),
            },
            stowed: self.is_stowed(),
            isolation: self.isolation,
            accelerator: self.accelerator.clone(),
            driver: self.driver.clone(),
            created_at: self.created_at,
            started_at: self.started_at,
            ready_at: self.ready_at,
            expires_at: self.expires_at,
            remaining: self.remaining,
            idle_timeout: self.spec.idle_timeout,
            on_timeout: self.spec.on_timeout,
            resources: self.spec.resources.clone(),
            origin: self.spec.origin.clone(),
            address: self.network.map(|lease| lease.address),
            ended_at: self.ended_at,
            // Told together with the cause: until the kernel was asked, an exit may still turn out to be for memory.
            exit: if cause.is_some() { self.exit } else { None },
            cause,
        }
    }

    /// The moment at which time itself changes something: an event `Ticked` is due then.
    pub fn deadline(&self) -> Option<Timestamp> {
        match &self.phase {
            Phase::Preparing { deadline } | Phase::Starting { deadline, .. } => Some(*deadline),
            Phase::Running { .. } => self.limit().map(|(at, _)| at),
            Phase::Recovering { deadline, retry_at, .. } => Some(retry_at.map_or(*deadline, |at| at.min(*deadline))),
            Phase::Stopping(stopping) => match &stopping.rung {
                Rung::Asking(ask) => Some(ask.deadline),
                Rung::Killing { deadline } | Rung::Draining { deadline } => Some(*deadline),
                Rung::Destroying { retry_at, .. } | Rung::Releasing { retry_at, .. } => *retry_at,
                Rung::Settling | Rung::Thawing { .. } | Rung::Measuring => None,
            },
            // A time limit that passes in a capture, or on the way to disk, is found passed after it.
            Phase::Capturing(_) | Phase::Paused { .. } | Phase::Stow(_) => None,
            Phase::Pending | Phase::Stopped { .. } | Phase::Failed { .. } => None,
        }
    }

    /// The main process was started and has not ended as far as is known.
    pub fn main_runs(&self) -> bool {
        self.main_started && self.exit.is_none()
    }

    /// It never changes again, except for being forgotten.
    pub fn is_terminal(&self) -> bool {
        self.phase.name().is_terminal()
    }

    /// How it is asked to stop if nobody says otherwise.
    pub fn stop_spec(&self) -> StopSpec {
        self.spec.stop
    }
}

impl Phase {
    /// Its published name.
    pub fn name(&self) -> PhaseName {
        match self {
            Self::Pending => PhaseName::Pending,
            Self::Preparing { .. } => PhaseName::Preparing,
            Self::Starting { .. } => PhaseName::Starting,
            Self::Running { .. } | Self::Capturing(Capturing { from_paused: false, .. }) => PhaseName::Running,
            Self::Stow(Stow { step: StowStep::Freezing, .. }) => PhaseName::Running,
            Self::Paused { .. } | Self::Capturing(_) | Self::Stow(_) => PhaseName::Paused,
            Self::Stopping(_) => PhaseName::Stopping,
            Self::Recovering { .. } => PhaseName::Recovering,
            Self::Stopped { .. } => PhaseName::Stopped,
            Self::Failed { .. } => PhaseName::Failed,
        }
    }

    /// Its name with the step or rung it is on, as the transition table writes it.
    pub fn spot(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Preparing { .. } => "preparing",
            Self::Starting { step: StartStep::Agent, .. } => "starting/agent",
            Self::Starting { step: StartStep::Main, .. } => "starting/main",
            Self::Running { freezing: false } => "running",
            Self::Running { freezing: true } => "running/freezing",
            Self::Paused { thawing: false } => "paused",
            Self::Paused { thawing: true } => "paused/thawing",
            Self::Stow(stow) => match stow.step {
                StowStep::Freezing => "stow/freezing",
                StowStep::Writing => "stow/writing",
                StowStep::Lying => "stow/lying",
                StowStep::Reading => "stow/reading",
            },
            Self::Capturing(capturing) => match capturing.step {
                CaptureStep::Freezing => "capturing/freezing",
                CaptureStep::Writing => "capturing/writing",
                CaptureStep::Thawing => "capturing/thawing",
            },
            Self::Stopping(stopping) => match stopping.rung {
                Rung::Settling => "stopping/settling",
                Rung::Thawing { .. } => "stopping/thawing",
                Rung::Asking(_) => "stopping/asking",
                Rung::Killing { .. } => "stopping/killing",
                Rung::Draining { .. } => "stopping/draining",
                Rung::Destroying { .. } => "stopping/destroying",
                Rung::Measuring => "stopping/measuring",
                Rung::Releasing { .. } => "stopping/releasing",
            },
            Self::Recovering { .. } => "recovering",
            Self::Stopped { .. } => "stopped",
            Self::Failed { .. } => "failed",
        }
    }
}
