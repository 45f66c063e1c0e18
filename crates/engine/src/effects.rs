//! Doing what a step asked for: one future for each effect, bounded in time, whose result is a fact.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use moat_agent::protocol::MainState;
use moat_model::lifecycle::{CaptureKind, Deadlines, Effect, Fact, MainSeen, Rewiring};
use moat_model::network::NetworkLease;
use moat_model::spec::Resources;
use moat_model::{ErrorKind, ProcessSpec, Resource};

use crate::driver::{Captured, Driver, Record, Recovered};
use crate::error::{Error, Result};
use crate::fabric::{Attachment, Fabric};
use crate::guest::{Guest, put_artifact};
use crate::leash::Said;
use crate::record::SandboxRecord;

/// What an effect came to: a fact, and what the actor must keep because of it.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing to keep.
    Fact(Fact),
    /// It failed, and a caller may want to know in which way.
    Failed(Fact, ErrorKind),
    /// The driver's record.
    Created(Record),
    /// The agent.
    AgentReady(Arc<dyn Guest>),
    /// The agent of one that was read back from disk.
    Unstowed(Arc<dyn Guest>),
    /// What was kept of it.
    Captured(Captured),
    /// The agent, found again.
    Adopted(Arc<dyn Guest>, MainSeen),
}

/// Everything an effect may need, owned by its task.
#[derive(Debug, Clone)]
pub struct Context {
    /// The sandbox as it was written down when the effect was begun.
    pub record: Arc<SandboxRecord>,
    /// Its driver.
    pub driver: Arc<dyn Driver>,
    /// What connects sandboxes.
    pub fabric: Arc<dyn Fabric>,
    /// Its agent, if it has one.
    pub guest: Option<Arc<dyn Guest>>,
    /// Until when it may run, if it is leashed.
    pub leash: Arc<Said>,
}

/// Does `effect`. Those that the actor does itself are answered with the fact that would end a wait for them.
pub async fn perform(effect: Effect, context: Context) -> Outcome {
    let limits = context.record.state.deadlines;
    match effect {
        Effect::Create => create(&context).await,
        Effect::StartAgent => start_agent(&context).await,
        Effect::StartMain => start_main(&context).await,
        Effect::Freeze => freeze(&context, limits).await,
        Effect::Thaw => thaw(&context, limits).await,
        Effect::Stow => stow(&context, limits).await,
        Effect::Unstow => unstow(&context, limits).await,
        Effect::Capture { kind, into } => capture(&context, kind, &into, limits).await,
        Effect::Retune(resources) => retune(&context, &resources, limits).await,
        Effect::Rewire(rewiring) => rewire(&context, &rewiring, limits).await,
        Effect::Destroy { polite } => destroy(&context, polite, limits).await,
        Effect::Measure => measure(&context, limits).await,
        Effect::Release(resource) => release(&context, resource, limits).await,
        Effect::Recover { thaw } => recover(&context, thaw, limits).await,
        Effect::Signal(signal) => match context.guest() {
            Ok(guest) => match bounded(limits.effect, "signal the main process", guest.signal_main(signal)).await {
                // The news that matters is the end of the main process.
                Ok(()) => Outcome::Fact(Fact::Ticked),
                Err(error) => Outcome::Fact(Fact::SignalFailed(error.chain())),
            },
            Err(error) => Outcome::Fact(Fact::SignalFailed(error.chain())),
        },
        Effect::AbandonStart
        | Effect::AbandonCapture
        | Effect::AbandonStow
        | Effect::WatchAgent
        | Effect::WatchMain
        | Effect::Forget => Outcome::Fact(Fact::Ticked),
    }
}

/// The fact that says that `effect` failed, for one that ended without a result of its own.
pub fn failure(effect: &Effect, detail: String) -> Fact {
    match effect {
        Effect::Create => Fact::CreateFailed(detail),
        Effect::StartAgent => Fact::AgentStartFailed(detail),
        Effect::StartMain => Fact::MainStartFailed(detail),
        Effect::Freeze => Fact::FreezeFailed(detail),
        Effect::Thaw => Fact::ThawFailed(detail),
        Effect::Stow => Fact::StowFailed(detail),
        Effect::Unstow => Fact::UnstowFailed(detail),
        Effect::Capture { .. } => Fact::CaptureFailed(detail),
        Effect::Retune(_) => Fact::RetuneFailed(detail),
        Effect::Rewire(_) => Fact::RewireInDoubt(detail),
        Effect::Destroy { .. } => Fact::DestroyFailed(detail),
        Effect::Measure => Fact::Measured { oom_kills: None },
        Effect::Release(resource) => Fact::ReleaseFailed(resource.clone(), detail),
        Effect::Recover { .. } => Fact::RecoverFailed(detail),
        Effect::Signal(_) => Fact::SignalFailed(detail),
        Effect::AbandonStart
        | Effect::AbandonCapture
        | Effect::AbandonStow
        | Effect::WatchAgent
        | Effect::WatchMain
        | Effect::Forget => Fact::Ticked,
    }
}

