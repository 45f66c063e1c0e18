//! Rules of one task.

use std::collections::BTreeSet;

use moat_model::job::{Hook, Job, Operator, Task, TaskConfig, TaskDriver, TaskGroup};

use super::policy::shown;
use super::{Rules, bad_name, network, policy, takes_payload};
use crate::nomad::content::bad_checksum;

/// Where every sandbox has something of its own.
const OWN_DIRS: [&str; 8] = ["/alloc", "/dev", "/local", "/private", "/proc", "/secrets", "/sys", "/tmp"];

pub(super) fn task(job: &Job, group: &TaskGroup, task: &Task, rules: &mut Rules) {
    if let Some(why) = bad_name(&task.name) {
        rules.violated(&[], why, "");
    }
    if task.name == "alloc" {
        rules.violated(&[], "a task cannot be called \"alloc\": that is the directory all tasks share", "");
    }
    resources(task, rules);
    if let Some(restart) = &task.restart {
        policy::restart(restart, rules);
    }
    if let Some(update) = group.update
        && !update.progress_deadline.is_zero()
        && task.kill_timeout > update.progress_deadline
    {
        let (longer, shorter) = (shown(task.kill_timeout), shown(update.progress_deadline));
        let message = format!("kill_timeout ({longer}) is longer than the update's progress_deadline ({shorter})");
        rules.violated(&["kill_timeout"], message, "");
    }
    if task.lifecycle.is_some_and(|lifecycle| lifecycle.sidecar && lifecycle.hook == Hook::Poststop) {
        rules.violated(&["lifecycle", "sidecar"], "after all others are dead there is nothing to run beside", "");
    }
    let distinct = |operator: Operator| matches!(operator, Operator::DistinctHosts | Operator::DistinctProperty);
    if task.constraints.iter().any(|constraint| distinct(constraint.operator)) {
        let message = "distinct_hosts and distinct_property are for whole instances";
        rules.violated(&["constraint"], message, "write the constraint in the group or the job");
    }
    if let Some(name) = task.env.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
        rules.violated(&["env", name], format!("{name:?} is not a name of a variable"), "");
    }
    let kept = u64::from(task.logs.max_files) * u64::from(task.logs.max_file_size_mb);
    if !task.logs.disabled && kept >= u64::from(group.ephemeral_disk.size_mb) {
        let message =
            format!("its logs ({kept} MiB) take the whole ephemeral_disk ({} MiB)", group.ephemeral_disk.size_mb);
        rules.violated(&["logs"], message, "make the group's ephemeral_disk { size = … } greater, or keep less");
    }
    config(&task.config, task.driver, rules);
    content(task, rules);
    mounts(group, task, rules);
    payload(job, task, rules);
    for (index, service) in task.services.iter().enumerate() {
        rules.at("service", index, |rules| network::of_task(group, task, service, rules));
    }
}

fn resources(task: &Task, rules: &mut Rules) {
    let resources = &task.resources;
    if resources.cores > 0 && resources.cpu_mhz > 0 {
        rules.violated(&["resources", "cpu"], "cpu and cores exclude each other", "leave cpu out");
    }
    if resources.cores == 0 && resources.cpu_mhz < 1 {
        rules.violated(&["resources", "cpu"], "cpu is at least 1 (MHz)", "");
    }
    if resources.memory_mb < 10 {
        rules.violated(&["resources", "memory"], "memory is at least 10 (MiB)", "");
    }
    if let Some(max) = resources.memory_max_mb.filter(|max| *max > 0 && *max < resources.memory_mb) {
        let message = format!("memory_max ({max}) is less than memory ({})", resources.memory_mb);
        rules.violated(&["resources", "memory_max"], message, "memory is protected, memory_max the limit");
    }
    if resources.secrets_mb > resources.memory_mb {
        rules.violated(&["resources", "secrets"], "secrets are kept in memory, and are more than it", "");
    }
}

fn config(config: &TaskConfig, driver: TaskDriver, rules: &mut Rules) {
    let name = driver.as_str();
    if config.command.is_empty() && config.template.is_none() {
        rules.violated(&["config", "command"], "command is missing", "write config { command = … }");
    }
    if let Some(dir) = config.work_dir.as_ref().filter(|dir| !dir.starts_with('/') && !dir.starts_with("${")) {
        rules.violated(&["config", "work_dir"], format!("work_dir {dir:?} is not an absolute path"), "");
    }
    let exec = driver == TaskDriver::Exec;
    let raw = driver == TaskDriver::RawExec;
    let foreign = [
        ("template", config.template.is_some() && raw),
        ("cap_add", !config.cap_add.is_empty() && !exec),
        ("cap_drop", !config.cap_drop.is_empty() && !exec),
        ("pid_mode", config.host_pid && !exec),
        ("ipc_mode", config.host_ipc && !exec),
        ("cpu_hard_limit", config.cpu_hard_limit && !exec),
        ("oom_score_adj", config.oom_score_adj.is_some() && !raw),
        ("denied_envvars", !config.denied_envvars.is_empty() && !raw),
    ];
    for (key, _) in foreign.into_iter().filter(|(_, foreign)| *foreign) {
        rules.violated(&["config", key], format!("{key} means nothing to driver {name}"), "leave it out");
    }
    if config.oom_score_adj.is_some_and(|score| !(0..=1000).contains(&score)) {
        rules.violated(&["config", "oom_score_adj"], "oom_score_adj lies within 0 and 1000", "");
    }
}

