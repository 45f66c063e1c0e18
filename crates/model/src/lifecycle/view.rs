//! What others see of a sandbox.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::spec::{OnTimeout, Origin, Resources};
use crate::{Cause, Exit, Isolation, Namespace, SandboxId, Timestamp};

/// The published picture of a sandbox. Readers refuse one with an older generation than they have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxView {
    /// Which.
    pub id: SandboxId,
    /// Grows with every change.
    pub generation: u64,
    /// Tenant.
    pub namespace: Namespace,
    /// As asked.
    pub labels: BTreeMap<String, String>,
    /// Where it is.
    pub phase: PhaseName,
    /// It is paused on disk, not in memory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stowed: bool,
    /// Isolation it was given.
    pub isolation: Isolation,
    /// What gives it, where that makes a difference: `kvm`, `tcg`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<String>,
    /// Driver that gives it.
    pub driver: String,
    /// When it was accepted; for one from a pool, claimed.
    pub created_at: Timestamp,
    /// When its main process started, or its agent was ready if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it could first be used; for one from a pool, when its claim was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<Timestamp>,
    /// When its life span ends. Absent without one, before it is ready, and while its clock stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// What is left of its life span while its clock stands: while it is paused or being captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining: Option<Duration>,
    /// Longest span without use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Duration>,
    /// What a time limit does.
    #[serde(default)]
    pub on_timeout: OnTimeout,
    /// Limits as asked.
    #[serde(default)]
    pub resources: Resources,
    /// Whose it is and where it came from.
    #[serde(default)]
    pub origin: Origin,
    /// Its address in the node's network, if it has one there; after its end, the one it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// When it reached a terminal phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// How its main process ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// Why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
}

impl SandboxView {
    /// The isolation it was given as replies state it: `container`, `microvm/kvm`.
    pub fn isolation_given(&self) -> String {
        match &self.accelerator {
            Some(accelerator) => format!("{}/{accelerator}", self.isolation),
            None => self.isolation.to_string(),
        }
    }
}

/// Name of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseName {
    /// Accepted; nothing exists yet.
    Pending,
    /// Its resources are being made.
    Preparing,
    /// Its agent or main process is being brought up.
    Starting,
    /// It runs.
    Running,
    /// It is frozen.
    Paused,
    /// It is being ended.
    Stopping,
    /// The daemon was restarted and is finding out what is left.
    Recovering,
    /// It ended, and nothing of it is left on the host. Terminal.
    Stopped,
    /// It could not start, or was lost, and nothing of it is left on the host. Terminal.
    Failed,
}

impl PhaseName {
    /// The phase never changes again.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Stopped | Self::Failed)
    }

    /// The word used in JSON, on the command line and in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Preparing => "preparing",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Recovering => "recovering",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

impl std::fmt::Display for PhaseName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
