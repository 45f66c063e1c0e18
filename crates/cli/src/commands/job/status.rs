//! `moat job status`.

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use moat_api::rest::allocation::AllocationView;
use moat_api::rest::deployment::Deployment;
use moat_api::rest::evaluation::Evaluation;
use moat_api::rest::job::{GroupSummary, JobDetail, JobList, JobRow, ListJobs};
use moat_model::Timestamp;

use crate::args::Global;
use crate::complete;
use crate::failure::Failure;
use crate::jobs::monitor::node_of;
use crate::jobs::{ids, show};
use crate::output::{Output, now};
use crate::rest;

/// Which job, and how much of it.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Job id, or the beginning of one [default: list all]
    #[arg(add = ArgValueCandidates::new(complete::jobs))]
    job: Option<String>,
    /// Only what it is, not where it runs
    #[arg(long)]
    short: bool,
    /// Its evaluations too
    #[arg(long)]
    evals: bool,
    /// Allocations of earlier versions that have ended too
    #[arg(long)]
    all_allocs: bool,
    /// Whole ids
    #[arg(long)]
    verbose: bool,
}

/// Lists jobs, or shows one.
pub async fn run(global: &Global, output: &Output, args: &StatusArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let Some(text) = &args.job else {
        let list = client.jobs(&ListJobs::default()).await?;
        return if output.json { output.document(&list.jobs) } else { output.line(&listed(output, &list)) };
    };
    let id = ids::job(&client, text).await?.id;
    let job = client.job(&id).await?;
    let mut allocations = client.job_allocations(&id).await?.allocations;
    if !args.all_allocs {
        // Of those that ended, only what belongs to this version says anything about it.
        allocations.retain(|a| a.allocation.job_version == job.version || !a.client.is_terminal());
    }
    let evaluations = if args.evals { client.job_evaluations(&id).await?.evaluations } else { Vec::new() };
    if output.json {
        let all = serde_json::json!({ "job": job, "allocations": allocations, "evaluations": evaluations });
        return output.document(&all);
    }
    let now = now();
    let mut text = head(output, &job, now);
    if !args.short {
        text.push_str(&body(output, &job, args.verbose, now));
        if args.evals {
            text.push_str(&show::section(output, "evaluations", &evaluated(output, &evaluations, args.verbose, now)));
        }
        text.push_str(&show::section(output, "allocations", &placed(output, &allocations, args.verbose, now)));
    }
    output.line(&text)
}

/// A list of jobs.
fn listed(output: &Output, list: &JobList) -> String {
    if list.jobs.is_empty() {
        return "no jobs in this namespace".to_owned();
    }
    let rows = list.jobs.iter().map(|job| {
        let status = standing(output, &job.status, job.stopped);
        [job.id.clone(), kind(job), job.priority.to_string(), status, job.submitted_at.clone()]
    });
    output.table_text(["ID", "TYPE", "PRIORITY", "STATUS", "SUBMITTED"], rows.collect())
}

/// A job that is to stop is stopping as long as anything of it runs.
fn standing(output: &Output, status: &str, stopped: bool) -> String {
    match (stopped, status) {
        (false, status) => show::status(output, status),
        (true, "dead") => format!("{} (stopped)", show::status(output, "dead")),
        (true, _) => show::status(output, "stopping"),
    }
}

fn kind(job: &JobRow) -> String {
    match (job.periodic, job.parameterized) {
        (true, _) => format!("{}/periodic", job.kind),
        (_, true) => format!("{}/parameterized", job.kind),
        _ => job.kind.clone(),
    }
}

fn head(output: &Output, detail: &JobDetail, now: Timestamp) -> String {
    let job = &detail.job;
    let status = standing(output, &detail.status, detail.stopped);
    let mut rows = vec![
        ("id", job.id.to_string()),
        ("name", job.name.clone()),
        ("submitted", format!("{} ({})", detail.submitted_at, show::ago(Some(&detail.submitted_at), now))),
        ("type", job.kind.as_str().to_owned()),
        ("priority", job.priority.to_string()),
        ("datacenters", job.datacenters.join(",")),
        ("namespace", job.namespace.to_string()),
        ("node pool", job.node_pool.clone()),
        ("version", detail.version.to_string()),
        ("modify index", detail.modify_index.to_string()),
        ("status", status),
        ("periodic", show::yes(job.periodic.is_some())),
        ("parameterized", show::yes(job.parameterized.is_some())),
    ];
    if let Some(parent) = &job.parent {
        rows.push(("parent", parent.to_string()));
    }
    if let Some(next) = &detail.next_launch {
        rows.push(("next launch", next.clone()));
    }
    show::fields(output, &rows)
}

