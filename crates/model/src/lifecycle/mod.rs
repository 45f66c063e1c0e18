//! The life of a sandbox.
//!
//! Five things are kept apart: what the user wants, whether a request may be taken ([`admission`]), what is true here
//! (the phase in `State`), what must be undone (its leases) and what others see ([`SandboxView`]).

pub mod deadlines;
pub mod timeline;
pub mod view;

pub use deadlines::Deadlines;
pub use timeline::{Step, Timeline};
pub use view::{PhaseName, SandboxView};
