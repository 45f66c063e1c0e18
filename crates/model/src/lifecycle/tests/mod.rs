//! The life of a sandbox: the named cases a reader wants to see first, then random histories and the table of arrows.

mod arrows;
mod histories;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::network::{Action, EgressPolicy, NetworkLease, NetworkMode, NetworkSpec};
use crate::spec::{
    ClaimSpec, IngressSpec, OnTimeout, Owner, ProcessDefaults, Program, Resources, RootSpec, Signal, StopSpec,
};
use crate::{
    Cause, Exit, Isolation, LeaseState, Namespace, ProcessSpec, Resource, SandboxId, SandboxSpec, TimeLimit, Timestamp,
};

fn spec(main: bool, timeout: Option<Duration>) -> SandboxSpec {
    let process = ProcessSpec { command: "app".into(), args: vec![], env: BTreeMap::new(), cwd: None, user: None };
    SandboxSpec {
        main: main.then_some(process),
        timeout,
        ..SandboxSpec::new(Namespace::default_namespace(), Isolation::Container, RootSpec::Scratch)
    }
}

fn accepted(main: bool, timeout: Option<Duration>) -> State {
    accepted_as(spec(main, timeout))
}

fn accepted_as(spec: SandboxSpec) -> State {
    let id = SandboxId::from_parts(Timestamp::from_millis(1), [0; 10]);
    State::accepted(id, spec, "fake", Isolation::Container, Deadlines::default(), ms(0))
}

/// The same with a network.
fn wired(spec: SandboxSpec) -> SandboxSpec {
    SandboxSpec { network: NetworkSpec::new(NetworkMode::Internal), ..spec }
}

/// A network other than that of [`wired`] ones.
fn other_network() -> NetworkSpec {
    let egress = EgressPolicy { default: Action::Deny, rules: vec![] };
    NetworkSpec { egress, ..NetworkSpec::new(NetworkMode::Internet) }
}

fn relimit(memory: u64) -> Fact {
    Fact::Requested(Request::Relimit(Box::new(Resources { memory_bytes: Some(memory), ..Resources::default() })))
}

fn rewire(to: NetworkSpec) -> Fact {
    Fact::Requested(Request::Rewire(Box::new(to)))
}

/// A member of a pool that stands ready.
fn pooled(with_network: bool) -> State {
    let mut member = spec(false, Some(secs(5)));
    if with_network {
        member = wired(member);
    }
    member.origin.owner = Owner::Pool;
    member.idle_timeout = Some(secs(5));
    let mut state = accepted_as(member);
    for fact in [planned(&state), Fact::Created, Fact::AgentReady] {
        feed(&mut state, 10, fact);
    }
    state
}

/// A claim that brings another network, if the sandbox has one.
fn claim_with_network(memory: Option<u64>, state: &State) -> Fact {
    let Fact::Requested(Request::Claim(mut claim)) = claim(memory) else { unreachable!() };
    claim.network = state.network.map(|_| other_network());
    Fact::Requested(Request::Claim(claim))
}

fn claim(memory: Option<u64>) -> Fact {
    Fact::Requested(Request::Claim(Box::new(ClaimSpec {
        namespace: Namespace::default_namespace(),
        owner: Owner::Api,
        program: None,
        labels: BTreeMap::from([("whose".to_owned(), "mine".to_owned())]),
        resources: Resources { memory_bytes: memory, ..Resources::default() },
        network: None,
        ingress: IngressSpec { public: true },
        timeout: Some(secs(60)),
        idle_timeout: None,
        on_timeout: if memory == Some(1) { OnTimeout::Pause } else { OnTimeout::Kill },
        process: ProcessDefaults { env: BTreeMap::from([("A".to_owned(), "1".to_owned())]), user: None, cwd: None },
    })))
}

