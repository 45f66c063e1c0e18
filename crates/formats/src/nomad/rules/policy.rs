//! Rules of the numbers by which instances are restarted, replaced, updated and moved.

use std::time::Duration;

use moat_model::job::{DelayFunction, Migrate, Reschedule, Restart, RestartMode, TaskGroup, Update};

use super::Rules;

const FIVE: Duration = Duration::from_secs(5);

/// How people write a span.
pub(super) fn shown(span: Duration) -> String {
    let seconds = span.as_secs();
    match () {
        () if span.subsec_nanos() > 0 => format!("{span:?}"),
        () if seconds > 0 && seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
        () if seconds > 0 && seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        () => format!("{seconds}s"),
    }
}

pub(super) fn restart(restart: &Restart, rules: &mut Rules) {
    if restart.interval < FIVE {
        rules.violated(&["restart", "interval"], "interval is at least 5s", "");
    }
    if restart.attempts == 0 && restart.mode == RestartMode::Delay {
        let fix = "write mode = \"fail\", or attempts of at least 1";
        rules.violated(&["restart", "attempts"], "no attempts and mode = \"delay\" would wait for ever", fix);
    }
    let waits = restart.delay.checked_mul(restart.attempts).unwrap_or(Duration::MAX);
    if waits > restart.interval {
        let message = format!(
            "{} attempts with a delay of {} do not fit into an interval of {}",
            restart.attempts,
            shown(restart.delay),
            shown(restart.interval)
        );
        rules.violated(&["restart", "interval"], message, "make the interval longer, or the delay shorter");
    }
}

pub(super) fn group(group: &TaskGroup, rules: &mut Rules) {
    if let Some(given) = &group.reschedule {
        reschedule(given, rules);
    }
    if let Some(given) = &group.update {
        update(given, rules);
    }
    if let Some(given) = &group.migrate {
        migrate(given, rules);
    }
}

fn reschedule(given: &Reschedule, rules: &mut Rules) {
    if given.unlimited && given.attempts > 0 {
        let fix = "write unlimited = false, or leave attempts out";
        rules.violated(&["reschedule", "unlimited"], "unlimited and attempts exclude each other", fix);
    }
    let on = given.unlimited || given.attempts > 0;
    if on && given.delay < FIVE {
        rules.violated(&["reschedule", "delay"], "delay is at least 5s", "");
    }
    if on && given.delay_function != DelayFunction::Constant && given.max_delay < given.delay {
        rules.violated(&["reschedule", "max_delay"], "max_delay is at least as long as delay", "");
    }
    if given.unlimited || given.attempts == 0 {
        return;
    }
    if given.interval.is_zero() {
        rules.violated(
            &["reschedule", "interval"],
            "attempts are counted within an interval",
            "write interval = \"24h\"",
        );
    } else if waits(given) > given.interval {
        let message = format!(
            "{} attempts with their delays do not fit into an interval of {}",
            given.attempts,
            shown(given.interval)
        );
        rules.violated(&["reschedule", "interval"], message, "make the interval longer, or the delays shorter");
    }
}

/// All waits of a reschedule policy together. What is beyond the interval needs no exact sum.
fn waits(given: &Reschedule) -> Duration {
    let (mut sum, mut previous, mut wait) = (Duration::ZERO, Duration::ZERO, given.delay);
    for _ in 0..given.attempts {
        let next = match given.delay_function {
            DelayFunction::Constant => wait,
            DelayFunction::Exponential => wait.saturating_mul(2),
            DelayFunction::Fibonacci => wait.saturating_add(previous),
        };
        let bounded = if given.delay_function == DelayFunction::Constant { wait } else { wait.min(given.max_delay) };
        sum = sum.saturating_add(bounded);
        if sum > given.interval {
            break;
        }
        // A delay of zero never adds up.
        if bounded.is_zero() {
            break;
        }
        (previous, wait) = (wait, next);
    }
    sum
}

fn update(given: &Update, rules: &mut Rules) {
    if given.max_parallel == 0 {
        rules.violated(&["update", "max_parallel"], "max_parallel is at least 1", "");
    }
    if given.min_healthy_time >= given.healthy_deadline {
        let (shorter, longer) = (shown(given.min_healthy_time), shown(given.healthy_deadline));
        let message = format!("min_healthy_time ({shorter}) is shorter than healthy_deadline ({longer})");
        rules.violated(&["update", "min_healthy_time"], format!("it must hold that {message}"), "");
    }
    // Zero: the first unhealthy one fails the deployment.
    if !given.progress_deadline.is_zero() && given.healthy_deadline >= given.progress_deadline {
        let (shorter, longer) = (shown(given.healthy_deadline), shown(given.progress_deadline));
        let message =
            format!("it must hold that healthy_deadline ({shorter}) is shorter than progress_deadline ({longer})");
        rules.violated(&["update", "healthy_deadline"], message, "");
    }
    if given.auto_promote && given.canary == 0 {
        rules.violated(&["update", "auto_promote"], "auto_promote needs a canary", "write canary = 1, too");
    }
}

fn migrate(given: &Migrate, rules: &mut Rules) {
    if given.max_parallel == 0 {
        rules.violated(&["migrate", "max_parallel"], "max_parallel is at least 1", "");
    }
    if given.min_healthy_time >= given.healthy_deadline {
        let message = "it must hold that min_healthy_time is shorter than healthy_deadline";
        rules.violated(&["migrate", "min_healthy_time"], message, "");
    }
}
