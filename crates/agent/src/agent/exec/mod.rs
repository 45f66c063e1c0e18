//! Another process in the sandbox, with frames both ways.

mod input;
mod spawn;

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use moat_agent::protocol::frame::{AgentFrame, DaemonFrame};
use moat_agent::protocol::mux::Stream;
use moat_agent::protocol::stream::{FrameReader, StreamError, write_frame, write_header};
use moat_agent::protocol::{Reply, StreamName};
use moat_model::spec::ExecSpec;
use moat_model::{ErrorKind, Exit};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

pub use self::input::{Input, Sink};
pub use self::spawn::{Process, Supervision};
use super::Agent;
use super::failure::Failure;
use super::io::{Port, Read};
use super::supervisor::{KILL, RELEASE, Record};

/// Frames waiting for the stream to take them: two outputs and an acknowledgement, and the next.
const FRAMES_MAX: usize = 4;
/// Largest piece of output read at once.
const PIECE_LEN_MAX: usize = 32 << 10;
/// What a terminal may still hold when the process at it has ended; the kernel holds less.
const DRAIN_LEN_MAX: usize = 256 << 10;
/// After its tree was killed, for its end to be seen; longer only if the kernel cannot kill something.
const KILL_GRACE: Duration = Duration::from_secs(5);
/// Longest time limit there is: ten years.
const TIMEOUT_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Serves one exec from its request to its last frame. Returning, or being dropped, hangs up on what still runs.
pub async fn serve(
    agent: &Rc<Agent>,
    spec: &ExecSpec,
    reader: FrameReader<ReadHalf<Stream>, DaemonFrame>,
    mut writer: WriteHalf<Stream>,
) -> Result<(), StreamError> {
    let process = match start(agent, spec).await {
        Ok(process) => process,
        Err(failure) => {
            write_header::<AgentFrame>(&mut writer, &Reply::from(failure)).await?;
            return Ok(writer.shutdown().await?);
        }
    };
    let deadline = deadline(spec);
    write_header::<AgentFrame>(&mut writer, &Reply::Started { pid: process.pid.unsigned_abs() }).await?;
    carry(agent, process, deadline, reader, writer).await
}

/// When its time is up, if it starts now.
pub fn deadline(spec: &ExecSpec) -> Instant {
    Instant::now() + spec.timeout.unwrap_or(TIMEOUT_MAX).min(TIMEOUT_MAX)
}

/// Starts a process, unless everything is being ended.
pub async fn start(agent: &Agent, spec: &ExecSpec) -> Result<Process, Failure> {
    if agent.main.is_over() {
        return Err(Failure::new(ErrorKind::Conflict, "the main process has ended, and the sandbox with it"));
    }
    spawn::spawn(agent, spec).await
}

async fn carry(
    agent: &Rc<Agent>,
    process: Process,
    deadline: Instant,
    reader: FrameReader<ReadHalf<Stream>, DaemonFrame>,
    writer: WriteHalf<Stream>,
) -> Result<(), StreamError> {
    let Process { supervision, sink, outputs, terminal, .. } = process;
    let supervision = Rc::new(supervision);
    let input = Input::default();
    let (frames, frames_rx) = mpsc::channel(FRAMES_MAX);
    let mut life = Life::begin(agent, outputs, supervision.clone(), terminal.is_some(), deadline, &frames);
    let living = async {
        // The channel is open as long as the writing below goes on.
        let _ = frames.send(life.live().await).await;
        std::future::pending::<()>().await;
    };
    let feeding = async {
        input.feed(sink, &frames).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = obey(reader, &input, terminal.as_deref(), &supervision) => result,
        result = write(frames_rx, writer) => result,
        () = living => Ok(()),
        () = feeding => Ok(()),
    }
}

/// Hands everything a process says to `hear`, which cannot hold it up, until its exit. It depends on nobody.
pub async fn carry_alone(
    agent: &Rc<Agent>,
    (outputs, sink): (Vec<(StreamName, Rc<Port>)>, Sink),
    (supervision, terminal): (Rc<Supervision>, bool),
    deadline: Instant,
    input: &Input,
    mut hear: impl FnMut(AgentFrame),
) {
    let (frames, mut frames_rx) = mpsc::channel(FRAMES_MAX);
    let mut life = Life::begin(agent, outputs, supervision, terminal, deadline, &frames);
    let living = async {
        let _ = frames.send(life.live().await).await;
        std::future::pending::<()>().await;
    };
    let feeding = async {
        input.feed(sink, &frames).await;
        std::future::pending::<()>().await;
    };
    let hearing = async {
        while let Some(frame) = frames_rx.recv().await {
            let last = matches!(frame, AgentFrame::Exit { .. });
            hear(frame);
            if last {
                return;
            }
        }
    };
    tokio::select! {
        () = hearing => {}
        () = living => {}
        () = feeding => {}
    }
}

/// Gives a terminal another size; one that hung up has none.
pub fn resize(terminal: &Port, size: moat_model::spec::PtySize) {
    let _ = tcsetwinsize(terminal, winsize(size));
}

/// Does what the daemon says, until it hangs up.
async fn obey(
    mut reader: FrameReader<ReadHalf<Stream>, DaemonFrame>,
    input: &Input,
    terminal: Option<&Port>,
    supervision: &Supervision,
) -> Result<(), StreamError> {
    while let Some(frame) = reader.next().await? {
        match frame {
            DaemonFrame::Stdin(bytes) => input.push(&bytes)?,
            DaemonFrame::StdinEnd => input.close(),
            DaemonFrame::Resize(size) => {
                if let Some(terminal) = terminal {
                    resize(terminal, size);
                }
            }
            DaemonFrame::Signal(signal) => supervision.order(u8::from(signal)),
            DaemonFrame::Header(_) | DaemonFrame::Acknowledge(_) | DaemonFrame::Content(_) | DaemonFrame::Finish => {
                return Err(StreamError::Unexpected);
            }
        }
    }
    Ok(())
}

