//! What is asked of an actor, and the answers that have to wait for something to come of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use moat_model::ErrorKind;
use moat_model::lifecycle::{
    Admission, CaptureKind, Deadlines, Fact, PauseTo, Phase, Reason, Request, SandboxView, Stow, StowStep, admission,
};
use moat_model::network::NetworkSpec;
use moat_model::spec::{ClaimSpec, Resources};
use tokio::sync::oneshot;

use super::Actor;
use crate::driver::Captured;
use crate::error::{Error, Result};
use crate::guest::Guest;
use crate::mailbox::Ask;

type Reply<T> = oneshot::Sender<Result<T>>;

/// Those who wait for what they asked to come to something.
#[derive(Debug, Default)]
pub struct Waiting {
    /// For a pause to this level, or for it to run.
    freezes: Vec<(Option<PauseTo>, Reply<SandboxView>)>,
    /// For the one claim there can be.
    claim: Option<Reply<SandboxView>>,
    /// For the one change of network there can be at a time.
    rewire: Option<Reply<SandboxView>>,
    /// Why that change came to nothing.
    not_rewired: Option<Error>,
    /// For the one change of limits there can be at a time.
    relimit: Option<Reply<SandboxView>>,
    /// Why that change came to nothing.
    not_relimited: Option<Error>,
    /// For the one capture there can be at a time.
    capture: Option<Reply<Captured>>,
    /// What that capture came to.
    pub captured: Option<Result<Captured>>,
}

impl Actor {
    pub(super) fn asked(&mut self, ask: Ask) {
        match ask {
            Ask::End { request, reply } => {
                let answer = self.admit(&request);
                if answer == Admission::Accept {
                    self.happen(Fact::Requested(request));
                }
                // Who asked may have gone; what was asked is done all the same.
                let _ = reply.send(());
            }
            Ask::Freeze { request, reply } => self.freeze(request, reply),
            Ask::Keepalive { request, reply } => drop(reply.send(self.keepalive(request))),
            Ask::Claim { claim, reply } => self.claim(claim, reply),
            Ask::Rewire { wanted, reply } => self.rewire(wanted, reply),
            Ask::Relimit { wanted, reply } => self.relimit(wanted, reply),
            Ask::Capture { kind, into, reply } => self.capture(kind, into, reply),
            Ask::Touch => self.happen(Fact::Requested(Request::Use)),
            Ask::Guest { reply } => drop(reply.send(self.use_guest())),
            Ask::Agent { reply } => drop(reply.send(self.guest.clone())),
            Ask::Driver { reply } => {
                let record = match &self.record.driver_record {
                    Some(record) if !self.record.state.is_terminal() => Ok((Arc::clone(&self.driver), record.clone())),
                    _ => Err(self.conflict(&format!("it is {}", self.record.state.phase.name()))),
                };
                drop(reply.send(record));
            }
            Ask::Explain { reply } => drop(reply.send(self.record.state.timeline.steps().to_vec())),
        }
    }

    fn admit(&self, request: &Request) -> Admission {
        admission(&self.record.state, request, self.shared.clock.now())
    }

    /// Takes a request that is done when it is accepted.
    fn take(&mut self, request: Request) -> Result<()> {
        match self.admit(&request) {
            Admission::Deny(Reason::Unfit(unfit)) => Err(Error::new(ErrorKind::InvalidSpec, unfit.to_string())),
            Admission::Deny(reason) => Err(self.conflict(&reason.to_string())),
            Admission::AlreadySo => Ok(()),
            Admission::Accept => {
                self.happen(Fact::Requested(request));
                Ok(())
            }
        }
    }

    fn use_guest(&mut self) -> Result<Arc<dyn Guest>> {
        self.take(Request::Use)?;
        self.guest.clone().ok_or_else(|| self.conflict("its agent is not connected"))
    }

    fn keepalive(&mut self, request: Request) -> Result<SandboxView> {
        self.take(request)?;
        Ok(self.record.state.view())
    }

    fn freeze(&mut self, request: Request, reply: Reply<SandboxView>) {
        let level = if let Request::Pause(to) = request { Some(to) } else { None };
        if self.driver.freezer().is_none() {
            drop(reply.send(Err(self.unsupported("pause", "freeze a sandbox"))));
            return;
        }
        if level == Some(PauseTo::Disk) && self.driver.stower().is_none() {
            drop(reply.send(Err(self.unsupported("pause", "write a sandbox to disk; pause it to memory"))));
            return;
        }
        match self.admit(&request) {
            Admission::Deny(reason) => drop(reply.send(Err(self.conflict(&reason.to_string())))),
            Admission::AlreadySo => {
                // One that runs already gets the life span it was to be resumed with.
                if let Request::Resume { timeout: Some(span) } = request {
                    drop(self.take(Request::Keepalive { span: Some(span), shorten: false }));
                }
                self.waiting.freezes.push((level, reply));
            }
            Admission::Accept => {
                self.waiting.freezes.push((level, reply));
                self.happen(Fact::Requested(request));
            }
        }
        self.answer_waiting();
    }

