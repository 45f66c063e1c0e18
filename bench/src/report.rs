//! docs/benchmarks.md, from the samples that are kept.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;

use crate::machine::Machine;
use crate::samples::{self, Line, Sample};
use crate::scenarios::{SCENARIOS, Scenario};
use crate::statistics::{Summary, summary};

/// What is shown of one run for one scenario.
struct Shown {
    file: String,
    date: String,
    commit: String,
    machine: Machine,
    rivals: Vec<String>,
    /// Series in the order they were first measured.
    series: Vec<(String, String, Summary)>,
}

/// The document, from the newest run of each scenario.
pub fn render(results: &Path) -> anyhow::Result<String> {
    let mut newest: BTreeMap<&str, Shown> = BTreeMap::new();
    for path in samples::files(results)? {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let lines = samples::read(&path)?;
        for scenario in &SCENARIOS {
            if let Some(shown) = shown(scenario.id, &file, &lines).with_context(|| format!("in {file}"))? {
                newest.insert(scenario.id, shown);
            }
        }
    }
    let mut out = INTRODUCTION.to_owned();
    for scenario in &SCENARIOS {
        section(&mut out, scenario, newest.get(scenario.id))?;
    }
    Ok(out)
}

fn shown(id: &str, file: &str, lines: &[Line]) -> anyhow::Result<Option<Shown>> {
    let Some(Line::Run { date, commit, machine, rivals }) = lines.first() else {
        anyhow::bail!("the first line does not say where and when");
    };
    let mut series: Vec<(String, String, Vec<f64>)> = Vec::new();
    for line in lines {
        let Line::Sample(Sample { scenario, subject, unit, value }) = line else { continue };
        if scenario != id {
            continue;
        }
        match series.iter_mut().find(|(known, ..)| known == subject) {
            Some((.., values)) => values.push(*value),
            None => series.push((subject.clone(), unit.clone(), vec![*value])),
        }
    }
    if series.is_empty() {
        return Ok(None);
    }
    Ok(Some(Shown {
        file: file.to_owned(),
        date: date.clone(),
        commit: commit.clone(),
        machine: machine.clone(),
        rivals: rivals.clone(),
        series: series.into_iter().filter_map(|(s, unit, values)| Some((s, unit, summary(&values)?))).collect(),
    }))
}

fn section(out: &mut String, scenario: &Scenario, shown: Option<&Shown>) -> std::fmt::Result {
    write!(out, "\n## {}: {}\n\n{}\n\n", scenario.id, scenario.title, scenario.method)?;
    let Some(shown) = shown else { return writeln!(out, "Not measured yet.") };
    let m = &shown.machine;
    writeln!(
        out,
        "{}, revision {}, on {} × {}, {} MiB, Linux {}, cgroups {}. Beside it: {}. Samples: [{}](../bench/results/{}).\n",
        shown.date,
        shown.commit,
        m.cores,
        m.cpu,
        m.memory_mib,
        m.kernel,
        m.cgroups,
        shown.rivals.join("; "),
        shown.file,
        shown.file
    )?;
    out.push_str("| series | unit | n | p50 | p95 | p99 | max |\n|---|---|---:|---:|---:|---:|---:|\n");
    for (subject, unit, s) in &shown.series {
        let [p50, p95, p99, max] = [s.p50, s.p95, s.p99, s.max].map(number);
        writeln!(out, "| {subject} | {unit} | {} | {p50} | {p95} | {p99} | {max} |", s.count)?;
    }
    if let Some(promise) = &scenario.promise {
        let of = |wanted: &str| shown.series.iter().find(|(subject, ..)| subject == wanted).map(|(.., s)| *s);
        let verdict = match (promise.kept)(&of) {
            Some(true) => "met",
            Some(false) => "**not met**",
            None => "not measured",
        };
        writeln!(out, "\nPromised: {}: {verdict}.", promise.words)?;
    }
    compare(out, scenario.beside, &shown.series)
}

/// Says where a rival is ahead, in so many words.
fn compare(out: &mut String, beside: &[(&str, &str)], series: &[(String, String, Summary)]) -> std::fmt::Result {
    let last = series.iter().rfind(|(subject, ..)| subject.starts_with("moat"));
    for (name, _, rival) in series.iter().filter(|(subject, ..)| !subject.starts_with("moat")) {
        let ours = match beside.iter().find(|(_, rival)| rival == name) {
            Some((ours, _)) => series.iter().find(|(subject, ..)| subject == ours),
            None => last,
        };
        let Some((our_name, unit, our)) = ours else { continue };
        let more_is_better = unit.contains("/s");
        let ratio = if more_is_better { our.p50 / rival.p50 } else { rival.p50 / our.p50 };
        let verdict = match ratio {
            // Rounds differ by more than this from one run to the next.
            r if (0.9..=1.1).contains(&r) => "a tie".to_owned(),
            r if r > 1.0 => format!("{r:.1} × better at p50"),
            r => format!("**the rival is {:.1} × better at p50**", 1.0 / r),
        };
        writeln!(out, "\n`{our_name}` against `{name}`: {verdict}.")?;
    }
    Ok(())
}

fn number(value: f64) -> String {
    match value {
        v if v >= 1000.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

const INTRODUCTION: &str = "\
# Benchmarks

Generated by `cargo xtask bench` from the samples in `bench/results`; a test fails if they differ.

How: release build; every scenario runs alone on the machine, ours and the rivals' rounds interleaved so that both meet the
same noise; percentiles by nearest rank over raw samples, which are kept and never edited. What a faster rival leaves out
is said where it is. Differences of less than a tenth at p50 are called a tie.
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{document, results_dir};

    #[test]
    fn the_document_is_up_to_date() {
        let text = render(&results_dir()).unwrap();
        if std::env::var_os("MOAT_REGENERATE").is_some() {
            std::fs::write(document(), &text).unwrap();
        }
        assert!(std::fs::read_to_string(document()).unwrap_or_default() == text, "run `cargo xtask gen`");
    }

    #[test]
    fn a_rival_that_wins_is_named() {
        let summary = |p50| Summary { count: 1, p50, p95: p50, p99: p50, max: p50 };
        let row = |name: &str, unit: &str, p50| (name.to_owned(), unit.to_owned(), summary(p50));
        let mut out = String::new();
        compare(&mut out, &[], &[row("moat: a", "ms", 6.0), row("b", "ms", 3.0), row("c", "ms", 60.0)]).unwrap();
        assert!(out.contains("the rival is 2.0 × better"), "{out}");
        assert!(out.contains("10.0 × better at p50"), "{out}");
        let mut out = String::new();
        compare(&mut out, &[], &[row("moat: a", "lines/s", 6.0), row("b", "lines/s", 3.0)]).unwrap();
        assert!(out.contains("2.0 × better at p50") && !out.contains("rival"), "{out}");
    }

    #[test]
    fn a_rival_is_compared_with_what_does_the_same() {
        let summary = |p50| Summary { count: 1, p50, p95: p50, p99: p50, max: p50 };
        let row = |name: &str, unit: &str, p50| (name.to_owned(), unit.to_owned(), summary(p50));
        let series = [row("moat: boot", "ms", 3.0), row("by hand", "ms", 6.0), row("moat: memory", "MiB", 60.0)];
        let mut out = String::new();
        compare(&mut out, &[("moat: boot", "by hand")], &series).unwrap();
        assert!(out.contains("`moat: boot` against `by hand`: 2.0 × better"), "{out}");
    }
}
