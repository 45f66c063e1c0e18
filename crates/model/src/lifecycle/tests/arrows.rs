//! Every arrow of the state machine, met by taking every fact from every kind of state, against the table.

use std::collections::BTreeSet;

use super::*;
use crate::lifecycle::table::{TABLE, Transition};

/// Every fact, and every way of it that could matter.
fn all_facts(state: &State) -> Vec<Fact> {
    let oops = || "oops".to_owned();
    let stop = |grace| Fact::Requested(Request::Stop(StopSpec { signal: Signal::TERM, grace }));
    let mut facts = vec![
        planned(state),
        Fact::Planned(vec![]),
        Fact::Created,
        Fact::CreateFailed(oops()),
        Fact::AgentReady,
        Fact::AgentStartFailed(oops()),
        Fact::MainStarted,
        Fact::MainStartFailed(oops()),
        Fact::StartAbandoned,
        Fact::MainExited(Exit::code(0)),
        Fact::Drained,
        Fact::AgentLost(oops()),
        Fact::SignalFailed(oops()),
        Fact::Frozen,
        Fact::FreezeFailed(oops()),
        Fact::Thawed,
        Fact::ThawFailed(oops()),
        Fact::Stowed,
        Fact::StowFailed(oops()),
        Fact::Unstowed,
        Fact::UnstowFailed(oops()),
        Fact::UnstowLost(oops()),
        Fact::Captured,
        Fact::CaptureFailed(oops()),
        Fact::Retuned,
        Fact::RetuneFailed(oops()),
        Fact::Rewired,
        Fact::RewireFailed(oops()),
        Fact::RewireInDoubt(oops()),
        Fact::Destroyed,
        Fact::DestroyFailed(oops()),
        Fact::Measured { oom_kills: None },
        Fact::Restarted,
        Fact::Adopted(MainSeen::Idle),
        Fact::Adopted(MainSeen::Running),
        Fact::Adopted(MainSeen::Exited(Exit::code(0))),
        Fact::FoundStowed,
        Fact::FoundGone(oops()),
        Fact::RecoverFailed(oops()),
        Fact::RecordUnwritable(oops()),
        Fact::ActorBroken(oops()),
        Fact::Ticked,
        stop(Duration::ZERO),
        stop(Duration::from_millis(1)),
        stop(Duration::from_secs(60)),
    ];
    facts.extend(
        [Request::Kill, Request::Pause(PauseTo::Memory), Request::Pause(PauseTo::Disk), Request::Delete, Request::Use]
            .map(Fact::Requested),
    );
    facts.extend([
        claim_with_network(None, state),
        claim_with_network(Some(1), state),
        rewire(other_network()),
        relimit(7),
    ]);
    facts.extend([None, Some(1)].map(|memory| claim_to_run(claim_with_network(memory, state))));
    facts.extend([None, Some(1)].map(|memory| claim_to_run(claim(memory))));
    facts.extend([resume(None), capture(), claim(None), claim(Some(1)), claim(Some(2)), keepalive(None, false)]);
    if let Some(last) = state.leases.last() {
        facts.extend([Fact::Released(last.resource.clone()), Fact::ReleaseFailed(last.resource.clone(), oops())]);
    }
    facts
}

/// States that may behave differently; one of each is enough.
type Kind = (&'static str, bool, bool, bool, usize, String);

fn kind(state: &State) -> Kind {
    let flags = format!(
        "{} {} {:?} {:?} {:?} {:?} {:?} {:?} {}",
        state.drained,
        state.deleting,
        state.expired,
        (state.spec.origin.owner, state.awaits_program()),
        (state.retuning.is_some(), state.relimiting.is_some()),
        (state.network.is_some(), state.rewiring.as_ref().map(|rewiring| rewiring.claim)),
        match &state.phase {
            Phase::Capturing(capturing) => Some(capturing.from_paused),
            Phase::Stow(stow) => Some(stow.lost.is_some()),
            _ => None,
        },
        match &state.phase {
            Phase::Stopping(stopping) | Phase::Recovering { then: Then::Stop(stopping), .. } => {
                Some(matches!(stopping.cause, Cause::StartFailed { .. } | Cause::Lost { .. } | Cause::AgentLost { .. }))
            }
            _ => None,
        },
        match &state.phase {
            Phase::Recovering { then, .. } => match then {
                Then::Start => "start",
                Then::Run => "run",
                Then::Pause => "pause",
                Then::Stow => "stow",
                Then::Lie => "lie",
                Then::Unstow => "unstow",
                Then::Stop(stopping) => match stopping.rung {
                    Rung::Thawing { .. } => "thawing",
                    Rung::Asking(_) => "asking",
                    _ => "later",
                },
            },
            _ => "",
        }
    ) + time_to_ask(state);
    let flags = format!("{flags} {:?}", state.spec.on_timeout);
    (state.phase.spot(), state.spec.main.is_some(), state.main_runs(), state.created, state.leases.len(), flags)
}

/// How long the main process will be given, once it thaws or is found again, decides what comes after.
fn time_to_ask(state: &State) -> &'static str {
    let (Phase::Stopping(stopping) | Phase::Recovering { then: Then::Stop(stopping), .. }) = &state.phase else {
        return "";
    };
    match stopping.rung {
        Rung::Thawing { ask: Some(ask) } | Rung::Asking(ask) if ask.deadline > ms(soon(state)) => "time to ask",
        Rung::Thawing { ask: Some(_) } | Rung::Asking(_) => "no time to ask",
        _ => "",
    }
}

/// A moment after everything that has happened so far.
fn soon(state: &State) -> i64 {
    state.timeline.steps().last().map_or(0, |step| step.at.as_millis()) + 1
}

/// Reaches every kind of state by taking every fact from every kind already reached, and compares all arrows met on the
/// way with the table.
#[test]
fn the_table_says_what_step_does() {
    let mut seen = BTreeSet::new();
    let mut reached = BTreeSet::new();
    let limit = Some(Duration::from_secs(3600));
    let pausing = |main| accepted_as(SandboxSpec { on_timeout: OnTimeout::Pause, ..spec(main, limit) });
    let mut open = vec![accepted(true, limit), accepted(false, limit), pausing(true), pausing(false)];
    open.extend([pooled(false), pooled(true)]);
    open.extend([true, false].map(|main| accepted_as(wired(pausing(main).spec.as_ref().clone()))));
    open.extend([true, false].map(|main| accepted_as(wired(spec(main, limit)))));
    while let Some(state) = open.pop() {
        if !reached.insert(kind(&state)) {
            continue;
        }
        let soon = soon(&state);
        let due = state.deadline().map_or(soon, Timestamp::as_millis);
        for fact in all_facts(&state) {
            for at in [soon, due] {
                let (after, _) = step(&state, Event::new(ms(at), fact.clone()));
                if state.phase.spot() != after.phase.spot() {
                    let (from, on, to) = (state.phase.spot(), fact.name(), after.phase.spot());
                    seen.insert(Transition { from, on, to });
                }
                open.push(after);
            }
        }
    }
    let table: BTreeSet<Transition> = TABLE.iter().copied().collect();
    let row = |t: &Transition| format!("    t({:?}, {:?}, {:?}),\n", t.from, t.on, t.to);
    let missing: String = seen.difference(&table).map(row).collect();
    let unseen: String = table.difference(&seen).map(row).collect();
    assert!(missing.is_empty() && unseen.is_empty(), "not in the table:\n{missing}never taken:\n{unseen}");
}
