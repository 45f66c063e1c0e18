//! `rcorder`: the order in which rc.d scripts are started, from what their first lines say.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use crate::options::{Options, text};
use crate::{Failure, Outcome};

/// How much of a script is looked at: what counts stands at its top, and some are programs.
const HEAD_MAX: u64 = 64 * 1024;

/// A script and what it says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Script {
    /// Where it is.
    pub path: PathBuf,
    /// What it makes available.
    pub provides: Vec<String>,
    /// What must come before it.
    pub requires: Vec<String>,
    /// What must come after it.
    pub before: Vec<String>,
    /// What else is said about it.
    pub keywords: Vec<String>,
}

impl Script {
    /// Reads the top of a script.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        let file = BufReader::new(fs::File::open(path)?.take(HEAD_MAX));
        let lines = file.split(b'\n').map_while(Result::ok).map(|line| String::from_utf8_lossy(&line).into_owned());
        Ok(Self::parse(path, lines))
    }

    /// The lines count from the first that says something to the first behind it that says nothing.
    fn parse(path: &Path, lines: impl Iterator<Item = String>) -> Self {
        let mut script = Self { path: path.to_owned(), ..Self::default() };
        let mut begun = false;
        for line in lines {
            let list = [
                ("PROVIDE", &mut script.provides),
                ("REQUIRE", &mut script.requires),
                ("BEFORE", &mut script.before),
                ("KEYWORD", &mut script.keywords),
            ];
            let found = list.into_iter().find_map(|(word, list)| Some((words(&line, word)?, list)));
            match found {
                Some((words, list)) => list.extend(words.split_whitespace().map(str::to_owned)),
                None if begun => break,
                None => continue,
            }
            begun = true;
        }
        script
    }

    /// What it is called by others: what it provides, or its file name.
    fn names(&self) -> Vec<String> {
        let file = || self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if self.provides.is_empty() { vec![file()] } else { self.provides.clone() }
    }
}

/// What stands behind `# WORD:` or `# WORDS:`.
fn words<'a>(line: &'a str, word: &str) -> Option<&'a str> {
    let rest = line.strip_prefix('#')?.trim_start().strip_prefix(word)?;
    rest.strip_prefix('S').unwrap_or(rest).strip_prefix(':')
}

/// Which scripts come in which order, and what is wrong with what they say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// All of them: whoever requires something comes after it.
    pub scripts: Vec<Script>,
    /// Circles, and what is required that nobody provides.
    pub complaints: Vec<String>,
}

/// Sorts scripts. Those that say nothing of each other stay as they are given. A circle is broken where it closes, and reported.
pub fn sort(scripts: Vec<Script>) -> Order {
    let mut provider: BTreeMap<String, usize> = BTreeMap::new();
    let mut order = Order::default();
    for (at, script) in scripts.iter().enumerate() {
        for name in script.names() {
            if let Some(other) = provider.get(&name).and_then(|other| scripts.get(*other)) {
                let (path, other) = (script.path.display(), other.path.display());
                order.complaints.push(format!("requirement `{name}' is provided by {other} and by {path}"));
            } else {
                provider.insert(name, at);
            }
        }
    }
    let mut after: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); scripts.len()];
    for (at, script) in scripts.iter().enumerate() {
        for name in &script.requires {
            match (provider.get(name), after.get_mut(at)) {
                (Some(needed), Some(needs)) if *needed != at => drop(needs.insert(*needed)),
                (Some(_), _) => {}
                _ if MILESTONES.contains(&name.as_str()) => {}
                _ => {
                    let path = script.path.display();
                    order.complaints.push(format!("requirement `{name}' in file `{path}' has no providers."));
                }
            }
        }
        for name in &script.before {
            if let Some(needs) =
                provider.get(name).filter(|later| **later != at).and_then(|later| after.get_mut(*later))
            {
                needs.insert(at);
            }
        }
    }
    let mut walk = Walk { scripts: &scripts, after: &after, state: vec![State::New; scripts.len()], order };
    for at in 0..scripts.len() {
        walk.visit(at);
    }
    walk.order
}

/// What FreeBSD's base provides, and jails have from the start.
const MILESTONES: [&str; 24] = [
    "DAEMON",
    "FILESYSTEMS",
    "LOGIN",
    "NETWORKING",
    "NETWORK",
    "SERVERS",
    "cleanvar",
    "cleartmp",
    "cron",
    "devfs",
    "hostname",
    "kld",
    "ldconfig",
    "local",
    "localpkg",
    "mountcritlocal",
    "mountcritremote",
    "netif",
    "netwait",
    "ntpd",
    "routing",
    "sshd",
    "syslogd",
    "tmp",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Open,
    Done,
}

struct Walk<'a> {
    scripts: &'a [Script],
    after: &'a [BTreeSet<usize>],
    state: Vec<State>,
    order: Order,
}

