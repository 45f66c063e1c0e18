//! Starting the launcher and taking its answer.

use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;

use moat_agent::launch::{DESCRIPTORS_MAX, LaunchConfig, LaunchReply};
use moat_model::ErrorKind;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use tokio::io::unix::AsyncFd;
use tokio::process::Command;

use super::agent_binary::AgentBinary;
use super::identity::ProcessIdentity;
use super::readiness;

/// Longest answer: a stage, a path and an errno, or a handful of notes.
const REPLY_LEN_MAX: usize = 64 << 10;

/// An agent or a program that was started.
#[derive(Debug)]
pub struct Launched {
    /// Which process it is.
    pub identity: ProcessIdentity,
    /// The process itself.
    pub pidfd: OwnedFd,
    /// What the launcher wants the operator to know.
    pub notes: Vec<String>,
    /// The agent's descriptor of what changes in its root.
    pub changes_fd: Option<u32>,
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The launcher could not be executed or spoken to.
    #[error("{doing}")]
    Io {
        /// Which step.
        doing: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// It said what failed.
    #[error("{stage}: {detail}")]
    Failed {
        /// Which step.
        stage: String,
        /// The path or value at fault and the errno's text.
        detail: String,
    },
    /// It ended without saying anything.
    #[error("the launcher ended without an answer: {0}")]
    Died(std::process::ExitStatus),
    /// What it started was gone before anybody could look at it.
    #[error("process {0} ended as soon as it was started")]
    Ended(u32),
    /// It said something else than the protocol has.
    #[error("the launcher's answer makes no sense: {0}")]
    Nonsense(String),
}

impl LaunchError {
    fn io<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { doing, source: source.into() }
    }

    /// What a caller may decide by.
    pub fn kind(&self) -> ErrorKind {
        match self {
            // The one stage whose fault lies in what was asked.
            Self::Failed { stage, .. } if stage == "user" => ErrorKind::InvalidSpec,
            // Killed while it worked within the sandbox's limits: memory, as a rule.
            Self::Died(_) => ErrorKind::Exhausted,
            Self::Io { .. } | Self::Failed { .. } | Self::Ended(_) | Self::Nonsense(_) => ErrorKind::Internal,
        }
    }
}

/// Makes the socket an agent will serve: for root alone, in place of one that may be left there.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener.into())
}

/// Executes the launcher with the descriptors of the payload and waits for its answer. Dropping the future kills the
/// launcher, and the launcher's death ends what it was building.
pub async fn launch(
    binary: &AgentBinary,
    config: &LaunchConfig,
    descriptors: Vec<OwnedFd>,
) -> Result<Launched, LaunchError> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(LaunchError::io("make a socket pair"))?;
    rustix::io::ioctl_fionbio(&ours, true).map_err(LaunchError::io("make a socket pair"))?;
    let text = serde_json::to_vec(config).map_err(|e| LaunchError::Nonsense(format!("configuration: {e}")))?;
    send_config(&ours, &text, &descriptors).map_err(LaunchError::io("send the launch configuration"))?;
    drop(descriptors);
    let mut launcher = Command::new(binary.path())
        .arg0("moat-agent")
        .arg("launch")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(LaunchError::io("execute the launcher"))?;
    let ours = readiness::register(ours).map_err(LaunchError::io("wait for the launcher"))?;
    let answer = receive(&ours).await.map_err(LaunchError::io("wait for the launcher"))?;
    if answer.text.is_empty() {
        let status = launcher.wait().await.map_err(LaunchError::io("wait for the launcher"))?;
        return Err(LaunchError::Died(status));
    }
    // The launcher ends by itself now; tokio collects it. Waiting here would wait for its mount namespace to be torn down.
    match (serde_json::from_slice(&answer.text), answer.pidfd) {
        (Ok(LaunchReply::Started { pid, notes, changes_fd }), Some(pidfd)) => {
            let identity = ProcessIdentity::of(pid).map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => LaunchError::Ended(pid),
                _ => LaunchError::Io { doing: "identify what was started", source },
            })?;
            Ok(Launched { identity, pidfd, notes, changes_fd })
        }
        (Ok(LaunchReply::Started { .. }), None) => Err(LaunchError::Nonsense("no pidfd came with it".to_owned())),
        (Ok(LaunchReply::Failed { stage, detail }), _) => Err(LaunchError::Failed { stage, detail }),
        (Err(e), _) => Err(LaunchError::Nonsense(e.to_string())),
    }
}

/// Puts the one packet into the socket before anybody reads from it: it fits, so this never waits.
fn send_config(socket: &OwnedFd, text: &[u8], descriptors: &[OwnedFd]) -> io::Result<()> {
    let mut memfd = std::fs::File::from(memfd_create("moat-launch", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    memfd.write_all(text)?;
    fcntl_add_seals(&memfd, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    let length = u32::try_from(text.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?.to_le_bytes();
    let all: Vec<BorrowedFd<'_>> =
        std::iter::once(memfd.as_fd()).chain(descriptors.iter().map(OwnedFd::as_fd)).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX + 1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&all)) {
        return Err(io::Error::other(format!("{} descriptors, of {DESCRIPTORS_MAX} at most", descriptors.len())));
    }
    sendmsg(socket, &[IoSlice::new(&length)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// One packet of the launcher; empty if it ended.
#[derive(Debug)]
struct Answer {
    text: Vec<u8>,
    pidfd: Option<OwnedFd>,
}

async fn receive(socket: &AsyncFd<OwnedFd>) -> io::Result<Answer> {
    loop {
        let mut ready = socket.readable().await?;
        if let Ok(answer) = ready.try_io(|socket| receive_now(socket.get_ref())) {
            return answer;
        }
    }
}

fn receive_now(socket: &OwnedFd) -> io::Result<Answer> {
    let mut text = vec![0; REPLY_LEN_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    text.truncate(got.bytes);
    let pidfd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(Answer { text, pidfd })
}
