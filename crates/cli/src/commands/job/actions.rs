//! `moat job dispatch`, `periodic force`, `promote` and `eval`.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;
use data_encoding::BASE64;
use moat_api::client::rest::RestClient;
use moat_api::rest::deployment::Promote;
use moat_api::rest::job::{Decided, DispatchJob, Dispatched};

use super::declare::followed;
use crate::args::Global;
use crate::failure::Failure;
use crate::jobs::follow::{self, Follower};
use crate::jobs::ids;
use crate::output::Output;
use crate::{complete, parse, rest};

/// Longest payload; what is longer belongs into an object store.
const PAYLOAD_MAX: u64 = 16 << 10;

/// Whether it is followed.
#[derive(Debug, Clone, Copy, Args)]
struct Following {
    /// Print ids and follow nothing
    #[arg(short, long)]
    detach: bool,
    /// Whole ids
    #[arg(long)]
    verbose: bool,
}

/// What is dispatched.
#[derive(Debug, Args)]
pub struct DispatchArgs {
    /// Value for its `meta`; may be given several times
    #[arg(long = "meta", value_name = "KEY=VALUE")]
    meta: Vec<String>,
    #[command(flatten)]
    following: Following,
    /// Job id, or the beginning of one
    #[arg(add = ArgValueCandidates::new(complete::jobs))]
    job: String,
    /// File with its payload, at most 16 KiB; - for standard input
    payload: Option<PathBuf>,
}

/// What about periodic jobs.
#[derive(Debug, Subcommand)]
pub enum PeriodicCommand {
    /// Start one now
    Force(OneArgs),
}

/// Which job.
#[derive(Debug, Args)]
pub struct OneArgs {
    #[command(flatten)]
    following: Following,
    /// Job id, or the beginning of one
    #[arg(add = ArgValueCandidates::new(complete::jobs))]
    job: String,
}

/// Which job.
pub type EvalArgs = OneArgs;

/// Which canaries.
#[derive(Debug, Args)]
pub struct PromoteArgs {
    /// Only those of this group; may be given several times
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    #[command(flatten)]
    following: Following,
    /// Job id, or the beginning of one
    #[arg(add = ArgValueCandidates::new(complete::jobs))]
    job: String,
}

/// Starts a child of a parameterized job.
pub async fn dispatch(global: &Global, output: &Output, args: &DispatchArgs) -> Result<ExitCode, Failure> {
    let payload = args.payload.as_deref().map(payload).transpose()?;
    let meta = parse::environment(&args.meta)?;
    let client = rest::client(global)?;
    let id = ids::job(&client, &args.job).await?.id;
    let request = DispatchJob { payload: payload.map(|bytes| BASE64.encode(&bytes)), meta };
    let dispatched = client.dispatch_job(&id, &request).await?;
    started(&client, output, args.following, &dispatched).await
}

fn payload(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |e: std::io::Error| Failure::file("read", path, &e);
    let mut bytes = Vec::new();
    let most = PAYLOAD_MAX + 1;
    if path == Path::new("-") {
        std::io::stdin().lock().take(most).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        std::fs::File::open(path).map_err(failed)?.take(most).read_to_end(&mut bytes).map_err(failed)?;
    }
    if bytes.len() as u64 > PAYLOAD_MAX {
        return Err(Failure::invalid(format!("{}: a payload is at most {PAYLOAD_MAX} bytes", path.display()))
            .with_hint("put more into an object store, and its name into --meta"));
    }
    Ok(bytes)
}

/// Starts a child of a periodic job.
pub async fn force(global: &Global, output: &Output, args: &OneArgs) -> Result<ExitCode, Failure> {
    let client = rest::client(global)?;
    let id = ids::job(&client, &args.job).await?.id;
    let dispatched = client.force_periodic(&id).await?;
    started(&client, output, args.following, &dispatched).await
}

async fn started(
    client: &RestClient,
    output: &Output,
    following: Following,
    dispatched: &Dispatched,
) -> Result<ExitCode, Failure> {
    if output.json {
        output.record(dispatched)?;
    } else {
        output.line(&dispatched.id)?;
    }
    match dispatched.evaluation.as_deref().filter(|_| !following.detach) {
        Some(evaluation) => {
            followed(Follower::new(client, output, following.verbose, &dispatched.id, &[]), evaluation).await
        }
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Accepts canaries.
pub async fn promote(global: &Global, output: &Output, args: &PromoteArgs) -> Result<ExitCode, Failure> {
    let client = rest::client(global)?;
    let id = ids::job(&client, &args.job).await?.id;
    let before = follow::allocations(&client, &id).await?;
    let decided = client.promote_job(&id, &Promote { groups: args.groups.clone() }).await?;
    let follower = Follower::new(&client, output, args.following.verbose, &id, &before);
    after(output, args.following, &decided, follower).await
}

/// Has it looked at anew.
pub async fn eval(global: &Global, output: &Output, args: &EvalArgs) -> Result<ExitCode, Failure> {
    let client = rest::client(global)?;
    let id = ids::job(&client, &args.job).await?.id;
    let before = follow::allocations(&client, &id).await?;
    let decided = client.evaluate_job(&id).await?;
    let follower = Follower::new(&client, output, args.following.verbose, &id, &before);
    after(output, args.following, &decided, follower).await
}

async fn after(
    output: &Output,
    following: Following,
    decided: &Decided,
    follower: Follower<'_>,
) -> Result<ExitCode, Failure> {
    match decided.evaluation.as_deref() {
        Some(evaluation) if !following.detach => return followed(follower, evaluation).await,
        _ if output.json => output.document(decided)?,
        Some(evaluation) => output.line(evaluation)?,
        None => {}
    }
    Ok(ExitCode::SUCCESS)
}
