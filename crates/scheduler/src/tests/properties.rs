//! What holds whatever happens: Must hold 5 of the issue, on random sequences of events.

use std::collections::{BTreeMap, BTreeSet};

use moat_model::job::cluster::Capacity;
use moat_model::job::{
    Allocation, ClientStatus, Constraint, DeploymentStatus, Desired, Eligibility, Job, JobType, NodeState, NodeWish,
    Operator, Update,
};
use proptest::prelude::*;

use crate::drain::is_done;
use crate::testing::{World, facts, fixed_port, job, node_id, update};
use crate::{JobKey, Plan, Seed, demand, plan};

const NODES: usize = 6;

#[derive(Debug, Clone)]
enum Event {
    Submit {
        which: usize,
        count: u32,
        release: u8,
    },
    Stop {
        which: usize,
    },
    /// Nodes do what is wanted, or only some of it.
    Act {
        all: bool,
    },
    Fail {
        nth: usize,
    },
    Unhealthy {
        nth: usize,
    },
    Complete {
        nth: usize,
    },
    Down(usize),
    Up(usize),
    Drain(usize, Option<u64>),
    Wish(usize, bool),
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let node = 0..NODES;
    prop_oneof![
        4 => (0..5_usize, 0..5_u32, 0..3_u8)
            .prop_map(|(which, count, release)| Event::Submit { which, count, release }),
        1 => (0..5_usize).prop_map(|which| Event::Stop { which }),
        6 => any::<bool>().prop_map(|all| Event::Act { all }),
        3 => (0..20_usize).prop_map(|nth| Event::Fail { nth }),
        1 => (0..20_usize).prop_map(|nth| Event::Unhealthy { nth }),
        1 => (0..20_usize).prop_map(|nth| Event::Complete { nth }),
        2 => node.clone().prop_map(Event::Down),
        2 => node.clone().prop_map(Event::Up),
        1 => (node.clone(), proptest::option::of(0..300_u64)).prop_map(|(node, by)| Event::Drain(node, by)),
        1 => (node, any::<bool>()).prop_map(|(node, may)| Event::Wish(node, may)),
        3 => (1..1000_u64).prop_map(Event::Pass),
    ]
}

/// Five jobs that differ in what can go wrong. `heavy`: they do not all fit.
fn content(which: usize, count: u32, release: u8, heavy: bool) -> Job {
    let kind = match which {
        1 => JobType::Batch,
        2 => JobType::System,
        _ => JobType::Service,
    };
    let mut job = job(&format!("job-{which}"), kind, if which == 2 { count.min(1) } else { count });
    let group = &mut job.groups[0];
    let resources = &mut group.tasks[0].resources;
    resources.cpu_mhz = if heavy { 1300 } else { 600 };
    resources.memory_mb = if heavy { 2500 } else { 500 };
    match which {
        0 => group.update = Some(Update { max_parallel: 2, ..update() }),
        1 if heavy => resources.cores = 1,
        3 => {
            fixed_port(group, 8080);
            let (attribute, value) = (String::new(), "true".to_owned());
            group.constraints = vec![Constraint { attribute, operator: Operator::DistinctHosts, value }];
        }
        4 => {
            group.update = Some(Update { canary: 1, auto_promote: true, auto_revert: true, ..update() });
            let (attribute, value) = ("${meta.odd}".to_owned(), "yes".to_owned());
            job.constraints = vec![Constraint { attribute, operator: Operator::NotEqual, value }];
        }
        _ => {}
    }
    // Release 0 and 1 differ in what runs, 1 and 2 only in what can be changed in place.
    job.groups[0].tasks[0].config.args = vec![format!("{}", release.min(1))];
    job.groups[0].restart.attempts = u32::from(release);
    job
}

fn world() -> World {
    let mut world = World::new(0);
    for number in 0..NODES {
        let mut node = facts(number);
        if number == 1 {
            node.meta.insert("odd".to_owned(), "yes".to_owned());
        }
        world.node(node);
    }
    world
}

