//! `moat sandbox exec` and `logs`: programs in a sandbox, attended or left alone.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use data_encoding::BASE64;
use futures::StreamExt;
use moat_api::client::rest::RestClient;
use moat_api::rest::exec::{Exec, ExecEvent, PtySize};
use moat_model::ErrorKind;

use crate::args::Global;
use crate::escape::Escape;
use crate::failure::Failure;
use crate::output::Output;
use crate::terminal::RawMode;
use crate::{complete, parse, progress, rest, terminal};

/// What to run, and where.
#[derive(Debug, Args)]
pub struct ExecArgs {
    #[command(flatten)]
    attached: Attached,
    /// User inside: a name, uid or uid:gid [default: the sandbox's]
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
    /// Leave it to itself and print its process id, for `moat sandbox logs`
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    detach: bool,
    /// Sandbox id, or the beginning of one
    #[arg(add = ArgValueCandidates::new(complete::sandboxes))]
    sandbox: String,
    /// Command and arguments; no shell
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// How a program is tied to this terminal.
#[derive(Debug, Clone, Args)]
pub struct Attached {
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal; ~. at the beginning of a line leaves
    #[arg(short, long)]
    tty: bool,
}

/// Which program's output.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Sandbox id, or the beginning of one
    #[arg(add = ArgValueCandidates::new(complete::sandboxes))]
    sandbox: String,
    /// Process id, as `exec --detach` printed it: what that wrote and writes until it ends [default: the main process]
    #[arg(conflicts_with_all = ["follow", "tail"])]
    pid: Option<u32>,
    /// Go on until the sandbox ends
    #[arg(short, long)]
    follow: bool,
    /// Begin so many lines before the end
    #[arg(short = 'n', long, value_name = "LINES")]
    tail: Option<u32>,
}

impl Attached {
    /// What needs no node to be found wrong.
    pub fn check(&self) -> Result<(), Failure> {
        if self.tty && self.interactive && !std::io::stdin().is_terminal() {
            let why = "-it needs a terminal on standard input: leave -t out to pass a file or pipe on";
            return Err(Failure::invalid(why));
        }
        Ok(())
    }

    /// The request for a command.
    pub fn exec(&self, command: &[String]) -> Result<Exec, Failure> {
        let (command, args) = command.split_first().ok_or_else(|| Failure::invalid("no command"))?;
        let mut exec = Exec { command: command.clone(), args: args.to_vec(), ..Exec::default() };
        if self.tty {
            let size = terminal::size();
            exec.pty = Some(PtySize { rows: size.rows, cols: size.cols });
            exec.env.extend(std::env::var("TERM").ok().map(|term| ("TERM".to_owned(), term)));
        }
        Ok(exec)
    }
}

/// Runs it, and ends with its exit code.
pub async fn run(global: &Global, output: &Output, args: ExecArgs) -> Result<ExitCode, Failure> {
    args.attached.check()?;
    let mut exec = args.attached.exec(&args.command)?;
    exec.env.extend(parse::environment(&args.env)?);
    exec.cwd.clone_from(&args.workdir);
    exec.user.clone_from(&args.run_as);
    exec.timeout_ms = args.time_limit.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
    let client = rest::client(global)?;
    let id = rest::sandbox_id(&client, &args.sandbox).await?;
    if args.detach {
        let started = client.run_detached(&id, &exec).await?;
        let said = if output.json { output.document(&started) } else { output.line(&started.pid.to_string()) };
        return said.map(|()| ExitCode::SUCCESS);
    }
    output.no_json("sandbox exec without --detach")?;
    attend(&client, output, &id, exec, &args.attached).await
}

/// Runs a program and passes everything both ways until it has ended.
pub async fn attend(
    client: &RestClient,
    output: &Output,
    id: &str,
    exec: Exec,
    attached: &Attached,
) -> Result<ExitCode, Failure> {
    let session = client.session(id, exec).await?;
    // Only now: until here everything that fails is told on a terminal that behaves.
    let raw = if attached.tty && attached.interactive { Some(RawMode::enter()?) } else { None };
    let code =
        crate::commands::exec::attend(output, session, attached.interactive, raw.is_some().then(Escape::default)).await;
    drop(raw);
    code
}

/// Shows what a main process or a detached one wrote.
pub async fn logs(global: &Global, output: &Output, args: &LogsArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let id = rest::sandbox_id(&client, &args.sandbox).await?;
    match args.pid {
        Some(pid) => follow(&client, output, &id, pid).await,
        None => {
            output.no_json("sandbox logs of a main process")?;
            let mut lines = client.sandbox_logs(&id, args.follow, args.tail).await?;
            while let Some(piece) = lines.next().await {
                let broken = |e| Failure::new(ErrorKind::Unavailable, format!("read the log of {id}: {e}"));
                output.bytes(&piece.map_err(broken)?)?;
            }
            Ok(())
        }
    }
}

async fn follow(client: &RestClient, output: &Output, id: &str, pid: u32) -> Result<(), Failure> {
    let mut events = client.follow_detached(id, pid).await?;
    while let Some(event) = events.next().await {
        let event = event?;
        if output.json {
            output.record(&event)?;
        }
        match event {
            ExecEvent::Failed { error } => return Err(progress::told(error)),
            ExecEvent::Exited { exit_code, .. } => {
                output.note(&format!("process {pid} exited with {exit_code}"));
                return Ok(());
            }
            ExecEvent::Skipped { stream, to } => output.note(&format!("{stream}: bytes before {to} were not kept")),
            _ if output.json => {}
            ExecEvent::Stdout { text, base64, .. } => output.bytes(&bytes(text, base64)?)?,
            ExecEvent::Stderr { text, base64, .. } => output.error_bytes(&bytes(text, base64)?)?,
            ExecEvent::Started { .. } | ExecEvent::Keepalive => {}
        }
    }
    Err(Failure::new(ErrorKind::Unavailable, "the node hung up"))
}

fn bytes(text: Option<String>, base64: Option<String>) -> Result<Vec<u8>, Failure> {
    match (text, base64) {
        (Some(text), _) => Ok(text.into_bytes()),
        (None, Some(base64)) => BASE64.decode(base64.as_bytes()).map_err(|e| Failure::internal("read output", e)),
        (None, None) => Ok(Vec::new()),
    }
}
