//! The life of a sandbox under random histories, and the named cases a reader wants to see first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::table::{TABLE, Transition};
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

/// A world that answers effects as it likes, driven by bytes.
struct World {
    start: State,
    state: State,
    pending: Vec<Effect>,
    journal: Vec<Event>,
    now: i64,
    terminal_views: u32,
    forgotten: bool,
}

impl World {
    fn new(state: State) -> Self {
        Self {
            start: state.clone(),
            state,
            pending: vec![],
            journal: vec![],
            now: 0,
            terminal_views: 0,
            forgotten: false,
        }
    }

    fn event(&mut self, fact: Fact) {
        self.now += 1;
        let event = Event::new(ms(self.now), fact.clone());
        let before = self.state.clone();
        let promise =
            if let Fact::Requested(request) = &fact { Some(admission(&before, request, event.at)) } else { None };
        let (after, effects) = step(&before, event.clone());
        self.journal.push(event);

        if before == after {
            assert!(effects.is_empty() || fact == Fact::Restarted, "{fact:?} has effects but changes nothing");
        } else if (State { last_use: before.last_use, ..after.clone() }) != before {
            assert!(after.generation > before.generation);
        } else {
            assert_eq!(after.generation, before.generation, "a use alone is not worth writing down");
        }
        let a_use = matches!(fact, Fact::Requested(Request::Use | Request::Keepalive { .. }));
        match promise {
            // All that may come of these is a later moment of last use.
            Some(Admission::Accept) if a_use => assert_eq!(after.last_use, self.state.last_use.max(ms(self.now))),
            Some(promise) => {
                let changes = before != after;
                assert_eq!(promise == Admission::Accept, changes, "{promise:?} but {fact:?} in {:?}", before.phase);
            }
            None => {}
        }
        self.check_clocks(&before, &after, &fact);
        check_network(&before, &after, &fact);
        if before.is_terminal() {
            assert_eq!(before.view(), after.view(), "a terminal view changed by {fact:?}");
        } else if after.is_terminal() {
            self.terminal_views += 1;
            assert!(after.leases.is_empty(), "ended with leases");
        }
        if before.view() != after.view() {
            assert!(after.view().generation > before.view().generation);
        }
        if before.phase.spot() != after.phase.spot() {
            let arrow = Transition { from: before.phase.spot(), on: fact.name(), to: after.phase.spot() };
            assert!(TABLE.binary_search(&arrow).is_ok(), "{arrow:?} is not in the table");
        }
        if fact == Fact::Restarted || matches!(fact, Fact::ActorBroken(_)) {
            self.pending.clear();
        }
        self.forgotten |= effects.contains(&Effect::Forget);
        self.pending.extend(effects);
        self.state = after;
    }

    /// What is true of the clocks, whatever happens.
    fn check_clocks(&self, before: &State, after: &State, fact: &Fact) {
        assert!(after.expires_at.is_none() || after.remaining.is_none(), "a clock both runs and stands");
        if after.spec.origin.owner == Owner::Pool {
            assert_eq!((after.expires_at, after.remaining, after.expired), (None, None, None), "nobody's, and limited");
            assert_eq!(after.limit(), None);
        }
        // Decided before, perhaps by a daemon that has died since.
        let stopping =
            |state: &State| matches!(state.phase, Phase::Stopping(_) | Phase::Recovering { then: Then::Stop(_), .. });
        if let (false, Phase::Stopping(Stopping { cause: Cause::TimedOut { .. }, .. })) =
            (stopping(before), &after.phase)
        {
            let due = before.limit().is_some_and(|(at, _)| at <= ms(self.now));
            assert!(due || before.expired.is_some(), "ended early by {fact:?}: {before:?}");
        }
        if let (None, Some(_)) = (before.expired, after.expired) {
            assert!(before.limit().is_some_and(|(at, _)| at <= ms(self.now)), "paused early by {fact:?}");
        }
        if let (Fact::Requested(Request::Keepalive { shorten: false, .. }), Some(had), Some(has)) =
            (fact, before.expires_at, after.expires_at)
        {
            assert!(has >= had, "a keepalive shortened a life");
        }
    }

