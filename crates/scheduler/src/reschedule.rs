//! How long after a failure another instance takes the place of the one that failed (J02).

use std::time::Duration;

use moat_model::Timestamp;
use moat_model::job::{DelayFunction, Reschedule, RescheduleEvent};

/// When another takes the place of an instance that failed at `failed` and had been placed at `placed`; never if
/// `None`.
pub fn when(
    policy: &Reschedule,
    events: &[RescheduleEvent],
    placed: Timestamp,
    failed: Timestamp,
) -> Option<(Timestamp, Duration)> {
    if !policy.unlimited {
        let within = events.iter().filter(|event| failed.since(event.at) < policy.interval).count();
        if within >= usize::try_from(policy.attempts).unwrap_or(usize::MAX) {
            return None;
        }
    }
    let delay = delay(policy, events, failed.since(placed));
    Some((failed.plus(delay), delay))
}

/// How long is waited. An instance that lived longer than the longest wait has begun anew.
pub fn delay(policy: &Reschedule, events: &[RescheduleEvent], lived: Duration) -> Duration {
    let longest = if policy.max_delay.is_zero() { Duration::MAX } else { policy.max_delay };
    if lived > longest || policy.delay_function == DelayFunction::Constant {
        return policy.delay;
    }
    let mut before = events.iter().rev().map(|event| Duration::from_secs(event.delay_secs));
    let wanted = match (policy.delay_function, before.next(), before.next()) {
        (_, None, _) | (DelayFunction::Constant, _, _) => policy.delay,
        (DelayFunction::Exponential, Some(last), _) => last.saturating_mul(2),
        (DelayFunction::Fibonacci, Some(_), None) => policy.delay,
        // After a new beginning the one before is greater than the last: then the sequence has begun with the last.
        (DelayFunction::Fibonacci, Some(last), Some(earlier)) if earlier > last => last,
        (DelayFunction::Fibonacci, Some(last), Some(earlier)) => last.saturating_add(earlier),
    };
    wanted.max(policy.delay).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use moat_model::{AllocId, NodeId};

    fn policy(delay_function: DelayFunction) -> Reschedule {
        Reschedule {
            attempts: 3,
            interval: Duration::from_secs(3600),
            delay: Duration::from_secs(5),
            delay_function,
            max_delay: Duration::from_secs(60),
            unlimited: true,
        }
    }

    fn event(at_secs: i64, delay: Duration) -> RescheduleEvent {
        RescheduleEvent {
            at: Timestamp::from_millis(at_secs * 1000),
            alloc: AllocId::parse("00000000-0000-4000-8000-000000000000").unwrap(),
            node: NodeId::parse(&format!("N{}", "A".repeat(55))).unwrap(),
            delay_secs: delay.as_secs(),
        }
    }

    #[test]
    fn j02_waits_grow_by_each_function_up_to_the_longest() {
        let table = [
            (DelayFunction::Constant, [5, 5, 5, 5, 5, 5, 5]),
            (DelayFunction::Exponential, [5, 10, 20, 40, 60, 60, 60]),
            (DelayFunction::Fibonacci, [5, 5, 10, 15, 25, 40, 60]),
        ];
        for (function, expected) in table {
            let mut events = Vec::new();
            let given = expected.map(|_| {
                let delay = delay(&policy(function), &events, Duration::ZERO);
                events.push(event(0, delay));
                delay.as_secs()
            });
            assert_eq!(given, expected, "{function:?}");
        }
    }

    #[test]
    fn who_lived_longer_than_the_longest_wait_begins_anew() {
        let events = [event(0, Duration::from_secs(40))];
        let exponential = policy(DelayFunction::Exponential);
        assert_eq!(delay(&exponential, &events, Duration::from_secs(61)), Duration::from_secs(5));
        let events = [event(0, Duration::from_secs(40)), event(0, Duration::from_secs(5))];
        assert_eq!(delay(&policy(DelayFunction::Fibonacci), &events, Duration::ZERO), Duration::from_secs(5));
    }

    #[test]
    fn attempts_are_counted_within_the_interval() {
        let limited = Reschedule { unlimited: false, attempts: 2, ..policy(DelayFunction::Constant) };
        let failed = Timestamp::from_millis(5_000_000);
        let delay = Duration::from_secs(5);
        let at = |secs| event(secs, delay);
        assert_eq!(when(&limited, &[at(4000), at(4500)], failed, failed), None);
        assert_eq!(when(&limited, &[at(1000), at(4500)], failed, failed), Some((failed.plus(delay), delay)));
        let none = Reschedule { attempts: 0, ..limited };
        assert_eq!(when(&none, &[], failed, failed), None);
    }
}