/// Whether a path below a task's directory leaves the allocation's by its text. What a node fills in is checked there.
pub(crate) fn leaves(destination: &str) -> bool {
    // The task's directory lies one below the allocation's, as /alloc does; /local and /secrets lie in the task's.
    let mut rest = destination;
    let mut depth: i32 = 1;
    for (prefix, below) in [("${NOMAD_ALLOC_DIR}", 1), ("${NOMAD_TASK_DIR}", 2), ("${NOMAD_SECRETS_DIR}", 2)] {
        if let Some(tail) = rest.strip_prefix(prefix) {
            (rest, depth) = (tail, below);
        }
    }
    for part in rest.split('/') {
        match part {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        if depth < 0 {
            return true;
        }
    }
    false
}

fn content(task: &Task, rules: &mut Rules) {
    for (index, artifact) in task.artifacts.iter().enumerate() {
        rules.at("artifact", index, |rules| {
            if artifact.source.is_empty() {
                rules.violated(&["source"], "an artifact has no source", "");
            }
            if let Some(why) = artifact.options.get("checksum").and_then(|text| bad_checksum(text)) {
                rules.violated(
                    &["options", "checksum"],
                    why,
                    "write checksum = \"sha256:…\" with the 64 digits of sha256sum",
                );
            }
            if leaves(&artifact.destination) {
                let message = format!("the destination {:?} leaves the allocation", artifact.destination);
                rules.violated(&["destination"], message, "write a path below local/");
            }
        });
    }
    let mut taken = BTreeSet::new();
    for (index, template) in task.templates.iter().enumerate() {
        rules.at("template", index, |rules| {
            if template.data.is_none() == template.source.is_none() {
                rules.violated(&["data"], "a template has either data or source", "");
            }
            if template.destination.is_empty() {
                rules.violated(&["destination"], "a template has no destination", "write destination = \"local/…\"");
            }
            if leaves(&template.destination) {
                let message = format!("the destination {:?} leaves the allocation", template.destination);
                rules.violated(&["destination"], message, "write a path below local/ or secrets/");
            }
            if !taken.insert(template.destination.trim_start_matches(['/', '.']).to_owned()) {
                let message = format!("two templates are written to {:?}", template.destination);
                rules.violated(&["destination"], message, "");
            }
        });
    }
}

fn mounts(group: &TaskGroup, task: &Task, rules: &mut Rules) {
    let mut taken = BTreeSet::new();
    for (index, mount) in task.volume_mounts.iter().enumerate() {
        rules.at("volume_mount", index, |rules| {
            if !group.volumes.contains_key(&mount.volume) {
                let fix = format!("write volume \"{}\" {{ type = \"host\" source = … }} in the group", mount.volume);
                rules.violated(&["volume"], format!("the group has no volume {:?}", mount.volume), &fix);
            }
            let to = mount.destination.as_str();
            let deferred = to.starts_with("${");
            let climbs = to.split('/').any(|part| part == "..");
            if !deferred && (!to.starts_with('/') || climbs || to.trim_matches('/').is_empty()) {
                let message = format!("the destination {to:?} is not an absolute path without '..'");
                rules.violated(&["destination"], message, "");
            }
            let own = |own: &&&str| to == **own || to.strip_prefix(**own).is_some_and(|rest| rest.starts_with('/'));
            if let Some(own) = OWN_DIRS.iter().find(own) {
                let message = format!("{own} inside is the sandbox's own");
                rules.violated(&["destination"], message, "mount the volume elsewhere");
            }
            if !taken.insert(to.trim_end_matches('/').to_owned()) {
                rules.violated(&["destination"], format!("two volumes are mounted at {to:?}"), "");
            }
        });
    }
    if !task.volume_mounts.is_empty() && task.driver != TaskDriver::Exec {
        let message = format!("{} has no volumes", task.driver.as_str());
        let fix = match task.driver {
            TaskDriver::RawExec => "it sees the host's paths as they are",
            _ => "a machine sees no path of the host: use exec, or an artifact",
        };
        rules.violated(&["volume_mount"], message, fix);
    }
}

fn payload(job: &Job, task: &Task, rules: &mut Rules) {
    let Some(file) = &task.dispatch_payload else { return };
    if !takes_payload(job) {
        let message = "dispatch_payload needs a parameterized job whose payload is not forbidden";
        rules.violated(&["dispatch_payload"], message, "write parameterized { payload = \"optional\" } in the job");
    }
    if file.is_empty() || file.starts_with('/') || file.split('/').any(|part| part == "..") {
        let message = format!("the file {file:?} is not a path below local/");
        rules.violated(&["dispatch_payload", "file"], message, "write a name such as \"payload.json\"");
    }
}
