//! A real nats-server for one test: own port, own store, dead when the test is.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::not_run::not_run_here;
use crate::tools::tool;
use crate::wait::wait_until;

/// A server starts in some 20 ms; a loaded machine may be a hundred times slower.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// Its own lame-duck period is off, so a stop only flushes the store.
const STOPPED_WITHIN: Duration = Duration::from_secs(10);

/// Which server to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// The release we test against, 2.15.
    Current,
    /// Debian 12's 2.9: the degraded mode.
    Debian,
}

impl Release {
    /// File name below the tools directory.
    fn file_name(self) -> &'static str {
        match self {
            Self::Current => "nats-server",
            Self::Debian => "nats-server-2.9",
        }
    }
}

/// A running (or, for a while, dead) server. Same port and store through every restart.
#[derive(Debug)]
pub struct NatsServer {
    program: PathBuf,
    port: u16,
    dir: TempDir,
    child: Option<Child>,
}

impl NatsServer {
    /// Starts one with JetStream and no authentication, or reports *not run* and returns `None` if it is not installed.
    pub async fn start(release: Release) -> anyhow::Result<Option<Self>> {
        Self::start_with(release, "").await
    }

    /// The same with `config` appended to its configuration file: accounts, users, limits.
    pub async fn start_with(release: Release, config: &str) -> anyhow::Result<Option<Self>> {
        let Some(program) = tool(release.file_name()) else {
            not_run_here(&format!("{} is not installed; `cargo xtask test` installs it", release.file_name()));
            return Ok(None);
        };
        let dir = tempfile::Builder::new().prefix("moat-nats-").tempdir().context("make the server's directory")?;
        let port = free_port()?;
        write_config(dir.path(), port, config)?;
        let mut server = Self { program, port, dir, child: None };
        server.spawn().await?;
        Ok(Some(server))
    }

    /// `nats://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The same with a user and password.
    pub fn url_as(&self, user: &str, password: &str) -> String {
        format!("nats://{user}:{password}@127.0.0.1:{}", self.port)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its directory, with `server.log`, `server.conf` and the store.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A new anonymous client.
    pub async fn client(&self) -> anyhow::Result<async_nats::Client> {
        async_nats::connect(self.url()).await.context("connect to the test's nats-server")
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it as an operator would.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        let pid = Pid::from_child(child);
        kill_process(pid, Signal::TERM).context("send SIGTERM to nats-server")?;
        wait_until(STOPPED_WITHIN, "nats-server ends", async || child.try_wait().ok().flatten()).await?;
        self.child = None;
        Ok(())
    }

    /// Starts it again on the same port and store; kills it first if it runs.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill();
        self.spawn().await
    }

    async fn spawn(&mut self) -> anyhow::Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join("server.log"))?;
        let child = Command::new(&self.program)
            .arg("-c")
            .arg(self.dir.path().join("server.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))?;
        let child = self.child.insert(child);
        let name = server_name(self.port);
        let end = Instant::now() + READY_WITHIN;
        let port = self.port;
        let ready = wait_until(READY_WITHIN, "nats-server answers", async || {
            if let Ok(Some(status)) = child.try_wait() {
                return Some(Err(status));
            }
            let left = end.saturating_duration_since(Instant::now());
            greets(port, &name, left.min(Duration::from_secs(1))).then_some(Ok(()))
        })
        .await?;
        if let Err(status) = ready {
            let log = std::fs::read_to_string(self.dir.path().join("server.log")).unwrap_or_default();
            bail!("nats-server ended at once ({status}): {log}");
        }
        Ok(())
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn server_name(port: u16) -> String {
    format!("moat-test-{}-{port}", std::process::id())
}

fn write_config(dir: &Path, port: u16, extra: &str) -> anyhow::Result<()> {
    let store = dir.join("store");
    let name = server_name(port);
    let text = format!(
        "listen: \"127.0.0.1:{port}\"\nserver_name: \"{name}\"\njetstream {{ store_dir: {store:?} }}\n{extra}\n"
    );
    std::fs::write(dir.join("server.conf"), text).context("write server.conf")
}

/// A port nobody listens on, below the range the kernel gives to outgoing connections, so that it is still free when the
/// server comes back after a while.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    const LOWEST: u16 = 10_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes of one test run begin far apart; within one, the counter keeps two servers from one port.
    let start = u16::try_from(std::process::id().wrapping_mul(251) % u32::from(COUNT)).unwrap_or(0);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = LOWEST + (start.wrapping_add(step) % COUNT);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {LOWEST} and {}", LOWEST + COUNT)
}

/// Whether the server of that name, and no other, answers on the port.
fn greets(port: u16, name: &str, within: Duration) -> bool {
    let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    if stream.set_read_timeout(Some(within.max(Duration::from_millis(1)))).is_err() {
        return false;
    }
    let mut line = String::new();
    let read = BufReader::new(stream).read_line(&mut line);
    read.is_ok() && line.starts_with("INFO ") && line.contains(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_keeps_port_and_store_through_a_kill() {
        for release in [Release::Current, Release::Debian] {
            let Some(mut server) = NatsServer::start(release).await.unwrap() else { continue };
            let url = server.url();
            let stream = async_nats::jetstream::stream::Config {
                name: "KEEP".to_owned(),
                subjects: vec!["keep.>".to_owned()],
                ..Default::default()
            };
            let jetstream = async_nats::jetstream::new(server.client().await.unwrap());
            jetstream.create_stream(stream).await.unwrap();
            jetstream.publish("keep.one", "x".into()).await.unwrap().await.unwrap();
            server.kill();
            assert!(TcpStream::connect(("127.0.0.1", server.port())).is_err());
            server.restart().await.unwrap();
            assert_eq!(server.url(), url);
            let jetstream = async_nats::jetstream::new(server.client().await.unwrap());
            let kept = jetstream.get_stream("KEEP").await.unwrap().cached_info().state.messages;
            assert_eq!(kept, 1, "{release:?}");
            server.stop().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_wrong_config_fails_with_the_servers_own_words() {
        let started = NatsServer::start_with(Release::Current, "no_such_option: {").await;
        match started {
            Ok(None) => {}
            Ok(Some(_)) => panic!("a server started from nonsense"),
            Err(error) => assert!(error.to_string().contains("ended at once"), "{error:#}"),
        }
    }
}
