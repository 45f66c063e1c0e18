//! How long the logs of ended workloads stay.

use std::time::Duration;

use moat_model::{Timestamp, WorkloadId};

/// A restart comes at most a minute after an end; a log younger than this may be written again.
const KEPT_AT_LEAST: Duration = Duration::from_secs(600);

/// Bounds on the logs of workloads that ended. Those of live ones are bounded by their rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Time after the end of a workload at which its log is deleted.
    pub ended_for: Duration,
    /// Bytes of ended workloads' logs on this node; the oldest go first.
    pub ended_bytes_max: u64,
    /// Ended workloads whose logs are kept; the oldest go first.
    pub ended_max: usize,
}

impl Default for Retention {
    /// A day to look into it, a tenth of a small disk, and few enough directories to list in a moment.
    fn default() -> Self {
        Self { ended_for: Duration::from_secs(24 * 3600), ended_bytes_max: 4 << 30, ended_max: 1000 }
    }
}

/// A log that is not written any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    pub workload: WorkloadId,
    pub at: Timestamp,
    pub bytes: u64,
}

impl Retention {
    /// Which of `ended` go.
    pub(super) fn choose(&self, mut ended: Vec<Ended>, now: Timestamp) -> Vec<WorkloadId> {
        ended.sort_by_key(|log| log.at);
        let mut bytes: u64 = ended.iter().map(|log| log.bytes).sum();
        let mut count = ended.len();
        let mut doomed = Vec::new();
        for log in ended {
            let age = now.since(log.at);
            let too_much = bytes > self.ended_bytes_max || count > self.ended_max;
            if age >= self.ended_for || too_much && age >= KEPT_AT_LEAST {
                bytes = bytes.saturating_sub(log.bytes);
                count -= 1;
                doomed.push(log.workload);
            }
        }
        doomed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(n: u8, minutes: i64, bytes: u64) -> Ended {
        let workload = WorkloadId::parse(&format!("cq1v8k3q7d2c73f0a9g{n}")).unwrap();
        Ended { workload, at: Timestamp::from_millis(minutes * 60_000), bytes }
    }

    #[test]
    fn the_oldest_go_when_old_or_too_many_and_the_youngest_stay() {
        let now = Timestamp::from_millis(100 * 60_000);
        let rule = Retention { ended_for: Duration::from_secs(90 * 60), ended_bytes_max: 100, ended_max: 3 };
        let names = |doomed: Vec<WorkloadId>| -> Vec<char> {
            doomed.iter().filter_map(|w| w.as_str().chars().last()).collect()
        };
        assert_eq!(names(rule.choose(vec![ended(1, 50, 10), ended(2, 9, 10)], now)), ['2']);
        assert_eq!(names(rule.choose(vec![ended(1, 50, 60), ended(2, 40, 60)], now)), ['2']);
        assert_eq!(names(rule.choose((0..5).map(|n| ended(n, 80, 1)).collect(), now)), ['0', '1']);
        assert!(rule.choose((0..9).map(|n| ended(n, 95, 60)).collect(), now).is_empty());
    }
}
