//! J09: system and sysbatch jobs.

use moat_model::job::{ClientStatus, Constraint, Eligibility, JobType, NodeWish, Operator};

use crate::testing::{World, facts, job, node_id};

#[test]
fn j09_one_instance_on_every_node_that_may_have_it() {
    let mut world = World::new(3);
    let mut without = facts(3);
    without.attributes.remove("driver.exec");
    world.node(without);
    let key = world.submit(job("agent", JobType::System, 1));
    let plan = world.plan(&key);
    let mut nodes: Vec<_> = plan.place.iter().map(|one| one.node.clone()).collect();
    nodes.sort();
    assert_eq!(nodes, [node_id(0), node_id(1), node_id(2)]);
    assert!(plan.evaluation.failures.is_empty(), "a node that may not have it is no failure");
    world.settle(&key);
    assert_eq!(world.cluster.deployment(&key).unwrap().status.as_str(), "successful");
    world.node(facts(4));
    assert_eq!(world.plan(&key).place.len(), 1, "a new node");
    world.nodes_act();
    world.down(1);
    assert!(world.plan(&key).place.is_empty());
    world.up(1);
    assert_eq!(world.plan(&key).place[0].node, node_id(1), "it is back");
    world.wish(2, NodeWish { eligibility: Eligibility::Ineligible, drain: None });
    world.settle(&key);
    assert_eq!(world.running(&key).len(), 4, "what runs may stay");
}

#[test]
fn a_system_job_that_no_node_may_have_says_why() {
    let mut world = World::new(2);
    let mut nowhere = job("agent", JobType::System, 1);
    let value = "windows".to_owned();
    let attribute = "${attr.kernel.name}".to_owned();
    nowhere.constraints = vec![Constraint { attribute, operator: Operator::Equal, value }];
    let key = world.submit(nowhere);
    let plan = world.plan(&key);
    assert_eq!(plan.evaluation.failures["web"].constraint_filtered["${attr.kernel.name} = windows"], 2);
}

#[test]
fn j09_a_sysbatch_instance_runs_once_on_each_node() {
    let mut world = World::new(2);
    let mut wanted = job("once", JobType::Sysbatch, 1);
    let key = world.submit(wanted.clone());
    world.settle(&key);
    let all = world.running(&key);
    assert_eq!(all.len(), 2);
    world.say(&all[0], ClientStatus::Complete, None, "");
    world.fail(&all[1]);
    world.pass(100_000);
    assert!(world.plan(&key).is_empty());
    world.node(facts(2));
    assert_eq!(world.plan(&key).place.len(), 1);
    world.nodes_act();
    wanted.groups[0].tasks[0].config.args.push("again".to_owned());
    world.submit(wanted);
    world.settle(&key);
    assert_eq!(world.running(&key).iter().filter(|one| one.job_version == 1).count(), 3);
}

#[test]
fn a_new_version_of_a_system_job_goes_from_node_to_node() {
    let mut world = World::new(3);
    let mut wanted = job("agent", JobType::System, 1);
    let key = world.submit(wanted.clone());
    world.settle(&key);
    wanted.groups[0].tasks[0].config.args.push("-v".to_owned());
    world.submit(wanted);
    for _ in 0..3 {
        let plan = world.plan(&key);
        assert_eq!(plan.place.len(), 1);
        assert!(world.plan(&key).is_empty());
        world.nodes_act();
    }
    world.settle(&key);
    assert!(world.running(&key).iter().all(|one| one.job_version == 1));
    assert_eq!(world.running(&key).len(), 3);
}

#[test]
fn a_failed_system_instance_comes_back_on_its_node() {
    let mut world = World::new(2);
    let key = world.submit(job("agent", JobType::System, 1));
    world.settle(&key);
    let failed = world.running(&key).remove(0);
    world.fail(&failed);
    let plan = world.plan(&key);
    assert!(plan.place.is_empty());
    world.now = plan.next.unwrap();
    let plan = world.plan(&key);
    assert_eq!((plan.place.len(), &plan.place[0].node), (1, &failed.node));
}

#[test]
fn a_rollout_of_a_system_job_does_not_wait_for_nodes_that_take_nothing_new() {
    let mut world = World::new(3);
    let mut wanted = job("agent", JobType::System, 1);
    let key = world.submit(wanted.clone());
    world.settle(&key);
    world.wish(0, NodeWish { eligibility: Eligibility::Ineligible, drain: None });
    wanted.groups[0].tasks[0].config.args.push("-v".to_owned());
    world.submit(wanted);
    world.settle(&key);
    assert_eq!(world.running(&key).iter().filter(|one| one.job_version == 1).count(), 2);
    assert_eq!(world.cluster.deployment(&key).unwrap().status.as_str(), "successful");
}
