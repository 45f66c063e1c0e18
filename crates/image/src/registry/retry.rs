//! When to ask again, and how long to wait for an answer.

use std::time::Duration;

use crate::error::{Error, Result};

/// How long anything of a registry is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// To connect, and for a credential program to answer.
    pub connect: Duration,
    /// Without a byte, headers included. There is no bound on a whole transfer: a slow one that moves is fine.
    pub silence: Duration,
    /// The first pause before asking again; each further one is twice as long.
    pub pause: Duration,
    /// Longest pause, also when the registry asks for a longer one.
    pub pause_max: Duration,
    /// Failures in a row, without a new byte between them, after which it is given up.
    pub attempts: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            silence: Duration::from_secs(30),
            pause: Duration::from_millis(250),
            pause_max: Duration::from_secs(20),
            attempts: 5,
        }
    }
}

/// A failure of one attempt.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What the caller gets if it was the last.
    pub error: Error,
    /// Whether the same request may succeed later.
    pub again: bool,
    /// What the registry asked us to wait.
    pub after: Option<Duration>,
}

impl Failure {
    /// It will fail again.
    pub fn last(error: Error) -> Self {
        Self { error, again: false, after: None }
    }

    /// It may pass.
    pub fn passing(error: Error) -> Self {
        Self { error, again: true, after: None }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::last(error)
    }
}

/// Counts failures in a row.
#[derive(Debug)]
pub(crate) struct Attempts {
    patience: Patience,
    failed: u32,
}

impl Attempts {
    /// None yet.
    pub fn new(patience: Patience) -> Self {
        Self { patience, failed: 0 }
    }

    /// Something moved.
    pub fn moved(&mut self) {
        self.failed = 0;
    }

    /// Pauses before the next attempt, or gives the failure back if there is none.
    pub async fn pause(&mut self, failure: Failure) -> Result<()> {
        self.failed = self.failed.saturating_add(1);
        if !failure.again || self.failed >= self.patience.attempts {
            return Err(failure.error);
        }
        let doubled = self.patience.pause.saturating_mul(1 << self.failed.saturating_sub(1).min(10));
        let pause = failure.after.unwrap_or(doubled).min(self.patience.pause_max);
        tracing::debug!(failed = self.failed, ?pause, error = failure.error.chain(), "asking a registry again");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}
