//! Whether a request may be taken now.

use super::PhaseName;
use super::event::{PauseTo, Request};
use super::rewire::Unfit;
use super::state::{Phase, Rung, State, Stopping, Then};
use super::stow::{Stow, StowStep};
use crate::Timestamp;
use crate::network::NetworkSpec;
use crate::spec::{ClaimSpec, Owner, Resources, StopSpec};

/// The answer to a request, before anything is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It will be done: [`step`](super::step) changes the state.
    Accept,
    /// It is so, or about to be, without doing anything.
    AlreadySo,
    /// It cannot be done.
    Deny(Reason),
}

/// Why a request cannot be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It needs a running sandbox.
    NotRunning(PhaseName),
    /// It is being paused or resumed: ask again after it.
    Busy,
    /// It lies on disk, and this is taken from memory.
    Stowed,
    /// A capture is under way: ask again after it.
    Capturing,
    /// A claim is under way: ask again after it.
    Claiming,
    /// Another network is being given to it: ask again after it.
    Rewiring,
    /// Other limits are being given to it: ask again after it.
    Relimiting,
    /// It cannot have that network.
    Unfit(Unfit),
    /// It is nobody's yet.
    Pooled,
    /// It is somebody's already, or was never in a pool.
    NotPooled,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotRunning(PhaseName::Paused) => f.write_str("the sandbox is paused, not running; resume it first"),
            Self::NotRunning(phase) => write!(f, "the sandbox is {phase}, not running"),
            Self::Busy => f.write_str("the sandbox is being paused or resumed; ask again when that is done"),
            Self::Stowed => f.write_str(
                "the sandbox is paused on disk; resume it first, and pause it to memory if it must stand still",
            ),
            Self::Capturing => f.write_str("a snapshot of the sandbox is being taken; ask again when that is done"),
            Self::Claiming => f.write_str("the sandbox is just being taken from its pool; ask again when that is done"),
            Self::Rewiring => {
                f.write_str("the network of the sandbox is just being changed; ask again when that is done")
            }
            Self::Relimiting => {
                f.write_str("the limits of the sandbox are just being changed; ask again when that is done")
            }
            Self::Unfit(unfit) => unfit.fmt(f),
            Self::Pooled => f.write_str("the sandbox stands ready in a pool and is nobody's yet; claim it first"),
            Self::NotPooled => f.write_str("the sandbox is not a free member of a pool"),
        }
    }
}

/// Whether `request` may be taken at this moment. `step` does exactly what this says.
pub fn admission(state: &State, request: &Request, at: Timestamp) -> Admission {
    match request {
        Request::Delete if state.deleting => Admission::AlreadySo,
        Request::Delete => Admission::Accept,
        Request::Kill => kill(&state.phase),
        Request::Stop(how) => stop(&state.phase, how, at),
        Request::Keepalive { .. } => keepalive(state),
        Request::Claim(_) if state.spec.origin.owner != Owner::Pool => Admission::Deny(Reason::NotPooled),
        Request::Claim(claim) => match state.phase {
            Phase::Running { freezing: false } => unless_unfit(state, claim),
            Phase::Running { freezing: true } | Phase::Paused { thawing: true } => Admission::Deny(Reason::Busy),
            _ => not_running(&state.phase),
        },
        Request::Rewire(wanted) => rewire(state, wanted),
        Request::Relimit(wanted) => relimit(state, wanted),
        Request::Pause(to) => pause(state, *to),
        Request::Resume { .. } => match state.phase {
            Phase::Paused { thawing: false } | Phase::Stow(Stow { step: StowStep::Lying, .. }) => Admission::Accept,
            Phase::Paused { thawing: true } | Phase::Running { freezing: false } => Admission::AlreadySo,
            Phase::Stow(Stow { step: StowStep::Reading, .. }) => Admission::AlreadySo,
            Phase::Running { freezing: true } => Admission::Deny(Reason::Busy),
            _ => not_running(&state.phase),
        },
        Request::Capture { .. } => match state.phase {
            Phase::Running { freezing: false } => unless_claiming(state),
            Phase::Paused { thawing: false } => Admission::Accept,
            Phase::Running { .. } | Phase::Paused { .. } => Admission::Deny(Reason::Busy),
            Phase::Stow(Stow { step: StowStep::Lying, .. }) => Admission::Deny(Reason::Stowed),
            _ => not_running(&state.phase),
        },
        Request::Use => match state.phase {
            Phase::Running { freezing: false } => unless_claiming(state),
            Phase::Running { freezing: true } => Admission::Deny(Reason::Busy),
            _ => not_running(&state.phase),
        },
    }
}

/// One that is paused deeper than asked for is paused.
fn pause(state: &State, to: PauseTo) -> Admission {
    match &state.phase {
        Phase::Running { freezing: false } => unless_claiming(state),
        Phase::Paused { thawing: false } if to == PauseTo::Disk => unless_claiming(state),
        Phase::Running { freezing: true } if to == PauseTo::Disk => Admission::Deny(Reason::Busy),
        Phase::Running { .. } | Phase::Paused { thawing: false } => Admission::AlreadySo,
        Phase::Paused { thawing: true } => Admission::Deny(Reason::Busy),
        Phase::Stow(Stow { step: StowStep::Freezing | StowStep::Writing | StowStep::Lying, .. }) => {
            Admission::AlreadySo
        }
        phase => not_running(phase),
    }
}

