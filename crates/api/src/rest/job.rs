//! Jobs: what is declared, what became of it, and what would become of a change.
//!
//! The job itself is the model's, in JSON: what `POST /jobs/parse` answers is what `POST /jobs` takes.

use std::collections::BTreeMap;

use moat_model::job::Job;
use moat_model::job::diff::JobDiff;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::deployment::Deployment;
use super::evaluation::{Evaluation, PlacementFailure};

/// Declares a job, or a new version of one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitJob {
    /// The job, as `POST /jobs/parse` answers it. Its namespace is the caller's.
    #[schema(value_type = Object)]
    pub job: Job,
    /// Refused unless the job is as it was at this index; 0: unless there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_index: Option<u64>,
    /// The counts of the version that runs are kept.
    #[serde(default)]
    pub preserve_counts: bool,
}

/// What was declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Submitted {
    /// The job.
    pub id: String,
    /// Its version now.
    pub version: u64,
    /// What `check_index` compares with.
    pub modify_index: u64,
    /// What decides where it runs; none for periodic and parameterized jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<String>,
    /// When a periodic job starts next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_launch: Option<String>,
    /// What people should know.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// A job file to read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ParseJob {
    /// HCL, or Nomad's JSON.
    pub text: String,
    /// Values of its variables.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
}

/// A job file that was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ParsedJob {
    /// The job, defaults filled in.
    #[schema(value_type = Object)]
    pub job: Job,
}

/// Asks what declaring a job would change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanJob {
    /// The job.
    #[schema(value_type = Object)]
    pub job: Job,
    /// The counts of the version that runs are kept.
    #[serde(default)]
    pub preserve_counts: bool,
}

/// What declaring a job would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobPlan {
    /// Against the version that is declared.
    #[schema(value_type = Object)]
    pub diff: JobDiff,
    /// Whether anything would be started or stopped.
    pub changes: bool,
    /// Groups that could not be placed as the cluster is now.
    pub failures: BTreeMap<String, PlacementFailure>,
    /// What `check_index` compares with; 0: there is no such job.
    pub modify_index: u64,
    /// When a periodic job would start next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_launch: Option<String>,
    /// What people should know.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Which jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListJobs {
    /// Only those whose id begins so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}

/// One line about a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobRow {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `service`, `batch`, `system` or `sysbatch`.
    #[serde(rename = "type")]
    pub kind: String,
    /// 1 to 100.
    pub priority: u8,
    /// `pending`, `running` or `dead`.
    pub status: String,
    /// Somebody stopped it.
    #[serde(default)]
    pub stopped: bool,
    /// Version that is wanted.
    pub version: u64,
    /// When that was declared.
    pub submitted_at: String,
    /// It is started by the clock.
    #[serde(default)]
    pub periodic: bool,
    /// It is started by `dispatch`.
    #[serde(default)]
    pub parameterized: bool,
    /// The job it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
}

/// Jobs of a namespace, by id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobList {
    /// The list.
    pub jobs: Vec<JobRow>,
}

/// A job and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobDetail {
    /// The version that is wanted.
    #[schema(value_type = Object)]
    pub job: Job,
    /// Its number.
    pub version: u64,
    /// What `check_index` compares with.
    pub modify_index: u64,
    /// `pending`, `running` or `dead`.
    pub status: String,
    /// Somebody stopped it.
    pub stopped: bool,
    /// When this version was declared.
    pub submitted_at: String,
    /// By group.
    pub summary: BTreeMap<String, GroupSummary>,
    /// The latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<Deployment>,
    /// The one that could not place everything, if nothing has changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<Evaluation>,
    /// Replacements that wait for their time.
    #[serde(default)]
    pub reschedules: Vec<FutureReschedule>,
    /// When a periodic job starts next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_launch: Option<String>,
    /// Of a periodic or parameterized job: its children by status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub children: Option<ChildrenSummary>,
}

/// A replacement that waits for its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FutureReschedule {
    /// Of which group.
    pub group: String,
    /// Of which allocation.
    pub allocation: String,
    /// When.
    pub at: String,
}

/// Instances of a group by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupSummary {
    /// Wanted and not placed.
    pub queued: u32,
    /// Placed, not running yet.
    pub starting: u32,
    /// Running.
    pub running: u32,
    /// Failed.
    pub failed: u32,
    /// Ended as they should.
    pub complete: u32,
    /// Their node is gone.
    pub lost: u32,
    /// Their node is cut off.
    pub unknown: u32,
}

/// Children of a job by status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChildrenSummary {
    /// Not running yet.
    pub pending: u32,
    /// Running.
    pub running: u32,
    /// Ended.
    pub dead: u32,
}

/// The summary alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobSummary {
    /// The job.
    pub id: String,
    /// By group.
    pub groups: BTreeMap<String, GroupSummary>,
}

/// One version of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobVersion {
    /// Its number.
    pub version: u64,
    /// It was deployed with success: where an automatic revert goes.
    pub stable: bool,
    /// It is the one that is wanted.
    pub current: bool,
    /// When it was declared.
    pub submitted_at: String,
    /// What was declared.
    #[schema(value_type = Object)]
    pub job: Job,
    /// Against the version before, if that is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub diff: Option<JobDiff>,
}

/// Versions of a job that are kept, the newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobVersions {
    /// The list.
    pub versions: Vec<JobVersion>,
}

/// How a job is stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StopJob {
    /// Nothing of it stays to be asked for.
    #[serde(default)]
    pub purge: bool,
    /// Its tasks are stopped without their `shutdown_delay`.
    #[serde(default)]
    pub no_shutdown_delay: bool,
}

/// What was decided about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Decided {
    /// What decides what happens now; none if nothing is to be decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<String>,
}

/// Goes back to a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevertJob {
    /// Which.
    pub version: u64,
    /// Refused unless this is the version now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforce_prior: Option<u64>,
}

/// Starts a parameterized job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DispatchJob {
    /// Bytes for its `dispatch_payload`, base64; at most 16 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// Values for its `meta`.
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
}

/// The child that was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Dispatched {
    /// Id of the child.
    pub id: String,
    /// What decides where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<String>,
}
