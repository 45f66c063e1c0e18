//! `moat alloc logs`.

use clap::Args;
use futures::StreamExt;
use futures::stream::select;
use moat_api::rest::allocation::AllocationLogs;
use moat_model::ErrorKind;

use super::Which;
use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;
use crate::rest;

/// Lines shown when a log is followed without a word about where to begin.
const FOLLOWED_LINES: u32 = 10;

/// Whose, and which part.
#[derive(Debug, Args)]
pub struct LogsArgs {
    #[command(flatten)]
    which: Which,
    /// Go on until the task has ended
    #[arg(short, long)]
    follow: bool,
    /// Begin near the end: 10 lines before it, unless -n or -c says otherwise
    #[arg(long)]
    tail: bool,
    /// Begin so many lines before the end
    #[arg(short = 'n', long, value_name = "LINES", conflicts_with = "bytes")]
    lines: Option<u32>,
    /// Begin so many bytes before the end
    #[arg(short = 'c', long, value_name = "BYTES")]
    bytes: Option<u64>,
    /// Standard error only
    #[arg(long, conflicts_with = "stdout")]
    stderr: bool,
    /// Standard output only
    #[arg(long)]
    stdout: bool,
    /// Allocation id, or the beginning of one, unless --job is given; then the task
    #[arg(value_name = "ALLOCATION] [TASK", num_args = 0..=2)]
    words: Vec<String>,
}

/// Shows them. Followed without a choice, both streams are.
pub async fn run(global: &Global, output: &Output, args: &LogsArgs) -> Result<(), Failure> {
    output.no_json("alloc logs")?;
    let client = rest::client(global)?;
    let (found, words) = args.which.find(&client, &args.words).await?;
    let task = match (words, &args.which.task) {
        ([], task) => task.clone(),
        ([task], None) => Some(task.clone()),
        _ => return Err(Failure::invalid("one task is needed: as a word, or with --task")),
    };
    let near_end = args.tail || args.follow;
    let tail_lines = args.lines.or((near_end && args.bytes.is_none()).then_some(FOLLOWED_LINES));
    let query = |stderr: bool| AllocationLogs {
        task: task.clone(),
        stderr: stderr.then_some(true),
        follow: args.follow.then_some(true),
        tail_lines,
        tail_bytes: args.bytes,
    };
    let id = found.allocation.id.as_str();
    let both = args.follow && !args.stderr && !args.stdout;
    let first = client.allocation_logs(id, &query(args.stderr)).await?.map(|piece| (args.stderr, piece)).boxed();
    let mut pieces = if both {
        let second = client.allocation_logs(id, &query(true)).await?.map(|piece| (true, piece));
        select(first, second).boxed()
    } else {
        first
    };
    while let Some((stderr, piece)) = pieces.next().await {
        let broken = |e| Failure::new(ErrorKind::Unavailable, format!("read the log of allocation {id}: {e}"));
        let piece = piece.map_err(broken)?;
        // What was asked for alone is the output of this command, whichever stream it was.
        if stderr && both { output.error_bytes(&piece)? } else { output.bytes(&piece)? }
    }
    Ok(())
}
