//! The actor of one workload.

use std::sync::Arc;
use std::time::Duration;

use moat_model::lifecycle::{PhaseName, SandboxView};
use moat_model::spec::{ClaimSpec, Owner, StopSpec};
use moat_model::workload::Verdict;
use moat_model::{Cause, ErrorKind, Exit, SandboxId, Timestamp};
use tokio::sync::{mpsc, oneshot, watch};

use super::record::{Ending, Stage};
use super::{Shared, Snapshot, WorkloadRecord, new_sandbox_id};
use crate::artifact::PinnedArtifact;
use crate::clock;
use crate::error::{Error, Result};
use crate::events::Attempt;

/// Told when the first attempt runs, or why it does not.
pub(super) type First = oneshot::Sender<Result<Arc<Snapshot>>>;

/// A wait before a refused write or delete is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// What can be asked of a workload.
#[derive(Debug)]
pub(super) enum Command {
    /// End it for good.
    Stop {
        /// Instead of the way its spec names.
        how: Option<StopSpec>,
        /// Told when this is written down and under way.
        accepted: oneshot::Sender<Result<()>>,
    },
    /// Do not start it again.
    ClearEssential,
}

/// Whether the actor goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Stage,
    Leave,
}

#[derive(Debug)]
pub(super) struct Actor {
    shared: Arc<Shared>,
    record: WorkloadRecord,
    /// Keeps the program on disk as long as it may run again.
    pin: Option<PinnedArtifact>,
    commands: mpsc::Receiver<Command>,
    tell: watch::Sender<Arc<Snapshot>>,
}

impl Actor {
    pub(super) fn new(
        shared: Arc<Shared>,
        record: WorkloadRecord,
        pin: Option<PinnedArtifact>,
        commands: mpsc::Receiver<Command>,
        tell: watch::Sender<Arc<Snapshot>>,
    ) -> Self {
        Self { shared, record, pin, commands, tell }
    }

    /// Runs until the workload has ended or the daemon lets go of it.
    pub(super) async fn run(mut self, mut first: Option<First>) {
        loop {
            let next = match self.record.stage.clone() {
                Stage::Starting { sandbox } => self.start(sandbox, &mut first).await,
                Stage::Running { sandbox } => self.follow(sandbox).await,
                Stage::Waiting { until } => self.wait(until).await,
                Stage::Ended { .. } => {
                    self.pin = None;
                    self.publish(None);
                    return;
                }
            };
            if next == Next::Leave {
                return;
            }
        }
    }

    // --- stages

    /// Makes the sandbox of this attempt.
    async fn start(&mut self, sandbox: SandboxId, first: &mut Option<First>) -> Next {
        self.publish(None);
        let (sandbox, made) = match self.claim(sandbox).await {
            (sandbox, Some(made)) => (sandbox, made),
            (sandbox, None) => {
                let made = self.make(&sandbox, None).await;
                (sandbox, made)
            }
        };
        let Some(created) = made else { return Next::Leave };
        match (created, first.take()) {
            (Ok(view), waiting) => {
                self.record.running(&view);
                if let Err(error) = self.shared.store.write(&self.record) {
                    // Not written, so not acknowledged: a daemon killed now would undo it, and so do we.
                    return self.undo(&sandbox, waiting, error).await;
                }
                self.publish(Some(view.phase));
                tracing::info!(workload = %self.record.id, name = %self.record.name, %sandbox, attempt = self.record.attempt, driver = %view.driver, "workload runs");
                if let Some(waiting) = waiting {
                    let _ = waiting.send(Ok(self.tell.borrow().clone()));
                }
                Next::Stage
            }
            (Err(error), Some(waiting)) => self.undo(&sandbox, Some(waiting), error).await,
            (Err(error), None) => {
                tracing::warn!(workload = %self.record.id, %sandbox, error = %error.chain(), "attempt failed to start");
                let ending = match self.shared.base.engine.get(&sandbox) {
                    Some(view) if view.phase.is_terminal() => Ending::of(&view),
                    _ => start_failed(&error),
                };
                self.attempt_over(&sandbox, ending).await
            }
        }
    }

