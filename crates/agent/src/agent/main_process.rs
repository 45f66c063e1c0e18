//! The process the sandbox exists for: started once, its output kept, its exit told only when nothing else is left.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use moat_agent::protocol::{MainState, Offsets};
use moat_model::spec::Signal;
use moat_model::{ErrorKind, Exit, ProcessSpec};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;
use tokio::io::Interest;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::Agent;
use super::child::{REPORT_LEN, Stdio, become_program, borrow3, read_report};
use super::failure::Failure;
use super::io::{Port, Read};
use super::output::Window;
use super::program::Program;
use crate::sys::Fork;

/// Everything that could write was killed; what is in the pipes is read at once, unless the window is full.
const DRAIN_DEADLINE: Duration = Duration::from_secs(1);

/// The main process and what is known of it.
#[derive(Debug)]
pub struct Main {
    state: Cell<State>,
    exit: watch::Sender<Option<Exit>>,
    /// Its standard output.
    pub stdout: Rc<Window>,
    /// Its standard error.
    pub stderr: Rc<Window>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Starting,
    Running(Pid),
    /// It ended, and everything else in the sandbox is being ended.
    Ending,
}

impl Main {
    /// None yet; `bound` bytes of each output stream will be kept.
    pub fn new(bound: usize) -> Self {
        Self {
            state: Cell::new(State::Idle),
            exit: watch::Sender::new(None),
            stdout: Rc::new(Window::new(bound)),
            stderr: Rc::new(Window::new(bound)),
        }
    }

    /// What it is doing, as the daemon is told.
    pub fn state(&self) -> MainState {
        match (*self.exit.borrow(), self.state.get()) {
            (Some(exit), _) => MainState::Exited { exit },
            (None, State::Running(pid)) => MainState::Running { pid: pid.as_raw_pid().unsigned_abs() },
            // Its end is told when everything has ended; until then it counts as running, under an id nobody has.
            (None, State::Ending) => MainState::Running { pid: 0 },
            (None, State::Idle | State::Starting) => MainState::Idle,
        }
    }

    /// Whether nothing may be started any more.
    pub fn is_over(&self) -> bool {
        self.state.get() == State::Ending
    }

    /// Its exit, once there is one.
    pub async fn wait(&self) -> Result<Exit, Failure> {
        if self.state.get() == State::Idle {
            return Err(Failure::new(ErrorKind::Conflict, "no main process was started"));
        }
        let mut exit = self.exit.subscribe();
        loop {
            if let Some(exit) = *exit.borrow_and_update() {
                return Ok(exit);
            }
            if exit.changed().await.is_err() {
                return Err(Failure::new(ErrorKind::Internal, "the agent is ending"));
            }
        }
    }

    /// Offsets that can be read from are those within both windows.
    pub fn check(&self, from: Offsets) -> Result<(), Failure> {
        for (name, window, offset) in [("stdout", &self.stdout, from.stdout), ("stderr", &self.stderr, from.stderr)] {
            let kept = window.range();
            if offset < kept.start || offset > kept.end {
                let kept = format!("{name}: offset {offset} is not within the kept {} to {}", kept.start, kept.end);
                return Err(Failure::invalid(kept));
            }
        }
        Ok(())
    }

    /// Its output counts from zero again, and what nobody acknowledged is nobody's.
    pub fn begin_anew(&self) {
        self.stdout.begin_anew();
        self.stderr.begin_anew();
    }

    /// Everything before these offsets is safe.
    pub fn acknowledge(&self, upto: Offsets) {
        self.stdout.acknowledge(upto.stdout);
        self.stderr.acknowledge(upto.stderr);
    }
}

/// Sends a signal to the main process and to nothing else.
pub fn signal(agent: &Agent, signal: Signal) -> Result<(), Failure> {
    let State::Running(pid) = agent.main.state.get() else {
        return Err(Failure::new(ErrorKind::Conflict, "the main process is not running"));
    };
    if agent.children.signal(pid, signal.number()) {
        Ok(())
    } else {
        Err(Failure::new(ErrorKind::Conflict, "the main process has ended"))
    }
}

