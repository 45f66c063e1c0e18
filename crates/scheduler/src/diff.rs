//! How a submitted job differs from the one that runs, and what it would do.

use moat_model::Timestamp;
use moat_model::job::{DiffKind, Job, JobDiff};

use crate::cluster::{Cluster, JobKey};
use crate::plan::{Plan, plan};
use crate::seed::Seed;

/// What a job would do if it were submitted.
#[derive(Debug, Clone, PartialEq)]
pub struct DryRun {
    /// How it differs from the current version, with what would happen to groups and tasks.
    pub diff: JobDiff,
    /// What would be planned.
    pub plan: Plan,
}

/// How `new` differs from `old`.
pub fn diff(old: Option<&Job>, new: &Job) -> JobDiff {
    let kind = if old.is_none() { DiffKind::Added } else { DiffKind::None };
    JobDiff { kind, id: new.id.to_string(), fields: Vec::new(), objects: Vec::new(), groups: Vec::new() }
}

/// What `new` would do if it were submitted now.
pub fn dry_run(cluster: &Cluster, new: &Job, now: Timestamp) -> DryRun {
    let key = JobKey::of(new);
    let old = cluster.job(&key).filter(|state| !state.stopped).and_then(|state| state.job());
    DryRun { diff: diff(old.map(AsRef::as_ref), new), plan: plan(cluster, &key, now, Seed([0; 16])) }
}
