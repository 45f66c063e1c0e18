//! `moat ps`.

use clap::Args;
use moat_api::client::Listed;
use moat_api::sandbox::{InspectRequest, WorkloadView};
use moat_model::jail::{JailState, JailView};
use moat_model::lifecycle::PhaseName;
use moat_model::workload::WorkloadKind;
use moat_model::{Cause, NodeId, Timestamp};
use owo_colors::Style;
use serde::Serialize;

use super::node::resolve;
use crate::args::Global;
use crate::credentials;
use crate::failure::Failure;
use crate::output::{Output, age, now};
use crate::{rest, session};

/// Which workloads.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// Also those that have ended
    #[arg(short, long)]
    all: bool,
    /// Only of this node: an id, the beginning of one, or a name
    #[arg(long)]
    node: Option<String>,
    /// Only ids, one on each line
    #[arg(short, long)]
    quiet: bool,
}

/// A jail beside the workloads: it is a node's citizen like them, and what keeps it is the same.
#[derive(Debug, Serialize)]
struct ListedJail {
    /// The sandbox it is, while it is up.
    id: Option<String>,
    name: String,
    kind: &'static str,
    isolation: Option<String>,
    state: String,
    created_at: Timestamp,
}

/// What is listed.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Row<'a> {
    Workload(&'a Listed),
    Jail(&'a ListedJail),
}

/// Lists the workloads of all nodes, and the jails of the one whose API this user knows of.
pub async fn run(global: &Global, output: &Output, args: &PsArgs) -> Result<(), Failure> {
    let client = session::client(global).await?;
    let node = match &args.node {
        Some(node) => Some(resolve(&client, node).await?),
        None => None,
    };
    let request = InspectRequest { ended: args.all, ..InspectRequest::default() };
    let mut directory = client.list(&request).await?;
    directory.workloads.retain(|w| node.as_ref().is_none_or(|node| w.node == *node));
    for (silent, error) in &directory.unanswered {
        output.note(&format!("node {silent} did not answer: {}", error.chain()));
    }
    let jails = if node.is_none() { jails(global, output, args.all).await? } else { Vec::new() };
    if output.json {
        let workloads = directory.workloads.iter().map(Row::Workload);
        return output.document(&workloads.chain(jails.iter().map(Row::Jail)).collect::<Vec<_>>());
    }
    if args.quiet {
        let ids = directory.workloads.iter().map(|w| &w.id).chain(jails.iter().filter_map(|jail| jail.id.as_ref()));
        return ids.into_iter().try_for_each(|id| output.line(id));
    }
    let rows = directory.workloads.iter().map(|w| row(output, w, now()));
    let rows = rows.chain(jails.iter().map(|jail| jail_row(output, jail, now()))).collect();
    output.table(["ID", "NAME", "NODE", "KIND", "ISOLATION", "STATE", "AGE"], rows)
}

/// Jails are asked for over REST, where this user knows of one: named, or of a running `moat up`.
async fn jails(global: &Global, output: &Output, all: bool) -> Result<Vec<ListedJail>, Failure> {
    if global.url.is_none() && credentials::find().is_none_or(|up| up.api.is_none()) {
        return Ok(Vec::new());
    }
    let list = match rest::client(global)?.jails().await {
        Ok(list) => list,
        Err(error) => {
            output.note(&format!("jails are not listed: {error}"));
            return Ok(Vec::new());
        }
    };
    let listed = |jail: JailView| ListedJail {
        id: jail.sandbox.map(|id| id.to_string()),
        name: jail.spec.name.to_string(),
        kind: "jail",
        isolation: jail.given,
        state: match jail.state {
            JailState::Up => "running".to_owned(),
            JailState::Busy { doing } => doing,
            JailState::Down { cause: None } => "stopped".to_owned(),
            JailState::Down { cause: Some(cause) } => format!("stopped: {cause}"),
        },
        created_at: jail.created_at,
    };
    let wanted = |jail: &JailView| all || !matches!(jail.state, JailState::Down { .. });
    Ok(list.jails.into_iter().filter(wanted).map(listed).collect())
}

fn jail_row(output: &Output, jail: &ListedJail, now: Timestamp) -> [String; 7] {
    let style = if jail.state == "running" { Style::new().green() } else { Style::new() };
    let missing = || "-".to_owned();
    [
        jail.id.clone().unwrap_or_else(missing),
        jail.name.clone(),
        missing(),
        jail.kind.to_owned(),
        jail.isolation.clone().unwrap_or_else(missing),
        output.styled(&jail.state, style),
        age(jail.created_at, now),
    ]
}

fn row(output: &Output, listed: &Listed, now: Timestamp) -> [String; 7] {
    let kind = |view: &WorkloadView| match view.kind {
        WorkloadKind::Service => "service",
        WorkloadKind::Job => "job",
        WorkloadKind::Function => "function",
    };
    let view = listed.view.as_ref();
    [
        listed.id.clone(),
        listed.name.clone(),
        node_label(&listed.node, &listed.node_name),
        view.map_or_else(|| listed.workload_type.clone(), |v| kind(v).to_owned()),
        view.map_or_else(|| "-".to_owned(), |v| v.isolation.to_string()),
        view.map_or_else(|| "running".to_owned(), |v| output.styled(&state(v, now), style(v))),
        view.map_or_else(|| "-".to_owned(), |v| age(v.created_at, now)),
    ]
}

/// Phase, and what there is to say about it.
fn state(view: &WorkloadView, now: Timestamp) -> String {
    let mut text = view.phase.to_string();
    if let Some(restart_at) = view.restart_at {
        text = format!("restarts in {}s", restart_at.since(now).as_secs());
    }
    if let Some(cause) = view.cause.as_ref().filter(|_| view.phase.is_terminal()) {
        text.push_str(": ");
        match (cause, view.exit) {
            (Cause::Exited, Some(exit)) => text.push_str(&format!("exited {}", exit.code)),
            (cause, _) => text.push_str(&cause.message()),
        }
    }
    if view.attempt > 1 {
        text.push_str(&format!(" (start {})", view.attempt));
    }
    text
}

fn style(view: &WorkloadView) -> Style {
    match view.phase {
        PhaseName::Running => Style::new().green(),
        PhaseName::Failed => Style::new().red(),
        PhaseName::Stopped if view.exit.is_some_and(|exit| exit.success()) => Style::new(),
        PhaseName::Stopped => Style::new().yellow(),
        _ => Style::new().cyan(),
    }
}

/// A node's name, or the beginning of its id if it has none.
pub fn node_label(id: &NodeId, name: &str) -> String {
    if name == "no-name" { id.as_str().chars().take(8).collect() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(json: serde_json::Value) -> WorkloadView {
        let mut all = serde_json::json!({
            "id": "cq1v8k3q7d2c73f0a9g0", "namespace": "default", "name": "web", "kind": "service", "type": "native",
            "node": "NAO5X4PUZC5L7XRBXMQZC6AGOLT5G3FF5J6S77B4TU3JFLKG6C5PDMEA", "isolation": "container",
            "driver": "container", "template": "host", "phase": "running", "essential": true, "attempt": 1,
            "issuer": "A", "hash": "", "created_at": 0
        });
        all.as_object_mut().unwrap().extend(json.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn states_say_what_matters() {
        let told = |json| state(&view(json), Timestamp::from_millis(1000));
        assert_eq!(told(serde_json::json!({})), "running");
        assert_eq!(
            told(serde_json::json!({"phase": "stopped", "cause": {"why": "exited"}, "exit": {"code": 3}})),
            "stopped: exited 3"
        );
        assert_eq!(
            told(serde_json::json!({"phase": "stopped", "attempt": 2, "restart_at": 5000,
                "cause": {"why": "out_of_memory"}, "exit": {"code": 137}})),
            "restarts in 4s: killed: out of memory (start 2)"
        );
    }
}
