//! The agent: parent of everything that runs in the sandbox.

use std::os::fd::OwnedFd;

use moat_agent::launch::AgentConfig;

/// Serves the sandbox until it is told to shut down. Called by the launcher in the process that stays.
pub fn run(config: AgentConfig, listener: OwnedFd) -> ! {
    drop((config, listener));
    std::process::exit(i32::from(crate::OURS))
}