/// A claim that brings a program, and whatever that of `claim` brings.
fn claim_to_run(claim: Fact) -> Fact {
    let Fact::Requested(Request::Claim(mut claim)) = claim else { unreachable!() };
    let main = spec(true, None).main.unwrap();
    (claim.owner, claim.program) = (Owner::Workload, Some(Program { main, artifact: None, stop: StopSpec::default() }));
    Fact::Requested(Request::Claim(claim))
}

fn resume(timeout: Option<Duration>) -> Fact {
    Fact::Requested(Request::Resume { timeout })
}

fn keepalive(span: Option<u64>, shorten: bool) -> Fact {
    Fact::Requested(Request::Keepalive { span: span.map(secs), shorten })
}

fn capture() -> Fact {
    Fact::Requested(Request::Capture { kind: CaptureKind::Machine, into: PathBuf::from("/x") })
}

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn ms(at: i64) -> Timestamp {
    Timestamp::from_millis(at)
}

fn resources() -> Vec<Resource> {
    vec![
        Resource::UidRange { base: 1 << 30, count: 1 << 16 },
        Resource::Directory { path: PathBuf::from("/run/moat/x") },
        Resource::Cgroup { name: "x".into() },
    ]
}

/// What the engine and the driver plan for it.
fn planned(state: &State) -> Fact {
    let mut planned = resources();
    if state.spec.network.is_wired() {
        planned.insert(1, Resource::Network(NetworkLease { slot: 1, address: [10, 0, 0, 1].into() }));
    }
    Fact::Planned(planned)
}

fn feed(state: &mut State, at: i64, fact: Fact) -> Vec<Effect> {
    let (next, effects) = step(state, Event::new(ms(at), fact));
    *state = next;
    effects
}

fn running() -> State {
    let mut state = accepted(true, None);
    for fact in [Fact::Planned(resources()), Fact::Created, Fact::AgentReady, Fact::MainStarted] {
        feed(&mut state, 10, fact);
    }
    assert_eq!(state.phase.spot(), "running");
    state
}

#[test]
fn a_whole_life() {
    let mut state = accepted(true, None);
    assert_eq!(feed(&mut state, 1, Fact::Planned(resources())), [Effect::Create]);
    assert!(state.leases.iter().all(|lease| lease.state == LeaseState::Intended));
    assert_eq!(feed(&mut state, 2, Fact::Created), [Effect::StartAgent]);
    assert!(state.leases.iter().all(|lease| lease.state == LeaseState::Held));
    assert_eq!(feed(&mut state, 3, Fact::AgentReady), [Effect::WatchAgent, Effect::StartMain]);
    assert_eq!(feed(&mut state, 4, Fact::MainStarted), [Effect::WatchMain]);
    assert_eq!(feed(&mut state, 5, Fact::MainExited(Exit::code(3))), []);
    assert_eq!(feed(&mut state, 6, Fact::Drained), [Effect::Destroy { polite: true }]);
    assert_eq!(feed(&mut state, 7, Fact::Destroyed), [Effect::Measure]);
    for resource in resources().into_iter().rev() {
        let fact = if state.leases.len() == 3 && state.phase.spot() == "stopping/measuring" {
            Fact::Measured { oom_kills: Some(0) }
        } else {
            Fact::Ticked
        };
        let effects = feed(&mut state, 8, fact);
        assert!(effects.is_empty() || effects == [Effect::Release(resource.clone())]);
        feed(&mut state, 9, Fact::Released(resource));
    }
    let view = state.view();
    assert_eq!((view.phase, view.cause, view.exit), (PhaseName::Stopped, Some(Cause::Exited), Some(Exit::code(3))));
    let told: Vec<&str> = state.timeline.steps().iter().map(|s| s.what.as_str()).collect();
    assert_eq!(told.first(), Some(&"accepted"));
    assert_eq!(told.last(), Some(&"exited"));
}

