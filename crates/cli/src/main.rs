//! `moat`: the command line.
//!
//! What is here: arguments, output, two commands that run a node in this process (`up`, `node up`), and one that keeps a
//! file of this machine's node (`api-key`). Everything else goes through `moat_api::client`: whatever this program does to
//! a running node, another client can do. Workloads are reached over NATS, sandboxes and images over REST.
//! Start at [`args`] for what there is, then [`commands`].

mod args;
mod commands;
mod complete;
mod context;
mod credentials;
#[cfg(test)]
mod docs;
mod escape;
mod failure;
mod follow;
mod jobs;
mod keys;
mod nats_server;
mod network;
mod output;
mod parse;
mod port;
mod program;
mod progress;
mod rest;
mod session;
mod terminal;
mod tree;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::Cli;
use crate::failure::{Failure, Policy};
use crate::output::Output;

fn main() -> ExitCode {
    // A node starts its own program once more to fetch an artifact: without rights, and without anything below.
    if moat_node::getter::child::is_wanted() {
        return moat_node::getter::child::main();
    }
    // Two providers could be linked through dependencies; TLS would then panic unless one is chosen. The only error is
    // that one was chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // A shell that asks for candidates gets them, and nothing else happens.
    clap_complete::CompleteEnv::with_factory(Cli::command).complete();
    let arguments = jobs::dashes::doubled(&Cli::command(), commands::jail::argv::prepared(std::env::args_os()));
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return usage_error(&error),
    };
    let output = Output::new(&cli.global);
    let policy = cli.command.policy();
    match run(cli, &output) {
        Ok(code) => code,
        Err(failure) => {
            output.failure(&failure);
            failure.exit_code(policy)
        }
    }
}

fn run(cli: Cli, output: &Output) -> Result<ExitCode, Failure> {
    let daemon = cli.command.is_daemon();
    output::start_log(&cli.global, daemon)?;
    let mut runtime = if daemon {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = runtime.enable_all().build().map_err(|e| Failure::internal("start the async runtime", e))?;
    let result = runtime.block_on(commands::run(cli, output));
    // A thread may still sit in a read of the terminal: it is not waited for.
    runtime.shutdown_background();
    result
}

/// Help and version are no failures; a wrong argument is one of ours, which `run` and `exec` report as 125.
fn usage_error(error: &clap::Error) -> ExitCode {
    // Nothing can be done if the terminal is gone.
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    let lenient = Cli::command().ignore_errors(true).try_get_matches();
    let policy = match lenient.as_ref().ok().and_then(|matches| matches.subcommand()) {
        Some(("run" | "devrun" | "exec", _)) => Policy::Program,
        Some(("sandbox", inner)) if matches!(inner.subcommand_name(), Some("run" | "exec")) => Policy::Program,
        Some(("jail", _)) => Policy::Always(1),
        Some(("job", inner)) if inner.subcommand_name() == Some("run") => Policy::Always(1),
        Some(("job", inner)) if inner.subcommand_name() == Some("plan") => Policy::Always(255),
        Some(("alloc", inner)) if inner.subcommand_name() == Some("exec") => Policy::Program,
        _ => Policy::Kind,
    };
    Failure::invalid("").exit_code(policy)
}
