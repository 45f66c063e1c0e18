//! What the buckets hold. Each document is written by one party, or by compare-and-set, as its comment says.

use std::collections::BTreeSet;

use moat_model::Timestamp;
use moat_model::job::{AllocStatus, Allocation, Deployment, Evaluation, Job};
use moat_model::{AllocId, NodeId};
use serde::{Deserialize, Serialize};

use super::evaluation::Trigger;

/// Versions of a job that are kept besides those something still runs of.
pub const VERSIONS_MAX: usize = 6;
/// Evaluations of a job that are kept.
pub const EVALUATIONS_MAX: usize = 10;
/// Ended deployments of a job that are kept.
pub const DEPLOYMENTS_MAX: usize = 5;
/// Ended allocations of a job that are kept.
pub const ENDED_MAX: usize = 40;
/// What was asked for of a job and is not answered yet. The controller answers all of it at once: more is asked for only
/// while there is none.
pub const REQUESTS_MAX: usize = 64;
/// Allocations of a job that have not ended: the document of all of them must fit a message of NATS.
pub const ALLOCATIONS_MAX: u64 = 1000;

/// Something the controller is asked to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The id the answer gets.
    pub id: String,
    /// Why.
    pub trigger: Trigger,
    /// When.
    pub at: Timestamp,
}

/// What is declared. Written by whoever is asked to, by compare-and-set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// As declared.
    pub job: Job,
    /// Counts contents.
    pub version: u64,
    /// Counts submissions, stops and reverts.
    pub index: u64,
    /// Nothing of it should run.
    pub stop: bool,
    /// Nothing is kept of it once nothing runs.
    pub purge: bool,
    /// Tasks are stopped without `shutdown_delay`.
    pub no_shutdown_delay: bool,
    /// When this version was declared.
    pub submitted: Timestamp,
    /// When anything of this changed.
    pub modified: Timestamp,
    /// What the last change asked for; none of a job that only has children.
    pub request: Option<Request>,
}

/// An earlier version. Written before a newer one is declared, by whoever declares it; always the same content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionRecord {
    /// As declared.
    pub job: Job,
    /// When.
    pub submitted: Timestamp,
}

/// What became of a job: one document, so that one compare-and-set carries out a whole plan or nothing of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Its instances.
    pub allocations: Vec<Allocation>,
    /// The deployment under way, or the last.
    pub deployment: Option<Deployment>,
    /// Those before, the oldest first.
    #[serde(default)]
    pub deployments: Vec<Deployment>,
    /// The last ones, the oldest first.
    #[serde(default)]
    pub evaluations: Vec<Evaluated>,
    /// What was asked for besides what the record asks for, and is not answered yet.
    #[serde(default)]
    pub requests: Vec<Request>,
    /// Versions that proved themselves.
    #[serde(default)]
    pub stable: BTreeSet<u64>,
    /// The index of the record whose request has its answer.
    #[serde(default)]
    pub answered: u64,
    /// Starts by the clock are done up to this moment.
    #[serde(default)]
    pub launched: Option<Timestamp>,
}

/// An evaluation with what led to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    /// What came of it.
    pub evaluation: Evaluation,
    /// What asked for it.
    pub request: Request,
}

/// Whether a node is given up, in the bucket of jobs: so everybody sees it in the same order as what was placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// Counts the node's returns.
    pub epoch: u64,
    /// What it ran, and others may run, is lost.
    pub down: bool,
}

/// That a node lives. Written by the node over its own last one; by the controller over the last one it saw, to give the
/// node up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// As in the fence.
    pub epoch: u64,
    /// Which life of its daemon; random.
    pub life: u64,
    /// Counts beats of that life.
    pub count: u64,
    /// The controller has given it up.
    pub down: bool,
}

/// A document as it was read.
#[derive(Debug, Clone)]
pub enum Document {
    /// See the type.
    Job(Box<JobRecord>),
    /// See the type.
    Version(Box<VersionRecord>),
    /// See the type.
    Outcome(Box<Outcome>),
    /// See the type.
    Fence(Fence),
    /// Nothing but its place in the bucket.
    Barrier,
    /// What a node says of itself.
    Facts(Box<moat_model::job::NodeFacts>),
    /// What is wanted of a node.
    Wish(moat_model::job::NodeWish),
    /// See the type.
    Beat(Beat),
    /// Who controls.
    Lease(super::lease::LeaseRecord),
    /// What a node says of an allocation.
    Status(Box<AllocStatus>),
}

impl Document {
    /// Reads what a key holds.
    pub fn read(key: &super::keys::Key, bytes: &[u8]) -> Result<Self, serde_json::Error> {
        use super::keys::Key;
        Ok(match key {
            Key::Job(_) => Self::Job(serde_json::from_slice(bytes)?),
            Key::Version(..) => Self::Version(serde_json::from_slice(bytes)?),
            Key::Outcome(_) => Self::Outcome(serde_json::from_slice(bytes)?),
            Key::Fence(_) => Self::Fence(serde_json::from_slice(bytes)?),
            Key::Barrier(_) => Self::Barrier,
            Key::Facts(_) => Self::Facts(serde_json::from_slice(bytes)?),
            Key::Wish(_) => Self::Wish(serde_json::from_slice(bytes)?),
            Key::Beat(_) => Self::Beat(serde_json::from_slice(bytes)?),
            Key::Lease => Self::Lease(serde_json::from_slice(bytes)?),
            Key::Status(_) => Self::Status(serde_json::from_slice(bytes)?),
        })
    }
}

impl Outcome {
    /// One of its allocations.
    pub fn allocation(&self, id: &AllocId) -> Option<&Allocation> {
        self.allocations.iter().find(|allocation| &allocation.id == id)
    }

    /// Those of a node.
    pub fn on<'a>(&'a self, node: &'a NodeId) -> impl Iterator<Item = &'a Allocation> {
        self.allocations.iter().filter(move |allocation| &allocation.node == node)
    }
}
