use std::time::Duration;

use moat_model::job::{Constraint, DiffKind, JobType, Operator};

use super::*;
use crate::testing::{World, fixed_port, group, job, task};

fn lines(diff: &JobDiff) -> Vec<String> {
    fn block(indent: &str, kind: DiffKind, name: &str, changes: &Changes, out: &mut Vec<String>) {
        out.push(format!("{indent}{}{name}", kind.sign()));
        let indent = format!("{indent} ");
        for field in &changes.fields {
            let note = field.annotations.join(",");
            out.push(format!("{indent}{}{}: {:?} => {:?} {note}", field.kind.sign(), field.name, field.old, field.new));
        }
        for object in &changes.objects {
            let inner = Changes { fields: object.fields.clone(), objects: object.objects.clone() };
            block(&indent, object.kind, &object.name, &inner, out);
        }
    }
    let of = |fields: &[_], objects: &[_]| Changes { fields: fields.to_vec(), objects: objects.to_vec() };
    let mut out = Vec::new();
    block("", diff.kind, &diff.id, &of(&diff.fields, &diff.objects), &mut out);
    for group in &diff.groups {
        block(
            " ",
            group.kind,
            &format!("{} {:?}", group.name, group.updates),
            &of(&group.fields, &group.objects),
            &mut out,
        );
        for task in &group.tasks {
            let name = format!("{} {:?}", task.name, task.annotations);
            block("  ", task.kind, &name, &of(&task.fields, &task.objects), &mut out);
        }
    }
    out
}

#[test]
fn equal_jobs_do_not_differ() {
    let job = job("web", JobType::Service, 2);
    let diff = diff(Some(&job), &job);
    assert_eq!(diff.kind, DiffKind::None);
    assert_eq!(lines(&diff), ["web", " web {}"]);
}

#[test]
fn each_change_is_shown_by_its_name_in_a_job_file() {
    let old = job("web", JobType::Service, 2);
    let mut new = old.clone();
    new.priority = 70;
    new.constraints.push(Constraint {
        attribute: "${attr.kernel.name}".to_owned(),
        operator: Operator::Equal,
        value: "linux".to_owned(),
    });
    new.groups[0].count = 3;
    fixed_port(&mut new.groups[0], 8080);
    let main = &mut new.groups[0].tasks[0];
    main.kill_timeout = Duration::from_secs(90);
    main.resources.memory_mb = 512;
    main.env.insert("A".to_owned(), "b".to_owned());
    main.config.args = vec!["-v".to_owned()];
    new.groups[0].tasks.push(task("side"));
    let lines = lines(&diff(Some(&old), &new));
    for expected in [
        "+/-web",
        " +/-priority: \"50\" => \"70\" ",
        " +constraint",
        "  +attribute: \"\" => \"${attr.kernel.name}\" ",
        " +/-web {}",
        "  +/-count: \"2\" => \"3\" ",
        "  +network",
        "   +port \"http\"",
        "    +static: \"\" => \"8080\" ",
        "  +/-main []",
        "   +/-kill_timeout: \"5s\" => \"1m30s\" ",
        "   +/-resources",
        "    +/-memory: \"256\" => \"512\" ",
        "   +env",
        "    +A: \"\" => \"b\" ",
        "   +/-config",
        "    +args[0]: \"\" => \"-v\" ",
        "  +side []",
    ] {
        assert!(lines.iter().any(|line| line == expected), "{expected:?} is missing in {lines:#?}");
    }
}

#[test]
fn a_dry_run_counts_what_would_happen_and_says_what_forces_it() {
    let mut world = World::new(3);
    let mut wanted = job("web", JobType::Service, 3);
    wanted.groups.push(group("old", JobType::Service, 1));
    let first = dry_run(&world.cluster, &wanted, world.now);
    assert_eq!(first.diff.kind, DiffKind::Added);
    assert_eq!(first.diff.groups[0].updates, [("create".to_owned(), 3)].into());
    assert_eq!(first.diff.groups[0].tasks[0].annotations, ["forces create"]);
    let key = world.submit(wanted.clone());
    world.settle(&key);
    assert!(dry_run(&world.cluster, &wanted, world.now).plan.is_empty());

    let mut in_place = wanted.clone();
    in_place.groups[0].tasks[0].kill_timeout = Duration::from_secs(9);
    in_place.groups[0].count = 4;
    let given = dry_run(&world.cluster, &in_place, world.now).diff;
    assert_eq!(given.groups[0].updates, [("create".to_owned(), 1), ("in-place update".to_owned(), 3)].into());
    assert_eq!(given.groups[0].tasks[0].annotations, ["forces in-place update"]);
    let count = given.groups[0].fields.iter().find(|field| field.name == "count").unwrap();
    assert_eq!(count.annotations, ["forces create"]);

    let mut other = wanted.clone();
    other.groups[0].tasks[0].user = Some("nobody".to_owned());
    other.groups.pop();
    let before = world.cluster.clone();
    let given = dry_run(&world.cluster, &other, world.now).diff;
    let updates = [("create/destroy update".to_owned(), 1), ("ignore".to_owned(), 2)].into();
    assert_eq!((given.groups[0].kind, &given.groups[0].updates), (DiffKind::Edited, &updates));
    assert_eq!(given.groups[0].tasks[0].annotations, ["forces create/destroy update"]);
    assert_eq!(
        (given.groups[1].kind, &given.groups[1].updates),
        (DiffKind::Deleted, &[("destroy".to_owned(), 1)].into())
    );
    assert_eq!(given.groups[1].tasks[0].annotations, ["forces destroy"]);
    assert_eq!(before.job(&key), world.cluster.job(&key), "nothing was done");
}
