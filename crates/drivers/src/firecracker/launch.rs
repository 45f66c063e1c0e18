//! The jailer, and the process that comes of it.
//!
//! ```text
//! moat-agent enter   cgroups of the sandbox, its network or an empty one, no environment
//!   -> jailer        root of its own, device nodes, user and group, process namespace
//!        -> firecracker   seccomp of its own
//! ```
//!
//! The jailer is told nothing of cgroups and networks: what it starts is born in both. It would make cgroups of its own
//! naming, on one version of the hierarchy only, and its version 1.16.0 takes no link for a namespace, which ours are.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::api::InstanceInfo;
use super::client::Client;
use super::jail::{self, API_SOCKET, Jail, LOG};
use super::recorder;
use super::version::Version;
use crate::linux::agent_binary::AgentBinary;
use crate::linux::cgroup::Hierarchy;
use crate::linux::identity::ProcessIdentity;
use crate::vm::machine::Machine;
use crate::vm::process::{DiskStamp, Vmm};

/// The jailer copies the program and makes two device nodes.
const JAIL_WITHIN: Duration = Duration::from_secs(30);
/// From there to a monitor that answers.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How often it is looked for: it takes some ten milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Disks, the tap, one socket for each connection of the daemon's, some for itself: with all of them less than two hundred.
const NOFILE: u32 = 512;
/// The largest file it writes beside a disk and its memory: what devices and processors are set to.
const STATE_LEN_MAX: u64 = 64 << 20;

/// What is started, and where.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Whose.
    pub machine: &'a Machine,
    /// Where it will be.
    pub jail: &'a Jail,
    /// Firecracker, links followed.
    pub firecracker: &'a Path,
    /// Its jailer.
    pub jailer: &'a Path,
    /// Which version it was looked up to be.
    pub version: Version,
    /// It goes on with a machine that lies on disk, whose disk has this stamp.
    pub unstowing: Option<DiskStamp>,
}