    fn claim(&mut self, claim: Box<ClaimSpec>, reply: Reply<SandboxView>) {
        // Asked of the driver before anything changes: a member must not be lost for a claim it cannot serve.
        let can = self.can_retune(&claim.resources).and_then(|()| match &claim.network {
            Some(wanted) => self.shared.fabric.validate(wanted),
            None => Ok(()),
        });
        match can.and_then(|()| self.take(Request::Claim(claim))) {
            Ok(()) => self.waiting.claim = Some(reply),
            Err(error) => drop(reply.send(Err(error))),
        }
        self.answer_waiting();
    }

    fn rewire(&mut self, wanted: Box<NetworkSpec>, reply: Reply<SandboxView>) {
        let taken = self.shared.fabric.validate(&wanted).and_then(|()| {
            self.waiting.not_rewired = None;
            self.take(Request::Rewire(wanted))
        });
        match taken {
            Ok(()) => self.waiting.rewire = Some(reply),
            Err(error) => drop(reply.send(Err(error))),
        }
        self.answer_waiting();
    }

    /// A change of network failed; whoever asked for it is told when the state says so too.
    pub(super) fn not_rewired(&mut self, error: Error) {
        self.waiting.not_rewired = Some(error);
    }

    fn relimit(&mut self, wanted: Box<Resources>, reply: Reply<SandboxView>) {
        let taken = self.can_retune(&wanted).and_then(|()| {
            self.waiting.not_relimited = None;
            self.take(Request::Relimit(wanted))
        });
        match taken {
            Ok(()) => self.waiting.relimit = Some(reply),
            Err(error) => drop(reply.send(Err(error))),
        }
        self.answer_waiting();
    }

    /// A change of limits failed; whoever asked for it is told when the state says so too.
    pub(super) fn not_relimited(&mut self, error: Error) {
        self.waiting.not_relimited = Some(error);
    }

    fn can_retune(&self, resources: &Resources) -> Result<()> {
        let spec = &self.record.state.spec;
        if resources.over(&spec.resources) == spec.resources {
            return Ok(());
        }
        match self.driver.tuner() {
            Some(tuner) => tuner.validate_live(resources),
            None => Err(self.unsupported("resources", "change the limits of a live sandbox")),
        }
    }

    fn capture(&mut self, kind: CaptureKind, into: PathBuf, reply: Reply<Captured>) {
        let (can, ability) = match kind {
            CaptureKind::Files => (self.driver.capturer().is_some(), "keep the files of a sandbox"),
            CaptureKind::Machine => (self.driver.snapshotter().is_some(), "keep the memory of a sandbox"),
        };
        if !can || self.driver.freezer().is_none() {
            drop(reply.send(Err(self.unsupported("capture", ability))));
            return;
        }
        match self.take(Request::Capture { kind, into }) {
            Ok(()) => self.waiting.capture = Some(reply),
            Err(error) => drop(reply.send(Err(error))),
        }
        self.answer_waiting();
    }

    /// Answers those for whom something has come of what they asked.
    pub(super) fn answer_waiting(&mut self) {
        self.answer_freezes();
        self.answer_claim();
        self.answer_rewire();
        self.answer_relimit();
        self.answer_capture();
    }

    fn answer_freezes(&mut self) {
        let level = match &self.record.state.phase {
            Phase::Running { freezing: true } | Phase::Paused { thawing: true } => return,
            Phase::Running { .. } => Some(None),
            Phase::Paused { .. } => Some(Some(PauseTo::Memory)),
            Phase::Stow(Stow { step: StowStep::Lying, .. }) => Some(Some(PauseTo::Disk)),
            Phase::Stow(_) => return,
            _ => None,
        };
        for (wanted, reply) in std::mem::take(&mut self.waiting.freezes) {
            let deep_enough = |level| level == wanted || level == Some(PauseTo::Disk) && wanted.is_some();
            drop(reply.send(match level {
                Some(level) if deep_enough(level) => Ok(self.record.state.view()),
                Some(_) => Err(self.last_failure()),
                None => Err(self.conflict(&format!("it is {}", self.record.state.phase.name()))),
            }));
        }
    }