#[test]
fn a_second_stop_never_gives_more_time_but_may_give_less() {
    let stop = |grace| Fact::Requested(Request::Stop(StopSpec { signal: Signal::TERM, grace }));
    let mut state = running();
    feed(&mut state, 100, stop(Duration::from_secs(10)));
    assert_eq!(state.deadline(), Some(ms(10_100)));
    feed(&mut state, 200, stop(Duration::from_secs(60)));
    assert_eq!(state.deadline(), Some(ms(10_100)));
    feed(&mut state, 300, stop(Duration::from_secs(1)));
    assert_eq!(state.deadline(), Some(ms(1_300)));
    assert_eq!(feed(&mut state, 1_299, Fact::Ticked), []);
    assert_eq!(feed(&mut state, 1_300, Fact::Ticked), [Effect::Signal(Signal::KILL)]);
}

#[test]
fn the_clock_of_a_stop_survives_a_restart() {
    let mut state = running();
    feed(&mut state, 100, Fact::Requested(Request::Stop(StopSpec::default())));
    assert_eq!(feed(&mut state, 2_000, Fact::Restarted), [Effect::Recover { thaw: false }]);
    feed(&mut state, 2_001, Fact::Adopted(MainSeen::Running));
    assert_eq!((state.phase.spot(), state.deadline()), ("stopping/asking", Some(ms(5_100))));
}

