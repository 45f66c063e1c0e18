//! What is not needed any more is removed: ended allocations, dead jobs, old versions, nodes that never came back.

use std::time::Duration;

use moat_model::NodeId;
use moat_scheduler::JobKey;

use super::Controller;
use super::commit::droppable;
use crate::clock;
use crate::jobs::document::{Outcome, VERSIONS_MAX};
use crate::jobs::front::status::is_dead;
use crate::jobs::keys::Key;
use crate::jobs::store::WriteError;

/// Documents removed at once: the rest has time until the next round.
const AT_ONCE: usize = 200;

/// How long things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Between two rounds.
    pub interval: Duration,
    /// Allocations after their end.
    pub allocations: Duration,
    /// Jobs after their death.
    pub jobs: Duration,
    /// Nodes after they were given up.
    pub nodes: Duration,
    /// That something was removed: for watchers that were away.
    pub removed: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        let hours = |n: u64| Duration::from_secs(n * 3600);
        Self {
            interval: Duration::from_secs(60),
            allocations: hours(1),
            jobs: hours(4),
            nodes: hours(24),
            removed: Duration::from_secs(600),
        }
    }
}

/// Earlier versions beyond the bound, of which nothing is left that might run, the oldest first. A node that does not know
/// the version of an allocation would take it for one that nobody wants.
fn unneeded(earlier: impl ExactSizeIterator<Item = u64>, outcome: &Outcome) -> Vec<u64> {
    let over = earlier.len().saturating_sub(VERSIONS_MAX.saturating_sub(1));
    let needed = |version: &u64| {
        outcome.allocations.iter().any(|allocation| allocation.job_version == *version)
            || outcome.stable.last() == Some(version)
    };
    earlier.take(over).filter(|version| !needed(version)).collect()
}

impl Controller {
    pub(super) async fn collect(&mut self) {
        // More servers may have come: then more copies are kept.
        let _ = self.store.ensure().await;
        if let Err(error) = self.collect_all().await {
            tracing::debug!(%error, "what is not needed any more is removed later");
        }
    }

    async fn collect_all(&mut self) -> Result<(), WriteError> {
        let keys: Vec<JobKey> = self.replica.state().outcomes.keys().cloned().collect();
        for key in keys {
            self.collect_allocations(&key).await?;
        }
        for key in self.dead_jobs() {
            self.collect_job(&key).await?;
        }
        for key in self.loose_ends() {
            self.remove(&key).await?;
        }
        for node in self.gone_nodes() {
            for key in [Key::Facts(node.clone()), Key::Wish(node.clone()), Key::Beat(node.clone()), Key::Fence(node)] {
                self.remove(&key).await?;
            }
        }
        self.forget_removed().await
    }

    async fn remove(&self, key: &Key) -> Result<(), WriteError> {
        let revision = self.store.remove(key, None).await?;
        self.replica.apply(key, revision, None);
        Ok(())
    }