/// Whether giving up a start ends this effect.
pub fn is_start(effect: &Effect) -> bool {
    matches!(effect, Effect::Create | Effect::StartAgent | Effect::StartMain)
}

impl Context {
    fn guest(&self) -> Result<&Arc<dyn Guest>> {
        self.guest.as_ref().ok_or_else(|| Error::new(ErrorKind::Unavailable, "reach the agent: there is none"))
    }

    async fn tell_leash(&self, guest: &Arc<dyn Guest>) -> Result<()> {
        if self.record.state.spec.leashed { self.leash.tell(guest.as_ref()).await } else { Ok(()) }
    }

    fn network(&self) -> Result<NetworkLease> {
        self.record.state.network.ok_or_else(|| Error::new(ErrorKind::Internal, "change the network: there is none"))
    }

    /// What the network knows of it, with the rules on record as in force.
    fn attachment(&self) -> Attachment {
        let SandboxRecord { place, state, .. } = &*self.record;
        Attachment::of(place, state.isolation, &state.spec)
    }

    fn driver_record(&self) -> Result<&Record> {
        self.record
            .driver_record
            .as_ref()
            .ok_or_else(|| Error::new(ErrorKind::Internal, "read the driver's record: there is none"))
    }
}

async fn bounded<T>(limit: Duration, doing: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(ErrorKind::Deadline, format!("{doing}: no answer within {} ms", limit.as_millis()))),
    }
}

// The three steps of a start have no bound here: the state's own deadline gives them up.

async fn create(context: &Context) -> Outcome {
    let state = &context.record.state;
    let create = async {
        if let Some(lease) = &state.network {
            context.fabric.attach(lease, &context.attachment()).await?;
        }
        context.driver.create(&context.record.place, &state.spec).await
    };
    match create.await {
        Ok(record) => Outcome::Created(record),
        Err(error) => Outcome::Failed(Fact::CreateFailed(error.chain()), error.kind),
    }
}

async fn start_agent(context: &Context) -> Outcome {
    let start = async { context.driver.start(context.driver_record()?).await };
    match start.await {
        Ok(guest) => Outcome::AgentReady(guest),
        Err(error) => Outcome::Failed(Fact::AgentStartFailed(error.chain()), error.kind),
    }
}

async fn start_main(context: &Context) -> Outcome {
    let start = async {
        let guest = context.guest()?;
        let spec = &context.record.state.spec;
        let Some(process) = &spec.main else {
            return Err(Error::new(ErrorKind::Internal, "start main: the spec has none"));
        };
        // A member of a pool was there before its program was known.
        let late = spec.artifact.as_ref().filter(|_| spec.origin.from_pool);
        if let Some(artifact) = late
            && guest.hello().await?.main == MainState::Idle
        {
            put_artifact(guest.as_ref(), artifact).await?;
        }
        // Before there is anything: the daemon may die at any line.
        context.tell_leash(guest).await?;
        start_main_once(guest.as_ref(), &spec.process.applied_to(process)).await
    };
    match start.await {
        Ok(()) => Outcome::Fact(Fact::MainStarted),
        Err(error) => Outcome::Failed(Fact::MainStartFailed(error.chain()), error.kind),
    }
}

/// How soon an agent that is just starting the main process for somebody else is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// A request of a daemon that has ended may still have been on its way: then the agent refuses a second start, and the
/// main process runs, has run, or is about to.
async fn start_main_once(guest: &dyn Guest, process: &ProcessSpec) -> Result<()> {
    loop {
        match guest.start_main(process).await {
            Ok(_) => return Ok(()),
            Err(error) if error.kind == ErrorKind::Conflict => {}
            Err(error) => return Err(error),
        }
        match guest.hello().await?.main {
            MainState::Running { .. } | MainState::Exited { .. } => return Ok(()),
            // Bounded by the deadline of the phase.
            MainState::Idle => tokio::time::sleep(ASK_AGAIN_AFTER).await,
        }
    }
}

async fn freeze(context: &Context, limits: Deadlines) -> Outcome {
    let freeze = async {
        let Some(freezer) = context.driver.freezer() else { return Err(cannot(context, "pause", "freeze")) };
        freezer.freeze(context.driver_record()?).await
    };
    match bounded(limits.effect, "freeze", freeze).await {
        Ok(()) => Outcome::Fact(Fact::Frozen),
        Err(error) => Outcome::Failed(Fact::FreezeFailed(error.chain()), error.kind),
    }
}

