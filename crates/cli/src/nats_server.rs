//! The nats-server of `moat up`: a child process with JetStream and two accounts.
//!
//! The control account holds `$NEX` and needs a generated password; everybody who gives none is in the workload account,
//! which cannot reach `$NEX`. The child stands in its own process group, so a Ctrl-C in the terminal reaches us first and
//! the node can say goodbye over a connection that still lives. If it dies it is started again.

use std::io::{Read, Seek, SeekFrom, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use moat_model::ErrorKind;
use rand::TryRngCore;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use tokio::net::TcpSocket;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::port::reserve;

/// User of the control account.
pub const CONTROL_USER: &str = "moat";
/// A server starts in some 20 ms; recovering a large store on a slow disk takes seconds.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// It flushes its store and closes connections.
const STOPPED_WITHIN: Duration = Duration::from_secs(10);
/// How often to look whether it answers, or has gone.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Waits between starts double from the first to the last.
const RESTART_FIRST: Duration = Duration::from_millis(200);
const RESTART_LAST: Duration = Duration::from_secs(10);
/// Starts that failed in a row after which something is wrong that another start will not mend.
const FAILURES_MAX: u32 = 8;
/// A run of this length clears the count.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// What the workloads of a machine where somebody tries things out may store.
const WORKLOAD_STORE_MAX: &str = "1GB";
const WORKLOAD_MEMORY_MAX: &str = "64MB";

/// A server that runs.
#[derive(Debug)]
pub struct NatsServer {
    program: PathBuf,
    dir: PathBuf,
    port: u16,
    password: String,
    child: Child,
    /// Keeps a port that was chosen from others, also while the server is started anew.
    _reserved: Option<TcpSocket>,
}

impl NatsServer {
    /// Starts one that keeps everything below `dir`; port 0 picks a free one. Returns when it answers.
    pub async fn start(program: Option<&Path>, dir: &Path, port: u16) -> Result<Self, Failure> {
        let program = find(program)?;
        std::fs::create_dir_all(dir).map_err(|e| Failure::file("create directory", dir, &e))?;
        // nats-server may change its directory.
        let dir = dir.canonicalize().map_err(|e| Failure::file("find directory", dir, &e))?;
        end_leftover(&dir).await?;
        let (port, reserved) = choose_port(port)?;
        let password = secret()?;
        write_config(&dir, port, &password)?;
        let child = spawn(&program, &dir)?;
        let mut server = Self { program, dir, port, password, child, _reserved: reserved };
        server.ready().await?;
        Ok(server)
    }

    /// `nats://127.0.0.1:<port>`, without credentials: what workloads get.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Password of [`CONTROL_USER`].
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Keeps it running until `shutdown`, then ends it.
    pub async fn supervise(mut self, shutdown: CancellationToken) -> Result<(), Failure> {
        let mut failures = 0;
        loop {
            let started = Instant::now();
            let status = tokio::select! {
                status = self.child.wait() => status,
                () = shutdown.cancelled() => return self.stop().await,
            };
            let status = status.map_or_else(|e| e.to_string(), |s| s.to_string());
            failures = if started.elapsed() >= HEALTHY_AFTER { 1 } else { failures + 1 };
            tracing::warn!(%status, failures, "nats-server ended; starting it again");
            if failures > FAILURES_MAX {
                return Err(self.died(&status));
            }
            let delay = RESTART_FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(RESTART_LAST);
            tokio::select! {
                () = sleep(delay) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            self.child = spawn(&self.program, &self.dir)?;
        }
    }

    async fn stop(&mut self) -> Result<(), Failure> {
        // Not yet waited for, so the pid is still its own.
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM).map_err(|e| Failure::internal("stop nats-server", e))?;
        }
        if tokio::time::timeout(STOPPED_WITHIN, self.child.wait()).await.is_err() {
            tracing::warn!("nats-server did not stop in time and is killed");
            self.child.kill().await.map_err(|e| Failure::internal("kill nats-server", e))?;
        }
        Ok(())
    }

    /// Waits until it takes our password: that it is this server, and not another on the same port, is known by that.
    async fn ready(&mut self) -> Result<(), Failure> {
        let until = Instant::now() + READY_WITHIN;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.died(&status.to_string()));
            }
            let attempt = async_nats::ConnectOptions::new()
                .user_and_password(CONTROL_USER.to_owned(), self.password.clone())
                .connection_timeout(Duration::from_secs(1))
                .max_reconnects(1)
                .connect(self.url())
                .await;
            match attempt {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= until => {
                    return Err(Failure::new(
                        ErrorKind::Deadline,
                        format!("nats-server does not answer within 30 s: {error}; see {}", self.log().display()),
                    ));
                }
                Err(_) => sleep(LOOK_EVERY).await,
            }
        }
    }

    fn log(&self) -> PathBuf {
        self.dir.join("nats-server.log")
    }

    fn died(&self, status: &str) -> Failure {
        let said = tail(&self.log());
        let hint = if said.contains("address already in use") {
            format!(": port {} is in use; --nats-port 0 takes a free one, --server uses a server that runs", self.port)
        } else {
            format!(": {said} (see {})", self.log().display())
        };
        Failure::new(ErrorKind::Unavailable, format!("nats-server ended ({status}){hint}"))
    }
}

