//! `moat snapshot`: sandboxes, kept.

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;
use moat_model::units::format_bytes;

use super::sandbox::since;
use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;
use crate::{complete, rest};

/// What about snapshots. `moat sandbox snapshot` takes one, `moat sandbox create --snapshot` uses one.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// List snapshots
    Ls,
    /// Remove snapshots that no sandbox lives from
    Rm(RmArgs),
}

/// Which.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Names or ids
    #[arg(required = true, value_name = "SNAPSHOT", add = ArgValueCandidates::new(complete::snapshots))]
    snapshots: Vec<String>,
}

/// Does what was asked.
pub async fn run(global: &Global, output: &Output, command: SnapshotCommand) -> Result<(), Failure> {
    let client = rest::client(global)?;
    match command {
        SnapshotCommand::Ls => {
            let list = client.snapshots().await?;
            if output.json {
                return output.document(&list.snapshots);
            }
            let rows = list.snapshots.into_iter().map(|s| {
                let dash = || "-".to_owned();
                let (name, from) = (s.name.unwrap_or_else(dash), s.template.unwrap_or_else(dash));
                let kind = if s.memory { "memory" } else { "files" };
                [s.id, name, s.sandbox, from, kind.to_owned(), format_bytes(s.bytes), since(&s.created_at)]
            });
            output.table(["ID", "NAME", "SANDBOX", "TEMPLATE", "KEPT", "SIZE", "AGE"], rows.collect())
        }
        SnapshotCommand::Rm(args) => {
            for name in &args.snapshots {
                client.delete_snapshot(name).await?;
                if output.json {
                    output.record(&serde_json::json!({ "snapshot": name }))?
                } else {
                    output.line(name)?
                }
            }
            Ok(())
        }
    }
}
