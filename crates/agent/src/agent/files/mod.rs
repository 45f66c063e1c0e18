//! Files, by a process of their user.
//!
//! For each request the agent forks a worker ([`worker`]) that takes on the user and the confinement of a program of that
//! user, and then does its work with ordinary blocking calls. So the kernel decides what is allowed, as it does for
//! programs, and the agent never waits for a file system. The worker speaks the protocol itself: the agent passes bytes
//! on and looks at none of them. Hanging up closes the worker's socket, upon which it tidies up and ends.

mod archive;
mod content;
mod line;
mod pack;
mod path;
mod target;
mod unary;
mod unpack;
mod watch;
mod worker;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::rc::Rc;

use moat_agent::protocol::frame::{AgentFrame, DaemonFrame};
use moat_agent::protocol::mux::Stream;
use moat_agent::protocol::stream::{FrameReader, StreamError, write_header};
use moat_agent::protocol::{FRAME_LEN_MAX, Reply};
use moat_model::ErrorKind;
use tokio::io::{AsyncWriteExt, BufReader, ReadHalf, WriteHalf, copy_buf};
use tokio::net::UnixStream;

pub use self::worker::Task;
use super::Agent;
use super::failure::Failure;
use super::user::Database;
use crate::sys::{Fork, exit_now, fork};

/// Bytes passed on at once where few are expected.
const SMALL_LEN: usize = 4 << 10;

/// Serves one request from its header to its last frame.
pub async fn serve(
    agent: &Rc<Agent>,
    user: Option<&str>,
    task: Task,
    reader: FrameReader<ReadHalf<Stream>, DaemonFrame>,
    mut writer: WriteHalf<Stream>,
) -> Result<(), StreamError> {
    let (inward, outward) = match &task {
        Task::Pull(_) => (SMALL_LEN, FRAME_LEN_MAX),
        Task::Push(_) => (FRAME_LEN_MAX, SMALL_LEN),
        Task::File(_) | Task::Watch { .. } => (SMALL_LEN, SMALL_LEN),
    };
    match start(agent, user, &task) {
        Ok(socket) => carry(socket, reader, writer, inward, outward).await,
        Err(failure) => refuse(failure, &mut writer).await,
    }
}

/// Serves a request for everything changed above the layers of the root. Nobody is asked whose files these are: it is for the
/// node, as what it keeps of any other sandbox.
pub async fn serve_changes(
    changes: OwnedFd,
    reader: FrameReader<ReadHalf<Stream>, DaemonFrame>,
    mut writer: WriteHalf<Stream>,
) -> Result<(), StreamError> {
    let started = spawn(&fork, |socket| worker::run_changes(socket, changes.as_fd()));
    match started {
        Ok(socket) => carry(socket, reader, writer, SMALL_LEN, FRAME_LEN_MAX).await,
        Err(failure) => refuse(failure, &mut writer).await,
    }
}

async fn refuse(failure: Failure, writer: &mut WriteHalf<Stream>) -> Result<(), StreamError> {
    write_header::<AgentFrame>(writer, &Reply::from(failure)).await?;
    Ok(writer.shutdown().await?)
}

/// Passes bytes on between the daemon and a worker, until the worker has said all it had to say or the daemon hangs up.
async fn carry(
    mut socket: UnixStream,
    reader: FrameReader<ReadHalf<Stream>, DaemonFrame>,
    mut writer: WriteHalf<Stream>,
    inward: usize,
    outward: usize,
) -> Result<(), StreamError> {
    let (reader, early) = reader.into_parts();
    let (from_worker, mut to_worker) = socket.split();
    let hearing = async {
        // A worker that has ended takes nothing more; what it said last is still on its way out.
        if to_worker.write_all(&early).await.is_ok() {
            drop(early);
            let _ = copy_buf(&mut BufReader::with_capacity(inward, reader), &mut to_worker).await;
            let _ = to_worker.shutdown().await;
        }
        std::future::pending::<()>().await;
    };
    let telling = async {
        copy_buf(&mut BufReader::with_capacity(outward, from_worker), &mut writer).await?;
        Ok(writer.shutdown().await?)
    };
    tokio::select! {
        result = telling => result,
        () = hearing => Ok(()),
    }
}

fn start(agent: &Agent, user: Option<&str>, task: &Task) -> Result<UnixStream, Failure> {
    if agent.main.is_over() {
        return Err(Failure::new(ErrorKind::Conflict, "the main process has ended, and the sandbox with it"));
    }
    let asked = user.unwrap_or(&agent.config.default_user);
    let user = Database::read(Path::new("/")).find(asked)?;
    spawn(&|| agent.confinement.fork(), |socket| worker::run(socket, &agent.confinement, &user, task))
}

/// Starts a worker; returns the line to it.
fn spawn(fork: &dyn Fn() -> io::Result<Fork>, work: impl FnOnce(StdUnixStream)) -> Result<UnixStream, Failure> {
    let failed = |doing: &'static str| move |e: io::Error| Failure::internal(doing, &e);
    let (ours, theirs) = StdUnixStream::pair().map_err(failed("socketpair"))?;
    match fork().map_err(failed("fork"))? {
        Fork::Child => {
            work(theirs);
            exit_now(i32::from(crate::OURS))
        }
        // Reaped with everything else; it says itself how it fared.
        Fork::Parent(_) => drop(theirs),
    }
    ours.set_nonblocking(true).map_err(failed("socketpair"))?;
    UnixStream::from_std(ours).map_err(failed("socketpair"))
}