async fn thaw(context: &Context, limits: Deadlines) -> Outcome {
    let thaw = async {
        let Some(freezer) = context.driver.freezer() else { return Err(cannot(context, "pause", "freeze")) };
        freezer.thaw(context.driver_record()?).await?;
        // An agent that was frozen for long takes what it was told last for over. It is told again with the next beat too.
        if let Ok(guest) = context.guest()
            && let Err(error) = context.tell_leash(guest).await
        {
            tracing::debug!(error = error.chain(), "the leash is not lengthened yet");
        }
        Ok(())
    };
    match bounded(limits.effect, "thaw", thaw).await {
        Ok(()) => Outcome::Fact(Fact::Thawed),
        Err(error) => Outcome::Failed(Fact::ThawFailed(error.chain()), error.kind),
    }
}

// All memory of a sandbox is written, or read, as everything it changed is in a capture.

async fn stow(context: &Context, limits: Deadlines) -> Outcome {
    let stow = async {
        let Some(stower) = context.driver.stower() else { return Err(cannot(context, "pause", "stow")) };
        stower.stow(context.driver_record()?).await
    };
    match bounded(limits.capture, "write to disk", stow).await {
        Ok(()) => Outcome::Fact(Fact::Stowed),
        Err(error) => Outcome::Failed(Fact::StowFailed(still_again(context, limits, &error).await), error.kind),
    }
}

async fn unstow(context: &Context, limits: Deadlines) -> Outcome {
    let unstow = async {
        let Some(stower) = context.driver.stower() else { return Err(cannot(context, "pause", "stow")) };
        stower.unstow(context.driver_record()?).await
    };
    match bounded(limits.capture, "read from disk", unstow).await {
        Ok(guest) => Outcome::Unstowed(guest),
        Err(error) => not_unstowed(context, limits, &error).await,
    }
}

/// What an unstow that failed, or was not answered, has left: only the driver can tell.
async fn not_unstowed(context: &Context, limits: Deadlines, error: &Error) -> Outcome {
    let look = async { context.driver.recover(context.driver_record()?).await };
    let fact = match bounded(limits.recover, "look for it on disk", look).await {
        Ok(Recovered::Alive(guest)) => return Outcome::Unstowed(guest),
        Ok(Recovered::Gone { detail }) => Fact::UnstowLost(format!("{}; {detail}", error.chain())),
        Ok(Recovered::Stowed) | Err(_) => Fact::UnstowFailed(error.chain()),
    };
    Outcome::Failed(fact, error.kind)
}

async fn capture(context: &Context, kind: CaptureKind, into: &Path, limits: Deadlines) -> Outcome {
    let capture = async {
        let (record, driver) = (context.driver_record()?, &context.driver);
        match (kind, driver.capturer(), driver.snapshotter()) {
            (CaptureKind::Files, Some(capturer), _) => capturer.capture(record, into).await,
            (CaptureKind::Machine, _, Some(snapshotter)) => snapshotter.snapshot(record, into).await,
            (CaptureKind::Files, ..) => Err(cannot(context, "capture", "keep files")),
            (CaptureKind::Machine, ..) => Err(cannot(context, "capture", "keep a machine")),
        }
    };
    match bounded(limits.capture, "capture", capture).await {
        Ok(captured) => Outcome::Captured(captured),
        Err(error) => Outcome::Failed(Fact::CaptureFailed(still_again(context, limits, &error).await), error.kind),
    }
}

/// To be kept in good order, a frozen sandbox may run for a moment, and that may be where the driver was when it failed or was
/// given up. It is had to stand still again, as whoever lets it go on, or does not, believes it to. What is to be told of both.
async fn still_again(context: &Context, limits: Deadlines, error: &Error) -> String {
    let freeze = async {
        match (context.driver.freezer(), &context.record.driver_record) {
            (Some(freezer), Some(record)) => freezer.freeze(record).await,
            _ => Ok(()),
        }
    };
    match bounded(limits.effect, "freeze again", freeze).await {
        Ok(()) => error.chain(),
        Err(again) => format!("{}; and then it could not be frozen again: {}", error.chain(), again.chain()),
    }
}

async fn retune(context: &Context, resources: &Resources, limits: Deadlines) -> Outcome {
    let tune = async {
        let Some(tuner) = context.driver.tuner() else { return Err(cannot(context, "resources", "change limits")) };
        tuner.tune(context.driver_record()?, resources).await
    };
    match bounded(limits.effect, "set limits", tune).await {
        Ok(()) => Outcome::Fact(Fact::Retuned),
        Err(error) => {
            put_limits_back(context, resources, limits).await;
            Outcome::Failed(Fact::RetuneFailed(error.chain()), error.kind)
        }
    }
}

