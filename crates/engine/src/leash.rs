//! Until when sandboxes may run that others may be given: one moment for all of them, said again and again.
//!
//! Their agents are told, so it holds when the daemon is gone. Which sandboxes: [`SandboxSpec::leashed`].
//!
//! [`SandboxSpec::leashed`]: moat_model::SandboxSpec::leashed

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;

use crate::guest::Guest;
use crate::mailbox::Handle;
use crate::supervisor::Engine;

/// Agents that are told at a time; each answers in less than a millisecond.
const AT_ONCE: usize = 64;
/// An agent that does not hear it now hears it the next time.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// Until when what is inside may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leash {
    /// The moment, since the host was started, time asleep included.
    pub until: Duration,
    /// The same by the daemon's own clock, for those who have another kernel.
    end: Instant,
}

impl Leash {
    /// Until that moment, where it is `now`, both since the host was started.
    pub fn new(until: Duration, now: Duration) -> Self {
        Self { until, end: Instant::now() + until.saturating_sub(now) }
    }

    /// What is left of it.
    pub fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }
}

/// The last moment that was said; none yet.
#[derive(Debug, Default)]
pub struct Said(Mutex<Option<Leash>>);

impl Said {
    fn say(&self, leash: Leash) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|old| old.until < leash.until) {
            *said = Some(leash);
        }
    }

    /// Tells one agent what was said last.
    pub async fn tell(&self, guest: &dyn Guest) -> crate::Result<()> {
        let said = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match said {
            Some(leash) => guest.leash(leash).await,
            None => Ok(()),
        }
    }
}

impl Engine {
    /// Lets every leashed sandbox run that long, those that are started from now on too. Returns when their agents know,
    /// or soon.
    pub async fn leash(&self, leash: Leash) {
        self.said().say(leash);
        let tell = |handle: Handle| async move {
            let told = async {
                match handle.agent().await? {
                    Some(guest) => guest.leash(leash).await,
                    // It hears it when it is connected.
                    None => Ok(()),
                }
            };
            match tokio::time::timeout(TOLD_WITHIN, told).await {
                Ok(Ok(())) => {}
                // It has just ended.
                Ok(Err(error)) => {
                    tracing::debug!(sandbox = %handle.id(), error = error.chain(), "the leash is as it was")
                }
                Err(_) => tracing::warn!(sandbox = %handle.id(), "the agent does not hear that it may run on"),
            }
        };
        futures::stream::iter(self.leashed()).for_each_concurrent(AT_ONCE, tell).await;
    }
}
