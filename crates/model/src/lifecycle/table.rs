//! The transition table: what [`step`](super::step) does, drawn. A test holds the two together, and `docs/lifecycle.md`
//! is written from it.

use std::fmt::Write as _;

/// One arrow: from a spot, on a fact, to a spot. Facts that leave a spot are listed; those that stay are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Transition {
    /// Where from, as [`Phase::spot`](super::Phase::spot) writes it.
    pub from: &'static str,
    /// On what, as [`Fact::name`](super::Fact::name) writes it.
    pub on: &'static str,
    /// Where to.
    pub to: &'static str,
}

const fn t(from: &'static str, on: &'static str, to: &'static str) -> Transition {
    Transition { from, on, to }
}

/// Every arrow, sorted.
pub const TABLE: &[Transition] = &[
    t("capturing/freezing", "actor broken", "stopping/destroying"),
    t("capturing/freezing", "agent lost", "stopping/destroying"),
    t("capturing/freezing", "daemon restarted", "recovering"),
    t("capturing/freezing", "delete requested", "stopping/thawing"),
    t("capturing/freezing", "freeze failed", "running"),
    t("capturing/freezing", "frozen", "capturing/writing"),
    t("capturing/freezing", "kill requested", "stopping/thawing"),
    t("capturing/freezing", "main exited", "stopping/thawing"),
    t("capturing/freezing", "rewire in doubt", "stopping/thawing"),
    t("capturing/freezing", "stop requested", "stopping/thawing"),
    t("capturing/thawing", "actor broken", "stopping/destroying"),
    t("capturing/thawing", "agent lost", "stopping/destroying"),
    t("capturing/thawing", "daemon restarted", "recovering"),
    t("capturing/thawing", "delete requested", "stopping/thawing"),
    t("capturing/thawing", "kill requested", "stopping/thawing"),
    t("capturing/thawing", "main exited", "stopping/thawing"),
    t("capturing/thawing", "rewire in doubt", "stopping/thawing"),
    t("capturing/thawing", "stop requested", "stopping/thawing"),
    t("capturing/thawing", "thaw failed", "paused"),
    t("capturing/thawing", "thawed", "running"),
    t("capturing/writing", "actor broken", "stopping/destroying"),
    t("capturing/writing", "agent lost", "stopping/destroying"),
    t("capturing/writing", "capture failed", "capturing/thawing"),
    t("capturing/writing", "capture failed", "paused"),
    t("capturing/writing", "captured", "capturing/thawing"),
    t("capturing/writing", "captured", "paused"),
    t("capturing/writing", "daemon restarted", "recovering"),
    t("capturing/writing", "delete requested", "stopping/thawing"),
    t("capturing/writing", "kill requested", "stopping/thawing"),
    t("capturing/writing", "main exited", "stopping/thawing"),
    t("capturing/writing", "record unwritable", "stopping/thawing"),
    t("capturing/writing", "retune failed", "stopping/thawing"),
    t("capturing/writing", "rewire failed", "stopping/thawing"),
    t("capturing/writing", "rewire in doubt", "stopping/thawing"),
    t("capturing/writing", "stop requested", "stopping/thawing"),
    t("paused", "actor broken", "stopping/destroying"),
    t("paused", "agent lost", "stopping/destroying"),
    t("paused", "capture requested", "capturing/writing"),
    t("paused", "daemon restarted", "recovering"),
    t("paused", "delete requested", "stopping/thawing"),
    t("paused", "kill requested", "stopping/thawing"),
    t("paused", "main exited", "stopping/thawing"),
    t("paused", "pause to disk requested", "stow/writing"),
    t("paused", "record unwritable", "stopping/thawing"),
    t("paused", "resume requested", "paused/thawing"),
    t("paused", "retune failed", "stopping/thawing"),
    t("paused", "rewire failed", "stopping/thawing"),
    t("paused", "rewire in doubt", "stopping/thawing"),
    t("paused", "stop requested", "stopping/thawing"),
    t("paused/thawing", "actor broken", "stopping/destroying"),
    t("paused/thawing", "agent lost", "stopping/destroying"),
    t("paused/thawing", "daemon restarted", "recovering"),
    t("paused/thawing", "delete requested", "stopping/thawing"),
    t("paused/thawing", "kill requested", "stopping/thawing"),
    t("paused/thawing", "main exited", "stopping/thawing"),
    t("paused/thawing", "record unwritable", "stopping/thawing"),
    t("paused/thawing", "retune failed", "stopping/thawing"),
    t("paused/thawing", "rewire failed", "stopping/thawing"),
    t("paused/thawing", "rewire in doubt", "stopping/thawing"),
    t("paused/thawing", "stop requested", "stopping/thawing"),
    t("paused/thawing", "thaw failed", "paused"),
    t("paused/thawing", "thawed", "running"),
    t("pending", "actor broken", "failed"),
    t("pending", "daemon restarted", "failed"),
    t("pending", "delete requested", "stopped"),
    t("pending", "kill requested", "stopped"),
    t("pending", "planned", "preparing"),
    t("pending", "stop requested", "stopped"),
    t("preparing", "actor broken", "failed"),
    t("preparing", "actor broken", "stopping/releasing"),
    t("preparing", "create failed", "failed"),
    t("preparing", "create failed", "stopping/releasing"),
    t("preparing", "created", "starting/agent"),
    t("preparing", "daemon restarted", "failed"),
    t("preparing", "daemon restarted", "stopping/releasing"),
    t("preparing", "delete requested", "stopping/settling"),
    t("preparing", "kill requested", "stopping/settling"),
    t("preparing", "record unwritable", "stopping/settling"),
    t("preparing", "stop requested", "stopping/settling"),
    t("preparing", "time passed", "stopping/settling"),
    t("recovering", "actor broken", "stopping/destroying"),
    t("recovering", "adopted", "running"),
    t("recovering", "adopted", "running/freezing"),
    t("recovering", "adopted", "starting/main"),
    t("recovering", "adopted", "stopping/asking"),
    t("recovering", "adopted", "stopping/destroying"),
    t("recovering", "adopted", "stopping/draining"),
    t("recovering", "adopted", "stopping/killing"),
    t("recovering", "adopted", "stow/freezing"),
    t("recovering", "found gone", "stopping/destroying"),
    t("recovering", "found on disk", "stopping/destroying"),
    t("recovering", "found on disk", "stow/lying"),
    t("recovering", "found on disk", "stow/reading"),
    t("recovering", "recover failed", "stopping/destroying"),
    t("recovering", "time passed", "stopping/destroying"),
    t("running", "actor broken", "stopping/destroying"),
    t("running", "agent lost", "stopping/destroying"),
    t("running", "capture requested", "capturing/freezing"),
    t("running", "claim requested", "starting/main"),
    t("running", "daemon restarted", "recovering"),
    t("running", "delete requested", "stopping/destroying"),
    t("running", "delete requested", "stopping/killing"),
    t("running", "kill requested", "stopping/destroying"),
    t("running", "kill requested", "stopping/killing"),
    t("running", "main exited", "stopping/destroying"),
    t("running", "main exited", "stopping/draining"),
    t("running", "pause requested", "running/freezing"),
    t("running", "pause to disk requested", "stow/freezing"),
    t("running", "record unwritable", "stopping/destroying"),
    t("running", "record unwritable", "stopping/killing"),
    t("running", "retune failed", "stopping/destroying"),
    t("running", "retune failed", "stopping/killing"),
    t("running", "retuned", "starting/main"),
    t("running", "rewire failed", "stopping/destroying"),
    t("running", "rewire failed", "stopping/killing"),
    t("running", "rewire in doubt", "stopping/destroying"),
    t("running", "rewire in doubt", "stopping/killing"),
    t("running", "rewired", "starting/main"),
    t("running", "stop requested", "stopping/asking"),
    t("running", "stop requested", "stopping/destroying"),
    t("running", "stop requested", "stopping/killing"),
    t("running", "time passed", "running/freezing"),
    t("running", "time passed", "stopping/destroying"),
    t("running", "time passed", "stopping/killing"),
    t("running/freezing", "actor broken", "stopping/destroying"),
    t("running/freezing", "agent lost", "stopping/destroying"),
    t("running/freezing", "daemon restarted", "recovering"),
    t("running/freezing", "delete requested", "stopping/thawing"),
    t("running/freezing", "freeze failed", "running"),
    t("running/freezing", "freeze failed", "stopping/thawing"),
    t("running/freezing", "frozen", "paused"),
    t("running/freezing", "kill requested", "stopping/thawing"),
    t("running/freezing", "main exited", "stopping/thawing"),
    t("running/freezing", "record unwritable", "stopping/thawing"),
    t("running/freezing", "retune failed", "stopping/thawing"),
    t("running/freezing", "rewire failed", "stopping/thawing"),
    t("running/freezing", "rewire in doubt", "stopping/thawing"),
    t("running/freezing", "stop requested", "stopping/thawing"),
    t("running/freezing", "time passed", "stopping/thawing"),
    t("starting/agent", "actor broken", "stopping/destroying"),
    t("starting/agent", "agent lost", "stopping/settling"),
    t("starting/agent", "agent ready", "running"),
    t("starting/agent", "agent ready", "starting/main"),
    t("starting/agent", "agent start failed", "stopping/destroying"),
    t("starting/agent", "daemon restarted", "recovering"),
    t("starting/agent", "delete requested", "stopping/settling"),
    t("starting/agent", "kill requested", "stopping/settling"),
    t("starting/agent", "record unwritable", "stopping/settling"),
    t("starting/agent", "stop requested", "stopping/settling"),
    t("starting/agent", "time passed", "stopping/settling"),
    t("starting/main", "actor broken", "stopping/destroying"),
    t("starting/main", "agent lost", "stopping/settling"),
    t("starting/main", "daemon restarted", "recovering"),
    t("starting/main", "delete requested", "stopping/settling"),
    t("starting/main", "kill requested", "stopping/settling"),
    t("starting/main", "main start failed", "stopping/destroying"),
    t("starting/main", "main started", "running"),
    t("starting/main", "record unwritable", "stopping/settling"),
    t("starting/main", "rewire in doubt", "stopping/settling"),
    t("starting/main", "stop requested", "stopping/settling"),
    t("starting/main", "time passed", "stopping/settling"),
    t("stopping/asking", "actor broken", "stopping/destroying"),
    t("stopping/asking", "agent lost", "stopping/destroying"),
    t("stopping/asking", "daemon restarted", "recovering"),
    t("stopping/asking", "delete requested", "stopping/killing"),
    t("stopping/asking", "kill requested", "stopping/killing"),
    t("stopping/asking", "main exited", "stopping/destroying"),
    t("stopping/asking", "main exited", "stopping/draining"),
    t("stopping/asking", "retune failed", "stopping/killing"),
    t("stopping/asking", "rewire failed", "stopping/killing"),
    t("stopping/asking", "rewire in doubt", "stopping/killing"),
    t("stopping/asking", "stop requested", "stopping/killing"),
    t("stopping/asking", "time passed", "stopping/killing"),
    t("stopping/destroying", "destroyed", "stopping/measuring"),
    t("stopping/draining", "actor broken", "stopping/destroying"),
    t("stopping/draining", "agent lost", "stopping/destroying"),
    t("stopping/draining", "daemon restarted", "recovering"),
    t("stopping/draining", "drained", "stopping/destroying"),
    t("stopping/draining", "time passed", "stopping/destroying"),
    t("stopping/killing", "actor broken", "stopping/destroying"),
    t("stopping/killing", "agent lost", "stopping/destroying"),
    t("stopping/killing", "daemon restarted", "recovering"),
    t("stopping/killing", "main exited", "stopping/destroying"),
    t("stopping/killing", "main exited", "stopping/draining"),
    t("stopping/killing", "time passed", "stopping/destroying"),
    t("stopping/measuring", "measured", "failed"),
    t("stopping/measuring", "measured", "stopped"),
    t("stopping/measuring", "measured", "stopping/releasing"),
    t("stopping/releasing", "released", "failed"),
    t("stopping/releasing", "released", "stopped"),
    t("stopping/settling", "actor broken", "failed"),
    t("stopping/settling", "actor broken", "stopped"),
    t("stopping/settling", "actor broken", "stopping/destroying"),
    t("stopping/settling", "actor broken", "stopping/releasing"),
    t("stopping/settling", "agent ready", "failed"),
    t("stopping/settling", "agent ready", "stopped"),
    t("stopping/settling", "agent ready", "stopping/destroying"),
    t("stopping/settling", "agent ready", "stopping/releasing"),
    t("stopping/settling", "agent start failed", "failed"),
    t("stopping/settling", "agent start failed", "stopped"),
    t("stopping/settling", "agent start failed", "stopping/destroying"),
    t("stopping/settling", "agent start failed", "stopping/releasing"),
    t("stopping/settling", "create failed", "failed"),
    t("stopping/settling", "create failed", "stopped"),
    t("stopping/settling", "create failed", "stopping/destroying"),
    t("stopping/settling", "create failed", "stopping/releasing"),
    t("stopping/settling", "created", "stopping/destroying"),
    t("stopping/settling", "daemon restarted", "failed"),
    t("stopping/settling", "daemon restarted", "stopped"),
    t("stopping/settling", "daemon restarted", "stopping/destroying"),
    t("stopping/settling", "daemon restarted", "stopping/releasing"),
    t("stopping/settling", "main start failed", "failed"),
    t("stopping/settling", "main start failed", "stopped"),
    t("stopping/settling", "main start failed", "stopping/destroying"),
    t("stopping/settling", "main start failed", "stopping/releasing"),
    t("stopping/settling", "main started", "failed"),
    t("stopping/settling", "main started", "stopped"),
    t("stopping/settling", "main started", "stopping/destroying"),
    t("stopping/settling", "main started", "stopping/releasing"),
    t("stopping/settling", "start abandoned", "failed"),
    t("stopping/settling", "start abandoned", "stopped"),
    t("stopping/settling", "start abandoned", "stopping/destroying"),
    t("stopping/settling", "start abandoned", "stopping/releasing"),
    t("stopping/thawing", "actor broken", "stopping/destroying"),
    t("stopping/thawing", "agent lost", "stopping/destroying"),
    t("stopping/thawing", "daemon restarted", "recovering"),
    t("stopping/thawing", "stowed", "stopping/destroying"),
    t("stopping/thawing", "thaw failed", "stopping/destroying"),
    t("stopping/thawing", "thawed", "stopping/asking"),
    t("stopping/thawing", "thawed", "stopping/destroying"),
    t("stopping/thawing", "thawed", "stopping/draining"),
    t("stopping/thawing", "thawed", "stopping/killing"),
    t("stow/freezing", "actor broken", "stopping/destroying"),
    t("stow/freezing", "agent lost", "stopping/destroying"),
    t("stow/freezing", "daemon restarted", "recovering"),
    t("stow/freezing", "delete requested", "stopping/thawing"),
    t("stow/freezing", "freeze failed", "running"),
    t("stow/freezing", "frozen", "stow/writing"),
    t("stow/freezing", "kill requested", "stopping/thawing"),
    t("stow/freezing", "main exited", "stopping/thawing"),
    t("stow/freezing", "record unwritable", "stopping/thawing"),
    t("stow/freezing", "retune failed", "stopping/thawing"),
    t("stow/freezing", "rewire failed", "stopping/thawing"),
    t("stow/freezing", "rewire in doubt", "stopping/thawing"),
    t("stow/freezing", "stop requested", "stopping/thawing"),
    t("stow/lying", "actor broken", "stopping/destroying"),
    t("stow/lying", "daemon restarted", "recovering"),
    t("stow/lying", "delete requested", "stopping/destroying"),
    t("stow/lying", "kill requested", "stopping/destroying"),
    t("stow/lying", "record unwritable", "stopping/destroying"),
    t("stow/lying", "resume requested", "stow/reading"),
    t("stow/lying", "retune failed", "stopping/destroying"),
    t("stow/lying", "rewire failed", "stopping/destroying"),
    t("stow/lying", "rewire in doubt", "stopping/destroying"),
    t("stow/lying", "stop requested", "stopping/destroying"),
    t("stow/reading", "actor broken", "stopping/destroying"),
    t("stow/reading", "daemon restarted", "recovering"),
    t("stow/reading", "delete requested", "stopping/destroying"),
    t("stow/reading", "kill requested", "stopping/destroying"),
    t("stow/reading", "record unwritable", "stopping/destroying"),
    t("stow/reading", "retune failed", "stopping/destroying"),
    t("stow/reading", "rewire failed", "stopping/destroying"),
    t("stow/reading", "rewire in doubt", "stopping/destroying"),
    t("stow/reading", "stop requested", "stopping/destroying"),
    t("stow/reading", "unstow failed", "stow/lying"),
    t("stow/reading", "unstow lost", "stopping/destroying"),
    t("stow/reading", "unstowed", "running"),
    t("stow/writing", "actor broken", "stopping/destroying"),
    t("stow/writing", "daemon restarted", "recovering"),
    t("stow/writing", "delete requested", "stopping/destroying"),
    t("stow/writing", "delete requested", "stopping/thawing"),
    t("stow/writing", "kill requested", "stopping/destroying"),
    t("stow/writing", "kill requested", "stopping/thawing"),
    t("stow/writing", "main exited", "stopping/destroying"),
    t("stow/writing", "main exited", "stopping/thawing"),
    t("stow/writing", "record unwritable", "stopping/destroying"),
    t("stow/writing", "record unwritable", "stopping/thawing"),
    t("stow/writing", "retune failed", "stopping/destroying"),
    t("stow/writing", "retune failed", "stopping/thawing"),
    t("stow/writing", "rewire failed", "stopping/destroying"),
    t("stow/writing", "rewire failed", "stopping/thawing"),
    t("stow/writing", "rewire in doubt", "stopping/destroying"),
    t("stow/writing", "rewire in doubt", "stopping/thawing"),
    t("stow/writing", "stop requested", "stopping/destroying"),
    t("stow/writing", "stop requested", "stopping/thawing"),
    t("stow/writing", "stow failed", "paused"),
    t("stow/writing", "stow failed", "stopping/destroying"),
    t("stow/writing", "stowed", "stow/lying"),
];

