//! Rules of one group.

use std::time::Duration;

use moat_model::job::{Job, JobType, TaskGroup};

use super::{LISTED_MAX, Rules, bad_name, main_tasks, network, policy, task, twice};

pub(super) fn group(job: &Job, group: &TaskGroup, rules: &mut Rules) {
    if let Some(why) = bad_name(&group.name) {
        rules.violated(&[], why, "");
    }
    tasks(group, rules);
    if job.kind.is_on_every_node() {
        let kind = job.kind.as_str();
        if group.count > 1 {
            rules.violated(&["count"], format!("a {kind} job has one instance on each node"), "leave count out");
        }
        for (key, there) in [("affinity", !group.affinities.is_empty()), ("spread", !group.spreads.is_empty())] {
            if there {
                let message = format!("{key} means nothing in a {kind} job");
                rules.violated(&[key], message, "it runs on every node that fulfils its constraints");
            }
        }
        if group.reschedule.is_some() {
            rules.violated(&["reschedule"], format!("reschedule means nothing in a {kind} job"), "leave it out");
        }
    }
    if !job.kind.is_long_running() && group.update.is_some() {
        rules.violated(&["update"], format!("update means nothing in a {} job", job.kind.as_str()), "leave it out");
    }
    if job.kind != JobType::Service && group.migrate.is_some() {
        rules.violated(&["migrate"], format!("migrate means nothing in a {} job", job.kind.as_str()), "leave it out");
    }
    if let Some(longest) = group.max_run_duration {
        if job.kind.is_long_running() {
            let message = format!("max_run_duration means nothing in a {} job", job.kind.as_str());
            rules.violated(&["max_run_duration"], message, "what should run for ever is not stopped: leave it out");
        } else if longest < Duration::from_secs(1) {
            rules.violated(&["max_run_duration"], "max_run_duration is at least 1s", "");
        }
    }
    if group.ephemeral_disk.size_mb < 10 {
        rules.violated(&["ephemeral_disk", "size"], "size is at least 10 (MiB)", "");
    }
    if group.ephemeral_disk.migrate && !group.ephemeral_disk.sticky {
        rules.violated(&["ephemeral_disk", "migrate"], "migrate needs sticky", "write sticky = true, too");
    }
    policy::restart(&group.restart, rules);
    policy::group(group, rules);
    network::network(group, rules);
    for one in &group.tasks {
        rules.within("task", &one.name, |rules| task::task(job, group, one, rules));
    }
}

fn tasks(group: &TaskGroup, rules: &mut Rules) {
    if group.tasks.is_empty() {
        rules.violated(&[], "it has no task", "write task \"NAME\" { driver = \"exec\" … }");
    } else if main_tasks(group).next().is_none() {
        rules.violated(&[], "it has no main task", "at least one task has no lifecycle { }");
    }
    if group.tasks.len() > LISTED_MAX {
        rules.violated(&[], format!("it has more than {LISTED_MAX} tasks"), "");
    }
    if let Some(name) = twice(group.tasks.iter().map(|task| task.name.as_str())) {
        rules.violated(&["task", name], format!("it has several tasks called {name:?}"), "");
    }
    let mut leaders = group.tasks.iter().filter(|task| task.leader);
    if let (Some(first), Some(second)) = (leaders.next(), leaders.next()) {
        let message = format!("{:?} and {:?} both are leaders", first.name, second.name);
        rules.violated(&["task", &second.name, "leader"], message, "a group has one");
    }
}
