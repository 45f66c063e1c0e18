//! The project's own rules: what a compiler and clippy cannot know. Each has a one-line reason and a test of its own.

mod arrows;
mod documents;
mod sources;
mod tree;

use anyhow::bail;

pub use self::tree::Tree;

/// Something a rule found: where, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding(String);

impl Finding {
    fn new(place: impl std::fmt::Display, what: impl std::fmt::Display) -> Self {
        Self(format!("{place}: {what}"))
    }
}

/// A rule of the project.
struct Rule {
    name: &'static str,
    reason: &'static str,
    find: fn(&Tree) -> Vec<Finding>,
}

const RULES: [Rule; 15] = [
    Rule {
        name: "arrows",
        reason: "a crate may use only what its row in the table says, so that boundaries are the compiler's business",
        find: arrows::arrows,
    },
    Rule {
        name: "purity",
        reason: "model does no I/O and reads no clock; the engine knows no broker and no driver",
        find: arrows::purity,
    },
    Rule {
        name: "lints",
        reason: "a crate without `[lints] workspace = true` is checked by nothing",
        find: arrows::lints,
    },
    Rule {
        name: "processes",
        reason: "only drivers and the agent start processes; a daemon that forks elsewhere runs our code after a fork",
        find: sources::processes,
    },
    Rule {
        name: "nats",
        reason: "NATS is spoken at the edge, in node's adapters and api's client; inside are clean types",
        find: sources::nats,
    },
    Rule {
        name: "clock",
        reason: "model gets time inside events, or its property tests prove nothing",
        find: sources::clock,
    },
    Rule { name: "names", reason: "a module called utils has no idea of its own", find: sources::names },
    Rule { name: "length", reason: "a file over 900 lines holds two ideas", find: sources::length },
    Rule { name: "unfinished", reason: "a stub in the tree is a promise nobody keeps", find: sources::unfinished },
    Rule {
        name: "ignored",
        reason: "a test is never skipped in silence: it says that it did not run",
        find: sources::ignored,
    },
    Rule { name: "places", reason: "a path of one machine means nothing on another", find: sources::places },
    Rule { name: "links", reason: "a link to nothing is worse than no link", find: documents::links },
    Rule { name: "overview", reason: "nobody reads an overview of 300 lines", find: documents::overview },
    Rule {
        name: "promises",
        reason: "a promise or a security claim without a test or a benchmark that exists is marked unproven",
        find: documents::promises,
    },
    Rule {
        name: "documents",
        reason: "a newcomer finds the same documents in every project",
        find: documents::present,
    },
];

/// Applies every rule to this checkout.
pub fn run() -> anyhow::Result<()> {
    let tree = Tree::load()?;
    let mut broken = 0;
    for rule in RULES {
        let findings = (rule.find)(&tree);
        if findings.is_empty() {
            continue;
        }
        broken += 1;
        eprintln!("tidy: {}: {}", rule.name, rule.reason);
        findings.iter().for_each(|Finding(text)| eprintln!("    {text}"));
    }
    if broken > 0 {
        bail!("tidy: {broken} of {} rules are broken", RULES.len());
    }
    eprintln!("tidy: {} rules hold", RULES.len());
    Ok(())
}
