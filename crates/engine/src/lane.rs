//! The effects of one sandbox, one after the other, each in a task that owns what it needs: an effect that was begun goes
//! on though the actor is busy, and a driver never sees two calls for one sandbox at once.

use std::collections::VecDeque;

use moat_model::lifecycle::Effect;
use tokio_util::task::AbortOnDropHandle;

use crate::effects::Outcome;

/// Effects waiting and the one under way. A life never has more than three waiting: each comes from a step, and steps
/// wait for results.
#[derive(Debug, Default)]
pub struct Lane {
    waiting: VecDeque<Effect>,
    running: Option<(Effect, AbortOnDropHandle<Outcome>)>,
}

/// How an effect ended.
#[derive(Debug)]
pub enum Ended {
    /// With a result.
    Outcome(Outcome),
    /// It was aborted and is no more.
    Aborted(Effect),
    /// It panicked.
    Panicked(Effect),
}

impl Lane {
    /// Puts an effect at the end.
    pub fn push(&mut self, effect: Effect) {
        self.waiting.push_back(effect);
    }

    /// The effect to begin now, if none is under way.
    pub fn due(&mut self) -> Option<Effect> {
        if self.running.is_some() { None } else { self.waiting.pop_front() }
    }

    /// Notes what was begun.
    pub fn begun(&mut self, effect: Effect, task: AbortOnDropHandle<Outcome>) {
        self.running = Some((effect, task));
    }

    /// Nothing waits and nothing runs.
    pub fn is_idle(&self) -> bool {
        self.running.is_none() && self.waiting.is_empty()
    }

    /// Ends the effect under way if `which` says so. Its end is still told by [`Lane::next`].
    pub fn abort_if(&self, which: impl Fn(&Effect) -> bool) -> bool {
        match &self.running {
            Some((effect, task)) if which(effect) => {
                task.abort();
                true
            }
            _ => false,
        }
    }

    /// Ends the effect under way if `which` says so, and forgets those that wait. The end of one under way is still told.
    pub fn give_up(&mut self, which: impl Fn(&Effect) -> bool) {
        self.waiting.retain(|effect| !which(effect));
        self.abort_if(which);
    }

    /// Waits for the end of the effect under way; for ever if there is none. May be dropped and called again.
    pub async fn next(&mut self) -> Ended {
        let Some((_, task)) = &mut self.running else { return std::future::pending().await };
        let ended = task.await;
        let Some((effect, _)) = self.running.take() else { return std::future::pending().await };
        match ended {
            Ok(outcome) => Ended::Outcome(outcome),
            Err(error) if error.is_panic() => Ended::Panicked(effect),
            Err(_) => Ended::Aborted(effect),
        }
    }

    /// Ends everything and returns when nothing runs.
    pub async fn clear(&mut self) {
        self.waiting.clear();
        if self.abort_if(|_| true) {
            drop(self.next().await);
        }
    }
}
