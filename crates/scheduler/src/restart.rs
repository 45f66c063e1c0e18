//! Whether a node starts a task again that has ended: a pure function, used by whoever runs allocations.

use std::time::Duration;

use moat_model::Timestamp;
use moat_model::job::{Restart, RestartMode};
use serde::{Deserialize, Serialize};

/// What is remembered of a task's restarts. Written down with the task, so that a daemon's death is no new beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    /// Ends that counted in this interval.
    pub counted: u32,
    /// When the interval began: with the first end that counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It was stopped because it should not run any more.
    Killed,
    /// Somebody, or a changed template, wants it started anew.
    RestartAsked,
    /// It ended by itself with 0.
    Success,
    /// It ended otherwise, or its checks failed for too long.
    Failure,
    /// It could not be started, and trying again may help.
    StartFailed,
    /// It could not be started, and never will be.
    StartImpossible,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is started again.
    Restart {
        /// After this long.
        after: Duration,
        /// For people.
        reason: String,
    },
    /// It is dead.
    Dead {
        /// Its allocation has failed.
        failed: bool,
        /// For people.
        reason: String,
    },
}

/// Decides. `on_success`: an end with 0 is followed by a start (service and system jobs' main tasks and sidecars).
/// `jitter` is 0 to 65535, by chance: up to a quarter is added to the wait.
pub fn decide(
    policy: &Restart,
    on_success: bool,
    history: &mut History,
    ending: Ending,
    now: Timestamp,
    jitter: u16,
) -> Decision {
    match ending {
        Ending::Killed => return dead(false, "it was stopped".to_owned()),
        Ending::RestartAsked => return again(Duration::ZERO, "a restart was asked for".to_owned()),
        Ending::Success if !on_success => return dead(false, "it has ended as it should".to_owned()),
        Ending::StartImpossible => {
            return dead(true, "it cannot be started, and trying again would not help".to_owned());
        }
        Ending::Success | Ending::Failure | Ending::StartFailed => {}
    }
    if policy.attempts == 0 {
        return dead(true, "its restart policy permits no restarts".to_owned());
    }
    let since = match history.since {
        Some(since) if now.since(since) < policy.interval => since,
        _ => {
            history.counted = 0;
            now
        }
    };
    history.since = Some(since);
    history.counted = history.counted.saturating_add(1);
    if history.counted <= policy.attempts {
        let quarter = policy.delay / 4;
        let by_chance = quarter.mul_f64(f64::from(jitter) / f64::from(u16::MAX));
        return again(policy.delay.saturating_add(by_chance), "it is within its restart policy".to_owned());
    }
    let used_up = format!("{} restarts within {}s are used up", policy.attempts, policy.interval.as_secs());
    match policy.mode {
        RestartMode::Fail => dead(true, format!("{used_up}, and the mode is \"fail\"")),
        RestartMode::Delay => {
            let over = since.plus(policy.interval);
            again(over.since(now), format!("{used_up}, and the mode is \"delay\""))
        }
    }
}

fn again(after: Duration, reason: String) -> Decision {
    Decision::Restart { after, reason }
}

fn dead(failed: bool, reason: String) -> Decision {
    Decision::Dead { failed, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn policy(attempts: u32, mode: RestartMode) -> Restart {
        Restart { attempts, interval: Duration::from_secs(60), delay: Duration::from_secs(8), mode }
    }

    /// J01: the eight branches of A21.
    #[test]
    fn j01_each_branch_decides_as_the_table_says() {
        let fail = policy(2, RestartMode::Fail);
        let late = History { counted: 2, since: Some(Timestamp::from_millis(1_000_000 - 20_000)) };
        let old = History { counted: 2, since: Some(Timestamp::from_millis(1_000_000 - 60_000)) };
        let seconds = Duration::from_secs;
        // policy, starts after success, history, ending -> Some(wait) or dead(failed), counted afterwards
        let table = [
            ("killed", fail, true, late, Ending::Killed, Err(false), 2),
            ("asked", fail, false, late, Ending::RestartAsked, Ok(seconds(0)), 2),
            ("none permitted", policy(0, RestartMode::Fail), true, History::default(), Ending::Failure, Err(true), 0),
            ("new interval", fail, true, old, Ending::Failure, Ok(seconds(8)), 1),
            ("cannot start", fail, true, History::default(), Ending::StartImpossible, Err(true), 0),
            ("success of a batch task", fail, false, late, Ending::Success, Err(false), 2),
            ("used up, fail", fail, true, late, Ending::Failure, Err(true), 3),
            ("used up, delay", policy(2, RestartMode::Delay), true, late, Ending::StartFailed, Ok(seconds(40)), 3),
            ("within", fail, true, History::default(), Ending::Success, Ok(seconds(8)), 1),
        ];
        for (name, policy, on_success, mut history, ending, expected, counted) in table {
            let given = match decide(&policy, on_success, &mut history, ending, NOW, 0) {
                Decision::Restart { after, .. } => Ok(after),
                Decision::Dead { failed, .. } => Err(failed),
            };
            assert_eq!((given, history.counted), (expected, counted), "{name}");
        }
    }

    #[test]
    fn chance_adds_at_most_a_quarter() {
        let mut history = History::default();
        let given = decide(&policy(2, RestartMode::Fail), true, &mut history, Ending::Failure, NOW, u16::MAX);
        assert_eq!(given, again(Duration::from_secs(10), "it is within its restart policy".to_owned()));
    }

    #[test]
    fn the_reason_of_giving_up_carries_attempts_interval_and_mode() {
        let mut history = History { counted: 2, since: Some(NOW) };
        let Decision::Dead { reason, failed: true } =
            decide(&policy(2, RestartMode::Fail), true, &mut history, Ending::Failure, NOW, 0)
        else {
            panic!("it is given up")
        };
        assert_eq!(reason, "2 restarts within 60s are used up, and the mode is \"fail\"");
    }
}
