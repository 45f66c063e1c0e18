//! Nodes that are silent are given up; nodes that are empty have been drained.

use moat_model::NodeId;
use moat_model::job::{Eligibility, NodeWish};
use moat_scheduler::drain;
use tokio::time::Instant;

use super::Controller;
use crate::jobs::document::{Beat, Fence};
use crate::jobs::keys::Key;
use crate::jobs::replica::Seen;
use crate::jobs::store::WriteError;

impl Controller {
    /// Gives up who is silent: first over their last beat, which fails if they live, then in the bucket of jobs.
    pub(super) async fn give_up_silent(&mut self) {
        let beats = self.replica.state().beats.clone();
        for (node, seen) in self.watchman.silent(&beats, Instant::now()) {
            tracing::warn!(%node, "a node is silent: it is given up");
            self.mark_beat(&node, &seen).await;
        }
        for (node, epoch, over) in self.not_fenced() {
            self.put_fence(&node, epoch, over).await;
        }
    }

    async fn mark_beat(&self, node: &NodeId, seen: &Seen) {
        let key = Key::Beat(node.clone());
        let value = serde_json::to_vec(&Beat { down: true, ..seen.beat.clone() }).unwrap_or_default();
        match self.store.put(&key, value.clone(), Some(seen.revision)).await {
            Ok(revision) => self.replica.apply(&key, revision, Some(&value)),
            Err(WriteError::Conflict) => {
                // It lives, or another controller was faster; the watch may be behind.
                if let Ok(Some(entry)) = self.store.read(&key).await {
                    self.replica.apply(&key, entry.revision, entry.value.as_deref());
                }
            }
            Err(error) => tracing::warn!(%node, %error, "a silent node cannot be given up yet"),
        }
    }

    /// Nodes whose beat says that they are given up, and whose fence does not say so for the same epoch or a later one.
    fn not_fenced(&self) -> Vec<(NodeId, u64, u64)> {
        let state = self.replica.state();
        let missing = |(node, seen): (&NodeId, &Seen)| {
            let key = Key::Fence(node.clone());
            let done = state.fences.get(node).is_some_and(|held| {
                held.value.epoch > seen.beat.epoch || held.value.epoch == seen.beat.epoch && held.value.down
            });
            let over = state.revision(&key).unwrap_or(0);
            (seen.beat.down && !done).then(|| (node.clone(), seen.beat.epoch, over))
        };
        state.beats.iter().filter_map(missing).collect()
    }

    async fn put_fence(&self, node: &NodeId, epoch: u64, over: u64) {
        let key = Key::Fence(node.clone());
        let value = serde_json::to_vec(&Fence { epoch, down: true }).unwrap_or_default();
        match self.store.put(&key, value.clone(), Some(over)).await {
            Ok(revision) => self.replica.apply(&key, revision, Some(&value)),
            Err(error) => tracing::debug!(%node, %error, "the fence of a node that is given up is written later"),
        }
    }

    /// A node that is empty is not draining any more, and stays out of use until somebody says otherwise.
    pub(super) async fn end_drains(&mut self) {
        let draining: Vec<(NodeId, u64)> = {
            let state = self.replica.state();
            let draining = state.wishes.iter().filter(|(_, held)| held.value.drain.is_some());
            draining.map(|(node, held)| (node.clone(), held.revision)).collect()
        };
        for (node, over) in draining {
            if !drain::is_done(&self.planner.cluster, &node) {
                continue;
            }
            let wish = NodeWish { eligibility: Eligibility::Ineligible, drain: None };
            let key = Key::Wish(node.clone());
            let value = serde_json::to_vec(&wish).unwrap_or_default();
            match self.store.put(&key, value.clone(), Some(over)).await {
                Ok(revision) => {
                    tracing::info!(%node, "drained");
                    self.replica.apply(&key, revision, Some(&value));
                }
                Err(error) => tracing::debug!(%node, %error, "the end of a drain is written later"),
            }
        }
    }
}
