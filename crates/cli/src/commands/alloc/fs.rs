//! `moat alloc fs`.

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use futures::StreamExt;
use moat_api::rest::allocation::{AllocationFile, AllocationPath};
use moat_model::{ErrorKind, units};

use crate::args::Global;
use crate::complete;
use crate::failure::Failure;
use crate::jobs::ids;
use crate::output::Output;
use crate::rest;

/// Which file or directory, and what of it.
#[derive(Debug, Args)]
pub struct FsArgs {
    /// Take a running allocation of this job; then only the path is given
    #[arg(long, value_name = "JOB", add = ArgValueCandidates::new(complete::jobs))]
    job: Option<String>,
    /// Say what is at the path, and do not show it
    #[arg(long)]
    stat: bool,
    /// Sizes in bytes
    #[arg(long)]
    machine: bool,
    /// Go on when the file grows
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
    /// Allocation id, or the beginning of one, unless --job is given; then a path in its directory
    #[arg(value_name = "ALLOCATION] [PATH", num_args = 0..=2, add = ArgValueCandidates::new(complete::allocations))]
    words: Vec<String>,
}

/// Lists a directory, or shows a file.
pub async fn run(global: &Global, output: &Output, args: &FsArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let (view, words) = match (&args.job, args.words.as_slice()) {
        (Some(job), words) => (ids::allocation_of(&client, job, None).await?, words),
        (None, [id, words @ ..]) => (ids::allocation(&client, id).await?, words),
        (None, []) => return Err(Failure::invalid("an allocation is needed: its id, or --job JOB")),
    };
    let [path] = words else {
        if words.is_empty() {
            return list(output, &client.allocation_files(view.allocation.id.as_str(), "/").await?.files, args.machine);
        }
        return Err(Failure::invalid("one path is needed, not several"));
    };
    let id = view.allocation.id.as_str();
    let found = client.allocation_stat(id, path).await?;
    if args.stat {
        return list(output, std::slice::from_ref(&found), args.machine);
    }
    if found.directory {
        return list(output, &client.allocation_files(id, path).await?.files, args.machine);
    }
    output.no_json("the content of a file")?;
    let near_end = args.tail && args.bytes.is_none();
    let query = AllocationPath {
        path: Some(path.clone()),
        tail_lines: args.lines.or(near_end.then_some(10)),
        tail_bytes: args.bytes,
        follow: args.follow.then_some(true),
        ..AllocationPath::default()
    };
    let mut pieces = client.allocation_file(id, &query).await?;
    while let Some(piece) = pieces.next().await {
        let broken = |e| Failure::new(ErrorKind::Unavailable, format!("read {path} of allocation {id}: {e}"));
        output.bytes(&piece.map_err(broken)?)?;
    }
    Ok(())
}

fn list(output: &Output, files: &[AllocationFile], machine: bool) -> Result<(), Failure> {
    if output.json { output.document(files) } else { output.line(&listed(output, files, machine)) }
}

fn listed(output: &Output, files: &[AllocationFile], machine: bool) -> String {
    let rows = files.iter().map(|file| {
        let size = if machine { file.size.to_string() } else { units::format_bytes(file.size) };
        let name = if file.directory { format!("{}/", file.name) } else { file.name.clone() };
        [file.mode.clone(), size, file.modified_at.clone(), name]
    });
    output.table_text(["MODE", "SIZE", "MODIFIED", "NAME"], rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::samples;

    #[test]
    fn directories_are_shown() {
        insta::assert_snapshot!("files", listed(&Output::plain(), &samples::files(), false));
        insta::assert_snapshot!("files_in_bytes", listed(&Output::plain(), &samples::files(), true));
    }
}
