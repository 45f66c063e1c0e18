//! `moat job`: declaring jobs, and looking at what became of them.

mod actions;
mod declare;
mod history;
mod init;
mod lists;
mod status;
mod stop;

use std::process::ExitCode;

use clap::Subcommand;

pub use status::placed;

use crate::args::Global;
use crate::failure::{Failure, Policy};
use crate::output::Output;

/// What about jobs.
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Write a job file to begin with
    Init(init::InitArgs),
    /// Read a job file and say what is wrong with it
    Validate(declare::ValidateArgs),
    /// Show what declaring a job would change; exits with 0 if nothing would start or stop, 1 if something would, 255 if it
    /// cannot be told
    Plan(declare::PlanArgs),
    /// Declare a job and follow it until it is placed and deployed; exits with 0, with 2 if something has no place, with 1
    /// if anything else went wrong
    Run(declare::RunArgs),
    /// List jobs, or show one and where it runs
    #[command(visible_alias = "ls")]
    Status(status::StatusArgs),
    /// Stop a job
    Stop(stop::StopArgs),
    /// Show the versions of a job that are kept
    History(history::HistoryArgs),
    /// Declare an earlier version of a job again
    Revert(history::RevertArgs),
    /// Show a job as JSON, as it was declared
    Inspect(history::InspectArgs),
    /// Start a parameterized job
    Dispatch(actions::DispatchArgs),
    /// Periodic jobs
    #[command(subcommand)]
    Periodic(actions::PeriodicCommand),
    /// Accept the canaries of a job's deployment
    Promote(actions::PromoteArgs),
    /// List the allocations of a job
    Allocs(lists::AllocsArgs),
    /// List the deployments of a job
    Deployments(lists::DeploymentsArgs),
    /// Have it decided anew where a job runs
    Eval(actions::EvalArgs),
}

impl JobCommand {
    /// Exit codes of failures.
    pub fn policy(&self) -> Policy {
        match self {
            Self::Run(_) => Policy::Always(1),
            Self::Plan(_) => Policy::Always(255),
            _ => Policy::Kind,
        }
    }
}

/// Does what was asked.
pub async fn run(global: &Global, output: &Output, command: JobCommand) -> Result<ExitCode, Failure> {
    let done = |()| ExitCode::SUCCESS;
    match command {
        JobCommand::Init(args) => init::run(output, &args).map(done),
        JobCommand::Validate(args) => declare::validate(global, output, &args).await.map(done),
        JobCommand::Plan(args) => declare::plan(global, output, &args).await,
        JobCommand::Run(args) => declare::run(global, output, &args).await,
        JobCommand::Status(args) => status::run(global, output, &args).await.map(done),
        JobCommand::Stop(args) => stop::run(global, output, &args).await,
        JobCommand::History(args) => history::history(global, output, &args).await.map(done),
        JobCommand::Revert(args) => history::revert(global, output, &args).await,
        JobCommand::Inspect(args) => history::inspect(global, output, &args).await.map(done),
        JobCommand::Dispatch(args) => actions::dispatch(global, output, &args).await,
        JobCommand::Periodic(actions::PeriodicCommand::Force(args)) => actions::force(global, output, &args).await,
        JobCommand::Promote(args) => actions::promote(global, output, &args).await,
        JobCommand::Allocs(args) => lists::allocs(global, output, &args).await.map(done),
        JobCommand::Deployments(args) => lists::deployments(global, output, &args).await.map(done),
        JobCommand::Eval(args) => actions::eval(global, output, &args).await,
    }
}
