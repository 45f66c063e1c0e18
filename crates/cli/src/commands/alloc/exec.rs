//! `moat alloc exec`.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;
use moat_api::rest::exec::{Exec, PtySize};

use super::Which;
use crate::args::Global;
use crate::escape::Escape;
use crate::failure::Failure;
use crate::output::Output;
use crate::terminal::RawMode;
use crate::{rest, terminal};

/// What to run, and where.
#[derive(Debug, Args)]
pub struct ExecArgs {
    #[command(flatten)]
    which: Which,
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Character that leaves a terminal, at the beginning of a line and with a dot after it; none: there is none
    #[arg(short, long, value_name = "CHAR", default_value = "~", value_parser = Escape::parse)]
    escape: Escape,
    /// Allocation id, or the beginning of one, unless --job is given; then command and arguments, no shell
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "ALLOCATION] [COMMAND")]
    words: Vec<String>,
}

/// Runs it, and ends with its exit code.
pub async fn run(global: &Global, output: &Output, args: ExecArgs) -> Result<ExitCode, Failure> {
    output.no_json("alloc exec")?;
    if args.tty && args.interactive && !std::io::stdin().is_terminal() {
        let why = "-it needs a terminal on standard input: leave -t out to pass a file or pipe on";
        return Err(Failure::invalid(why));
    }
    let client = rest::client(global)?;
    let (found, command) = args.which.find(&client, &args.words).await?;
    // Words from the first one on are the command's, so a `--` before it arrives as a word.
    let command = command.strip_prefix(&["--".to_owned()]).unwrap_or(command);
    let Some((command, arguments)) = command.split_first() else {
        return Err(Failure::invalid("no command: it comes after the allocation"));
    };
    let mut exec = Exec { command: command.clone(), args: arguments.to_vec(), ..Exec::default() };
    if args.tty {
        let size = terminal::size();
        exec.pty = Some(PtySize { rows: size.rows, cols: size.cols });
        exec.env.extend(std::env::var("TERM").ok().map(|term| ("TERM".to_owned(), term)));
    }
    let id = found.allocation.id.as_str();
    let session = client.allocation_session(id, args.which.task.as_deref(), exec).await?;
    // Only now: until here everything that fails is told on a terminal that behaves.
    let raw = if args.tty && args.interactive { Some(RawMode::enter()?) } else { None };
    let escape = raw.is_some().then_some(args.escape);
    let code = crate::commands::exec::attend(output, session, args.interactive, escape).await;
    drop(raw);
    code
}
