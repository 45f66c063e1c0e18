//! `moat node drain` and `eligibility`.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use moat_api::client::rest::RestClient;
use moat_api::rest::allocation::{AllocationView, ListAllocations};
use moat_api::rest::node::{ClusterNode, DrainNode, SetEligibility};
use moat_model::job::Desired;
use moat_model::{AllocId, ErrorKind};

use super::status::eligibility as eligibility_of;
use crate::args::Global;
use crate::failure::Failure;
use crate::jobs::follow;
use crate::jobs::ids;
use crate::jobs::monitor::{Monitor, Step};
use crate::jobs::show;
use crate::output::{Output, now};
use crate::{complete, parse, rest};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How a node is emptied.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// Empty it
    #[arg(long, required_unless_present_any = ["disable", "monitor"])]
    enable: bool,
    /// Give it up: it may be used again
    #[arg(long, conflicts_with = "enable")]
    disable: bool,
    /// Stop what is left after this long
    #[arg(long, value_name = "TIME", value_parser = parse::duration, default_value = "1h")]
    deadline: Duration,
    /// Wait for what is left without end
    #[arg(long, conflicts_with = "force")]
    no_deadline: bool,
    /// Stop everything at once
    #[arg(long)]
    force: bool,
    /// Leave instances of system jobs
    #[arg(long)]
    ignore_system: bool,
    /// With --disable: nothing new is placed on it all the same
    #[arg(long, requires = "disable")]
    keep_ineligible: bool,
    /// Why, for others
    #[arg(short, long, default_value = "")]
    message: String,
    /// Change nothing; follow what happens
    #[arg(long, conflicts_with_all = ["enable", "disable"])]
    monitor: bool,
    /// Follow nothing
    #[arg(short, long)]
    detach: bool,
    /// Whole ids
    #[arg(long)]
    verbose: bool,
    /// The node that is asked
    #[arg(long = "self")]
    own: bool,
    /// Node id, the beginning of one, or a node's name
    #[arg(required_unless_present = "own", conflicts_with = "own", add = ArgValueCandidates::new(complete::nodes))]
    node: Option<String>,
}

/// Whether anything new may be placed on it.
#[derive(Debug, Args)]
pub struct EligibilityArgs {
    /// It may
    #[arg(long, required_unless_present = "disable")]
    enable: bool,
    /// It may not
    #[arg(long, conflicts_with = "enable")]
    disable: bool,
    /// The node that is asked
    #[arg(long = "self")]
    own: bool,
    /// Node id, the beginning of one, or a node's name
    #[arg(required_unless_present = "own", conflicts_with = "own", add = ArgValueCandidates::new(complete::nodes))]
    node: Option<String>,
}

/// Empties it, or gives that up, and follows what happens.
pub async fn drain(global: &Global, output: &Output, args: &DrainArgs) -> Result<ExitCode, Failure> {
    let client = rest::client(global)?;
    let mut node = ids::node(&client, args.node.as_deref().unwrap_or("self")).await?;
    let id = node.facts.id.to_string();
    if !args.monitor {
        let deadline = if args.force { Some(Duration::ZERO) } else { (!args.no_deadline).then_some(args.deadline) };
        let request = DrainNode {
            enable: args.enable,
            deadline_secs: deadline.filter(|_| args.enable).map(|deadline| deadline.as_secs()),
            ignore_system: args.ignore_system,
            keep_ineligible: args.keep_ineligible,
            message: args.message.clone(),
        };
        node = client.drain_node(&id, &request).await?;
    }
    if args.disable || args.detach {
        return said(output, &node).map(|()| ExitCode::SUCCESS);
    }
    if node.wish.drain.is_none() && args.monitor {
        return Err(Failure::new(ErrorKind::Conflict, format!("node {} is not being drained", node.facts.name)));
    }
    monitor(&client, output, &node, args.ignore_system, args.verbose).await.map(|()| ExitCode::SUCCESS)
}

/// Sets it.
pub async fn eligibility(global: &Global, output: &Output, args: &EligibilityArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let node = ids::node(&client, args.node.as_deref().unwrap_or("self")).await?;
    let request = SetEligibility { eligible: args.enable };
    said(output, &client.set_eligibility(node.facts.id.as_str(), &request).await?)
}

fn said(output: &Output, node: &ClusterNode) -> Result<(), Failure> {
    if output.json {
        return output.document(node);
    }
    let drain = if node.wish.drain.is_some() { "draining" } else { "not draining" };
    output.line(&format!("node {} ({}): {drain}, {}", node.facts.name, node.facts.id, eligibility_of(node)))
}

/// What was told of a drain.
#[derive(Debug, Default)]
struct Drain {
    picked: BTreeSet<AllocId>,
}

impl Drain {
    /// What is new; says how many instances still run.
    fn look(&mut self, allocations: &[AllocationView]) -> (Vec<String>, usize) {
        let mut lines = Vec::new();
        let mut left = 0;
        for view in allocations.iter().filter(|view| !view.client.is_terminal()) {
            left += 1;
            let a = &view.allocation;
            if a.desired != Desired::Run && self.picked.insert(a.id.clone()) {
                lines.push(format!("allocation {:?} is drained: {}", a.id.short(), a.reason));
            }
        }
        (lines, left)
    }
}

/// Follows a drain to its end.
async fn monitor(
    client: &RestClient,
    output: &Output,
    node: &ClusterNode,
    ignore_system: bool,
    verbose: bool,
) -> Result<(), Failure> {
    let id = node.facts.id.to_string();
    let line = |text: &str| {
        let at = show::written(now());
        if output.json {
            output.record(&serde_json::json!({ "at": at, "event": "drain", "message": text }))
        } else {
            output.line(&format!("{at}: {text}"))
        }
    };
    let query = ListAllocations { prefix: None, node: Some(id.clone()) };
    let mut allocations = client.allocations(&query).await?.allocations;
    let (mut changes, mut drain) = (Monitor::new(&allocations), Drain::default());
    line(&format!("node {:?} is drained", node.facts.name))?;
    loop {
        let (lines, left) = drain.look(&allocations);
        lines.iter().try_for_each(|text| line(text))?;
        let steps: Vec<Step> = changes.allocations(&allocations);
        let moved = steps.into_iter().filter(|step| matches!(step, Step::Status { .. })).collect::<Vec<_>>();
        follow::tell(output, verbose, &moved)?;
        let node = client.cluster_node(&id).await?;
        if node.wish.drain.is_none() {
            let what = if left == 0 {
                "all allocations on it have stopped".to_owned()
            } else {
                let why = if ignore_system { "of system jobs" } else { "still stopping, or of system jobs" };
                format!("{left} left, {why}")
            };
            return line(&format!("drain of node {:?} is complete: {what}", node.facts.name));
        }
        tokio::time::sleep(LOOK_EVERY).await;
        allocations = client.allocations(&query).await?.allocations;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::samples;

    #[test]
    fn each_allocation_is_told_of_once() {
        let mut drain = Drain::default();
        let mut all = samples::allocations();
        let running = all.iter().filter(|a| !a.client.is_terminal()).count();
        assert_eq!(drain.look(&all), (Vec::new(), running));
        all[0].allocation.desired = Desired::Stop;
        all[0].allocation.reason = "the node is drained".to_owned();
        let (lines, left) = drain.look(&all);
        assert_eq!(lines, ["allocation \"11111111\" is drained: the node is drained"]);
        assert_eq!(left, running);
        assert!(drain.look(&all).0.is_empty());
    }
}