/// Starts the main process; at most once.
pub async fn start(agent: Rc<Agent>, spec: ProcessSpec) -> Result<u32, Failure> {
    if agent.main.state.get() != State::Idle {
        return Err(Failure::new(ErrorKind::Conflict, "the main process was already started"));
    }
    if let Some(failure) = agent.forwards_failure.borrow().clone() {
        return Err(failure);
    }
    agent.main.state.set(State::Starting);
    let started = spawn(&agent, &spec).await;
    match started {
        Ok(running) => {
            let pid = running.pid;
            agent.main.state.set(State::Running(pid));
            tokio::task::spawn_local(follow(agent, running));
            Ok(pid.as_raw_pid().unsigned_abs())
        }
        Err(failure) => {
            agent.main.state.set(State::Idle);
            Err(failure)
        }
    }
}

struct Running {
    pid: Pid,
    ended: oneshot::Receiver<Exit>,
    stdout: Port,
    stderr: Port,
}

async fn spawn(agent: &Agent, spec: &ProcessSpec) -> Result<Running, Failure> {
    let program = Program::prepare(&agent.config, agent.confinement.clone(), spec)?;
    let (stdout, stdout_child) = pipe()?;
    let (stderr, stderr_child) = pipe()?;
    let (report, report_child) = pipe()?;
    let stdio = [dev_null()?, stdout_child, stderr_child];
    let pid = match agent.confinement.fork().map_err(|e| Failure::internal("fork", &e))? {
        Fork::Child => become_program(&program, Stdio { fds: borrow3(&stdio), terminal: false }, report_child.as_fd()),
        Fork::Parent(pid) => pid,
    };
    let ended = agent.children.register(pid);
    drop((stdio, report_child));
    let report = Port::new(report, Interest::READABLE).map_err(|e| Failure::internal("start", &e))?;
    if let Some((step, errno)) = reported(&report).await {
        return Err(program.failure(step, errno));
    }
    let port = |fd| Port::new(fd, Interest::READABLE).map_err(|e| Failure::internal("output", &e));
    Ok(Running { pid, ended, stdout: port(stdout)?, stderr: port(stderr)? })
}

/// What a child that failed wrote; `None` once exec has closed the pipe.
async fn reported(port: &Port) -> Option<(super::program::Step, i32)> {
    let mut report = [0; REPORT_LEN];
    loop {
        port.readable().await;
        match port.read(&mut report) {
            Read::Bytes(n) => return read_report(report.get(..n)?),
            Read::End => return None,
            Read::Nothing => {}
        }
    }
}

/// From its start to the telling of its end.
async fn follow(agent: Rc<Agent>, running: Running) {
    for (window, port) in [(agent.main.stdout.clone(), running.stdout), (agent.main.stderr.clone(), running.stderr)] {
        let agent = agent.clone();
        tokio::task::spawn_local(async move { window.fill(port, &agent.scratch).await });
    }
    let mut exit = running.ended.await.unwrap_or(Exit::unknown());
    exit.oom_killed = exit.signal == Some(libc::SIGKILL) && agent.confinement.killed_for_memory();
    agent.main.state.set(State::Ending);
    agent.children.kill_all(agent.own_namespace).await;
    let drained = async {
        agent.main.stdout.ended().await;
        agent.main.stderr.ended().await;
    };
    if timeout(DRAIN_DEADLINE, drained).await.is_err() {
        // Either a window is full, and its reader will get the rest, or something the kernel cannot kill holds a pipe.
        agent.main.stdout.finish();
        agent.main.stderr.finish();
    }
    agent.main.exit.send_replace(Some(exit));
}

/// A pipe, reading end first.
pub fn pipe() -> Result<(OwnedFd, OwnedFd), Failure> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|e| Failure::internal("pipe", &e.into()))
}

/// A standard input without anything in it.
pub fn dev_null() -> Result<OwnedFd, Failure> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Failure::internal("open /dev/null", &e.into()))
}

/// Scratch space shared by everything that reads from a pipe; nothing is kept in it over an await.
pub type Scratch = RefCell<Vec<u8>>;
