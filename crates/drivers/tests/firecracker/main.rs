//! The firecracker driver on a stand-in for Firecracker and its jailer, which refuses what the published interface does not have;
//! and, where there is one and a guest can run, on the real one.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod faults;
mod host;
mod interface;
mod keep;
mod life;
mod real;
