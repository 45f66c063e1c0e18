//! `docs/metrics.md`, from the table of numbers.

use std::fmt::Write as _;

use super::NUMBERS;

const HEAD: &str = "\
# Metrics

<!-- generated from crates/node/src/metrics/numbers.rs: cargo xtask gen writes it -->

A node serves its numbers for Prometheus at `/metrics` and says at `/healthz` whether it works, if `metrics_listen` in its
configuration names an address (see [config.md](config.md)). Take one on the loopback, such as `127.0.0.1:8085`: the
numbers name namespaces, and nobody is asked who they are.

`/healthz` answers `200` while the daemon works and `503` once one of its actors has ended with a bug. A NATS that is away
is not a fault of the node: the body says so, the status stays `200`.

Counters start at zero with each daemon. Gauges are read at the moment of the scrape.

| name | kind | labels | meaning |
|---|---|---|---|
";

/// The text of `docs/metrics.md`.
pub fn markdown() -> String {
    let mut text = HEAD.to_owned();
    for number in NUMBERS {
        let labels: Vec<String> = number.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind, labels, meaning) = (number.name, number.kind.as_str(), labels.join(", "), number.meaning);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| `{name}` | {kind} | {labels} | {meaning} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_document_is_what_the_table_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
        if std::env::var_os("MOAT_REGENERATE").is_some() {
            std::fs::write(&path, markdown()).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(written == markdown(), "docs/metrics.md differs: cargo xtask gen writes it anew");
    }

    #[test]
    fn names_carry_their_unit_and_are_distinct() {
        let mut names: Vec<_> = NUMBERS.iter().map(|number| number.name).collect();
        for number in NUMBERS {
            assert!(number.name.starts_with("moat_"), "{}", number.name);
            assert_eq!(number.name.ends_with("_total"), number.kind == super::super::Kind::Counter, "{}", number.name);
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), NUMBERS.len());
    }
}
