//! Forgets workloads that ended long ago, or too many to remember. Their logs go by a rule of their own, in `outlet`.

use std::sync::Arc;
use std::time::Duration;

use moat_model::{Timestamp, WorkloadId};

use super::{Shared, Snapshot};
use crate::clock;

/// Ended workloads remembered: what a person who looks after lunch still wants to see.
const ENDED_MAX: usize = 1000;
/// And how long.
const ENDED_FOR: Duration = Duration::from_secs(3600);
/// How often it looks.
const ROUND: Duration = Duration::from_secs(30);

pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            biased;
            () = shared.detached.cancelled() => return,
            () = tokio::time::sleep(ROUND) => {}
        }
        let ended: Vec<Arc<Snapshot>> = {
            let table = shared.table();
            table.entries.values().map(|e| e.snapshot.borrow().clone()).filter(|s| s.view.ended()).collect()
        };
        for id in stale(&ended, clock::now()) {
            forget(&shared, &id);
        }
        shared.base.artifacts.evict();
    }
}

/// Those that ended too long ago, and the oldest of those that are too many.
fn stale(ended: &[Arc<Snapshot>], now: Timestamp) -> Vec<WorkloadId> {
    let mut by_end: Vec<(Timestamp, &WorkloadId)> =
        ended.iter().map(|s| (s.view.ended_at.unwrap_or_default(), &s.view.id)).collect();
    by_end.sort();
    let surplus = by_end.len().saturating_sub(ENDED_MAX);
    by_end
        .into_iter()
        .enumerate()
        .filter(|(index, (at, _))| *index < surplus || now.since(*at) > ENDED_FOR)
        .map(|(_, (_, id))| id.clone())
        .collect()
}

/// Its sandbox went when it ended; what is left is its record.
fn forget(shared: &Arc<Shared>, id: &WorkloadId) {
    if let Err(error) = shared.store.remove(id) {
        tracing::warn!(workload = %id, error = %error.chain(), "record not removed; trying again later");
        return;
    }
    shared.table().entries.remove(id);
}
