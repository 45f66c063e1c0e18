//! Measuring: builds for release, installs the rivals, leaves the rest to `moat-bench`.

use std::process::Command;

use crate::install::{Tool, install, install_all};
use crate::process::{self, output};
use crate::workspace::{cargo, path_with_tools, programs_dir, root, tools_dir};

/// Measures the scenarios named, or all; or only writes the document again.
pub fn run(scenarios: &[String], report_only: bool) -> anyhow::Result<()> {
    if report_only {
        return process::run(cargo().args(["run", "--quiet", "--package", "moat-bench", "--", "report"]));
    }
    install(Tool::NatsServer)?;
    install_all(&[Tool::Busybox, Tool::Runc, Tool::Bwrap, Tool::Nft]);
    install_all(&[Tool::Umoci, Tool::Skopeo, Tool::Registry, Tool::DebianRoot, Tool::Mkxfs]);
    process::run(cargo().args(["build", "--release", "--workspace", "--bins"]))?;
    // The program just built, not `cargo run`: that would choose features for one package and build half of it again.
    let mut bench = Command::new(programs_dir("release")?.join("moat-bench"));
    bench.current_dir(root()).args(["measure", "--commit", &revision()]);
    process::run(
        bench.args(scenarios).env("MOAT_TOOLS", tools_dir()).env("MOAT_PREBUILT", "1").env("PATH", path_with_tools()),
    )
}

/// Short revision, `+` if the tree has changes; `unknown` without git.
fn revision() -> String {
    let git = |args: &[&str]| output(Command::new("git").current_dir(root()).args(args));
    let Ok(head) = git(&["rev-parse", "--short", "HEAD"]) else { return "unknown".to_owned() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_ok_and(|text| !text.trim().is_empty());
    format!("{}{}", head.trim(), if changed { "+" } else { "" })
}
