//! The node's side: what is wanted here is carried out, what is here is told, and what nobody can know of stands still.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moat_model::job::{AllocStatus, ClientStatus, Desired};
use moat_model::{AllocId, NodeId};

use super::hands::{Hands, is_replaceable, is_wanted};
use super::heart::{FREEZE, FRESH, Heart, LEASH, Standing};
use super::keys::{JOBS, Key};
use super::replica::Replica;
use super::store::Store;
use super::succession::awaited;
use crate::allocations::Assignment;
use crate::error::{Error, Result};

/// How often is looked whether the last beat is too old.
const LOOK: Duration = Duration::from_millis(250);
/// What is wanted is looked at anew this often even if nothing is known to have changed: something may have failed.
const ANEW: Duration = Duration::from_secs(5);
/// Changes that come within this are one.
const SETTLE: Duration = Duration::from_millis(50);
/// To learn what is wanted after having been cut off; then it is tried anew.
const LEARN_MAX: Duration = Duration::from_secs(3);
/// Between two tries to tell a status.
const TELL_AGAIN: Duration = Duration::from_millis(500);
/// Writes of statuses under way: what a node of some hundred allocations changes at once.
const TELL_AT_ONCE: usize = 16;

/// The node's side.
#[derive(Debug)]
pub struct Local {
    me: NodeId,
    store: Store,
    replica: Replica,
    heart: Heart,
    hands: Arc<dyn Hands>,
    fenced: AtomicBool,
    /// Killed because the node was given up: they did not complete, however they ended.
    dropped: Mutex<BTreeSet<AllocId>>,
}

impl Local {
    /// `fenced`: the hands were opened standing still.
    pub fn new(me: NodeId, store: Store, replica: Replica, heart: Heart, hands: Arc<dyn Hands>, fenced: bool) -> Self {
        Self { me, store, replica, heart, hands, fenced: AtomicBool::new(fenced), dropped: Mutex::default() }
    }

    /// Everything that can be done without a connection, and everything that needs one. Runs until it is dropped.
    pub async fn run(&self) {
        tokio::join!(self.govern(), self.leash(), self.assign(), self.tell());
    }

    fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::Acquire)
    }

    /// Freezes and lets go. The only one to do either, so that the two never cross.
    async fn govern(&self) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.heart.changed() => {}
            }
            let given_up = matches!(self.heart.standing(), Standing::GivenUp { .. });
            if !self.is_fenced() && (given_up || !self.heart.is_young(FREEZE)) {
                self.fence().await;
            }
            if !self.is_fenced() {
                continue;
            }
            let back = match self.heart.standing() {
                Standing::GivenUp { over, epoch } => self.return_from(over, epoch).await,
                Standing::Alive { .. } if self.heart.is_young(FRESH) => self.go_on().await,
                Standing::Alive { .. } | Standing::Unknown => Ok(()),
            };
            if let Err(error) = back {
                tracing::warn!(error = %error.chain(), "allocations still stand still");
            }
        }
    }

    /// Says with each acknowledged beat how long what runs here may go on without another, in case this daemon dies.
    async fn leash(&self) {
        let mut said = None;
        loop {
            let acked = self.heart.acked();
            if let Some(acked) = acked.filter(|acked| said != Some(*acked)) {
                said = Some(acked);
                self.hands.leash(acked + LEASH).await;
            }
            // Whoever is not listening when it changes looks again soon.
            let _ = tokio::time::timeout(LOOK, self.heart.changed()).await;
        }
    }

    async fn fence(&self) {
        if !self.hands.known().is_empty() {
            tracing::warn!("nobody may know that this node lives: what others may run stands still until it is known");
        }
        match self.hands.fence().await {
            Ok(()) => self.fenced.store(true, Ordering::Release),
            Err(error) => tracing::error!(error = %error.chain(), "not everything stands still"),
        }
    }

    /// The last beat was acknowledged: nothing was given to others because of silence, but what is wanted may have changed.
    async fn go_on(&self) -> Result<()> {
        self.learn().await?;
        let wanted = self.wanted();
        // Learning may have taken so long that the beat is old again.
        if !self.heart.is_young(FRESH) {
            return Ok(());
        }
        self.hands.confirm(&wanted).await?;
        self.fenced.store(false, Ordering::Release);
        if !wanted.is_empty() {
            tracing::info!(allocations = wanted.len(), "what is wanted here is known: allocations go on");
        }
        Ok(())
    }

    /// It was given up: what others may run is killed as it stands still, before anybody hears that the node is back.
    async fn return_from(&self, over: u64, epoch: u64) -> Result<()> {
        self.learn().await?;
        let kept: Vec<Assignment> = self.wanted().into_iter().filter(|wanted| !is_replaceable(wanted)).collect();
        let stays = |id: &AllocId| kept.iter().any(|wanted| &wanted.allocation.id == id);
        let gone =
            self.hands.known().into_iter().filter(|known| !known.ended).map(|known| known.assignment.allocation.id);
        self.dropped().extend(gone.filter(|id| !stays(id)));
        self.hands.confirm(&kept).await?;
        self.heart.come_back(&self.store, over, epoch).await
    }

    /// Reads everything that was wanted up to now: a write of our own is seen only after all that came before it.
    async fn learn(&self) -> Result<()> {
        let learn = async {
            let barrier = self.store.put(&Key::Barrier(self.me.clone()), b"{}".to_vec(), None).await;
            let revision = barrier.map_err(|error| error.into_error("learn what is wanted of this node"))?;
            self.replica.reaches(JOBS, revision).await;
            Ok(())
        };
        let late = |_| Error::new(moat_model::ErrorKind::Deadline, "learn what is wanted of this node");
        tokio::time::timeout(LEARN_MAX, learn).await.map_err(late)?
    }

    /// What is wanted here, as far as its jobs are known.
    fn wanted(&self) -> Vec<Assignment> {
        self.all().into_iter().filter(|assignment| is_wanted(&assignment.allocation)).collect()
    }

    fn all(&self) -> Vec<Assignment> {
        let state = self.replica.state();
        let mut jobs = BTreeMap::new();
        let mut found = Vec::new();
        for (key, outcome) in &state.outcomes {
            for allocation in outcome.value.on(&self.me) {
                let version = (key, allocation.job_version);
                let job = jobs.entry(version).or_insert_with(|| state.version(key, allocation.job_version));
                if let Some(job) = job {
                    found.push(Assignment { allocation: allocation.clone(), job: Arc::clone(job) });
                }
            }
        }
        found
    }

    /// Hands over what is wanted whenever it changes.
    async fn assign(&self) {
        let mut news = self.replica.news();
        let mut given: BTreeMap<AllocId, Assignment> = BTreeMap::new();
        loop {
            if !self.is_fenced() && self.replica.state().is_synced() {
                self.hand_over(&mut given).await;
            }
            let change = tokio::time::timeout(ANEW, news.changed()).await;
            if matches!(change, Ok(Err(_))) {
                return;
            }
            if change.is_err() {
                given.clear();
            }
            tokio::time::sleep(SETTLE).await;
        }
    }

    /// What waits for another to end is handed over by a later call: that one's end is a change.
    async fn hand_over(&self, given: &mut BTreeMap<AllocId, Assignment>) {
        let (all, seen, waiting) = (self.all(), self.documented(), self.waiting());
        for assignment in all {
            let id = assignment.allocation.id.clone();
            if waiting.contains(&id) {
                continue;
            }
            if given.get(&id).is_some_and(|old| old.allocation == assignment.allocation) {
                continue;
            }
            match self.hands.assign(assignment.clone()).await {
                Ok(()) => drop(given.insert(id, assignment)),
                Err(error) => tracing::warn!(alloc = %id, error = %error.chain(), "an allocation cannot be taken"),
            }
        }
        given.retain(|id, _| seen.contains(id));
        self.dropped().retain(|id| seen.contains(id));
        for known in self.hands.known() {
            let id = known.assignment.allocation.id.clone();
            if !seen.contains(&id) {
                self.let_go(id, known.ended, known.assignment).await;
            }
        }
    }

    /// Allocations of this node in documents, their jobs known or not.
    fn documented(&self) -> BTreeSet<AllocId> {
        let state = self.replica.state();
        state.outcomes.values().flat_map(|held| held.value.on(&self.me).map(|a| a.id.clone())).collect()
    }

    /// Allocations of this node whose predecessors have not left their place yet.
    fn waiting(&self) -> BTreeSet<AllocId> {
        let state = self.replica.state();
        let mine = state.outcomes.values().flat_map(|held| held.value.on(&self.me));
        mine.filter(|allocation| awaited(&state, allocation).is_some())
            .map(|allocation| allocation.id.clone())
            .collect()
    }

    /// It is in no document any more: its job was purged, or it ended long ago.
    async fn let_go(&self, id: AllocId, ended: bool, assignment: Assignment) {
        let done = if ended {
            self.hands.forget(&id).await
        } else {
            let mut allocation = assignment.allocation;
            if allocation.desired != Desired::Run {
                return;
            }
            allocation.desired = Desired::Stop;
            allocation.generation += 1;
            allocation.reason = "nothing is known of it any more".to_owned();
            self.hands.assign(Assignment { allocation, job: assignment.job }).await
        };
        if let Err(error) = done {
            tracing::debug!(alloc = %id, error = %error.chain(), "an allocation nobody knows is still here");
        }
    }

    fn dropped(&self) -> MutexGuard<'_, BTreeSet<AllocId>> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is told of an allocation: one that was killed because its node was given up is lost.
    fn as_told(&self, mut status: AllocStatus) -> AllocStatus {
        if status.client.is_terminal() && self.dropped().contains(&status.id) {
            status.client = ClientStatus::Lost;
            "its node was given up, and stopped it when it was back".clone_into(&mut status.description);
        }
        status
    }

    /// Those here whose status is not in the bucket: it was deleted, or its server forgot. Others may wait for what it said.
    fn untold(&self) -> Vec<AllocId> {
        let known = self.hands.known().into_iter().map(|known| known.assignment.allocation.id);
        let state = self.replica.state();
        known
            .filter(|id| state.is_synced() && state.owners.contains_key(id) && !state.statuses.contains_key(id))
            .collect()
    }

    /// Tells what allocations are like, the latest of each, until it is heard.
    async fn tell(&self) {
        use futures::StreamExt as _;
        let mut feed = self.hands.feed();
        let mut looks = tokio::time::interval(ANEW);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let batch = tokio::select! {
                batch = feed.next() => batch,
                _ = looks.tick() => {
                    self.untold().into_iter().for_each(|id| feed.again(id));
                    continue;
                }
            };
            let unheard: Vec<AllocId> = futures::stream::iter(batch)
                .map(|status| async move {
                    let status = self.as_told(status);
                    let key = Key::Status(status.id.clone());
                    let value = serde_json::to_vec(&status).unwrap_or_default();
                    match self.store.put(&key, value.clone(), None).await {
                        Ok(revision) => {
                            self.replica.apply(&key, revision, Some(&value));
                            None
                        }
                        Err(error) => {
                            tracing::debug!(alloc = %status.id, %error, "a status is not told yet");
                            Some(status.id)
                        }
                    }
                })
                .buffer_unordered(TELL_AT_ONCE)
                .filter_map(|unheard| async move { unheard })
                .collect()
                .await;
            if !unheard.is_empty() {
                unheard.into_iter().for_each(|id| feed.again(id));
                tokio::time::sleep(TELL_AGAIN).await;
            }
        }
    }
}
