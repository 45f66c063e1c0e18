//! Looking at sandboxes.

use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use moat_api::rest::sandbox::{ListSandboxes, Sandbox};
use moat_model::Timestamp;
use moat_model::units::format_bytes;
use owo_colors::Style;

use crate::args::Global;
use crate::failure::Failure;
use crate::output::{Output, age, now};
use crate::{complete, parse, rest};

/// Which.
#[derive(Debug, Args)]
pub struct OneArgs {
    /// Sandbox id, or the beginning of one
    #[arg(add = ArgValueCandidates::new(complete::sandboxes))]
    sandbox: String,
}

/// Which of them.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Also those that have ended and are remembered
    #[arg(short, long, conflicts_with = "state")]
    all: bool,
    /// Only in these states, separated by commas
    #[arg(long, value_name = "STATES")]
    state: Option<String>,
    /// Only of this template
    #[arg(long, value_name = "NAME", add = ArgValueCandidates::new(complete::templates))]
    template: Option<String>,
    /// Only with this label; may be given several times
    #[arg(short, long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Only ids, one on each line
    #[arg(short, long)]
    quiet: bool,
}

/// Every state there is, those of the ended too.
const STATES: &str = "pending,preparing,starting,running,paused,stopping,recovering,stopped,failed";

/// Lists them.
pub async fn ls(global: &Global, output: &Output, args: &LsArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let labels = parse::environment(&args.labels)?;
    let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let query = ListSandboxes {
        state: if args.all { Some(STATES.to_owned()) } else { args.state.clone() },
        template: args.template.clone(),
        metadata: (!pairs.is_empty()).then(|| pairs.join(",")),
        ..ListSandboxes::default()
    };
    let sandboxes = rest::all(&client, query).await?;
    if output.json {
        return output.document(&sandboxes);
    }
    if args.quiet {
        return sandboxes.iter().try_for_each(|s| output.line(&s.id));
    }
    let rows = sandboxes.iter().map(|s| row(output, s)).collect();
    output.table(["ID", "FROM", "STATE", "ISOLATION", "ADDRESS", "AGE", "LEFT", "LABELS"], rows)
}

fn row(output: &Output, sandbox: &Sandbox) -> [String; 8] {
    let style = match sandbox.state.as_str() {
        "running" => Style::new().green(),
        "failed" => Style::new().red(),
        "paused" => Style::new().yellow(),
        _ => Style::new(),
    };
    let state = match &sandbox.cause {
        Some(cause) => format!("{}: {cause}", sandbox.state),
        None if sandbox.stowed => format!("{} on disk", sandbox.state),
        None => sandbox.state.clone(),
    };
    let labels: Vec<String> = sandbox.metadata.iter().map(|(key, value)| format!("{key}={value}")).collect();
    [
        sandbox.id.clone(),
        from(sandbox),
        output.styled(&state, style),
        sandbox.isolation.clone(),
        sandbox.ip.clone().unwrap_or_else(|| "-".to_owned()),
        since(&sandbox.created_at),
        sandbox.remaining_sec.map_or_else(|| "-".to_owned(), |left| format!("{left}s")),
        labels.join(" "),
    ]
}

/// What it was made from, in a word.
fn from(sandbox: &Sandbox) -> String {
    match (&sandbox.template, &sandbox.image, &sandbox.parent) {
        (Some(template), ..) => template.clone(),
        (None, Some(image), _) => crate::progress::shown(image),
        (None, None, Some(parent)) => parent.clone(),
        (None, None, None) => "-".to_owned(),
    }
}

/// How long ago an instant of the API was.
pub fn since(text: &str) -> String {
    let read = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339);
    let millis = read.map(|at| at.unix_timestamp_nanos() / 1_000_000).ok().and_then(|ms| i64::try_from(ms).ok());
    millis.map_or_else(|| text.to_owned(), |millis| age(Timestamp::from_millis(millis), now()))
}

/// Shows everything there is to know of one.
pub async fn inspect(global: &Global, output: &Output, args: &OneArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let id = rest::sandbox_id(&client, &args.sandbox).await?;
    output.document(&client.sandbox(&id).await?)
}

/// Lists its processes.
pub async fn ps(global: &Global, output: &Output, args: &OneArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let id = rest::sandbox_id(&client, &args.sandbox).await?;
    let list = client.processes(&id).await?;
    if output.json {
        return output.document(&list.processes);
    }
    let rows = list.processes.into_iter().map(|p| {
        let cpu = format!("{:.2}s", std::time::Duration::from_micros(p.cpu_usec).as_secs_f64());
        [p.pid.to_string(), p.ppid.to_string(), p.uid.to_string(), format_bytes(p.rss_bytes), cpu, p.command]
    });
    output.table(["PID", "PARENT", "UID", "MEMORY", "CPU", "COMMAND"], rows.collect())
}

/// Shows what it uses.
pub async fn stats(global: &Global, output: &Output, args: &OneArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let id = rest::sandbox_id(&client, &args.sandbox).await?;
    let stats = client.sandbox_stats(&id).await?;
    if output.json {
        return output.document(&stats);
    }
    let limit = stats.memory_limit_bytes.map(|limit| format!(" of {}", format_bytes(limit))).unwrap_or_default();
    let peak =
        stats.memory_peak_bytes.map(|peak| format!(", {} at its highest", format_bytes(peak))).unwrap_or_default();
    output.line(&format!("memory     {}{limit}{peak}", format_bytes(stats.memory_bytes)))?;
    output.line(&format!("cpu        {:.2}s", std::time::Duration::from_micros(stats.cpu_usec).as_secs_f64()))?;
    output.line(&format!("processes  {}", stats.pids))?;
    output.line(&format!("oom kills  {}", stats.oom_kills))
}

/// Shows what happened to it.
pub async fn explain(global: &Global, output: &Output, args: &OneArgs) -> Result<(), Failure> {
    let client = rest::client(global)?;
    let id = rest::sandbox_id(&client, &args.sandbox).await?;
    let explained = client.explain(&id).await?;
    if output.json {
        return output.document(&explained);
    }
    let sandbox = &explained.sandbox;
    let how = if sandbox.from_pool { ", from the pool" } else { "" };
    output.line(&format!("{id}  {}  {} ({}){how}", sandbox.state, sandbox.isolation, sandbox.driver))?;
    for step in &explained.steps {
        let times = if step.times > 1 { format!(" ({} times)", step.times) } else { String::new() };
        output.line(&format!("{:>10} ms  {}{times}", step.after_ms, step.what))?;
    }
    match &sandbox.message {
        Some(message) => output.line(message),
        None => Ok(()),
    }
}
