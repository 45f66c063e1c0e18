//! `moat node preflight`: whether this machine can be a node, and the command that would make it one.

use std::process::ExitCode;

use clap::Args;
use moat_model::{ErrorKind, Isolation};
use moat_node::config::MACHINE_DRIVERS;
use moat_node::preflight::{Need, Report, Requirement};
use owo_colors::Style;
use serde::Serialize;

use super::node::NodeArgs;
use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;

/// For which configuration.
#[derive(Debug, Args)]
pub struct PreflightArgs {
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Serialize)]
struct Examined<'a> {
    ready: bool,
    #[serde(flatten)]
    report: &'a Report,
}

/// Says it, requirement by requirement. Exits with 3 if a node that gives the configured isolation would not work here.
pub async fn run(global: &Global, output: &Output, args: &PreflightArgs) -> Result<ExitCode, Failure> {
    let config = args.node.config(global)?;
    let report = moat_node::preflight::report(&config).await;
    let ready = ready(&report, config.isolation);
    if output.json {
        output.document(&Examined { ready, report: &report })?;
    } else {
        show(output, &report)?;
        let verdict = if ready { "this machine can be a node" } else { "this machine cannot be a node yet" };
        output.line(&format!("\n{verdict} (isolation {})", config.isolation))?;
    }
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::from(ErrorKind::Unsupported.cli_exit()) })
}

/// Nothing required is missing for the node itself and its connection, and a driver works that gives this isolation.
fn ready(report: &Report, isolation: Isolation) -> bool {
    let works = |name: &str| {
        let mut sections = report.sections.iter().filter(|section| section.name == name).peekable();
        let there = sections.peek().is_some();
        there && sections.flat_map(|s| &s.requirements).all(|r| r.met || r.need != Need::Required)
    };
    let broken = report.sections.iter().any(|section| section.name == "drivers") && !works("drivers");
    let gives = match isolation {
        Isolation::Process => works("process"),
        Isolation::Container => works("container") || MACHINE_DRIVERS.into_iter().any(works),
        Isolation::Microvm => MACHINE_DRIVERS.into_iter().any(works),
    };
    works("node") && works("nats") && !broken && gives
}

fn show(output: &Output, report: &Report) -> Result<(), Failure> {
    let rows = report.sections.iter().flat_map(|section| {
        section.requirements.iter().map(|requirement| {
            [section.name.clone(), requirement.name.clone(), state(output, requirement), requirement.fact.clone()]
        })
    });
    output.table(["FOR", "REQUIREMENT", "STATE", "FACT"], rows.collect())?;
    let fixes: Vec<_> = report
        .sections
        .iter()
        .flat_map(|section| &section.requirements)
        .filter(|requirement| !requirement.met)
        .filter_map(|requirement| requirement.fix.as_ref().map(|fix| (&requirement.name, fix)))
        .collect();
    if fixes.is_empty() {
        return Ok(());
    }
    output.line("\nto fix:")?;
    fixes.into_iter().try_for_each(|(name, fix)| output.line(&format!("  {name}: {fix}")))
}

fn state(output: &Output, requirement: &Requirement) -> String {
    match (requirement.met, requirement.need) {
        (true, _) => output.styled("met", Style::new().green()),
        (false, Need::Required) => output.styled("NOT MET", Style::new().red().bold()),
        (false, Need::Optional) => output.styled("not met (optional)", Style::new().yellow()),
    }
}
