//! All automation of the project, behind verbs that stay the same as it grows.

mod bench;
mod check;
mod demo;
mod gen_files;
mod install;
mod process;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Everything this project automates", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Formatting, clippy and the project's own rules (`tidy`).
    Check {
        /// Only the project's own rules, which need no build.
        #[arg(long)]
        tidy: bool,
    },
    /// Installs what the tests drive, builds once, runs every test, lists what could not run here.
    Test {
        /// Passed to `cargo test --workspace`, for example `-p moat-engine` or `-- recovery`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        cargo: Vec<String>,
    },
    /// Shows a whole node at work: build, start, deploy, call, look, stop.
    Demo {
        /// Leave it running and say how to use and stop it.
        #[arg(long)]
        keep: bool,
    },
    /// Measures the promises of SPECIFICATION.md beside the rivals and writes docs/benchmarks.md.
    Bench {
        /// Scenarios to run, by id (`T2`); all of them if none is named.
        scenarios: Vec<String>,
        /// Writes the document again from the newest results, without measuring.
        #[arg(long)]
        report_only: bool,
    },
    /// Writes again every file that a test compares with the code.
    Gen,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Check { tidy: true } => tidy::run(),
        Verb::Check { tidy: false } => check::run(),
        Verb::Test { cargo } => test::run(&cargo),
        Verb::Demo { keep } => demo::run(keep),
        Verb::Bench { scenarios, report_only } => bench::run(&scenarios, report_only),
        Verb::Gen => gen_files::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
