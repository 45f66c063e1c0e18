//! Processes that belong to no connection, and what they said last.

mod follow;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::SystemTime;

use moat_agent::protocol::frame::AgentFrame;
use moat_agent::protocol::{Offsets, Spawned, StreamName};
use moat_model::spec::ExecSpec;
use moat_model::{ErrorKind, Exit};
use tokio::sync::watch;

pub use self::follow::serve;
use super::Agent;
use super::exec::{self, Input, Supervision};
use super::failure::Failure;
use super::io::Port;
use super::output::Kept;

/// Kept of each output stream: some thousand lines.
const KEPT_LEN: u64 = 256 << 10;
/// Running at once.
const RUNNING_MAX: usize = 64;
/// Remembered of those that ended.
const ENDED_MAX: usize = 64;
/// Bytes of a command told; all of them together must fit into a header.
const COMMAND_LEN_MAX: usize = 1 << 10;

/// One of them.
#[derive(Debug)]
struct Detached {
    pid: u32,
    command: Vec<String>,
    started_ms: i64,
    pty: bool,
    stdout: RefCell<Kept>,
    stderr: RefCell<Kept>,
    /// How it ended, and whether its time was up.
    exit: Cell<Option<(Exit, bool)>>,
    /// What there is to do with it while it runs.
    live: RefCell<Option<Live>>,
    /// Marked when anything about it changes.
    changed: watch::Sender<()>,
}

#[derive(Debug, Clone)]
struct Live {
    supervision: Rc<Supervision>,
    terminal: Option<Rc<Port>>,
    input: Rc<Input>,
}

impl Detached {
    fn kept(&self, stream: StreamName) -> &RefCell<Kept> {
        if stream == StreamName::Stdout { &self.stdout } else { &self.stderr }
    }

    /// Takes in what it said. Nothing here waits, so it is never held up.
    fn hear(&self, frame: AgentFrame) {
        match frame {
            AgentFrame::Data { stream, bytes, .. } => {
                let mut kept = self.kept(stream).borrow_mut();
                kept.push(&bytes);
                let end = kept.range().end;
                kept.forget(end.saturating_sub(KEPT_LEN));
            }
            AgentFrame::Exit { exit, timed_out } => self.exit.set(Some((exit, timed_out))),
            // Followers look for themselves how far their input came.
            _ => {}
        }
        self.changed.send_replace(());
    }

    fn describe(&self) -> Spawned {
        let exit = self.exit.get();
        let written = Offsets { stdout: self.stdout.borrow().range().end, stderr: self.stderr.borrow().range().end };
        Spawned {
            pid: self.pid,
            command: self.command.clone(),
            started_ms: self.started_ms,
            written,
            pty: self.pty,
            exit: exit.map(|(exit, _)| exit),
            timed_out: exit.is_some_and(|(_, timed_out)| timed_out),
        }
    }
}

/// All of them: those that run by the time of their start, those that ended by the time of their end.
#[derive(Debug, Default)]
pub struct Registry {
    starting: Cell<usize>,
    running: RefCell<Vec<Rc<Detached>>>,
    ended: RefCell<Vec<Rc<Detached>>>,
}

impl Registry {
    /// Oldest first.
    pub fn list(&self) -> Vec<Spawned> {
        let (running, ended) = (self.running.borrow(), self.ended.borrow());
        let mut all: Vec<Spawned> = ended.iter().chain(running.iter()).map(|one| one.describe()).collect();
        all.sort_by_key(|one| one.started_ms);
        all
    }

    fn find(&self, pid: u32) -> Option<Rc<Detached>> {
        let (running, ended) = (self.running.borrow(), self.ended.borrow());
        running.iter().chain(ended.iter().rev()).find(|one| one.pid == pid).cloned()
    }

    fn end(&self, one: &Rc<Detached>) {
        one.live.take();
        self.running.borrow_mut().retain(|other| !Rc::ptr_eq(one, other));
        let mut ended = self.ended.borrow_mut();
        ended.push(one.clone());
        if ended.len() > ENDED_MAX {
            ended.remove(0);
        }
    }
}

/// A place among those that run, while the process is not there yet.
struct Starting<'a>(&'a Registry);

impl<'a> Starting<'a> {
    fn take(registry: &'a Registry) -> Result<Self, Failure> {
        if registry.running.borrow().len() + registry.starting.get() >= RUNNING_MAX {
            let limit = format!("{RUNNING_MAX} spawned processes already run in this sandbox");
            return Err(Failure::new(ErrorKind::Exhausted, limit));
        }
        registry.starting.set(registry.starting.get() + 1);
        Ok(Self(registry))
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.starting.set(self.0.starting.get() - 1);
    }
}

/// Starts one; returns its process id.
pub async fn spawn(agent: Rc<Agent>, spec: ExecSpec) -> Result<u32, Failure> {
    let registry = &agent.spawned;
    let starting = Starting::take(registry)?;
    let process = exec::start(&agent, &spec).await?;
    drop(starting);
    let deadline = exec::deadline(&spec);
    let (supervision, input) = (Rc::new(process.supervision), Rc::new(Input::default()));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let pid = process.pid.unsigned_abs();
    let live = Live { supervision: supervision.clone(), terminal: process.terminal, input: input.clone() };
    let one = Rc::new(Detached {
        pid,
        command: shorten(&spec),
        started_ms: i64::try_from(now.as_millis()).unwrap_or(i64::MAX),
        pty: spec.pty.is_some(),
        stdout: RefCell::default(),
        stderr: RefCell::default(),
        exit: Cell::new(None),
        live: RefCell::new(Some(live)),
        changed: watch::Sender::new(()),
    });
    // The kernel gave the id out again, so what had it is known by it no more.
    registry.ended.borrow_mut().retain(|old| old.pid != pid);
    registry.running.borrow_mut().push(one.clone());
    let (outputs, sink) = (process.outputs, process.sink);
    let agent = agent.clone();
    tokio::task::spawn_local(async move {
        let pty = one.pty;
        exec::carry_alone(&agent, (outputs, sink), (supervision, pty), deadline, &input, |f| one.hear(f)).await;
        agent.spawned.end(&one);
    });
    Ok(pid)
}

/// The command as it is told.
fn shorten(spec: &ExecSpec) -> Vec<String> {
    let mut room = COMMAND_LEN_MAX;
    let mut told = Vec::new();
    for word in std::iter::once(&spec.process.command).chain(&spec.process.args) {
        let end = word.floor_char_boundary(room);
        told.extend(word.get(..end).map(str::to_owned));
        room -= end;
        // An empty word costs something too.
        if end < word.len() || room == 0 {
            break;
        }
        room -= 1;
    }
    told
}