/// The document made from the table.
pub fn to_markdown() -> String {
    let mut out = String::from(HEAD);
    out.push_str("```mermaid\nstateDiagram-v2\n    [*] --> pending: accepted\n");
    for (from, to, on) in phase_arrows() {
        let _ = writeln!(out, "    {from} --> {to}: {}", on.join(", "));
    }
    out.push_str("    stopped --> [*]: deleted\n    failed --> [*]: deleted\n```\n");
    out.push_str(MIDDLE);
    out.push_str("| from | on | to |\n|---|---|---|\n");
    for row in TABLE {
        let _ = writeln!(out, "| {} | {} | {} |", row.from, row.on, row.to);
    }
    out
}

/// Arrows between phases, their rungs and steps left out; at most four facts are written on one.
fn phase_arrows() -> Vec<(&'static str, &'static str, Vec<&'static str>)> {
    let mut arrows: Vec<(&str, &str, Vec<&str>)> = Vec::new();
    for row in TABLE {
        let (from, to) = (phase_of(row.from), phase_of(row.to));
        if from == to {
            continue;
        }
        match arrows.iter_mut().find(|(f, t, _)| (*f, *t) == (from, to)) {
            Some((_, _, on)) if on.contains(&row.on) => {}
            Some((_, _, on)) => on.push(row.on),
            None => arrows.push((from, to, vec![row.on])),
        }
    }
    for (_, _, on) in &mut arrows {
        if on.len() > 4 {
            on.truncate(3);
            on.push("…");
        }
    }
    arrows
}

