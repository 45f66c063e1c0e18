//! `moat-agent launch`: from a configuration to a running agent.
//!
//! Single-threaded from beginning to end; see [`moat_agent::launch`] for what goes over standard input. In order:
//!
//! 1. If a network was made for the sandbox, this process enters it, and opens the tap a program is to have ([`network`]).
//! 2. It enters the sandbox's cgroups ([`cgroups`]), so that what follows counts against them. The tap comes before, because
//!    they forbid devices.
//! 3. With a jail: in a mount namespace of its own it assembles the root ([`root`], [`layers`], [`devices`], [`binds`]), still as root of
//!    the host.
//! 4. It copies itself into new namespaces ([`clone`]) and writes the id maps of the copy.
//! 5. The copy mounts what only it can mount, leaves the host's mounts ([`inside`]), says that all went
//!    well, and becomes the agent, which first gives up what it does not need, or a [`program`], for which it gives up all.
//! 6. This process answers with a pidfd of the copy, and ends.
//!
//! All mounts die with the mount namespaces: nothing is left on the host but the cgroups the driver made. If any step
//! fails, or this process is killed, the copy ends too: it reads end of file where it expects the next word.

mod binds;
mod cgroups;
pub mod clone;
pub mod devices;
pub mod ids;
pub mod inside;
pub mod kernel;
mod lasting;
pub mod layers;
pub mod mount;
pub mod names;
mod network;
pub mod owner;
mod program;
pub mod root;
pub mod tree;
mod wire;

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use moat_agent::launch::{AgentConfig, JailConfig, LaunchConfig, LaunchReply, Payload, ProgramConfig};
use rustix::fs::Mode;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use clone::Side;
use kernel::Kept;
pub use kernel::own_namespaces;
pub use network::join as join_network;

/// Ids inside and outside map one to one from the base on.
const ID_COUNT: u32 = 65_536;

/// What each side says when the other may go on.
const GO_ON: &[u8] = b"+";

/// A step of the launch that failed.
#[derive(Debug, thiserror::Error)]
#[error("{stage}: {detail}")]
pub struct LaunchError {
    /// Which step.
    stage: String,
    /// The path or value at fault and the errno's text.
    detail: String,
}

impl LaunchError {
    /// At this step, for this reason.
    pub fn new(stage: &str, detail: impl std::fmt::Display) -> Self {
        Self { stage: stage.to_owned(), detail: detail.to_string() }
    }

    fn reply(self) -> LaunchReply {
        LaunchReply::Failed { stage: self.stage, detail: self.detail }
    }
}

/// An error at a step, about a path.
pub fn at<'a, E: std::fmt::Display>(stage: &'a str, path: &'a Path) -> impl Fn(E) -> LaunchError + 'a {
    move |error| LaunchError::new(stage, format!("{}: {error}", path.display()))
}

/// Entry of `moat-agent launch`.
pub fn main() -> ExitCode {
    match launch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell if this fails; the exit code says that it did not work.
            let _ = wire::reply(&error.reply(), None);
            ExitCode::from(crate::OURS)
        }
    }
}

/// What the copy will be, with all it needs for it.
#[derive(Debug)]
enum Destiny {
    Agent { config: AgentConfig, listener: OwnedFd, changes: Option<OwnedFd> },
    Program { config: ProgramConfig, given: program::Given },
}

