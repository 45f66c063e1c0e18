//! Rules about source text.

use super::Finding;
use super::tree::Tree;

/// Longest source file.
const LINES_MAX: usize = 900;

/// Where processes may be started: path prefixes.
const MAY_START_PROCESSES: [&str; 12] =
    // In the command line, `moat up` starts its nats-server and `jail edit` the user's editor; images start credential
    // programs; networks start nft, artifacts the child that fetches, and git in it; services are started by the program
    // inside jails.
    [
        "crates/drivers/",
        "crates/agent/",
        "crates/image/",
        "crates/net/",
        "crates/getter/",
        "crates/shims/",
        "crates/testkit/",
        "crates/cli/src/nats_server.rs",
        "crates/cli/src/commands/jail/edit.rs",
        "xtask/",
        "bench/",
        "fuzz/",
    ];

/// Where NATS may be spoken: path prefixes.
const MAY_SPEAK_NATS: [&str; 20] = [
    "crates/node/src/nats/",
    // The state of jobs; the rest of them speaks to the store.
    "crates/node/src/jobs/buckets.rs",
    "crates/node/src/jobs/store.rs",
    "crates/node/src/jobs/serve.rs",
    "crates/node/src/jobs/tests/",
    "crates/node/src/jetstream.rs",
    "crates/node/src/publish/",
    "crates/node/src/stream",
    "crates/node/src/events/sender.rs",
    "crates/node/src/artifact/fetch.rs",
    "crates/node/src/preflight/nats.rs",
    // Server addresses are checked where they are read, by the client that will use them.
    "crates/node/src/config/resolve.rs",
    "crates/api/src/client",
    // Frames of a stream are NATS messages: kind and number ride in headers.
    "crates/api/src/stream/frame.rs",
    "crates/cli/src/session.rs",
    "crates/cli/src/nats_server.rs",
    "crates/testkit/",
    "bench/",
    "examples/",
    "fuzz/",
];

/// Module names that say nothing.
const EMPTY_NAMES: [&str; 10] =
    ["util", "utils", "common", "helper", "helpers", "manager", "misc", "shared", "base", "stuff"];

/// Processes started outside the crates that may.
pub fn processes(tree: &Tree) -> Vec<Finding> {
    outside(tree, &["Command::new(", "process::Command"], &MAY_START_PROCESSES, "starts a process")
}

/// NATS spoken outside the edge.
pub fn nats(tree: &Tree) -> Vec<Finding> {
    outside(tree, &[concat!("async", "_nats::")], &MAY_SPEAK_NATS, "speaks NATS")
}

fn outside(tree: &Tree, needles: &[&str], allowed: &[&str], what: &str) -> Vec<Finding> {
    let files = tree.sources().filter(|(path, _)| !allowed.iter().any(|prefix| path.starts_with(prefix)));
    files
        .flat_map(|(path, text)| {
            let hits = code_lines(text).filter(|(_, line)| needles.iter().any(|needle| line.contains(needle)));
            hits.map(|(number, _)| Finding::new(format!("{path}:{number}"), what)).collect::<Vec<_>>()
        })
        .collect()
}

/// Lines with their number, without those that are only a comment and without the tests at the end of the file.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let code = text.split_once("#[cfg(test)]\nmod tests {").map_or(text, |(code, _)| code);
    code.lines().zip(1..).map(|(line, number)| (number, line)).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// A clock read in the pure crate.
pub fn clock(tree: &Tree) -> Vec<Finding> {
    let clocks = ["Instant::now", "SystemTime::now", "OffsetDateTime::now", "std::fs", "std::net", "std::thread"];
    // An address is a value; whatever else is there talks to somebody.
    let value = |line: &str| line == "use std::net::Ipv4Addr;";
    let files = tree.sources().filter(|(path, _)| path.starts_with("crates/model/src/"));
    files
        .flat_map(|(path, text)| {
            let impure = |line: &str| !value(line) && clocks.iter().any(|clock| line.contains(clock));
            let hits = code_lines(text).filter(|(_, line)| impure(line));
            hits.map(|(number, _)| Finding::new(format!("{path}:{number}"), "is not pure")).collect::<Vec<_>>()
        })
        .collect()
}

/// Modules with names that say nothing.
pub fn names(tree: &Tree) -> Vec<Finding> {
    let is_empty_name = |path: &str| {
        let parts = path.trim_end_matches(".rs").split('/');
        parts.into_iter().any(|part| EMPTY_NAMES.contains(&part))
    };
    tree.rust().filter(|(path, _)| is_empty_name(path)).map(|(path, _)| Finding::new(path, "says nothing")).collect()
}

/// Files too long to hold one idea.
pub fn length(tree: &Tree) -> Vec<Finding> {
    let long = tree.rust().map(|(path, text)| (path, text.lines().count())).filter(|(_, lines)| *lines > LINES_MAX);
    long.map(|(path, lines)| Finding::new(path, format!("{lines} lines"))).collect()
}

