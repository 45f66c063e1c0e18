//! Moments and spans as plain numbers. `model` reads no clock; whoever does passes the result in.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since the epoch.
    pub const fn from_millis(ms: i64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch.
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This moment plus a span, saturating.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Span from `earlier` to this moment; zero if the clock went backwards.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// Nex's way to write an uptime: `5s`, `2m5s`, `1h2m5s`, `3d1h2m5s`, `1y3d1h2m5s`.
pub fn format_uptime(span: Duration) -> String {
    let total = span.as_secs();
    let (years, days) = (total / 31_536_000, total % 31_536_000 / 86_400);
    let (hours, minutes, seconds) = (total % 86_400 / 3600, total % 3600 / 60, total % 60);
    if years > 0 {
        format!("{years}y{days}d{hours}h{minutes}m{seconds}s")
    } else if days > 0 {
        format!("{days}d{hours}h{minutes}m{seconds}s")
    } else if hours > 0 {
        format!("{hours}h{minutes}m{seconds}s")
    } else if minutes > 0 {
        format!("{minutes}m{seconds}s")
    } else {
        format!("{seconds}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_is_written_as_nex_does() {
        for (secs, text) in
            [(5, "5s"), (125, "2m5s"), (3725, "1h2m5s"), (262_925, "3d1h2m5s"), (31_798_925, "1y3d1h2m5s"), (0, "0s")]
        {
            assert_eq!(format_uptime(Duration::from_secs(secs)), text);
        }
    }
}
