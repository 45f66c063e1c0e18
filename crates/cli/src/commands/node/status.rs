//! `moat node status`: nodes as jobs see them.

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use moat_api::rest::allocation::ListAllocations;
use moat_api::rest::node::ClusterNode;
use moat_model::Timestamp;
use moat_model::job::{Eligibility, NodeState};

use crate::args::Global;
use crate::complete;
use crate::failure::Failure;
use crate::jobs::{ids, show};
use crate::output::{Output, now};
use crate::rest;

/// Which.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Node id, the beginning of one, a node's name, or self [default: list all]
    #[arg(add = ArgValueCandidates::new(complete::nodes))]
    node: Option<String>,
    /// Whole ids, and what the node says of itself
    #[arg(long)]
    verbose: bool,
}

/// Lists nodes, or shows one.
pub async fn run(global: &Global, output: &Output, args: &StatusArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let Some(text) = &args.node else {
        let nodes = client.nodes().await?.cluster;
        return if output.json { output.document(&nodes) } else { output.line(&listed(output, &nodes, args.verbose)) };
    };
    let node = ids::node(&client, text).await?;
    let query = ListAllocations { prefix: None, node: Some(node.facts.id.to_string()) };
    let allocations = client.allocations(&query).await?.allocations;
    if output.json {
        return output.document(&serde_json::json!({ "node": node, "allocations": allocations }));
    }
    let now = now();
    let placed = crate::commands::job::placed(output, &allocations, args.verbose, now);
    let allocations = show::section(output, "allocations", &placed);
    output.line(&format!("{}\n{allocations}", shown(output, &node, args.verbose, now)))
}

/// A node's state in a word.
pub(super) fn state(node: &ClusterNode) -> &'static str {
    match node.state {
        NodeState::Ready => "ready",
        NodeState::Down => "down",
    }
}

/// Whether anything new may be placed on it.
pub(super) fn eligibility(node: &ClusterNode) -> &'static str {
    match node.wish.eligibility {
        Eligibility::Eligible => "eligible",
        Eligibility::Ineligible => "ineligible",
    }
}

fn listed(output: &Output, nodes: &[ClusterNode], verbose: bool) -> String {
    if nodes.is_empty() {
        return "no node takes part in jobs".to_owned();
    }
    let rows = nodes.iter().map(|node| {
        let f = &node.facts;
        [
            show::short(f.id.as_str(), verbose).to_owned(),
            f.pool.clone(),
            f.datacenter.clone(),
            f.name.clone(),
            if f.class.is_empty() { "-".to_owned() } else { f.class.clone() },
            show::yes(node.wish.drain.is_some()),
            show::status(output, eligibility(node)),
            show::status(output, state(node)),
        ]
    });
    let header = ["ID", "POOL", "DATACENTER", "NAME", "CLASS", "DRAIN", "ELIGIBILITY", "STATUS"];
    output.table_text(header, rows.collect())
}

fn shown(output: &Output, node: &ClusterNode, verbose: bool, now: Timestamp) -> String {
    let f = &node.facts;
    let c = &f.capacity;
    let drain = match &node.wish.drain {
        None => "no".to_owned(),
        Some(drain) => {
            let since = show::ago_at(Some(drain.started), now);
            let deadline = drain.deadline.map_or_else(|| "none".to_owned(), |d| format!("{}s", d.as_secs()));
            let message = if drain.message.is_empty() { String::new() } else { format!(": {}", drain.message) };
            format!("since {since}, deadline {deadline}{message}")
        }
    };
    let volumes = f.host_volumes.iter().map(|(n, v)| if v.read_only { format!("{n} (read-only)") } else { n.clone() });
    let mut text = show::fields(
        output,
        &[
            ("id", f.id.to_string()),
            ("name", f.name.clone()),
            ("pool", f.pool.clone()),
            ("datacenter", f.datacenter.clone()),
            ("class", f.class.clone()),
            ("status", show::status(output, state(node))),
            ("eligibility", show::status(output, eligibility(node))),
            ("drain", drain),
            ("version", f.version.clone()),
            ("for jobs", format!("{} MHz, {} cores, {} MiB, disk {} MiB", c.cpu_mhz, c.cores, c.memory_mb, c.disk_mb)),
            ("host volumes", volumes.collect::<Vec<_>>().join(", ")),
        ],
    );
    if verbose {
        let all = |map: &std::collections::BTreeMap<String, String>| {
            let rows: Vec<_> = map.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
            show::fields(output, &rows)
        };
        text = format!("{text}\n{}", show::section(output, "attributes", &all(&f.attributes)));
        text = format!("{text}\n{}", show::section(output, "meta", &all(&f.meta)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::samples;

    #[test]
    fn nodes_are_shown() {
        let output = Output::plain();
        insta::assert_snapshot!("nodes", listed(&output, &samples::nodes(), false));
        insta::assert_snapshot!("node", shown(&output, &samples::nodes()[1], true, samples::now()));
    }
}
