//! The engine's front: every sandbox of this node by its id.
//!
//! Who calls what:
//!
//! ```text
//! node ──> Engine ──Ask──> Actor (one per sandbox, the only writer of its State)
//!                            │  step()            model: what happens next, and what is to be done
//!                            │  Store::save       written down before anything is done or told
//!                            ├─> Lane             driver calls, one at a time: create, start, kill, release, …
//!                            ├─> watchers         Guest::lost, Guest::wait_main, pump: Guest::output ──> Outlet::append
//!                            └─> Announcer        Outlet::announce, in order, after it was written down
//! node <── watch::Receiver<SandboxView>           the same views, without queueing
//! node <── Outlet                                 output and facts that must not be lost
//! ```
//!
//! Calls that only need the live agent or the driver (`exec`, `processes`, `usage`) fetch it from the actor and then go to
//! it directly, in the task of the caller. Dropping the future of a call gives up waiting, never the thing asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use moat_agent::protocol::GuestProcess;
pub use moat_model::lifecycle::Deadlines;
use moat_model::lifecycle::{CaptureKind, Event, Fact, PauseTo, PhaseName, Request, SandboxView, State, Step, step};
use moat_model::network::{NetworkLease, NetworkSpec};
use moat_model::spec::{ClaimSpec, ExecSpec, LastingRoot, OnTimeout, Resources, StopSpec};
use moat_model::{Cause, ErrorKind, Isolation, Resource, SandboxId, SandboxSpec, Timestamp};

use tokio::time::Instant;

use crate::absent::AbsentDriver;
use crate::actor::{Actor, Shared, capture_within, pause_within, rewire_within, run_within};
use crate::allocator::{UIDS_PER_BLOCK, UidAllocator};
use crate::clock::Clock;
use crate::driver::{Captured, Driver, Place, Usage};
use crate::error::{Error, Result};
use crate::fabric::Attachment;
use crate::guest::{ExecSession, Guest};
use crate::leash::Said;
use crate::mailbox::{Handle, Signals, mailbox};
use crate::outlet::Outlet;
use crate::record::{FileStore, RECORD_VERSION, SandboxRecord, Store};
pub use crate::registry::{Absent, Offer, Registry};
use crate::sweep::{orphans, sweep};
use crate::tasks::{TaskKind, Tasks};

/// An actor that has ended has done the rest of its work by then.
const FORGOTTEN_WITHIN: Duration = Duration::from_millis(500);

/// How often the actor of one sandbox is replaced after it broke. More than this and the sandbox stays as it is until
/// the daemon is restarted; its record is kept.
const REPLACEMENTS_MAX: u32 = 3;
/// How long opening waits for found sandboxes to be running or ended again.
const SETTLE_WITHIN: Duration = Duration::from_secs(1);
/// How long a stopping daemon waits for its actors; they wait for nothing, so this is a scheduler's pause.
const DETACH_WITHIN: Duration = Duration::from_secs(5);

/// What the operator sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// State that must survive the daemon but not the power; a tmpfs (`/run/moat`).
    pub run_dir: PathBuf,
    /// State on disk (`/var/lib/moat`).
    pub data_dir: PathBuf,
    /// First host user id of the blocks of 65,536 given to sandboxes.
    pub uid_base: u32,
    /// Most sandboxes that may exist at once, ended ones whose record is kept not counted.
    pub sandboxes_max: usize,
    /// Bounds of every wait.
    pub deadlines: Deadlines,
}

impl EngineConfig {
    /// The defaults, for these two directories.
    pub fn new(run_dir: impl Into<PathBuf>, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            run_dir: run_dir.into(),
            data_dir: data_dir.into(),
            uid_base: 0x4000_0000,
            sandboxes_max: 1000,
            deadlines: Deadlines::default(),
        }
    }

    fn place(&self, id: &SandboxId, uid_base: u32) -> Place {
        Place {
            id: id.clone(),
            run_dir: self.run_dir.join("sandboxes").join(id.as_str()),
            data_dir: self.data_dir.join("alloc").join(id.as_str()),
            uid_base,
            network: None,
        }
    }
}

/// Every sandbox of this node. Cheap to clone; all clones are the same engine.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: EngineConfig,
    drivers: Registry,
    shared: Shared,
    tasks: Tasks,
    table: Mutex<BTreeMap<SandboxId, Handle>>,
}

