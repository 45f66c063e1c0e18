//! What the front answers with. Whatever `moat_model::job` says already is passed on as it is.

use std::collections::BTreeMap;
use std::time::Duration;

use moat_model::job::{
    AllocStatus, Allocation, ClientStatus, DrainSpec, Eligibility, Job, JobDiff, JobType, NodeFacts, NodeState,
    PlacementFailure,
};
use moat_model::{JobId, Namespace, NodeId, Timestamp};
use serde::{Deserialize, Serialize};

use super::evaluation::{DeploymentView, EvaluationView};

/// How a job is submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SubmitOptions {
    /// Refused unless the job's index is this one; 0: unless there is no such job.
    pub enforce_index: Option<u64>,
    /// Groups keep the number of instances they have now.
    pub preserve_counts: bool,
}

/// How a job is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StopOptions {
    /// Nothing is kept of it once everything has stopped.
    pub purge: bool,
    /// Tasks are asked to stop at once, without the `shutdown_delay` of group and task.
    pub no_shutdown_delay: bool,
}

/// What became of a request that makes the controller plan anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    /// Which job: of a dispatch, the child.
    pub job: JobId,
    /// What to follow; none for a job that only has children.
    pub evaluation: Option<String>,
    /// The job's index from now on.
    pub index: u64,
    /// The version that is declared now.
    pub version: u64,
    /// What had better be looked at.
    pub warnings: Vec<String>,
    /// When a periodic job is started next.
    pub next_launch: Option<Timestamp>,
}

/// What a job would do if it were submitted now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobPlan {
    /// How it differs from the declared version, with what would happen to groups and tasks.
    pub diff: JobDiff,
    /// The job's index now, for `enforce_index`; 0: there is no such job.
    pub index: u64,
    /// What could not be placed, by group.
    pub failures: BTreeMap<String, PlacementFailure>,
    /// Allocations would be placed, changed or stopped.
    pub changes: bool,
    /// What had better be looked at.
    pub warnings: Vec<String>,
    /// When a periodic job would be started next.
    pub next_launch: Option<Timestamp>,
}

/// What a dispatch brings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DispatchRequest {
    /// Values of `meta`.
    pub meta: BTreeMap<String, String>,
    /// At most 16 KiB.
    pub payload: Option<Vec<u8>>,
}

/// `pending`, `running` or `dead`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobStatus {
    /// Nothing of it runs, and something should.
    Pending,
    /// Something of it runs; of a job that only has children: it is not stopped.
    Running,
    /// Nothing of it runs, and nothing should.
    Dead,
}

/// Instances of a group, by where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GroupSummary {
    /// Wanted, and placed nowhere yet.
    pub queued: u32,
    /// Placed, not running yet.
    pub starting: u32,
    /// Running.
    pub running: u32,
    /// Ended otherwise than they should.
    pub failed: u32,
    /// Ended as they should.
    pub complete: u32,
    /// Gone with their node.
    pub lost: u32,
    /// Cut off with their node.
    pub unknown: u32,
}

/// A job in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSummary {
    /// Its id.
    pub id: JobId,
    /// Its name.
    pub name: String,
    /// Tenant.
    pub namespace: Namespace,
    /// What it is for.
    #[serde(rename = "type")]
    pub kind: JobType,
    /// Its priority.
    pub priority: u8,
    /// Whether something of it runs.
    pub status: JobStatus,
    /// It is to be stopped, or is.
    pub stop: bool,
    /// It is started by the clock.
    pub periodic: bool,
    /// It is started by dispatches.
    pub parameterized: bool,
    /// The job it is a child of.
    pub parent: Option<JobId>,
    /// The version that is declared.
    pub version: u64,
    /// Changes with every submission.
    pub index: u64,
    /// When that version was submitted.
    pub submitted: Timestamp,
    /// Instances by group.
    pub groups: BTreeMap<String, GroupSummary>,
}

/// A job with all that is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    /// As in a list.
    #[serde(flatten)]
    pub summary: JobSummary,
    /// As declared.
    pub job: Job,
    /// The evaluation whose placements failed, if one did and nothing has changed since.
    pub blocked: Option<EvaluationView>,
    /// The last deployment.
    pub deployment: Option<DeploymentView>,
    /// Replacements that wait for their time: group, and when.
    pub reschedules: Vec<FutureReschedule>,
    /// Children of a periodic or parameterized job, by status.
    pub children: Option<ChildrenSummary>,
    /// When a periodic job is started next.
    pub next_launch: Option<Timestamp>,
}

/// A replacement that waits for its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FutureReschedule {
    /// Which group.
    pub group: String,
    /// What failed.
    pub alloc: String,
    /// When another is placed.
    pub at: Timestamp,
}

/// Children of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ChildrenSummary {
    /// Nothing of them runs yet.
    pub pending: u32,
    /// Something of them runs.
    pub running: u32,
    /// They are done.
    pub dead: u32,
}

/// One version of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobVersion {
    /// Which.
    pub version: u64,
    /// A deployment of it has succeeded.
    pub stable: bool,
    /// It is the declared one.
    pub current: bool,
    /// When it was submitted.
    pub submitted: Timestamp,
    /// As declared.
    pub job: Job,
}

/// An allocation: what is wanted, and what its node says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AllocView {
    /// What is wanted.
    pub allocation: Allocation,
    /// `job.group[index]`.
    pub name: String,
    /// What its node said last, if anything.
    pub status: Option<AllocStatus>,
    /// Its state: its node's word, or the controller's about a node that is gone.
    pub client: ClientStatus,
    /// Why, for people.
    pub description: String,
    /// What people call its node.
    pub node_name: String,
    /// Where the REST of its node is reached, if it says so.
    pub node_http: Option<String>,
    /// The version of the job it runs, as long as it is kept.
    pub job: Option<Job>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// What it says of itself.
    pub facts: NodeFacts,
    /// Whether it says that it lives.
    pub state: NodeState,
    /// Whether anything new may be placed on it.
    pub eligibility: Eligibility,
    /// It is being emptied.
    pub drain: Option<DrainSpec>,
    /// Allocations on it that have not ended.
    pub allocations: u32,
    /// It holds the lease of the controller.
    pub controller: bool,
    /// It is the one that was asked.
    pub own: bool,
    /// What those allocations may use of it.
    pub used: moat_model::job::cluster::Capacity,
}

/// How a node is emptied.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DrainRequest {
    /// Whatever is left then is stopped; never if absent; at once if zero.
    pub deadline: Option<Duration>,
    /// System jobs stay.
    pub ignore_system: bool,
    /// Why, for people.
    pub message: String,
}

/// A service's instance that may be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceInstance {
    /// The service's name.
    pub service: String,
    /// Which allocation offers it.
    pub alloc: String,
    /// Its job.
    pub job: JobId,
    /// Its group.
    pub group: String,
    /// Which task.
    pub task: Option<String>,
    /// Its node.
    pub node: NodeId,
    /// Address and port, if it has a port.
    pub address: Option<String>,
    /// Its port, if it has one.
    pub port: Option<u16>,
    /// Free words.
    pub tags: Vec<String>,
}
