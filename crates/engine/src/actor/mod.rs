//! The actor of one sandbox: the only writer of its state.
//!
//! It waits for something to happen, lets `step` decide, writes the new state down, and only then does what the step asks
//! for. Whatever takes time runs in a task of its own, and its result is one more thing that happens. What others are
//! told was written down first.

mod asks;

use std::sync::Arc;
use std::time::Duration;

use moat_model::lifecycle::{Effect, Event, Fact, Phase, PhaseName, step};
use moat_model::spec::Owner;
use moat_model::{ErrorKind, Resource, SandboxId, Timestamp};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::allocator::UidAllocator;
use crate::announcer::Announcer;
use crate::clock::Clock;
use crate::driver::Driver;
use crate::effects::{Context, Outcome, failure, is_start, perform};
use crate::error::{Error, Result};
use crate::fabric::Fabric;
use crate::guest::Guest;
use crate::lane::{Ended, Lane};
use crate::leash::Said;
use crate::mailbox::{Ask, Inbox, Signals};
use crate::outlet::Outlet;
use crate::pump::pump;
use crate::record::{SandboxRecord, Store};

use asks::Waiting;
pub use asks::{capture_within, pause_within, rewire_within, run_within};

/// How long after a failed write the record is written again.
const REWRITE_AFTER: Duration = Duration::from_secs(1);

/// What all actors share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Records.
    pub store: Arc<dyn Store>,
    /// Where facts and output go.
    pub outlet: Arc<dyn Outlet>,
    /// Blocks of user ids.
    pub uids: Arc<UidAllocator>,
    /// What connects sandboxes.
    pub fabric: Arc<dyn Fabric>,
    /// Time.
    pub clock: Clock,
    /// Until when those may run that others may be given.
    pub leash: Arc<Said>,
    /// The daemon lets go of its sandboxes.
    pub detach: CancellationToken,
}

/// The owner of one sandbox's state.
#[derive(Debug)]
pub struct Actor {
    record: SandboxRecord,
    driver: Arc<dyn Driver>,
    shared: Shared,
    inbox: Inbox,
    signals: Signals,
    guest: Option<Arc<dyn Guest>>,
    lane: Lane,
    watchers: JoinSet<Outcome>,
    announcer: Announcer,
    /// Generation of the view last shown.
    shown: u64,
    /// What the outlet was last told.
    told: Option<News>,
    /// The record could not be written: when to try again.
    unwritten: Option<Instant>,
    /// The record is to go.
    forgetting: bool,
    /// The record is gone.
    forgotten: bool,
    /// In which way the last effect failed that did.
    failed: Option<ErrorKind>,
    /// Who waits for an answer.
    waiting: Waiting,
}

/// What of a view makes it news for the outlet; everything else is only shown.
type News = (PhaseName, Option<Timestamp>, Owner);

/// What the actor was woken by.
enum Turn {
    Detached,
    Asked(Ask),
    Ended(Ended),
    Watched(std::result::Result<Outcome, JoinError>),
    Told,
    Time,
}

impl Actor {
    /// An actor for a sandbox that is written down, or is about to be.
    pub fn new(record: SandboxRecord, driver: Arc<dyn Driver>, shared: Shared, inbox: Inbox, signals: Signals) -> Self {
        let announcer = Announcer::new(Arc::clone(&shared.outlet));
        Self {
            record,
            driver,
            shared,
            inbox,
            signals,
            guest: None,
            lane: Lane::default(),
            watchers: JoinSet::new(),
            announcer,
            shown: 0,
            told: None,
            unwritten: None,
            forgetting: false,
            forgotten: false,
            failed: None,
            waiting: Waiting::default(),
        }
    }

    /// Lives until the sandbox is forgotten or the daemon lets go. `first` is the fact it begins with.
    pub async fn run(&mut self, first: Fact) {
        if self.record.state.is_terminal() {
            // Told again: whether it was before the daemon ended is not known, and the outlet recognises it.
            self.publish();
        }
        self.happen(first);
        loop {
            if self.forgetting && self.forget() {
                break;
            }
            match self.next().await {
                Turn::Detached => break,
                Turn::Asked(ask) => self.asked(ask),
                Turn::Ended(Ended::Outcome(outcome)) | Turn::Watched(Ok(outcome)) => self.came(outcome),
                Turn::Ended(Ended::Aborted(effect)) => self.aborted(&effect),
                Turn::Ended(Ended::Panicked(effect)) => {
                    tracing::error!(sandbox = %self.id(), ?effect, "driver panicked");
                    self.happen(failure(&effect, "the driver panicked".to_owned()));
                }
                Turn::Watched(Err(error)) => self.watcher_broke(&error),
                Turn::Told => {}
                Turn::Time => self.time_passed(),
            }
            self.begin_due();
        }
        self.inbox.refuse_rest(&self.record.state.id);
    }

    /// Ends every task and returns when none runs: the state is about to be given to another actor.
    pub async fn clear(&mut self) {
        self.lane.clear().await;
        self.watchers.shutdown().await;
    }

    /// The record is gone. Whoever runs this says so to those who wait for it, when it is not to be found any more.
    pub fn is_forgotten(&self) -> bool {
        self.forgotten
    }