    fn answer(&mut self, pick: u8, luck: u8) {
        if self.pending.is_empty() {
            return;
        }
        let effect = self.pending.remove(usize::from(pick) % self.pending.len());
        let bad = luck.is_multiple_of(6);
        let oops = || "oops".to_owned();
        let fact = match effect {
            Effect::Create if bad => Fact::CreateFailed(oops()),
            Effect::Create => Fact::Created,
            Effect::StartAgent if bad => Fact::AgentStartFailed(oops()),
            Effect::StartAgent => Fact::AgentReady,
            Effect::StartMain if bad => Fact::MainStartFailed(oops()),
            Effect::StartMain => Fact::MainStarted,
            Effect::AbandonStart => {
                let at = self
                    .pending
                    .iter()
                    .position(|e| matches!(e, Effect::Create | Effect::StartAgent | Effect::StartMain));
                match at {
                    Some(at) if bad => return self.answer(u8::try_from(at).unwrap(), 1),
                    Some(at) => {
                        self.pending.remove(at);
                    }
                    None => {}
                }
                Fact::StartAbandoned
            }
            Effect::WatchAgent if bad => Fact::AgentLost(oops()),
            Effect::WatchMain if bad => Fact::Drained,
            Effect::WatchMain => Fact::MainExited(Exit::code(i32::from(luck))),
            Effect::Signal(_) if bad => Fact::SignalFailed(oops()),
            Effect::Signal(Signal::KILL) => Fact::MainExited(Exit::signal(9)),
            Effect::WatchAgent | Effect::Signal(_) => return,
            Effect::Freeze if bad => Fact::FreezeFailed(oops()),
            Effect::Freeze => Fact::Frozen,
            Effect::Thaw if bad => Fact::ThawFailed(oops()),
            Effect::Thaw => Fact::Thawed,
            Effect::Stow if bad => Fact::StowFailed(oops()),
            Effect::Stow => Fact::Stowed,
            Effect::Unstow if luck.is_multiple_of(24) => Fact::UnstowLost(oops()),
            Effect::Unstow if bad => Fact::UnstowFailed(oops()),
            Effect::Unstow => Fact::Unstowed,
            Effect::AbandonStow => return self.pending.retain(|effect| bad || *effect != Effect::Stow),
            Effect::Capture { .. } if bad => Fact::CaptureFailed(oops()),
            Effect::Capture { .. } => Fact::Captured,
            Effect::AbandonCapture => {
                self.pending.retain(|effect| !matches!(effect, Effect::Capture { .. }));
                return;
            }
            Effect::Retune(_) if bad => Fact::RetuneFailed(oops()),
            Effect::Retune(_) => Fact::Retuned,
            Effect::Rewire(_) if bad && luck.is_multiple_of(12) => Fact::RewireInDoubt(oops()),
            Effect::Rewire(_) if bad => Fact::RewireFailed(oops()),
            Effect::Rewire(_) => Fact::Rewired,
            Effect::Destroy { .. } if bad => Fact::DestroyFailed(oops()),
            Effect::Destroy { .. } => Fact::Destroyed,
            Effect::Measure => Fact::Measured { oom_kills: Some(u64::from(luck % 3)) },
            Effect::Release(resource) if bad => Fact::ReleaseFailed(resource, oops()),
            Effect::Release(resource) => Fact::Released(resource),
            Effect::Recover { .. } => match luck % 7 {
                6 => Fact::FoundStowed,
                0 => Fact::RecoverFailed(oops()),
                1 => Fact::FoundGone(oops()),
                2 => Fact::Adopted(MainSeen::Idle),
                3 => Fact::Adopted(MainSeen::Exited(Exit::code(0))),
                _ => Fact::Adopted(MainSeen::Running),
            },
            Effect::Forget => return,
        };
        self.event(fact);
    }

    fn turn(&mut self, what: u8, pick: u8, luck: u8) {
        let grace = Duration::from_millis(u64::from(luck) * 20);
        let span = luck.is_multiple_of(2).then(|| Duration::from_millis(u64::from(luck) * 40));
        match what % 27 {
            0 => self.event(Fact::Requested(Request::Stop(StopSpec { signal: Signal::TERM, grace }))),
            1 if luck.is_multiple_of(2) => self.event(Fact::Requested(Request::Kill)),
            2 if luck.is_multiple_of(4) => self.event(Fact::Requested(Request::Delete)),
            3 | 4 => self.event(Fact::Requested(Request::Pause(PauseTo::Memory))),
            5 => self.event(resume(span)),
            20 => self.event(Fact::Requested(Request::Keepalive { span, shorten: luck.is_multiple_of(3) })),
            21 if luck.is_multiple_of(2) => self.event(Fact::Requested(Request::Pause(PauseTo::Disk))),
            21 => self.event(capture()),
            22 if luck.is_multiple_of(3) => {
                let memory = luck.is_multiple_of(2).then_some(1);
                let network = luck.is_multiple_of(4);
                let fact = if network { claim_with_network(memory, &self.state) } else { claim(memory) };
                self.event(claim_to_run(fact));
            }
            22 if luck.is_multiple_of(5) => {
                self.event(claim_with_network(luck.is_multiple_of(2).then_some(1), &self.state))
            }
            22 => self.event(claim(luck.is_multiple_of(2).then_some(1 + u64::from(luck % 4 / 2)))),
            24 if luck.is_multiple_of(3) => self.event(rewire(NetworkSpec::new(NetworkMode::Internal))),
            24 if luck.is_multiple_of(7) => self.event(rewire(NetworkSpec::default())),
            24 => self.event(rewire(other_network())),
            23 => self.pass_time(),
            6 => self.event(Fact::Requested(Request::Use)),
            7 => self.event(Fact::Restarted),
            8 if luck.is_multiple_of(8) => self.event(Fact::ActorBroken("broke".into())),
            8 if luck.is_multiple_of(3) => self.event(Fact::RecordUnwritable("full".into())),
            9 => self.pass_time(),
            10 if luck < 64 => {
                // A moment in which nothing answered for long.
                self.now += self.state.deadline().map_or(0, |due| due.as_millis() - self.now).max(0);
                self.answer(pick, luck);
            }
            10 => self.event(Fact::Drained),
            _ => self.answer(pick, luck),
        }
        if self.state.phase == Phase::Pending {
            self.event(planned(&self.state));
        }
    }

