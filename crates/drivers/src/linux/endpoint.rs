//! An agent behind a Unix socket, watched by its pidfd.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use async_trait::async_trait;
use moat_engine::guest::Channel;
use moat_engine::guest::agent::Endpoint;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use super::readiness;

/// How to reach the agent of a sandbox on this host.
#[derive(Debug)]
pub struct UnixEndpoint {
    socket: PathBuf,
    process: AsyncFd<OwnedFd>,
    pid: u32,
}

impl UnixEndpoint {
    /// An agent that serves `socket` for as long as the process behind `pidfd` lives. Needs a tokio runtime around it.
    pub fn new(socket: PathBuf, pid: u32, pidfd: OwnedFd) -> io::Result<Self> {
        Ok(Self { socket, process: readiness::register(pidfd)?, pid })
    }
}

#[async_trait]
impl Endpoint for UnixEndpoint {
    async fn connect(&self) -> io::Result<Box<dyn Channel>> {
        Ok(Box::new(UnixStream::connect(&self.socket).await?))
    }

    async fn gone(&self) -> String {
        match self.process.readable().await {
            Ok(_) => format!("the agent's process {} has ended", self.pid),
            Err(e) => format!("the agent's process {} cannot be watched: {e}", self.pid),
        }
    }
}
