//! Rules of a group's network and of services.

use std::collections::BTreeSet;
use std::time::Duration;

use moat_model::job::group::GroupNetworkMode;
use moat_model::job::{CheckKind, GroupNetwork, ServiceSpec, Task, TaskDriver, TaskGroup};

use super::{Rules, main_tasks, twice};

pub(super) fn network(group: &TaskGroup, rules: &mut Rules) {
    if let Some(network) = &group.network {
        mode(group, network, rules);
        ports(group, network, rules);
    }
    for (index, service) in group.services.iter().enumerate() {
        rules.at("service", index, |rules| of_group(group, service, rules));
    }
}

fn mode(group: &TaskGroup, network: &GroupNetwork, rules: &mut Rules) {
    let sandboxed = group.tasks.iter().find(|task| task.driver != TaskDriver::RawExec);
    if network.mode == GroupNetworkMode::Host
        && let Some(task) = sandboxed
    {
        let message = format!("mode = \"host\" is for raw_exec, and task {:?} is {}", task.name, task.driver.as_str());
        let fix = "a sandbox has a network of its own: write mode = \"bridge\", and port \"LABEL\" { static = … } for what others reach";
        rules.violated(&["network", "mode"], message, fix);
    }
    if network.mode == GroupNetworkMode::None && !network.ports.is_empty() {
        let fix = "leave the ports out, or write mode = \"bridge\"";
        rules.violated(&["network", "mode"], "mode = \"none\" has no ports", fix);
    }
}

fn ports(group: &TaskGroup, network: &GroupNetwork, rules: &mut Rules) {
    let mut fixed = BTreeSet::new();
    for (label, port) in &network.ports {
        let sound = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if label.is_empty() || label.len() > 64 || !label.chars().all(sound) {
            let message = format!("{label:?} is not a label of a port: letters, digits, '_' and '-'");
            rules.violated(&["network", "port", label], message, "");
        }
        if let Some(number) = port.fixed
            && !fixed.insert(number)
        {
            rules.violated(&["network", "port", label, "static"], format!("two ports are {number}"), "");
        }
        let owners = owners(group, label);
        if owners.len() > 1 {
            let message = format!("the port {label:?} could lead to {}", names(&owners));
            let fix = "name its task: a service { port = … task = … }, or make one task the leader";
            rules.violated(&["network", "port", label], message, fix);
        }
    }
}

fn names(tasks: &[&str]) -> String {
    tasks.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" or ")
}

/// Tasks a port may lead to: whoever names it in a service, else the leader, else the main tasks.
pub fn owners<'g>(group: &'g TaskGroup, label: &str) -> Vec<&'g str> {
    let uses = |service: &ServiceSpec| {
        let checks = service.checks.iter().any(|check| check.port.as_deref() == Some(label));
        service.port.as_deref() == Some(label) || checks
    };
    let mut naming: BTreeSet<&str> = BTreeSet::new();
    for service in group.services.iter().filter(|service| uses(service)) {
        if let Some(task) = service.task.as_deref().and_then(|name| group.task(name)) {
            naming.insert(&task.name);
        }
    }
    naming.extend(group.tasks.iter().filter(|task| task.services.iter().any(uses)).map(|task| task.name.as_str()));
    if !naming.is_empty() {
        return naming.into_iter().collect();
    }
    match group.tasks.iter().find(|task| task.leader) {
        Some(leader) => vec![&leader.name],
        None => main_tasks(group).map(|task| task.name.as_str()).collect(),
    }
}

fn of_group(group: &TaskGroup, service: &ServiceSpec, rules: &mut Rules) {
    if let Some(name) = service.task.as_deref().filter(|name| group.task(name).is_none()) {
        rules.violated(&["task"], format!("the group has no task {name:?}"), "");
    }
    let scripts = service.checks.iter().any(|check| matches!(check.kind, CheckKind::Script { .. }));
    if scripts && service.task.is_none() && group.tasks.len() > 1 {
        let fix = "write task = \"NAME\"";
        rules.violated(&["check"], "a script check does not say in which task it runs", fix);
    }
    common(group, service, rules);
}

pub(super) fn of_task(group: &TaskGroup, task: &Task, service: &ServiceSpec, rules: &mut Rules) {
    if service.task.as_ref().is_some_and(|name| *name != task.name) {
        rules.violated(&["task"], format!("a service in task {:?} belongs to it", task.name), "leave task out");
    }
    common(group, service, rules);
}

fn common(group: &TaskGroup, service: &ServiceSpec, rules: &mut Rules) {
    let name = &service.name;
    let sound = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
    let plain = !name.contains("${");
    if name.is_empty() || plain && (name.len() > 63 || !name.chars().all(sound)) {
        let message = format!("{name:?} is not a name of a service: 1 to 63 letters, digits, '-', '_' and '.'");
        rules.violated(&["name"], message, "");
    }
    port(group, service.port.as_deref(), &["port"], rules);
    if let Some(name) = twice(service.checks.iter().map(|check| check.name.as_str())) {
        rules.violated(&["check"], format!("service {:?} has several checks called {name:?}", service.name), "");
    }
    for (index, check) in service.checks.iter().enumerate() {
        rules.at("check", index, |rules| {
            let second = Duration::from_secs(1);
            for (key, span) in [("interval", check.interval), ("timeout", check.timeout)] {
                if span < second {
                    rules.violated(&[key], format!("{key} is at least 1s"), "");
                }
            }
            port(group, check.port.as_deref(), &["port"], rules);
            let needs = !matches!(check.kind, CheckKind::Script { .. });
            if needs && check.port.is_none() && service.port.is_none() {
                let message = format!("check {:?} has no port to go to", check.name);
                rules.violated(&[], message, "write port = \"LABEL\" in the service or the check");
            }
        });
    }
}

/// A label of the group, or a number.
fn port(group: &TaskGroup, port: Option<&str>, key: &[&str], rules: &mut Rules) {
    let Some(port) = port else { return };
    let numbered = port.parse::<u16>().is_ok_and(|number| number > 0);
    let labelled = group.network.as_ref().is_some_and(|network| network.ports.contains_key(port));
    if !numbered && !labelled {
        let fix = format!("write network {{ port \"{port}\" {{}} }} in the group");
        rules.violated(key, format!("the group has no port {port:?}"), &fix);
    }
}
