//! `moat job history`, `revert` and `inspect`: versions.

use std::process::ExitCode;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use moat_api::rest::job::{JobVersion, RevertJob};
use moat_model::{ErrorKind, Timestamp};

use super::declare::declared;
use crate::args::Global;
use crate::complete;
use crate::failure::Failure;
use crate::jobs::follow::{self, Follower};
use crate::jobs::{diff, ids, show};
use crate::output::{Output, now};
use crate::rest;

/// Which job, and what of its versions.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Job id, or the beginning of one
    #[arg(add = ArgValueCandidates::new(complete::jobs))]
    job: String,
    /// What each changed
    #[arg(short = 'p', long)]
    diff: bool,
    /// Only this one
    #[arg(long, value_name = "NUMBER")]
    version: Option<u64>,
}

/// Which job, and which version.
#[derive(Debug, Args)]
pub struct RevertArgs {
    /// Job id, or the beginning of one
    #[arg(add = ArgValueCandidates::new(complete::jobs))]
    job: String,
    /// Number of the version
    version: u64,
    /// Refuse unless this is the version now
    #[arg(long, value_name = "NUMBER")]
    enforce_prior: Option<u64>,
    /// Print the id of the evaluation and follow nothing
    #[arg(short, long)]
    detach: bool,
    /// Whole ids
    #[arg(long)]
    verbose: bool,
}

/// Which job, and which version.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Job id, or the beginning of one
    #[arg(add = ArgValueCandidates::new(complete::jobs))]
    job: String,
    /// Number of the version [default: the one that is wanted]
    #[arg(long, value_name = "NUMBER")]
    version: Option<u64>,
}

/// Shows its versions.
pub async fn history(global: &Global, output: &Output, args: &HistoryArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let id = ids::job(&client, &args.job).await?.id;
    let mut versions = client.job_versions(&id).await?.versions;
    versions.retain(|v| args.version.is_none_or(|wanted| wanted == v.version));
    if output.json {
        return output.document(&versions);
    }
    if versions.is_empty() {
        return Err(no_version(&id, args.version.unwrap_or(0)));
    }
    output.line(&shown(output, &versions, args.diff, now()))
}

fn shown(output: &Output, versions: &[JobVersion], with_diff: bool, now: Timestamp) -> String {
    let one = |v: &JobVersion| {
        let number = if v.current { format!("{} (wanted now)", v.version) } else { v.version.to_string() };
        let text = show::fields(
            output,
            &[
                ("version", number),
                ("stable", show::yes(v.stable)),
                ("submitted", format!("{} ({})", v.submitted_at, show::ago(Some(&v.submitted_at), now))),
            ],
        );
        match v.diff.as_ref().filter(|_| with_diff) {
            Some(diff) => format!("{text}\n\n{}", diff::render(output, diff, false).trim_end()),
            None => text,
        }
    };
    versions.iter().map(one).collect::<Vec<_>>().join("\n\n")
}

/// Declares an earlier version again.
pub async fn revert(global: &Global, output: &Output, args: &RevertArgs) -> Result<ExitCode, Failure> {
    let client = rest::client(global)?;
    let id = ids::job(&client, &args.job).await?.id;
    let before = follow::allocations(&client, &id).await?;
    let request = RevertJob { version: args.version, enforce_prior: args.enforce_prior };
    let submitted = client.revert_job(&id, &request).await?;
    let follower = Follower::new(&client, output, args.verbose, &id, &before);
    declared(output, &submitted, args.detach, follower).await
}

/// Shows it as JSON.
pub async fn inspect(global: &Global, output: &Output, args: &InspectArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let id = ids::job(&client, &args.job).await?.id;
    let Some(wanted) = args.version else { return output.document(&client.job(&id).await?.job) };
    let versions = client.job_versions(&id).await?.versions;
    let found = versions.into_iter().find(|v| v.version == wanted).ok_or_else(|| no_version(&id, wanted))?;
    output.document(&found.job)
}

fn no_version(id: &str, version: u64) -> Failure {
    Failure::new(ErrorKind::NotFound, format!("job {id} has no version {version}, or it is no longer kept"))
        .with_hint(format!("`moat job history {id}` lists those that are"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::samples;

    #[test]
    fn versions_are_shown() {
        insta::assert_snapshot!("history", shown(&Output::plain(), &samples::versions(), true, samples::now()));
    }
}
