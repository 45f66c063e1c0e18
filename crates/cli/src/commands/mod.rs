//! One module for each command: its arguments, and what it does.

pub mod alloc;
pub mod api_key;
pub mod completions;
pub mod devrun;
pub mod events;
pub mod exec;
pub mod guest;
pub mod image;
pub mod jail;
pub mod job;
pub mod lameduck;
pub mod launch;
pub mod logs;
pub mod network;
pub mod node;
pub mod preflight;
pub mod ps;
pub mod run;
pub mod sandbox;
pub mod snapshot;
pub mod stop;
pub mod template;
pub mod up;
pub mod version;

use std::process::ExitCode;

use crate::args::{Cli, Command};
use crate::failure::Failure;
use crate::output::Output;

/// Does what was asked.
pub async fn run(cli: Cli, output: &Output) -> Result<ExitCode, Failure> {
    let global = &cli.global;
    match cli.command {
        Command::Up(args) => up::run(global, output, args).await.map(done),
        Command::Node(command) => node::run(global, output, command).await,
        Command::Job(command) => job::run(global, output, command).await,
        Command::Alloc(command) => alloc::run(global, output, command).await,
        Command::Jail(args) => jail::run(global, output, args).await,
        Command::Sandbox(command) => sandbox::run(global, output, command).await,
        Command::Template(command) => template::run(global, output, command).await.map(done),
        Command::Image(command) => image::run(global, output, command).await.map(done),
        Command::Snapshot(command) => snapshot::run(global, output, command).await.map(done),
        Command::Network(command) => network::run(global, output, command).await,
        Command::Guest(command) => guest::run(output, command).map(done),
        Command::ApiKey(command) => api_key::run(global, output, &command).map(done),
        Command::Run(args) => run::run(global, output, args).await,
        Command::Devrun(args) => devrun::run(global, output, args).await,
        Command::Ps(args) => ps::run(global, output, &args).await.map(done),
        Command::Stop(args) => stop::run(global, output, &args).await.map(done),
        Command::Logs(args) => logs::run(global, output, &args).await.map(done),
        Command::Events(args) => events::run(global, output, &args).await.map(done),
        Command::Exec(args) => exec::run(global, output, args).await,
        Command::Lameduck(args) => lameduck::run(global, output, &args).await.map(done),
        Command::Version => version::run(output).map(done),
        Command::Completions(args) => completions::run(output, &args).map(done),
    }
}

fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}
