//! Measures what SPECIFICATION.md promises, beside the rivals, and writes docs/benchmarks.md.
//!
//! `cargo xtask bench` builds it for release, installs the rivals and runs it. A scenario is an outcome a user can see, with
//! start and end written down; ours and the rivals' rounds are interleaved, so that both meet the same noise.

mod machine;
mod report;
mod rivals;
mod samples;
mod scenarios;
mod statistics;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use moat_testkit::workspace_root;

use crate::machine::Machine;
use crate::samples::Line;
use crate::scenarios::SCENARIOS;

#[derive(Debug, Parser)]
#[command(name = "moat-bench")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Measures, keeps the samples, and writes the document.
    Measure {
        /// Ids of scenarios; if none is named, all but those that take very long.
        scenarios: Vec<String>,
        /// Revision the samples belong to.
        #[arg(long)]
        commit: String,
    },
    /// Writes the document again from the samples kept.
    Report,
}

fn results_dir() -> PathBuf {
    workspace_root().join("bench/results")
}

fn document() -> PathBuf {
    workspace_root().join("docs/benchmarks.md")
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Measure { scenarios, commit } => measure(&scenarios, commit).await,
        Verb::Report => write_report(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("moat-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(wanted: &[String], commit: String) -> anyhow::Result<()> {
    if let Some(unknown) = wanted.iter().find(|id| !SCENARIOS.iter().any(|s| s.id == **id)) {
        let known: Vec<&str> = SCENARIOS.iter().map(|s| s.id).collect();
        bail!("no scenario {unknown}; there are {}", known.join(", "));
    }
    if !moat_testkit::is_root() {
        bail!("sandboxes are made as root");
    }
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        bail!("another TLS provider is installed already");
    }
    let _alone = moat_testkit::exclusive()?;
    let machine = Machine::here();
    let now = time::OffsetDateTime::now_utc();
    let date = now.format(&time::format_description::well_known::Rfc3339).context("format the date")?;
    let stamp = now.format(time::macros::format_description!("[year]-[month]-[day]-[hour][minute][second]"))?;
    let path = results_dir().join(format!("{stamp}-{}.jsonl", machine.fingerprint()));

    let mut lines = vec![Line::Run { date, commit, machine, rivals: rivals::versions() }];
    let mut failed = Vec::new();
    let named = |id: &str| wanted.iter().any(|named| named == id);
    for scenario in SCENARIOS.iter().filter(|s| named(s.id) || (wanted.is_empty() && !s.by_hand)) {
        eprintln!("{} {} …", scenario.id, scenario.title);
        match scenario.run().await {
            Ok(samples) => lines.extend(samples.into_iter().map(Line::Sample)),
            Err(error) => {
                eprintln!("{}: {error:#}", scenario.id);
                failed.push(scenario.id);
            }
        }
    }
    if lines.len() > 1 {
        samples::write(&path, &lines)?;
        write_report()?;
        eprintln!("samples: {}\ndocument: {}", path.display(), document().display());
    }
    if !failed.is_empty() {
        bail!("not measured: {}", failed.join(", "));
    }
    Ok(())
}

fn write_report() -> anyhow::Result<()> {
    let text = report::render(&results_dir())?;
    std::fs::write(document(), text).context("write docs/benchmarks.md")
}
