//! `moat sandbox`: whatever can be done with sandboxes over REST.

pub mod copy;
mod create;
mod exec;
mod look;
mod network;
mod oneshot;
mod state;
mod url;

use std::process::ExitCode;

use clap::Subcommand;

use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;

pub use look::since;

/// What about sandboxes.
#[derive(Debug, Subcommand)]
pub enum SandboxCommand {
    /// Create one and print its id
    Create(create::CreateArgs),
    /// Create one, run a program in it, and end it; exits with the program's code
    Run(oneshot::RunArgs),
    /// Run a program in one
    Exec(exec::ExecArgs),
    /// List them
    Ls(look::LsArgs),
    /// Show one as JSON
    Inspect(look::OneArgs),
    /// Copy files and directories between one and this machine
    Cp(copy::CopyArgs),
    /// Show what the main process of one wrote, or a detached one
    Logs(exec::LogsArgs),
    /// List the processes in one
    Ps(look::OneArgs),
    /// Show what one uses
    Stats(look::OneArgs),
    /// Show what happened to one, step by step; also after its end
    Explain(look::OneArgs),
    /// Show the network of one, or change it while it lives
    Network(network::NetworkOfArgs),
    /// Print the URL of a port of one, through the node's reverse proxy
    Url(url::UrlArgs),
    /// Pause one, in memory or on disk; its remaining life span waits with it
    Pause(state::PauseArgs),
    /// Let a paused one go on
    Resume(state::ResumeArgs),
    /// Give one a new life span, from now
    Keepalive(state::KeepaliveArgs),
    /// Make children of one: with its memory and processes if it is a microVM, else with its files
    Fork(state::ForkArgs),
    /// Keep one, to create others from: with its memory if it is a microVM, else its files
    Snapshot(state::SnapshotArgs),
    /// End them
    Rm(state::ManyArgs),
}

impl SandboxCommand {
    /// It ends with a program's exit code.
    pub fn passes_code(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Exec(_))
    }
}

/// Does what was asked.
pub async fn run(global: &Global, output: &Output, command: SandboxCommand) -> Result<ExitCode, Failure> {
    let done = match command {
        SandboxCommand::Run(args) => return oneshot::run(global, output, args).await,
        SandboxCommand::Exec(args) => return exec::run(global, output, args).await,
        SandboxCommand::Create(args) => create::run(global, output, &args).await,
        SandboxCommand::Ls(args) => look::ls(global, output, &args).await,
        SandboxCommand::Inspect(args) => look::inspect(global, output, &args).await,
        SandboxCommand::Cp(args) => copy::run(global, output, &args).await,
        SandboxCommand::Logs(args) => exec::logs(global, output, &args).await,
        SandboxCommand::Ps(args) => look::ps(global, output, &args).await,
        SandboxCommand::Stats(args) => look::stats(global, output, &args).await,
        SandboxCommand::Explain(args) => look::explain(global, output, &args).await,
        SandboxCommand::Network(args) => network::run(global, output, &args).await,
        SandboxCommand::Url(args) => url::run(global, output, &args).await,
        SandboxCommand::Pause(args) => state::pause(global, output, &args).await,
        SandboxCommand::Resume(args) => state::resume(global, output, &args).await,
        SandboxCommand::Keepalive(args) => state::keepalive(global, output, &args).await,
        SandboxCommand::Fork(args) => state::fork(global, output, &args).await,
        SandboxCommand::Snapshot(args) => state::snapshot(global, output, &args).await,
        SandboxCommand::Rm(args) => state::rm(global, output, &args).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}