fn happens(world: &mut World, event: &Event, heavy: bool) {
    let nth = |world: &World, nth: usize| -> Option<Allocation> {
        let all: Vec<_> = world.keys().iter().flat_map(|key| world.running(key)).collect();
        let answers = |one: &Allocation| world.cluster.client(one) != ClientStatus::Unknown;
        all.get(nth % all.len().max(1)).filter(|one| answers(one)).cloned()
    };
    match *event {
        Event::Submit { which, count, release } => drop(world.submit(content(which, count, release, heavy))),
        Event::Stop { which } => {
            let key = JobKey::of(&content(which, 0, 0, heavy));
            if world.keys().contains(&key) {
                world.stop(&key);
            }
        }
        Event::Act { all: true } => world.nodes_act(),
        Event::Act { all: false } => {
            if let Some(one) = nth(world, 0) {
                world.say(&one, ClientStatus::Running, Some(true), "");
            }
        }
        Event::Fail { nth: at } => {
            if let Some(one) = nth(world, at) {
                world.fail(&one);
            }
        }
        Event::Unhealthy { nth: at } => {
            if let Some(one) = nth(world, at) {
                world.say(&one, ClientStatus::Running, Some(false), "");
            }
        }
        Event::Complete { nth: at } => {
            if let Some(one) = nth(world, at) {
                world.say(&one, ClientStatus::Complete, None, "");
            }
        }
        Event::Down(node) => world.down(node),
        Event::Up(node) => world.up(node),
        Event::Drain(node, deadline) => world.drain(node, deadline, false),
        Event::Wish(node, may) => {
            let eligibility = if may { Eligibility::Eligible } else { Eligibility::Ineligible };
            world.wish(node, NodeWish { eligibility, drain: None });
        }
        Event::Pass(seconds) => world.pass(seconds),
    }
}

/// Added up anew, from the allocations themselves.
fn nobody_is_over_committed(world: &World) {
    let mut used: BTreeMap<_, Capacity> = BTreeMap::new();
    let mut ports: BTreeSet<(moat_model::NodeId, u16)> = BTreeSet::new();
    for key in world.keys() {
        for one in world.allocs(&key) {
            if one.client(world.cluster.status(&one.id)).is_terminal() {
                continue;
            }
            let Some(node) = world.cluster.node(&one.node) else { continue };
            let demand = demand(world.state(&key).versions[&one.job_version].group("web").unwrap());
            let takes = demand.on(node.facts());
            let sum = used.entry(one.node.clone()).or_default();
            sum.cpu_mhz += takes.cpu_mhz;
            sum.cores += takes.cores;
            sum.memory_mb += takes.memory_mb;
            sum.disk_mb += takes.disk_mb;
            for port in demand.ports.keys() {
                assert!(ports.insert((one.node.clone(), *port)), "port {port} twice on {}", one.node);
            }
        }
    }
    for (id, used) in used {
        let node = world.cluster.node(&id).unwrap();
        assert_eq!(node.used(), used, "what was added up piece by piece");
        let has = node.facts().capacity;
        let fits = used.cpu_mhz <= has.cpu_mhz
            && used.cores <= has.cores
            && used.memory_mb <= has.memory_mb
            && used.disk_mb <= has.disk_mb;
        assert!(fits, "{id} has {has:?}, used are {used:?}");
    }
}

fn what_is_placed_may_be_there(world: &World, plan: &Plan) {
    let job = world.state(&plan.job);
    for new in &plan.place {
        let node = world.cluster.node(&new.node).unwrap();
        assert!(node.takes_new(), "{} takes nothing new", new.node);
        if plan.job.job.as_str() == "job-4" {
            assert!(!node.facts().meta.contains_key("odd"), "the constraint does not hold");
        }
        let beside = |one: &&Allocation| one.node == new.node && one.desired == Desired::Run && one.id != new.id;
        let all = world.running(&plan.job);
        if plan.job.job.as_str() == "job-3" {
            assert_eq!(all.iter().filter(beside).count(), 0, "distinct_hosts does not hold");
        }
        assert!(job.versions.contains_key(&new.job_version));
    }
}

/// As many as may be missing are missing, when a newer version has replaced something.
fn a_rollout_keeps_its_bound(world: &World, plan: &Plan) {
    let state = world.state(&plan.job);
    let group = &state.job().unwrap().groups[0];
    let Some(update) = group.update else { return };
    if plan.groups.get("web").is_none_or(|done| done.destructive == 0) || plan.place.iter().any(|one| one.canary) {
        return;
    }
    let promoted = plan.change.iter().any(|one| one.reason == "its canary was promoted");
    let newer = world.running(&plan.job).into_iter().filter(|one| one.job_version == state.current && !one.canary);
    let healthy = |one: &Allocation| world.cluster.status(&one.id).and_then(|status| status.healthy) == Some(true);
    let waiting = newer.filter(|one| !healthy(one)).count();
    assert!(
        promoted || waiting <= usize::try_from(update.max_parallel).unwrap(),
        "{waiting} are not healthy, {} may be: {plan:#?}",
        update.max_parallel
    );
}

