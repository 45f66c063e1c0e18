//! Takes ended sandboxes from the engine into the history, whoever ended them: a user, a time limit, their own program.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moat_model::lifecycle::SandboxView;
use moat_model::{ErrorKind, SandboxId};

use crate::clock;
use crate::error::{Error, Result};

use super::{Sandboxes, lock, no_such, reply};

/// How often it looks although nobody told it to, and how often what is too old is forgotten.
const ROUND: Duration = Duration::from_secs(5);
/// Many that end at once are looked for once.
const TOGETHER: Duration = Duration::from_millis(20);

/// How often it is looked whether somebody else's removal is through: a second in all.
const GONE_LOOKS: u32 = 50;

/// The right to bury one sandbox; given back when dropped.
struct Turn<'a> {
    sandboxes: &'a Sandboxes,
    id: &'a SandboxId,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.sandboxes.shared.burying).remove(self.id);
        self.sandboxes.shared.buried.notify_waiters();
    }
}

impl Sandboxes {
    /// Looks for ended sandboxes, for ever.
    pub(super) async fn reap(self) {
        let closed = self.shared.closed.clone();
        let news = self.shared.base.outlet.ends();
        let mut swept: Option<Instant> = None;
        loop {
            for view in self.views().into_iter().filter(|view| view.phase.is_terminal()) {
                if let Err(error) = self.bury(&view).await {
                    tracing::warn!(sandbox = %view.id, error = %error.chain(), "ended, and not yet forgotten");
                }
            }
            if swept.is_none_or(|at| at.elapsed() >= ROUND) {
                self.sweep().await;
                swept = Some(Instant::now());
            }
            let sleep = async {
                tokio::select! {
                    () = news.notified() => tokio::time::sleep(TOGETHER).await,
                    () = tokio::time::sleep(ROUND) => {}
                }
            };
            if closed.run_until_cancelled(sleep).await.is_none() {
                return;
            }
        }
    }

    /// Ends one from whatever phase, remembers it, and forgets its record.
    pub(super) async fn end(&self, id: &SandboxId) -> Result<()> {
        let engine = &self.shared.base.engine;
        let view = match engine.kill(id).await {
            Ok(view) => view,
            Err(error) => match engine.get(id) {
                // Somebody else was faster, and it is remembered.
                None => return Ok(()),
                Some(view) if view.phase.is_terminal() => view,
                Some(_) => return Err(error),
            },
        };
        self.bury(&view).await
    }

    /// Ends all of them, and the pools: for a node that is to leave nothing behind.
    pub async fn end_all(&self) {
        self.empty_pools().await;
        let ends = self.views().into_iter().map(|view| async move {
            if let Err(error) = self.end(&view.id).await {
                tracing::warn!(sandbox = %view.id, error = %error.chain(), "not ended");
            }
        });
        futures::future::join_all(ends).await;
    }

    /// Remembers one that ended, and forgets its record. May be done twice; two at once take turns, because what is
    /// remembered is read from the record that the other would remove.
    async fn bury(&self, view: &SandboxView) -> Result<()> {
        let engine = &self.shared.base.engine;
        let _turn = self.turn(&view.id).await;
        match engine.explain(&view.id).await {
            Ok(steps) => self.remember(view, reply::steps(&steps)).await?,
            // A create that failed is cleared away by the engine itself, and was never anybody's.
            Err(error) => tracing::debug!(sandbox = %view.id, error = %error.chain(), "nothing to remember"),
        }
        self.unbind(&view.id).await;
        if let Err(error) = engine.delete(&view.id).await
            && !self.is_gone(&view.id).await
        {
            return Err(error);
        }
        lock(&self.shared.made).remove(&view.id);
        Ok(())
    }

    /// Whether the engine has forgotten it, or does at any moment.
    async fn is_gone(&self, id: &SandboxId) -> bool {
        for _ in 0..GONE_LOOKS {
            if self.shared.base.engine.get(id).is_none() {
                return true;
            }
            tokio::time::sleep(TOGETHER).await;
        }
        false
    }

    async fn turn<'a>(&'a self, id: &'a SandboxId) -> Turn<'a> {
        loop {
            let mut over = std::pin::pin!(self.shared.buried.notified());
            // Listening before looking: the end of the other's turn is not missed in between.
            over.as_mut().enable();
            if lock(&self.shared.burying).insert(id.clone()) {
                return Turn { sandboxes: self, id };
            }
            over.await;
        }
    }

    async fn remember(&self, view: &SandboxView, steps: Vec<moat_api::rest::sandbox::ExplainedStep>) -> Result<()> {
        let sandbox = self.shown(view).map_err(|_| no_such(&view.id))?;
        let (shared, id) = (Arc::clone(&self.shared), view.id.clone());
        let at = view.ended_at.unwrap_or_else(clock::now);
        tokio::task::spawn_blocking(move || shared.history.keep(&id, at, sandbox, steps))
            .await
            .map_err(|e| Error::caused_by(ErrorKind::Internal, "remember a sandbox", e))
    }

    async fn sweep(&self) {
        let shared = Arc::clone(&self.shared);
        if let Err(error) = tokio::task::spawn_blocking(move || shared.history.sweep(clock::now())).await {
            tracing::warn!(%error, "the history was not swept");
        }
    }
}
