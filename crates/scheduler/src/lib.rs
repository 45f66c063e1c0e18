//! Where instances of jobs should run, as a pure function of what is declared, what nodes say and what runs already.
//!
//! No I/O, no clock, no randomness of its own: time and random bytes come in, and the same input gives the same plan.
//! Who carries a plan out is not known here. docs/scheduling.md says how everything is decided.
//!
//! Start at [`Cluster`], what is known, and [`plan`], what follows from it for one job.

pub mod cluster;
pub mod constraint;
pub mod demand;
pub mod deployment;
pub mod diff;
pub mod dispatch;
pub mod drain;
mod feasible;
mod occupied;
pub mod periodic;
mod place;
pub mod plan;
mod rank;
mod reconcile;
pub mod reschedule;
pub mod restart;
pub mod seed;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod update;
mod values;

pub use cluster::{Cluster, JobKey, JobState};
pub use demand::{Demand, demand};
pub use diff::{DryRun, dry_run};
pub use plan::{GroupSummary, Plan, plan};
pub use seed::Seed;
