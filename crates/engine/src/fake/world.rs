//! The host of fake sandboxes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use moat_agent::protocol::{MainState, Offsets, StreamName};
use moat_model::network::NetworkLease;
use moat_model::spec::Resources;
use moat_model::{Exit, Resource, SandboxId};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::fabric::FakeNet;
use super::files::FakeFiles;
use super::machine::{FakeMachine, Kept};
use super::program::{Program, Schedule};
use super::spawned::FakeSpawned;
use super::{FakeConfig, FakeDriver, FakeFabric};
use crate::driver::Place;
use crate::fabric::Attachment;

/// Process id of every fake main process.
const MAIN_PID: u32 = 2;

/// The host: what exists in it outlives the daemon. Cheap to clone; all clones are the same world.
#[derive(Debug, Clone, Default)]
pub struct FakeWorld {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<WorldState>,
    /// A daemon died.
    crashed: Notify,
}

/// Everything that exists.
#[derive(Debug, Default)]
pub(super) struct WorldState {
    /// Daemons that came and went. What belongs to an earlier one does nothing any more.
    epoch: u64,
    points: u64,
    crash_at: Option<u64>,
    pub config: FakeConfig,
    pub sandboxes: BTreeMap<SandboxId, FakeSandbox>,
    pub resources: Vec<Resource>,
    pub refusals: BTreeMap<String, u32>,
    pub net: FakeNet,
    pub machines: BTreeMap<PathBuf, FakeMachine>,
    pub unstows: BTreeMap<SandboxId, u32>,
    /// Identities given so far.
    pub identities: u64,
    main_starts: BTreeMap<SandboxId, u32>,
    /// Something of a sandbox changed. One for each, so that ten thousand do not wake each other.
    pub changed: BTreeMap<SandboxId, Arc<Notify>>,
}

/// One sandbox.
#[derive(Debug)]
pub(super) struct FakeSandbox {
    pub config: FakeConfig,
    pub agent_alive: bool,
    /// How often it was brought to life: whoever spoke to it in an earlier one does so no more.
    pub life: u32,
    pub kept: Kept,
    pub main: Option<FakeMain>,
    pub frozen: bool,
    /// Until when it may run, as it was told.
    pub leash: Option<Duration>,
    pub kill_failures: u32,
    pub limits: Resources,
    pub files: FakeFiles,
    pub spawned: Vec<FakeSpawned>,
}

/// Its main process, as a schedule and a clock.
#[derive(Debug, Clone)]
pub(super) struct FakeMain {
    schedule: Schedule,
    clock: Stopwatch,
    ended: Option<Exit>,
    pub acknowledged: Offsets,
    pub dies_after: Option<Duration>,
}

/// Counts time that can be stopped, and survives the runtime that counted it.
#[derive(Debug, Clone, Default)]
struct Stopwatch {
    ran: Duration,
    since: Option<Instant>,
}