fn launch() -> Result<(), LaunchError> {
    let (config, descriptors) = wire::receive()?;
    let mut destiny = destiny(&config, descriptors)?;
    enter_network(config.jail.as_ref(), &mut destiny)?;
    let cgroup = cgroups::enter(&config.cgroup_procs)?;
    prepare(&config)?;
    let jail = config.jail;
    let notes = match (&jail, &mut destiny) {
        (Some(jail), Destiny::Agent { config, changes, .. }) => {
            let assembled = root::assemble(jail, &config.default_user)?;
            *changes = assembled.changes;
            assembled.notes
        }
        (Some(jail), Destiny::Program { config, .. }) => program::assemble(jail, config).map(|()| Vec::new())?,
        (None, _) => Vec::new(),
    };
    let failed = |e: rustix::io::Errno| LaunchError::new("socketpair", e);
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(failed)?;
    let namespaces = jail.as_ref().map_or(0, clone::container);
    match clone::clone3(namespaces, cgroup.as_ref().map(OwnedFd::as_fd)).map_err(|e| LaunchError::new("clone3", e))? {
        Side::Child => {
            drop(ours);
            child(jail.as_ref(), destiny, theirs)
        }
        Side::Parent { pid, pidfd } => {
            drop(theirs);
            let changes_fd = matches!(&destiny, Destiny::Agent { changes: Some(_), .. });
            let changes_fd = changes_fd.then_some(kernel::CHANGES.unsigned_abs());
            let started = LaunchReply::Started { pid: pid.as_raw_pid().unsigned_abs(), notes, changes_fd };
            let done =
                bring_up(pid, jail.as_ref(), &destiny, &ours).and_then(|()| wire::reply(&started, Some(pidfd.as_fd())));
            // What failed, or what nobody knows of because the daemon that asked is gone, must not run.
            done.inspect_err(|_| end(&pidfd))
        }
    }
}

fn destiny(config: &LaunchConfig, descriptors: Vec<OwnedFd>) -> Result<Destiny, LaunchError> {
    match &config.payload {
        Payload::Agent(agent) => match <[OwnedFd; 1]>::try_from(descriptors) {
            Ok([listener]) => Ok(Destiny::Agent { config: agent.clone(), listener, changes: None }),
            Err(came) => {
                let why = format!("{} descriptors came for the agent, which has one", came.len());
                Err(LaunchError::new("receive configuration", why))
            }
        },
        Payload::Program(program) => {
            let given = program::check(config.jail.as_ref(), program, descriptors)?;
            Ok(Destiny::Program { config: program.clone(), given })
        }
    }
}

fn enter_network(jail: Option<&JailConfig>, destiny: &mut Destiny) -> Result<(), LaunchError> {
    let Some(network) = jail.and_then(|jail| jail.network.as_ref()) else { return Ok(()) };
    network::join(&network.netns)?;
    if let Destiny::Program { config: ProgramConfig { tap: Some(tap), .. }, given } = destiny {
        given.others.push(network::open_tap(tap)?);
    }
    Ok(())
}

/// What holds for this process and everything that comes of it.
fn prepare(config: &LaunchConfig) -> Result<(), LaunchError> {
    // Executed from a descriptor, the process would be named after its number.
    rustix::thread::set_name(c"moat-agent").map_err(|e| LaunchError::new("set name", e))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let oom = Path::new("/proc/self/oom_score_adj");
    std::fs::write(oom, "0").map_err(at("reset oom score", oom))?;
    allow_files(match &config.payload {
        Payload::Agent(agent) => agent.nofile,
        Payload::Program(program) => program.nofile,
    })
}

/// Raises the hard limit of open files if the agent is to set a higher one: inside a user namespace nobody may.
fn allow_files(wanted: u64) -> Result<(), LaunchError> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    if limit.maximum.is_none_or(|maximum| maximum >= wanted) {
        return Ok(());
    }
    let raised = Rlimit { current: limit.current, maximum: Some(wanted) };
    rustix::process::setrlimit(Resource::Nofile, raised)
        .map_err(|e| LaunchError::new("raise limit of open files", format!("{wanted}: {e}")))
}

