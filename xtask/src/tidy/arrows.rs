//! Which crate may use which.

use super::Finding;
use super::tree::{Package, Tree};

/// The table of ARCHITECTURE.md: a crate and what it may use. What is not here may not exist.
const ARROWS: [(&str, &[&str]); 18] = [
    ("moat-model", &[]),
    ("moat-agent", &["moat-model"]),
    ("moat-image", &["moat-model"]),
    ("moat-engine", &["moat-model", "moat-agent"]),
    // A crate of its own: formats of kernels and their compressions, which only drivers of machines and one command need.
    ("moat-guest", &[]),
    ("moat-drivers", &["moat-model", "moat-agent", "moat-image", "moat-engine", "moat-guest"]),
    // A crate of its own: netlink and the resolver are heavy, and no driver needs them.
    ("moat-net", &["moat-model", "moat-engine"]),
    ("moat-api", &["moat-model"]),
    // A crate of its own: the command line reads job files without linking a node's libraries, and its trees are heavy.
    ("moat-formats", &["moat-model"]),
    // A crate of its own: nothing in it may do I/O, and it is simulated without a node.
    ("moat-scheduler", &["moat-model"]),
    // A crate of its own: what runs in the child that fetches must link nothing of the daemon.
    ("moat-getter", &["moat-model"]),
    // A crate of its own: its program runs in jails and links nothing of ours.
    ("moat-shims", &[]),
    (
        "moat-node",
        &[
            "moat-model",
            "moat-agent",
            "moat-image",
            "moat-engine",
            "moat-guest",
            "moat-drivers",
            "moat-net",
            "moat-api",
            "moat-formats",
            "moat-scheduler",
            "moat-getter",
            "moat-shims",
        ],
    ),
    ("moat-cli", &["moat-model", "moat-api", "moat-formats", "moat-node"]),
    // Not shipped.
    ("moat-testkit", &["moat-model"]),
    (
        "moat-bench",
        &[
            "moat-model",
            "moat-agent",
            "moat-image",
            "moat-engine",
            "moat-drivers",
            "moat-net",
            "moat-api",
            "moat-node",
            "moat-scheduler",
            "moat-testkit",
        ],
    ),
    ("xtask", &[]),
    ("echo-service", &[]),
];

/// What the tests of any crate may use besides: the test kit, the conformance suite, the model, and what a machine is made of.
const TESTS_MAY_USE: [&str; 6] = ["moat-testkit", "moat-engine", "moat-model", "moat-api", "moat-guest", "moat-image"];

/// Crates that must stay free of others, directly: who and why not what.
const PURITY: [(&str, &[&str]); 5] = [
    ("moat-model", &["tokio", "async-nats", "rustix", "libc", "rand", "axum", "uuid", "tempfile"]),
    ("moat-agent", &["async-nats", "axum", "rustls"]),
    ("moat-scheduler", &["tokio", "async-nats", "rustix", "libc", "rand", "axum", "uuid", "tempfile"]),
    ("moat-formats", &["tokio", "async-nats", "rustix", "libc", "axum"]),
    ("moat-engine", &["async-nats", "axum", "rustix", "libc"]),
];

/// Arrows between members against the table.
pub fn arrows(tree: &Tree) -> Vec<Finding> {
    let names: Vec<&str> = tree.packages.iter().map(|p| p.name.as_str()).collect();
    let mut findings = Vec::new();
    for package in &tree.packages {
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == package.name) else {
            findings.push(Finding::new(&package.name, "is not in the table of crates"));
            continue;
        };
        let internal = |list: &[String]| -> Vec<String> {
            list.iter().filter(|name| names.contains(&name.as_str())).cloned().collect()
        };
        for used in internal(&package.uses).iter().filter(|used| !allowed.contains(&used.as_str())) {
            findings.push(Finding::new(&package.name, format!("uses {used}")));
        }
        for used in internal(&package.tests_use) {
            if !allowed.contains(&used.as_str()) && !TESTS_MAY_USE.contains(&used.as_str()) {
                findings.push(Finding::new(&package.name, format!("uses {used} in its tests")));
            }
        }
    }
    findings
}

/// Direct dependencies that a crate must not have.
pub fn purity(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, banned) in PURITY {
        let uses = tree.packages.iter().filter(|p| p.name == name).flat_map(|p: &Package| &p.uses);
        for used in uses.filter(|used| banned.contains(&used.as_str())) {
            findings.push(Finding::new(name, format!("uses {used}")));
        }
    }
    findings
}

/// Manifests without the workspace's lints.
pub fn lints(tree: &Tree) -> Vec<Finding> {
    let manifests = tree.files.iter().filter(|(path, _)| path.ends_with("/Cargo.toml") && !path.starts_with("fuzz/"));
    manifests
        .filter(|(_, text)| !text.contains("[lints]\nworkspace = true"))
        .map(|(path, _)| Finding::new(path, "has no `[lints] workspace = true`"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, uses: &[&str], tests_use: &[&str]) -> Package {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Package { name: name.to_owned(), uses: owned(uses), tests_use: owned(tests_use) }
    }

    #[test]
    fn an_arrow_against_the_table_is_found() {
        let packages = vec![
            package("moat-model", &["serde", "moat-engine"], &[]),
            package("moat-engine", &["moat-model"], &["moat-testkit", "moat-node"]),
            package("moat-node", &["moat-drivers"], &["moat-testkit"]),
            package("moat-testkit", &[], &[]),
            package("moat-extra", &[], &[]),
        ];
        let found = arrows(&Tree { packages, ..Tree::default() });
        let texts: Vec<&str> = found.iter().map(|Finding(text)| text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "moat-model: uses moat-engine",
                "moat-engine: uses moat-node in its tests",
                "moat-extra: is not in the table of crates"
            ]
        );
    }

    #[test]
    fn a_clock_or_a_broker_in_the_wrong_crate_is_found() {
        let packages = vec![package("moat-engine", &["async-nats"], &[]), package("moat-node", &["async-nats"], &[])];
        assert_eq!(purity(&Tree { packages, ..Tree::default() }).len(), 1);
    }

    #[test]
    fn a_manifest_without_lints_is_found() {
        let mut tree = Tree::default();
        tree.files.insert("crates/a/Cargo.toml".into(), "[package]\n\n[lints]\nworkspace = true\n".into());
        tree.files.insert("crates/b/Cargo.toml".into(), "[package]\n".into());
        assert_eq!(lints(&tree), [Finding::new("crates/b/Cargo.toml", "has no `[lints] workspace = true`")]);
    }
}
