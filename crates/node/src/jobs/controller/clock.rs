//! Jobs that are started by the clock: one child for each moment, named after it, so that starting it twice is one start.

use moat_model::Timestamp;
use moat_model::job::Job;
use moat_scheduler::{JobKey, periodic};

use super::Controller;
use crate::clock;
use crate::jobs::declare::{first_version, put_record};
use crate::jobs::document::{JobRecord, Outcome, Request};
use crate::jobs::evaluation::Trigger;
use crate::jobs::front::status::is_dead;
use crate::jobs::keys::Key;
use crate::jobs::replica::State;
use crate::jobs::store::WriteError;

/// When a periodic job is started next.
pub fn next_launch(record: &JobRecord, outcome: Option<&Outcome>) -> Option<Timestamp> {
    let policy = record.job.periodic.as_ref().filter(|_| !record.stop)?;
    let launched = outcome.and_then(|outcome| outcome.launched).unwrap_or_default();
    periodic::next(policy, record.submitted.max(launched)).ok().flatten()
}

impl Controller {
    pub(super) async fn start_by_clock(&mut self) {
        let now = clock::now();
        for (key, job, at) in self.due_by_clock(now) {
            if let Err(error) = self.launch(&key, &job, at, now).await {
                tracing::warn!(job = %key, %error, "a start by the clock is tried again");
            }
        }
    }

    fn due_by_clock(&self, now: Timestamp) -> Vec<(JobKey, Job, Timestamp)> {
        let state = self.replica.state();
        let due = |(key, held): (&JobKey, &crate::jobs::replica::Held<JobRecord>)| {
            let outcome = state.outcomes.get(key).map(|held| &*held.value);
            let at = next_launch(&held.value, outcome).filter(|at| *at <= now)?;
            (!state.is_foreign(key)).then(|| (key.clone(), held.value.job.clone(), at))
        };
        state.jobs.iter().filter_map(due).collect()
    }

    /// The child first, then that it was started: whoever is killed between the two makes the same child again. Moments
    /// nobody was there for are one start.
    async fn launch(&self, key: &JobKey, job: &Job, at: Timestamp, now: Timestamp) -> Result<(), WriteError> {
        let overlap = job.periodic.as_ref().is_some_and(|policy| policy.prohibit_overlap);
        if overlap && has_living_child(&self.replica.state(), key) {
            tracing::info!(job = %key, "not started by the clock: the last one still runs");
        } else {
            match periodic::child(job, at) {
                Ok(child) => self.start(child).await?,
                Err(error) => tracing::warn!(job = %key, %error, "cannot be started by the clock"),
            }
        }
        let (over, mut outcome) = {
            let state = self.replica.state();
            let over = state.revision(&Key::Outcome(key.clone())).unwrap_or(0);
            (over, state.outcomes.get(key).map(|held| (*held.value).clone()).unwrap_or_default())
        };
        outcome.launched = Some(at.max(now));
        let value = serde_json::to_vec(&outcome).unwrap_or_default();
        let revision = self.store.put(&Key::Outcome(key.clone()), value.clone(), Some(over)).await?;
        self.replica.apply(&Key::Outcome(key.clone()), revision, Some(&value));
        Ok(())
    }

    async fn start(&self, child: Job) -> Result<(), WriteError> {
        let key = JobKey::of(&child);
        let request = Request { id: uuid::Uuid::new_v4().to_string(), trigger: Trigger::PeriodicJob, at: clock::now() };
        match put_record(&self.store, &self.replica, &key, None, &first_version(child, Some(request))).await {
            // It was started already.
            Ok(()) | Err(WriteError::Conflict) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn has_living_child(state: &State, key: &JobKey) -> bool {
    let mine = |held: &crate::jobs::replica::Held<JobRecord>| held.value.job.parent.as_ref() == Some(&key.job);
    let children = state.jobs.iter().filter(|(child, held)| child.namespace == key.namespace && mine(held));
    children.into_iter().any(|(child, _)| !is_dead(state, child))
}
