//! `moat alloc signal`, `restart`, `stop` and `checks`.

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use moat_api::rest::allocation::{AllocationChecks, RestartAllocation, SignalAllocation, StopAllocation};
use moat_model::Timestamp;
use moat_model::spec::Signal;

use crate::args::Global;
use crate::failure::Failure;
use crate::jobs::follow::{self, Follower};
use crate::jobs::{ids, show};
use crate::output::{Output, now};
use crate::{complete, parse, rest};

/// Which signal, to what.
#[derive(Debug, Args)]
pub struct SignalArgs {
    /// Which signal; `-s` is the NATS server, as everywhere
    #[arg(long, value_name = "SIGNAL", default_value = "SIGKILL", value_parser = parse::signal)]
    signal: Signal,
    /// Only to this task
    #[arg(long, value_name = "TASK", conflicts_with = "task_word")]
    task: Option<String>,
    /// Allocation id, or the beginning of one
    #[arg(add = ArgValueCandidates::new(complete::allocations))]
    allocation: String,
    /// Only to this task
    #[arg(value_name = "TASK")]
    task_word: Option<String>,
}

/// What is restarted.
#[derive(Debug, Args)]
pub struct RestartArgs {
    /// Only this task
    #[arg(long, value_name = "TASK", conflicts_with = "task_word")]
    task: Option<String>,
    /// Allocation id, or the beginning of one
    #[arg(add = ArgValueCandidates::new(complete::allocations))]
    allocation: String,
    /// Only this task
    #[arg(value_name = "TASK")]
    task_word: Option<String>,
}

/// What is stopped.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Print the id of the evaluation and follow nothing
    #[arg(short, long)]
    detach: bool,
    /// Do not wait for tasks' `shutdown_delay`
    #[arg(long)]
    no_shutdown_delay: bool,
    /// Whole ids
    #[arg(long)]
    verbose: bool,
    /// Allocation id, or the beginning of one
    #[arg(add = ArgValueCandidates::new(complete::allocations))]
    allocation: String,
}

/// Whose checks.
#[derive(Debug, Args)]
pub struct ChecksArgs {
    /// Allocation id, or the beginning of one
    #[arg(add = ArgValueCandidates::new(complete::allocations))]
    allocation: String,
}

/// Sends it.
pub async fn signal(global: &Global, output: &Output, args: &SignalArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let id = ids::allocation(&client, &args.allocation).await?.allocation.id.to_string();
    let task = args.task.clone().or_else(|| args.task_word.clone());
    let request = SignalAllocation { signal: args.signal.number().to_string(), task };
    let done = client.signal_allocation(&id, &request).await?;
    if output.json { output.document(&done) } else { Ok(()) }
}

/// Restarts.
pub async fn restart(global: &Global, output: &Output, args: &RestartArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let id = ids::allocation(&client, &args.allocation).await?.allocation.id.to_string();
    let task = args.task.clone().or_else(|| args.task_word.clone());
    let done = client.restart_allocation(&id, &RestartAllocation { task }).await?;
    if output.json { output.document(&done) } else { Ok(()) }
}

/// Stops it, and follows what is placed for it.
pub async fn stop(global: &Global, output: &Output, args: &StopArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let view = ids::allocation(&client, &args.allocation).await?;
    let (id, job) = (view.allocation.id.to_string(), view.allocation.job.to_string());
    let before = follow::allocations(&client, &job).await?;
    let decided = client.stop_allocation(&id, &StopAllocation { no_shutdown_delay: args.no_shutdown_delay }).await?;
    match decided.evaluation.as_deref() {
        Some(evaluation) if !args.detach => {
            Follower::new(&client, output, args.verbose, &job, &before).run(evaluation).await.map(drop)
        }
        _ if output.json => output.document(&decided),
        Some(evaluation) => output.line(evaluation),
        None => Ok(()),
    }
}

/// Shows results of checks.
pub async fn checks(global: &Global, output: &Output, args: &ChecksArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let id = ids::allocation(&client, &args.allocation).await?.allocation.id.to_string();
    let checks = client.allocation_checks(&id).await?;
    if output.json { output.document(&checks) } else { output.line(&checked(output, &checks, now())) }
}

fn checked(output: &Output, checks: &AllocationChecks, now: Timestamp) -> String {
    if checks.checks.is_empty() {
        return "no checks".to_owned();
    }
    let rows = checks.checks.iter().map(|(name, result)| {
        let seen = result.output.lines().next().unwrap_or_default().to_owned();
        [name.clone(), show::status(output, &result.status), show::ago_at(Some(result.at), now), seen]
    });
    output.table_text(["CHECK", "STATUS", "AT", "OUTPUT"], rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::samples;

    #[test]
    fn checks_are_shown() {
        insta::assert_snapshot!("checks", checked(&Output::plain(), &samples::checks(), samples::now()));
        assert_eq!(checked(&Output::plain(), &AllocationChecks::default(), samples::now()), "no checks");
    }
}
