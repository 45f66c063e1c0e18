//! New versions: in place or not, one after the other, canaries, promotion, failure and going back.

use std::time::Duration;

use moat_model::job::{ClientStatus, DeploymentStatus, Desired, Job, JobType};

use crate::deployment::{pause, promote, resume};
use crate::testing::{World, job, task, update};
use crate::update::is_destructive;

type Change = fn(&mut Job);

fn newer(job: &Job) -> Job {
    let mut newer = job.clone();
    newer.groups[0].tasks[0].env.insert("RELEASE".to_owned(), "2".to_owned());
    newer
}

/// J07: what forces a replacement, and what does not.
#[test]
fn j07_each_change_is_in_place_or_destructive_as_the_table_says() {
    let table: [(&str, bool, Change); 27] = [
        ("nothing", false, |_| ()),
        ("count", false, |job| job.groups[0].count = 7),
        ("priority", false, |job| job.priority = 80),
        ("datacenters", false, |job| job.datacenters = vec!["dc1".to_owned()]),
        ("constraints", false, |job| job.constraints.clear()),
        ("kill_timeout", false, |job| job.groups[0].tasks[0].kill_timeout = Duration::from_secs(9)),
        ("log sizes", false, |job| job.groups[0].tasks[0].logs.max_files = 3),
        ("restart numbers", false, |job| job.groups[0].restart.attempts = 9),
        ("task's restart", false, |job| job.groups[0].tasks[0].restart = Some(job.groups[0].restart)),
        ("update block", false, |job| job.groups[0].update = None),
        ("migrate block", false, |job| job.groups[0].migrate = None),
        ("reschedule block", false, |job| job.groups[0].reschedule = None),
        ("shutdown_delay", false, |job| job.groups[0].shutdown_delay = Duration::from_secs(2)),
        ("a task more", true, |job| job.groups[0].tasks.push(task("more"))),
        ("driver", true, |job| job.groups[0].tasks[0].driver = moat_model::job::TaskDriver::RawExec),
        ("user", true, |job| job.groups[0].tasks[0].user = Some("nobody".to_owned())),
        ("config", true, |job| job.groups[0].tasks[0].config.args.push("-v".to_owned())),
        ("env", true, |job| *job = newer(job)),
        ("group meta", true, |job| drop(job.groups[0].meta.insert("a".to_owned(), "b".to_owned()))),
        ("task meta", true, |job| drop(job.groups[0].tasks[0].meta.insert("a".to_owned(), "b".to_owned()))),
        ("job meta", true, |job| drop(job.meta.insert("a".to_owned(), "b".to_owned()))),
        ("resources", true, |job| job.groups[0].tasks[0].resources.memory_mb = 512),
        ("ports", true, |job| crate::testing::fixed_port(&mut job.groups[0], 80)),
        ("disk", true, |job| job.groups[0].ephemeral_disk.size_mb = 500),
        ("logs.disabled", true, |job| job.groups[0].tasks[0].logs.disabled = true),
        ("leader", true, |job| job.groups[0].tasks[0].leader = true),
        ("another group", true, |job| job.groups[0].name = "other".to_owned()),
    ];
    let old = job("web", JobType::Service, 3);
    for (name, expected, change) in table {
        let mut new = old.clone();
        change(&mut new);
        assert_eq!(is_destructive(&old, &new, "web"), expected, "{name}");
    }
}

#[test]
fn a_count_change_touches_the_difference_only() {
    let mut world = World::new(3);
    let mut wanted = job("web", JobType::Service, 3);
    let key = world.submit(wanted.clone());
    world.settle(&key);
    let before = world.running(&key);
    wanted.groups[0].count = 5;
    world.submit(wanted.clone());
    let plan = world.plan(&key);
    assert_eq!(plan.place.iter().map(|one| one.index).collect::<Vec<_>>(), [3, 4]);
    assert!(plan.change.iter().all(|one| one.desired == Desired::Run && one.job_version == 1));
    world.settle(&key);
    wanted.groups[0].count = 2;
    world.submit(wanted);
    world.settle(&key);
    let ids = |all: &[moat_model::job::Allocation]| all.iter().map(|one| one.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&world.running(&key)), ids(&before[..2]), "the highest index goes first");
}