/// What was set of limits that were refused in the middle is what it was, as far as anybody asked for something before.
async fn put_limits_back(context: &Context, asked: &Resources, limits: Deadlines) {
    let state = &context.record.state;
    if state.relimiting.is_none() {
        // Of a claim: the sandbox ends.
        return;
    }
    let before = state.spec.resources.only(asked);
    if before == Resources::default() {
        return;
    }
    let tune = async {
        match context.driver.tuner() {
            Some(tuner) => tuner.tune(context.driver_record()?, &before).await,
            None => Ok(()),
        }
    };
    if let Err(error) = bounded(limits.effect, "put limits back", tune).await {
        tracing::warn!(sandbox = %state.id, error = error.chain(), "limits that were refused may hold in part");
    }
}

/// Gives it another network. If that fails, or nobody can say whether it did, the one it had is asked for again; except in
/// a claim, which ends the sandbox.
async fn rewire(context: &Context, rewiring: &Rewiring, limits: Deadlines) -> Outcome {
    let before = context.attachment();
    let wanted = Attachment { spec: rewiring.to.clone(), ..before.clone() };
    let change = async |to: &Attachment, doing: &str| {
        let change = async { context.fabric.change(&context.network()?, to).await };
        bounded(limits.effect, doing, change).await
    };
    let Err(error) = change(&wanted, "change the network").await else { return Outcome::Fact(Fact::Rewired) };
    let (kind, detail) = (error.kind, error.chain());
    if rewiring.claim {
        return Outcome::Failed(Fact::RewireFailed(detail), kind);
    }
    match change(&before, "put the network back").await {
        Ok(()) => Outcome::Failed(Fact::RewireFailed(detail), kind),
        Err(error) => Outcome::Failed(Fact::RewireInDoubt(format!("{detail}; {}", error.chain())), kind),
    }
}

fn cannot(context: &Context, what: &str, ability: &str) -> Error {
    let driver = &context.record.state.driver;
    Error::new(ErrorKind::Unsupported, format!("{what}: driver {driver} cannot {ability}"))
}

/// The agent is asked first so that it can end in good order; then the driver makes sure.
async fn destroy(context: &Context, polite: bool, limits: Deadlines) -> Outcome {
    if polite && let Some(guest) = &context.guest {
        let farewell = async {
            guest.shutdown().await?;
            guest.lost().await;
            Ok(())
        };
        if let Err(error) = bounded(limits.shutdown, "shut the agent down", farewell).await {
            tracing::debug!(sandbox = %context.record.state.id, error = error.chain(), "agent did not end by itself");
        }
    }
    let kill = async { context.driver.kill(context.driver_record()?).await };
    match bounded(limits.effect, "kill", kill).await {
        Ok(()) => Outcome::Fact(Fact::Destroyed),
        Err(error) => Outcome::Fact(Fact::DestroyFailed(error.chain())),
    }
}

async fn measure(context: &Context, limits: Deadlines) -> Outcome {
    let usage = async { context.driver.usage(context.driver_record()?).await };
    let oom_kills = match bounded(limits.effect, "measure usage", usage).await {
        Ok(usage) => Some(usage.oom_kills),
        Err(error) => {
            tracing::warn!(sandbox = %context.record.state.id, error = error.chain(), "usage unknown at the end");
            None
        }
    };
    Outcome::Fact(Fact::Measured { oom_kills })
}

async fn release(context: &Context, resource: Resource, limits: Deadlines) -> Outcome {
    if matches!(resource, Resource::UidRange { .. }) {
        // Nothing on the host. The actor gives the block back once it is written down that nobody holds it.
        return Outcome::Fact(Fact::Released(resource));
    }
    let release = async {
        match &resource {
            Resource::Network(lease) => context.fabric.detach(lease).await,
            _ => context.driver.release(&resource).await,
        }
    };
    match bounded(limits.effect, "release", release).await {
        Ok(()) => Outcome::Fact(Fact::Released(resource)),
        Err(error) => Outcome::Fact(Fact::ReleaseFailed(resource, error.chain())),
    }
}

async fn recover(context: &Context, thaw: bool, limits: Deadlines) -> Outcome {
    let look = async {
        let record = context.driver_record()?;
        if thaw && let Some(freezer) = context.driver.freezer() {
            freezer.thaw(record).await?;
        }
        match context.driver.recover(record).await? {
            Recovered::Stowed => Ok(Outcome::Fact(Fact::FoundStowed)),
            Recovered::Gone { detail } => Ok(Outcome::Fact(Fact::FoundGone(detail))),
            Recovered::Alive(guest) => {
                let seen = match guest.hello().await?.main {
                    MainState::Idle => MainSeen::Idle,
                    MainState::Running { .. } => MainSeen::Running,
                    MainState::Exited { exit } => MainSeen::Exited(exit),
                };
                Ok(Outcome::Adopted(guest, seen))
            }
        }
    };
    match bounded(limits.recover, "recover", look).await {
        Ok(outcome) => outcome,
        Err(error) => Outcome::Fact(Fact::RecoverFailed(error.chain())),
    }
}
