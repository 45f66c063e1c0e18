//! A process under way, just started or followed: one shape for buffered answers, lines and WebSockets.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use moat_agent::protocol::{Offsets, StreamName};
use moat_api::rest::exec::Exec;
use moat_engine::guest::{AttachOutput, Attachment, Chunk, ExecInput, ExecOutput, ExecSession};
use moat_model::spec::{ExecSpec, PtySize};
use moat_model::{Exit, ProcessSpec};
use tokio::sync::mpsc;

use super::answer::{Answer, Failure};

/// Input is given to a process in pieces of this size.
const PIECE: usize = 64 << 10;
/// Inputs waiting for the process; then nothing more is taken from the client.
pub(super) const INPUTS_MAX: usize = 64;

/// Something a process says.
#[derive(Debug)]
pub(super) enum Heard {
    Data { stream: StreamName, offset: u64, bytes: Bytes },
    Skipped { stream: StreamName, to: u64 },
    Exited { exit: Exit, timed_out: bool },
}

/// A process and what waits to be sent to it. Dropping it hangs up on one that was started here, and changes nothing
/// for one that is only followed.
#[derive(Debug)]
pub(super) struct Running {
    input: mpsc::Sender<ExecInput>,
    output: Output,
    /// Bytes taken from the process so far.
    taken: Offsets,
    waiting: VecDeque<ExecInput>,
    /// Counts the end of one that was started here.
    tally: Option<Tally>,
}

/// Counts one process when it is let go of.
#[derive(Debug)]
struct Tally {
    outcome: &'static str,
}

impl Drop for Tally {
    fn drop(&mut self) {
        metrics::counter!("moat_exec_sessions_total", "outcome" => self.outcome).increment(1);
    }
}

#[derive(Debug)]
enum Output {
    Started(mpsc::Receiver<ExecOutput>),
    Followed(mpsc::Receiver<AttachOutput>),
}

impl Running {
    pub fn started(session: ExecSession, stdin: Option<&Bytes>) -> Self {
        let output = Output::Started(session.output);
        let tally = Some(Tally { outcome: "hung_up" });
        let taken = Offsets::default();
        let mut running = Self { input: session.input, output, taken, waiting: VecDeque::new(), tally };
        running.feed_all(stdin);
        running
    }

    pub fn followed(attachment: Attachment) -> Self {
        let output = Output::Followed(attachment.output);
        Self { input: attachment.input, output, taken: Offsets::default(), waiting: VecDeque::new(), tally: None }
    }

    /// The whole standard input, and its end.
    pub fn feed_all(&mut self, stdin: Option<&Bytes>) {
        if let Some(bytes) = stdin {
            self.feed(bytes);
            self.waiting.push_back(ExecInput::CloseStdin);
        }
    }

    /// More standard input.
    pub fn feed(&mut self, bytes: &Bytes) {
        let mut rest = bytes.clone();
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(PIECE));
            self.waiting.push_back(ExecInput::Stdin(piece));
        }
    }

    pub fn send(&mut self, input: ExecInput) {
        self.waiting.push_back(input);
    }

    /// Whether there is room for more input.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < INPUTS_MAX
    }

    /// Nothing waits to be sent.
    pub fn fed(&self) -> bool {
        self.waiting.is_empty()
    }

    fn count(&mut self, heard: Option<&Heard>) {
        let outcome = match heard {
            None => "failed",
            Some(Heard::Exited { .. }) => "exited",
            Some(_) => return,
        };
        if let Some(tally) = &mut self.tally {
            tally.outcome = outcome;
        }
    }

    /// The next thing it says, feeding it meanwhile. `None`: it is lost. May be dropped and called again.
    pub async fn next(&mut self) -> Option<Heard> {
        let heard = loop {
            tokio::select! {
                heard = self.output.next(&mut self.taken) => break heard,
                // One that has ended takes no more; its exit comes.
                room = self.input.reserve(), if !self.waiting.is_empty() => match room {
                    Ok(room) => {
                        if let Some(input) = self.waiting.pop_front() {
                            room.send(input);
                        }
                    }
                    Err(_) => self.waiting.clear(),
                },
            }
        };
        self.count(heard.as_ref());
        heard
    }
}

