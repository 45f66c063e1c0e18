//! How a submitted job differs from the one that runs, and what it would do.

mod annotate;
mod values;

use std::collections::BTreeMap;
use std::sync::Arc;

use moat_model::Timestamp;
use moat_model::job::{DiffKind, GroupDiff, Job, JobDiff, Task, TaskDiff, TaskGroup};
use serde::Serialize;
use serde_json::Value;

use crate::cluster::{Cluster, JobKey, JobState};
use crate::plan::Plan;
use crate::reconcile;
use crate::seed::Seed;
use values::{Changes, changes};

/// What a job would do if it were submitted.
#[derive(Debug, Clone, PartialEq)]
pub struct DryRun {
    /// How it differs from what runs, with what would happen to groups and tasks.
    pub diff: JobDiff,
    /// What would be planned.
    pub plan: Plan,
}

/// What `new` would do if it were submitted now. A job that was stopped counts as one that does not exist.
pub fn dry_run(cluster: &Cluster, new: &Job, now: Timestamp) -> DryRun {
    let key = JobKey::of(new);
    let known = cluster.job(&key);
    let old = known.filter(|state| !state.stopped).and_then(JobState::job);
    let mut state = known.cloned().unwrap_or_else(|| JobState {
        key: key.clone(),
        current: 0,
        versions: BTreeMap::new(),
        stable: [].into(),
        stopped: false,
    });
    if old.is_none_or(|old| **old != *new) {
        state.current = state.versions.last_key_value().map_or(0, |(last, _)| last.saturating_add(1));
        state.versions.insert(state.current, Arc::new(new.clone()));
    }
    state.stopped = false;
    // Nothing of it is carried out, so its identities need not be other ones each time.
    let plan = reconcile::plan(cluster, Some(&state), &key, now, Seed([0; 16]));
    let mut diff = diff(old.map(AsRef::as_ref), new);
    annotate::annotate(&mut diff, old.map(AsRef::as_ref), new, &plan);
    DryRun { diff, plan }
}

/// How `new` differs from `old`.
pub fn diff(old: Option<&Job>, new: &Job) -> JobDiff {
    let changes = changes(old, Some(new), &["id", "groups", "namespace"]);
    let groups = pairs(old.map_or(&[][..], |job| &job.groups), &new.groups, |group| &group.name);
    let groups: Vec<_> = groups.into_iter().map(|(name, old, new)| of_group(name, old, new)).collect();
    let differs = !changes.is_empty() || groups.iter().any(|group| group.kind != DiffKind::None);
    let kind = kind(old.is_some(), true, differs);
    JobDiff { kind, id: new.id.to_string(), fields: changes.fields, objects: changes.objects, groups }
}

fn of_group(name: &str, old: Option<&TaskGroup>, new: Option<&TaskGroup>) -> GroupDiff {
    let Changes { fields, objects } = changes(old, new, &["name", "tasks"]);
    let tasks = |group: Option<&'_ TaskGroup>| group.map(|group| group.tasks.clone()).unwrap_or_default();
    let (before, after) = (tasks(old), tasks(new));
    let tasks = pairs(&before, &after, |task: &Task| &task.name).into_iter();
    let mut tasks: Vec<_> = tasks.map(|(name, old, new)| of_task(name, old, new)).collect();
    tasks.retain(|task| task.kind != DiffKind::None);
    let differs = !fields.is_empty() || !objects.is_empty() || !tasks.is_empty();
    let kind = kind(old.is_some(), new.is_some(), differs);
    GroupDiff { kind, name: name.to_owned(), fields, objects, tasks, updates: BTreeMap::new() }
}

fn of_task(name: &str, old: Option<&Task>, new: Option<&Task>) -> TaskDiff {
    let changes = changes(old, new, &["name"]);
    let kind = kind(old.is_some(), new.is_some(), !changes.is_empty());
    let Changes { fields, objects } = changes;
    TaskDiff { kind, name: name.to_owned(), fields, objects, annotations: Vec::new() }
}

fn kind(old: bool, new: bool, differs: bool) -> DiffKind {
    match (old, new) {
        (false, _) => DiffKind::Added,
        (true, false) => DiffKind::Deleted,
        (true, true) if differs => DiffKind::Edited,
        (true, true) => DiffKind::None,
    }
}

/// By name: those of the newer in their order, then what only the older has.
fn pairs<'a, T>(old: &'a [T], new: &'a [T], name: fn(&T) -> &String) -> Vec<(&'a str, Option<&'a T>, Option<&'a T>)> {
    let find = |all: &'a [T], wanted: &String| all.iter().find(|one| name(one) == wanted);
    let newer = new.iter().map(|one| (name(one).as_str(), find(old, name(one)), Some(one)));
    let gone = old.iter().filter(|one| find(new, name(one)).is_none());
    newer.chain(gone.map(|one| (name(one).as_str(), Some(one), None))).collect()
}

fn value(of: Option<&impl Serialize>) -> Value {
    // Everything in the model becomes JSON: that is how it is kept.
    of.and_then(|value| serde_json::to_value(value).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
