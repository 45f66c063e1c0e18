//! Changing sandboxes.

use std::time::Duration;

use clap::{Args, ValueEnum};
use clap_complete::engine::ArgValueCandidates;
use moat_api::rest::sandbox::{Fork, Keepalive, Pause, PauseTo, Resume, TakeSnapshot};
use moat_model::ErrorKind;
use moat_model::units::format_bytes;

use super::create::seconds;
use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;
use crate::{complete, parse, progress, rest};

/// Which.
#[derive(Debug, Args)]
pub struct ManyArgs {
    /// Sandbox ids, or beginnings of them
    #[arg(required = true, value_name = "SANDBOX", add = ArgValueCandidates::new(complete::sandboxes))]
    sandboxes: Vec<String>,
}

/// Which, and how deep.
#[derive(Debug, Args)]
pub struct PauseArgs {
    /// Where they are kept: on disk their memory goes back to the host, which microVMs can
    #[arg(long, value_name = "WHERE", default_value = "memory")]
    to: Place,
    #[command(flatten)]
    which: ManyArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Place {
    Memory,
    Disk,
}

/// Which, and for how long.
#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// A new life span from now [default: what was left when it was paused]
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    life: Option<Duration>,
    #[command(flatten)]
    which: ManyArgs,
}

/// Which, and for how long.
#[derive(Debug, Args)]
pub struct KeepaliveArgs {
    /// Its new life span from now [default: the one it was created with]
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    life: Option<Duration>,
    /// Also if that is shorter than what it has
    #[arg(long)]
    shorten: bool,
    #[command(flatten)]
    which: ManyArgs,
}

/// Which, and how many.
#[derive(Debug, Args)]
pub struct ForkArgs {
    /// How many children, 1 to 16
    #[arg(short = 'n', long, default_value_t = 1)]
    count: u32,
    /// Life span of each [default: the parent's]
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    life: Option<Duration>,
    /// Label over the parent's; may be given several times
    #[arg(short, long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    #[command(flatten)]
    memory: MemoryArgs,
    /// Sandbox id, or the beginning of one
    #[arg(add = ArgValueCandidates::new(complete::sandboxes))]
    sandbox: String,
}

/// Whether memory is kept too [default: if it can be, as that of microVMs].
#[derive(Debug, Clone, Copy, Args)]
struct MemoryArgs {
    /// Refuse it without memory and processes
    #[arg(long)]
    require_memory: bool,
    /// Keep files only, also where memory could be kept
    #[arg(long, conflicts_with = "require_memory")]
    files_only: bool,
}

impl MemoryArgs {
    fn wanted(self) -> Option<bool> {
        match (self.require_memory, self.files_only) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        }
    }
}

/// Which, and under what name.
#[derive(Debug, Args)]
pub struct SnapshotArgs {
    #[command(flatten)]
    memory: MemoryArgs,
    /// Sandbox id, or the beginning of one
    #[arg(add = ArgValueCandidates::new(complete::sandboxes))]
    sandbox: String,
    /// Name of the snapshot
    name: Option<String>,
}

/// Pauses them.
pub async fn pause(global: &Global, output: &Output, args: &PauseArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let to = match args.to {
        Place::Memory => PauseTo::Memory,
        Place::Disk => PauseTo::Disk,
    };
    for sandbox in &args.which.sandboxes {
        let id = rest::sandbox_id(&client, sandbox).await?;
        let paused = client.pause(&id, &Pause { to }).await?;
        if output.json { output.record(&paused)? } else { output.line(&paused.id)? }
    }
    Ok(())
}

/// Lets them go on.
pub async fn resume(global: &Global, output: &Output, args: &ResumeArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let request = Resume { timeout_sec: seconds("--life", args.life)? };
    for sandbox in &args.which.sandboxes {
        let id = rest::sandbox_id(&client, sandbox).await?;
        let resumed = client.resume(&id, &request).await?;
        if output.json { output.record(&resumed)? } else { output.line(&resumed.id)? }
    }
    Ok(())
}

/// Gives them a new life span.
pub async fn keepalive(global: &Global, output: &Output, args: &KeepaliveArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let request = Keepalive { timeout_sec: seconds("--life", args.life)?, shorten: args.shorten };
    for sandbox in &args.which.sandboxes {
        let id = rest::sandbox_id(&client, sandbox).await?;
        let kept = client.keepalive(&id, &request).await?;
        if output.json {
            output.record(&kept)?;
        } else {
            let left = kept.expires_at.map_or_else(|| "without an end".to_owned(), |at| format!("until {at}"));
            output.line(&format!("{} {left}", kept.id))?;
        }
    }
    Ok(())
}

/// Makes children; prints the id of each.
pub async fn fork(global: &Global, output: &Output, args: &ForkArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let id = rest::sandbox_id(&client, &args.sandbox).await?;
    let request = Fork {
        count: Some(args.count),
        timeout_sec: seconds("--life", args.life)?,
        metadata: parse::environment(&args.labels)?,
        memory: args.memory.wanted(),
        require_memory: false,
    };
    let forked = client.fork(&id, &request).await?;
    if output.json {
        output.document(&forked)?;
    }
    let mut failed = None;
    for child in forked.children {
        match (child.sandbox, child.error) {
            (Some(sandbox), _) if !output.json => output.line(&sandbox.id)?,
            (None, Some(error)) => failed = Some(progress::told(error)),
            _ => {}
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Keeps it; prints the snapshot's name or id.
pub async fn snapshot(global: &Global, output: &Output, args: &SnapshotArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let id = rest::sandbox_id(&client, &args.sandbox).await?;
    let request = TakeSnapshot { name: args.name.clone(), memory: args.memory.wanted() };
    let snapshot = client.snapshot(&id, &request).await?;
    if output.json {
        return output.document(&snapshot);
    }
    let what = if snapshot.memory { "memory and files" } else { "files" };
    output.note(&format!("{what}, {} of its own", format_bytes(snapshot.bytes)));
    output.line(snapshot.name.as_deref().unwrap_or(&snapshot.id))
}

/// Ends them. Those that have ended already are no failure: what was asked for is so.
pub async fn rm(global: &Global, output: &Output, args: &ManyArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let mut failed = None;
    for sandbox in &args.sandboxes {
        let removed = async {
            let id = rest::sandbox_id(&client, sandbox).await?;
            client.delete(&id).await?;
            Ok::<_, Failure>(id)
        };
        match removed.await {
            Ok(id) if output.json => output.record(&serde_json::json!({ "id": id }))?,
            Ok(id) => output.line(&id)?,
            Err(failure) => {
                // The others are still to go.
                if failure.kind != ErrorKind::NotFound || args.sandboxes.len() > 1 {
                    output.note(&format!("{sandbox}: {}", failure.message));
                }
                failed = Some(failure);
            }
        }
    }
    failed.map_or(Ok(()), Err)
}