impl Output {
    async fn next(&mut self, taken: &mut Offsets) -> Option<Heard> {
        Some(match self {
            Self::Started(output) => match output.recv().await? {
                ExecOutput::Data(stream, bytes) => {
                    let at = match stream {
                        StreamName::Stdout => &mut taken.stdout,
                        StreamName::Stderr => &mut taken.stderr,
                    };
                    let offset = *at;
                    *at += bytes.len() as u64;
                    Heard::Data { stream, offset, bytes }
                }
                ExecOutput::Exited { exit, timed_out } => Heard::Exited { exit, timed_out },
            },
            Self::Followed(output) => match output.recv().await? {
                AttachOutput::Data(Chunk { stream, offset, bytes }) => Heard::Data { stream, offset, bytes },
                AttachOutput::Skipped { stream, to } => Heard::Skipped { stream, to },
                AttachOutput::Exited { exit, timed_out } => Heard::Exited { exit, timed_out },
            },
        })
    }
}

/// How the process is going to be used; not every wish fits every way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Buffered,
    Lines,
    Socket,
    Detached,
}

/// The process asked for, and what is sent to its standard input at once.
pub(super) fn asked(exec: Exec, way: Way) -> Answer<(ExecSpec, Option<Bytes>)> {
    check(&exec, way)?;
    let stdin = match (exec.stdin, exec.stdin_base64) {
        (Some(_), Some(_)) => return Err(Failure::invalid("stdin_base64", "give it or `stdin`, not both")),
        (Some(text), None) => Some(Bytes::from(text)),
        (None, Some(text)) => {
            let bytes = BASE64.decode(text.as_bytes());
            Some(Bytes::from(bytes.map_err(|error| Failure::invalid("stdin_base64", error))?))
        }
        (None, None) => None,
    };
    if exec.keep_stdin && (way != Way::Detached || stdin.is_some()) {
        return Err(Failure::invalid("keep_stdin", "only for a detached process without `stdin`"));
    }
    let interactive = way == Way::Socket || exec.keep_stdin || exec.pty.is_some();
    let spec = ExecSpec {
        process: ProcessSpec { command: exec.command, args: exec.args, env: exec.env, cwd: exec.cwd, user: exec.user },
        pty: exec.pty.map(|size| PtySize { rows: size.rows, cols: size.cols }),
        stdin: stdin.is_some() || interactive,
        timeout: exec.timeout_ms.map(Duration::from_millis),
    };
    Ok((spec, stdin))
}

fn check(exec: &Exec, way: Way) -> Answer<()> {
    if exec.command.is_empty() {
        return Err(Failure::invalid("command", "empty"));
    }
    let texts = [("command", &exec.command)].into_iter();
    let texts = texts.chain(exec.args.iter().map(|arg| ("args", arg)));
    let texts = texts.chain(exec.env.values().map(|value| ("env", value)));
    let texts = texts.chain(exec.cwd.iter().map(|cwd| ("cwd", cwd)));
    let mut texts = texts.chain(exec.user.iter().map(|user| ("user", user)));
    if let Some((field, _)) = texts.find(|(_, text)| text.contains('\0')) {
        return Err(Failure::invalid(field, "a NUL byte cannot be passed to a program"));
    }
    if exec.env.keys().any(|name| name.is_empty() || name.contains(['=', '\0'])) {
        return Err(Failure::invalid("env", "a name is not empty and has no `=`"));
    }
    if exec.cwd.as_ref().is_some_and(|cwd| !cwd.starts_with('/')) {
        return Err(Failure::invalid("cwd", "an absolute path is needed"));
    }
    if exec.timeout_ms == Some(0) {
        return Err(Failure::invalid("timeout_ms", "at least 1; leave it out for none"));
    }
    if exec.pty.is_some_and(|size| size.rows == 0 || size.cols == 0) {
        return Err(Failure::invalid("pty", "rows and cols are at least 1"));
    }
    match way {
        Way::Buffered if exec.pty.is_some() => Err(Failure::invalid("pty", "streaming and detached only")),
        Way::Lines | Way::Socket | Way::Detached if exec.max_output.is_some() => {
            Err(Failure::invalid("max_output", "buffered exec only"))
        }
        _ => Ok(()),
    }
}
