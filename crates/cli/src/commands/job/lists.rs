//! `moat job allocs` and `deployments`.

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use moat_api::rest::deployment::Deployment;

use super::status::{deployed, placed};
use crate::args::Global;
use crate::complete;
use crate::failure::Failure;
use crate::jobs::ids;
use crate::output::{Output, now};
use crate::rest;

/// Which job.
#[derive(Debug, Args)]
pub struct AllocsArgs {
    /// Job id, or the beginning of one
    #[arg(add = ArgValueCandidates::new(complete::jobs))]
    job: String,
    /// Whole ids
    #[arg(long)]
    verbose: bool,
}

/// Which job.
#[derive(Debug, Args)]
pub struct DeploymentsArgs {
    /// Job id, or the beginning of one
    #[arg(add = ArgValueCandidates::new(complete::jobs))]
    job: String,
    /// Only the latest
    #[arg(long)]
    latest: bool,
    /// Whole ids
    #[arg(long)]
    verbose: bool,
}

/// Lists allocations.
pub async fn allocs(global: &Global, output: &Output, args: &AllocsArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let id = ids::job(&client, &args.job).await?.id;
    let list = client.job_allocations(&id).await?.allocations;
    if output.json { output.document(&list) } else { output.line(&placed(output, &list, args.verbose, now())) }
}

/// Lists deployments.
pub async fn deployments(global: &Global, output: &Output, args: &DeploymentsArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let id = ids::job(&client, &args.job).await?.id;
    let mut list = client.job_deployments(&id).await?.deployments;
    if args.latest {
        list.truncate(1);
    }
    if output.json {
        return output.document(&list);
    }
    output.line(&shown(output, &list, args.verbose))
}

fn shown(output: &Output, list: &[Deployment], verbose: bool) -> String {
    if list.is_empty() {
        return "none".to_owned();
    }
    list.iter().map(|d| deployed(output, d, verbose)).collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::samples;

    #[test]
    fn deployments_are_shown() {
        insta::assert_snapshot!("deployments", shown(&Output::plain(), &[samples::deployment()], false));
        assert_eq!(shown(&Output::plain(), &[], false), "none");
    }
}
