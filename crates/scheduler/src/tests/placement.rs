//! Where instances go, and what is said when they cannot.

use std::collections::BTreeSet;

use moat_model::job::{
    Affinity, Constraint, EvaluationStatus, Job, JobType, Operator, PortSpec, Spread, SpreadTarget, TaskDriver,
    VolumeRequest,
};

use crate::testing::{World, facts, fixed_port, job, node_id};

type Change = fn(&mut Job);

fn constraint(attribute: &str, operator: Operator, value: &str) -> Constraint {
    Constraint { attribute: attribute.to_owned(), operator, value: value.to_owned() }
}

#[test]
fn a_new_job_gets_its_instances_with_indexes_from_zero() {
    let mut world = World::new(3);
    let key = world.submit(job("web", JobType::Service, 4));
    let plan = world.plan(&key);
    assert_eq!(plan.place.iter().map(|one| one.index).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(plan.evaluation.status, EvaluationStatus::Complete);
    assert_eq!(plan.evaluation.placed, [("web".to_owned(), 4)].into());
    let nodes: BTreeSet<_> = plan.place.iter().map(|one| one.node.clone()).collect();
    assert_eq!(nodes.len(), 3, "instances of one group keep away from each other");
    world.settle(&key);
    assert!(world.plan(&key).is_empty());
}

#[test]
fn j06_a_missing_driver_and_every_other_reason_is_named() {
    let mut world = World::new(0);
    let mut without = facts(0);
    without.attributes.remove("driver.exec");
    without.class = "small".to_owned();
    let mut small = facts(1);
    small.capacity.memory_mb = 100;
    let mut elsewhere = facts(2);
    elsewhere.datacenter = "dc2".to_owned();
    let mut other_pool = facts(3);
    other_pool.pool = "gpu".to_owned();
    let mut taken = facts(4);
    taken.reserved_ports = vec![80];
    [without, small, elsewhere, other_pool, taken].into_iter().for_each(|facts| world.node(facts));
    let mut wanted = job("web", JobType::Service, 2);
    wanted.datacenters = vec!["dc1".to_owned(), "dc9".to_owned()];
    fixed_port(&mut wanted.groups[0], 80);
    let key = world.submit(wanted);
    let plan = world.plan(&key);
    assert_eq!(plan.evaluation.status, EvaluationStatus::Blocked);
    let failure = &plan.evaluation.failures["web"];
    assert_eq!((failure.unplaced, failure.evaluated, failure.filtered, failure.exhausted), (2, 3, 1, 2));
    assert_eq!(
        failure.reasons(),
        [
            "No nodes are available in datacenter \"dc9\"",
            "Class \"small\": 1 nodes excluded by filter",
            "Constraint \"missing drivers\": 1 nodes excluded by filter",
            "Resources exhausted on 2 nodes",
            "Dimension \"memory\" exhausted on 1 nodes",
            "Dimension \"network: reserved port collision http=80\" exhausted on 1 nodes",
        ]
    );
    world.node(facts(5));
    assert_eq!(world.plan(&key).place.len(), 1, "one port 80 for each node");
}

#[test]
fn what_a_group_asks_of_its_node_is_what_it_gets() {
    let table: [(&str, Change); 6] = [
        ("constraint", |job| job.constraints = vec![constraint("${meta.rack}", Operator::Equal, "r1")]),
        ("of the group", |job| {
            job.groups[0].constraints = vec![constraint("${meta.rack}", Operator::IsSet, "")];
        }),
        ("of a task", |job| {
            job.groups[0].tasks[0].constraints = vec![constraint("${meta.rack}", Operator::Regexp, "^r")];
        }),
        ("volume", |job| {
            let data = VolumeRequest { source: "data".to_owned(), read_only: false };
            job.groups[0].volumes.insert("data".to_owned(), data);
        }),
        ("driver", |job| job.groups[0].tasks[0].driver = TaskDriver::Microvm),
        ("pool", |job| job.node_pool = "special".to_owned()),
    ];
    for (name, ask) in table {
        let mut world = World::new(4);
        let mut only = facts(7);
        only.meta.insert("rack".to_owned(), "r1".to_owned());
        only.attributes.insert("driver.microvm".to_owned(), "true".to_owned());
        let volume = moat_model::job::cluster::HostVolume { read_only: false };
        only.host_volumes.insert("data".to_owned(), volume);
        let mut wanted = job("web", JobType::Service, 2);
        if name == "pool" {
            only.pool = "special".to_owned();
        }
        world.node(only);
        ask(&mut wanted);
        let key = world.submit(wanted);
        let plan = world.plan(&key);
        assert_eq!(plan.place.len(), 2, "{name}");
        assert!(plan.place.iter().all(|one| one.node == node_id(7)), "{name}");
    }
}

#[test]
fn instances_keep_apart_as_they_are_told() {
    let mut world = World::new(0);
    for number in 0..6 {
        let mut node = facts(number);
        node.meta.insert("rack".to_owned(), format!("r{}", number % 3));
        world.node(node);
    }
    let mut hosts = job("hosts", JobType::Service, 8);
    hosts.groups[0].constraints = vec![constraint("", Operator::DistinctHosts, "true")];
    let key = world.submit(hosts);
    let plan = world.plan(&key);
    assert_eq!(plan.place.iter().map(|one| one.node.clone()).collect::<BTreeSet<_>>().len(), 6);
    assert_eq!(plan.evaluation.failures["web"].unplaced, 2);
    assert_eq!(plan.evaluation.failures["web"].constraint_filtered["distinct_hosts"], 6);

    let mut racks = job("racks", JobType::Service, 8);
    racks.constraints = vec![constraint("${meta.rack}", Operator::DistinctProperty, "2")];
    let key = world.submit(racks);
    let plan = world.plan(&key);
    assert_eq!((plan.place.len(), plan.evaluation.failures["web"].unplaced), (6, 2));
}

#[test]
fn spreads_reach_their_targets_and_affinities_are_followed() {
    let mut world = World::new(0);
    for number in 0..8 {
        let mut node = facts(number);
        node.datacenter = if number < 4 { "east" } else { "west" }.to_owned();
        node.class = if number == 2 { "fast" } else { "slow" }.to_owned();
        world.node(node);
    }
    let mut wanted = job("web", JobType::Service, 10);
    let target = |value: &str, percent| SpreadTarget { value: value.to_owned(), percent };
    wanted.spreads = vec![Spread {
        attribute: "${node.datacenter}".to_owned(),
        weight: 100,
        targets: vec![target("east", 70), target("west", 30)],
    }];
    let key = world.submit(wanted);
    let plan = world.plan(&key);
    let east = plan.place.iter().filter(|one| (0..4).any(|number| node_id(number) == one.node)).count();
    assert_eq!((east, plan.place.len()), (7, 10));

    let mut even = job("even", JobType::Service, 6);
    even.spreads = vec![Spread { attribute: "${node.datacenter}".to_owned(), weight: 50, targets: Vec::new() }];
    let key = world.submit(even);
    let plan = world.plan(&key);
    let east = plan.place.iter().filter(|one| (0..4).any(|number| node_id(number) == one.node)).count();
    assert_eq!((east, plan.place.len()), (3, 6));

    let mut liked = job("liked", JobType::Service, 1);
    let fast = constraint("${node.class}", Operator::Equal, "fast");
    liked.affinities = vec![Affinity { constraint: fast.clone(), weight: 80 }];
    let key = world.submit(liked);
    assert_eq!(world.plan(&key).place[0].node, node_id(2));
    let mut disliked = job("disliked", JobType::Service, 4);
    disliked.affinities = vec![Affinity { constraint: fast, weight: -80 }];
    let key = world.submit(disliked);
    assert!(world.plan(&key).place.iter().all(|one| one.node != node_id(2)));
}

#[test]
fn batch_instances_of_different_jobs_fill_nodes_up() {
    let mut world = World::new(4);
    let mut nodes = BTreeSet::new();
    for number in 0..6 {
        let key = world.submit(job(&format!("b{number}"), JobType::Batch, 1));
        nodes.extend(world.plan(&key).place.into_iter().map(|one| one.node));
    }
    assert_eq!(nodes.len(), 1, "the fullest node that has room is the best");
}

#[test]
fn cores_take_their_part_of_the_shared_processor() {
    let mut world = World::new(1);
    let mut whole = job("whole", JobType::Service, 3);
    whole.groups[0].tasks[0].resources.cores = 2;
    let key = world.submit(whole);
    let plan = world.plan(&key);
    assert_eq!((plan.place.len(), plan.evaluation.failures["web"].unplaced), (2, 1));
    let key = world.submit(job("shared", JobType::Service, 1));
    assert_eq!(world.plan(&key).evaluation.failures["web"].dimension_exhausted, [("cpu".to_owned(), 1)].into());
}

#[test]
fn all_at_once_places_all_or_nothing() {
    let mut world = World::new(1);
    let mut wanted = job("web", JobType::Service, 9);
    wanted.all_at_once = true;
    let key = world.submit(wanted);
    let plan = world.plan(&key);
    assert!(plan.place.is_empty());
    assert_eq!(plan.evaluation.failures["web"].unplaced, 1);
    world.node(facts(1));
    assert_eq!(world.plan(&key).place.len(), 9);
}

#[test]
fn a_port_that_is_being_left_is_waited_for_and_is_no_failure() {
    let mut world = World::new(1);
    let mut first = job("web", JobType::Service, 1);
    fixed_port(&mut first.groups[0], 8080);
    let key = world.submit(first.clone());
    world.settle(&key);
    first.groups[0].tasks[0].config.command = "/bin/newer".to_owned();
    first.groups[0].network.as_mut().unwrap().ports.insert("admin".to_owned(), PortSpec::default());
    world.submit(first);
    let plan = world.plan(&key);
    assert!(plan.place.is_empty() && plan.change.len() == 1 && plan.evaluation.failures.is_empty());
    assert!(world.plan(&key).is_empty(), "the old one has not ended");
    world.nodes_act();
    let plan = world.plan(&key);
    assert_eq!((plan.place.len(), plan.place[0].job_version, plan.place[0].index), (1, 1, 0));
    world.settle(&key);
    assert_eq!(world.cluster.deployment(&key).unwrap().status.as_str(), "successful");
}

#[test]
fn the_same_input_in_another_order_gives_the_same_plan() {
    let mut forward = World::new(0);
    let mut backward = World::new(0);
    (0..20).for_each(|number| forward.node(facts(number)));
    (0..20).rev().for_each(|number| backward.node(facts(number)));
    let keys: Vec<_> = (0..4).map(|number| forward.submit(job(&format!("j{number}"), JobType::Service, 3))).collect();
    let again: Vec<_> =
        (0..4).rev().map(|number| backward.submit(job(&format!("j{number}"), JobType::Service, 3))).collect();
    assert_eq!(forward.dry(&keys[0]), backward.dry(&again[3]));
}

#[test]
fn what_each_instance_changes_counts_for_the_next_of_the_same_plan() {
    let mut world = World::new(0);
    for number in 0..50 {
        let mut node = facts(number);
        node.datacenter = format!("dc{}", number % 5);
        node.meta.insert("rack".to_owned(), format!("r{}", number % 12));
        world.node(node);
    }
    let mut wanted = job("web", JobType::Service, 60);
    let target = |value: &str, percent| SpreadTarget { value: value.to_owned(), percent };
    let spread = |attribute: &str, targets| Spread { attribute: attribute.to_owned(), weight: 100, targets };
    wanted.spreads = vec![spread("${node.datacenter}", vec![target("dc1", 40), target("dc2", 30)])];
    wanted.groups[0].constraints = vec![constraint("${meta.rack}", Operator::DistinctProperty, "6")];
    let key = world.submit(wanted);
    let plan = world.plan(&key);
    assert_eq!(plan.place.len(), 60);
    let count = |of: &dyn Fn(usize) -> usize, value: usize| {
        let on = |one: &&moat_model::job::Allocation| (0..50).any(|n| one.node == node_id(n) && of(n) == value);
        plan.place.iter().filter(on).count()
    };
    for rack in 0..12 {
        assert!(count(&|number| number % 12, rack) <= 6, "rack {rack}");
    }
    // 40 and 30 of a hundred, the rest together: racks that are full bend it a little.
    let of: Vec<_> = (0..5).map(|datacenter| count(&|number| number % 5, datacenter)).collect();
    assert!((22..=26).contains(&of[1]) && (16..=20).contains(&of[2]), "{of:?}");
    // The racks have room for twelve more.
    let mut more = job("web", JobType::Service, 80);
    more.groups[0].constraints = vec![constraint("${meta.rack}", Operator::DistinctProperty, "6")];
    world.submit(more);
    world.settle(&key);
    assert_eq!(world.running(&key).len(), 72);
}