fn winsize(size: moat_model::spec::PtySize) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Writes frames up to the exit, which is the last.
async fn write(mut frames: mpsc::Receiver<AgentFrame>, mut writer: WriteHalf<Stream>) -> Result<(), StreamError> {
    while let Some(frame) = frames.recv().await {
        write_frame(&mut writer, &frame).await?;
        if matches!(frame, AgentFrame::Exit { .. }) {
            break;
        }
    }
    Ok(writer.shutdown().await?)
}

/// Carries one output stream to its end.
async fn pump(
    agent: Rc<Agent>,
    port: Rc<Port>,
    stream: StreamName,
    frames: mpsc::Sender<AgentFrame>,
    mut finishing: watch::Receiver<bool>,
) {
    let mut offset = 0;
    let mut drained = 0;
    while drained < DRAIN_LEN_MAX {
        let finish = *finishing.borrow_and_update();
        if !finish {
            tokio::select! {
                () = port.readable() => {}
                changed = finishing.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            }
        }
        let bytes = match read(&agent, &port, finish) {
            Ok(bytes) => bytes,
            Err(Read::Nothing) if !finish => continue,
            Err(_) => return,
        };
        drained += if finish { bytes.len() } else { 0 };
        let next = offset + bytes.len() as u64;
        if frames.send(AgentFrame::Data { stream, offset, bytes }).await.is_err() {
            return;
        }
        offset = next;
    }
}

fn read(agent: &Agent, port: &Port, finish: bool) -> Result<Bytes, Read> {
    let mut scratch = agent.scratch.borrow_mut();
    let len = scratch.len().min(PIECE_LEN_MAX);
    let buffer = scratch.get_mut(..len).unwrap_or_default();
    match if finish { port.read_now(buffer) } else { port.read(buffer) } {
        Read::Bytes(n) => Ok(Bytes::copy_from_slice(buffer.get(..n).unwrap_or_default())),
        other => Err(other),
    }
}

/// From the start of the process to its last frame.
struct Life {
    supervision: Rc<Supervision>,
    pumps: JoinSet<()>,
    /// Tells the pumps to take what is there and end.
    finish: watch::Sender<bool>,
    terminal: bool,
    deadline: Instant,
}

impl Life {
    /// Begins to carry its outputs.
    fn begin(
        agent: &Rc<Agent>,
        outputs: Vec<(StreamName, Rc<Port>)>,
        supervision: Rc<Supervision>,
        terminal: bool,
        deadline: Instant,
        frames: &mpsc::Sender<AgentFrame>,
    ) -> Self {
        let (finish, finishing) = watch::channel(false);
        let mut pumps = JoinSet::new();
        for (stream, port) in outputs {
            pumps.spawn_local(pump(agent.clone(), port, stream, frames.clone(), finishing.clone()));
        }
        Self { supervision, pumps, finish, terminal, deadline }
    }

    /// Without a terminal it lasts until nobody holds the output any more; with one, until the process has ended. If
    /// its time runs out, until nothing it started is left.
    async fn live(&mut self) -> AgentFrame {
        let mut exit = None;
        let mut limit = Limit::Running;
        let mut until = self.deadline;
        while exit.is_none() || limit == Limit::Killing || !self.pumps.is_empty() {
            tokio::select! {
                record = self.supervision.next(), if exit.is_none() || limit == Limit::Killing => match record {
                    Some(Record::Ended(status)) => {
                        exit = Some(exit_of(status));
                        if self.terminal {
                            self.finish.send_replace(true);
                        }
                    }
                    Some(Record::Killed) => limit = Limit::Killed,
                    // The supervisor itself was killed, which happens when everything is.
                    Some(Record::Started(_) | Record::Failed(..)) | None => {
                        exit.get_or_insert(Exit::signal(libc::SIGKILL));
                        limit = limit.over();
                        self.finish.send_replace(self.terminal);
                    }
                },
                Some(_) = self.pumps.join_next(), if !self.pumps.is_empty() => {}
                () = sleep_until(until) => if limit == Limit::Running {
                    limit = Limit::Killing;
                    self.supervision.order(KILL);
                    until = Instant::now() + KILL_GRACE;
                } else {
                    // Something the kernel cannot kill; the rest is over.
                    exit.get_or_insert(Exit::signal(libc::SIGKILL));
                    limit = limit.over();
                    self.finish.send_replace(true);
                    until = Instant::now() + TIMEOUT_MAX;
                },
            }
        }
        // What it left in the background goes on, as after any shell.
        self.supervision.order(RELEASE);
        AgentFrame::Exit { exit: exit.unwrap_or(Exit::unknown()), timed_out: limit != Limit::Running }
    }
}

/// What became of the time limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    /// There is time left.
    Running,
    /// It ran out, and everything is being killed.
    Killing,
    /// It ran out, and everything was killed.
    Killed,
}

impl Limit {
    /// Nothing more will be learnt of the killing.
    fn over(self) -> Self {
        if self == Self::Running { Self::Running } else { Self::Killed }
    }
}

fn exit_of(status: i32) -> Exit {
    if status < 0 { Exit::signal(-status) } else { Exit::code(status) }
}
