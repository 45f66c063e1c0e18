//! Commands for `nft`: where chains change, and for the whole table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use moat_engine::error::{Error, Result};
use moat_model::ErrorKind;

use super::Pins;
use super::element::Element;
use super::policy::{Built, PINS_MAX};

/// Commands that make `new` of `old`, to be run as one transaction.
pub(super) fn change(table: &str, old: &Built, new: &Built) -> String {
    let mut text = String::new();
    for set in new.pinned.difference(&old.pinned) {
        let kind = format!("type ipv4_addr; flags timeout; size {PINS_MAX};");
        line(&mut text, format_args!("add set inet {table} {set} {{ {kind} }}"));
    }
    for (chain, rules) in &new.chains {
        match old.chains.get(chain) {
            // Left alone, so that what it counts goes on.
            Some(same) if same == rules => continue,
            Some(_) => line(&mut text, format_args!("flush chain inet {table} {chain}")),
            None => line(&mut text, format_args!("add chain inet {table} {chain}")),
        }
        for rule in rules {
            line(&mut text, format_args!("add rule inet {table} {chain} {rule}"));
        }
    }
    elements(&mut text, "delete", table, old.elements.difference(&new.elements));
    elements(&mut text, "add", table, new.elements.difference(&old.elements));
    for chain in old.chains.keys().filter(|chain| !new.chains.contains_key(*chain)) {
        line(&mut text, format_args!("flush chain inet {table} {chain}"));
        line(&mut text, format_args!("delete chain inet {table} {chain}"));
    }
    for set in old.pinned.difference(&new.pinned) {
        line(&mut text, format_args!("delete set inet {table} {set}"));
    }
    text
}

/// Commands that put addresses back into sets of such, for as long as they had.
pub(super) fn pins(table: &str, pins: &Pins) -> String {
    let mut text = String::new();
    for (set, pins) in pins {
        let left = |end: &Instant| end.saturating_duration_since(Instant::now()).as_millis().max(1);
        let list: Vec<String> =
            pins.iter().map(|(address, end)| format!("{address} timeout {}ms", left(end))).collect();
        if !list.is_empty() {
            line(&mut text, format_args!("add element inet {table} {set} {{ {} }}", list.join(", ")));
        }
    }
    text
}

fn elements<'a>(text: &mut String, verb: &str, table: &str, all: impl Iterator<Item = &'a Element>) {
    let mut by_set: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for element in all {
        by_set.entry(element.set).or_default().push(element.text(verb == "add"));
    }
    for (set, list) in by_set {
        line(text, format_args!("{verb} element inet {table} {set} {{ {} }}", list.join(", ")));
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}

/// Runs commands as one transaction: all of them hold afterwards, or none.
pub(super) fn run(text: &str) -> Result<()> {
    let failed = |what: &str, error: std::io::Error| {
        Error::caused_by(ErrorKind::Unavailable, format!("{what} nft, which has to be installed"), error)
    };
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed("starting", error))?;
    // It reads everything before it says anything, so one after the other does not block.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().map_err(|error| failed("waiting for", error))?;
    if output.status.success() {
        return written.map_err(|error| failed("writing to", error));
    }
    let said: String = String::from_utf8_lossy(&output.stderr).chars().take(600).collect();
    Err(Error::new(ErrorKind::Internal, format!("nft refused rules: {}", said.trim())))
}
