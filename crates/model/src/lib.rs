//! The nouns of moat, and every decision that can be taken without touching the world.
//!
//! What is here: ids, what a user may ask (`*Spec`), the life of a sandbox as a pure function ([`step`]), what may be
//! asked of it when ([`admission`]), signed claims and sealed environments.
//! What is not: I/O, clocks, threads, NATS. Time arrives inside events; randomness arrives as bytes.
//! Start at [`spec`] for what a sandbox is, then [`lifecycle`] for how it lives.

pub mod capability;
pub mod claims;
pub mod error;
pub mod exit;
pub mod failure;
pub mod file;
pub mod id;
pub mod isolation;
pub mod jail;
pub mod job;
pub mod lease;
pub mod lifecycle;
pub mod network;
pub mod seal;
pub mod spec;
pub mod time;
pub mod units;
pub mod workload;

pub use error::ErrorKind;
pub use exit::{Cause, Exit, TimeLimit};
pub use id::{AllocId, JobId, Namespace, NodeId, SandboxId, WorkloadId, WorkloadName};
pub use isolation::{GivenIsolation, Isolation};
pub use lease::{Lease, LeaseState, Resource};
pub use spec::{ProcessSpec, SandboxSpec};
pub use time::Timestamp;
