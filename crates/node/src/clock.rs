//! The one place that reads the clock.

use std::time::{SystemTime, UNIX_EPOCH};

use moat_model::Timestamp;

/// Now. Before 1970 it is 1970.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
