//! The life of a sandbox as one function.
//!
//! `step` is total (every event is defined in every phase; one that does not matter there changes nothing),
//! deterministic and pure. The transition table in [`table`](super::table) is what it does, drawn; a test holds the two
//! together.

use std::time::Duration;

use std::sync::Arc;

use super::admission::{Admission, admission};
use super::event::{Effect, Event, Fact, Request};
use super::state::{Phase, Rung, StartStep, State, Stopping};
use crate::spec::StopSpec;
use crate::{Cause, Exit, Lease, LeaseState, Resource, Timestamp};

/// What a sandbox becomes by an event, and what is to be done about it.
pub fn step(state: &State, event: Event) -> (State, Vec<Effect>) {
    let mut life = Life { now: state.clone(), effects: Vec::new(), at: event.at };
    life.take(event.fact);
    let Life { mut now, effects, .. } = life;
    // A use alone is not worth writing down: it happens with every exec.
    let last_use = std::mem::replace(&mut now.last_use, state.last_use);
    let same = now == *state;
    now.last_use = last_use;
    if same {
        return (now, effects);
    }
    now.generation = state.generation.saturating_add(1);
    if visibly_differs(state, &now) {
        now.view_generation = now.generation;
    }
    (now, effects)
}

fn visibly_differs(before: &State, after: &State) -> bool {
    before.phase.name() != after.phase.name()
        || before.is_stowed() != after.is_stowed()
        || before.started_at != after.started_at
        || before.ready_at != after.ready_at
        || before.created_at != after.created_at
        || before.expires_at != after.expires_at
        || before.remaining != after.remaining
        || !Arc::ptr_eq(&before.spec, &after.spec)
}

/// One step being taken.
pub(super) struct Life {
    pub(super) now: State,
    pub(super) effects: Vec<Effect>,
    pub(super) at: Timestamp,
}

impl Life {
    pub(super) fn note(&mut self, what: impl Into<String>) {
        self.now.timeline.note(self.at, what);
    }

