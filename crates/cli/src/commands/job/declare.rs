//! `moat job validate`, `plan` and `run`: from a job file to a declared job.

use std::process::ExitCode;

use clap::Args;
use moat_api::rest::job::{JobPlan, PlanJob, SubmitJob, Submitted};
use moat_model::ErrorKind;
use owo_colors::Style;

use crate::args::Global;
use crate::failure::Failure;
use crate::jobs::file::FileArgs;
use crate::jobs::follow::{self, Follower, Outcome};
use crate::jobs::{diff, show};
use crate::output::Output;
use crate::rest;

/// Exit code when something has no place.
const UNPLACED: u8 = 2;

/// Which file.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Read the file only; ask no node whether it could be run
    #[arg(long)]
    offline: bool,
}

/// Which file, and what is shown.
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Leave the differences out
    #[arg(long)]
    no_diff: bool,
    /// Keep the counts of the version that runs
    #[arg(long)]
    preserve_counts: bool,
    /// Show what does not differ too
    #[arg(long)]
    verbose: bool,
}

/// Which file, and how.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Refuse unless the job is at this index, as `plan` printed it; 0: unless there is no such job
    #[arg(long, value_name = "INDEX")]
    check_index: Option<u64>,
    /// Keep the counts of the version that runs
    #[arg(long)]
    preserve_counts: bool,
    /// Print the id of the evaluation and follow nothing
    #[arg(short, long)]
    detach: bool,
    /// Print the job as the JSON the API takes, and declare nothing
    #[arg(long)]
    output: bool,
    /// Whole ids
    #[arg(long)]
    verbose: bool,
}

/// Reads a job file; a node says whether the cluster could ever run it.
pub async fn validate(global: &Global, output: &Output, args: &ValidateArgs) -> Result<(), Failure> {
    let job = args.file.read(global)?;
    let id = job.id.to_string();
    let mut warnings = Vec::new();
    if !args.offline {
        match rest::client_for(global, &job.namespace)?.plan_job(&PlanJob { job, preserve_counts: false }).await {
            Ok(plan) => {
                warnings.extend(plan.warnings.into_iter().filter(|w| !warnings.contains(w)).collect::<Vec<_>>())
            }
            Err(error) if error.kind == ErrorKind::Unavailable => {
                output.note("no node answered: only the file was looked at (--offline says that this is meant)");
            }
            Err(error) => return Err(error.into()),
        }
    }
    if output.json {
        return output.document(&serde_json::json!({ "valid": true, "job": id, "warnings": warnings }));
    }
    warn(output, &warnings);
    output.line(&format!("job {id} can be declared"))
}

/// Shows what would change.
pub async fn plan(global: &Global, output: &Output, args: &PlanArgs) -> Result<ExitCode, Failure> {
    let job = args.file.read(global)?;
    let client = rest::client_for(global, &job.namespace)?;
    let plan = client.plan_job(&PlanJob { job, preserve_counts: args.preserve_counts }).await?;
    if output.json {
        output.document(&plan)?;
    } else {
        let hint = format!("moat job run --check-index {} {}", plan.modify_index, args.file.shown());
        output.line(&planned(output, &plan, &hint, !args.no_diff, args.verbose))?;
    }
    Ok(ExitCode::from(u8::from(plan.changes)))
}

/// A plan as people read it.
fn planned(output: &Output, plan: &JobPlan, hint: &str, with_diff: bool, verbose: bool) -> String {
    let bold = |text: &str| output.styled(text, Style::new().bold());
    let mut text = String::new();
    if with_diff {
        text.push_str(&diff::render(output, &plan.diff, verbose));
        text.push('\n');
    }
    text.push_str(&format!("{}\n", bold("dry run of the scheduler")));
    if plan.failures.is_empty() {
        let green = output.styled("everything would have its place", Style::new().green());
        text.push_str(&format!("- {green}\n"));
    } else {
        let yellow = output.styled("not everything would have a place", Style::new().yellow());
        text.push_str(&format!("- {yellow}\n"));
        for (group, failure) in &plan.failures {
            text.push_str(&format!("  {}\n", show::unplaced(output, group, failure).replace('\n', "\n  ")));
        }
    }
    if let Some(next) = &plan.next_launch {
        text.push_str(&format!("- it would start next at {next}\n"));
    }
    for warning in &plan.warnings {
        text.push_str(&format!("- {}: {warning}\n", output.styled("warning", Style::new().yellow())));
    }
    text.push_str(&format!("\n{}: {}\n", bold("job modify index"), plan.modify_index));
    text.push_str(&format!("to declare it only if nobody else changes it before:\n\n    {hint}\n"));
    text
}

/// Declares it and follows what comes of that.
pub async fn run(global: &Global, output: &Output, args: &RunArgs) -> Result<ExitCode, Failure> {
    let job = args.file.read(global)?;
    let request = SubmitJob { job, check_index: args.check_index, preserve_counts: args.preserve_counts };
    if args.output {
        output.document(&request)?;
        return Ok(ExitCode::SUCCESS);
    }
    let client = rest::client_for(global, &request.job.namespace)?;
    let id = request.job.id.to_string();
    let before = follow::allocations(&client, &id).await?;
    let submitted = client.submit_job(&request).await.map_err(|error| {
        let moved = error.kind == ErrorKind::Conflict && args.check_index.is_some();
        let failure = Failure::from(error);
        if moved && failure.hint.is_none() {
            failure.with_hint("somebody changed the job since: `moat job plan` shows what is new, and its index")
        } else {
            failure
        }
    })?;
    let follower = Follower::new(&client, output, args.verbose, &id, &before);
    declared(output, &submitted, args.detach, follower).await
}

/// What is said of a declared job, and how the command ends.
pub(super) async fn declared(
    output: &Output,
    submitted: &Submitted,
    detach: bool,
    follower: Follower<'_>,
) -> Result<ExitCode, Failure> {
    if !output.json {
        warn(output, &submitted.warnings);
    }
    let Some(evaluation) = submitted.evaluation.as_deref() else {
        if output.json {
            output.document(submitted)?;
        } else {
            output.line(&format!("job {} is declared, version {}", submitted.id, submitted.version))?;
            if let Some(next) = &submitted.next_launch {
                output.line(&format!("it starts next at {next}"))?;
            }
        }
        return Ok(ExitCode::SUCCESS);
    };
    if detach {
        if output.json {
            output.document(submitted)?
        } else {
            output.line(evaluation)?
        }
        return Ok(ExitCode::SUCCESS);
    }
    followed(follower, evaluation).await
}

/// Follows an evaluation; its outcome is the exit code.
pub(super) async fn followed(follower: Follower<'_>, evaluation: &str) -> Result<ExitCode, Failure> {
    Ok(match follower.run(evaluation).await? {
        Outcome::Good => ExitCode::SUCCESS,
        Outcome::Unplaced => ExitCode::from(UNPLACED),
        Outcome::Failed => ExitCode::FAILURE,
    })
}

fn warn(output: &Output, warnings: &[String]) {
    for warning in warnings {
        output.note(&format!("warning: {warning}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::samples;

    #[test]
    fn plans_are_shown() {
        let output = Output::plain();
        let text = planned(&output, &samples::plan(), "moat job run --check-index 7 web.hcl", true, false);
        insta::assert_snapshot!("plan", text);
        let text = planned(&output, &samples::plan(), "moat job run --check-index 7 web.hcl", true, true);
        insta::assert_snapshot!("plan_verbose", text);
        insta::assert_snapshot!("plan_in_colour", planned(&Output::colourful(), &samples::plan(), "…", true, false));
    }
}