    fn pass_time(&mut self) {
        if let Some(due) = self.state.deadline() {
            self.now = self.now.max(due.as_millis());
        }
        self.event(Fact::Ticked);
    }

    /// From here on everything works: it must come to its end.
    fn come_to_an_end(&mut self) {
        self.event(Fact::Requested(Request::Delete));
        for _ in 0..200 {
            if self.forgotten {
                break;
            }
            if self.pending.is_empty() {
                self.pass_time();
            } else {
                self.answer(0, 1);
            }
        }
        assert!(self.forgotten, "stuck in {:?} with {:?}", self.state.phase, self.pending);
        assert!(self.state.is_terminal());
        assert!(self.state.leases.is_empty());
        assert_eq!(self.terminal_views, 1);
    }
}

/// What is true of the network, whatever happens.
fn check_network(before: &State, after: &State, fact: &Fact) {
    let address = |state: &State| state.view().address;
    assert!(address(before).is_none() || address(before) == address(after), "it moved by {fact:?}");
    if before.spec.network != after.spec.network {
        let asked = before.rewiring.as_ref().map(|rewiring| &rewiring.to);
        assert_eq!((fact, asked), (&Fact::Rewired, Some(&after.spec.network)), "on record before it is in force");
    }
    assert!(after.network.is_none() || after.spec.network.is_wired(), "its network was taken away by {fact:?}");
    assert!(after.rewiring.is_none() || after.network.is_some(), "another network without one");
    if let (None, Some(rewiring)) = (&before.rewiring, &after.rewiring) {
        let wanted = if rewiring.claim { "claim requested" } else { "rewire requested" };
        assert_eq!(fact.name(), wanted);
    }
    if after.is_terminal() {
        assert!(after.rewiring.is_none() && after.retuning.is_none());
    }
    // A member's network is nobody's until everything of its claim is in force.
    let ready = |state: &State| state.ready_at.is_some();
    if ready(after) && !ready(before) && after.spec.origin.from_pool {
        assert!(!after.is_claiming(), "ready by {fact:?}");
    }
}

fn check_history(kind: (bool, bool, bool, bool), limits: [Option<u16>; 2], turns: &[(u8, u8, u8)]) -> World {
    let (main, pool, pauses, with_network) = kind;
    let [timeout, idle_timeout] = limits.map(|limit| limit.map(|ms| Duration::from_millis(u64::from(ms))));
    let mut asked = SandboxSpec { idle_timeout, ..spec(main && !pool, timeout) };
    asked.origin.owner = if pool { Owner::Pool } else { Owner::Api };
    asked.on_timeout = if pauses { OnTimeout::Pause } else { OnTimeout::Kill };
    let start = accepted_as(if with_network { wired(asked) } else { asked });
    let mut world = World::new(start);
    if turns.first().is_none_or(|(_, _, luck)| *luck >= 16) {
        world.event(planned(&world.start));
    }
    for (what, pick, luck) in turns {
        world.turn(*what, *pick, *luck);
    }
    world.come_to_an_end();
    world
}

fn check_replay(world: &World) {
    let (mut replayed, mut stored) = (world.start.clone(), world.start.clone());
    // The journal alone gives the same state; so does one that was written down and read back at every step.
    for event in &world.journal {
        replayed = step(&replayed, event.clone()).0;
        let text = serde_json::to_string(&stored).unwrap();
        stored = step(&serde_json::from_str(&text).unwrap(), event.clone()).0;
    }
    assert_eq!(replayed, world.state);
    assert_eq!(stored, world.state);
}

