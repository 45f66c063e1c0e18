//! Another network for a sandbox that lives: other rules, names, ports and limits at the same address.
//!
//! What is asked for is written down beside what is in force, and takes its place only when it is in force. A daemon that
//! dies in between leaves both on record, and which of them the kernel goes by is not known: the next daemon lets nothing
//! pass until it has found the sandbox, and then asks for the new again. So a sandbox is never under rules weaker than the
//! old ones, nor than the new ones.
//!
//! If the change fails, the old holds, unless it belongs to a claim: then nobody ever used the sandbox, and it ends. It
//! also ends if nobody can say which of the two holds.

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::event::Effect;
use super::state::{Phase, State};
use super::step::Life;
use crate::Cause;
use crate::network::{NetworkMode, NetworkSpec};

/// A network that is asked for and not in force yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rewiring {
    /// What it is to be.
    pub to: NetworkSpec,
    /// It belongs to a claim: what holds until then is that of a member of a pool, which lets nothing pass.
    pub claim: bool,
}

/// Why a sandbox that lives cannot have the network asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A network is made before the sandbox, and cannot be taken away or replaced.
    #[error("network.mode: {from} cannot become {to} while the sandbox lives; create another")]
    Mode {
        /// What it has.
        from: NetworkMode,
        /// What was asked for.
        to: NetworkMode,
    },
    /// Without a network there is nothing to change.
    #[error("network.mode: {0} has no rules that could change; create another sandbox")]
    Unwired(NetworkMode),
    /// Its address is that of its place.
    #[error("network.address: it stays {0} while the sandbox lives; leave it out")]
    Address(Ipv4Addr),
}

impl State {
    /// What its network becomes if this is asked for.
    pub fn rewired(&self, wanted: &NetworkSpec) -> Result<NetworkSpec, Unfit> {
        let has = &self.spec.network;
        match self.network {
            None if wanted == has => Ok(wanted.clone()),
            None if wanted.mode == has.mode => Err(Unfit::Unwired(has.mode)),
            Some(lease) if wanted.is_wired() => match wanted.address {
                Some(address) if address != lease.address => Err(Unfit::Address(lease.address)),
                _ => Ok(NetworkSpec { address: has.address, ..wanted.clone() }),
            },
            _ => Err(Unfit::Mode { from: has.mode, to: wanted.mode }),
        }
    }

    /// It is somebody's, and not everything that came with the claim is in force.
    pub fn is_claiming(&self) -> bool {
        self.retuning.is_some() || self.rewiring.as_ref().is_some_and(|rewiring| rewiring.claim)
    }

    /// It is up, frozen or not.
    pub(super) fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Running { .. } | Phase::Paused { .. } | Phase::Stow(_) | Phase::Capturing(_))
    }
}

impl Life {
    pub(super) fn rewire(&mut self, wanted: &NetworkSpec) {
        let Ok(to) = self.now.rewired(wanted) else { return };
        self.note("another network requested");
        self.now.rewiring = Some(Rewiring { to, claim: false });
        self.ask_rewire();
    }

    /// Asks for the network that is not in force yet, if there is one.
    pub(super) fn ask_rewire(&mut self) {
        if let Some(rewiring) = self.now.rewiring.clone() {
            self.emit(Effect::Rewire(Box::new(rewiring)));
        }
    }

    pub(super) fn rewire_done(&mut self) {
        let Some(Rewiring { to, claim }) = self.now.rewiring.take() else { return };
        let mut spec = (*self.now.spec).clone();
        spec.network = to;
        self.now.spec = Arc::new(spec);
        self.note(if claim { "network of the claim is in force" } else { "another network is in force" });
        if claim {
            self.claim_settled();
        }
    }

    /// What was before holds still.
    pub(super) fn rewire_failed(&mut self, detail: String) {
        match &self.now.rewiring {
            Some(rewiring) if rewiring.claim => {
                self.note(format!("network of the claim could not be set: {detail}"));
                // It stays on record as not in force, so nothing passes on the way down.
                self.bring_down(Cause::StartFailed { stage: "set network".to_owned(), detail }, None);
            }
            Some(_) => {
                self.now.rewiring = None;
                self.note(format!("network could not be changed, and stays as it was: {detail}"));
            }
            None => {}
        }
    }

    /// The old may hold, or the new, or something between.
    pub(super) fn rewire_in_doubt(&mut self, detail: String) {
        match &self.now.rewiring {
            Some(rewiring) if !rewiring.claim => {
                self.note(format!("network could not be changed, nor put back: {detail}"));
                let detail = format!("which network rules hold is not known: {detail}");
                self.bring_down(Cause::Lost { detail }, None);
            }
            _ => self.rewire_failed(detail),
        }
    }

    /// What is not on record may not be changed: the next daemon would not know of it.
    pub(super) fn change_unwritable(&mut self, detail: String) {
        if !self.now.is_up() {
            return;
        }
        if self.now.is_claiming() {
            self.note(format!("record of the claim could not be written: {detail}"));
            self.bring_down(Cause::StartFailed { stage: "write record".to_owned(), detail }, None);
        } else if self.now.rewiring.take().is_some() {
            self.note(format!("network stays as it was, since the record could not be written: {detail}"));
        } else {
            self.relimit_failed(&format!("the record could not be written: {detail}"));
        }
    }
}
