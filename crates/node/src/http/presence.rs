//! Something is held open in a sandbox: it is in use, and its idle time-out must not come.

use std::time::{Duration, Instant};

use moat_model::SandboxId;

use super::App;
use crate::sandboxes::Sandboxes;

/// How often that is said; shorter than the shortest idle time-out, which is a second.
const EVERY: Duration = Duration::from_millis(400);

/// Says that a sandbox is in use, as long as it is asked to.
#[derive(Debug)]
pub(super) struct Presence {
    sandboxes: Sandboxes,
    id: SandboxId,
    said: Instant,
}

impl Presence {
    pub fn new(app: &App, id: &SandboxId) -> Self {
        let sandboxes = app.services.sandboxes.clone();
        sandboxes.touch(id);
        Self { sandboxes, id: id.clone(), said: Instant::now() }
    }

    /// Something happened just now.
    pub fn note(&mut self) {
        if self.said.elapsed() >= EVERY {
            self.said = Instant::now();
            self.sandboxes.touch(&self.id);
        }
    }

    /// Nothing happens for so long, but it is in use.
    pub async fn keep(&self, span: Duration) {
        let until = tokio::time::Instant::now() + span;
        while tokio::time::Instant::now() < until {
            self.sandboxes.touch(&self.id);
            tokio::time::sleep_until(until.min(tokio::time::Instant::now() + EVERY)).await;
        }
    }
}
