//! The container driver: namespaces, own user range, capabilities, seccomp, cgroups; the host's kernel.

mod config;

pub use config::{ContainerConfig, ResourceDefaults};