impl Launch<'_> {
    /// Starts it and waits until it answers. The process is written down as soon as there is one; before that it is found by
    /// its cgroup.
    pub async fn run(&self, binary: &AgentBinary, hierarchy: &Hierarchy) -> Result<()> {
        // What is in a pipe is gone with the last who has it open: held until somebody watches, or nobody is left to.
        let _words = self.jail.open_pipe(LOG);
        let cgroup_procs = hierarchy.procs_files(&self.machine.cgroup);
        self.jail(binary, &cgroup_procs).await?;
        let process = self.find(hierarchy)?;
        Vmm { process: process.clone(), unstowing: self.unstowing }.write(&self.machine.run_dir)?;
        let recorder = self.record(&process)?;
        self.answering(&process, recorder).await
    }

    async fn jail(&self, binary: &AgentBinary, cgroup_procs: &[PathBuf]) -> Result<()> {
        let failed = |e: std::io::Error| Error::caused_by(ErrorKind::Internal, "start the jailer", e);
        // Not what a guest writes to its serial port, which would be standard output: only what goes wrong before there is a log.
        let words = File::from(self.jail.open_pipe(LOG).map_err(failed)?);
        let mut child = Command::new(binary.path())
            .arg0("moat-agent")
            .args(self.arguments(cgroup_procs))
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(words))
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let Ok(ended) = timeout(JAIL_WITHIN, child.wait()).await else {
            let what = format!("the jailer does not end: not within {} s", JAIL_WITHIN.as_secs());
            return Err(Error::new(ErrorKind::Deadline, what));
        };
        let status = ended.map_err(failed)?;
        if status.success() {
            return Ok(());
        }
        let said = last_words(&recorder::drain(self.jail));
        Err(Error::caused_by(ErrorKind::Internal, format!("the jailer failed, {status}"), said))
    }

    fn arguments(&self, cgroup_procs: &[PathBuf]) -> Vec<String> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let machine = self.machine;
        let mut words = vec!["enter".to_owned()];
        if let Some(network) = &machine.network {
            words.extend(["--netns".to_owned(), text(&network.netns)]);
        }
        words.extend(cgroup_procs.iter().map(|path| text(path)));
        words.extend(["--".to_owned(), text(self.jailer)]);
        let uid = self.jail.uid().to_string();
        let file_bytes = machine.disk_bytes.max(machine.memory_bytes) + STATE_LEN_MAX;
        let options = [
            ("--id", machine.id.as_str().to_owned()),
            ("--exec-file", text(self.firecracker)),
            ("--uid", uid.clone()),
            ("--gid", uid),
            ("--chroot-base-dir", text(&jail::base(machine))),
            ("--resource-limit", format!("fsize={file_bytes}")),
            ("--resource-limit", format!("no-file={NOFILE}")),
        ];
        words.extend(options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
        words.extend(["--new-pid-ns".to_owned(), "--".to_owned(), "--api-sock".to_owned(), jail::inside(API_SOCKET)]);
        words
    }

    /// Which process it became. The jailer writes the number into a directory that is the monitor's by then, so it is believed
    /// only of one in the sandbox's cgroups.
    fn find(&self, hierarchy: &Hierarchy) -> Result<ProcessIdentity> {
        use std::io::Read as _;
        let name = format!("{}.pid", self.firecracker.file_name().unwrap_or_default().to_string_lossy());
        let mut text = String::new();
        let read = self.jail.open_file(&name).and_then(|file| file.take(32).read_to_string(&mut text));
        read.map_err(|e| Error::caused_by(ErrorKind::Internal, format!("read the jailer's {name}"), e))?;
        let members = hierarchy.members(&self.machine.cgroup)?;
        let pid = text.trim().parse().ok().filter(|pid| members.contains(pid));
        let ended =
            || Error::caused_by(ErrorKind::Guest, "the monitor ended at once", last_words(&recorder::drain(self.jail)));
        let pid = pid.ok_or_else(ended)?;
        ProcessIdentity::of(pid).map_err(|_| ended())
    }

    fn record(&self, process: &ProcessIdentity) -> Result<JoinHandle<String>> {
        let failed = |e: std::io::Error| Error::caused_by(ErrorKind::Internal, "watch the monitor", e);
        let Some(pidfd) = process.open().map_err(failed)? else { return Err(self.ended()) };
        recorder::start(self.jail, pidfd, self.machine.log(), &self.machine.run_dir).map_err(failed)
    }

    /// Waits for its socket, asks who it is, and that it is who was asked for.
    async fn answering(&self, process: &ProcessIdentity, recorder: JoinHandle<String>) -> Result<()> {
        let end = Instant::now() + ANSWER_WITHIN;
        while self.jail.connect(API_SOCKET).await.is_err() {
            if process.open().is_ok_and(|process| process.is_none()) {
                // Its last words are with whoever reads its log.
                let said = timeout(ANSWER_WITHIN, recorder).await.ok().and_then(std::result::Result::ok);
                return Err(Error::caused_by(
                    ErrorKind::Guest,
                    "the monitor ended at once",
                    last_words(&said.unwrap_or_default()),
                ));
            }
            if Instant::now() >= end {
                let what = format!("the monitor does not answer: not within {} s", ANSWER_WITHIN.as_secs());
                return Err(Error::new(ErrorKind::Deadline, what));
            }
            sleep(LOOK_EVERY).await;
        }
        let info: InstanceInfo = Client::new(self.jail).get("/").await?;
        let said: String = info.vmm_version.chars().filter(|c| !c.is_control()).take(40).collect();
        if Version::parse(&said) != Some(self.version) {
            let what = format!("firecracker said it is {} when asked, and runs as {said:?}", self.version);
            return Err(Error::new(ErrorKind::Conflict, what));
        }
        if info.state != "Not started" {
            return Err(Error::new(ErrorKind::Internal, format!("a new monitor is {:?}", info.state)));
        }
        Ok(())
    }

    fn ended(&self) -> Error {
        Error::caused_by(ErrorKind::Guest, "the monitor ended at once", last_words(&recorder::drain(self.jail)))
    }
}

/// The last of several lines, made harmless.
fn last_words(text: &str) -> String {
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it said nothing");
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}