    /// What it shows to others.
    pub fn signals(&self) -> Signals {
        self.signals.clone()
    }

    /// The arms are in order of importance: a kill must never wait behind news, news never behind requests, and among
    /// those the more final ones go first.
    async fn next(&mut self) -> Turn {
        let due = self.due();
        tokio::select! {
            biased;
            () = self.shared.detach.cancelled() => Turn::Detached,
            Some(ask) = self.inbox.kill.recv() => Turn::Asked(ask),
            ended = self.lane.next() => Turn::Ended(ended),
            Some(outcome) = self.watchers.join_next() => Turn::Watched(outcome),
            () = self.announcer.next() => Turn::Told,
            () = sleep_until(due) => Turn::Time,
            Some(ask) = self.inbox.delete.recv() => Turn::Asked(ask),
            Some(ask) = self.inbox.stop.recv() => Turn::Asked(ask),
            Some(ask) = self.inbox.other.recv() => Turn::Asked(ask),
        }
    }

    fn due(&self) -> Option<Instant> {
        let deadline = self.record.state.deadline().map(|at| self.shared.clock.instant(at));
        deadline.into_iter().chain(self.unwritten).min()
    }

    fn id(&self) -> &SandboxId {
        &self.record.state.id
    }

    // --- what happens ------------------------------------------------------------------------------------------------

    /// One turn of the wheel: decide, write down, tell, do.
    fn happen(&mut self, fact: Fact) {
        let at = self.shared.clock.now();
        let (next, effects) = step(&self.record.state, Event::new(at, fact));
        let changed = next.generation != self.record.state.generation;
        self.record.state = next;
        if changed && let Err(error) = self.write() {
            let coming_up = matches!(self.record.state.phase, Phase::Preparing { .. } | Phase::Starting { .. });
            let claimed_or_rewired = |effect: &Effect| matches!(effect, Effect::Retune(_) | Effect::Rewire(_));
            if coming_up || effects.iter().any(claimed_or_rewired) {
                // Nothing may exist that is not written down. The way down may go on: every effect of it can be repeated.
                self.not_rewired(Error::new(error.kind, error.chain()));
                self.not_relimited(Error::new(error.kind, error.chain()));
                return self.happen(Fact::RecordUnwritable(error.chain()));
            }
        }
        for effect in effects {
            self.begin(effect);
        }
        self.begin_due();
        self.answer_waiting();
    }

    fn write(&mut self) -> Result<()> {
        match self.shared.store.save(&self.record) {
            Ok(()) => {
                self.unwritten = None;
                self.publish();
                self.free_uids();
                self.free_network();
                Ok(())
            }
            Err(error) => {
                tracing::error!(sandbox = %self.id(), error = error.chain(), "record not written; will be tried again");
                self.unwritten = Some(Instant::now() + REWRITE_AFTER);
                Err(error)
            }
        }
    }

    fn publish(&mut self) {
        if self.shown >= self.record.state.view_generation {
            return;
        }
        self.shown = self.record.state.view_generation;
        let view = self.record.state.view();
        let news = (view.phase, view.started_at, view.origin.owner);
        self.signals.specs.send_replace(Arc::clone(&self.record.state.spec));
        self.signals.views.send_replace(view.clone());
        if self.told != Some(news) {
            self.told = Some(news);
            tracing::info!(sandbox = %view.id, phase = %view.phase, cause = ?view.cause, "sandbox changed");
            self.announcer.push(view);
        }
    }

    /// A block of ids goes back when it is written down that the sandbox no longer holds it.
    fn free_uids(&self) {
        let base = self.record.place.uid_base;
        let held = self.record.state.leases.iter().any(|l| matches!(l.resource, Resource::UidRange { .. }));
        if base != 0 && !held && self.record.state.is_terminal() && !self.signals.uids_freed.swap(true) {
            self.shared.uids.free(base);
        }
    }

    /// So does a place in the network.
    fn free_network(&self) {
        let state = &self.record.state;
        let held = state.leases.iter().any(|lease| matches!(lease.resource, Resource::Network(_)));
        if let Some(lease) = &state.network
            && !held
            && !self.signals.network_freed.swap(true)
        {
            self.shared.fabric.free(lease);
        }
    }

