//! Tells the outlet what becomes of one sandbox, in order, without ever holding up its actor.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use moat_model::lifecycle::SandboxView;
use tokio_util::task::AbortOnDropHandle;

use crate::outlet::Outlet;

/// Views waiting at most. A life has about eight; more means that the outlet hangs while somebody pauses and resumes,
/// and then the oldest are dropped, never the last one.
const WAITING_MAX: usize = 64;
/// First wait after the outlet failed; doubles.
const RETRY_INITIAL: Duration = Duration::from_millis(100);
/// Longest wait: the outlet is a local disk, so what stops it is an operator's matter.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Views to be told and the one being told.
#[derive(Debug)]
pub struct Announcer {
    outlet: Arc<dyn Outlet>,
    waiting: VecDeque<SandboxView>,
    telling: Option<AbortOnDropHandle<()>>,
}

impl Announcer {
    /// An announcer with nothing to tell.
    pub fn new(outlet: Arc<dyn Outlet>) -> Self {
        Self { outlet, waiting: VecDeque::new(), telling: None }
    }

    /// Tells this view after those before it.
    pub fn push(&mut self, view: SandboxView) {
        if self.waiting.len() >= WAITING_MAX {
            tracing::warn!(sandbox = %view.id, "the outlet takes no news; an old one is dropped");
            self.waiting.pop_front();
        }
        self.waiting.push_back(view);
        self.begin();
    }

    /// Everything was told.
    pub fn is_idle(&self) -> bool {
        self.telling.is_none() && self.waiting.is_empty()
    }

    /// Waits until the view being told was taken; for ever if there is none. May be dropped and called again.
    pub async fn next(&mut self) {
        let Some(task) = &mut self.telling else { return std::future::pending().await };
        if let Err(error) = task.await {
            tracing::error!(%error, "the outlet broke while it was told of a sandbox");
        }
        self.telling = None;
        self.begin();
    }

    fn begin(&mut self) {
        if self.telling.is_some() {
            return;
        }
        if let Some(view) = self.waiting.pop_front() {
            self.telling = Some(AbortOnDropHandle::new(tokio::spawn(tell(Arc::clone(&self.outlet), view))));
        }
    }
}

async fn tell(outlet: Arc<dyn Outlet>, view: SandboxView) {
    let mut wait = RETRY_INITIAL;
    while let Err(error) = outlet.announce(&view).await {
        tracing::warn!(sandbox = %view.id, phase = %view.phase, error = error.chain(), "outlet failed; trying again");
        tokio::time::sleep(wait).await;
        wait = wait.saturating_mul(2).min(RETRY_MAX);
    }
}
