//! How a program ended, and why a sandbox did.

use serde::{Deserialize, Serialize};

/// How a process ended, as the kernel reported it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit status; for death by signal `s` it is `128 + s`; `-1` if the status could not be learnt.
    pub code: i32,
    /// The signal that ended it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The kernel killed it, or a child of it, for memory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oom_killed: bool,
}

impl Exit {
    /// A normal exit.
    pub const fn code(code: i32) -> Self {
        Self { code, signal: None, oom_killed: false }
    }

    /// Death by a signal.
    pub const fn signal(signal: i32) -> Self {
        Self { code: 128 + signal, signal: Some(signal), oom_killed: false }
    }

    /// The agent that knew the status is gone.
    pub const fn unknown() -> Self {
        Self { code: -1, signal: None, oom_killed: false }
    }

    /// Ended by itself with status zero.
    pub const fn success(&self) -> bool {
        self.code == 0
    }
}

/// Why a sandbox ended: something its user can act on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum Cause {
    /// The main process ended by itself.
    Exited,
    /// The main process, or one of its children, was killed for exceeding its memory limit.
    OutOfMemory,
    /// A user or a policy asked it to stop.
    Stopped,
    /// It did not stop in the time it was given, and was killed.
    StopTimedOut,
    /// A user asked for it to be killed.
    Killed,
    /// A time limit of it passed.
    TimedOut {
        /// Which.
        #[serde(default)]
        limit: TimeLimit,
    },
    /// The agent inside died or stopped answering.
    AgentLost {
        /// What was observed.
        detail: String,
    },
    /// The host lost it while no daemon was watching: reboot, or somebody killed it.
    Lost {
        /// What was observed.
        detail: String,
    },
    /// It never ran.
    StartFailed {
        /// Which step failed.
        stage: String,
        /// The cause chain.
        detail: String,
    },
}

/// A limit on the time of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeLimit {
    /// Its life span.
    #[default]
    Absolute,
    /// Its time without use.
    Idle,
}

impl std::fmt::Display for TimeLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Absolute => "time limit",
            Self::Idle => "idle time limit",
        })
    }
}

impl Cause {
    /// One line for people.
    pub fn message(&self) -> String {
        match self {
            Self::Exited => "exited".to_owned(),
            Self::OutOfMemory => "killed: out of memory".to_owned(),
            Self::Stopped => "stopped".to_owned(),
            Self::StopTimedOut => "killed: did not stop within its grace period".to_owned(),
            Self::Killed => "killed".to_owned(),
            Self::TimedOut { limit } => format!("killed: {limit} reached"),
            Self::AgentLost { detail } => format!("agent lost: {detail}"),
            Self::Lost { detail } => format!("lost: {detail}"),
            Self::StartFailed { stage, detail } => format!("failed to start: {stage}: {detail}"),
        }
    }
}
