//! `moat run`.

use std::process::ExitCode;

use clap::Args;
use moat_api::nex::Location;
use moat_model::WorkloadName;

use super::launch::{LaunchArgs, Program};
use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;
use crate::session;

/// What to start.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The program, in an object store: nats://BUCKET/key
    #[arg(value_name = "nats://BUCKET/KEY")]
    location: String,
    /// Its name [default: the last part of the key, without dots]
    #[arg(long)]
    name: Option<WorkloadName>,
    /// Hex SHA-256 the program must have
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    sha256: Option<String>,
    #[command(flatten)]
    launch: LaunchArgs,
}

fn sha256(text: &str) -> Result<String, String> {
    if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("not 64 hex digits".to_owned())
    }
}

/// Starts it.
pub async fn run(global: &Global, output: &Output, args: RunArgs) -> Result<ExitCode, Failure> {
    let location = Location::parse(&args.location)?;
    let name = match args.name {
        Some(name) => name,
        None => name_of(location.key().rsplit('/').next().unwrap_or_default())?,
    };
    args.launch.check()?;
    let client = session::client(global).await?;
    let node = args.launch.place(&client, None).await?;
    args.launch.start(&client, output, &node, Program { name, location, sha256: args.sha256 }).await
}

/// The name of a workload after its file: Nex leaves the dots out.
pub fn name_of(file: &str) -> Result<WorkloadName, Failure> {
    let name: String = file.chars().filter(|c| *c != '.').collect();
    WorkloadName::parse(&name).map_err(|e| Failure::invalid(format!("{e}; name it with --name")))
}
