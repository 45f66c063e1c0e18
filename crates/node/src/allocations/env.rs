//! The environment of a task: a pure function of the job, the node and the ports.

use std::collections::BTreeMap;

use moat_model::job::allocation::PortMapping;
use moat_model::job::{Allocation, Job, NodeFacts, Task, TaskDriver, TaskGroup};

use super::interpolate::Names;

/// What it is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Given<'a> {
    pub allocation: &'a Allocation,
    pub job: &'a Job,
    pub group: &'a TaskGroup,
    pub task: &'a Task,
    pub facts: &'a NodeFacts,
    /// Ports by label, and the task each leads to.
    pub ports: &'a BTreeMap<String, PortMapping>,
    pub port_owner: &'a BTreeMap<String, String>,
    /// The domain of sandboxes' names, for a task that is one and has a network: no port of the host answers it, its siblings
    /// do. None for a task of the host, which they answer at the host's ports.
    pub domain: Option<&'a str>,
    /// `/alloc`, `/local`, `/secrets`, or paths of the host.
    pub dirs: &'a Dirs,
    /// Variables of the daemon it gets.
    pub host: &'a BTreeMap<String, String>,
    /// What its templates say.
    pub templates: &'a BTreeMap<String, String>,
}

/// Where a task finds its directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dirs {
    pub alloc: String,
    pub local: String,
    pub secrets: String,
}

/// All of it; what comes later wins: `NOMAD_…`, meta, the host's, the task's own, its templates'.
pub(super) fn environment(given: &Given<'_>) -> BTreeMap<String, String> {
    let mut env = identity(given);
    ports(given, &mut env);
    resources(given.task, &mut env);
    let meta = meta(given, &env);
    env.extend(meta);
    for (key, value) in given.host {
        env.entry(key.clone()).or_insert_with(|| value.clone());
    }
    let own: Vec<(String, String)> = {
        let names = Names { facts: given.facts, env: &env };
        given.task.env.iter().map(|(key, value)| (names.replaced(key), names.replaced(value))).collect()
    };
    env.extend(own);
    env.extend(given.templates.iter().map(|(key, value)| (key.clone(), value.clone())));
    // A name that cannot be one would end the whole environment.
    env.retain(|key, value| !key.is_empty() && !key.contains(['=', '\0']) && !value.contains('\0'));
    env
}

