//! The firecracker driver: each sandbox a machine of Firecracker's, under Firecracker's own jailer.
//!
//! What is about machines and not about Firecracker is in [`crate::vm`]. Everything Firecracker opens lies in the jail's root,
//! whose paths are the same for every machine: a machine that was kept is let go on in another jail without being told
//! where its files, its socket and its tap are now.
//!
//! | file | holds |
//! |---|---|
//! | `config` | what an operator sets |
//! | `version` | which Firecracker this is, and what that one can do |
//! | `api` | bodies of its HTTP interface; `client`: one request over it |
//! | `boot` | kernel and initramfs |
//! | `shape` | from a machine to the requests that make it |
//! | `jail` | the root of the jail, and opening what a monitor may have made there |
//! | `launch` | the jailer, its arguments, and the process that comes of it |
//! | `recorder` | log and metrics, bounded |
//! | `kept` | files of machines that were kept |
//! | `memory` | what a snapshot of differences makes of the one before |
//! | `probe` | what this host must have |
//! | `driver`, `abilities` | the contract |

mod abilities;
mod api;
mod boot;
mod client;
mod config;
mod driver;
mod jail;
mod kept;
mod launch;
mod memory;
mod probe;
mod recorder;
mod shape;
mod version;

pub use api::{RateLimiter, StaticTemplate, TokenBucket};
pub use config::{CpuTemplate, FirecrackerConfig, HugePages, RateLimits};
pub use driver::FirecrackerDriver;
pub use version::{NEWEST, OLDEST, Version};
