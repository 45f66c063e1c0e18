//! `moat exec`.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use moat_api::client::{Exec, ExecControl, ExecOutput, ExecSession};
use moat_model::spec::{ExecSpec, Signal};
use moat_model::{ErrorKind, ProcessSpec};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::args::Global;
use crate::escape::Escape;
use crate::failure::{Failure, program_code};
use crate::output::Output;
use crate::terminal::RawMode;
use crate::{keys, parse, session, terminal};

/// Pieces read from the terminal ahead of what is sent.
const READ_AHEAD: usize = 4;

/// What to run, and where.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal; ~. at the beginning of a line leaves
    #[arg(short, long)]
    tty: bool,
    /// User inside: a name, uid or uid:gid [default: the workload's]
    #[arg(long = "as", value_name = "USER")]
    run_as: Option<String>,
    /// Working directory inside
    #[arg(short = 'w', long, value_name = "DIR")]
    workdir: Option<String>,
    /// Its environment; may be given several times
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// Kill it after this long
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    time_limit: Option<Duration>,
    /// Key that signed the start of the workload [default: the one in ~/.config/moat]
    #[arg(long, value_name = "FILE")]
    issuer: Option<PathBuf>,
    /// Workload id, the beginning of one, or a name
    workload: String,
    /// Command and arguments; no shell
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl ExecArgs {
    fn spec(&self) -> Result<ExecSpec, Failure> {
        let (command, args) = self.command.split_first().ok_or_else(|| Failure::invalid("no command"))?;
        let mut env = parse::environment(&self.env)?;
        if self.tty
            && let Ok(term) = std::env::var("TERM")
        {
            env.entry("TERM".to_owned()).or_insert(term);
        }
        Ok(ExecSpec {
            process: ProcessSpec {
                command: command.clone(),
                args: args.to_vec(),
                env,
                cwd: self.workdir.clone(),
                user: self.run_as.clone(),
            },
            pty: self.tty.then(terminal::size),
            stdin: self.interactive,
            timeout: self.time_limit,
        })
    }
}

/// Runs it, and ends with its exit code.
pub async fn run(global: &Global, output: &Output, args: ExecArgs) -> Result<ExitCode, Failure> {
    output.no_json("exec")?;
    if args.tty && args.interactive && !std::io::stdin().is_terminal() {
        return Err(Failure::invalid("-it needs a terminal on standard input: leave -t out to pass a file or pipe on"));
    }
    let spec = args.spec()?;
    let issuer = keys::issuer(args.issuer.as_deref())?;
    let client = session::client(global).await?;
    let found = client.find(&args.workload).await?;
    let Some(view) = &found.view else {
        let why = format!("node {} is not a moat node: it has no exec", found.node_name);
        return Err(Failure::new(ErrorKind::Unsupported, why));
    };
    let exec = Exec { node: &found.node, workload: &view.id, name: &view.name, issuer: &issuer, spec };
    let session = client.exec(exec).await?;
    // Only now: until here everything that fails is told on a terminal that behaves.
    let raw = if args.tty && args.interactive { Some(RawMode::enter()?) } else { None };
    let code = attend(output, session, args.interactive, raw.is_some().then(Escape::default)).await;
    drop(raw);
    code
}

/// Passes everything both ways until the process has ended.
pub async fn attend(
    output: &Output,
    mut session: ExecSession,
    interactive: bool,
    mut escape: Option<Escape>,
) -> Result<ExitCode, Failure> {
    let failed = |e: std::io::Error| Failure::internal("listen to signals", e);
    let mut resized = signal(SignalKind::window_change()).map_err(failed)?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut ended = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hung_up = signal(SignalKind::hangup()).map_err(failed)?;
    let raw = escape.is_some();
    let mut input = interactive.then(read_input);
    let mut stdin = interactive.then(|| session.stdin.clone());
    // Ours would keep the other side's input open.
    let (closed, _) = mpsc::channel(1);
    session.stdin = closed;
    let mut interrupts = 0_u32;

    loop {
        tokio::select! {
            piece = session.output.recv() => match piece {
                Some(Ok(ExecOutput::Stdout(bytes))) => output.bytes(&bytes)?,
                Some(Ok(ExecOutput::Stderr(bytes))) => output.error_bytes(&bytes)?,
                Some(Ok(ExecOutput::Exited(end))) => {
                    if end.timed_out {
                        output.note("killed: time limit reached");
                    } else if end.exit.oom_killed {
                        output.note("killed: out of memory");
                    }
                    return Ok(program_code(end.exit));
                }
                Some(Err(error)) => return Err(error.into()),
                None => return Err(Failure::new(ErrorKind::Unavailable, "the session ended without an exit status")),
            },
            typed = read_next(&mut input), if stdin.is_some() => match typed {
                Some(bytes) => {
                    let (bytes, leave) = watch(escape.as_mut(), bytes);
                    if let Some(to) = &stdin && !bytes.is_empty() && to.send(bytes).await.is_err() {
                        stdin = None;
                    }
                    if leave {
                        return Err(Failure::new(ErrorKind::Guest, "left with ~. : the process was hung up\r"));
                    }
                }
                None => stdin = None,
            },
            _ = resized.recv(), if raw => send(&session, ExecControl::Resize(terminal::size())).await,
            _ = interrupted.recv() => {
                interrupts += 1;
                if interrupts > 1 {
                    return Err(Failure::new(ErrorKind::Guest, "interrupted twice: the process was hung up"));
                }
                send(&session, ExecControl::Signal(Signal::INT)).await;
            }
            _ = ended.recv() => return Err(Failure::new(ErrorKind::Guest, "terminated: the process was hung up")),
            _ = hung_up.recv() => return Err(Failure::new(ErrorKind::Guest, "hung up: so was the process")),
        }
    }
}

/// The process may have ended meanwhile; its exit comes next.
async fn send(session: &ExecSession, control: ExecControl) {
    let _ = session.control.send(control).await;
}

fn watch(escape: Option<&mut Escape>, bytes: Bytes) -> (Bytes, bool) {
    match escape {
        Some(escape) => {
            let typed = escape.typed(&bytes);
            (typed.bytes.into(), typed.leave)
        }
        None => (bytes, false),
    }
}

async fn read_next(input: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

/// Reads standard input in a thread of its own: a read of a terminal cannot be given up, and nothing may wait for it.
fn read_input() -> mpsc::Receiver<Bytes> {
    let (to, from) = mpsc::channel(READ_AHEAD);
    std::thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        loop {
            let read = match std::io::stdin().lock().read(&mut buffer) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                // An input that cannot be read has ended.
                Ok(0) | Err(_) => return,
                Ok(read) => read,
            };
            let piece = buffer.get(..read).map(Bytes::copy_from_slice).unwrap_or_default();
            if to.blocking_send(piece).is_err() {
                return;
            }
        }
    });
    from
}
