//! A member of a pool becomes somebody's.
//!
//! Everything about it changes in one step, so of two claims one finds a member and the other does not. What must be done
//! on the host, new limits and then its network, comes after that step; until it is done nothing else may use the sandbox,
//! and if it cannot be done the sandbox ends. A program that comes with the claim is started last, and from then on the
//! sandbox is like one that was made for it.

use std::sync::Arc;

use super::event::Effect;
use super::rewire::Rewiring;
use super::state::{Phase, StartStep, State};
use super::step::Life;
use crate::Cause;
use crate::spec::{ClaimSpec, Program, Resources};

impl State {
    /// It was claimed with a program, and that was not started yet.
    pub(super) fn awaits_program(&self) -> bool {
        self.spec.origin.from_pool && self.spec.main.is_some() && !self.main_started
    }
}

impl Life {
    pub(super) fn claim(&mut self, claim: ClaimSpec) {
        let stood = self.at.since(self.now.created_at);
        self.note(format!("claimed, after it had stood in the pool for {} ms", stood.as_millis()));
        let mut spec = (*self.now.spec).clone();
        let network = match &claim.network {
            Some(wanted) => self.now.rewired(wanted).unwrap_or_else(|_| spec.network.clone()),
            None => spec.network.clone(),
        };
        let resources = claim.resources.over(&spec.resources);
        let retune = resources != spec.resources;
        spec.namespace = claim.namespace;
        spec.labels = claim.labels;
        spec.ingress = claim.ingress;
        spec.timeout = claim.timeout;
        spec.idle_timeout = claim.idle_timeout;
        spec.on_timeout = claim.on_timeout;
        spec.process = claim.process;
        spec.origin.owner = claim.owner;
        spec.origin.from_pool = true;
        spec.resources = resources;
        let runs = claim.program.is_some();
        if let Some(Program { main, artifact, stop }) = claim.program {
            (spec.main, spec.artifact, spec.stop) = (Some(main), artifact, stop);
        }
        self.now.spec = Arc::new(spec);
        self.now.created_at = self.at;
        self.now.ready_at = None;
        if runs {
            // Its clocks begin with its program, like those of one that was made for it.
            self.now.started_at = None;
        } else {
            self.begin_clocks();
        }
        // Whatever its rules are to be, they are those of another namespace, and no longer those of nobody's sandbox.
        self.now.rewiring = self.now.network.map(|_| Rewiring { to: network, claim: true });
        if retune {
            self.retune(claim.resources);
        } else {
            self.ask_rewire();
        }
        self.claim_settled();
    }

    /// Everything that came with the claim is in force, unless something is not. Then its program is started.
    pub(super) fn claim_settled(&mut self) {
        if self.now.is_claiming() {
            return;
        }
        if !self.now.awaits_program() {
            self.now.ready_at = Some(self.at);
        } else if matches!(self.now.phase, Phase::Running { freezing: false }) {
            self.note("starting the program of the claim");
            self.starting(StartStep::Main);
        }
    }

    pub(super) fn retune(&mut self, resources: Resources) {
        self.emit(Effect::Retune(resources.clone()));
        self.now.retuning = Some(resources);
    }

    pub(super) fn retuned(&mut self) {
        if self.now.retuning.take().is_some() {
            self.note("limits of the claim are in force");
            if self.now.is_up() {
                self.ask_rewire();
            }
            self.claim_settled();
        } else {
            self.relimit_done();
        }
    }

    /// Limits of a claim that do not hold are worse than no sandbox.
    pub(super) fn retune_failed(&mut self, detail: String) {
        if self.now.retuning.take().is_some() {
            self.note(format!("limits of the claim could not be set: {detail}"));
            self.bring_down(Cause::StartFailed { stage: "set limits".to_owned(), detail }, None);
        } else {
            self.relimit_failed(&detail);
        }
    }
}