impl Stopwatch {
    fn elapsed(&self) -> Duration {
        self.ran + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn halt(&mut self) {
        self.ran = self.elapsed();
        self.since = None;
    }

    fn go(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    fn when(&self, elapsed: Duration) -> Option<Instant> {
        self.since?.checked_add(elapsed.checked_sub(self.ran)?)
    }
}

impl FakeMain {
    pub fn start(program: &Program, dies_after: Option<Duration>) -> Self {
        let mut clock = Stopwatch::default();
        clock.go();
        Self { schedule: program.schedule(), clock, ended: None, acknowledged: Offsets::default(), dies_after }
    }

    /// The same in another sandbox, standing still: what it has written is the other's affair.
    pub fn fork(&mut self) -> Self {
        let elapsed = self.clock.elapsed();
        let ended = self.exit();
        let clock = Stopwatch { ran: elapsed, since: None };
        let mut schedule = self.schedule.clone();
        schedule.writes.retain(|(at, ..)| *at > elapsed);
        Self { schedule, clock, ended, acknowledged: Offsets::default(), dies_after: None }
    }

    /// How it ended, if it has by now.
    pub fn exit(&mut self) -> Option<Exit> {
        if self.ended.is_none()
            && let Some((at, exit)) = self.schedule.end
            && self.clock.elapsed() >= at
        {
            self.clock.halt();
            self.clock.ran = at;
            self.ended = Some(exit);
        }
        self.ended
    }

    pub fn signal(&mut self, signal: i32) {
        if self.exit().is_none() && (signal == 9 || !self.schedule.ignores(signal, self.clock.elapsed())) {
            self.clock.halt();
            self.ended = Some(Exit::signal(signal));
        }
    }

    pub fn set_exit(&mut self, exit: Exit) {
        if self.exit().is_none() {
            self.clock.halt();
            self.ended = Some(exit);
        }
    }

    /// Whether its agent's time has come.
    fn agent_dies(&self) -> bool {
        self.dies_after.is_some_and(|after| self.clock.elapsed() >= after)
    }

    /// What it has written to a stream so far.
    pub fn written(&mut self, stream: StreamName) -> Bytes {
        let ended = self.exit().is_some();
        let elapsed = self.clock.elapsed();
        let mut all = BytesMut::new();
        for (at, to, bytes) in &self.schedule.writes {
            if *to == stream && (*at <= elapsed || ended && *at <= self.clock.ran) {
                all.extend_from_slice(bytes);
            }
        }
        all.freeze()
    }

    /// When something next happens by itself.
    fn next(&self) -> Option<Instant> {
        let elapsed = self.clock.elapsed();
        let writes = self.schedule.writes.iter().map(|(at, ..)| *at);
        let ends = self.schedule.end.iter().map(|(at, _)| *at);
        let coming = writes.chain(ends).chain(self.dies_after).filter(|at| *at > elapsed).min()?;
        self.clock.when(coming)
    }
}

impl FakeSandbox {
    /// Lets time have its effect.
    pub fn advance(&mut self) {
        if self.main.as_ref().is_some_and(FakeMain::agent_dies) {
            self.kill();
        }
    }

    pub fn kill(&mut self) {
        self.agent_alive = false;
        self.frozen = false;
        self.kept = Kept::InMemory;
        for spawned in &self.spawned {
            spawned.end(Exit::signal(9), false);
        }
        if let Some(main) = &mut self.main {
            main.set_exit(Exit::signal(9));
            main.dies_after = None;
        }
    }

    pub fn set_frozen(&mut self, frozen: bool) {
        if self.kept != Kept::InMemory {
            return;
        }
        self.frozen = frozen;
        if let Some(main) = &mut self.main
            && main.exit().is_none()
        {
            if frozen { main.clock.halt() } else { main.clock.go() }
        }
    }

    pub fn wake_to_be_kept(&mut self) {
        if self.config.kept_awake {
            self.set_frozen(false);
        }
    }

    pub fn main_state(&mut self) -> MainState {
        match &mut self.main {
            None => MainState::Idle,
            Some(main) => match main.exit() {
                Some(exit) => MainState::Exited { exit },
                None => MainState::Running { pid: MAIN_PID },
            },
        }
    }
}

impl WorldState {
    /// What was woken to be kept stands still again.
    pub fn kept(&mut self, id: &SandboxId) {
        if let Some(sandbox) = self.sandboxes.get_mut(id).filter(|sandbox| sandbox.config.kept_awake) {
            sandbox.set_frozen(true);
        }
    }

    pub fn started_main(&mut self, id: &SandboxId) {
        *self.main_starts.entry(id.clone()).or_default() += 1;
    }

    /// A place in the network that a driver is told of exists.
    pub fn check_wired(&mut self, place: &Place) {
        let Some(wired) = &place.network else { return };
        let is_it = |(lease, to): &(NetworkLease, Attachment)| lease.address == wired.address && to.id == place.id;
        if !self.net.attached.values().any(is_it) {
            self.net.wrongs.push(format!("{} is created before its network is", place.id));
        }
    }
}

impl FakeWorld {
    /// An empty world whose sandboxes behave as `config` says.
    pub fn new(config: FakeConfig) -> Self {
        let world = Self::default();
        world.lock().config = config;
        world
    }

    /// A driver for a daemon in this world.
    pub fn driver(&self) -> Arc<FakeDriver> {
        let state = self.lock();
        let link = Link { world: self.clone(), epoch: state.epoch, about: None, life: None };
        Arc::new(FakeDriver::new(link, state.config.clone()))
    }

    /// A network for a daemon in this world.
    pub fn fabric(&self) -> Arc<FakeFabric> {
        let epoch = self.epoch();
        Arc::new(FakeFabric::new(Link { world: self.clone(), epoch, about: None, life: None }))
    }

    /// Changes how sandboxes created from now on behave.
    pub fn configure(&self, change: impl FnOnce(&mut FakeConfig)) {
        change(&mut self.lock().config);
    }

    /// Changes how one sandbox behaves from now on.
    pub fn configure_one(&self, id: &SandboxId, change: impl FnOnce(&mut FakeConfig)) {
        if let Some(sandbox) = self.lock().sandboxes.get_mut(id) {
            change(&mut sandbox.config);
        }
    }

    /// The limits in force of a sandbox.
    pub fn limits(&self, id: &SandboxId) -> Option<Resources> {
        self.lock().sandboxes.get(id).map(|sandbox| sandbox.limits.clone())
    }

    /// Sandboxes in which nothing is scheduled.
    pub fn frozen(&self) -> Vec<SandboxId> {
        self.lock().sandboxes.iter().filter(|(_, sandbox)| sandbox.frozen).map(|(id, _)| id.clone()).collect()
    }

    /// The daemon dies: nothing it had begun goes on, and nothing it holds works any more. Clocks stop until
    /// [`FakeWorld::restart`].
    pub fn crash(&self) {
        let mut state = self.lock();
        state.epoch += 1;
        state.crash_at = None;
        for sandbox in state.sandboxes.values_mut() {
            sandbox.advance();
            if let Some(main) = &mut sandbox.main {
                main.clock.halt();
            }
        }
        drop(state);
        self.inner.crashed.notify_waiters();
    }

    /// Time goes on, perhaps in another runtime.
    pub fn restart(&self) {
        for sandbox in self.lock().sandboxes.values_mut() {
            if !sandbox.frozen
                && sandbox.agent_alive
                && let Some(main) = &mut sandbox.main
                && main.exit().is_none()
            {
                main.clock.go();
            }
        }
    }

    /// Makes the daemon die at the `n`th point from now, counted from zero: each effect in the world has one before and
    /// one after it, and whoever else takes part may add its own with [`FakeWorld::point`].
    pub fn crash_at(&self, n: u64) {
        let mut state = self.lock();
        state.crash_at = Some(state.points + n);
    }

    /// Points passed so far.
    pub fn points(&self) -> u64 {
        self.lock().points
    }

    /// A point at which the daemon may be made to die. True: it just did, or had before.
    pub fn point(&self, epoch: u64) -> bool {
        let mut state = self.lock();
        if state.epoch != epoch {
            return true;
        }
        let here = state.points;
        state.points += 1;
        if state.crash_at == Some(here) {
            drop(state);
            self.crash();
            return true;
        }
        false
    }

    /// How many daemons have died.
    pub fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    /// Resolves when a daemon has died after `epoch` was read.
    pub async fn crashed_since(&self, epoch: u64) {
        loop {
            let mut crashed = std::pin::pin!(self.inner.crashed.notified());
            crashed.as_mut().enable();
            if self.epoch() != epoch {
                return;
            }
            crashed.await;
        }
    }

    /// The agent of a sandbox dies, with everything in it.
    pub fn lose_agent(&self, id: &SandboxId) {
        if let Some(sandbox) = self.lock().sandboxes.get_mut(id) {
            sandbox.kill();
        }
        self.notify(id);
    }

    /// A main process ends.
    pub fn end_main(&self, id: &SandboxId, exit: Exit) {
        if let Some(main) = self.lock().sandboxes.get_mut(id).and_then(|sandbox| sandbox.main.as_mut()) {
            main.set_exit(exit);
        }
        self.notify(id);
    }

    /// How often the main process of a sandbox was ever started.
    pub fn main_starts(&self, id: &SandboxId) -> u32 {
        self.lock().main_starts.get(id).copied().unwrap_or(0)
    }

    /// Everything that exists because of sandboxes.
    pub fn resources(&self) -> Vec<Resource> {
        self.lock().resources.clone()
    }

    /// Until when one may run, as its agent was told.
    pub fn leash(&self, id: &SandboxId) -> Option<Duration> {
        self.lock().sandboxes.get(id)?.leash
    }

    /// Sandboxes in which something runs.
    pub fn alive(&self) -> Vec<SandboxId> {
        let mut state = self.lock();
        state.sandboxes.values_mut().for_each(FakeSandbox::advance);
        state.sandboxes.iter().filter(|(_, sandbox)| sandbox.agent_alive).map(|(id, _)| id.clone()).collect()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, WorldState> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self, id: &SandboxId) {
        let changed = self.lock().changed.get(id).cloned();
        if let Some(changed) = changed {
            changed.notify_waiters();
        }
    }
}

/// A daemon's tie to the world. When that daemon has died, everything through it waits for ever.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub world: FakeWorld,
    pub epoch: u64,
    /// The sandbox it is about, if it is about one.
    pub about: Option<SandboxId>,
    /// The life of that sandbox it is about, if it is a tie to its agent.
    pub life: Option<u32>,
}

impl Link {
    /// The same, about one sandbox: what is done through it wakes those who wait for that sandbox.
    pub fn about(&self, id: &SandboxId) -> Self {
        Self { about: Some(id.clone()), ..self.clone() }
    }