impl Engine {
    /// Opens the engine and finds again what an earlier daemon left. The views are of everything found, ended ones too;
    /// those that were running are `recovering`, and become running or ended within the recover deadline.
    ///
    /// The caller holds the lock on `run_dir`: two engines there would fight over the same sandboxes.
    pub async fn open(
        config: EngineConfig,
        drivers: Registry,
        outlet: Arc<dyn Outlet>,
    ) -> Result<(Self, Vec<SandboxView>)> {
        let store = Arc::new(FileStore::open(config.run_dir.join("sandboxes"))?);
        Self::open_on(config, drivers, outlet, store).await
    }

    /// As [`Engine::open`], with records kept in `store`.
    pub async fn open_on(
        config: EngineConfig,
        drivers: Registry,
        outlet: Arc<dyn Outlet>,
        store: Arc<dyn Store>,
    ) -> Result<(Self, Vec<SandboxView>)> {
        let loaded = store.load()?;
        let tasks = Tasks::default();
        let uids = Arc::new(UidAllocator::new(config.uid_base));
        let fabric = Arc::clone(drivers.fabric());
        let (leash, detach) = (Arc::default(), tasks.detach.clone());
        let shared = Shared { store, outlet, uids, fabric, clock: Clock::start(), leash, detach };
        let inner = Arc::new(Inner { config, drivers, shared, tasks, table: Mutex::default() });
        let engine = Self { inner };

        // All blocks are marked before the first actor runs, so that none is given twice.
        for lease in loaded.records.iter().flat_map(|record| &record.state.leases) {
            if let Resource::UidRange { base, .. } = lease.resource {
                engine.inner.shared.uids.hold(base);
            }
        }
        engine.restore_networks(&loaded.records).await?;
        let known: BTreeSet<SandboxId> = loaded.records.iter().map(|record| record.state.id.clone()).collect();
        engine.sweep(&known, loaded.set_aside);
        let mut handles = Vec::with_capacity(loaded.records.len());
        for record in loaded.records {
            let driver = engine.driver_of(&record.state);
            handles.push(engine.adopt(record, driver));
        }
        // Agents answer in milliseconds; one that does not must not hold up the rest, and stays `recovering` for now.
        let deadline = Instant::now() + SETTLE_WITHIN;
        let mut views = Vec::with_capacity(handles.len());
        for handle in handles {
            let settled = handle.wait_for(deadline, |view| view.phase != PhaseName::Recovering).await;
            views.push(settled.unwrap_or_else(|| handle.view()));
        }
        Ok((engine, views))
    }

    /// What those would be given who ask for this isolation; or why nobody here gives it.
    pub fn offer(&self, asked: Isolation) -> Result<Offer> {
        self.inner.drivers.offer(asked)
    }

    /// What the driver of this name gives, if this node has it.
    pub fn offer_of(&self, driver: &str) -> Option<Offer> {
        self.inner.drivers.offer_of(driver)
    }

    /// Says which field of `spec` cannot be honoured here.
    pub fn validate(&self, spec: &SandboxSpec) -> Result<()> {
        self.validate_with(self.inner.drivers.pick(spec)?.as_ref(), spec)
    }

    /// Creates a sandbox; returns when its main process runs, or its agent is ready if it has none. After an error, which
    /// carries stage and cause, nothing of it is left.
    pub async fn create(&self, id: SandboxId, spec: SandboxSpec) -> Result<SandboxView> {
        let driver = self.inner.drivers.pick(&spec)?;
        self.validate_with(driver.as_ref(), &spec)?;
        let handle = self.begin(id, spec, driver)?;
        let limits = handle.deadlines;
        let deadline = Instant::now() + limits.create + limits.agent + limits.main + limits.effect;
        let decided = |view: &SandboxView| {
            view.started_at.is_some()
                || matches!(view.phase, PhaseName::Stopping | PhaseName::Stopped | PhaseName::Failed)
        };
        if let Some(view) = handle.wait_for(deadline, decided).await
            && view.started_at.is_some()
        {
            return Ok(view);
        }
        // Bounded: what cannot be cleared away now goes on being tried, with its record kept.
        if let Err(left) = self.delete_within(&handle, limits.effect).await {
            tracing::warn!(sandbox = %handle.id(), error = left.chain(), "clearing away a failed start goes on");
        }
        Err(not_created(&handle))
    }

