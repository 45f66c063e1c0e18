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
    /// None: nothing here has an idle time-out.
    sandbox: Option<(Sandboxes, SandboxId)>,
    said: Instant,
}

impl Presence {
    pub fn new(app: &App, id: &SandboxId) -> Self {
        let presence = Self { sandbox: Some((app.services.sandboxes.clone(), id.clone())), said: Instant::now() };
        presence.touch();
        presence
    }

    /// Of something that is in use whoever looks at it: a task of a job.
    pub fn of_task() -> Self {
        Self { sandbox: None, said: Instant::now() }
    }

    fn touch(&self) {
        if let Some((sandboxes, id)) = &self.sandbox {
            sandboxes.touch(id);
        }
    }

    /// Something happened just now.
    pub fn note(&mut self) {
        if self.said.elapsed() >= EVERY {
            self.said = Instant::now();
            self.touch();
        }
    }

    /// Nothing happens for so long, but it is in use.
    pub async fn keep(&self, span: Duration) {
        let until = tokio::time::Instant::now() + span;
        while tokio::time::Instant::now() < until {
            self.touch();
            tokio::time::sleep_until(until.min(tokio::time::Instant::now() + EVERY)).await;
        }
    }
}