/// The parent's part after the copy exists: its id maps, the word to go on, and its answer.
fn bring_up(pid: Pid, jail: Option<&JailConfig>, destiny: &Destiny, report: &OwnedFd) -> Result<(), LaunchError> {
    if let Some(jail) = jail {
        ids::IdMap::of_sandbox(jail.uid_base).give(pid)?;
    }
    send(report, GO_ON, SendFlags::NOSIGNAL).map_err(|e| LaunchError::new(START, e))?;
    if !ready(report)? {
        return Err(LaunchError::new(START, "it ended without a word"));
    }
    match destiny {
        Destiny::Agent { .. } => Ok(()),
        // The end of the channel: exec has closed it.
        Destiny::Program { .. } => match ready(report)? {
            false => Ok(()),
            true => Err(LaunchError::new(START, "it said nonsense")),
        },
    }
}

const START: &str = "start";

/// Waits for the copy's word that it is ready; `false` is the end of the channel.
fn ready(report: &OwnedFd) -> Result<bool, LaunchError> {
    let mut answer = [0_u8; 4096];
    let (length, _) = recv(report, &mut answer[..], RecvFlags::empty()).map_err(|e| LaunchError::new(START, e))?;
    match answer.get(..length) {
        Some(GO_ON) => Ok(true),
        Some([]) | None => Ok(false),
        Some(text) => Err(match serde_json::from_slice(text) {
            Ok(LaunchReply::Failed { stage, detail }) => LaunchError { stage, detail },
            Ok(LaunchReply::Started { .. }) | Err(_) => LaunchError::new(START, "it said nonsense"),
        }),
    }
}

/// Kills and collects the copy, and with it everything in its namespaces.
fn end(pidfd: &OwnedFd) {
    // It may have ended by itself; then there is nothing to kill and only the status to collect.
    let _ = pidfd_send_signal(pidfd, Signal::KILL);
    let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
}

/// The copy's life up to the agent's or the program's.
fn child(jail: Option<&JailConfig>, destiny: Destiny, report: OwnedFd) -> ! {
    let mut word = [0_u8; 1];
    // End of file: the parent failed, and has said why.
    if !matches!(recv(&report, &mut word[..], RecvFlags::empty()), Ok((1, _))) {
        std::process::exit(i32::from(crate::OURS));
    }
    if let Err(error) = prepare_inside(jail, &destiny) {
        fail(&report, error);
    }
    let (config, listener, changes) = match destiny {
        Destiny::Agent { config, listener, changes } => (config, listener, changes),
        Destiny::Program { config, given } => program::run(&config, given, report),
    };
    let (listener, report) = match kernel::keep_only(Kept { listener, report, changes }) {
        Ok(kept) => kept,
        Err(error) => {
            // The report channel may be closed by now. The parent then reads end of file, which is an answer too.
            eprintln!("moat-agent: close descriptors: {error}");
            std::process::exit(i32::from(crate::OURS))
        }
    };
    if send(&report, GO_ON, SendFlags::NOSIGNAL).is_err() {
        std::process::exit(i32::from(crate::OURS));
    }
    drop(report);
    crate::agent::run(config, listener)
}

fn prepare_inside(jail: Option<&JailConfig>, destiny: &Destiny) -> Result<(), LaunchError> {
    // A session of its own: signals to the daemon's terminal are not for it.
    rustix::process::setsid().map_err(|e| LaunchError::new("setsid", e))?;
    let shown = match destiny {
        Destiny::Agent { .. } => inside::Shown::Sandbox,
        // What serves files asks the kernel how many it may open.
        Destiny::Program { config: ProgramConfig { serves: Some(_), .. }, .. } => inside::Shown::Kernel,
        Destiny::Program { .. } => inside::Shown::Processes,
    };
    jail.map_or(Ok(()), |jail| inside::enter(jail, shown))
}

fn fail(report: &OwnedFd, error: LaunchError) -> ! {
    if let Ok(text) = serde_json::to_vec(&error.reply()) {
        // If nobody listens any more, ending is all that is left to do.
        let _ = send(report, &text, SendFlags::NOSIGNAL);
    }
    std::process::exit(i32::from(crate::OURS))
}
