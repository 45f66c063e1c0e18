//! What drivers share: the kernel's features as values of our own.

pub mod agent_binary;
pub mod cgroup;
