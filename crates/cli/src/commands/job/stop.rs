//! `moat job stop`.

use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use moat_api::rest::job::StopJob;
use moat_model::ErrorKind;

use crate::args::Global;
use crate::complete;
use crate::failure::Failure;
use crate::jobs::follow::{self, Follower};
use crate::jobs::ids;
use crate::output::Output;
use crate::rest;

/// Which, and how.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Job ids, or the beginnings of some
    #[arg(required = true, add = ArgValueCandidates::new(complete::jobs))]
    jobs: Vec<String>,
    /// Forget it as well: nothing of it stays to be looked at
    #[arg(long)]
    purge: bool,
    /// Do not wait for tasks' `shutdown_delay`
    #[arg(long)]
    no_shutdown_delay: bool,
    /// Print the id of the evaluation and follow nothing
    #[arg(short, long)]
    detach: bool,
    /// Do not ask when only the beginning of an id was given
    #[arg(short, long)]
    yes: bool,
    /// Whole ids
    #[arg(long)]
    verbose: bool,
}

/// Stops them, one after the other.
pub async fn run(global: &Global, output: &Output, args: &StopArgs) -> Result<ExitCode, Failure> {
    let client = rest::client(global)?;
    for text in &args.jobs {
        let found = ids::job(&client, text).await?;
        if !found.exact && !args.yes {
            confirm(&format!("stop job {}?", found.id))?;
        }
        let before = follow::allocations(&client, &found.id).await?;
        let how = StopJob { purge: args.purge, no_shutdown_delay: args.no_shutdown_delay };
        let decided = client.stop_job(&found.id, &how).await?;
        match decided.evaluation.as_deref() {
            Some(evaluation) if !args.detach => {
                let follower = Follower::new(&client, output, args.verbose, &found.id, &before);
                match follower.run(evaluation).await {
                    // What is purged takes its evaluations with it, perhaps before the last of them is looked at.
                    Err(failure) if args.purge && failure.kind == ErrorKind::NotFound => {}
                    // What cannot be placed is no trouble of a job that ends.
                    followed => drop(followed?),
                }
            }
            _ if output.json => output.document(&decided)?,
            Some(evaluation) => output.line(evaluation)?,
            None => output.line(&format!("job {} had stopped", found.id))?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks somebody; nobody there to be asked is a no.
fn confirm(question: &str) -> Result<(), Failure> {
    let refused = |why: &str| Failure::invalid(why.to_owned()).with_hint("give the whole id, or --yes");
    if !std::io::stdin().is_terminal() {
        return Err(refused(&format!("{question} only the beginning of its id was given, and nobody is here to ask")));
    }
    let mut err = std::io::stderr().lock();
    write!(err, "{question} [y/N] ").and_then(|()| err.flush())?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(refused("not confirmed: nothing was stopped")) }
}