    fn came(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Fact(fact) => {
                if fact == Fact::Stowed {
                    // Nothing runs: there is nobody to watch, and what was seen last is of a life that is over.
                    self.watchers = JoinSet::new();
                    self.guest = None;
                }
                self.happen(fact);
            }
            Outcome::Failed(fact, kind) => {
                // The first failure of a start is the one its caller is told.
                let _ = self.signals.failure.set(kind);
                self.failed = Some(kind);
                if let Fact::CaptureFailed(detail) | Fact::FreezeFailed(detail) = &fact {
                    let what = format!("capture sandbox {}: {detail}", self.id());
                    self.waiting.captured = Some(Err(Error::new(kind, what)));
                }
                if let Fact::RewireFailed(detail) | Fact::RewireInDoubt(detail) = &fact {
                    self.not_rewired(Error::new(kind, detail.clone()));
                }
                if let Fact::RetuneFailed(detail) = &fact {
                    self.not_relimited(Error::new(kind, detail.clone()));
                }
                self.happen(fact);
            }
            Outcome::Unstowed(guest) => {
                self.guest = Some(guest);
                self.happen(Fact::Unstowed);
            }
            Outcome::Captured(captured) => {
                self.waiting.captured = Some(Ok(captured));
                self.happen(Fact::Captured);
            }
            Outcome::Created(record) => {
                self.record.driver_record = Some(record);
                self.happen(Fact::Created);
            }
            Outcome::AgentReady(guest) => {
                self.guest = Some(guest);
                self.happen(Fact::AgentReady);
            }
            Outcome::Adopted(guest, main) => {
                self.guest = Some(guest);
                self.happen(Fact::Adopted(main));
            }
        }
    }

    fn aborted(&mut self, effect: &Effect) {
        self.happen(if is_start(effect) {
            Fact::StartAbandoned
        } else {
            failure(effect, "it was given up".to_owned())
        });
    }

    fn watcher_broke(&mut self, error: &JoinError) {
        if error.is_panic() {
            tracing::error!(sandbox = %self.id(), %error, "a watcher of the agent panicked");
            self.happen(Fact::AgentLost("the connection to the agent broke inside the daemon".to_owned()));
        }
    }

    fn time_passed(&mut self) {
        if self.unwritten.is_some_and(|at| at <= Instant::now()) {
            drop(self.write());
        }
        self.happen(Fact::Ticked);
    }

    // --- what is done ------------------------------------------------------------------------------------------------

    fn begin(&mut self, effect: Effect) {
        match effect {
            Effect::AbandonStart => {
                if !self.lane.abort_if(is_start) {
                    self.happen(Fact::StartAbandoned);
                }
            }
            Effect::AbandonCapture => {
                // Its end is told by the lane, and by then nobody waits for it.
                self.lane.abort_if(|effect| matches!(effect, Effect::Capture { .. }));
            }
            Effect::AbandonStow => {
                // As with a capture. If it is too late, the sandbox lies on disk, and is ended there.
                self.lane.give_up(|effect| *effect == Effect::Stow);
            }
            Effect::Destroy { .. } => {
                // Nobody wants these for what is being ended, and the end must not wait for them.
                self.lane.give_up(|effect| matches!(effect, Effect::Rewire(_) | Effect::Stow | Effect::Unstow));
                self.lane.push(effect);
            }
            Effect::WatchAgent => {
                if let Some(guest) = self.guest.clone() {
                    self.watchers.spawn(async move { Outcome::Fact(Fact::AgentLost(guest.lost().await)) });
                }
            }
            Effect::WatchMain => self.watch_main(),
            // Not in the lane: it concerns the agent alone, and must not wait for the driver.
            Effect::Signal(_) => {
                self.watchers.spawn(perform(effect, self.context()));
            }
            Effect::Forget => self.forgetting = true,
            _ => self.lane.push(effect),
        }
    }

    fn begin_due(&mut self) {
        if let Some(effect) = self.lane.due() {
            if matches!(effect, Effect::Measure) {
                // Nothing runs inside any more, so nobody is left to watch.
                self.watchers.abort_all();
                self.guest = None;
            }
            let task = AbortOnDropHandle::new(tokio::spawn(perform(effect.clone(), self.context())));
            self.lane.begun(effect, task);
        }
    }

    fn context(&self) -> Context {
        Context {
            record: Arc::new(self.record.clone()),
            driver: Arc::clone(&self.driver),
            fabric: Arc::clone(&self.shared.fabric),
            guest: self.guest.clone(),
            leash: Arc::clone(&self.shared.leash),
        }
    }

    fn watch_main(&mut self) {
        let Some(guest) = self.guest.clone() else { return };
        let id = self.id().clone();
        let outlet = Arc::clone(&self.shared.outlet);
        let taking = Arc::clone(&guest);
        self.watchers.spawn(async move {
            pump(id, taking, outlet).await;
            Outcome::Fact(Fact::Drained)
        });
        self.watchers.spawn(async move {
            let mut wait = Duration::from_millis(50);
            loop {
                match guest.wait_main().await {
                    Ok(exit) => return Outcome::Fact(Fact::MainExited(exit)),
                    // A broken connection is made again; an agent that is gone is noticed by its own watcher.
                    Err(error) => tracing::debug!(error = error.chain(), "wait for main interrupted"),
                }
                tokio::time::sleep(wait).await;
                wait = wait.saturating_mul(2).min(Duration::from_secs(2));
            }
        });
    }

    /// Removes the record, once everything was told. True when it is gone.
    fn forget(&mut self) -> bool {
        if !self.announcer.is_idle() || !self.lane.is_idle() || self.unwritten.is_some() {
            return false;
        }
        match self.shared.store.remove(self.id()) {
            Ok(()) => {
                self.forgotten = true;
                true
            }
            Err(error) => {
                tracing::error!(sandbox = %self.id(), error = error.chain(), "record not removed; will be tried again");
                self.unwritten = Some(Instant::now() + REWRITE_AFTER);
                false
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
