//! Whether an allocation is healthy, in the sense of its `update` block. Pure: time arrives with what is seen.

use std::time::Duration;

use moat_model::Timestamp;
use moat_model::job::HealthCheck;
use serde::{Deserialize, Serialize};

/// What is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Health {
    /// Decided once, for good.
    pub healthy: Option<bool>,
    /// When it began to be judged.
    pub since: Option<Timestamp>,
    /// Since when everything is as it should be.
    pub well_since: Option<Timestamp>,
}

/// The rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rules {
    pub by: HealthCheck,
    pub min_healthy_time: Duration,
    pub healthy_deadline: Duration,
}

/// What is seen at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// All tasks that should run do, and those that should have ended well have.
    pub tasks_well: bool,
    /// All checks that count pass.
    pub checks_pass: bool,
    /// It has failed for good.
    pub failed: bool,
}

impl Health {
    /// Looks; returns when to look again if nothing happens.
    pub(super) fn look(&mut self, rules: &Rules, seen: Seen, now: Timestamp) -> Option<Timestamp> {
        if self.healthy.is_some() {
            return None;
        }
        if seen.failed {
            self.healthy = Some(false);
            return None;
        }
        let since = *self.since.get_or_insert(now);
        let deadline = since.plus(rules.healthy_deadline);
        let well = seen.tasks_well && (seen.checks_pass || rules.by != HealthCheck::Checks);
        if !well {
            self.well_since = None;
        } else if rules.by != HealthCheck::Manual {
            let enough = self.well_since.get_or_insert(now).plus(rules.min_healthy_time);
            if now >= enough {
                self.healthy = Some(true);
                return None;
            }
            if now < deadline {
                return Some(enough.min(deadline));
            }
        }
        if now >= deadline {
            self.healthy = Some(false);
            return None;
        }
        Some(deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(by: HealthCheck) -> Rules {
        Rules { by, min_healthy_time: Duration::from_secs(10), healthy_deadline: Duration::from_secs(60) }
    }

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_millis(secs * 1000)
    }

    const WELL: Seen = Seen { tasks_well: true, checks_pass: true, failed: false };

    #[test]
    fn it_is_healthy_after_being_well_long_enough_without_a_break() {
        let mut health = Health::default();
        assert_eq!(health.look(&rules(HealthCheck::Checks), WELL, at(0)), Some(at(10)));
        health.look(&rules(HealthCheck::Checks), Seen { checks_pass: false, ..WELL }, at(5));
        assert_eq!(health.look(&rules(HealthCheck::Checks), WELL, at(6)), Some(at(16)));
        health.look(&rules(HealthCheck::Checks), WELL, at(15));
        assert_eq!(health.healthy, None);
        health.look(&rules(HealthCheck::Checks), WELL, at(16));
        assert_eq!(health.healthy, Some(true));
        health.look(&rules(HealthCheck::Checks), Seen { failed: true, ..WELL }, at(17));
        assert_eq!(health.healthy, Some(true), "decided once");
    }

    #[test]
    fn checks_count_only_where_they_are_asked_for_and_people_only_decide_in_time() {
        let failing = Seen { checks_pass: false, ..WELL };
        let mut health = Health::default();
        health.look(&rules(HealthCheck::TaskStates), failing, at(0));
        health.look(&rules(HealthCheck::TaskStates), failing, at(10));
        assert_eq!(health.healthy, Some(true));
        for by in [HealthCheck::Manual, HealthCheck::Checks] {
            let mut health = Health::default();
            assert_eq!(health.look(&rules(by), failing, at(0)), Some(at(60)));
            health.look(&rules(by), failing, at(60));
            assert_eq!(health.healthy, Some(false), "{by:?}");
        }
        let mut health = Health::default();
        health.look(&rules(HealthCheck::Checks), Seen { failed: true, ..WELL }, at(1));
        assert_eq!(health.healthy, Some(false));
    }
}
