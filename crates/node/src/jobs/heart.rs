//! That this node lives, and what follows when nobody can know it.
//!
//! A beat is a compare-and-set over the node's own last one, and the controller gives a node up by a compare-and-set over
//! the last beat it saw. So a beat that is acknowledged proves that the node was not given up before, and the two need no
//! common clock. The inequality everything rests on: a node freezes what others may run [`FREEZE`] after it *sent* the last
//! beat that was acknowledged; the controller gives it up [`super::watchman::SILENT`] after it *saw* that beat, which is
//! later; and `FREEZE` is the smaller. A daemon that is killed freezes nothing: so with each acknowledged beat the agents of
//! what others may run are told to stop it [`LEASH`] after that beat was sent, unless they hear of another.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moat_model::NodeId;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::document::{Beat, Fence};
use super::keys::Key;
use super::replica::Replica;
use super::store::{Store, WriteError};
use crate::clock::since_boot;
use crate::durable;
use crate::error::Result;

/// Between two beats.
pub const BEAT: Duration = Duration::from_millis(1500);
/// The same after one that was not acknowledged: while a bucket has no leader the servers say so at once, and whoever lives
/// should be heard soon after there is one.
const AGAIN: Duration = Duration::from_millis(500);
/// Without an acknowledged beat for so long, what others may run stands still.
pub const FREEZE: Duration = Duration::from_secs(6);
/// The same if the daemon is gone and cannot do it: then agents do, a little later, so that they do not where it can.
pub const LEASH: Duration = Duration::from_secs(7);
/// After so many beats without an answer it is asked whether the connection is one at all.
const UNHEARD_MAX: u32 = 2;
/// What stands still goes on only if the last beat is younger than this, so that there is time to do it.
pub const FRESH: Duration = Duration::from_secs(3);

/// The last acknowledged beat, kept on tmpfs: a daemon that starts anew learns from it how long nobody could know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastBeat {
    /// When it was sent, since the machine was started.
    sent_ms: u64,
}

impl LastBeat {
    /// Reads it. Blocking.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// When it was sent.
    pub fn sent(self) -> Duration {
        Duration::from_millis(self.sent_ms)
    }

    /// Nobody can have been given what this node runs.
    pub fn is_young(self) -> bool {
        since_boot().saturating_sub(self.sent()) < FREEZE
    }

    fn write(path: &Path, sent: Duration) -> std::io::Result<()> {
        let sent_ms = u64::try_from(sent.as_millis()).unwrap_or(0);
        durable::replace(path, &serde_json::to_vec(&Self { sent_ms }).unwrap_or_default())
    }
}

/// How this node stands with the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing was read yet.
    Unknown,
    /// It may beat, over this revision.
    Alive {
        /// Of its last beat.
        over: u64,
        /// As in its fence.
        epoch: u64,
    },
    /// It was given up: it must let go of what others may run before it comes back.
    GivenUp {
        /// Of the beat that says so.
        over: u64,
        /// As in its fence.
        epoch: u64,
    },
}

#[derive(Debug)]
struct Pulse {
    standing: Standing,
    acked: Option<Duration>,
    count: u64,
}

/// Beats. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Heart {
    me: NodeId,
    life: u64,
    file: PathBuf,
    pulse: Arc<Mutex<Pulse>>,
    news: Arc<Notify>,
}

impl Heart {
    /// Of this node, in this life of its daemon; the last beat is kept in `file`.
    pub fn new(me: NodeId, life: u64, file: PathBuf) -> Self {
        let acked = LastBeat::read(&file).filter(|beat| beat.is_young()).map(LastBeat::sent);
        let pulse = Pulse { standing: Standing::Unknown, acked, count: 0 };
        Self { me, life, file, pulse: Arc::new(Mutex::new(pulse)), news: Arc::default() }
    }

    fn pulse(&self) -> MutexGuard<'_, Pulse> {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the node stands.
    pub fn standing(&self) -> Standing {
        self.pulse().standing
    }

    /// When the last acknowledged beat was sent, since the machine was started.
    pub fn acked(&self) -> Option<Duration> {
        self.pulse().acked
    }

    /// How long ago the last acknowledged beat was sent; none if there was none.
    pub fn age(&self) -> Option<Duration> {
        let acked = self.pulse().acked?;
        Some(since_boot().saturating_sub(acked))
    }

    /// Nobody can have been given what this node runs.
    pub fn is_young(&self, than: Duration) -> bool {
        self.age().is_some_and(|age| age < than)
    }

    /// Told when a beat was acknowledged, or the standing changed.
    pub async fn changed(&self) {
        self.news.notified().await;
    }

    /// Beats until it is dropped.
    pub async fn run(&self, store: &Store, replica: &Replica) {
        let mut ticks = tokio::time::interval(BEAT);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut unheard = 0;
        loop {
            ticks.tick().await;
            if self.standing() == Standing::Unknown {
                self.learn(store).await;
            }
            if let Standing::Alive { over, epoch } = self.standing() {
                let heard = self.beat(store, replica, over, epoch).await;
                unheard = if heard { 0 } else { unheard + 1 };
                if !heard {
                    ticks.reset_after(AGAIN);
                }
                if unheard >= UNHEARD_MAX {
                    unheard = 0;
                    store.reconnect_if_dead().await;
                }
            }
            self.news.notify_waiters();
        }
    }