/// Marks of unfinished work. Written in pieces here, or this file would be one.
pub fn unfinished(tree: &Tree) -> Vec<Finding> {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("todo", "!("), concat!("unimplemented", "!(")];
    // Nex has a placeholder that contains one of the words: only whole words count.
    let is_word = |line: &str, mark: &str| {
        let alone = |rest: Option<char>| !rest.is_some_and(|c| c.is_ascii_alphanumeric());
        line.match_indices(mark).any(|(at, _)| {
            let (before, from) = line.split_at(at);
            let after = from.strip_prefix(mark).and_then(|rest| rest.chars().next());
            alone(before.chars().next_back()) && (mark.ends_with('(') || alone(after))
        })
    };
    everywhere(tree, |line| marks.iter().find(|mark| is_word(line, mark)).map(|mark| format!("holds {mark}")))
}

/// Tests that are skipped in silence.
pub fn ignored(tree: &Tree) -> Vec<Finding> {
    let mark = concat!("#[", "ignore");
    everywhere(tree, |line| line.contains(mark).then(|| "skips a test in silence".to_owned()))
}

/// Paths of one machine.
pub fn places(tree: &Tree) -> Vec<Finding> {
    let places = [concat!("/wo", "rk/"), concat!("/fa", "rm/")];
    let is_path = |line: &str, place: &str| {
        line.match_indices(place).any(|(at, _)| {
            let before = line.get(..at).and_then(|text| text.chars().next_back());
            !before.is_some_and(|c| c.is_ascii_alphanumeric() || "_-.}*".contains(c))
        })
    };
    everywhere(tree, |line| places.iter().any(|place| is_path(line, place)).then(|| "names a place".to_owned()))
}

fn everywhere(tree: &Tree, judge: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in &tree.files {
        for (line, number) in text.lines().zip(1..) {
            findings.extend(judge(line).map(|what| Finding::new(format!("{path}:{number}"), what)));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        Tree { files, ..Tree::default() }
    }

    fn found(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|Finding(text)| text.as_str()).collect()
    }

    #[test]
    fn a_process_started_by_the_node_is_found() {
        let text = "//! Command::new( in prose\nlet c = Command::new(\"sh\");\n";
        let tree = tree(&[
            ("crates/node/src/a.rs", text),
            ("crates/drivers/src/a.rs", text),
            ("crates/node/tests/a.rs", text),
        ]);
        assert_eq!(found(&processes(&tree)), ["crates/node/src/a.rs:2: starts a process"]);
    }

    #[test]
    fn nats_in_the_engine_is_found() {
        let text = concat!("use async", "_nats::Client;");
        let tree = tree(&[
            ("crates/engine/src/a.rs", text),
            ("crates/api/src/client/mod.rs", text),
            ("crates/api/src/nex.rs", text),
        ]);
        assert_eq!(
            found(&nats(&tree)),
            ["crates/api/src/nex.rs:1: speaks NATS", "crates/engine/src/a.rs:1: speaks NATS"]
        );
    }

    #[test]
    fn a_clock_in_the_model_is_found() {
        let tree =
            tree(&[("crates/model/src/a.rs", "let t = Instant::now();"), ("crates/node/src/a.rs", "Instant::now()")]);
        assert_eq!(found(&clock(&tree)), ["crates/model/src/a.rs:1: is not pure"]);
    }

    #[test]
    fn an_empty_name_is_found_as_file_and_as_directory() {
        let tree =
            tree(&[("crates/a/src/utils.rs", ""), ("crates/a/src/common/x.rs", ""), ("crates/a/src/commons.rs", "")]);
        assert_eq!(names(&tree).len(), 2);
    }

    #[test]
    fn a_long_file_is_found() {
        let tree = tree(&[("a.rs", &"x\n".repeat(901)), ("b.rs", &"x\n".repeat(900))]);
        assert_eq!(found(&length(&tree)), ["a.rs: 901 lines"]);
    }

    #[test]
    fn unfinished_work_and_silent_skips_are_found() {
        let tree = tree(&[
            ("a.md", concat!("TO", "DO later")),
            ("c.rs", concat!("abc12345TO", "DOmakethisreal")),
            ("b.rs", concat!("#[", "ignore]")),
        ]);
        assert_eq!(unfinished(&tree).len(), 1);
        assert_eq!(ignored(&tree).len(), 1);
    }

    #[test]
    fn a_place_of_one_machine_is_found_and_a_relative_path_is_not() {
        let tree = tree(&[("a.md", concat!("see /wo", "rk/main")), ("b.md", concat!("target/wo", "rk/x"))]);
        assert_eq!(found(&places(&tree)), ["a.md:1: names a place"]);
    }
}
