//! `moat alloc status`.

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use moat_api::rest::allocation::{AllocationStats, AllocationView, ListAllocations};
use moat_model::Timestamp;
use moat_model::job::{TaskPhase, TaskStatus};
use moat_model::units::format_bytes;

use crate::args::Global;
use crate::complete;
use crate::failure::Failure;
use crate::jobs::monitor::node_of;
use crate::jobs::{ids, show};
use crate::output::{Output, now};
use crate::rest;

/// Which, and how much of it.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Allocation id, or the beginning of one [default: list all]
    #[arg(add = ArgValueCandidates::new(complete::allocations))]
    allocation: Option<String>,
    /// Only a line for each task
    #[arg(long)]
    short: bool,
    /// Measure what its tasks use
    #[arg(long)]
    stats: bool,
    /// Whole ids
    #[arg(long)]
    verbose: bool,
}

/// Shows it.
pub async fn run(global: &Global, output: &Output, args: &StatusArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let Some(text) = &args.allocation else {
        let list = client.allocations(&ListAllocations::default()).await?.allocations;
        if output.json {
            return output.document(&list);
        }
        return output.line(&crate::commands::job::placed(output, &list, args.verbose, now()));
    };
    let view = ids::allocation(&client, text).await?;
    let stats = if args.stats { Some(client.allocation_stats(view.allocation.id.as_str()).await?) } else { None };
    if output.json {
        return output.document(&serde_json::json!({ "allocation": view, "stats": stats }));
    }
    output.line(&shown(output, &view, stats.as_ref(), args.short, args.verbose, now()))
}

fn shown(
    output: &Output,
    view: &AllocationView,
    stats: Option<&AllocationStats>,
    brief: bool,
    verbose: bool,
    now: Timestamp,
) -> String {
    let mut text = show::fields(output, &head(output, view, verbose, now));
    let Some(status) = &view.status else { return text };
    if !status.ports.is_empty() {
        let rows = status
            .ports
            .iter()
            .map(|(label, port)| [label.clone(), format!("{}:{}", port.host_ip, port.host_port), port.to.to_string()]);
        let table = output.table_text(["LABEL", "ADDRESS", "TO"], rows.collect());
        text.push('\n');
        text.push_str(&show::section(output, "ports", &table));
    }
    text.push('\n');
    if brief {
        let rows = status.tasks.iter().map(|(name, task)| [name.clone(), phase(output, task), last(task)]);
        let table = output.table_text(["NAME", "STATE", "LAST EVENT"], rows.collect());
        text.push_str(&show::section(output, "tasks", &table));
        return text;
    }
    for (name, task) in &status.tasks {
        let mut rows = vec![("state", phase(output, task)), ("restarts", task.restarts.to_string())];
        rows.push(("started", show::ago_at(task.started, now)));
        rows.push(("finished", show::ago_at(task.finished, now)));
        if let Some(used) = stats.and_then(|stats| stats.tasks.get(name)) {
            let cpu = std::time::Duration::from_micros(used.cpu_usec).as_secs_f64();
            let peak = used.memory_peak_bytes.map_or_else(String::new, |b| format!(", {} at most", format_bytes(b)));
            rows.push(("cpu", format!("{cpu:.2}s")));
            rows.push(("memory", format!("{}{peak}", format_bytes(used.memory_bytes))));
            rows.push(("processes", used.pids.to_string()));
        }
        text.push_str(&show::section(output, &format!("task {name}"), &show::fields(output, &rows)));
        text.push_str("\n\n");
        let rows = task.events.iter().rev().map(|e| [show::written(e.at), e.kind.clone(), e.message.clone()]);
        text.push_str(&output.table_text(["TIME", "EVENT", "DESCRIPTION"], rows.collect()));
        text.push('\n');
    }
    text.trim_end().to_owned()
}

fn head(output: &Output, view: &AllocationView, verbose: bool, now: Timestamp) -> Vec<(&'static str, String)> {
    let a = &view.allocation;
    let mut rows = vec![
        ("id", a.id.to_string()),
        ("name", a.name()),
        ("node", format!("{} ({})", show::short(a.node.as_str(), verbose), node_of(view))),
        ("job", a.job.to_string()),
        ("job version", a.job_version.to_string()),
        ("status", show::client(output, view.client)),
        ("status description", view.description.clone()),
        ("desired", view.desired().to_owned()),
        ("desired description", a.reason.clone()),
        ("created", show::ago_at(Some(a.created), now)),
        ("modified", show::ago_at(Some(view.status.as_ref().map_or(a.modified, |s| s.modified.max(a.modified))), now)),
    ];
    if let Some(deployment) = &a.deployment {
        let healthy = match view.status.as_ref().and_then(|status| status.healthy) {
            Some(true) => "healthy",
            Some(false) => "unhealthy",
            None => "not known yet",
        };
        rows.push(("deployment", show::short(deployment, verbose).to_owned()));
        rows.push(("deployment health", healthy.to_owned()));
        rows.push(("canary", show::yes(a.canary)));
    }
    for (name, other) in [("replaces", &a.previous), ("replaced by", &a.next)] {
        rows.extend(other.as_ref().map(|id| (name, show::short(id.as_str(), verbose).to_owned())));
    }
    if !a.reschedules.is_empty() {
        rows.push(("replaced before", format!("{} times", a.reschedules.len())));
    }
    rows.retain(|(name, value)| !(name.ends_with("description") && value.is_empty()));
    rows
}

fn phase(output: &Output, task: &TaskStatus) -> String {
    let word = match (task.phase, task.failed) {
        (TaskPhase::Pending, _) => "pending",
        (TaskPhase::Running, _) => "running",
        (TaskPhase::Dead, true) => "failed",
        (TaskPhase::Dead, false) => "dead",
    };
    show::status(output, word)
}

fn last(task: &TaskStatus) -> String {
    task.events.last().map_or_else(|| "-".to_owned(), |event| event.kind.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::samples;

    #[test]
    fn allocations_are_shown() {
        let (output, now) = (Output::plain(), samples::now());
        let all = samples::allocations();
        insta::assert_snapshot!("allocation", shown(&output, &all[0], Some(&samples::stats()), false, false, now));
        insta::assert_snapshot!("allocation_short", shown(&output, &all[0], None, true, true, now));
        insta::assert_snapshot!("allocation_unheard_of", shown(&output, &all[1], None, false, false, now));
    }
}
