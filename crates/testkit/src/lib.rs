//! What tests stand on: a real nats-server or registry each, static helper programs, a leak audit, and an honest "not run".
//!
//! What is here: nothing but things used by tests and benchmarks of other crates.
//! What is not: anything a shipped binary links.
//! Start at [`NatsServer`] and [`LeakAudit`].

pub mod article;
mod binary;
mod disk;
mod exclusive;
mod leak;
mod machines;
mod nats;
pub mod netns;
mod not_run;
pub mod registry;
mod tools;
mod wait;
pub mod web;

pub use binary::{small_bin, static_bin};
pub use disk::SharingDisk;
pub use exclusive::{HostLock, exclusive, shared};
pub use leak::LeakAudit;
pub use machines::{Machines, machines, machines_alone};
pub use nats::{NatsServer, Release};
pub use not_run::{is_root, not_run, not_run_here};
pub use tools::{busybox, tool, tools_dir, workspace_root};
pub use wait::wait_until;
