//! What drivers share: the kernel's features as values of our own.

pub mod agent_binary;
pub mod capability;
pub mod cgroup;
pub mod seccomp;
