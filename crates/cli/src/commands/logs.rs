//! `moat logs`.

use clap::Args;
use moat_api::client::Client;
use moat_api::nex::Level;
use moat_api::subjects::LogFilter;
use moat_model::{ErrorKind, WorkloadId, WorkloadName};
use owo_colors::Style;

use super::node::resolve;
use crate::args::Global;
use crate::failure::Failure;
use crate::follow::{Follower, show_line};
use crate::output::Output;
use crate::session;

/// Which lines.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Workload id, the beginning of one, or a name; without one, lines of all workloads are shown as they come
    workload: Option<String>,
    /// Keep showing what comes, until the workload has ended
    #[arg(short, long)]
    follow: bool,
    /// Only so many lines from the end
    #[arg(short = 'n', long, value_name = "N", requires = "workload")]
    tail: Option<u32>,
    /// Nothing below this level: INFO is what programs write to standard output, ERROR to standard error
    #[arg(long, default_value = "DEBUG")]
    level: Level,
    /// Only of this node (without a workload): an id, the beginning of one, or a name
    #[arg(long, conflicts_with = "workload")]
    node: Option<String>,
}

/// Shows them.
pub async fn run(global: &Global, output: &Output, args: &LogsArgs) -> Result<(), Failure> {
    let client = session::client(global).await?;
    let Some(wanted) = &args.workload else { return all(&client, output, args).await };
    let found = client.find(wanted).await?;
    let Some(mut follower) = Follower::of(&client, output, &found, args.level) else {
        if !args.follow || args.tail.is_some() {
            return Err(Failure::new(
                ErrorKind::Unsupported,
                format!("node {} is not a moat node and keeps no log: use --follow without --tail", found.node_name),
            ));
        }
        let filter = LogFilter {
            node: Some(found.node.clone()),
            id: WorkloadId::parse(&found.id).ok(),
            name: WorkloadName::parse(&found.name).ok(),
        };
        return live(&client, output, &filter, args.level, false).await;
    };
    if !args.follow {
        return follower.show(args.tail).await;
    }
    let mut lines = follower.listen().await?;
    follower.show(args.tail).await?;
    follower.until_end(&mut lines).await.map(drop)
}

async fn all(client: &Client, output: &Output, args: &LogsArgs) -> Result<(), Failure> {
    let node = match &args.node {
        Some(node) => Some(resolve(client, node).await?),
        None => None,
    };
    live(client, output, &LogFilter { node, ..LogFilter::default() }, args.level, true).await
}

async fn live(
    client: &Client,
    output: &Output,
    filter: &LogFilter,
    level: Level,
    prefixed: bool,
) -> Result<(), Failure> {
    let mut lines = client.logs(filter).await?;
    while let Some(message) = lines.next().await {
        if message.line.level < level {
            continue;
        }
        let id = message.line.id.as_str();
        if output.json || !prefixed {
            show_line(output, id, message.line.level, &message.line.text)?;
            continue;
        }
        let short: String = id.chars().rev().take(6).collect::<Vec<_>>().into_iter().rev().collect();
        let colour = if message.line.level >= Level::ERROR { Style::new().red() } else { Style::new().cyan() };
        let origin = output.styled(&format!("{} {short} |", message.source.name), colour);
        output.line(&format!("{origin} {}", message.line.text))?;
    }
    Ok(())
}
