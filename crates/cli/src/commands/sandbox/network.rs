//! `moat sandbox network`: what network one has, and another for it while it lives.

use std::path::PathBuf;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use moat_api::rest::network::{NetworkStatus, TrafficLimits};

use crate::args::Global;
use crate::failure::Failure;
use crate::network::{self, NetworkArgs, shown};
use crate::output::Output;
use crate::{complete, rest};

/// Whose, and what instead.
#[derive(Debug, Args)]
#[command(
    after_help = "Without --set and --file it is shown. What a change takes away ends within a second, in open connections too."
)]
pub struct NetworkOfArgs {
    /// Sandbox id, or the beginning of one
    #[arg(add = ArgValueCandidates::new(complete::sandboxes))]
    sandbox: String,
    /// Change what the options below name and leave the rest; rules and ports are replaced as a whole
    #[arg(long, conflicts_with = "file")]
    set: bool,
    /// Replace all of it by what a JSON file says, - for standard input: the member `network` of a create, or what
    /// `moat sandbox network --json` shows less what is only shown
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    network: NetworkArgs,
}

/// Shows it, or changes it and shows what holds then.
pub async fn run(global: &Global, output: &Output, args: &NetworkOfArgs) -> Result<(), Failure> {
    match (args.set, args.network.is_given()) {
        (false, true) => {
            return Err(Failure::invalid("options of a network without --set").with_hint(
                "--set changes the sandbox; `moat network test SANDBOX DESTINATION` with the same options asks what if",
            ));
        }
        (true, false) => {
            return Err(Failure::invalid("--set: nothing to set").with_hint("for one: --set --deny group:public"));
        }
        _ => {}
    }
    let file = args.file.as_ref().map(network::from_file).transpose()?;
    let client = rest::client(global)?;
    let id = rest::sandbox_id(&client, &args.sandbox).await?;
    let wanted = match file {
        Some(options) => Some(options),
        None if args.set => Some(args.network.over(network::asked_for(client.sandbox_network(&id).await?))),
        None => None,
    };
    let status = match wanted {
        Some(options) => client.set_sandbox_network(&id, &options).await?,
        None => client.sandbox_network(&id).await?,
    };
    if output.json { output.document(&status) } else { show(output, &status) }
}

fn show(output: &Output, status: &NetworkStatus) -> Result<(), Failure> {
    let address = |address: Option<std::net::Ipv4Addr>| address.map_or_else(|| "-".to_owned(), |a| a.to_string());
    output.line(&format!("mode        {}", status.mode))?;
    output.line(&format!("address     {}", address(status.address)))?;
    output.line(&format!("gateway     {}", address(status.gateway)))?;
    let names = if status.names.is_empty() { "-".to_owned() } else { status.names.join(" ") };
    output.line(&format!("names       {names}"))?;
    output.line(&format!("limits      {}", limits(&status.limits)))?;
    for publish in &status.publish {
        output.line(&format!("published   {}", shown::published(publish)))?;
    }
    for (rule, number) in status.egress.rules.iter().zip(0..) {
        output.line(&format!("rule {number:<6} {}", shown::rule(rule)))?;
    }
    output.line(&format!("otherwise   {}", status.egress.default.as_deref().unwrap_or("allow")))?;
    shown::refused(output, &status.refused)
}

fn limits(limits: &TrafficLimits) -> String {
    let rate = |what: &str, bits: Option<u64>| bits.map(|bits| format!("{what} {}", shown::rate(bits)));
    let count = |what: &str, count: Option<u32>| count.map(|count| format!("{what} {count}"));
    let parts = [
        rate("up", limits.up_bits_per_sec),
        rate("down", limits.down_bits_per_sec),
        count("packets/s up", limits.up_packets_per_sec),
        count("packets/s down", limits.down_packets_per_sec),
        count("connections", limits.connections),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "none of its own".to_owned() } else { parts.join(", ") }
}
