//! Nodes that are being emptied.

use std::time::Duration;

use moat_model::job::{ClientStatus, Desired, JobType};

use crate::drain::is_done;
use crate::testing::{World, job, node_id};

/// J04, as far as it is decided here: waves, deadline, force, ignore-system.
#[test]
fn j04_services_leave_in_waves_and_come_up_elsewhere_first() {
    let mut world = World::new(1);
    let key = world.submit(job("web", JobType::Service, 4));
    world.settle(&key);
    (1..4).for_each(|number| world.node(crate::testing::facts(number)));
    world.drain(0, None, false);
    for _ in 0..4 {
        let plan = world.plan(&key);
        assert_eq!((plan.place.len(), plan.groups["web"].migrate), (1, 1), "max_parallel is 1");
        assert!(world.plan(&key).is_empty(), "its successor is not healthy yet");
        assert!(!is_done(&world.cluster, &node_id(0)));
        world.nodes_act();
    }
    assert!(world.plan(&key).is_empty());
    assert!(is_done(&world.cluster, &node_id(0)));
}

#[test]
fn nothing_leaves_that_has_nowhere_to_go_until_the_deadline() {
    let mut world = World::new(1);
    let key = world.submit(job("web", JobType::Service, 2));
    world.settle(&key);
    world.drain(0, Some(60), false);
    let plan = world.plan(&key);
    assert!(plan.is_empty());
    assert_eq!(plan.evaluation.failures["web"].unplaced, 1);
    assert_eq!(plan.next, Some(world.now.plus(Duration::from_secs(60))));
    world.pass(60);
    let plan = world.plan(&key);
    assert_eq!(plan.change.iter().filter(|one| one.desired == Desired::Stop).count(), 2);
    world.nodes_act();
    assert!(is_done(&world.cluster, &node_id(0)));
}

#[test]
fn batch_work_is_let_come_to_its_end() {
    let mut world = World::new(2);
    let key = world.submit(job("batch", JobType::Batch, 2));
    world.settle(&key);
    let there: Vec<_> = (0..2).filter(|n| world.running(&key).iter().any(|one| one.node == node_id(*n))).collect();
    world.drain(there[0], Some(100), false);
    assert!(world.plan(&key).is_empty());
    let first = world.running(&key).into_iter().find(|one| one.node == node_id(there[0])).unwrap();
    world.say(&first, ClientStatus::Complete, None, "");
    assert!(world.plan(&key).is_empty(), "done is done, wherever");
    world.pass(100);
    world.plan(&key);
    world.nodes_act();
    world.settle(&key);
    assert!(is_done(&world.cluster, &node_id(there[0])));
}

#[test]
fn system_instances_leave_last_unless_they_are_ignored() {
    for ignored in [false, true] {
        let mut world = World::new(1);
        let web = world.submit(job("web", JobType::Service, 1));
        let agent = world.submit(job("agent", JobType::System, 1));
        world.settle(&web);
        world.settle(&agent);
        world.node(crate::testing::facts(1));
        world.settle(&agent);
        world.drain(0, None, ignored);
        assert!(world.plan(&agent).is_empty(), "the service is still there");
        world.settle(&web);
        let plan = world.plan(&agent);
        assert_eq!(plan.change.len(), usize::from(!ignored));
        world.nodes_act();
        assert!(is_done(&world.cluster, &node_id(0)));
        assert_eq!(world.running(&agent).len(), if ignored { 2 } else { 1 });
    }
}

#[test]
fn force_is_a_deadline_that_is_over() {
    let mut world = World::new(2);
    let key = world.submit(job("web", JobType::Service, 6));
    world.settle(&key);
    let there = world.running(&key).iter().filter(|one| one.node == node_id(0)).count();
    world.drain(0, Some(0), false);
    let plan = world.plan(&key);
    assert_eq!(plan.change.iter().filter(|one| one.desired == Desired::Stop).count(), there);
}