fn body(output: &Output, detail: &JobDetail, verbose: bool, now: Timestamp) -> String {
    let mut text = String::new();
    if let Some(children) = &detail.children {
        let rows = vec![[children.pending, children.running, children.dead].map(|n| n.to_string())];
        let table = output.table_text(["PENDING", "RUNNING", "DEAD"], rows);
        text.push_str(&show::section(output, "children", &table));
        return text;
    }
    text.push('\n');
    text.push_str(&show::section(output, "summary", &summary(output, detail)));
    if let Some(blocked) = &detail.blocked {
        text.push('\n');
        let lines: Vec<_> = blocked.failures.iter().map(|(g, failure)| show::unplaced(output, g, failure)).collect();
        let title = format!("not placed (evaluation {})", show::short(&blocked.id, verbose));
        text.push_str(&show::section(output, &title, &lines.join("\n")));
    }
    if !detail.reschedules.is_empty() {
        let rows = detail.reschedules.iter().map(|r| {
            let at = show::moment(&r.at).map_or_else(|| r.at.clone(), |at| format!("{}s", at.since(now).as_secs()));
            [r.group.clone(), show::short(&r.allocation, verbose).to_owned(), at]
        });
        let table = output.table_text(["GROUP", "FAILED", "REPLACED IN"], rows.collect());
        text.push('\n');
        text.push_str(&show::section(output, "replacements to come", &table));
    }
    if let Some(deployment) = &detail.deployment {
        text.push('\n');
        text.push_str(&show::section(output, "latest deployment", &deployed(output, deployment, verbose)));
    }
    text.push('\n');
    text
}

fn summary(output: &Output, detail: &JobDetail) -> String {
    let rows = detail.summary.iter().map(|(group, s)| {
        let GroupSummary { queued, starting, running, failed, complete, lost, unknown } = *s;
        let [q, s, r, f, c, l, u] = [queued, starting, running, failed, complete, lost, unknown].map(|n| n.to_string());
        [group.clone(), q, s, r, f, c, l, u]
    });
    let header = ["GROUP", "QUEUED", "STARTING", "RUNNING", "FAILED", "COMPLETE", "LOST", "UNKNOWN"];
    output.table_text(header, rows.collect())
}

/// A deployment as people read it.
pub(super) fn deployed(output: &Output, deployment: &Deployment, verbose: bool) -> String {
    let head = show::fields(
        output,
        &[
            ("id", show::short(&deployment.id, verbose).to_owned()),
            ("version", deployment.job_version.to_string()),
            ("status", show::status(output, &deployment.status)),
            ("description", deployment.description.clone()),
        ],
    );
    let rows = deployment.groups.iter().map(|(name, g)| {
        let promoted = if g.canaries == 0 { "-".to_owned() } else { show::yes(g.promoted) };
        let [d, c, p, h, u] = [g.desired, g.canaries, g.placed, g.healthy, g.unhealthy].map(|n| n.to_string());
        let by = g.progress_by.clone().unwrap_or_else(|| "-".to_owned());
        [name.clone(), promoted, d, c, p, h, u, by]
    });
    let header = ["GROUP", "PROMOTED", "DESIRED", "CANARIES", "PLACED", "HEALTHY", "UNHEALTHY", "PROGRESS BY"];
    format!("{head}\n\n{}", output.table_text(header, rows.collect()))
}

fn evaluated(output: &Output, evaluations: &[Evaluation], verbose: bool, now: Timestamp) -> String {
    let rows = evaluations.iter().map(|e| {
        [
            show::short(&e.id, verbose).to_owned(),
            e.job_version.to_string(),
            e.triggered_by.clone(),
            show::status(output, &e.status),
            show::yes(!e.failures.is_empty()),
            show::ago(Some(&e.created_at), now),
        ]
    });
    output.table_text(["ID", "VERSION", "BY", "STATUS", "UNPLACED", "CREATED"], rows.collect())
}

/// Allocations as people read them.
pub fn placed(output: &Output, allocations: &[AllocationView], verbose: bool, now: Timestamp) -> String {
    if allocations.is_empty() {
        return "none".to_owned();
    }
    let rows = allocations.iter().map(|view| {
        let a = &view.allocation;
        let modified = view.status.as_ref().map_or(a.modified, |status| status.modified.max(a.modified));
        [
            show::short(a.id.as_str(), verbose).to_owned(),
            node_of(view),
            a.group.clone(),
            a.job_version.to_string(),
            view.desired().to_owned(),
            show::client(output, view.client),
            show::ago_at(Some(a.created), now),
            show::ago_at(Some(modified), now),
        ]
    });
    let header = ["ID", "NODE", "GROUP", "VERSION", "DESIRED", "STATUS", "CREATED", "MODIFIED"];
    output.table_text(header, rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::samples;

    #[test]
    fn jobs_are_shown() {
        let (output, now) = (Output::plain(), samples::now());
        let list = JobList { jobs: samples::rows() };
        insta::assert_snapshot!("jobs", listed(&output, &list));
        insta::assert_snapshot!("no_jobs", listed(&output, &JobList { jobs: Vec::new() }));
        let detail = samples::detail();
        let text = head(&output, &detail, now) + &body(&output, &detail, false, now);
        let text = text + &placed(&output, &samples::allocations(), false, now);
        insta::assert_snapshot!("job", text);
        let parent = JobDetail { children: Some(samples::children()), ..samples::detail() };
        insta::assert_snapshot!("parent", body(&output, &parent, false, now));
        insta::assert_snapshot!("evaluations", evaluated(&output, &samples::evaluations(), false, now));
    }
}
