//! The engine's clock: wall time at the start plus what the monotonic clock has counted since, so that somebody setting
//! the machine's time moves no deadline, and tests can pause it.

use std::time::{SystemTime, UNIX_EPOCH};

use moat_model::Timestamp;
use tokio::time::Instant;

/// A clock that only goes forward.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    wall: Timestamp,
    mono: Instant,
}

impl Clock {
    /// Reads the machine's wall clock, once.
    pub fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::starting_at(Timestamp::from_millis(0).plus(since_epoch))
    }

    /// A clock that says `wall` now.
    pub fn starting_at(wall: Timestamp) -> Self {
        Self { wall, mono: Instant::now() }
    }

    /// This moment.
    pub fn now(&self) -> Timestamp {
        self.wall.plus(self.mono.elapsed())
    }

    /// When a moment comes, for a timer. One that has passed is now.
    pub fn instant(&self, at: Timestamp) -> Instant {
        self.mono.checked_add(at.since(self.wall)).unwrap_or_else(Instant::now)
    }
}
