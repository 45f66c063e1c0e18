//! Instances that fail, nodes that are lost, batch work that is done.

use std::time::Duration;

use moat_model::job::{ClientStatus, Desired, JobType, NO_ROOM};

use crate::testing::{World, job, node_id};

#[test]
fn a_failed_instance_is_replaced_elsewhere_after_its_wait_and_its_history_goes_on() {
    let mut world = World::new(3);
    let key = world.submit(job("web", JobType::Service, 1));
    world.settle(&key);
    let mut delays = Vec::new();
    for _ in 0..3 {
        let failed = world.running(&key).remove(0);
        world.fail(&failed);
        let plan = world.plan(&key);
        assert!(plan.place.is_empty());
        let next = plan.next.unwrap();
        assert_eq!(plan.change[0].not_before, Some(next));
        delays.push(next.since(world.now).as_secs());
        assert!(world.plan(&key).is_empty());
        world.now = next;
        let plan = world.plan(&key);
        let new = &plan.place[0];
        assert_ne!(new.node, failed.node);
        assert_eq!((new.previous.as_ref(), new.index), (Some(&failed.id), 0));
        let old = plan.change.iter().find(|one| one.id == failed.id).unwrap();
        assert_eq!((old.next.as_ref(), old.desired), (Some(&new.id), Desired::Stop));
        assert_eq!(new.reschedules.len(), delays.len());
        world.nodes_act();
    }
    assert_eq!(delays, [30, 60, 120]);
}

#[test]
fn a_batch_instance_is_tried_again_once_and_never_after_success() {
    let mut world = World::new(3);
    let key = world.submit(job("batch", JobType::Batch, 2));
    world.settle(&key);
    let all = world.running(&key);
    world.say(&all[0], ClientStatus::Complete, None, "");
    world.fail(&all[1]);
    assert!(world.plan(&key).place.is_empty());
    world.pass(5);
    let plan = world.plan(&key);
    assert_eq!((plan.place.len(), plan.place[0].index), (1, 1));
    world.nodes_act();
    world.fail(&plan.place[0]);
    world.pass(10_000);
    let plan = world.plan(&key);
    assert!(plan.is_empty() && plan.next.is_none(), "one attempt a day");
    let mut again = job("batch", JobType::Batch, 2);
    again.priority = 60;
    world.submit(again.clone());
    assert!(world.plan(&key).place.is_empty(), "the work is the same, and done");
    again.groups[0].tasks[0].config.args.push("more".to_owned());
    world.submit(again);
    assert_eq!(world.plan(&key).place.len(), 2, "other work");
}

#[test]
fn a_lost_node_changes_only_what_ran_there() {
    let mut world = World::new(4);
    let key = world.submit(job("web", JobType::Service, 6));
    world.settle(&key);
    let there: Vec<_> = world.running(&key).into_iter().filter(|one| one.node == node_id(1)).collect();
    assert!(!there.is_empty());
    world.down(1);
    let plan = world.plan(&key);
    assert_eq!((plan.place.len(), plan.change.len()), (there.len(), there.len()));
    for (new, old) in plan.place.iter().zip(&there) {
        assert_eq!((new.index, new.previous.as_ref()), (old.index, Some(&old.id)));
        let old = plan.change.iter().find(|one| one.id == old.id).unwrap();
        assert!(old.lost && old.desired == Desired::Stop && old.next.as_ref() == Some(&new.id));
        assert_eq!(world.cluster.client(old), ClientStatus::Lost);
    }
    world.settle(&key);
    world.up(1);
    assert!(world.plan(&key).is_empty(), "what was replaced stays so");
}

#[test]
fn who_is_not_to_be_replaced_is_waited_for() {
    let mut world = World::new(2);
    let mut wanted = job("web", JobType::Service, 2);
    wanted.groups[0].disconnect.replace = false;
    let key = world.submit(wanted);
    world.settle(&key);
    world.down(1);
    assert!(world.plan(&key).is_empty());
    let there = world.running(&key).into_iter().find(|one| one.node == node_id(1)).unwrap();
    assert_eq!(world.cluster.client(&there), ClientStatus::Unknown);
    let mut newer = job("web", JobType::Service, 2);
    newer.groups[0].disconnect.replace = false;
    newer.meta.insert("release".to_owned(), "2".to_owned());
    let mut updated = world.clone();
    updated.submit(newer);
    updated.settle(&key);
    assert!(updated.running(&key).iter().any(|one| one.id == there.id), "not by a newer version either");
    world.cluster.remove_node(&node_id(1));
    assert_eq!(world.plan(&key).place.len(), 1, "a node that was taken away does not come back");
}

#[test]
fn a_node_without_room_is_no_failure_of_the_instance() {
    let mut world = World::new(3);
    let key = world.submit(job("batch", JobType::Batch, 1));
    let refused = world.plan(&key).place.remove(0);
    world.say(&refused, ClientStatus::Failed, None, &format!("{NO_ROOM}: memory"));
    let plan = world.plan(&key);
    assert_eq!((plan.place.len(), plan.place[0].reschedules.len()), (1, 0));
    assert_ne!(plan.place[0].node, refused.node);
    world.say(&plan.place[0], ClientStatus::Failed, None, &format!("{NO_ROOM}: memory"));
    let plan = world.plan(&key);
    assert!(plan.place.is_empty());
    assert_eq!(plan.next, Some(world.now.plus(Duration::from_secs(5))), "refused twice: a little later");
}

#[test]
fn a_sticky_disk_goes_back_to_its_node() {
    let mut world = World::new(5);
    let mut wanted = job("web", JobType::Service, 1);
    wanted.groups[0].ephemeral_disk.sticky = true;
    let key = world.submit(wanted.clone());
    world.settle(&key);
    let before = world.running(&key).remove(0);
    for release in 0..4 {
        wanted.meta.insert("release".to_owned(), release.to_string());
        world.submit(wanted.clone());
        world.settle(&key);
        assert_eq!(world.running(&key)[0].node, before.node);
    }
}

#[test]
fn what_waits_for_room_gets_it_when_there_is_some() {
    let mut world = World::new(1);
    let first = world.submit(job("first", JobType::Service, 8));
    world.settle(&first);
    let second = world.submit(job("second", JobType::Service, 1));
    assert!(world.plan(&second).place.is_empty());
    world.stop(&first);
    world.plan(&first);
    assert!(world.plan(&second).place.is_empty(), "they have not ended");
    world.nodes_act();
    assert_eq!(world.plan(&second).place.len(), 1);
}
