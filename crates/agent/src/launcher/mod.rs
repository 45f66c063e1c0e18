//! `moat-agent launch`: from a configuration to a running agent.
//!
//! Single-threaded from beginning to end; see [`moat_agent::launch`] for what goes over standard input. Without a jail
//! the launcher only moves itself into its cgroups, forks, and the child becomes the agent.

mod wire;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use moat_agent::launch::{LaunchConfig, LaunchReply};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, setsid};

use crate::sys::{Fork, fork};

/// A step of the launch that failed.
#[derive(Debug, thiserror::Error)]
#[error("{stage}: {detail}")]
pub struct LaunchError {
    /// Which step.
    stage: &'static str,
    /// The path or value at fault and the errno's text.
    detail: String,
}

impl LaunchError {
    /// At this step, for this reason.
    pub fn new(stage: &'static str, detail: impl std::fmt::Display) -> Self {
        Self { stage, detail: detail.to_string() }
    }
}

/// Entry of `moat-agent launch`.
pub fn main() -> ExitCode {
    match launch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let reply = LaunchReply::Failed { stage: error.stage.to_owned(), detail: error.detail };
            // Nobody is left to tell if this fails; the exit code says that it did not work.
            let _ = wire::reply(&reply, None);
            ExitCode::from(crate::OURS)
        }
    }
}

fn launch() -> Result<(), LaunchError> {
    let (config, listener) = wire::receive()?;
    enter_cgroups(&config)?;
    let (pid, pidfd) = start_agent(config, listener)?;
    let started = LaunchReply::Started { pid: pid.as_raw_pid().unsigned_abs() };
    wire::reply(&started, Some(pidfd.as_fd())).inspect_err(|_| {
        // The daemon that asked is gone. What nobody knows of must not run.
        let _ = kill_process(pid, Signal::KILL);
    })
}

fn enter_cgroups(config: &LaunchConfig) -> Result<(), LaunchError> {
    for path in &config.cgroup_procs {
        std::fs::write(path, "0").map_err(|e| LaunchError::new("enter cgroup", at(path, &e)))?;
    }
    Ok(())
}

fn start_agent(config: LaunchConfig, listener: OwnedFd) -> Result<(Pid, OwnedFd), LaunchError> {
    if config.jail.is_some() {
        return Err(LaunchError::new("jail", "this launcher builds no namespaces"));
    }
    match fork().map_err(|e| LaunchError::new("fork", e))? {
        Fork::Child => {
            // A session of its own: signals to the daemon's terminal are not for it. Fails only for a group leader.
            let _ = setsid();
            crate::agent::run(config.agent, listener)
        }
        Fork::Parent(pid) => {
            let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| LaunchError::new("pidfd_open", e))?;
            Ok((pid, pidfd))
        }
    }
}

fn at(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}