impl Walk<'_> {
    /// Puts a script behind all that it needs. On a stack of its own: how deep it goes is for the scripts to say.
    fn visit(&mut self, first: usize) {
        let mut open: Vec<(usize, Vec<usize>)> = Vec::new();
        self.open(first, &mut open);
        while let Some((at, left)) = open.last_mut() {
            let at = *at;
            let Some(next) = left.pop() else {
                open.pop();
                self.set(at, State::Done);
                self.order.scripts.extend(self.scripts.get(at).cloned());
                continue;
            };
            if self.state.get(next) == Some(&State::Open) {
                let circle = open.iter().skip_while(|(at, _)| *at != next).filter_map(|(at, _)| self.scripts.get(*at));
                let names: Vec<String> = circle.map(|script| script.path.display().to_string()).collect();
                self.order.complaints.push(format!("circular dependency: {}", names.join(" -> ")));
            } else {
                self.open(next, &mut open);
            }
        }
    }

    fn open(&mut self, at: usize, open: &mut Vec<(usize, Vec<usize>)>) {
        if self.state.get(at) == Some(&State::New) {
            self.set(at, State::Open);
            let needs = self.after.get(at).map(|needs| needs.iter().rev().copied().collect()).unwrap_or_default();
            open.push((at, needs));
        }
    }

    fn set(&mut self, at: usize, state: State) {
        if let Some(place) = self.state.get_mut(at) {
            *place = state;
        }
    }
}

/// `rcorder [-k KEYWORD] [-s KEYWORD] FILE...`
pub fn main(arguments: &[OsString]) -> Outcome {
    let mut options = Options::new(arguments, "k:s:");
    let (mut keep, mut skip) = (Vec::new(), Vec::new());
    while let Some((letter, value)) = options.next().map_err(|e| Failure::new(64, e))? {
        let list = if letter == 'k' { &mut keep } else { &mut skip };
        list.push(text(&value)?);
    }
    let mut scripts = Vec::new();
    let mut status = 0;
    for path in options.rest().iter().map(Path::new) {
        match Script::read(path) {
            Ok(script) => scripts.push(script),
            Err(e) => {
                eprintln!("rcorder: {}: {e}", path.display());
                status = 1;
            }
        }
    }
    let order = sort(scripts);
    for complaint in &order.complaints {
        eprintln!("rcorder: {complaint}");
        status = 1;
    }
    for script in order.scripts {
        let has = |list: &[String]| list.iter().any(|word| script.keywords.contains(word));
        if (keep.is_empty() || has(&keep)) && !has(&skip) {
            println!("{}", script.path.display());
        }
    }
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(name: &str, top: &str) -> Script {
        Script::parse(Path::new(name), top.split('/').map(|line| format!("# {line}")))
    }

    fn sorted(scripts: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let order = sort(scripts.iter().map(|(name, top)| script(name, top)).collect());
        (order.scripts.iter().map(|script| script.path.display().to_string()).collect(), order.complaints)
    }

    #[test]
    fn what_a_script_says() {
        let lines = [
            "#!/bin/sh",
            "#",
            "# PROVIDE: a b",
            "# REQUIRES: c",
            "#BEFORE: d",
            "# KEYWORD: shutdown",
            "",
            "# REQUIRE: x",
        ];
        let script = Script::parse(Path::new("/s"), lines.iter().map(|line| (*line).to_owned()));
        assert_eq!((script.provides.join(" "), script.requires.join(" ")), ("a b".to_owned(), "c".to_owned()));
        assert_eq!((script.before.join(" "), script.keywords.join(" ")), ("d".to_owned(), "shutdown".to_owned()));
    }

    #[test]
    fn requirements_come_first() {
        let scripts = [
            ("web", "PROVIDE: web/REQUIRE: db log LOGIN"),
            ("db", "PROVIDE: db/REQUIRE: log"),
            ("log", "PROVIDE: log"),
        ];
        assert_eq!(sorted(&scripts), (vec!["log".to_owned(), "db".into(), "web".into()], vec![]));
        let scripts = [("z", "PROVIDE: z"), ("a", "PROVIDE: a/BEFORE: z"), ("m", "")];
        assert_eq!(sorted(&scripts).0, ["a", "z", "m"]);
    }

    #[test]
    fn circles_and_gaps_are_reported_and_nothing_is_lost() {
        let scripts = [
            ("a", "PROVIDE: a/REQUIRE: b"),
            ("b", "PROVIDE: b/REQUIRE: c"),
            ("c", "PROVIDE: c/REQUIRE: a"),
            ("d", "REQUIRE: gone"),
        ];
        let (order, complaints) = sorted(&scripts);
        assert_eq!(order, ["c", "b", "a", "d"]);
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert!(complaints.iter().any(|text| text == "circular dependency: a -> b -> c"));
        assert!(complaints.iter().any(|text| text.contains("`gone'")));
        assert_eq!(sorted(&[("a", "PROVIDE: a/REQUIRE: a")]).0, ["a"]);
    }

    #[test]
    fn a_long_chain_needs_no_deep_stack() {
        let tops: Vec<(String, String)> =
            (0..20_000).map(|n| (format!("s{n}"), format!("PROVIDE: s{n}/REQUIRE: s{}", n + 1))).collect();
        let order = sort(tops.iter().map(|(name, top)| script(name, top)).collect());
        assert_eq!(order.scripts.len(), 20_000);
        assert_eq!(order.scripts.first().map(|script| script.path.clone()), Some(PathBuf::from("s19999")));
    }
}