#[test]
fn a_new_version_replaces_as_many_at_once_as_it_may() {
    let mut world = World::new(4);
    let mut wanted = job("web", JobType::Service, 5);
    wanted.groups[0].update = Some(moat_model::job::Update { max_parallel: 2, ..update() });
    let key = world.submit(wanted.clone());
    world.settle(&key);
    assert_eq!(world.cluster.deployment(&key).unwrap().status, DeploymentStatus::Successful);
    world.submit(newer(&wanted));
    let plan = world.plan(&key);
    assert_eq!((plan.place.len(), plan.groups["web"].destructive), (2, 2));
    assert!(world.plan(&key).is_empty(), "they are not healthy yet");
    world.nodes_act();
    assert_eq!(world.plan(&key).place.len(), 2);
    world.nodes_act();
    assert_eq!(world.plan(&key).place.len(), 1);
    assert_eq!(world.cluster.deployment(&key).unwrap().status, DeploymentStatus::Running);
    world.nodes_act();
    let plan = world.plan(&key);
    assert_eq!((plan.deployment.unwrap().status, plan.stable), (DeploymentStatus::Successful, Some(1)));
    assert!(world.running(&key).iter().all(|one| one.job_version == 1));
    assert_eq!(world.running(&key).iter().map(|one| one.index).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
}

#[test]
fn canaries_are_tried_first_and_the_rest_follows_promotion() {
    let mut world = World::new(4);
    let mut wanted = job("web", JobType::Service, 3);
    wanted.groups[0].update = Some(moat_model::job::Update { canary: 1, ..update() });
    let key = world.submit(wanted.clone());
    world.settle(&key);
    assert!(world.allocs(&key).iter().all(|one| !one.canary), "the first version has nothing beside it");
    world.submit(newer(&wanted));
    let plan = world.plan(&key);
    assert_eq!((plan.place.len(), plan.place[0].canary, plan.groups["web"].canary), (1, true, 1));
    assert!(plan.change.is_empty());
    world.settle(&key);
    assert_eq!(world.running(&key).len(), 4);
    let deployment = world.cluster.deployment(&key).unwrap().clone();
    assert!(deployment.needs_promotion() && deployment.groups["web"].progress_by.is_none());

    // What is lost meanwhile comes back as what it was.
    let old = world.running(&key).into_iter().find(|one| one.job_version == 0).unwrap();
    let number = (0..4).find(|number| crate::testing::node_id(*number) == old.node).unwrap();
    let canary_too = world.running(&key).iter().any(|one| one.canary && one.node == old.node);
    if !canary_too {
        world.down(number);
        world.settle(&key);
        assert_eq!(world.running(&key).iter().filter(|one| one.job_version == 0).count(), 3);
        world.up(number);
    }

    let promoted = promote(world.cluster.deployment(&key).unwrap(), world.now).unwrap();
    world.set_deployment(&key, promoted);
    let plan = world.plan(&key);
    let canary = plan.change.iter().find(|one| one.desired == Desired::Run).unwrap();
    assert!(!canary.canary && canary.job_version == 1);
    world.settle(&key);
    let running = world.running(&key);
    assert_eq!(running.len(), 3);
    assert!(running.iter().all(|one| one.job_version == 1 && !one.canary));
    assert_eq!(world.cluster.deployment(&key).unwrap().status, DeploymentStatus::Successful);
}

#[test]
fn healthy_canaries_promote_themselves_where_they_may() {
    let mut world = World::new(4);
    let mut wanted = job("web", JobType::Service, 2);
    wanted.groups[0].update = Some(moat_model::job::Update { canary: 2, auto_promote: true, ..update() });
    let key = world.submit(wanted.clone());
    world.settle(&key);
    world.submit(newer(&wanted));
    assert_eq!(world.plan(&key).place.len(), 2);
    world.settle(&key);
    assert!(world.running(&key).iter().all(|one| one.job_version == 1 && !one.canary));
    assert_eq!(world.running(&key).len(), 2);
}

#[test]
fn a_version_that_makes_no_progress_fails_and_goes_back() {
    let mut world = World::new(4);
    let mut wanted = job("web", JobType::Service, 3);
    wanted.groups[0].update = Some(moat_model::job::Update { auto_revert: true, ..update() });
    let key = world.submit(wanted.clone());
    world.settle(&key);
    world.submit(newer(&wanted));
    let plan = world.plan(&key);
    assert_eq!((plan.place.len(), plan.next), (1, Some(world.now.plus(Duration::from_secs(600)))));
    world.say(&plan.place[0], ClientStatus::Running, Some(false), "its check fails");
    world.pass(599);
    assert!(world.dry(&key).place.is_empty(), "an unhealthy one stops the rest");
    assert_eq!(world.dry(&key).revert_to, None);
    world.pass(1);
    let plan = world.plan(&key);
    assert_eq!((plan.deployment.unwrap().status, plan.revert_to), (DeploymentStatus::Failed, Some(0)));
    world.settle(&key);
    let running = world.running(&key);
    assert_eq!((running.len(), running.iter().filter(|one| one.job_version == 2).count()), (3, 3));
    assert_eq!(world.cluster.deployment(&key).unwrap().status, DeploymentStatus::Successful);
    assert_eq!(world.dry(&key).revert_to, None);
}

#[test]
fn a_failed_deployment_stops_where_it_is() {
    let mut world = World::new(4);
    let mut wanted = job("web", JobType::Service, 3);
    wanted.groups[0].update = Some(moat_model::job::Update { progress_deadline: Duration::ZERO, ..update() });
    let key = world.submit(wanted.clone());
    world.settle(&key);
    world.submit(newer(&wanted));
    let plan = world.plan(&key);
    world.say(&plan.place[0], ClientStatus::Running, Some(false), "");
    let plan = world.plan(&key);
    assert_eq!(plan.deployment.unwrap().status, DeploymentStatus::Failed);
    assert!(plan.place.is_empty() && plan.change.is_empty() && plan.revert_to.is_none());
    assert_eq!(world.running(&key).iter().filter(|one| one.job_version == 0).count(), 2);
    // A lost instance of the old version is replaced by one of the old version.
    let old = world.running(&key).into_iter().find(|one| one.job_version == 0).unwrap();
    let number = (0..4).find(|number| crate::testing::node_id(*number) == old.node).unwrap();
    world.down(number);
    let plan = world.plan(&key);
    assert!(plan.place.iter().any(|one| one.job_version == 0));
}

#[test]
fn a_paused_deployment_waits_and_goes_on() {
    let mut world = World::new(4);
    let wanted = job("web", JobType::Service, 3);
    let key = world.submit(wanted.clone());
    world.settle(&key);
    world.submit(newer(&wanted));
    world.plan(&key);
    world.nodes_act();
    let paused = pause(world.cluster.deployment(&key).unwrap(), world.now).unwrap();
    world.set_deployment(&key, paused.clone());
    world.settle(&key);
    assert_eq!(world.running(&key).iter().filter(|one| one.job_version == 0).count(), 2);
    world.set_deployment(&key, resume(&paused, world.now).unwrap());
    world.settle(&key);
    assert!(world.running(&key).iter().all(|one| one.job_version == 1));
}

#[test]
fn a_stopped_job_runs_nothing_and_can_be_started_again() {
    let mut world = World::new(2);
    let wanted = job("web", JobType::Service, 2);
    let key = world.submit(wanted.clone());
    world.plan(&key);
    world.stop(&key);
    let plan = world.plan(&key);
    assert_eq!(plan.change.len(), 2);
    assert_eq!(plan.deployment.unwrap().status, DeploymentStatus::Cancelled);
    world.settle(&key);
    assert!(world.running(&key).is_empty());
    world.submit(wanted);
    world.settle(&key);
    assert_eq!(world.running(&key).len(), 2);
}

#[test]
fn a_job_whose_content_has_not_arrived_is_left_alone() {
    let mut world = World::new(2);
    let key = world.submit(job("web", JobType::Service, 2));
    world.settle(&key);
    let mut ahead = world.state(&key).clone();
    ahead.current = 7;
    world.cluster.set_job(ahead);
    assert!(world.dry(&key).is_empty());
    world.cluster.remove_job(&key);
    assert!(world.dry(&key).is_empty());
}