    /// The sandbox as it is now.
    pub fn get(&self, id: &SandboxId) -> Option<SandboxView> {
        self.table().get(id).map(Handle::view)
    }

    /// All of them, ended ones whose record is kept included.
    pub fn list(&self) -> Vec<SandboxView> {
        self.table().values().map(Handle::view).collect()
    }

    /// Follows one.
    pub fn watch(&self, id: &SandboxId) -> Option<tokio::sync::watch::Receiver<SandboxView>> {
        self.table().get(id).map(|handle| handle.signals.views.subscribe())
    }

    /// Stops it; resolves at the terminal view. `how` overrides the spec's way.
    pub async fn stop(&self, id: &SandboxId, how: Option<StopSpec>) -> Result<SandboxView> {
        let handle = self.handle(id)?;
        let how = how.unwrap_or(handle.stop_spec);
        handle.end(Request::Stop(how)).await?;
        self.ended(&handle, how.grace).await
    }

    /// Kills it; resolves at the terminal view.
    pub async fn kill(&self, id: &SandboxId) -> Result<SandboxView> {
        let handle = self.handle(id)?;
        handle.end(Request::Kill).await?;
        self.ended(&handle, Duration::ZERO).await
    }

    /// Pauses it; resolves when nothing in it is scheduled any more, and, for a pause to disk, its memory was given back. One
    /// that cannot be written to disk stays paused in memory, and that is an error. One that is paused deeper stays there.
    pub async fn pause(&self, id: &SandboxId, to: PauseTo) -> Result<SandboxView> {
        let handle = self.handle(id)?;
        handle.freeze(Request::Pause(to), pause_within(Some(to), &handle.deadlines)).await
    }

    /// Lets it go on, in memory or on disk as it was, with what was left of its life span. Paused for a time limit, it gets its spec's span again.
    pub async fn resume(&self, id: &SandboxId) -> Result<SandboxView> {
        let handle = self.handle(id)?;
        handle.freeze(Request::Resume { timeout: None }, pause_within(None, &handle.deadlines)).await
    }

    /// Lets it go on with this life span. One that runs already gets it too, if that is no shorter than what it has.
    pub async fn resume_for(&self, id: &SandboxId, timeout: Duration) -> Result<SandboxView> {
        let handle = self.handle(id)?;
        handle.freeze(Request::Resume { timeout: Some(timeout) }, pause_within(None, &handle.deadlines)).await
    }

    /// Gives it a life span from now: `span`, or its spec's. Never less than it has, unless `shorten` says so. A sandbox
    /// without a time limit gets one only if `span` is given; one that is paused will have it when it is resumed.
    pub async fn keepalive(&self, id: &SandboxId, span: Option<Duration>, shorten: bool) -> Result<SandboxView> {
        self.handle(id)?.keepalive(Request::Keepalive { span, shorten }).await
    }

    /// Makes a member of a pool somebody's; returns when its new limits and its network are in force, and the program of the claim, if
    /// it brings one, runs. Of two claims one wins, the other is a `Conflict`. After any other failure the member was either untouched
    /// or is being ended.
    pub async fn claim(&self, id: &SandboxId, claim: ClaimSpec) -> Result<SandboxView> {
        let handle = self.handle(id)?;
        let within = if claim.program.is_some() { run_within } else { rewire_within };
        handle.claim(Box::new(claim), within(&handle.deadlines)).await
    }

    /// Gives one that runs or is paused another network; returns when that is in force. Its address stays, and so does
    /// whether it has a network at all. After an error the one before holds, as [`Engine::spec`] says, unless the sandbox
    /// is being ended.
    pub async fn rewire(&self, id: &SandboxId, wanted: NetworkSpec) -> Result<SandboxView> {
        let handle = self.handle(id)?;
        handle.rewire(Box::new(wanted), rewire_within(&handle.deadlines)).await
    }

    /// Gives one that runs or is paused other limits; what is absent stays. Returns when they are in force. After an error
    /// those before hold, as [`Engine::spec`] says, unless the sandbox is being ended; what the driver cannot change while it
    /// lives is refused by field.
    pub async fn relimit(&self, id: &SandboxId, wanted: Resources) -> Result<SandboxView> {
        let handle = self.handle(id)?;
        handle.relimit(Box::new(wanted), rewire_within(&handle.deadlines)).await
    }

