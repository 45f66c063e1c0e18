//! The one place that reads the clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moat_model::Timestamp;

/// Now. Before 1970 it is 1970.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Time since the machine was started, time asleep included: it goes on while the daemon is away, to a hundredth of a second.
pub fn since_boot() -> Duration {
    let precise = std::fs::read_to_string("/proc/uptime").ok();
    let secs = precise.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
    let coarse = || Duration::from_secs(u64::try_from(rustix::system::sysinfo().uptime).unwrap_or(0));
    secs.and_then(|secs| Duration::try_from_secs_f64(secs).ok()).unwrap_or_else(coarse)
}