fn unless_claiming(state: &State) -> Admission {
    if state.is_claiming() { Admission::Deny(Reason::Claiming) } else { Admission::Accept }
}

fn unless_unfit(state: &State, claim: &ClaimSpec) -> Admission {
    match claim.network.as_ref().map(|wanted| state.rewired(wanted)) {
        Some(Err(unfit)) => Admission::Deny(Reason::Unfit(unfit)),
        _ => Admission::Accept,
    }
}

fn rewire(state: &State, wanted: &NetworkSpec) -> Admission {
    match state.phase {
        // Its place in the network is the same, wherever it is kept itself.
        Phase::Running { freezing: false }
        | Phase::Paused { thawing: false }
        | Phase::Stow(Stow { step: StowStep::Lying, .. }) => {}
        Phase::Running { .. } | Phase::Paused { .. } => return Admission::Deny(Reason::Busy),
        _ => return not_running(&state.phase),
    }
    if state.spec.origin.owner == Owner::Pool {
        return Admission::Deny(Reason::Pooled);
    }
    if state.is_claiming() {
        return Admission::Deny(Reason::Claiming);
    }
    if state.rewiring.is_some() {
        return Admission::Deny(Reason::Rewiring);
    }
    match state.rewired(wanted) {
        Err(unfit) => Admission::Deny(Reason::Unfit(unfit)),
        Ok(to) if to == state.spec.network => Admission::AlreadySo,
        Ok(_) => Admission::Accept,
    }
}

/// A group has its limits, frozen or not; what lies on disk has none that could change.
fn relimit(state: &State, wanted: &Resources) -> Admission {
    match state.phase {
        Phase::Running { freezing: false } | Phase::Paused { thawing: false } => {}
        Phase::Running { .. } | Phase::Paused { .. } => return Admission::Deny(Reason::Busy),
        Phase::Stow(Stow { step: StowStep::Lying, .. }) => return Admission::Deny(Reason::Stowed),
        _ => return not_running(&state.phase),
    }
    if state.spec.origin.owner == Owner::Pool {
        return Admission::Deny(Reason::Pooled);
    }
    if state.is_claiming() {
        return Admission::Deny(Reason::Claiming);
    }
    if state.relimiting.is_some() {
        return Admission::Deny(Reason::Relimiting);
    }
    // What is not in force yet does not count: asked for again, it is set again.
    if wanted.over(&state.spec.resources) == state.spec.resources { Admission::AlreadySo } else { Admission::Accept }
}

/// A life span can be given to whatever has one, frozen or not, also while the daemon is finding it again.
fn keepalive(state: &State) -> Admission {
    match state.phase {
        Phase::Running { .. }
        | Phase::Paused { .. }
        | Phase::Stow(_)
        | Phase::Capturing(_)
        | Phase::Recovering { .. }
            if state.spec.origin.owner == Owner::Pool =>
        {
            Admission::Deny(Reason::Pooled)
        }
        // Its time was up a moment ago: it is being paused, and resuming it gives it a new span.
        Phase::Running { freezing: true } if state.expired.is_some() => Admission::Deny(Reason::Busy),
        Phase::Recovering { then: Then::Stop(_) | Then::Start, .. } => not_running(&state.phase),
        Phase::Running { .. }
        | Phase::Paused { .. }
        | Phase::Stow(_)
        | Phase::Capturing(_)
        | Phase::Recovering { .. } => Admission::Accept,
        _ => not_running(&state.phase),
    }
}

fn not_running(phase: &Phase) -> Admission {
    Admission::Deny(match phase {
        Phase::Capturing(_) => Reason::Capturing,
        Phase::Stow(stow) if stow.step != StowStep::Lying => Reason::Busy,
        _ => Reason::NotRunning(phase.name()),
    })
}

/// Kill outranks stop: it hastens one that is still polite.
fn kill(phase: &Phase) -> Admission {
    match phase {
        Phase::Stopped { .. } | Phase::Failed { .. } => Admission::AlreadySo,
        Phase::Stopping(stopping) | Phase::Recovering { then: Then::Stop(stopping), .. } => match stopping.rung {
            Rung::Thawing { ask: Some(_) } | Rung::Asking(_) => Admission::Accept,
            _ => Admission::AlreadySo,
        },
        _ => Admission::Accept,
    }
}

/// A second stop never gives more time; it may give less.
fn stop(phase: &Phase, how: &StopSpec, at: Timestamp) -> Admission {
    match phase {
        Phase::Stopped { .. } | Phase::Failed { .. } => Admission::AlreadySo,
        Phase::Stopping(stopping) | Phase::Recovering { then: Then::Stop(stopping), .. } => {
            if shortens(stopping, how, at) { Admission::Accept } else { Admission::AlreadySo }
        }
        _ => Admission::Accept,
    }
}

fn shortens(stopping: &Stopping, how: &StopSpec, at: Timestamp) -> bool {
    match stopping.rung {
        Rung::Thawing { ask: Some(ask) } | Rung::Asking(ask) => at.plus(how.grace) < ask.deadline,
        _ => false,
    }
}
