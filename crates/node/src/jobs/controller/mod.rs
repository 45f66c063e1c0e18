//! What the holder of the lease does: nodes are given up, jobs planned, clocks watched, old things removed.
//!
//! It may be killed at any await and there may be two of it: each step is one compare-and-set, and the next one finds out
//! from the documents what is left to do.

mod clock;
mod collect;
mod commit;
mod nodes;
mod planner;

use std::collections::BTreeSet;
use std::time::Duration;

use moat_model::NodeId;
use moat_scheduler::JobKey;
use tokio::time::Instant;

use super::heart::Heart;
use super::keys::Key;
use super::lease::{Lease, Write};
use super::replica::{Changed, Replica};
use super::store::Store;
use super::watchman::Watchman;
use crate::clock::since_boot;

pub use clock::next_launch;
pub use collect::Bounds;
pub use commit::check_size;
use planner::Planner;
pub use planner::{node_state, picture};

/// How often is looked at the lease and at silent nodes.
const LOOK: Duration = Duration::from_millis(250);
/// Jobs planned before the lease is looked at again.
const JOBS_AT_ONCE: usize = 16;
/// Everything is planned anew this often: whatever was overlooked is found then.
const ANEW: Duration = Duration::from_secs(30);

/// A candidate for the lease, and what it does when it holds it.
#[derive(Debug)]
pub struct Controller {
    me: NodeId,
    store: Store,
    replica: Replica,
    heart: Heart,
    bounds: Bounds,
    lease: Lease,
    watchman: Watchman,
    planner: Planner,
    acting: bool,
    todo: BTreeSet<JobKey>,
    planned_all: Instant,
    collected: Instant,
}

impl Controller {
    /// On this node, in this life of its daemon.
    pub fn new(me: NodeId, life: u64, store: Store, replica: Replica, heart: Heart, bounds: Bounds) -> Self {
        let lease = Lease::new(me.clone(), life);
        let (watchman, planner, now) = (Watchman::default(), Planner::default(), Instant::now());
        Self {
            me,
            store,
            replica,
            heart,
            bounds,
            lease,
            watchman,
            planner,
            acting: false,
            todo: BTreeSet::new(),
            planned_all: now,
            collected: now,
        }
    }

    /// Runs until it is dropped.
    pub async fn run(&mut self) {
        let mut news = self.replica.news();
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                changed = news.changed() => if changed.is_err() { return },
            }
            self.renew().await;
            self.watchman.look(self.heart.age(), Instant::now());
            let synced = self.replica.state().is_synced();
            if self.lease.holds(since_boot()) && synced {
                self.act().await;
            } else if self.acting {
                tracing::info!("this node does not control jobs any more");
                self.acting = false;
            }
        }
    }

    /// Gives the lease back, so that another goes on at once.
    pub async fn give_back(&mut self) {
        if let Some(write) = self.lease.give_back(since_boot()) {
            let value = serde_json::to_vec(&write.record).unwrap_or_default();
            if let Err(error) = self.store.put(&Key::Lease, value, Some(write.over)).await {
                tracing::debug!(%error, "the lease is left to grow stale");
            }
        }
    }

    async fn renew(&mut self) {
        let seen = self.replica.state().lease.clone();
        if let Some(held) = seen {
            self.lease.saw(held.revision, (*held.value).clone(), since_boot());
        } else if !self.replica.state().is_synced() {
            return;
        }
        let sent = since_boot();
        let Some(Write { record, over }) = self.lease.due(sent) else { return };
        let value = serde_json::to_vec(&record).unwrap_or_default();
        match self.store.put(&Key::Lease, value.clone(), Some(over)).await {
            Ok(revision) => {
                self.lease.wrote(revision, record, sent, since_boot());
                self.replica.apply(&Key::Lease, revision, Some(&value));
            }
            Err(error) => {
                tracing::debug!(%error, "the lease was not renewed");
                self.lease.failed(since_boot());
            }
        }
    }

    async fn act(&mut self) {
        if !self.acting {
            tracing::info!(node = %self.me, "this node controls jobs");
            self.acting = true;
            let _ = self.replica.state().take_changed();
            self.all_anew();
        }
        self.give_up_silent().await;
        self.note_changes();
        if self.planned_all.elapsed() >= ANEW {
            self.all_anew();
        }
        self.start_by_clock().await;
        self.todo.extend(self.planner.due());
        self.plan_some().await;
        self.end_drains().await;
        if self.collected.elapsed() >= self.bounds.interval {
            self.collected = Instant::now();
            self.collect().await;
        }
    }

    fn all_anew(&mut self) {
        self.planned_all = Instant::now();
        self.planner.rebuild(&self.replica.state());
        self.todo = self.planner.all();
    }

    fn note_changes(&mut self) {
        let touched = {
            let mut state = self.replica.state();
            match state.take_changed() {
                Changed::All => None,
                Changed::Keys(keys) => Some(self.planner.update(&state, &keys)),
            }
        };
        match touched {
            Some(jobs) => self.todo.extend(jobs),
            None => self.all_anew(),
        }
    }

    /// Plans what is to be planned, the greater priority first, as long as the lease is held.
    async fn plan_some(&mut self) {
        let order: Vec<JobKey> = self.planner.in_order(&self.todo);
        for key in order.into_iter().take(JOBS_AT_ONCE) {
            if !self.lease.holds(since_boot()) {
                return;
            }
            self.todo.remove(&key);
            if let Err(error) = self.carry_out(&key).await {
                tracing::warn!(job = %key, error = %error.chain(), "a plan was not carried out; it is tried again");
                self.planner.again(key);
            }
        }
    }
}