    fn answer_claim(&mut self) {
        let state = &self.record.state;
        let answer = match state.phase {
            Phase::Running { .. } | Phase::Paused { .. } if state.is_claiming() => return,
            Phase::Starting { .. } => return,
            Phase::Running { .. } | Phase::Paused { .. } => Ok(state.view()),
            _ => Err(self.last_failure()),
        };
        if let Some(reply) = self.waiting.claim.take() {
            drop(reply.send(answer));
        }
    }

    fn answer_rewire(&mut self) {
        let state = &self.record.state;
        let up =
            matches!(state.phase, Phase::Running { .. } | Phase::Paused { .. } | Phase::Stow(_) | Phase::Capturing(_));
        if self.waiting.rewire.is_none() || up && state.rewiring.is_some() {
            return;
        }
        let answer = match self.waiting.not_rewired.take() {
            Some(error) => Err(error),
            None if up => Ok(state.view()),
            None => {
                Err(self.conflict(&format!("the change of its network was given up: it is {}", state.phase.name())))
            }
        };
        if let Some(reply) = self.waiting.rewire.take() {
            drop(reply.send(answer));
        }
    }

    fn answer_relimit(&mut self) {
        let state = &self.record.state;
        let up = matches!(state.phase, Phase::Running { .. } | Phase::Paused { .. } | Phase::Capturing(_));
        if self.waiting.relimit.is_none() || up && state.relimiting.is_some() {
            return;
        }
        let answer = match self.waiting.not_relimited.take() {
            Some(error) => Err(error),
            None if up => Ok(state.view()),
            None => Err(self.conflict(&format!("the change of its limits was given up: it is {}", state.phase.name()))),
        };
        if let Some(reply) = self.waiting.relimit.take() {
            drop(reply.send(answer));
        }
    }

    fn answer_capture(&mut self) {
        if matches!(self.record.state.phase, Phase::Capturing(_)) || self.waiting.capture.is_none() {
            return;
        }
        let captured = self.waiting.captured.take();
        let answer = match (&self.record.state.phase, captured) {
            (Phase::Running { .. } | Phase::Paused { .. }, Some(captured)) => captured,
            (phase, _) => Err(self.conflict(&format!("the capture was given up: it is {}", phase.name()))),
        };
        if let Some(reply) = self.waiting.capture.take() {
            drop(reply.send(answer));
        }
    }

    /// What failed last, for a caller whose request came to nothing.
    fn last_failure(&self) -> Error {
        let kind = self.failed.unwrap_or(ErrorKind::Conflict);
        let failed = |what: &&str| what.contains("failed") || what.contains("could not");
        let steps = self.record.state.timeline.steps().iter().rev().map(|step| step.what.as_str());
        let last = steps.clone().find(failed).or_else(|| steps.clone().next()).unwrap_or("it failed");
        Error::new(kind, format!("sandbox {}: {last}", self.id()))
    }

    fn unsupported(&self, what: &str, ability: &str) -> Error {
        let driver = &self.record.state.driver;
        Error::new(ErrorKind::Unsupported, format!("{what}: driver {driver} cannot {ability}"))
    }

    fn conflict(&self, why: &str) -> Error {
        Error::new(ErrorKind::Conflict, format!("sandbox {}: {why}", self.id()))
    }
}

/// How long a claim that brings a program may take from its request to its answer, given how long its parts may.
pub fn run_within(limits: &Deadlines) -> Duration {
    rewire_within(limits) + limits.main + limits.agent
}

/// How long a claim, or a change of network, may take from its request to its answer, given how long its parts may.
pub fn rewire_within(limits: &Deadlines) -> Duration {
    // Limits and network, or a network and the one before; a freeze or thaw that was in the lane before, and some time more.
    limits.effect * 4
}

/// How long a pause or a resume may take from its request to its answer, given how long its parts may. A resume finds the
/// sandbox in memory or on disk.
pub fn pause_within(to: Option<PauseTo>, limits: &Deadlines) -> Duration {
    // The freeze or thaw, what was in the lane before, and some time more; a look at what a failure left.
    if to == Some(PauseTo::Memory) { limits.effect * 3 } else { capture_within(limits) + limits.recover }
}

/// How long a capture may take from its request to its answer, given how long its parts may.
pub fn capture_within(limits: &Deadlines) -> Duration {
    // A freeze and a thaw beside it, and what was in the lane before.
    limits.capture + limits.effect * 4
}