    pub(super) fn emit(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn take(&mut self, fact: Fact) {
        match fact {
            Fact::Planned(resources) => self.planned(resources),
            Fact::Created => self.created(),
            Fact::CreateFailed(detail) => self.start_failed("create", detail),
            Fact::AgentReady => self.agent_ready(),
            Fact::AgentStartFailed(detail) => self.start_failed("start agent", detail),
            Fact::MainStarted => self.main_started(),
            Fact::MainStartFailed(detail) => self.start_failed("start main", detail),
            Fact::StartAbandoned => self.settled("start abandoned"),
            Fact::MainExited(exit) => self.main_exited(exit),
            Fact::Drained => self.drained(),
            Fact::AgentLost(detail) => self.agent_lost(detail),
            Fact::SignalFailed(detail) => self.signal_failed(&detail),
            Fact::Frozen => self.frozen(),
            Fact::FreezeFailed(detail) => self.freeze_failed(&detail),
            Fact::Thawed => self.thawed(),
            Fact::ThawFailed(detail) => self.thaw_failed(&detail),
            Fact::Stowed => self.stowed(),
            Fact::StowFailed(detail) => self.stow_failed(&detail),
            Fact::Unstowed => self.unstowed(),
            Fact::UnstowFailed(detail) => self.unstow_failed(&detail),
            Fact::UnstowLost(detail) => self.unstow_lost(detail),
            Fact::Captured => self.capture_written("captured"),
            Fact::CaptureFailed(detail) => self.capture_written(&format!("capture failed: {detail}")),
            Fact::Retuned => self.retuned(),
            Fact::RetuneFailed(detail) => self.retune_failed(detail),
            Fact::Rewired => self.rewire_done(),
            Fact::RewireFailed(detail) => self.rewire_failed(detail),
            Fact::RewireInDoubt(detail) => self.rewire_in_doubt(detail),
            Fact::Destroyed => self.destroyed(),
            Fact::DestroyFailed(detail) => self.destroy_failed(&detail),
            Fact::Measured { oom_kills } => self.measured(oom_kills),
            Fact::Released(resource) => self.released(&resource),
            Fact::ReleaseFailed(resource, detail) => self.release_failed(&resource, &detail),
            Fact::Restarted => self.restarted(),
            Fact::Adopted(main) => self.adopted(main),
            Fact::FoundStowed => self.found_stowed(),
            Fact::FoundGone(detail) => self.found_gone(detail),
            Fact::RecoverFailed(detail) => self.recover_failed(detail),
            Fact::RecordUnwritable(detail) => self.record_unwritable(detail),
            Fact::ActorBroken(detail) => self.actor_broken(detail),
            Fact::Ticked => self.ticked(),
            Fact::Requested(request) => self.requested(request),
        }
    }

    // --- coming up ---------------------------------------------------------------------------------------------------

    fn planned(&mut self, resources: Vec<Resource>) {
        if self.now.phase != Phase::Pending {
            return;
        }
        self.now.network = resources.iter().find_map(|resource| match resource {
            Resource::Network(lease) => Some(*lease),
            _ => None,
        });
        self.now.leases =
            resources.into_iter().map(|resource| Lease { resource, state: LeaseState::Intended }).collect();
        self.now.phase = Phase::Preparing { deadline: self.at.plus(self.now.deadlines.create) };
        self.note("planned; creating");
        self.emit(Effect::Create);
    }

    fn created(&mut self) {
        let cancelled = self.is_settling();
        if !cancelled && !matches!(self.now.phase, Phase::Preparing { .. }) {
            return;
        }
        self.now.created = true;
        for lease in &mut self.now.leases {
            lease.state = LeaseState::Held;
        }
        if cancelled {
            return self.settled("created, though no longer wanted");
        }
        self.note("created; starting the agent");
        self.starting(StartStep::Agent);
    }

    pub(super) fn starting(&mut self, step: StartStep) {
        let (span, effect) = match step {
            StartStep::Agent => (self.now.deadlines.agent, Effect::StartAgent),
            StartStep::Main => (self.main_within(), Effect::StartMain),
        };
        self.now.phase = Phase::Starting { step, deadline: self.at.plus(span) };
        self.emit(effect);
    }

    fn main_within(&self) -> Duration {
        let limits = &self.now.deadlines;
        // Into one from a pool the program's file is carried first: of one that is made for it the agent's start is that time.
        if self.now.spec.origin.from_pool { limits.main + limits.agent } else { limits.main }
    }

    fn agent_ready(&mut self) {
        match self.now.phase {
            Phase::Starting { step: StartStep::Agent, .. } => {
                self.emit(Effect::WatchAgent);
                self.after_agent();
            }
            _ => self.settled("agent ready, though no longer wanted"),
        }
    }

    pub(super) fn after_agent(&mut self) {
        if self.now.spec.main.is_some() {
            self.note("agent ready; starting the main process");
            self.starting(StartStep::Main);
        } else {
            self.note("agent ready");
            self.ready();
            self.now.phase = Phase::Running { freezing: false };
        }
    }

    fn main_started(&mut self) {
        match self.now.phase {
            Phase::Starting { step: StartStep::Main, .. } => {
                self.note("main process started");
                self.run_main();
            }
            Phase::Stopping(Stopping { rung: Rung::Settling, .. }) => {
                self.now.main_started = true;
                self.settled("main process started, though no longer wanted");
            }
            _ => {}
        }
    }

    pub(super) fn run_main(&mut self) {
        self.now.main_started = true;
        self.ready();
        self.now.phase = Phase::Running { freezing: false };
        self.emit(Effect::WatchMain);
    }

    fn start_failed(&mut self, stage: &str, detail: String) {
        let due = match self.now.phase {
            Phase::Preparing { .. } => "create",
            Phase::Starting { step: StartStep::Agent, .. } => "start agent",
            Phase::Starting { step: StartStep::Main, .. } => "start main",
            _ => return self.settled("start failed, and was no longer wanted"),
        };
        if due != stage {
            return;
        }
        self.note(format!("{stage} failed: {detail}"));
        self.destroy(Cause::StartFailed { stage: stage.to_owned(), detail }, true);
    }

    /// A start that was given up has come to rest, one way or another.
    fn settled(&mut self, how: &str) {
        if let Phase::Stopping(Stopping { rung: Rung::Settling, cause }) = &self.now.phase {
            let cause = cause.clone();
            self.note(how);
            self.destroy(cause, true);
        }
    }

    fn is_settling(&self) -> bool {
        matches!(self.now.phase, Phase::Stopping(Stopping { rung: Rung::Settling, .. }))
    }

    fn record_unwritable(&mut self, detail: String) {
        if matches!(self.now.phase, Phase::Preparing { .. } | Phase::Starting { .. }) {
            self.note(format!("record could not be written: {detail}"));
            self.abandon(Cause::StartFailed { stage: "write record".to_owned(), detail });
        } else {
            self.change_unwritable(detail);
        }
    }

    // --- running -----------------------------------------------------------------------------------------------------

    pub(super) fn main_exited(&mut self, exit: Exit) {
        if !self.now.main_runs() {
            return;
        }
        match &self.now.phase {
            Phase::Running { freezing } => {
                let freezing = *freezing;
                self.end_main(exit);
                if freezing { self.thaw_then(Cause::Exited, None) } else { self.drain(Cause::Exited) }
            }
            Phase::Paused { .. } | Phase::Capturing(_) => {
                self.end_main(exit);
                self.abandon_capture();
                self.thaw_then(Cause::Exited, None);
            }
            Phase::Stow(_) => self.main_exited_in_stow(exit),
            Phase::Stopping(Stopping { rung, cause }) => {
                let asked = matches!(rung, Rung::Asking(_) | Rung::Killing { .. });
                let cause = cause.clone();
                self.end_main(exit);
                if asked {
                    self.drain(cause);
                }
            }
            _ => {}
        }
    }

    pub(super) fn end_main(&mut self, exit: Exit) {
        self.now.exit = Some(exit);
        self.note(match exit.signal {
            Some(signal) => format!("main process ended by signal {signal}"),
            None => format!("main process exited with {}", exit.code),
        });
    }

    fn drained(&mut self) {
        match &self.now.phase {
            Phase::Stopping(Stopping { rung: Rung::Draining { .. }, cause }) => {
                let cause = cause.clone();
                self.now.drained = true;
                self.note("output taken");
                self.destroy(cause, true);
            }
            Phase::Running { .. }
            | Phase::Paused { .. }
            | Phase::Stow(_)
            | Phase::Capturing(_)
            | Phase::Stopping(_) => {
                self.now.drained = true;
            }
            _ => {}
        }
    }

    fn agent_lost(&mut self, detail: String) {
        match &self.now.phase {
            Phase::Starting { .. } => {
                self.note(format!("agent lost: {detail}"));
                self.abandon(Cause::StartFailed { stage: "start main".to_owned(), detail });
            }
            Phase::Running { .. } | Phase::Paused { .. } | Phase::Capturing(_) => {
                self.note(format!("agent lost: {detail}"));
                self.abandon_capture();
                self.destroy(Cause::AgentLost { detail }, false);
            }
            Phase::Stow(_) => self.agent_lost_in_stow(detail),
            Phase::Stopping(Stopping {
                rung: Rung::Thawing { .. } | Rung::Asking(_) | Rung::Killing { .. } | Rung::Draining { .. },
                cause,
            }) => {
                let cause = cause.clone();
                self.note(format!("agent lost: {detail}"));
                self.destroy(cause, false);
            }
            _ => {}
        }
    }

    fn signal_failed(&mut self, detail: &str) {
        // No step down because of it: the usual reason is that the main process has just ended, and that news is on its
        // way. If not, the deadline of the rung decides.
        if matches!(self.now.phase, Phase::Stopping(Stopping { rung: Rung::Asking(_) | Rung::Killing { .. }, .. })) {
            self.note(format!("signal failed: {detail}"));
        }
    }

    // --- asked -------------------------------------------------------------------------------------------------------

    fn requested(&mut self, request: Request) {
        if admission(&self.now, &request, self.at) != Admission::Accept {
            return;
        }
        match request {
            Request::Stop(how) => self.stop(how),
            Request::Kill => self.kill("kill requested"),
            Request::Pause(to) => self.pause(to),
            Request::Resume { timeout } => self.resume(timeout),
            Request::Keepalive { span, shorten } => self.keep_alive(span, shorten),
            Request::Claim(claim) => self.claim(*claim),
            Request::Rewire(wanted) => self.rewire(&wanted),
            Request::Relimit(wanted) => self.relimit(*wanted),
            Request::Capture { kind, into } => self.capture(kind, into),
            Request::Delete => self.delete(),
            Request::Use => self.now.last_use = self.at,
        }
    }

    fn delete(&mut self) {
        self.now.deleting = true;
        if self.now.is_terminal() {
            return self.emit(Effect::Forget);
        }
        self.note("delete requested");
        if admission(&self.now, &Request::Kill, self.at) == Admission::Accept {
            self.kill("killed to be deleted");
        }
    }

    fn stop(&mut self, how: StopSpec) {
        self.note(format!("stop requested: signal {}, grace {} ms", how.signal.number(), how.grace.as_millis()));
        self.bring_down(Cause::Stopped, Some(how));
    }

    fn kill(&mut self, why: &str) {
        self.note(why);
        self.bring_down(Cause::Killed, None);
    }

    // --- time --------------------------------------------------------------------------------------------------------

    fn ticked(&mut self) {
        if self.now.deadline().is_none_or(|due| due > self.at) {
            return;
        }
        match self.now.phase.clone() {
            Phase::Preparing { .. } => self.start_took_too_long("create", self.now.deadlines.create),
            Phase::Starting { step: StartStep::Agent, .. } => {
                self.start_took_too_long("start agent", self.now.deadlines.agent);
            }
            Phase::Starting { step: StartStep::Main, .. } => {
                self.start_took_too_long("start main", self.main_within());
            }
            Phase::Running { freezing } => self.limit_passed(freezing),
            Phase::Recovering { deadline, .. } if self.at >= deadline => {
                self.found_gone("did not answer in time after the daemon was restarted".to_owned());
            }
            Phase::Recovering { deadline, then, failures, .. } => self.look(deadline, then, failures),
            Phase::Stopping(stopping) => self.rung_over(stopping),
            Phase::Pending
            | Phase::Paused { .. }
            | Phase::Stow(_)
            | Phase::Capturing(_)
            | Phase::Stopped { .. }
            | Phase::Failed { .. } => {}
        }
    }

    fn start_took_too_long(&mut self, stage: &str, limit: Duration) {
        let detail = format!("took longer than {} ms", limit.as_millis());
        self.note(format!("{stage} {detail}"));
        self.abandon(Cause::StartFailed { stage: stage.to_owned(), detail });
    }
}
