//! What must hold of a job whatever it was written in: rules that concern more than one key, and bounds.
//!
//! [`check`] sees only the job, so that one that comes as JSON is held to the same rules as one that comes as a file.

mod group;
mod network;
mod policy;
mod task;

use std::fmt;

use croner::Cron;
use moat_model::job::{Job, JobType, Payload, Periodic, TaskGroup};
use serde::{Deserialize, Serialize};

pub use self::network::owners;
use crate::problem::SEPARATOR;

/// Instances of a job: all of them stand in one document of the cluster's state.
pub const INSTANCES_MAX: u64 = 1000;
/// Bytes of a job as JSON. A message of NATS has one MiB, and a version is one.
pub const JOB_BYTES_MAX: usize = 512 << 10;
/// Bytes a dispatch may bring.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 10;
/// Groups, tasks of a group, and whatever else is counted by hand.
const LISTED_MAX: usize = 128;

/// A rule that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which part of the job: `["group", "web", "task", "app", "kill_timeout"]`.
    pub path: Vec<String>,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.fix {
            Some(fix) => write!(f, " ({fix})"),
            None => Ok(()),
        }
    }
}

impl Violation {
    /// The path as the reader of files marks it.
    pub(super) fn mark(&self, job: &str) -> String {
        let mut mark = format!("job{SEPARATOR}{job}");
        for part in &self.path {
            mark.push(SEPARATOR);
            mark.push_str(part);
        }
        mark
    }
}

/// Where a rule looks, and what it found.
pub(super) struct Rules {
    found: Vec<Violation>,
    path: Vec<String>,
    what: String,
}

impl Rules {
    fn violated(&mut self, key: &[&str], message: impl fmt::Display, fix: &str) {
        let key = key.iter().map(|part| (*part).to_owned());
        let fix = (!fix.is_empty()).then(|| fix.to_owned());
        let message = format!("{}: {message}", self.what);
        self.found.push(Violation { path: self.path.iter().cloned().chain(key).collect(), message, fix });
    }

    /// Looks at a part.
    fn within(&mut self, kind: &str, name: &str, look: impl FnOnce(&mut Self)) {
        let what = std::mem::replace(&mut self.what, format!("{kind} {name:?}"));
        self.path.extend([kind.to_owned(), name.to_owned()]);
        look(self);
        self.path.truncate(self.path.len().saturating_sub(2));
        self.what = what;
    }

    /// Looks at one of several parts without names.
    fn at(&mut self, kind: &str, index: usize, look: impl FnOnce(&mut Self)) {
        let before = self.path.len();
        self.path.push(kind.to_owned());
        if index > 0 {
            self.path.push(format!("#{index}"));
        }
        look(self);
        self.path.truncate(before);
    }
}

/// Every rule that a job breaks.
pub fn check(job: &Job) -> Vec<Violation> {
    let mut rules = Rules { found: Vec::new(), path: Vec::new(), what: format!("job {:?}", job.id.as_str()) };
    whole(job, &mut rules);
    kinds(job, &mut rules);
    for group in &job.groups {
        rules.within("group", &group.name, |rules| group::group(job, group, rules));
    }
    rules.found
}

fn whole(job: &Job, rules: &mut Rules) {
    if job.groups.is_empty() {
        rules.violated(&[], "it has no group", "write group \"NAME\" { task \"NAME\" { … } }");
    }
    if job.groups.len() > LISTED_MAX {
        rules.violated(&[], format!("it has more than {LISTED_MAX} groups"), "");
    }
    if let Some(name) = twice(job.groups.iter().map(|group| group.name.as_str())) {
        rules.violated(&["group", name], format!("it has several groups called {name:?}"), "");
    }
    let instances: u64 = job.groups.iter().map(|group| u64::from(group.count)).sum();
    if instances > INSTANCES_MAX {
        let message = format!("it has {instances} instances, and a job has at most {INSTANCES_MAX}");
        rules.violated(
            &["group", job.groups.first().map_or("", |g| &g.name), "count"],
            message,
            "make several jobs of it",
        );
    }
    if !(1..=100).contains(&job.priority) {
        rules.violated(&["priority"], "priority lies within 1 and 100", "");
    }
    if job.datacenters.is_empty() {
        rules.violated(&["datacenters"], "datacenters names none", "leave it out, or write [\"*\"]");
    }
    if job.node_pool.is_empty() {
        rules.violated(&["node_pool"], "node_pool is empty", "leave it out, or write \"default\" or \"all\"");
    }
    if serde_json::to_string(job).map_or(usize::MAX, |json| json.len()) > JOB_BYTES_MAX {
        let fix = "fetch large data with an artifact instead of writing it into the job";
        rules.violated(&[], format!("it is larger than {} KiB", JOB_BYTES_MAX >> 10), fix);
    }
    // Base64 is a third longer.
    if job.payload.as_ref().is_some_and(|payload| payload.len() > PAYLOAD_BYTES_MAX.div_ceil(3) * 4) {
        rules.violated(&[], format!("its payload is larger than {} KiB", PAYLOAD_BYTES_MAX >> 10), "");
    }
}