fn identity(given: &Given<'_>) -> BTreeMap<String, String> {
    let Given { allocation, job, group, task, facts, dirs, .. } = given;
    let parent = job.parent.as_ref().map(ToString::to_string);
    let mut env: BTreeMap<String, String> = [
        ("NOMAD_ALLOC_DIR", dirs.alloc.clone()),
        ("NOMAD_TASK_DIR", dirs.local.clone()),
        ("NOMAD_SECRETS_DIR", dirs.secrets.clone()),
        ("NOMAD_ALLOC_ID", allocation.id.to_string()),
        ("NOMAD_SHORT_ALLOC_ID", allocation.id.short().to_owned()),
        ("NOMAD_ALLOC_NAME", allocation.name()),
        ("NOMAD_ALLOC_INDEX", allocation.index.to_string()),
        ("NOMAD_TASK_NAME", task.name.clone()),
        ("NOMAD_GROUP_NAME", group.name.clone()),
        ("NOMAD_JOB_ID", job.id.to_string()),
        ("NOMAD_JOB_NAME", job.name.clone()),
        ("NOMAD_NAMESPACE", job.namespace.to_string()),
        ("NOMAD_REGION", job.region.clone()),
        ("NOMAD_DC", facts.datacenter.clone()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    if let Some(parent) = parent {
        env.insert("NOMAD_JOB_PARENT_ID".to_owned(), parent);
    }
    env
}

/// Its own ports by label, those of the others by task and label.
fn ports(given: &Given<'_>, env: &mut BTreeMap<String, String>) {
    for (label, port) in given.ports {
        let owner = given.port_owner.get(label);
        let host = format!("{}:{}", port.host_ip, port.host_port);
        let label = cleaned(label);
        for (kind, value) in [
            ("HOST_PORT", port.host_port.to_string()),
            ("HOST_IP", port.host_ip.clone()),
            ("HOST_ADDR", host.clone()),
            ("ALLOC_PORT", port.to.to_string()),
            ("IP", port.host_ip.clone()),
            // What the program listens on: the port inside.
            ("PORT", port.to.to_string()),
            ("ADDR", host.clone()),
        ] {
            env.insert(format!("NOMAD_{kind}_{label}"), value);
        }
        let Some(owner) = owner else { continue };
        let sibling = given.domain.and_then(|domain| name_of(given.allocation, given.group, owner, domain));
        let (at, number) = match sibling {
            Some(name) => (name, port.to),
            None => (port.host_ip.clone(), port.host_port),
        };
        let name = format!("{}_{label}", cleaned(owner));
        for (kind, value) in [("PORT", number.to_string()), ("ADDR", format!("{at}:{number}")), ("IP", at)] {
            env.insert(format!("NOMAD_{kind}_{name}"), value);
        }
    }
}

/// Key of the label by which sandboxes of one allocation find each other, whatever their addresses after a restart.
pub(super) const MEMBER: &str = "member";

/// That label's value: which of its group's tasks. Their names may be what no name of a host can be.
pub(super) fn member(allocation: &Allocation, group: &TaskGroup, task: &str) -> Option<String> {
    let place = group.tasks.iter().position(|one| one.name == task)?;
    Some(format!("{}-{place}", allocation.id))
}

/// What the node's resolver says of a sibling; none if it is no sandbox.
fn name_of(allocation: &Allocation, group: &TaskGroup, task: &str, domain: &str) -> Option<String> {
    if group.task(task)?.driver == TaskDriver::RawExec {
        return None;
    }
    Some(format!("{}.{MEMBER}.label.{domain}", member(allocation, group, task)?))
}

fn resources(task: &Task, env: &mut BTreeMap<String, String>) {
    let resources = &task.resources;
    let mut set = |key: &str, value: String| drop(env.insert(key.to_owned(), value));
    set("NOMAD_MEMORY_LIMIT", resources.memory_mb.to_string());
    if let Some(max) = resources.memory_max_mb {
        set("NOMAD_MEMORY_MAX_LIMIT", max.to_string());
    }
    if resources.cpu_mhz > 0 {
        set("NOMAD_CPU_LIMIT", resources.cpu_mhz.to_string());
    }
}

/// The job's, under the group's, under the task's; as given and in upper case.
fn meta(given: &Given<'_>, env: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut meta: BTreeMap<&String, &String> = given.job.meta.iter().collect();
    meta.extend(&given.group.meta);
    meta.extend(&given.task.meta);
    let names = Names { facts: given.facts, env };
    let pairs = meta.into_iter().flat_map(|(key, value)| {
        let (key, value) = (cleaned(key), names.replaced(value));
        [(format!("NOMAD_META_{}", key.to_uppercase()), value.clone()), (format!("NOMAD_META_{key}"), value)]
    });
    pairs.collect()
}

/// What may not stand in the name of a variable becomes `_`.
pub(super) fn cleaned(key: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
    key.chars().map(legal).collect()
}

/// What the daemon itself has of the variables an operator allows, by globs, less what is denied.
pub(super) fn host(allowed: &[String], denied: &[String]) -> BTreeMap<String, String> {
    let fits = |globs: &[String], name: &str| globs.iter().any(|pattern| matches_glob(pattern, name));
    let given =
        std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    given.filter(|(key, _)| fits(allowed, key) && !fits(denied, key)).collect()
}

/// `*` stands for anything.
fn matches_glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            rest.char_indices()
                .map(|(at, _)| at)
                .chain([rest.len()])
                .any(|at| rest.get(at..).is_some_and(|rest| matches_glob(tail, rest)))
        }),
    }
}

/// Where a task of this driver finds its directories.
pub(super) fn dirs(driver: TaskDriver, root: &std::path::Path, task: &str) -> Dirs {
    if driver == TaskDriver::RawExec {
        let shown = |path: std::path::PathBuf| path.display().to_string();
        let own = root.join(task);
        return Dirs {
            alloc: shown(root.join("alloc")),
            local: shown(own.join("local")),
            secrets: shown(own.join("secrets")),
        };
    }
    Dirs { alloc: "/alloc".to_owned(), local: "/local".to_owned(), secrets: "/secrets".to_owned() }
}
