//! A program that should run, and what becomes of it when it ends.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Exit;

/// What a workload is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadKind {
    /// Should run until it is stopped.
    Service,
    /// Runs to its end once.
    Job,
    /// Runs when called.
    Function,
}

/// How often and how soon a program that failed is started again.
///
/// The numbers: a crash loop must not cost more than one start a minute, and somebody must look after twelve
/// failures in a row. A run of `healthy_after` clears the count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartPolicy {
    /// Failures in a row after which it is given up.
    pub attempts_max: u32,
    /// Wait before the first restart; doubles each time.
    pub delay_initial: Duration,
    /// Longest wait.
    pub delay_max: Duration,
    /// A run of this length clears the count of failures.
    pub healthy_after: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            attempts_max: 12,
            delay_initial: Duration::from_millis(500),
            delay_max: Duration::from_secs(60),
            healthy_after: Duration::from_secs(120),
        }
    }
}

/// What to do with an essential workload whose program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It succeeded: leave it ended.
    Finished,
    /// Start it again after a wait; this is failure number `failures` in a row.
    Restart {
        /// How long to wait.
        after: Duration,
        /// Failures in a row, this one included.
        failures: u32,
    },
    /// It failed too often.
    GiveUp {
        /// Failures in a row, this one included.
        failures: u32,
    },
}

impl RestartPolicy {
    /// Decides from how it ended, how long it ran, and how many failures in a row came before.
    pub fn decide(&self, exit: Exit, ran_for: Duration, failures_before: u32) -> Verdict {
        if exit.success() {
            return Verdict::Finished;
        }
        let failures = if ran_for >= self.healthy_after { 1 } else { failures_before.saturating_add(1) };
        if failures > self.attempts_max {
            return Verdict::GiveUp { failures };
        }
        let doublings = failures.saturating_sub(1).min(31);
        let after = self.delay_initial.saturating_mul(1 << doublings).min(self.delay_max);
        Verdict::Restart { after, failures }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_back_off_and_end() {
        let policy = RestartPolicy::default();
        let short = Duration::from_secs(1);
        let delay = |before| match policy.decide(Exit::code(1), short, before) {
            Verdict::Restart { after, .. } => after.as_millis(),
            other => panic!("{other:?}"),
        };
        assert_eq!([delay(0), delay(1), delay(2), delay(11)], [500, 1000, 2000, 60_000]);
        assert_eq!(policy.decide(Exit::code(1), short, 12), Verdict::GiveUp { failures: 13 });
        assert_eq!(policy.decide(Exit::code(0), short, 12), Verdict::Finished);
        let long = Duration::from_secs(120);
        assert!(matches!(policy.decide(Exit::code(1), long, 12), Verdict::Restart { failures: 1, .. }));
    }
}