    /// Has this attempt run in a machine that stands ready, if one fits and can be had; and what came of it. If none can, the
    /// sandbox to be made.
    async fn claim(&mut self, sandbox: SandboxId) -> (SandboxId, Option<Option<Result<SandboxView>>>) {
        let Some((member, claim)) = self.shared.base.ready.take(&self.record.spec) else { return (sandbox, None) };
        // On record first: whoever finds the record later ends this one and no other.
        self.record.starting_in(member.clone());
        if let Err(error) = self.shared.store.write(&self.record) {
            tracing::warn!(workload = %self.record.id, error = %error.chain(), "no machine was claimed");
            self.record.starting_in(sandbox.clone());
            return (sandbox, None);
        }
        let made = self.make(&member, Some(claim)).await;
        let engine = &self.shared.base.engine;
        let ours = engine.get(&member).is_some_and(|view| view.origin.owner == Owner::Workload);
        match made {
            Some(Err(error)) if !ours && !self.record.stopping => {
                tracing::warn!(workload = %self.record.id, %member, error = %error.chain(), "a machine that stood ready could not be claimed: one is made");
                if let Err(error) = self.shared.base.outlet.unbind(&member).await {
                    tracing::warn!(%member, error = %error.chain(), "output not closed");
                }
                self.record.starting_in(sandbox.clone());
                match self.shared.store.write(&self.record) {
                    Ok(()) => (sandbox, None),
                    Err(error) => (sandbox, Some(Some(Err(error)))),
                }
            }
            made => (member, Some(made)),
        }
    }

    /// Makes the sandbox, or claims it, and takes commands meanwhile. `None`: the daemon lets go.
    async fn make(&mut self, sandbox: &SandboxId, claim: Option<ClaimSpec>) -> Option<Result<SandboxView>> {
        if let Err(error) = self.bind(sandbox).await {
            return Some(Err(error));
        }
        let engine = self.shared.base.engine.clone();
        let spec = self.record.spec.clone();
        let began = std::time::Instant::now();
        let made = async {
            match claim {
                Some(claim) => engine.claim(sandbox, claim).await,
                None => engine.create(sandbox.clone(), spec).await,
            }
        };
        let mut made = std::pin::pin!(made);
        let detached = self.shared.detached.clone();
        loop {
            tokio::select! {
                biased;
                () = detached.cancelled() => return None,
                made = &mut made => {
                    if let Ok(view) = &made {
                        let driver = view.driver.clone();
                        metrics::histogram!("moat_sandbox_create_seconds", "driver" => driver).record(began.elapsed());
                    }
                    return Some(made);
                }
                Some(command) = self.commands.recv() => match command {
                    Command::Stop { accepted, .. } => {
                        let noted = self.note_stop();
                        let kill = noted.is_ok();
                        let _ = accepted.send(noted);
                        if kill {
                            let (engine, sandbox) = (engine.clone(), sandbox.clone());
                            self.shared.tasks.spawn(async move {
                                if let Err(error) = engine.kill(&sandbox).await {
                                    tracing::debug!(%sandbox, error = %error.chain(), "kill while starting");
                                }
                            });
                        }
                    }
                    Command::ClearEssential => self.clear_essential(),
                },
            }
        }
    }

    /// Follows the running sandbox to its end.
    async fn follow(&mut self, sandbox: SandboxId) -> Next {
        let detached = self.shared.detached.clone();
        let Some(mut views) = self.shared.base.engine.watch(&sandbox) else {
            let ending = Ending {
                exit: Exit::unknown(),
                cause: Cause::Lost { detail: "its sandbox was not found when the node started".to_owned() },
            };
            return self.attempt_over(&sandbox, ending).await;
        };
        if self.record.stopping {
            // Asked for while it started, or by a daemon that was killed: carried on.
            self.engine_stop(&sandbox, None);
        }
        loop {
            let view = views.borrow_and_update().clone();
            if view.phase.is_terminal() {
                let ending = Ending::of(&view);
                return self.attempt_over(&sandbox, ending).await;
            }
            self.publish(Some(view.phase));
            tokio::select! {
                biased;
                () = detached.cancelled() => return Next::Leave,
                changed = views.changed() => if changed.is_err() {
                    // The engine ends a watch only when it lets go of the sandbox.
                    detached.cancelled().await;
                    return Next::Leave;
                },
                Some(command) = self.commands.recv() => match command {
                    Command::Stop { how, accepted } => {
                        let noted = self.note_stop();
                        if noted.is_ok() {
                            self.engine_stop(&sandbox, how);
                        }
                        let _ = accepted.send(noted);
                    }
                    Command::ClearEssential => self.clear_essential(),
                },
            }
        }
    }

    /// Waits until it is time for the next attempt.
    async fn wait(&mut self, until: Timestamp) -> Next {
        self.publish(None);
        let detached = self.shared.detached.clone();
        let mut time = std::pin::pin!(tokio::time::sleep(until.since(clock::now())));
        while self.record.essential && !self.record.stopping {
            tokio::select! {
                biased;
                () = detached.cancelled() => return Next::Leave,
                Some(command) = self.commands.recv() => match command {
                    Command::Stop { accepted, .. } => {
                        let _ = accepted.send(self.note_stop());
                    }
                    Command::ClearEssential => self.clear_essential(),
                },
                () = &mut time => {
                    self.record.starting(new_sandbox_id(), clock::now());
                    return self.write().await;
                }
            }
        }
        self.record.end(None, clock::now());
        self.write().await
    }

