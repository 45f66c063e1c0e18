//! The life of a sandbox.
//!
//! Five things are kept apart: what the user wants, whether a request may be taken ([`admission`]), what is true here
//! ([`Phase`] in [`State`]), what must be undone (its leases) and what others see ([`SandboxView`]).
//! [`step`] holds every rule; [`table`] draws it.

pub mod admission;
mod capture;
mod claim;
pub mod deadlines;
mod descent;
pub mod event;
mod limits;
mod recovery;
mod relimit;
mod rewire;
pub mod state;
pub mod step;
mod stow;
pub mod table;
pub mod timeline;
pub mod view;

#[cfg(test)]
mod tests;

pub use admission::{Admission, Reason, admission};
pub use deadlines::Deadlines;
pub use event::{CaptureKind, Effect, Event, Fact, MainSeen, PauseTo, Request};
pub use rewire::{Rewiring, Unfit};
pub use state::{Ask, CaptureStep, Capturing, Phase, Rung, StartStep, State, Stopping, Then};
pub use step::step;
pub use stow::{Stow, StowStep};
pub use timeline::{Step, Timeline};
pub use view::{PhaseName, SandboxView};
