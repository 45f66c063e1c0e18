//! What a run of the suite found, for people.

use std::fmt::Write as _;

use moat_model::Isolation;
use serde::Serialize;

/// What a run of the suite over one driver on one host found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Name of the driver.
    pub driver: String,
    /// What it gives.
    pub isolation: Isolation,
    /// The host, as the profile describes it.
    pub host: String,
    /// Each case, in order.
    pub results: Vec<CaseResult>,
}

/// What came of one case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaseResult {
    /// Its id, which never changes meaning.
    pub id: &'static str,
    /// What it is about.
    pub group: &'static str,
    /// What it demands.
    pub title: &'static str,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome", content = "why")]
pub enum Outcome {
    /// The driver does it.
    Passed,
    /// It does not.
    Failed(String),
    /// The driver says itself that it cannot.
    NotSupported(String),
    /// This host or profile lacks something.
    NotRun(String),
}

const HEAD: &str = "\
# Conformance of drivers

<!-- Written by the conformance suite (`moat_engine::conformance`) with MOAT_REGENERATE=1. Do not edit. -->

Each driver runs the same cases against its contract, which is the documentation of the trait
`moat_engine::driver::Driver`. *Not supported*: the driver says itself that it cannot. *Not run*: the host or the profile
lacks what is named.
";

impl Report {
    /// The failures, one line each.
    pub fn failures(&self) -> Vec<String> {
        self.results
            .iter()
            .filter_map(|result| match &result.outcome {
                Outcome::Failed(why) => Some(format!("{} {}: {why}", result.id, result.title)),
                _ => None,
            })
            .collect()
    }

    /// What was not run and why, for tests to print.
    pub fn not_run(&self) -> Vec<(&'static str, &str)> {
        self.results
            .iter()
            .filter_map(|result| match &result.outcome {
                Outcome::NotRun(why) => Some((result.id, why.as_str())),
                _ => None,
            })
            .collect()
    }

    /// The section of this driver in `docs/drivers/conformance.md`.
    pub fn to_markdown(&self) -> String {
        let mut out = format!("## {}\n\nIsolation `{}`. Host: {}.\n\n", self.driver, self.isolation, self.host);
        out.push_str("| case | about | demand | result |\n|---|---|---|---|\n");
        for CaseResult { id, group, title, outcome } in &self.results {
            let result = match outcome {
                Outcome::Passed => "pass".to_owned(),
                Outcome::Failed(why) => format!("**fail**: {}", one_line(why)),
                Outcome::NotSupported(why) => format!("not supported: {}", one_line(why)),
                Outcome::NotRun(why) => format!("not run: {}", one_line(why)),
            };
            // Writing to a string cannot fail.
            let _ = writeln!(out, "| {id} | {group} | {title} | {result} |");
        }
        out
    }
}

fn one_line(text: &str) -> String {
    text.replace('|', "\\|").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The document with the section of this driver replaced, or added; sections are in order of the drivers' names.
pub fn update_document(document: &str, report: &Report) -> String {
    let mut sections: Vec<String> = document
        .split("\n## ")
        .skip(1)
        .map(|section| format!("## {}\n", section.trim_end()))
        .filter(|section| section.lines().next() != Some(&format!("## {}", report.driver)))
        .collect();
    sections.push(report.to_markdown());
    sections.sort();
    format!("{HEAD}\n{}", sections.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(driver: &str, outcome: Outcome) -> Report {
        let result = CaseResult { id: "C01", group: "lifecycle", title: "lives", outcome };
        Report {
            driver: driver.to_owned(),
            isolation: Isolation::Container,
            host: "here".into(),
            results: vec![result],
        }
    }

    #[test]
    fn a_document_keeps_the_sections_of_other_drivers() {
        let first = update_document("", &report("process", Outcome::Passed));
        let both = update_document(&first, &report("container", Outcome::Failed("a | b\nc".into())));
        assert!(both.contains("## container") && both.contains("## process"));
        assert!(both.find("## container") < both.find("## process"));
        assert!(both.contains("**fail**: a \\| b c"));
        let again = update_document(&both, &report("container", Outcome::Failed("a | b\nc".into())));
        assert_eq!(again, both);
        assert!(!update_document(&both, &report("container", Outcome::Passed)).contains("fail"));
    }
}
