//! Launching an agent and looking at it from outside.

use std::collections::BTreeSet;
use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use moat_agent::launch::{AgentConfig, HostPath, JailConfig, LaunchConfig, LaunchReply, Payload};
use moat_agent::protocol::StreamName;
use moat_engine::Guest;
use moat_engine::guest::agent::{AgentGuest, Endpoint};
use moat_engine::guest::{Channel, ExecOutput, ExecSession};
use moat_model::spec::{ExecSpec, Forward};
use moat_model::{Exit, ProcessSpec};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, UnixStream};

/// Longer than anything here takes on a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// An agent on this host, without a jail.
pub struct Sandbox {
    pub dir: tempfile::TempDir,
    pub pid: u32,
    endpoint: Arc<SocketEndpoint>,
}

#[derive(Debug)]
struct SocketEndpoint {
    socket: PathBuf,
    pid: u32,
}

#[async_trait]
impl Endpoint for SocketEndpoint {
    async fn connect(&self) -> io::Result<Box<dyn Channel>> {
        Ok(Box::new(UnixStream::connect(&self.socket).await?))
    }

    async fn gone(&self) -> String {
        while alive(self.pid) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        format!("process {} has ended", self.pid)
    }
}

impl Sandbox {
    pub fn launch() -> Self {
        Self::launch_with(|_| {})
    }

    pub fn launch_with(change: impl FnOnce(&mut AgentConfig)) -> Self {
        Self::launch_in(None, change)
    }

    /// In namespaces and a root of its own, with the programs of this host; `nobody` unless it is changed.
    pub fn launch_jailed(change: impl FnOnce(&mut AgentConfig)) -> Self {
        let host_paths = ["/bin", "/etc", "/lib", "/lib64", "/usr"];
        let jail = JailConfig {
            hostname: "jailed".to_owned(),
            uid_base: 0x4100_0000,
            mount_point: PathBuf::new(),
            layers: vec![],
            writable_bytes: 16 << 20,
            host_paths: host_paths.map(|path| HostPath { source: path.into(), target: path.into() }).to_vec(),
            binds: vec![],
            secrets_bytes: 1 << 20,
            host_pid: false,
            host_ipc: false,
            lasting: None,
            network: None,
        };
        Self::launch_in(Some(jail), |agent| {
            agent.task_dir = None;
            agent.default_user = "nobody".to_owned();
            agent.capabilities = Some(0xa804_05fb & !(1 << 13));
            change(agent);
        })
    }

