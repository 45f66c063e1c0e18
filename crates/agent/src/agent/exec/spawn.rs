//! Starting an exec: its pipes or its terminal, its supervisor, and the line to that.

use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::rc::Rc;

use moat_agent::protocol::StreamName;
use moat_model::spec::{ExecSpec, PtySize};
use rustix::fs::{Gid, Uid, fchown};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::tcsetwinsize;
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::super::Agent;
use super::super::child::{Stdio, borrow3};
use super::super::failure::Failure;
use super::super::io::Port;
use super::super::main_process::{dev_null, pipe};
use super::super::program::Program;
use super::super::supervisor::{RECORD_LEN, Record, supervise};
use super::input::Sink;
use super::winsize;
use crate::sys::{Fork, fork};

/// A running exec.
#[derive(Debug)]
pub struct Process {
    /// Of the program itself.
    pub pid: i32,
    /// The line to its supervisor.
    pub supervision: Supervision,
    /// Where its input goes.
    pub sink: Sink,
    /// Where its output comes from.
    pub outputs: Vec<(StreamName, Rc<Port>)>,
    /// Its terminal, if it has one.
    pub terminal: Option<Rc<Port>>,
}

/// The line to a supervisor. Dropping it has everything the exec started killed.
#[derive(Debug)]
pub struct Supervision {
    socket: UnixStream,
    partial: Cell<([u8; RECORD_LEN], usize)>,
}

impl Supervision {
    /// One byte, as the supervisor understands it. It may have ended; then there is nothing to order.
    pub fn order(&self, order: u8) {
        let _ = self.socket.try_write(&[order]);
    }

    /// The next record; `None` if the supervisor is gone. May be dropped and called again.
    pub async fn next(&self) -> Option<Record> {
        loop {
            let (mut bytes, filled) = self.partial.get();
            if filled == RECORD_LEN {
                self.partial.set(([0; RECORD_LEN], 0));
                return Record::decode(bytes);
            }
            self.socket.readable().await.ok()?;
            match self.socket.try_read(bytes.get_mut(filled..)?) {
                Ok(0) => return None,
                Ok(n) => self.partial.set((bytes, filled + n)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
    }
}

/// The process's ends and ours.
struct Wiring {
    stdio: [OwnedFd; 3],
    sink: Sink,
    outputs: Vec<(StreamName, Rc<Port>)>,
    terminal: Option<Rc<Port>>,
}

/// Starts it; returns once the program runs.
pub async fn spawn(agent: &Agent, spec: &ExecSpec) -> Result<Process, Failure> {
    let program = Program::prepare(&agent.config, agent.confinement.clone(), &spec.process)?;
    let Wiring { stdio, sink, outputs, terminal } = match spec.pty {
        Some(size) => open_terminal(size, program.user.uid)?,
        None => open_pipes(spec.stdin)?,
    };
    let (ours, theirs) = StdUnixStream::pair().map_err(|e| Failure::internal("socketpair", &e))?;
    match fork().map_err(|e| Failure::internal("fork", &e))? {
        Fork::Child => {
            supervise(theirs.as_fd(), &program, Stdio { fds: borrow3(&stdio), terminal: terminal.is_some() })
        }
        // Reaped with everything else; how it ends is told on the socket.
        Fork::Parent(_) => drop((theirs, stdio)),
    }
    let failed = |e: std::io::Error| Failure::internal("start", &e);
    ours.set_nonblocking(true).map_err(failed)?;
    let socket = UnixStream::from_std(ours).map_err(failed)?;
    let supervision = Supervision { socket, partial: Cell::new(([0; RECORD_LEN], 0)) };
    match supervision.next().await {
        Some(Record::Started(pid)) => Ok(Process { pid, supervision, sink, outputs, terminal }),
        Some(Record::Failed(step, errno)) => Err(program.failure(step, errno)),
        Some(Record::Ended(_) | Record::Killed) | None => {
            Err(failed(std::io::Error::other("the process was killed before it ran")))
        }
    }
}

fn open_pipes(stdin: bool) -> Result<Wiring, Failure> {
    let port = |fd, interest| Port::new(fd, interest).map_err(|e| Failure::internal("pipe", &e));
    let (stdout, stdout_child) = pipe()?;
    let (stderr, stderr_child) = pipe()?;
    let (stdin_child, sink) = if stdin {
        let (child, ours) = pipe()?;
        (child, Sink::Pipe(port(ours, Interest::WRITABLE)?))
    } else {
        (dev_null()?, Sink::Nowhere)
    };
    let outputs = vec![
        (StreamName::Stdout, Rc::new(port(stdout, Interest::READABLE)?)),
        (StreamName::Stderr, Rc::new(port(stderr, Interest::READABLE)?)),
    ];
    Ok(Wiring { stdio: [stdin_child, stdout_child, stderr_child], sink, outputs, terminal: None })
}

fn open_terminal(size: PtySize, owner: u32) -> Result<Wiring, Failure> {
    let failed = |e: std::io::Error| Failure::internal("open a terminal", &e);
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).map_err(|e| failed(e.into()))?;
    unlockpt(&master).map_err(|e| failed(e.into()))?;
    let slave = ioctl_tiocgptpeer(&master, flags).map_err(|e| failed(e.into()))?;
    tcsetwinsize(&master, winsize(size)).map_err(|e| failed(e.into()))?;
    // Programs that open their terminal by name need to own it. Without privileges it is ours already.
    let _ = fchown(&slave, Some(Uid::from_raw(owner)), None::<Gid>);
    let copy = |fd: &OwnedFd| fd.try_clone().map_err(failed);
    let stdio = [copy(&slave)?, copy(&slave)?, slave];
    let master = Rc::new(Port::new(master, Interest::READABLE | Interest::WRITABLE).map_err(failed)?);
    Ok(Wiring {
        stdio,
        sink: Sink::Terminal(master.clone()),
        outputs: vec![(StreamName::Stdout, master.clone())],
        terminal: Some(master),
    })
}
