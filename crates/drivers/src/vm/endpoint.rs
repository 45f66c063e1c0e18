//! How the agent in a machine is reached, and how the machine's end is noticed.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use moat_agent::protocol::line;
use moat_agent::protocol::machine::AGENT_VSOCK_PORT;
use moat_engine::error::{Error, Result};
use moat_engine::guest::Channel;
use moat_engine::guest::agent::Endpoint;
use moat_model::ErrorKind;
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::foreign;
use super::process::{Vmm, last_line};
use crate::linux::readiness;

/// Longest answer of a monitor to `CONNECT`: `OK`, a number and a line's end.
const ANSWER_LEN_MAX: usize = 32;

/// What carries bytes to the agent. Both are Unix sockets of the monitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentChannel {
    /// A virtio-serial port: one stream of bytes that knows no connections.
    Line(PathBuf),
    /// A vsock device, as Firecracker shows it on the host: a socket in a directory that is the monitor's.
    Vsock {
        /// The directory.
        dir: PathBuf,
        /// The socket's name.
        name: &'static str,
    },
}

/// How to reach the agent of a machine for as long as its monitor lives.
#[derive(Debug)]
pub struct MachineEndpoint {
    channel: AgentChannel,
    process: AsyncFd<OwnedFd>,
    pid: u32,
    log: PathBuf,
}

impl MachineEndpoint {
    /// Of the monitor that `run_dir` names; `NotFound` if it has ended. Its last words are looked for in `log`. Needs a tokio
    /// runtime around it.
    pub fn open(channel: AgentChannel, run_dir: &Path, log: PathBuf) -> Result<Self> {
        let Some((vmm, pidfd)) = Vmm::open(run_dir)? else {
            return Err(Error::new(ErrorKind::NotFound, format!("the machine's monitor has ended{}", said(&log))));
        };
        let process = readiness::register(pidfd)
            .map_err(|e| Error::caused_by(ErrorKind::Internal, "watch the machine's monitor", e))?;
        Ok(Self { channel, process, pid: vmm.process.pid, log })
    }
}

/// What a monitor said last, for the end of a sentence.
pub fn said(log: &Path) -> String {
    last_line(log).map_or_else(String::new, |line| format!(", saying {line:?}"))
}

#[async_trait]
impl Endpoint for MachineEndpoint {
    async fn connect(&self) -> io::Result<Box<dyn Channel>> {
        match &self.channel {
            AgentChannel::Line(path) => {
                let socket = UnixStream::connect(path).await?;
                Ok(Box::new(line::connect(socket, nonce()?).await?))
            }
            AgentChannel::Vsock { dir, name } => {
                let mut socket = foreign::connect(dir, name).await?;
                vsock_connect(&mut socket, AGENT_VSOCK_PORT).await?;
                Ok(Box::new(socket))
            }
        }
    }

    async fn gone(&self) -> String {
        match self.process.readable().await {
            Ok(_) => format!("the machine's monitor, process {}, has ended{}", self.pid, said(&self.log)),
            Err(e) => format!("the machine's monitor, process {}, cannot be watched: {e}", self.pid),
        }
    }
}

fn nonce() -> io::Result<line::Nonce> {
    let mut nonce = line::Nonce::default();
    let filled = getrandom(&mut nonce, GetRandomFlags::empty())?;
    if filled == nonce.len() { Ok(nonce) } else { Err(io::Error::other("the host gave less randomness than asked")) }
}

/// Says which port is wanted and reads that it is there, byte by byte: what follows the line is the agent's.
async fn vsock_connect(socket: &mut UnixStream, port: u32) -> io::Result<()> {
    socket.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
    let mut answer = Vec::with_capacity(ANSWER_LEN_MAX);
    loop {
        match socket.read_u8().await? {
            b'\n' => break,
            _ if answer.len() == ANSWER_LEN_MAX => return Err(io::Error::other("the monitor's answer is too long")),
            byte => answer.push(byte),
        }
    }
    if answer.starts_with(b"OK ") { Ok(()) } else { Err(io::Error::other("the monitor does not connect")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_vsock_connection_begins_behind_the_answer() {
        for (answer, works) in [("OK 1073741824\nhello", true), ("NO\n", false), ("", false)] {
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(answer.as_bytes()).await.unwrap();
            theirs.shutdown().await.unwrap();
            assert_eq!(vsock_connect(&mut ours, 1024).await.is_ok(), works, "{answer:?}");
            let mut asked = [0; 13];
            theirs.read_exact(&mut asked).await.unwrap();
            assert_eq!(&asked, b"CONNECT 1024\n");
            if works {
                let mut rest = String::new();
                ours.read_to_string(&mut rest).await.unwrap();
                assert_eq!(rest, "hello");
            }
        }
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&[b'O'; 100]).await.unwrap();
        vsock_connect(&mut ours, 1).await.unwrap_err();
    }
}
