//! A member of a pool becomes somebody's.
//!
//! Everything about it changes in one step, so of two claims one finds a member and the other does not. What must be done
//! on the host, new limits and then its network, comes after that step; until it is done nothing else may use the sandbox,
//! and if it cannot be done the sandbox ends.

use std::sync::Arc;

use super::event::Effect;
use super::rewire::Rewiring;
use super::step::Life;
use crate::Cause;
use crate::spec::{ClaimSpec, Owner, Resources};

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
        spec.origin.owner = Owner::Api;
        spec.origin.from_pool = true;
        spec.resources = resources;
        self.now.spec = Arc::new(spec);
        self.now.created_at = self.at;
        self.now.ready_at = None;
        self.begin_clocks();
        // Whatever its rules are to be, they are those of another namespace, and no longer those of nobody's sandbox.
        self.now.rewiring = self.now.network.map(|_| Rewiring { to: network, claim: true });
        if retune {
            self.retune(claim.resources);
        } else {
            self.ask_rewire();
        }
        self.claim_settled();
    }

    /// Everything that came with the claim is in force, unless something is not.
    pub(super) fn claim_settled(&mut self) {
        if !self.now.is_claiming() {
            self.now.ready_at = Some(self.at);
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
        }
    }

    /// Limits that do not hold are worse than no sandbox.
    pub(super) fn retune_failed(&mut self, detail: String) {
        if self.now.retuning.take().is_some() {
            self.note(format!("limits of the claim could not be set: {detail}"));
            self.bring_down(Cause::StartFailed { stage: "set limits".to_owned(), detail }, None);
        }
    }
}