/// The program: as given, on the path, or where the project's own tools are.
fn find(given: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(path) = given {
        return if path.is_file() {
            Ok(path.to_owned())
        } else {
            Err(Failure::new(ErrorKind::NotFound, format!("--nats-server {}: no such file", path.display())))
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let tools = std::env::var_os("MOAT_TOOLS").map(PathBuf::from);
    std::env::split_paths(&path).chain(tools).map(|dir| dir.join("nats-server")).find(|p| p.is_file()).ok_or_else(
        || {
            Failure::new(
                ErrorKind::Unsupported,
                "nats-server is not installed: install it (Debian: apt install nats-server), name its place with \
             --nats-server, or name a server that runs with --server",
            )
        },
    )
}

/// The server must have the same port after a restart, so it is chosen here, and kept meanwhile.
fn choose_port(wanted: u16) -> Result<(u16, Option<TcpSocket>), Failure> {
    if wanted != 0 {
        return Ok((wanted, None));
    }
    let (address, reserved) =
        reserve((Ipv4Addr::LOCALHOST, 0).into()).map_err(|e| Failure::internal("find a free port", e))?;
    Ok((address.port(), Some(reserved)))
}

/// 24 random bytes as hex.
fn secret() -> Result<String, Failure> {
    let mut bytes = [0_u8; 24];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(|e| Failure::internal("get randomness", e))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

fn write_config(dir: &Path, port: u16, password: &str) -> Result<(), Failure> {
    let quoted = |name: &str| serde_json::to_string(&dir.join(name)).map_err(Failure::from);
    let text = format!(
        "# Written by `moat up` at every start.\n\
         host: \"127.0.0.1\"\n\
         port: {port}\n\
         server_name: \"moat-up\"\n\
         pid_file: {pid}\n\
         log_file: {log}\n\
         logfile_size_limit: 10MB\n\
         jetstream {{ store_dir: {store} }}\n\
         accounts {{\n\
         \x20 CONTROL {{ jetstream: enabled, users: [ {{ user: \"{CONTROL_USER}\", password: \"{password}\" }} ] }}\n\
         \x20 WORKLOADS {{\n\
         \x20   jetstream: {{ max_memory: {WORKLOAD_MEMORY_MAX}, max_file: {WORKLOAD_STORE_MAX} }}\n\
         \x20   users: [ {{ user: \"workload\", password: \"{unused}\" }} ]\n\
         \x20 }}\n\
         }}\n\
         no_auth_user: \"workload\"\n",
        pid = quoted("nats-server.pid")?,
        log = quoted("nats-server.log")?,
        store = quoted("jetstream")?,
        // Workloads log in as nobody; the user only has to exist.
        unused = secret()?,
    );
    let path = config_path(dir);
    let failed = |e: std::io::Error| Failure::file("write", &path, &e);
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}

fn config_path(dir: &Path) -> PathBuf {
    dir.join("nats-server.conf")
}

fn spawn(program: &Path, dir: &Path) -> Result<Child, Failure> {
    Command::new(program)
        .arg("-c")
        .arg(config_path(dir))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| Failure::file("start", program, &e))
}

/// Ends the server of a `moat up` that was killed: it would hold port and store. Known by the configuration file on its
/// command line, so that nobody else's process is touched.
async fn end_leftover(dir: &Path) -> Result<(), Failure> {
    let Ok(text) = std::fs::read_to_string(dir.join("nats-server.pid")) else { return Ok(()) };
    let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else { return Ok(()) };
    // A handle first, so that the process looked at is the one that is signalled.
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
    let command = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let config = config_path(dir);
    if !command.split(|b| *b == 0).any(|argument| argument == config.as_os_str().as_encoded_bytes()) {
        return Ok(());
    }
    tracing::warn!(pid = pid.as_raw_nonzero(), "a nats-server of an earlier `moat up` is still there and is ended");
    let until = Instant::now() + STOPPED_WITHIN;
    let mut signal = Signal::TERM;
    loop {
        if pidfd_send_signal(&handle, signal).is_err() || is_zombie(pid) {
            return Ok(());
        }
        if Instant::now() >= until {
            if signal == Signal::KILL {
                return Err(Failure::internal("end an earlier nats-server", "it survives SIGKILL"));
            }
            signal = Signal::KILL;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Ended, and its parent does not care: a signal still reaches it.
fn is_zombie(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

/// The last lines of a log, on one line.
fn tail(path: &Path) -> String {
    const BYTES: u64 = 600;
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
        let mut bytes = Vec::new();
        file.take(BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(3).map(str::trim).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("; ")
}
