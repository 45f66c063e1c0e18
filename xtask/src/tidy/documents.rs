//! Rules about documents.

use std::path::{Component, Path};

use super::Finding;
use super::tree::Tree;
use crate::workspace::root;

/// Longest overview.
const OVERVIEW_LINES_MAX: usize = 299;

const DOCUMENTS: [&str; 6] =
    ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "SPECIFICATION.md", "SECURITY.md", "docs/operations.md"];

/// Documents in which every row of a table is a promise.
const PROMISING: [&str; 2] = ["SPECIFICATION.md", "SECURITY.md"];

/// Documents that must be there.
pub fn present(tree: &Tree) -> Vec<Finding> {
    let missing = DOCUMENTS.iter().filter(|name| !tree.files.contains_key(**name));
    missing.map(|name| Finding::new(name, "is missing")).collect()
}

/// The overview's length.
pub fn overview(tree: &Tree) -> Vec<Finding> {
    let lines = tree.files.get("ARCHITECTURE.md").map_or(0, |text| text.lines().count());
    if lines <= OVERVIEW_LINES_MAX {
        Vec::new()
    } else {
        vec![Finding::new("ARCHITECTURE.md", format!("{lines} lines"))]
    }
}

/// Local links that lead nowhere.
pub fn links(tree: &Tree) -> Vec<Finding> {
    links_where(tree, |path| root().join(path).exists())
}

fn links_where(tree: &Tree, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.documents() {
        for (line, number) in text.lines().zip(1..) {
            for target in targets(line) {
                if !exists(&resolved(path, target)) {
                    findings.push(Finding::new(format!("{path}:{number}"), format!("{target} does not exist")));
                }
            }
        }
    }
    findings
}

/// Targets of `[text](target)` that are files of ours, without their anchors.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    let raw = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let files = raw.filter(|t| !t.contains("://") && !t.starts_with('#') && !t.starts_with("mailto:"));
    files.map(|t| t.split('#').next().unwrap_or(t)).filter(|t| !t.is_empty())
}

/// `target` as seen from the document at `path`, relative to the root.
fn resolved(path: &str, target: &str) -> String {
    let joined = Path::new(path).parent().unwrap_or(Path::new("")).join(target);
    let mut parts: Vec<String> = Vec::new();
    for part in joined.components() {
        match part {
            Component::ParentDir => drop(parts.pop()),
            Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            _ => {}
        }
    }
    parts.join("/")
}

/// Rows of promise tables: the last cell names `path::test` for each proof, a benchmark `bench T2`, or says `unproven`.
pub fn promises(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in PROMISING {
        let text = tree.files.get(name).map_or("", String::as_str);
        for (line, number) in text.lines().zip(1..) {
            let Some(proof) = proof_cell(line) else { continue };
            let place = format!("{name}:{number}");
            if proof.starts_with("unproven") {
                continue;
            }
            let proofs: Vec<&str> = proof.split('`').skip(1).step_by(2).collect();
            if proofs.is_empty() {
                findings.push(Finding::new(&place, "names no test, no benchmark, and is not marked unproven"));
            }
            for proof in proofs.into_iter().filter(|proof| !is_proof(tree, proof)) {
                findings.push(Finding::new(&place, format!("`{proof}` does not exist")));
            }
        }
    }
    findings
}

/// The last cell of a row whose first is an id: letters, then digits, then perhaps one more letter.
fn proof_cell(line: &str) -> Option<&str> {
    let cells: Vec<&str> = line.strip_prefix('|')?.trim_end().strip_suffix('|')?.split('|').map(str::trim).collect();
    let id = cells.first()?.trim_start_matches(|c: char| c.is_ascii_uppercase());
    let is_id = id.starts_with(|c: char| c.is_ascii_digit()) && id.len() <= 3 && id.len() < cells.first()?.len();
    if is_id { cells.last().copied() } else { None }
}

fn is_proof(tree: &Tree, proof: &str) -> bool {
    if let Some(id) = proof.strip_prefix("bench ") {
        let quoted = format!("\"{id}\"");
        return tree.rust().any(|(path, text)| path.starts_with("bench/") && text.contains(&quoted));
    }
    let Some((path, test)) = proof.rsplit_once("::") else { return false };
    tree.files.get(path).is_some_and(|text| text.contains(&format!("fn {test}(")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        Tree { files, ..Tree::default() }
    }

    #[test]
    fn a_link_to_nothing_is_found() {
        let text = "[a](../README.md#x) [b](gone.md) [c](https://example.org/d) [e](#here)";
        let tree = tree(&[("docs/a.md", text)]);
        let found = links_where(&tree, |path| path == "README.md");
        assert_eq!(found, [Finding::new("docs/a.md:1", "gone.md does not exist")]);
    }

    #[test]
    fn a_promise_without_proof_is_found() {
        let text = "\
| id | promise | proof |
|---|---|---|
| P1 | holds | `crates/a/src/b.rs::it_holds` |
| P2 | held once | `crates/a/src/b.rs::it_held` |
| P3 | is fast | `bench T2`, `bench T9` |
| P4 | will hold | unproven: needs KVM |
| P5 | is just said | trust us |
";
        let tree = tree(&[
            ("SPECIFICATION.md", text),
            ("crates/a/src/b.rs", "fn it_holds() {}"),
            ("bench/src/main.rs", "(\"T2\", run)"),
        ]);
        assert_eq!(
            promises(&tree),
            [
                Finding::new("SPECIFICATION.md:4", "`crates/a/src/b.rs::it_held` does not exist"),
                Finding::new("SPECIFICATION.md:5", "`bench T9` does not exist"),
                Finding::new("SPECIFICATION.md:7", "names no test, no benchmark, and is not marked unproven"),
            ]
        );
    }

    #[test]
    fn a_long_overview_and_a_missing_document_are_found() {
        let tree = tree(&[("ARCHITECTURE.md", &"x\n".repeat(300))]);
        assert_eq!(overview(&tree).len(), 1);
        assert_eq!(present(&tree).len(), DOCUMENTS.len() - 1);
    }
}