    /// Keeps what was changed in its file system in the new file `into`, while it stands still. Ending it meanwhile gives
    /// this up at once. After an error what is at `into` is the caller's to remove.
    pub async fn capture(&self, id: &SandboxId, into: PathBuf) -> Result<Captured> {
        self.keep(id, CaptureKind::Files, into).await
    }

    /// Keeps the whole machine, memory and disks, in the new directory `dir`, while it stands still; others are made from it
    /// by [`SandboxSpec::restore`]. Otherwise as [`Engine::capture`]. One that is paused on disk is a `Conflict`.
    pub async fn snapshot(&self, id: &SandboxId, dir: PathBuf) -> Result<Captured> {
        self.keep(id, CaptureKind::Machine, dir).await
    }

    /// Ends it, from whatever phase, and forgets its record; resolves when it is forgotten and nobody finds it any more.
    pub async fn delete(&self, id: &SandboxId) -> Result<()> {
        let handle = self.handle(id)?;
        self.delete_within(&handle, down_within(&handle, Duration::ZERO)).await
    }

    /// Runs another process in it, its defaults filled in. Counts as use.
    pub async fn exec(&self, id: &SandboxId, spec: &ExecSpec) -> Result<ExecSession> {
        let handle = self.handle(id)?;
        let guest = handle.guest().await?;
        let process = handle.spec().process.applied_to(&spec.process);
        guest.exec(&ExecSpec { process, ..spec.clone() }).await
    }

    /// Its agent, for files and everything else inside. Counts as use; one that is paused is a `Conflict` that says so.
    /// Processes started through it get no defaults: see [`Engine::spec`].
    pub async fn guest(&self, id: &SandboxId) -> Result<Arc<dyn Guest>> {
        self.handle(id)?.guest().await
    }

    /// What it was asked to be; a claim changes it.
    pub fn spec(&self, id: &SandboxId) -> Option<Arc<SandboxSpec>> {
        self.table().get(id).map(Handle::spec)
    }

    /// Notes that it is in use: for those who hold something open in it.
    pub fn touch(&self, id: &SandboxId) {
        let handle = self.table().get(id).cloned();
        if let Some(handle) = handle {
            handle.touch();
        }
    }

    /// Lists its processes.
    pub async fn processes(&self, id: &SandboxId) -> Result<Vec<GuestProcess>> {
        self.handle(id)?.guest().await?.processes().await
    }

    /// Measures it.
    pub async fn usage(&self, id: &SandboxId) -> Result<Usage> {
        let (driver, record) = self.handle(id)?.driver().await?;
        driver.usage(&record).await
    }

    /// What happened to it, step by step.
    pub async fn explain(&self, id: &SandboxId) -> Result<Vec<Step>> {
        self.handle(id)?.explain().await
    }

    /// Actors that broke since the engine was opened. Each is a bug, and cost one sandbox.
    pub fn panics(&self) -> u64 {
        self.inner.tasks.panics()
    }

    /// Lets go of every sandbox: the daemon stops, they live on.
    pub async fn detach(self) {
        self.inner.tasks.end(DETACH_WITHIN).await;
    }

    /// Until when leashed sandboxes may run.
    pub(crate) fn said(&self) -> &Said {
        &self.inner.shared.leash
    }

    /// Those that run only as long as it is said that they may. One that is being stopped has its grace to run in.
    pub(crate) fn leashed(&self) -> Vec<Handle> {
        let lives = |phase| matches!(phase, PhaseName::Running | PhaseName::Stopping);
        let runs = |handle: &&Handle| handle.spec().leashed && lives(handle.view().phase);
        self.table().values().filter(runs).cloned().collect()
    }

    /// This moment, by the clock that deadlines go by.
    pub(crate) fn now(&self) -> Timestamp {
        self.inner.shared.clock.now()
    }

    /// When a moment comes, for a timer.
    pub(crate) fn instant(&self, at: Timestamp) -> Instant {
        self.inner.shared.clock.instant(at)
    }

    /// Blocks of user ids that are taken.
    #[cfg(test)]
    pub fn uids_taken(&self) -> usize {
        self.inner.shared.uids.taken()
    }

    // --- beneath -----------------------------------------------------------------------------------------------------