fn kinds(job: &Job, rules: &mut Rules) {
    let kind = job.kind.as_str();
    let to_its_end = matches!(job.kind, JobType::Batch | JobType::Sysbatch);
    for (key, there) in [("periodic", job.periodic.is_some()), ("parameterized", job.parameterized.is_some())] {
        if there && !to_its_end {
            let message = format!("{key} means nothing in a {kind} job");
            rules.violated(&[key], message, "write type = \"batch\" or \"sysbatch\"");
        }
    }
    if job.periodic.is_some() && job.parameterized.is_some() {
        rules.violated(&["parameterized"], "periodic and parameterized exclude each other", "the clock has no payload");
    }
    if let Some(periodic) = &job.periodic {
        clock(periodic, rules);
    }
    if let Some(parameters) = &job.parameterized
        && let Some(key) = parameters.meta_required.iter().find(|key| parameters.meta_optional.contains(key))
    {
        let message = format!("{key:?} is both required and optional");
        rules.violated(&["parameterized", "meta_optional"], message, "");
    }
    if job.kind.is_on_every_node() {
        let preferring = [("affinity", job.affinities.is_empty()), ("spread", job.spreads.is_empty())];
        for (key, _) in preferring.into_iter().filter(|(_, empty)| !*empty) {
            let message = format!("{key} means nothing in a {kind} job");
            rules.violated(&[key], message, "it runs on every node that fulfils its constraints");
        }
    }
}

fn clock(periodic: &Periodic, rules: &mut Rules) {
    if periodic.crons.is_empty() {
        rules.violated(&["periodic"], "periodic has no cron", "write crons = [\"0 3 * * *\"]");
    }
    for cron in &periodic.crons {
        if let Err(error) = cron.parse::<Cron>() {
            let message = format!("{cron:?} is not a cron expression: {error}");
            rules.violated(&["periodic", "cron"], message, "minute, hour, day, month, weekday: \"0 3 * * *\" is 3:00");
        }
    }
    if jiff::tz::TimeZone::get(&periodic.time_zone).is_err() {
        let message = format!("{:?} is not a time zone", periodic.time_zone);
        rules.violated(&["periodic", "time_zone"], message, "names are such as UTC or Europe/Berlin");
    }
}

/// A name that comes twice.
fn twice<'n>(names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let mut seen = std::collections::BTreeSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}

/// Names are parts of paths and of variables.
fn bad_name(name: &str) -> Option<String> {
    let sound = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if name.is_empty() || name.len() > 128 || name.starts_with('.') || !name.chars().all(sound) {
        return Some(format!(
            "{name:?} is not a name: 1 to 128 letters, digits, '_', '-' and '.', not beginning with '.'"
        ));
    }
    None
}

/// Whether a dispatch may bring a payload.
fn takes_payload(job: &Job) -> bool {
    // A child has its parent's parameters behind it.
    job.parent.is_some() || job.parameterized.as_ref().is_some_and(|p| p.payload != Payload::Forbidden)
}

/// The tasks that are not before, beside or after others.
fn main_tasks(group: &TaskGroup) -> impl Iterator<Item = &moat_model::job::Task> {
    group.tasks.iter().filter(|task| task.lifecycle.is_none())
}