    // --- endings

    /// Decides what follows an attempt, writes it down, and only then lets its sandbox go.
    async fn attempt_over(&mut self, sandbox: &SandboxId, ending: Ending) -> Next {
        let now = clock::now();
        self.record.timeline = self.shared.base.engine.explain(sandbox).await.unwrap_or_default();
        let (code, cause) = (ending.exit.code, ending.cause.message());
        let verdict = self.record.verdict(&ending, now, &self.shared.base.restart);
        tracing::info!(workload = %self.record.id, name = %self.record.name, code, %cause, ?verdict, "workload ended");
        match verdict {
            Verdict::Restart { after, failures } => self.record.waiting(ending, failures, now.plus(after)),
            Verdict::Finished | Verdict::GiveUp { .. } => self.record.end(Some(ending), now),
        }
        if self.write().await == Next::Leave {
            return Next::Leave;
        }
        // Returns when everything about the sandbox was told.
        self.forget_sandbox(sandbox).await;
        Next::Stage
    }

    /// Leaves nothing of a first attempt that failed, and says why it did.
    async fn undo(&mut self, sandbox: &SandboxId, first: Option<First>, error: Error) -> Next {
        tracing::warn!(workload = %self.record.id, name = %self.record.name, error = %error.chain(), "workload not started");
        self.forget_sandbox(sandbox).await;
        if let Err(error) = self.shared.store.remove(&self.record.id) {
            tracing::warn!(workload = %self.record.id, error = %error.chain(), "record not removed");
        }
        self.shared.table().entries.remove(&self.record.id);
        self.record.end(Some(start_failed(&error)), clock::now());
        self.publish(None);
        self.pin = None;
        if let Some(first) = first {
            let _ = first.send(Err(error));
        }
        Next::Leave
    }

    async fn forget_sandbox(&self, sandbox: &SandboxId) {
        match self.shared.base.engine.delete(sandbox).await {
            Ok(()) => {}
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%sandbox, error = %error.chain(), "sandbox not deleted yet"),
        }
        if let Err(error) = self.shared.base.outlet.unbind(sandbox).await {
            tracing::warn!(%sandbox, error = %error.chain(), "output not closed");
        }
    }

    // --- small things

    async fn bind(&self, sandbox: &SandboxId) -> Result<()> {
        let reference = self.record.reference(&self.shared.base.node);
        let attempt = Attempt { number: self.record.attempt, artifact_bytes: self.record.artifact_bytes };
        self.shared.base.outlet.bind_attempt(sandbox.clone(), reference, attempt).await
    }

    fn note_stop(&mut self) -> Result<()> {
        self.record.stopping = true;
        self.shared.store.write(&self.record)
    }

    fn clear_essential(&mut self) {
        self.record.essential = false;
        if let Err(error) = self.shared.store.write(&self.record) {
            tracing::warn!(workload = %self.record.id, error = %error.chain(), "a restarted daemon would take it for essential");
        }
        let live = self.tell.borrow().view.phase;
        self.publish(Some(live));
    }

    /// Begins to stop the sandbox; its end arrives as a view.
    fn engine_stop(&self, sandbox: &SandboxId, how: Option<StopSpec>) {
        let (engine, sandbox) = (self.shared.base.engine.clone(), sandbox.clone());
        let detached = self.shared.detached.clone();
        self.shared.tasks.spawn(async move {
            tokio::select! {
                biased;
                // The stop is written down: the next daemon carries it on.
                () = detached.cancelled() => {}
                stopped = engine.stop(&sandbox, how) => if let Err(error) = stopped {
                    tracing::warn!(%sandbox, error = %error.chain(), "stop");
                },
            }
        });
    }

    /// Writes the record, again and again if need be: deciding twice is better than forgetting once.
    async fn write(&mut self) -> Next {
        let detached = self.shared.detached.clone();
        while let Err(error) = self.shared.store.write(&self.record) {
            tracing::error!(workload = %self.record.id, error = %error.chain(), "record not written; trying again");
            tokio::select! {
                () = detached.cancelled() => return Next::Leave,
                () = tokio::time::sleep(RETRY_DELAY) => {}
            }
        }
        Next::Stage
    }

    fn publish(&self, live: Option<PhaseName>) {
        let snapshot = Snapshot::of(&self.record, &self.shared.base.node, live);
        self.tell.send_if_modified(|current| {
            let changed = **current != snapshot;
            if changed {
                *current = Arc::new(snapshot);
            }
            changed
        });
    }
}

fn start_failed(error: &Error) -> Ending {
    let cause = Cause::StartFailed { stage: "create".to_owned(), detail: error.chain() };
    Ending { exit: Exit::unknown(), cause }
}