#[test]
fn a_life_span_stands_while_it_is_frozen() {
    let mut state = accepted(false, Some(secs(60)));
    for fact in [Fact::Planned(resources()), Fact::Created, Fact::AgentReady] {
        feed(&mut state, 0, fact);
    }
    assert_eq!(state.deadline(), Some(ms(60_000)));
    feed(&mut state, 10_000, Fact::Requested(Request::Pause(PauseTo::Memory)));
    // What the freeze itself takes still counts.
    feed(&mut state, 15_000, Fact::Frozen);
    assert_eq!((state.deadline(), state.expires_at, state.remaining), (None, None, Some(secs(45))));
    feed(&mut state, 900_000, resume(None));
    feed(&mut state, 900_500, Fact::Thawed);
    assert_eq!((state.deadline(), state.remaining), (Some(ms(945_500)), None));
    let before = state.generation;
    assert_eq!(feed(&mut state, 901_000, Fact::Requested(Request::Use)), []);
    assert_eq!((state.generation, state.last_use), (before, ms(901_000)));
    feed(&mut state, 945_500, Fact::Ticked);
    let Phase::Stopping(Stopping { cause, .. }) = &state.phase else { panic!("{:?}", state.phase) };
    assert_eq!(*cause, Cause::TimedOut { limit: TimeLimit::Absolute });
    assert_eq!(serde_json::from_str::<Cause>(r#"{"why":"timed_out"}"#).unwrap(), *cause, "as it was once written");
}

#[test]
fn what_another_replaces_is_killed_as_it_stands_still() {
    for leashed in [false, true] {
        let mut state = running();
        std::sync::Arc::make_mut(&mut state.spec).leashed = leashed;
        feed(&mut state, 10, Fact::Requested(Request::Pause(PauseTo::Memory)));
        feed(&mut state, 11, Fact::Frozen);
        let effects = feed(&mut state, 12, Fact::Requested(Request::Kill));
        let wanted = if leashed { Effect::Destroy { polite: false } } else { Effect::Thaw };
        assert_eq!(effects, [wanted]);
    }
    // Asked to end, it must be able to hear that.
    let mut state = running();
    std::sync::Arc::make_mut(&mut state.spec).leashed = true;
    feed(&mut state, 10, Fact::Requested(Request::Pause(PauseTo::Memory)));
    feed(&mut state, 11, Fact::Frozen);
    assert_eq!(feed(&mut state, 12, Fact::Requested(Request::Stop(StopSpec::default()))), [Effect::Thaw]);
}

#[test]
fn of_two_claims_one_finds_a_member() {
    let mut state = pooled(false);
    assert_eq!((state.phase.spot(), state.deadline(), state.expires_at), ("running", None, None));
    let Fact::Requested(request) = claim(Some(7)) else { unreachable!() };
    assert_eq!(admission(&state, &request, ms(100)), Admission::Accept);
    let Request::Claim(wanted) = &request else { unreachable!() };
    assert_eq!(feed(&mut state, 100, claim(Some(7))), [Effect::Retune(wanted.resources.clone())]);
    assert_eq!(admission(&state, &request, ms(100)), Admission::Deny(Reason::NotPooled));
    assert!(state.spec.ingress.public);
    assert_eq!(admission(&state, &Request::Use, ms(100)), Admission::Deny(Reason::Claiming));
    assert_eq!((state.view().created_at, state.view().ready_at, state.expires_at), (ms(100), None, Some(ms(60_100))));
    feed(&mut state, 105, Fact::Retuned);
    assert_eq!((state.view().ready_at, state.retuning.is_none()), (Some(ms(105)), true));
    assert_eq!(admission(&state, &Request::Use, ms(105)), Admission::Accept);
}

#[test]
fn a_claim_may_bring_a_program_which_is_started_last() {
    let mut state = pooled(true);
    assert!(state.started_at.is_some());
    let claim = claim_to_run(claim_with_network(Some(7), &state));
    assert!(matches!(feed(&mut state, 100, claim)[..], [Effect::Retune(_)]));
    let view = state.view();
    assert_eq!((view.phase, view.origin.owner, view.started_at), (PhaseName::Starting, Owner::Workload, None));
    assert!(matches!(feed(&mut state, 101, Fact::Retuned)[..], [Effect::Rewire(_)]));
    // The daemon dies before its program is started: what was asked for before it is asked for again.
    feed(&mut state, 102, Fact::Restarted);
    assert_eq!(state.view().phase, PhaseName::Recovering);
    let effects = feed(&mut state, 103, Fact::Adopted(MainSeen::Idle));
    assert!(matches!(effects[..], [Effect::WatchAgent, Effect::Rewire(_)]), "{effects:?}");
    assert_eq!((state.view().phase, state.limit()), (PhaseName::Starting, None));
    assert_eq!(feed(&mut state, 104, Fact::Rewired), [Effect::StartMain]);
    assert_eq!((state.phase.spot(), state.ready_at), ("starting/main", None));
    assert_eq!(feed(&mut state, 105, Fact::MainStarted), [Effect::WatchMain]);
    assert_eq!((state.phase.spot(), state.started_at, state.ready_at), ("running", Some(ms(105)), Some(ms(105))));
    assert_eq!(state.expires_at, Some(ms(60_105)), "its time begins with its program");

    let mut state = pooled(false);
    assert_eq!(feed(&mut state, 100, claim_to_run(super::tests::claim(None))), [Effect::StartMain]);
    feed(&mut state, 101, Fact::MainStartFailed("no such file".into()));
    let Phase::Stopping(Stopping { cause: Cause::StartFailed { stage, .. }, .. }) = &state.phase else { panic!() };
    assert_eq!(stage, "start main");
}

/// A sandbox with a network that runs.
fn networked() -> State {
    let mut state = accepted_as(wired(spec(false, None)));
    for fact in [planned(&state), Fact::Created, Fact::AgentReady] {
        feed(&mut state, 10, fact);
    }
    state
}

#[test]
fn limits_are_on_record_as_asked_for_until_they_are_in_force() {
    let mut state = networked();
    let before = state.spec.resources.clone();
    let Fact::Requested(request) = relimit(7) else { unreachable!() };
    let Request::Relimit(wanted) = &request else { unreachable!() };
    assert_eq!(feed(&mut state, 20, relimit(7)), [Effect::Retune((**wanted).clone())]);
    assert_eq!((&state.spec.resources, &state.relimiting), (&before, &Some((**wanted).clone())));
    assert_eq!(admission(&state, &request, ms(20)), Admission::Deny(Reason::Relimiting));
    assert_eq!(admission(&state, &Request::Use, ms(20)), Admission::Accept);
    feed(&mut state, 21, Fact::RetuneFailed("in use".into()));
    assert_eq!((&state.spec.resources, &state.relimiting, state.phase.spot()), (&before, &None, "running"));
    // The daemon dies in between: they are asked for again.
    feed(&mut state, 30, relimit(7));
    feed(&mut state, 31, Fact::Restarted);
    let effects = feed(&mut state, 32, Fact::Adopted(MainSeen::Idle));
    assert!(effects.contains(&Effect::Retune((**wanted).clone())), "{effects:?}");
    feed(&mut state, 33, Fact::Retuned);
    assert_eq!((state.spec.resources.memory_bytes, &state.relimiting), (Some(7), &None));
    assert_eq!(admission(&state, &request, ms(34)), Admission::AlreadySo);
}

#[test]
fn a_network_is_on_record_as_asked_for_until_it_is_in_force() {
    let mut state = networked();
    assert_eq!(state.view().address, Some([10, 0, 0, 1].into()));
    let before = state.spec.network.clone();
    let asked = Rewiring { to: other_network(), claim: false };
    assert_eq!(feed(&mut state, 20, rewire(other_network())), [Effect::Rewire(Box::new(asked.clone()))]);
    assert_eq!((&state.spec.network, &state.rewiring), (&before, &Some(asked.clone())));
    let again = Request::Rewire(Box::new(other_network()));
    assert_eq!(admission(&state, &again, ms(20)), Admission::Deny(Reason::Rewiring));
    assert_eq!(admission(&state, &Request::Use, ms(20)), Admission::Accept, "it lives on under the old rules");
    feed(&mut state, 21, Fact::RewireFailed("busy".into()));
    assert_eq!((&state.spec.network, &state.rewiring, state.phase.spot()), (&before, &None, "running"));

    // The daemon dies after the kernel has the new rules: they are asked for again.
    feed(&mut state, 30, rewire(other_network()));
    assert_eq!(feed(&mut state, 31, Fact::Restarted), [Effect::Recover { thaw: true }]);
    let effects = feed(&mut state, 32, Fact::Adopted(MainSeen::Idle));
    assert!(effects.contains(&Effect::Rewire(Box::new(asked))), "{effects:?}");
    feed(&mut state, 33, Fact::Rewired);
    assert_eq!((&state.spec.network, &state.rewiring), (&other_network(), &None));
    assert_eq!(admission(&state, &again, ms(34)), Admission::AlreadySo);

    // Nobody can say which holds.
    feed(&mut state, 40, rewire(before));
    feed(&mut state, 41, Fact::RewireInDoubt("no answer".into()));
    assert_eq!(state.phase.spot(), "stopping/destroying");
    assert!(state.rewiring.is_some(), "nothing passes if the daemon dies on the way down");
}

#[test]
fn what_cannot_change_on_a_live_sandbox_is_named() {
    let state = networked();
    let ask = |spec: NetworkSpec| match admission(&state, &Request::Rewire(Box::new(spec)), ms(20)) {
        Admission::Deny(Reason::Unfit(unfit)) => unfit.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(ask(NetworkSpec::default()).starts_with("network.mode: internal cannot become isolated"));
    assert!(ask(NetworkSpec::new(NetworkMode::Host)).starts_with("network.mode:"));
    let moved = NetworkSpec { address: Some([10, 0, 0, 2].into()), ..other_network() };
    assert!(ask(moved).starts_with("network.address: it stays 10.0.0.1"));
    let same = NetworkSpec { address: Some([10, 0, 0, 1].into()), ..other_network() };
    assert_eq!(state.rewired(&same).unwrap(), other_network(), "its own address is no change");
    let lone = running();
    assert!(lone.rewired(&other_network()).unwrap_err().to_string().starts_with("network.mode: isolated cannot"));
    let policy = EgressPolicy { default: Action::Deny, rules: vec![] };
    let rules = NetworkSpec { egress: policy, ..NetworkSpec::default() };
    assert!(lone.rewired(&rules).unwrap_err().to_string().starts_with("network.mode: isolated has no rules"));
}

#[test]
fn a_claim_sets_limits_and_then_the_network() {
    let mut state = pooled(true);
    let member = state.spec.network.clone();
    let claim = claim_with_network(Some(7), &state);
    assert!(matches!(feed(&mut state, 100, claim)[..], [Effect::Retune(_)]));
    let to_be = Rewiring { to: other_network(), claim: true };
    assert_eq!(feed(&mut state, 101, Fact::Retuned), [Effect::Rewire(Box::new(to_be))]);
    assert_eq!((state.ready_at, &state.spec.network), (None, &member));
    assert_eq!(admission(&state, &Request::Use, ms(102)), Admission::Deny(Reason::Claiming));
    let change = Request::Rewire(Box::new(member.clone()));
    assert_eq!(admission(&state, &change, ms(102)), Admission::Deny(Reason::Claiming));
    feed(&mut state, 103, Fact::Rewired);
    assert_eq!((state.ready_at, &state.spec.network), (Some(ms(103)), &other_network()));

    // One that asks for no other network becomes somebody's all the same.
    let mut state = pooled(true);
    let to_be = Rewiring { to: member, claim: true };
    assert_eq!(feed(&mut state, 100, super::tests::claim(None)), [Effect::Rewire(Box::new(to_be))]);
    feed(&mut state, 101, Fact::RewireFailed("taken".into()));
    assert_eq!(state.phase.spot(), "stopping/destroying");
    assert!(state.rewiring.is_some(), "nothing passes on the way down");
}

#[test]
fn death_for_memory_is_told_apart() {
    for (exit, kills, cause) in [
        (Exit::signal(9), 1, Cause::OutOfMemory),
        (Exit::signal(9), 0, Cause::Exited),
        (Exit::code(1), 1, Cause::Exited),
        (Exit::code(137), 1, Cause::OutOfMemory),
    ] {
        let mut state = running();
        for fact in [Fact::MainExited(exit), Fact::Drained, Fact::Destroyed, Fact::Measured { oom_kills: Some(kills) }]
        {
            feed(&mut state, 20, fact);
        }
        for resource in resources().into_iter().rev() {
            feed(&mut state, 21, Fact::Released(resource));
        }
        let view = state.view();
        assert_eq!(view.cause.as_ref(), Some(&cause), "{exit:?} {kills}");
        assert_eq!(view.exit.map(|e| e.oom_killed), Some(cause == Cause::OutOfMemory));
    }
}

#[test]
fn a_failed_release_is_kept_and_tried_again() {
    let mut state = running();
    for fact in [Fact::AgentLost("gone".into()), Fact::Destroyed, Fact::Measured { oom_kills: None }] {
        feed(&mut state, 20, fact);
    }
    let last = Resource::Cgroup { name: "x".into() };
    feed(&mut state, 20, Fact::ReleaseFailed(last.clone(), "busy".into()));
    assert_eq!(state.leases.len(), 3);
    assert_eq!(state.deadline(), Some(ms(120)));
    assert_eq!(feed(&mut state, 120, Fact::Ticked), [Effect::Release(last.clone())]);
    feed(&mut state, 121, Fact::ReleaseFailed(last.clone(), "busy".into()));
    assert_eq!(state.deadline(), Some(ms(321)), "waits double");
    feed(&mut state, 321, Fact::Ticked);
    feed(&mut state, 322, Fact::Released(last));
    assert_eq!(state.leases.len(), 2);
}