    /// The same, to the agent it has in this life.
    pub fn living(&self, life: u32) -> Self {
        Self { life: Some(life), ..self.clone() }
    }

    /// Does something to the world, with a point before and one after it.
    pub async fn act<T>(&self, act: impl FnOnce(&mut WorldState) -> T) -> T {
        self.pass().await;
        let done = act(&mut self.world.lock());
        if let Some(id) = &self.about {
            self.world.notify(id);
        }
        self.pass().await;
        done
    }

    /// A point; waits for ever if the daemon died at or before it.
    pub async fn pass(&self) {
        if self.world.point(self.epoch) {
            std::future::pending::<()>().await;
        }
    }

    /// Does something at once; nothing if the daemon has died.
    pub fn now<T>(&self, act: impl FnOnce(&mut WorldState) -> T) -> Option<T> {
        let mut state = self.world.lock();
        (state.epoch == self.epoch).then(|| act(&mut state))
    }

    /// Looks at the world, unless the daemon has died.
    pub async fn look<T>(&self, look: impl FnOnce(&mut WorldState) -> T) -> T {
        {
            let mut state = self.world.lock();
            if state.epoch == self.epoch {
                return look(&mut state);
            }
        }
        std::future::pending().await
    }

    /// Waits for something to be true of a sandbox; `None` from `found` means not yet. A frozen sandbox says nothing.
    pub async fn until<T>(&self, id: &SandboxId, mut found: impl FnMut(Option<&mut FakeSandbox>) -> Option<T>) -> T {
        let changes = Arc::clone(self.world.lock().changed.entry(id.clone()).or_default());
        loop {
            let mut changed = std::pin::pin!(changes.notified());
            changed.as_mut().enable();
            let again = {
                let mut state = self.world.lock();
                if state.epoch != self.epoch {
                    None
                } else {
                    let mut sandbox = state.sandboxes.get_mut(id);
                    if let Some(sandbox) = &mut sandbox {
                        sandbox.advance();
                    }
                    let sandbox = sandbox.filter(|sandbox| self.life.is_none_or(|life| life == sandbox.life));
                    if let Some(found) = found(sandbox) {
                        return found;
                    }
                    // When it is worth looking again though nobody changed anything.
                    state.sandboxes.get(id).and_then(|sandbox| sandbox.main.as_ref()?.next())
                }
            };
            match again {
                Some(at) => {
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => changed.await,
            }
        }
    }
}