    async fn keep(&self, id: &SandboxId, kind: CaptureKind, into: PathBuf) -> Result<Captured> {
        let handle = self.handle(id)?;
        handle.capture(kind, into, capture_within(&handle.deadlines)).await
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<SandboxId, Handle>> {
        // Entries are inserted and removed whole, so a panic elsewhere cannot have left the map half changed.
        self.inner.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, id: &SandboxId) -> Result<Handle> {
        self.table()
            .get(id)
            .cloned()
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("sandbox {id}: not on this node")))
    }

    fn driver_of(&self, state: &State) -> Arc<dyn Driver> {
        self.inner.drivers.named(&state.driver).unwrap_or_else(|| {
            tracing::error!(sandbox = %state.id, driver = state.driver, "driver not offered on this node");
            Arc::new(AbsentDriver::new(&state.driver, state.isolation))
        })
    }

    fn validate_with(&self, driver: &dyn Driver, spec: &SandboxSpec) -> Result<()> {
        validate(driver, spec)?;
        check_lasting(spec, self.inner.config.uid_base)?;
        self.inner.shared.fabric.validate(&spec.network)
    }

    /// Before the first actor runs: every place that a record names is taken, whatever driver it needs and whether that is
    /// there, and what no record names is gone.
    async fn restore_networks(&self, records: &[SandboxRecord]) -> Result<()> {
        let held = records
            .iter()
            .filter_map(|record| Some((network_of(record)?, Attachment::recorded(&record.place, &record.state))));
        self.inner.shared.fabric.restore(held.collect()).await.map_err(|error| {
            Error::caused_by(
                error.kind,
                "put the networks of recorded sandboxes in order, before any is taken up",
                error,
            )
        })
    }

    /// Takes a place in the table and starts the actor of a new sandbox.
    fn begin(&self, id: SandboxId, spec: SandboxSpec, driver: Arc<dyn Driver>) -> Result<Handle> {
        let Inner { config, shared, .. } = &*self.inner;
        let mut table = self.table();
        if table.contains_key(&id) {
            return Err(Error::new(ErrorKind::Conflict, format!("sandbox {id}: there is one with this id already")));
        }
        // Counted only when it could matter: a count of thousands is milliseconds.
        let is_live = |handle: &&Handle| !handle.signals.views.borrow().phase.is_terminal();
        let live = if table.len() < config.sandboxes_max { 0 } else { table.values().filter(is_live).count() };
        if live >= config.sandboxes_max {
            let what = format!("sandboxes_max: this node has {live} sandboxes, and may have no more");
            return Err(Error::new(ErrorKind::Exhausted, what));
        }
        let description = driver.describe();
        if let Some(lasting) = &spec.lasting {
            nobody_has(&table, lasting)?;
        }
        // Processes of the host run as users of the host; everything else gets ids of its own, or has them for good.
        let owned = spec.lasting.as_ref().map_or(0, |lasting| lasting.uid_base);
        let leased = owned == 0 && description.isolation != Isolation::Process;
        let uid_base = if leased { shared.uids.take()? } else { owned };
        let mut place = config.place(&id, uid_base);
        let mut resources = Vec::new();
        if leased {
            resources.push(Resource::UidRange { base: uid_base, count: UIDS_PER_BLOCK });
        }
        if spec.network.is_wired() {
            let attachment = Attachment::of(&place, description.isolation, &spec);
            let lease = shared.fabric.reserve(&attachment).inspect_err(|_| {
                // Nothing is recorded, so nobody else gives it back.
                if leased {
                    shared.uids.free(uid_base);
                }
            })?;
            place.network = Some(shared.fabric.place(&lease));
            resources.push(Resource::Network(lease));
        }
        let planned = driver.plan(&place, &spec);
        resources.extend(planned.into_iter().filter(|resource| !is_engines(resource)));

        let at = shared.clock.now();
        let isolation = description.isolation;
        let limits = config.deadlines;
        let limits = if isolation == Isolation::Microvm { limits.of_a_machine() } else { limits };
        let mut state = State::accepted(id, spec, description.name, isolation, limits, at);
        state.accelerator = description.accelerator.map(str::to_owned);
        let record = SandboxRecord { version: RECORD_VERSION, state, place, driver_record: None };
        let handle = self.spawn(record, driver, Fact::Planned(resources), &mut table);
        Ok(handle)
    }

    /// Starts the actor of a recorded sandbox.
    fn adopt(&self, record: SandboxRecord, driver: Arc<dyn Driver>) -> Handle {
        let mut table = self.table();
        self.spawn(record, driver, Fact::Restarted, &mut table)
    }

    fn spawn(
        &self,
        record: SandboxRecord,
        driver: Arc<dyn Driver>,
        first: Fact,
        table: &mut BTreeMap<SandboxId, Handle>,
    ) -> Handle {
        let id = record.state.id.clone();
        // What is shown from the first moment is what the actor is about to make of it: never the belief of a dead daemon.
        let (soon, _) = step(&record.state, Event::new(self.inner.shared.clock.now(), first.clone()));
        let signals = Signals::new(&soon);
        // What it does not hold is not its to give back: what it once had may be somebody else's.
        let holds = |which: fn(&Resource) -> bool| soon.leases.iter().any(|lease| which(&lease.resource));
        signals.uids_freed.swap(!holds(|resource| matches!(resource, Resource::UidRange { .. })));
        signals.network_freed.swap(!holds(|resource| matches!(resource, Resource::Network(_))));
        let (handle, inbox) = mailbox(&record.state, signals.clone());
        table.insert(id.clone(), handle.clone());
        let actor = Actor::new(record, Arc::clone(&driver), self.inner.shared.clone(), inbox, signals);
        let keeper = self.clone();
        self.inner.tasks.spawn(TaskKind::Actor, id.to_string(), async move {
            keeper.tend(id, driver, actor, first).await;
        });
        handle
    }

    /// Runs an actor to its end; one that breaks is counted and replaced by one that ends the sandbox.
    async fn tend(&self, id: SandboxId, driver: Arc<dyn Driver>, mut actor: Actor, mut first: Fact) {
        for _ in 0..=REPLACEMENTS_MAX {
            let ended = AssertUnwindSafe(actor.run(first)).catch_unwind().await;
            if actor.is_forgotten() {
                self.table().remove(&id);
                // Whoever waits for it may ask at once who is here, or make another with its id or its layer.
                actor.signals().forgotten.cancel();
                return;
            }
            if ended.is_ok() {
                return;
            }
            self.inner.tasks.count_panic();
            tracing::error!(sandbox = %id, "the actor of a sandbox broke; the sandbox is ended");
            actor.clear().await;
            let Ok(record) = self.inner.shared.store.load_one(&id) else { break };
            let signals = actor.signals();
            let (handle, inbox) = mailbox(&record.state, signals.clone());
            self.table().insert(id.clone(), handle);
            actor = Actor::new(record, Arc::clone(&driver), self.inner.shared.clone(), inbox, signals);
            first = Fact::ActorBroken("the actor broke".to_owned());
        }
        tracing::error!(sandbox = %id, "given up until the daemon is restarted; what it holds is on record");
    }

    fn sweep(&self, known: &BTreeSet<SandboxId>, set_aside: BTreeSet<SandboxId>) {
        let config = &self.inner.config;
        let dirs = [config.run_dir.join("sandboxes"), config.data_dir.join("alloc")];
        let [run, data] = &dirs;
        let mut lost = orphans(&[run, data], known);
        lost.extend(set_aside);
        if lost.is_empty() {
            return;
        }
        let places: Vec<Place> = lost.iter().map(|id| config.place(id, 0)).collect();
        let drivers = self.inner.drivers.clone();
        self.inner.tasks.spawn(TaskKind::Sweep, "orphans".to_owned(), async move {
            for place in &places {
                sweep(place, &drivers).await;
            }
        });
    }

    async fn ended(&self, handle: &Handle, grace: Duration) -> Result<SandboxView> {
        let deadline = Instant::now() + down_within(handle, grace);
        let view = handle.wait_for(deadline, |view| view.phase.is_terminal()).await;
        view.ok_or_else(|| still_ending(handle))
    }

    async fn delete_within(&self, handle: &Handle, limit: Duration) -> Result<()> {
        let forgotten = handle.signals.forgotten.cancelled();
        if let Err(error) = handle.end(Request::Delete).await {
            // Another delete was faster: then its actor has ended, and it is forgotten, or will be at once.
            let faster =
                error.kind == ErrorKind::Unavailable && tokio::time::timeout(FORGOTTEN_WITHIN, forgotten).await.is_ok();
            return if faster { Ok(()) } else { Err(error) };
        }
        tokio::time::timeout(limit, forgotten).await.map_err(|_| still_ending(handle))
    }
}

