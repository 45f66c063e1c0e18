//! Raw samples on disk: one file per run, one JSON object per line, never edited afterwards.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// A line of a results file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "line")]
pub enum Line {
    /// The first line: where and when.
    Run {
        /// UTC, RFC 3339.
        date: String,
        /// Revision of the source, with `+` if it had changes.
        commit: String,
        /// The machine.
        machine: Machine,
        /// Programs measured beside ours, with their versions.
        rivals: Vec<String>,
    },
    /// One measurement.
    Sample(Sample),
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Scenario id.
    pub scenario: String,
    /// What was measured.
    pub subject: String,
    /// `ms`, `lines/s`, `Gbit/s` or `% off`.
    pub unit: String,
    /// How much.
    pub value: f64,
}

impl Sample {
    /// A duration.
    pub fn time(scenario: &str, subject: &str, taken: std::time::Duration) -> Self {
        Self::new(scenario, subject, "ms", taken.as_secs_f64() * 1000.0)
    }

    /// Lines of log per second.
    pub fn rate(scenario: &str, subject: &str, lines: u64, taken: std::time::Duration) -> Self {
        Self::new(scenario, subject, "lines/s", lines as f64 / taken.as_secs_f64())
    }

    /// Of another unit.
    pub fn new(scenario: &str, subject: &str, unit: &str, value: f64) -> Self {
        Self { scenario: scenario.to_owned(), subject: subject.to_owned(), unit: unit.to_owned(), value }
    }
}

/// Writes a new file; refuses to touch one that exists.
pub fn write(path: &Path, lines: &[Line]) -> anyhow::Result<()> {
    let mut text = String::new();
    for line in lines {
        writeln!(text, "{}", serde_json::to_string(line)?)?;
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let mut file = fs::File::create_new(path).with_context(|| format!("create {}", path.display()))?;
    std::io::Write::write_all(&mut file, text.as_bytes()).context("write the samples")
}

/// All result files, oldest first: their names begin with the date.
pub fn files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "jsonl")).collect();
    files.sort();
    Ok(files)
}

/// Reads one.
pub fn read(path: &Path) -> anyhow::Result<Vec<Line>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let lines = text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("in {}", path.display())));
    lines.collect()
}
