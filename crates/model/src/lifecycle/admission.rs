//! Whether a request may be taken now.

use super::PhaseName;
use super::event::Request;
use super::state::{Phase, Rung, State, Stopping, Then};
use crate::Timestamp;
use crate::spec::StopSpec;

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
    /// A freeze or a thaw is under way: ask again after it.
    Busy,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotRunning(phase) => write!(f, "the sandbox is {phase}, not running"),
            Self::Busy => f.write_str("the sandbox is being paused or resumed; ask again when that is done"),
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
        Request::Pause => match state.phase {
            Phase::Running { freezing: false } => Admission::Accept,
            Phase::Running { freezing: true } | Phase::Paused { thawing: false } => Admission::AlreadySo,
            Phase::Paused { thawing: true } => Admission::Deny(Reason::Busy),
            _ => not_running(&state.phase),
        },
        Request::Resume => match state.phase {
            Phase::Paused { thawing: false } => Admission::Accept,
            Phase::Paused { thawing: true } | Phase::Running { freezing: false } => Admission::AlreadySo,
            Phase::Running { freezing: true } => Admission::Deny(Reason::Busy),
            _ => not_running(&state.phase),
        },
        Request::Use => match state.phase {
            Phase::Running { freezing: false } => Admission::Accept,
            Phase::Running { freezing: true } => Admission::Deny(Reason::Busy),
            _ => not_running(&state.phase),
        },
    }
}

fn not_running(phase: &Phase) -> Admission {
    Admission::Deny(Reason::NotRunning(phase.name()))
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