    /// Whether the server answered.
    async fn beat(&self, store: &Store, replica: &Replica, over: u64, epoch: u64) -> bool {
        let count = {
            let mut pulse = self.pulse();
            pulse.count += 1;
            pulse.count
        };
        let beat = Beat { epoch, life: self.life, count, down: false };
        let value = serde_json::to_vec(&beat).unwrap_or_default();
        let key = Key::Beat(self.me.clone());
        let sent = since_boot();
        match store.put(&key, value.clone(), Some(over)).await {
            Ok(revision) => {
                {
                    let mut pulse = self.pulse();
                    pulse.acked = Some(sent);
                    pulse.standing = Standing::Alive { over: revision, epoch };
                }
                replica.apply(&key, revision, Some(&value));
                let file = self.file.clone();
                let kept = tokio::task::spawn_blocking(move || LastBeat::write(&file, sent)).await;
                if let Ok(Err(error)) = kept {
                    tracing::warn!(%error, "the last beat cannot be kept: the next daemon begins with everything frozen");
                }
            }
            // One of ours whose answer was lost, or the controller's.
            Err(WriteError::Conflict) => self.learn(store).await,
            Err(error) => {
                tracing::debug!(%error, "a beat was not acknowledged");
                return false;
            }
        }
        true
    }

    /// Reads how the node stands. What is not read stays as it was.
    async fn learn(&self, store: &Store) {
        match self.read(store).await {
            Ok(standing) => {
                if matches!(standing, Standing::GivenUp { .. }) {
                    tracing::warn!("this node was given up while nobody heard of it");
                }
                self.pulse().standing = standing;
            }
            Err(error) => tracing::debug!(error = %error.chain(), "the last beat is not read yet"),
        }
    }

    async fn read(&self, store: &Store) -> Result<Standing> {
        let fence_key = Key::Fence(self.me.clone());
        let entry = store.read(&Key::Beat(self.me.clone())).await?;
        let over = entry.as_ref().map_or(0, |entry| entry.revision);
        let beat: Option<Beat> = entry.and_then(|e| serde_json::from_slice(&e.value?).ok());
        let entry = store.read(&fence_key).await?;
        let fence: Option<Fence> = entry.as_ref().and_then(|e| serde_json::from_slice(e.value.as_deref()?).ok());
        let epoch = beat.as_ref().map_or(0, |beat| beat.epoch).max(fence.as_ref().map_or(1, |fence| fence.epoch));
        let down = beat.as_ref().is_some_and(|beat| beat.down && beat.epoch == epoch)
            || fence.as_ref().is_some_and(|fence| fence.down && fence.epoch == epoch);
        if down {
            return Ok(Standing::GivenUp { over, epoch });
        }
        if fence.is_none_or(|fence| fence.epoch < epoch) {
            let revision = entry.map_or(0, |entry| entry.revision);
            self.raise(store, Fence { epoch, down: false }, revision).await?;
        }
        Ok(Standing::Alive { over, epoch })
    }

    async fn raise(&self, store: &Store, fence: Fence, over: u64) -> Result<()> {
        let value = serde_json::to_vec(&fence).unwrap_or_default();
        let written = store.put(&Key::Fence(self.me.clone()), value, Some(over)).await;
        written.map(drop).map_err(|error| error.into_error("write the fence of this node"))
    }

    /// Comes back after having been given up: everything others may run is gone from here.
    pub async fn come_back(&self, store: &Store, over: u64, epoch: u64) -> Result<()> {
        let entry = store.read(&Key::Fence(self.me.clone())).await?;
        let revision = entry.as_ref().map_or(0, |entry| entry.revision);
        let fence: Option<Fence> = entry.and_then(|e| serde_json::from_slice(e.value.as_deref()?).ok());
        let epoch = epoch.max(fence.map_or(0, |fence| fence.epoch)) + 1;
        self.raise(store, Fence { epoch, down: false }, revision).await?;
        self.pulse().standing = Standing::Alive { over, epoch };
        self.news.notify_waiters();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_freezes_before_it_can_be_given_up() {
        // The controller counts from when it saw the beat, so from later. What is left is for freezing.
        assert!(FREEZE + Duration::from_secs(2) < super::super::watchman::SILENT);
        // An agent is later than the daemon, and has as much time as it takes to stop or kill everything.
        assert!(FREEZE < LEASH && LEASH + Duration::from_millis(1500) < super::super::watchman::SILENT);
        assert!(FRESH < FREEZE && BEAT * 3 < FREEZE);
    }

    #[test]
    fn the_last_beat_outlives_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("beat.json");
        assert!(LastBeat::read(&file).is_none());
        LastBeat::write(&file, since_boot()).unwrap();
        assert!(LastBeat::read(&file).unwrap().is_young());
        LastBeat::write(&file, since_boot().saturating_sub(FREEZE)).unwrap();
        assert!(!LastBeat::read(&file).unwrap().is_young());
    }
}