/// Ids that are somebody's for good must not be those of the host, nor those that are given to others.
fn check_lasting(spec: &SandboxSpec, own: u32) -> Result<()> {
    let Some(LastingRoot { uid_base, .. }) = spec.lasting else { return Ok(()) };
    if uid_base < UIDS_PER_BLOCK || uid_base.checked_add(UIDS_PER_BLOCK).is_none_or(|end| end > own) {
        let why = format!(
            "{uid_base} and the {UIDS_PER_BLOCK} ids from there on must lie between {UIDS_PER_BLOCK} and {own}"
        );
        return Err(Error::invalid("lasting.uid_base", why));
    }
    Ok(())
}

/// A layer is one sandbox's at a time, and so are its ids.
fn nobody_has(table: &BTreeMap<SandboxId, Handle>, wanted: &LastingRoot) -> Result<()> {
    for (id, handle) in table {
        let spec = handle.spec();
        let Some(has) = spec.lasting.as_ref().filter(|_| !handle.signals.views.borrow().phase.is_terminal()) else {
            continue;
        };
        let what = if has.dir == wanted.dir {
            format!("lasting.dir: {}", has.dir.display())
        } else if has.uid_base.abs_diff(wanted.uid_base) < UIDS_PER_BLOCK {
            format!("lasting.uid_base: {}", wanted.uid_base)
        } else {
            continue;
        };
        return Err(Error::new(ErrorKind::Conflict, format!("{what}: sandbox {id} has it, until it has ended")));
    }
    Ok(())
}