    async fn collect_allocations(&self, key: &JobKey) -> Result<(), WriteError> {
        let ended_before = moat_model::Timestamp::from_millis(
            clock::now().as_millis() - i64::try_from(self.bounds.allocations.as_millis()).unwrap_or(0),
        );
        let (over, mut outcome, gone) = {
            let state = self.replica.state();
            let Some(held) = state.outcomes.get(key) else { return Ok(()) };
            (held.revision, (*held.value).clone(), droppable(&held.value, &state, ended_before))
        };
        if gone.is_empty() {
            return Ok(());
        }
        outcome.allocations.retain(|allocation| !gone.contains(&allocation.id));
        let value = serde_json::to_vec(&outcome).unwrap_or_default();
        let at = Key::Outcome(key.clone());
        match self.store.put(&at, value.clone(), Some(over)).await {
            Ok(revision) => {
                self.replica.apply(&at, revision, Some(&value));
                Ok(())
            }
            Err(WriteError::Conflict) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Jobs of which nothing runs nor will, that were to be purged or have been so for long.
    fn dead_jobs(&self) -> Vec<JobKey> {
        let now = clock::now();
        let state = self.replica.state();
        let done = |key: &&JobKey| {
            let Some(held) = state.jobs.get(*key) else { return !state.is_foreign(key) };
            let index = state.outcomes.get(*key).map_or(0, |outcome| outcome.value.answered);
            let answered = held.value.request.is_none() || index >= held.value.index;
            let old = now.since(held.value.modified) >= self.bounds.jobs;
            !state.is_foreign(key) && is_dead(&state, key) && (answered && held.value.purge || old)
        };
        let declared = state.jobs.keys();
        let left = state.outcomes.keys().filter(|key| !state.jobs.contains_key(*key));
        declared.chain(left).filter(done).take(AT_ONCE).cloned().collect()
    }

    /// The declaration first, over the revision it was judged by: nobody plans the rest any more. The outcome before the
    /// statuses, which are loose ends without it, and after the versions, which nobody would find without it.
    async fn collect_job(&self, key: &JobKey) -> Result<(), WriteError> {
        let (record, outcome, ids, versions) = {
            let state = self.replica.state();
            let outcome = state.outcomes.get(key);
            let ids: Vec<_> = outcome.iter().flat_map(|o| o.value.allocations.iter().map(|a| a.id.clone())).collect();
            let versions: Vec<u64> = state.versions.get(key).into_iter().flat_map(|v| v.keys().copied()).collect();
            (state.jobs.get(key).map(|held| held.revision), outcome.map(|held| held.revision), ids, versions)
        };
        if !self.remove_over(&Key::Job(key.clone()), record).await? {
            return Ok(());
        }
        for version in versions {
            self.remove(&Key::Version(key.clone(), version)).await?;
        }
        if !self.remove_over(&Key::Outcome(key.clone()), outcome).await? {
            return Ok(());
        }
        for id in ids {
            self.remove(&Key::Status(id)).await?;
        }
        Ok(())
    }

    /// Removes what is still at this revision, if it is there at all; says whether nobody else wrote it meanwhile.
    async fn remove_over(&self, at: &Key, over: Option<u64>) -> Result<bool, WriteError> {
        let Some(over) = over else { return Ok(true) };
        match self.store.remove(at, Some(over)).await {
            Ok(revision) => self.replica.apply(at, revision, None),
            Err(WriteError::Conflict) => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Statuses of allocations that are in no document, and versions nothing runs of.
    fn loose_ends(&self) -> Vec<Key> {
        let now = clock::now();
        let state = self.replica.state();
        let old = |at| now.since(at) >= self.bounds.removed;
        let loose =
            state.statuses.iter().filter(|(id, held)| !state.owners.contains_key(*id) && old(held.value.modified));
        let mut keys: Vec<Key> = loose.map(|(id, _)| Key::Status(id.clone())).collect();
        for (job, versions) in &state.versions {
            let Some(outcome) = state.outcomes.get(job) else {
                // Of a job that is gone: whoever removed it did not come that far.
                if !state.jobs.contains_key(job) && !state.is_foreign(job) {
                    keys.extend(versions.keys().map(|version| Key::Version(job.clone(), *version)));
                }
                continue;
            };
            let unneeded = unneeded(versions.keys().copied(), &outcome.value);
            keys.extend(unneeded.into_iter().map(|version| Key::Version(job.clone(), version)));
        }
        keys.truncate(AT_ONCE);
        keys
    }

    /// Nodes that were given up long ago, counted from when this node saw it.
    fn gone_nodes(&self) -> Vec<NodeId> {
        let state = self.replica.state();
        let gone = state.beats.iter().filter(|(_, seen)| seen.beat.down && seen.since.elapsed() >= self.bounds.nodes);
        gone.map(|(node, _)| node.clone()).collect()
    }

    async fn forget_removed(&self) -> Result<(), WriteError> {
        let old: Vec<(Key, u64)> = {
            let state = self.replica.state();
            let old = state.removed.iter().filter(|(_, (_, since))| since.elapsed() >= self.bounds.removed);
            old.map(|(key, (revision, _))| (key.clone(), *revision)).take(AT_ONCE).collect()
        };
        for (key, revision) in old {
            self.store.forget(&key, revision).await?;
            self.replica.state().forget_removed(&key, revision);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_kept_while_anything_refers_to_it() {
        let allocation = serde_json::json!({
            "id": "01234567-89ab-cdef-0123-456789abcdef", "namespace": "default", "job": "a", "job_version": 1,
            "group": "g", "index": 0, "node": format!("N{}", "A".repeat(55)), "desired": "run", "generation": 1,
            "created": 0, "modified": 0
        });
        let outcome = serde_json::json!({ "allocations": [allocation], "deployment": null, "stable": [0, 3] });
        let outcome: Outcome = serde_json::from_value(outcome).unwrap();
        assert_eq!(unneeded((0..10_u64).collect::<Vec<_>>().into_iter(), &outcome), [0, 2, 4]);
        assert!(unneeded((0..5_u64).collect::<Vec<_>>().into_iter(), &outcome).is_empty());
    }
}