fn any_fact() -> impl Strategy<Value = Fact> {
    let resource = prop::sample::select(resources());
    let exit = prop_oneof![any::<u8>().prop_map(|c| Exit::code(i32::from(c))), (1..64).prop_map(Exit::signal)];
    let stop = (0..10_000u64).prop_map(|g| StopSpec { signal: Signal::INT, grace: Duration::from_millis(g) });
    let oops = || Just("oops".to_owned());
    prop_oneof![
        Just(Fact::Planned(resources())),
        Just(Fact::Created),
        oops().prop_map(Fact::CreateFailed),
        Just(Fact::AgentReady),
        oops().prop_map(Fact::AgentStartFailed),
        Just(Fact::MainStarted),
        oops().prop_map(Fact::MainStartFailed),
        Just(Fact::StartAbandoned),
        exit.clone().prop_map(Fact::MainExited),
        Just(Fact::Drained),
        oops().prop_map(Fact::AgentLost),
        oops().prop_map(Fact::SignalFailed),
        prop_oneof![Just(Fact::Frozen), oops().prop_map(Fact::FreezeFailed)],
        prop_oneof![Just(Fact::Thawed), oops().prop_map(Fact::ThawFailed)],
        prop_oneof![
            Just(Fact::Stowed),
            oops().prop_map(Fact::StowFailed),
            Just(Fact::Unstowed),
            prop_oneof![oops().prop_map(Fact::UnstowFailed), oops().prop_map(Fact::UnstowLost)]
        ],
        prop_oneof![
            Just(Fact::Captured),
            oops().prop_map(Fact::CaptureFailed),
            Just(Fact::Retuned),
            oops().prop_map(Fact::RetuneFailed)
        ],
        prop_oneof![Just(Fact::Rewired), oops().prop_map(Fact::RewireFailed), oops().prop_map(Fact::RewireInDoubt),],
        prop_oneof![Just(Fact::Destroyed), oops().prop_map(Fact::DestroyFailed)],
        prop::option::of(0..2u64).prop_map(|oom_kills| Fact::Measured { oom_kills }),
        resource.clone().prop_map(Fact::Released),
        resource.prop_map(|r| Fact::ReleaseFailed(r, "oops".to_owned())),
        prop_oneof![Just(Fact::Restarted), oops().prop_map(Fact::ActorBroken), oops().prop_map(Fact::RecordUnwritable)],
        prop_oneof![
            Just(Fact::Adopted(MainSeen::Idle)),
            Just(Fact::Adopted(MainSeen::Running)),
            exit.prop_map(|e| Fact::Adopted(MainSeen::Exited(e))),
            Just(Fact::FoundStowed),
            oops().prop_map(Fact::FoundGone),
            oops().prop_map(Fact::RecoverFailed),
        ],
        Just(Fact::Ticked),
        prop_oneof![
            stop.prop_map(|s| Fact::Requested(Request::Stop(s))),
            Just(Fact::Requested(Request::Kill)),
            Just(Fact::Requested(Request::Pause(PauseTo::Memory))),
            Just(Fact::Requested(Request::Pause(PauseTo::Disk))),
            Just(resume(None)),
            Just(resume(Some(secs(2)))),
            (prop::option::of(0..5_u64), any::<bool>()).prop_map(|(span, shorten)| keepalive(span, shorten)),
            Just(capture()),
            Just(claim(None)),
            Just(claim(Some(1))),
            Just(rewire(other_network())),
            Just(rewire(NetworkSpec::new(NetworkMode::Internal))),
            Just(Fact::Requested(Request::Delete)),
            Just(Fact::Requested(Request::Use)),
        ],
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Histories that could happen: effects answered with good and bad luck, requests, restarts, time.
    #[test]
    fn every_history_ends_well(
        kind in any::<(bool, bool, bool, bool)>(),
        limits in any::<[Option<u16>; 2]>(),
        turns in prop::collection::vec(any::<(u8, u8, u8)>(), 0..60),
    ) {
        check_replay(&check_history(kind, limits, &turns));
    }

    /// Histories that could not: any fact at any time. Nothing panics, and no rule of the world is broken.
    #[test]
    fn no_history_breaks_a_rule(
        (main, pool, pauses, with_network) in any::<(bool, bool, bool, bool)>(),
        facts in prop::collection::vec(any_fact(), 0..80),
    ) {
        let mut asked = SandboxSpec { idle_timeout: Some(Duration::from_millis(30)), ..spec(main && !pool, None) };
        asked.origin.owner = if pool { Owner::Pool } else { Owner::Api };
        asked.on_timeout = if pauses { OnTimeout::Pause } else { OnTimeout::Kill };
        let mut world = World::new(accepted_as(if with_network { wired(asked) } else { asked }));
        for fact in facts {
            world.event(fact);
            world.pending.clear();
        }
        prop_assert!(world.terminal_views <= 1);
    }
}

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
    facts.extend([claim_with_network(None, state), claim_with_network(Some(1), state), rewire(other_network())]);
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
        "{} {} {:?} {:?} {} {:?} {:?} {:?} {}",
        state.drained,
        state.deleting,
        state.expired,
        (state.spec.origin.owner, state.awaits_program()),
        state.retuning.is_some(),
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
