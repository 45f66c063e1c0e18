//! The container driver: namespaces, own user range, capabilities, seccomp, cgroups; the host's kernel.
//!
//! It prepares what only the daemon can (directories, the cgroup, the agent's socket), executes the launcher, and keeps
//! nothing about it: everything it needs later is in the [`Record`](moat_engine::Record). All mounts of a sandbox live in its
//! own mount namespace, so there is none to remove. What many sandboxes share, layers of images, is mounted once
//! ([`roots`](crate::linux::roots)).
//!
//! | file | holds |
//! |---|---|
//! | `config` | what an operator sets |
//! | `validate` | which field of a spec cannot be honoured |
//! | `jail` | from a spec to what the launcher is told |
//! | `probe` | what this host must have |
//! | `driver` | the contract |
//! | `abilities` | pause, capture, tune |

mod abilities;
mod config;
mod driver;
mod jail;
pub(crate) mod probe;
mod validate;

pub use config::{ContainerConfig, ResourceDefaults};
pub use driver::ContainerDriver;
