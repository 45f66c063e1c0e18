//! `moat sandbox run`: a sandbox for one program.

use std::process::ExitCode;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use moat_api::client::rest::RestClient;
use moat_model::ErrorKind;

use super::create::{SandboxOptions, create_uninterrupted};
use super::exec::{Attached, attend};
use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;
use crate::{complete, rest};

/// What to run, and in what.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    options: SandboxOptions,
    #[command(flatten)]
    attached: Attached,
    /// Leave the sandbox there at the end, and print its id
    #[arg(long)]
    keep: bool,
    /// Template or image
    #[arg(value_name = "TEMPLATE|IMAGE", required_unless_present = "snapshot", add = ArgValueCandidates::new(complete::templates))]
    from: Option<String>,
    /// Command and arguments; no shell
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Creates, runs, ends; whatever happens in between, the sandbox does not stay.
pub async fn run(global: &Global, output: &Output, args: RunArgs) -> Result<ExitCode, Failure> {
    output.no_json("sandbox run")?;
    args.attached.check()?;
    let client = rest::client(global)?;
    let request = args.options.request(&client, args.from.as_deref()).await?;
    let (sandbox, interrupted) = create_uninterrupted(&client, output, &request).await?;
    let ended = if interrupted {
        Err(Failure::new(ErrorKind::Guest, "interrupted before the program was started"))
    } else {
        let exec = args.attached.exec(&args.command)?;
        attend(&client, output, &sandbox.id, exec, &args.attached).await
    };
    if args.keep {
        output.note(&format!("{} was kept", sandbox.id));
        return ended;
    }
    let removed = remove(&client, output, &sandbox.id).await;
    // The program's own end says more than trouble with clearing up.
    let code = ended?;
    removed.map(|()| code)
}

async fn remove(client: &RestClient, output: &Output, id: &str) -> Result<(), Failure> {
    tokio::select! {
        removed = client.delete(id) => match removed {
            // Its own life span may have been shorter than the program.
            Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
            removed => Ok(removed?),
        },
        _ = tokio::signal::ctrl_c() => {
            output.note(&format!("{id} may be left; `moat sandbox rm {id}` ends it"));
            Ok(())
        }
    }
}