/// The engine's own to take and to give back: no driver plans or releases it.
fn is_engines(resource: &Resource) -> bool {
    matches!(resource, Resource::UidRange { .. } | Resource::Network(_))
}

/// The place in the network that a record says is held.
fn network_of(record: &SandboxRecord) -> Option<NetworkLease> {
    record.state.leases.iter().find_map(|lease| match &lease.resource {
        Resource::Network(place) => Some(*place),
        _ => None,
    })
}

fn validate(driver: &dyn Driver, spec: &SandboxSpec) -> Result<()> {
    if spec.network.is_wired() && driver.describe().isolation == Isolation::Process {
        let why =
            format!("{} needs isolation container; processes of the host have the host's network", spec.network.mode);
        return Err(Error::invalid("network.mode", why));
    }
    let limited = spec.timeout.is_some() || spec.idle_timeout.is_some();
    if limited && spec.on_timeout == OnTimeout::Pause && driver.freezer().is_none() {
        let why = format!("driver {} cannot pause; leave it at kill", driver.describe().name);
        return Err(Error::invalid("on_timeout", why));
    }
    if let Some(snapshot) = &spec.restore {
        // A machine goes on under what it was kept by, and under nothing else.
        let name = driver.describe().name;
        if name != snapshot.driver {
            let why = format!("it was kept by driver {}, and {name} cannot go on with it", snapshot.driver);
            return Err(Error::invalid("restore", why));
        }
        if driver.snapshotter().is_none() {
            let why = format!("driver {name} cannot make a sandbox from a machine that was kept");
            return Err(Error::invalid("restore", why));
        }
    }
    driver.validate(spec)
}

fn not_created(handle: &Handle) -> Error {
    let id = handle.id();
    let view = handle.view();
    let failure = handle.signals.failure.get().copied();
    match view.cause {
        Some(Cause::StartFailed { stage, detail }) => {
            Error::new(failure.unwrap_or(ErrorKind::Deadline), format!("create sandbox {id}: {stage}: {detail}"))
        }
        Some(cause) => {
            Error::new(ErrorKind::Conflict, format!("create sandbox {id}: {} while it was starting", cause.message()))
        }
        None => {
            let what = format!("create sandbox {id}: failed, and is still {}; ask `explain` why", view.phase);
            Error::new(failure.unwrap_or(ErrorKind::Deadline), what)
        }
    }
}

/// The longest a way down takes if nothing has to be tried twice.
fn down_within(handle: &Handle, grace: Duration) -> Duration {
    let limits = handle.deadlines;
    grace + limits.recover + limits.kill + limits.drain + limits.shutdown + limits.effect * 4
}

fn still_ending(handle: &Handle) -> Error {
    let what = format!("sandbox {}: still {}; it goes on being ended", handle.id(), handle.view().phase);
    Error::new(ErrorKind::Deadline, what)
}
