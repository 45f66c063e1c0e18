//! Random histories: a world that answers effects as it likes, and what is true whatever happens.

use proptest::prelude::*;

use super::*;
use crate::lifecycle::table::{TABLE, Transition};

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
            24 if luck.is_multiple_of(5) => self.event(relimit(u64::from(luck % 8))),
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
        assert!(after.rewiring.is_none() && after.retuning.is_none() && after.relimiting.is_none());
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
            Just(relimit(3)),
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
