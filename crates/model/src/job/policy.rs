//! Numbers by which instances are restarted, replaced, updated and moved.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a node does when a task ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restart {
    /// Restarts within `interval`.
    pub attempts: u32,
    /// The window they are counted in.
    pub interval: Duration,
    /// Wait before each, plus up to a quarter of it by chance.
    pub delay: Duration,
    /// What happens when they are used up.
    pub mode: RestartMode,
}

/// What happens when the restarts of an interval are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RestartMode {
    /// The allocation has failed; another may be placed.
    Fail,
    /// Goes on when the interval is over.
    Delay,
}

/// What the controller does when an allocation has failed on its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reschedule {
    /// Replacements within `interval`; no bound if `unlimited`.
    pub attempts: u32,
    /// The window they are counted in.
    pub interval: Duration,
    /// Wait before the first; at least 5 s.
    pub delay: Duration,
    /// How it grows.
    pub delay_function: DelayFunction,
    /// Longest wait.
    pub max_delay: Duration,
    /// For ever.
    pub unlimited: bool,
}

/// How waits grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DelayFunction {
    /// Always the same.
    Constant,
    /// Doubles.
    Exponential,
    /// Each the sum of the two before.
    Fibonacci,
}

/// How a new version replaces the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Update {
    /// Replaced at once.
    pub max_parallel: u32,
    /// What healthy means.
    pub health_check: HealthCheck,
    /// How long it has to stay so.
    pub min_healthy_time: Duration,
    /// Not healthy by then: unhealthy.
    pub healthy_deadline: Duration,
    /// Nothing got healthy for this long: the deployment has failed. Zero: the first unhealthy one fails it.
    pub progress_deadline: Duration,
    /// Go back to the last stable version when it fails.
    pub auto_revert: bool,
    /// Go on when all canaries are healthy.
    pub auto_promote: bool,
    /// New instances beside the old ones before anything is replaced.
    pub canary: u32,
}

/// What makes an allocation healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthCheck {
    /// All tasks run and all checks pass.
    Checks,
    /// All tasks run.
    TaskStates,
    /// Somebody says so.
    Manual,
}

/// How instances leave a node that drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Migrate {
    /// Moved at once.
    pub max_parallel: u32,
    /// What healthy means for a successor.
    pub health_check: HealthCheck,
    /// How long it has to stay so.
    pub min_healthy_time: Duration,
    /// Not healthy by then: counted as moved.
    pub healthy_deadline: Duration,
}

impl Default for Migrate {
    fn default() -> Self {
        Self {
            max_parallel: 1,
            health_check: HealthCheck::Checks,
            min_healthy_time: Duration::from_secs(10),
            healthy_deadline: Duration::from_secs(300),
        }
    }
}

/// What happens to instances on a node that is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disconnect {
    /// Others are placed elsewhere. Where this is so the node freezes its instances before that can happen, and they go on
    /// only when it has learnt that they were not replaced. Otherwise they run on, and nothing replaces them.
    pub replace: bool,
    /// The node stops them after being cut off this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_on_client_after: Option<Duration>,
}

impl Default for Disconnect {
    fn default() -> Self {
        Self { replace: true, stop_on_client_after: None }
    }
}

/// Started by the clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Periodic {
    /// Cron expressions; any of them starts it.
    pub crons: Vec<String>,
    /// Not while the last one runs.
    pub prohibit_overlap: bool,
    /// IANA name of the time zone they are read in.
    pub time_zone: String,
    /// Off: known and never started.
    pub enabled: bool,
}

/// Started by `dispatch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameterized {
    /// Whether a payload comes along.
    pub payload: Payload,
    /// Keys of `meta` a dispatch must bring.
    pub meta_required: Vec<String>,
    /// Keys of `meta` it may bring.
    pub meta_optional: Vec<String>,
}

/// Whether a dispatch brings a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Payload {
    /// It may.
    Optional,
    /// It must.
    Required,
    /// It must not.
    Forbidden,
}
