//! `moat alloc`: instances of jobs, wherever they run.

mod act;
mod exec;
mod fs;
mod logs;
mod status;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;
use moat_api::client::rest::RestClient;
use moat_api::rest::allocation::AllocationView;

use crate::args::Global;
use crate::complete;
use crate::failure::{Failure, Policy};
use crate::jobs::ids;
use crate::output::Output;

/// What about allocations.
#[derive(Debug, Subcommand)]
pub enum AllocCommand {
    /// Show one: its tasks, their events, its ports
    Status(status::StatusArgs),
    /// Show what a task wrote, and writes
    Logs(logs::LogsArgs),
    /// Run a command beside a task; exits with its code, 125 for failures of moat
    Exec(exec::ExecArgs),
    /// List and read the files of one
    Fs(fs::FsArgs),
    /// Send the tasks of one a signal
    Signal(act::SignalArgs),
    /// Restart the tasks of one where they are
    Restart(act::RestartArgs),
    /// Stop one; another is placed for it
    Stop(act::StopArgs),
    /// Show how the checks of one go
    Checks(act::ChecksArgs),
}

impl AllocCommand {
    /// Exit codes of failures.
    pub fn policy(&self) -> Policy {
        if matches!(self, Self::Exec(_)) { Policy::Program } else { Policy::Kind }
    }
}

/// An allocation by its id, or one of a job.
#[derive(Debug, Args)]
struct Which {
    /// Take a running allocation of this job instead of naming one
    #[arg(long, value_name = "JOB", add = ArgValueCandidates::new(complete::jobs))]
    job: Option<String>,
    /// Of this group of the job
    #[arg(long, requires = "job", value_name = "GROUP")]
    group: Option<String>,
    /// Which task; may be left out if there is one
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
}

impl Which {
    /// The allocation, and which words are left: without `--job` the first is its id.
    async fn find<'a>(
        &self,
        client: &RestClient,
        words: &'a [String],
    ) -> Result<(AllocationView, &'a [String]), Failure> {
        match (&self.job, words) {
            (Some(job), words) => Ok((ids::allocation_of(client, job, self.group.as_deref()).await?, words)),
            (None, [id, rest @ ..]) => Ok((ids::allocation(client, id).await?, rest)),
            (None, []) => Err(Failure::invalid("an allocation is needed: its id, or --job JOB")),
        }
    }
}

/// Does what was asked.
pub async fn run(global: &Global, output: &Output, command: AllocCommand) -> Result<ExitCode, Failure> {
    let done = |()| ExitCode::SUCCESS;
    match command {
        AllocCommand::Status(args) => status::run(global, output, &args).await.map(done),
        AllocCommand::Logs(args) => logs::run(global, output, &args).await.map(done),
        AllocCommand::Exec(args) => exec::run(global, output, args).await,
        AllocCommand::Fs(args) => fs::run(global, output, &args).await.map(done),
        AllocCommand::Signal(args) => act::signal(global, output, &args).await.map(done),
        AllocCommand::Restart(args) => act::restart(global, output, &args).await.map(done),
        AllocCommand::Stop(args) => act::stop(global, output, &args).await.map(done),
        AllocCommand::Checks(args) => act::checks(global, output, &args).await.map(done),
    }
}
