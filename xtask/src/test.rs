//! Every test, with everything it needs.

use std::fs;

use anyhow::{Context, bail};

use crate::install::{Tool, guest, install_all};
use crate::process;
use crate::workspace::{cargo, path_with_tools, programs_dir, target_dir, tools_dir};

/// How hard some tests try: what is promised. A plain `cargo test` tries less, so that it stays quick.
const FULL: [(&str, &str); 3] =
    [("MOAT_TEST_OUTAGE_SECONDS", "30"), ("MOAT_TEST_FLOOD_BYTES", "1000000000"), ("MOAT_TEST_API_CALLS", "10000")];

/// Installs, builds, runs; the outcome is that of `cargo test`.
pub fn run(extra: &[String]) -> anyhow::Result<()> {
    install_all(&Tool::ALL);
    if !is_root() {
        eprintln!("xtask: not root: every test of a real sandbox will say that it did not run");
    }

    let not_run = target_dir().join("not-run.txt");
    fs::write(&not_run, "").context("empty the list of tests not run")?;
    let mut test = cargo();
    test.arg("test");
    let picks_package = extra.iter().take_while(|a| *a != "--").any(|a| a == "-p" || a.starts_with("--package"));
    if !picks_package {
        process::run(cargo().args(["build", "--workspace", "--bins"]))?;
        // A red crate must not hide what the others would have said.
        test.args(["--workspace", "--no-fail-fast"]).env("MOAT_PREBUILT", "1");
    }
    if !picks_package || !tools_dir().join("guest").is_dir() {
        build_guest();
    }
    test.args(extra).envs(FULL).env("MOAT_NOT_RUN", &not_run).env("MOAT_TOOLS", tools_dir());
    // What a test says of its failure is read in a log of which little is kept: the frames under it say nothing more.
    test.env("PATH", path_with_tools()).env("RUST_BACKTRACE", "0");
    let status = process::status(&mut test)?;

    let list = fs::read_to_string(&not_run).unwrap_or_default();
    let mut lines: Vec<&str> = list.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    println!("\n{} tests did not run here{}", lines.len(), if lines.is_empty() { "." } else { ":" });
    lines.iter().for_each(|line| println!("{line}"));
    if !status.success() {
        bail!("cargo test: {status}");
    }
    Ok(())
}

/// A failure is told, and the tests of virtual machines will say that they did not run.
fn build_guest() {
    let build = || {
        process::run(cargo().args(["build", "--workspace", "--bin", "moat"]))?;
        guest(&programs_dir("debug")?.join("moat"))
    };
    if let Err(error) = build() {
        eprintln!("xtask: no guest for virtual machines: {error:#}");
    }
}

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uid.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}
