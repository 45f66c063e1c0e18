//! `moat devrun`: from a local file to a running workload in one step.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use moat_api::client::{Client, Uploaded};
use moat_api::nex::Location;
use moat_model::{ErrorKind, NodeId, WorkloadName};

use super::launch::{LaunchArgs, Program};
use super::run::name_of;
use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;
use crate::{parse, program, session};

/// Object store of uploads: Nex's.
const BUCKET: &str = "NEXCLIFILES";

/// What to upload and start.
#[derive(Debug, Args)]
pub struct DevrunArgs {
    /// The program
    file: PathBuf,
    /// Its name [default: the file's name, without dots]
    #[arg(long)]
    name: Option<WorkloadName>,
    /// Leave workloads of the same name on that node running
    #[arg(long)]
    no_stop: bool,
    /// Size of the object store, if it has to be made
    #[arg(long, value_name = "SIZE", default_value = "100MiB", value_parser = parse::bytes)]
    bucketmaxbytes: u64,
    #[command(flatten)]
    launch: LaunchArgs,
}

/// Uploads and starts it.
pub async fn run(global: &Global, output: &Output, args: DevrunArgs) -> Result<ExitCode, Failure> {
    let name = match args.name {
        Some(name) => name,
        None => name_of(&args.file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default())?,
    };
    let target = program::target(&args.file)?;
    args.launch.check()?;
    let issuer = args.launch.issuer()?;
    let client = session::client(global).await?;
    let node = args.launch.place(&client, Some(target)).await?;
    let location = Location::new("nats", BUCKET, name.as_str())?;
    let uploaded = upload(&client, &args.file, &location, args.bucketmaxbytes).await?;
    if !args.no_stop {
        stop_namesakes(&client, output, &node, &name, &issuer).await?;
    }
    let program = Program { name, location: uploaded.location, sha256: Some(uploaded.sha256) };
    args.launch.start(&client, output, &node, program).await
}

async fn upload(client: &Client, path: &Path, location: &Location, bucket_bytes: u64) -> Result<Uploaded, Failure> {
    let mut file = tokio::fs::File::open(path).await.map_err(|e| Failure::file("read program", path, &e))?;
    let length = file.metadata().await.map_err(|e| Failure::file("read program", path, &e))?.len();
    let bar = bar(length);
    let bucket_bytes = i64::try_from(bucket_bytes).unwrap_or(i64::MAX);
    let uploaded = client.upload(location, &mut file, bucket_bytes, &mut |sent| bar.set_position(sent)).await;
    bar.finish_and_clear();
    Ok(uploaded?)
}

/// On standard error, and only if a person looks at it.
fn bar(length: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length);
    // The template is a constant; if it were wrong the default one would do.
    if let Ok(style) = ProgressStyle::with_template("uploading {wide_bar} {bytes}/{total_bytes} {eta}") {
        bar.set_style(style);
    }
    bar
}

/// Stops what runs under this name on that node.
async fn stop_namesakes(
    client: &Client,
    output: &Output,
    node: &NodeId,
    name: &WorkloadName,
    issuer: &nkeys::KeyPair,
) -> Result<(), Failure> {
    let info = client.info(node).await?;
    for machine in info.machines.iter().filter(|m| m.workload.name == name.as_str()) {
        match client.stop(node, &machine.id, name, issuer).await {
            Ok(_) if output.json => {}
            Ok(_) => output.note(&format!("stopped the {name} that ran before ({})", machine.id)),
            // It ended by itself meanwhile.
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
