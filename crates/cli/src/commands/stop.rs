//! `moat stop`.

use std::path::PathBuf;

use clap::Args;
use moat_model::{ErrorKind, WorkloadName};

use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;
use crate::{keys, session};

/// Which workloads.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Workload ids, the beginnings of ids, or names
    #[arg(required = true, value_name = "WORKLOAD")]
    workloads: Vec<String>,
    /// Key that signed the start [default: the one in ~/.config/moat]
    #[arg(long, value_name = "FILE")]
    issuer: Option<PathBuf>,
}

/// Stops them, one after the other; the first failure ends it.
pub async fn run(global: &Global, output: &Output, args: &StopArgs) -> Result<(), Failure> {
    let issuer = keys::issuer(args.issuer.as_deref())?;
    let client = session::client(global).await?;
    let mut stopped = Vec::new();
    for wanted in &args.workloads {
        let found = client.find(wanted).await?;
        if found.ended() {
            return Err(Failure::new(ErrorKind::Conflict, format!("{} ({}) has ended already", found.name, found.id)));
        }
        let name = WorkloadName::parse(&found.name).map_err(|e| Failure::invalid(e.to_string()))?;
        let reply = client.stop(&found.node, &found.id, &name, &issuer).await?;
        if output.json {
            stopped.push(reply);
        } else {
            output.line(&format!("stopped {} ({}) on {}", reply.name, reply.id, found.node_name))?;
        }
    }
    if output.json { output.document(&stopped) } else { Ok(()) }
}
