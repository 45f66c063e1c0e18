//! The process that does the work: who it becomes, and how what it finds is told.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;

use moat_agent::protocol::Reply;
use moat_model::file::{FileRequest, Transfer};
use rustix::process::{DumpableBehavior, set_dumpable_behavior, setsid};

use super::line::{Line, Stop};
use super::{content, pack, unary, unpack, watch};
use crate::agent::child::confine_as;
use crate::agent::failure::Failure;
use crate::agent::program::{Confinement, Step, cannot_confine};
use crate::agent::user::User;
use crate::sys::{ExitGuard, close_all_but, exit_now, ignore_broken_pipes, reset_signals};

/// What is to be done.
#[derive(Debug)]
pub enum Task {
    /// One question, one answer.
    File(FileRequest),
    /// Bytes out.
    Pull(Transfer),
    /// Bytes in.
    Push(Transfer),
    /// What happens.
    Watch {
        /// Where.
        path: String,
        /// Also below.
        recursive: bool,
    },
}

/// Does it and ends. Called in a fork of the agent.
pub fn run(socket: UnixStream, confinement: &Confinement, user: &User, task: &Task) -> ! {
    let _guard = ExitGuard;
    let prepared = prepare(&socket, confinement, user);
    let mut line = Line::new(socket);
    let outcome = prepared.map_err(Stop::from).and_then(|()| perform(task, &mut line));
    if let Err(Stop::Failed(failure)) = outcome {
        line.fail(failure);
    }
    exit_now(0)
}

/// Sends what was changed in the root of a machine, and ends. Called in a fork of the agent, whose rights it needs: these are
/// files of all users, and what was removed is marked where only the machine's root may look.
pub fn run_changes(socket: UnixStream, changes: BorrowedFd<'_>) -> ! {
    let _guard = ExitGuard;
    let prepared = separate(&[socket.as_raw_fd(), changes.as_raw_fd()]);
    let mut line = Line::new(socket);
    let outcome = prepared.map_err(Stop::from).and_then(|()| pack::pack_changes(&mut line, changes));
    if let Err(Stop::Failed(failure)) = outcome {
        line.fail(failure);
    }
    exit_now(0)
}

/// A process of its own, with nothing of the agent's but these descriptors.
fn separate(keep: &[RawFd]) -> Result<(), Failure> {
    let setup = |e: std::io::Error| Failure::internal("set up a process for files", &e);
    close_all_but(keep).map_err(setup)?;
    setsid().map_err(|e| setup(e.into()))?;
    reset_signals();
    ignore_broken_pipes();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    Ok(())
}

fn prepare(socket: &UnixStream, confinement: &Confinement, user: &User) -> Result<(), Failure> {
    separate(&[socket.as_raw_fd()])?;
    confine_as(confinement, user, c"/")
        .map_err(|(step, errno)| cannot_confine(user, step, errno.raw_os_error(), "files"))?;
    // It is a copy of the agent, which programs of this user have no business to look into.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|e| cannot_confine(user, Step::Prepare, e.raw_os_error(), "files"))
}

fn perform(task: &Task, line: &mut Line) -> Result<(), Stop> {
    match task {
        Task::File(request) => {
            let answer = unary::answer(request)?;
            line.reply(&Reply::File { answer })
        }
        Task::Pull(Transfer::Read { path, offset, length }) => content::read(line, path, *offset, *length),
        Task::Pull(Transfer::TarOut { path }) => pack::pack(line, path),
        Task::Push(Transfer::Write { path, mode }) => content::write(line, path, *mode),
        Task::Push(Transfer::TarIn { path }) => unpack::unpack(line, path),
        Task::Pull(_) => Err(Failure::invalid("transfer: it goes into the sandbox, and pull goes out of it").into()),
        Task::Push(_) => Err(Failure::invalid("transfer: it goes out of the sandbox, and push goes into it").into()),
        Task::Watch { path, recursive } => watch::watch(line, path, *recursive),
    }
}