    fn launch_in(mut jail: Option<JailConfig>, change: impl FnOnce(&mut AgentConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mount_point = dir.path().join("root");
        std::fs::create_dir(&mount_point).unwrap();
        if let Some(jail) = &mut jail {
            jail.mount_point = mount_point;
        }
        std::fs::create_dir(dir.path().join("local")).unwrap();
        let mut agent = AgentConfig {
            default_user: rustix::process::geteuid().as_raw().to_string(),
            task_dir: Some(dir.path().to_owned()),
            capabilities: None,
            no_new_privs: true,
            seccomp: vec![],
            nofile: 1024,
            forward_ports: vec![],
            oom_score_adj: 0,
            output_buffer_bytes: 1 << 20,
        };
        change(&mut agent);
        let socket = dir.path().join("agent.sock");
        let listener = OwnedFd::from(UnixListener::bind(&socket).unwrap());
        let pid = run_launcher(&LaunchConfig { cgroup_procs: vec![], jail, payload: Payload::Agent(agent) }, &listener);
        Self { dir, pid, endpoint: Arc::new(SocketEndpoint { socket, pid }) }
    }

    /// Connects like a daemon that just started.
    pub async fn connect(&self) -> Arc<AgentGuest> {
        self.connect_with(vec![]).await
    }

    pub async fn connect_with(&self, forwards: Vec<Forward>) -> Arc<AgentGuest> {
        AgentGuest::connect(self.endpoint.clone(), forwards).await.expect("connect")
    }

    /// Resident memory of the agent.
    pub fn rss(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // From the top down, so that nothing is adopted by anybody before it is seen.
        for pid in family(self.pid) {
            if let Some(pid) = Pid::from_raw(i32::try_from(pid).unwrap_or(0)) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

fn run_launcher(config: &LaunchConfig, listener: &OwnedFd) -> u32 {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let text = serde_json::to_vec(config).unwrap();
    let mut memfd = std::fs::File::from(memfd_create("config", MemfdFlags::CLOEXEC).unwrap());
    memfd.write_all(&text).unwrap();
    let length = u32::try_from(text.len()).unwrap().to_le_bytes();
    let fds: [BorrowedFd<'_>; 2] = [memfd.as_fd(), listener.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(&ours, &[IoSlice::new(&length)], &mut control, SendFlags::empty()).unwrap();
    let mut launcher =
        Command::new(env!("CARGO_BIN_EXE_moat-agent")).arg("launch").stdin(Stdio::from(theirs)).spawn().unwrap();
    let mut text = vec![0; 64 << 10];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(&ours, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    text.truncate(got.bytes);
    let pidfds = control.drain().filter(|m| matches!(m, RecvAncillaryMessage::ScmRights(_))).count();
    assert!(launcher.wait().unwrap().success(), "{}", String::from_utf8_lossy(&text));
    match serde_json::from_slice(&text).unwrap() {
        LaunchReply::Started { pid, .. } => {
            assert_eq!(pidfds, 1, "a pidfd comes with the answer");
            pid
        }
        LaunchReply::Failed { stage, detail } => panic!("{stage}: {detail}"),
    }
}

/// Whether a process exists and is not a zombie.
pub fn alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z')
}

fn stat(pid: u32) -> Option<(char, u32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn pids() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// A process and all its descendants.
pub fn family(head: u32) -> BTreeSet<u32> {
    let all: Vec<(u32, u32)> = pids().into_iter().filter_map(|pid| Some((pid, stat(pid)?.1))).collect();
    let mut family = BTreeSet::from([head]);
    loop {
        let before = family.len();
        for (pid, ppid) in &all {
            if family.contains(ppid) {
                family.insert(*pid);
            }
        }
        if family.len() == before {
            return family;
        }
    }
}

/// Living processes with this text in their arguments.
pub fn running(marker: &str) -> Vec<u32> {
    let matches = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        alive(*pid) && String::from_utf8_lossy(&line).split('\0').any(|arg| arg == marker)
    };
    pids().into_iter().filter(matches).collect()
}

/// A number of seconds nobody else sleeps for.
pub fn marker() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("9{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A program on the host's loopback that answers with what it hears, and says goodbye when the other side has finished.
pub async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = socket.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.write_all(b"bye").await;
            });
        }
    });
    address
}

/// Waits for a state.
pub async fn until(what: &str, mut check: impl FnMut() -> bool) {
    let found = moat_testkit::wait_until(DEADLINE, what, async || check().then_some(()));
    found.await.unwrap();
}

/// Waits until nothing runs below the agent, not even a supervisor or what is not reaped yet.
pub async fn until_alone(guest: &AgentGuest) {
    let alone = moat_testkit::wait_until(DEADLINE, "the agent to be alone", async || {
        (guest.stats().await.unwrap().processes == 1).then_some(())
    });
    alone.await.unwrap();
}

pub fn process(command: &str, args: &[&str]) -> ProcessSpec {
    ProcessSpec {
        command: command.to_owned(),
        args: args.iter().map(|a| (*a).to_owned()).collect(),
        env: [("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())].into(),
        cwd: None,
        user: None,
    }
}

pub fn sh(script: &str) -> ProcessSpec {
    process("/bin/sh", &["-c", script])
}

pub fn exec_sh(script: &str) -> ExecSpec {
    ExecSpec { process: sh(script), pty: None, stdin: false, timeout: None }
}

/// Everything an exec said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Said {
    pub stdout: String,
    pub stderr: String,
    pub exit: Option<Exit>,
    pub timed_out: bool,
}

/// Reads an exec to its end.
pub async fn listen(mut session: ExecSession) -> Said {
    let mut said = Said::default();
    let listening = async {
        while let Some(output) = session.output.recv().await {
            match output {
                ExecOutput::Data(StreamName::Stdout, bytes) => said.stdout.push_str(&String::from_utf8_lossy(&bytes)),
                ExecOutput::Data(StreamName::Stderr, bytes) => said.stderr.push_str(&String::from_utf8_lossy(&bytes)),
                ExecOutput::Exited { exit, timed_out } => {
                    said.exit = Some(exit);
                    said.timed_out = timed_out;
                }
            }
        }
    };
    tokio::time::timeout(DEADLINE, listening).await.expect("the exec did not end");
    said
}

/// Runs a script to its end.
pub async fn run(guest: &AgentGuest, script: &str) -> Said {
    listen(guest.exec(&exec_sh(script)).await.expect("exec")).await
}
