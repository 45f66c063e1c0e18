//! What drivers share: the kernel's features as values of our own.

pub mod agent_binary;
pub mod capability;
pub mod cgroup;
pub mod endpoint;
pub mod erofs;
pub mod identity;
pub mod launch;
pub mod readiness;
pub mod seccomp;