fn check_plan(world: &mut World, key: &JobKey) {
    let seed = world.seed();
    let first = plan(&world.cluster, key, world.now, seed);
    assert_eq!(first, plan(&world.rebuilt(), key, world.now, seed), "the order in which things are learnt matters");
    world.apply(&first);
    nobody_is_over_committed(world);
    what_is_placed_may_be_there(world, &first);
    if first.revert_to.is_none() {
        a_rollout_keeps_its_bound(world, &first);
        let again = plan(&world.cluster, key, world.now, Seed([4; 16]));
        assert!(again.is_empty(), "nothing happened, and yet: {again:#?}\nafter {first:#?}");
    }
}

fn plan_all(world: &mut World) {
    for key in world.keys() {
        check_plan(world, &key);
    }
}

/// Everything is well, and what should run is given the time it needs.
fn comes_to_rest(world: &mut World) {
    for number in 0..NODES {
        world.up(number);
        world.wish(number, NodeWish::default());
    }
    for _ in 0..100 {
        let before: usize = world.keys().iter().map(|key| world.allocs(key).len()).sum();
        plan_all(world);
        world.nodes_act();
        let after: usize = world.keys().iter().map(|key| world.allocs(key).len()).sum();
        let quiet = world.keys().iter().all(|key| plan(&world.cluster, key, world.now, Seed([5; 16])).is_empty());
        if quiet && before == after {
            return;
        }
        world.pass(60);
    }
    panic!("no rest after 100 rounds");
}

fn cases() -> ProptestConfig {
    let cases = std::env::var("MOAT_PLAN_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(16);
    ProptestConfig { cases, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn whatever_happens_no_plan_breaks_a_rule(
        events in proptest::collection::vec(event(), 1..40),
        heavy in any::<bool>(),
    ) {
        let mut world = world();
        for event in &events {
            happens(&mut world, event, heavy);
            plan_all(&mut world);
        }
    }

    #[test]
    fn plans_converge_and_then_a_lost_node_or_a_drain_moves_only_what_was_there(
        events in proptest::collection::vec(event(), 1..30),
        node in 0..NODES,
    ) {
        let mut world = world();
        for event in &events {
            happens(&mut world, event, false);
            plan_all(&mut world);
        }
        // A last version of everything, other work than all before.
        for which in 0..5 {
            let mut last = content(which, 4, 0, false);
            last.groups[0].tasks[0].config.args = vec!["last".to_owned()];
            world.submit(last);
        }
        comes_to_rest(&mut world);
        for key in world.keys() {
            let running = world.running(&key);
            let wanted = if key.job.as_str() == "job-2" { NODES } else { 4 };
            prop_assert_eq!(running.len(), wanted, "{}", &key);
            let current = world.state(&key).current;
            prop_assert!(running.iter().all(|one| one.job_version == current && !one.canary), "{}", &key);
            if key.job.as_str() != "job-2" {
                let indexes: Vec<_> = running.iter().map(|one| one.index).collect();
                prop_assert_eq!(indexes, vec![0, 1, 2, 3]);
            }
            if key.job.as_str() != "job-1" {
                prop_assert_eq!(world.cluster.deployment(&key).unwrap().status, DeploymentStatus::Successful);
            }
        }
        prop_assert_eq!(world.cluster.node(&node_id(node)).unwrap().state(), NodeState::Ready);

        let mut lost = world.clone();
        lost.down(node);
        for key in lost.keys() {
            let there: BTreeSet<_> =
                lost.running(&key).iter().filter(|one| one.node == node_id(node)).map(|one| one.id.clone()).collect();
            let plan = lost.plan(&key);
            let touched: BTreeSet<_> = plan.change.iter().map(|one| one.id.clone()).collect();
            prop_assert_eq!(&touched, &there, "{}", &key);
            let replaced = if key.job.as_str() == "job-2" { 0 } else { there.len() };
            prop_assert_eq!(plan.place.len(), replaced, "{}", &key);
        }

        world.drain(node, Some(3600), false);
        for _ in 0..40 {
            plan_all(&mut world);
            world.nodes_act();
            world.pass(100);
        }
        prop_assert!(is_done(&world.cluster, &node_id(node)));
    }
}