fn phase_of(spot: &'static str) -> &'static str {
    spot.split_once('/').map_or(spot, |(phase, _)| phase)
}

const HEAD: &str = "\
# The life of a sandbox

<!-- Written from crates/model/src/lifecycle/table.rs by `cargo xtask gen`. Do not edit. -->

One pure function, `step(&State, Event) -> (State, Vec<Effect>)`, holds every rule below. The actor of a sandbox feeds it
events, writes the new state down, then does what the effects say; their results come back as events.

";

const MIDDLE: &str = "
A sandbox on its way down takes these rungs in order, entering where it must:

```text
settling    a start under way is being given up
thawing     it was frozen and must run to be ended in good order
asking      the main process got its stop signal and has its grace period
killing     the main process got SIGKILL through the agent
draining    the main process ended; its last output is being taken
destroying  agent asked to end everything, then the driver's kill
measuring   the driver's usage: was memory the reason?
releasing   leases, last one first; a failed release is tried again and never forgotten
```

A capture keeps what a sandbox changed in its file system, or the whole machine, while it is frozen: `freezing`, `writing`,
`thawing`. To others it is all the while what it was before, running or paused. Whatever ends the sandbox gives the capture up
at once. What lies on disk is not captured: it is resumed first.

A pause to disk begins where it must: `freezing`, `writing`, `lying`; `reading` is the way back. To others it is paused from
`writing` on, and `stowed` while nothing of it runs. If it cannot be written it stays paused in memory, if it cannot be read
back it stays on disk unless its driver finds it lost, and whoever asked is told. That its agent goes while it is written is no news, unless the writing fails.
Ending it gives up the writing and asks in good order; once it lies on disk, or is being read, there is nobody to ask, and
everything is ended from outside. A daemon that was restarted leaves on disk what lies there, and goes on with a pause or a
resume that was under way.

Rules that no arrow shows: a second stop never gives more time, but may give less; kill outranks stop; delete is taken in
every phase, and is a kill followed by the removal of the record; a terminal phase and its cause never change; a deadline
survives a restart of the daemon.

Time limits: a life span counts while the sandbox runs, not while it is frozen or lies on disk, and goes on where it stood when the sandbox is
thawed. Idle time counts from the last use; a start of the daemon counts as one. When a limit passes, the sandbox is killed, or
frozen if `on_timeout` says so; if it cannot be frozen it is killed. Resuming one that was paused for a limit gives it its span
again. A keepalive never shortens a life unless it says so.

A member of a pool has no time limits until it is claimed. A claim changes whose it is in one step, so of two claims one wins;
limits that come with it, and then its network, are set after that step, nothing else may use the sandbox before they hold, and
if they cannot be set the sandbox ends. A program that comes with the claim is started last, and its time limits begin with it; to
others the sandbox is starting until then.

A network asked for on a live sandbox is written down beside the one in force, and takes its place when it is in force. If it
cannot be given, the one before stays; if that cannot be made sure of, the sandbox ends. After a restart of the daemon in
between, nothing passes until the sandbox is found, and then the new one is asked for again.

Every arrow (a fact not listed for a spot leaves the sandbox there):

";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_written_from_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/lifecycle.md");
        let wanted = to_markdown();
        if std::env::var_os("MOAT_REGENERATE").is_some() {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs")).unwrap();
            std::fs::write(path, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(found == wanted, "docs/lifecycle.md differs from the table: run `cargo xtask gen`");
    }

    #[test]
    fn the_table_is_sorted_and_names_no_arrow_twice() {
        assert!(TABLE.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
