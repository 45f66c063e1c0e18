//! The life of sandboxes on one machine: an actor each, a supervisor over them, recovery of what a dead daemon left.
//!
//! What is here: the [`driver`] contract and its conformance suite, the fake driver, the sandbox actor, the record store.
//! What is not: any driver by name, NATS, HTTP. The engine runs and is tested without a broker.
//! Start at [`driver::Driver`], then [`supervisor::Engine`].

mod absent;
mod actor;
mod allocator;
mod announcer;
mod clock;
pub mod conformance;
pub mod driver;
mod effects;
pub mod error;
pub mod fabric;
pub mod fake;
pub mod guest;
mod lane;
pub mod leash;
mod mailbox;
pub mod outlet;
pub mod pool;
mod pump;
pub mod record;
pub mod registry;
pub mod supervisor;
mod sweep;
mod tasks;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use driver::{Driver, Record};
pub use error::{Error, Result};
pub use fabric::Fabric;
pub use guest::Guest;
pub use leash::Leash;
pub use outlet::Outlet;
pub use pool::Pool;
pub use supervisor::{Absent, Engine, EngineConfig, Offer, Registry};
