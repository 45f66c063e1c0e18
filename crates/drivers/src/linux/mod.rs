//! What drivers share: the kernel's features as values of our own; what lies on the host for a root ([`roots`], [`lasting`]).

pub mod agent_binary;
pub mod capability;
pub mod cgroup;
pub mod directory;
pub mod endpoint;
pub mod erofs;
pub mod extents;
pub mod identity;
pub mod lasting;
pub mod launch;
pub mod readiness;
pub mod roots;
pub mod seccomp;
