//! What the commands about jobs, allocations and nodes share: finding what is meant, following what happens, showing it.
//!
//! Rendering is pure: from what a node answered to text. Start at [`show`] for how things look, [`monitor`] for what is
//! said while something happens.

pub mod dashes;
pub mod diff;
pub mod file;
pub mod follow;
pub mod ids;
pub mod monitor;
#[cfg(test)]
pub mod samples;
pub mod show;
