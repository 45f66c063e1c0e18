//! Jobs of the whole cluster: what is declared, where its instances are placed, and what nodes say of them.
//!
//! Everything is kept in JetStream (docs/cluster.md); any node serves it, and one of them controls. [`Jobs`] is the front.

mod evaluation;
mod view;

use futures::stream::BoxStream;
use moat_model::job::{Eligibility, Job};
use moat_model::{AllocId, ErrorKind, JobId, Namespace, NodeId};

use crate::error::{Error, Result};

pub use evaluation::{DeploymentView, EvaluationView, Progress, Trigger};
pub use view::{
    AllocView, ChildrenSummary, DispatchRequest, DrainRequest, FutureReschedule, GroupSummary, JobChange, JobPlan,
    JobStatus, JobSummary, JobVersion, JobView, NodeView, ServiceInstance, StopOptions, SubmitOptions, Submitted,
};

/// Jobs of the cluster, as this node sees them. Clones are the same ones.
///
/// Every method fails with `Unavailable` and the reason while there is no NATS, no JetStream, or not all was read yet.
#[derive(Debug, Clone)]
pub struct Jobs {}

impl Jobs {
    /// Refuses a job that can never work in this cluster, naming the field; returns what had better be looked at.
    pub fn validate(&self, namespace: &Namespace, job: &Job) -> Result<Vec<String>> {
        let _ = (namespace, job);
        Err(not_yet())
    }

    /// Declares a job. A job that is the declared one already makes no new version; it is looked at anew all the same.
    pub async fn submit(&self, namespace: &Namespace, job: Job, options: SubmitOptions) -> Result<Submitted> {
        let _ = (namespace, job, options);
        Err(not_yet())
    }

    /// What [`Jobs::submit`] would do now. Changes nothing.
    pub async fn plan(&self, namespace: &Namespace, job: Job) -> Result<JobPlan> {
        let _ = (namespace, job);
        Err(not_yet())
    }

    /// All jobs of a namespace (of all, if none is named) whose id begins with `prefix`, in order.
    pub async fn list(&self, namespace: Option<&Namespace>, prefix: &str) -> Result<Vec<JobSummary>> {
        let _ = (namespace, prefix);
        Err(not_yet())
    }

    /// One job.
    pub async fn get(&self, namespace: &Namespace, job: &JobId) -> Result<JobView> {
        let _ = (namespace, job);
        Err(not_yet())
    }

    /// Its versions that are kept, the newest first.
    pub async fn versions(&self, namespace: &Namespace, job: &JobId) -> Result<Vec<JobVersion>> {
        let _ = (namespace, job);
        Err(not_yet())
    }

    /// Stops it.
    pub async fn stop(&self, namespace: &Namespace, job: &JobId, options: StopOptions) -> Result<Submitted> {
        let _ = (namespace, job, options);
        Err(not_yet())
    }

    /// Declares an earlier version anew, as a new version. Refused unless the declared one is `enforce_prior`, if given.
    pub async fn revert(
        &self,
        namespace: &Namespace,
        job: &JobId,
        version: u64,
        enforce_prior: Option<u64>,
    ) -> Result<Submitted> {
        let _ = (namespace, job, version, enforce_prior);
        Err(not_yet())
    }

    /// Starts a child of a parameterized job.
    pub async fn dispatch(&self, namespace: &Namespace, job: &JobId, request: DispatchRequest) -> Result<Submitted> {
        let _ = (namespace, job, request);
        Err(not_yet())
    }

    /// Starts a child of a periodic job now.
    pub async fn force_periodic(&self, namespace: &Namespace, job: &JobId) -> Result<Submitted> {
        let _ = (namespace, job);
        Err(not_yet())
    }

    /// Looks at a job anew.
    pub async fn evaluate(&self, namespace: &Namespace, job: &JobId) -> Result<Submitted> {
        let _ = (namespace, job);
        Err(not_yet())
    }

    /// Its evaluations that are kept, the oldest first.
    pub async fn evaluations(&self, namespace: &Namespace, job: &JobId) -> Result<Vec<EvaluationView>> {
        let _ = (namespace, job);
        Err(not_yet())
    }

    /// One evaluation, by its id or a beginning that no other has.
    pub async fn evaluation(&self, namespace: &Namespace, id: &str) -> Result<EvaluationView> {
        let _ = (namespace, id);
        Err(not_yet())
    }

    /// Deployments that are kept, the newest first; of one job, if it is named.
    pub async fn deployments(&self, namespace: &Namespace, job: Option<&JobId>) -> Result<Vec<DeploymentView>> {
        let _ = (namespace, job);
        Err(not_yet())
    }

    /// One deployment, by its id or a beginning that no other has.
    pub async fn deployment(&self, namespace: &Namespace, id: &str) -> Result<DeploymentView> {
        let _ = (namespace, id);
        Err(not_yet())
    }

    /// Accepts the canaries of a deployment: of these groups, or of all.
    pub async fn promote(&self, namespace: &Namespace, id: &str, groups: &[String]) -> Result<DeploymentView> {
        let _ = (namespace, id, groups);
        Err(not_yet())
    }

    /// Gives a deployment up.
    pub async fn fail(&self, namespace: &Namespace, id: &str) -> Result<DeploymentView> {
        let _ = (namespace, id);
        Err(not_yet())
    }

    /// Allocations of a namespace (of all, if none is named), of one job, if it is named; without their jobs.
    pub async fn allocations(&self, namespace: Option<&Namespace>, job: Option<&JobId>) -> Result<Vec<AllocView>> {
        let _ = (namespace, job);
        Err(not_yet())
    }

    /// One allocation, by its id or a beginning that no other has.
    pub async fn allocation(&self, namespace: Option<&Namespace>, id: &str) -> Result<AllocView> {
        let _ = (namespace, id);
        Err(not_yet())
    }

    /// Stops an allocation; another is placed if its job wants it.
    pub async fn stop_allocation(
        &self,
        namespace: &Namespace,
        id: &AllocId,
        no_shutdown_delay: bool,
    ) -> Result<Submitted> {
        let _ = (namespace, id, no_shutdown_delay);
        Err(not_yet())
    }

    /// Instances of services that may be used: of a namespace; of one service, if it is named.
    pub async fn services(&self, namespace: &Namespace, name: Option<&str>) -> Result<Vec<ServiceInstance>> {
        let _ = (namespace, name);
        Err(not_yet())
    }

    /// All nodes.
    pub async fn nodes(&self) -> Result<Vec<NodeView>> {
        Err(not_yet())
    }

    /// One node: by its id, a beginning that no other has, or its name; `self` is this one.
    pub async fn node(&self, id: &str) -> Result<NodeView> {
        let _ = id;
        Err(not_yet())
    }

    /// Empties a node.
    pub async fn drain(&self, node: &NodeId, request: DrainRequest) -> Result<NodeView> {
        let _ = (node, request);
        Err(not_yet())
    }

    /// Ends that; the node may be used again unless `keep_ineligible`.
    pub async fn undrain(&self, node: &NodeId, keep_ineligible: bool) -> Result<NodeView> {
        let _ = (node, keep_ineligible);
        Err(not_yet())
    }

    /// Whether anything new may be placed on a node. Refused while it is being emptied.
    pub async fn set_eligibility(&self, node: &NodeId, eligibility: Eligibility) -> Result<NodeView> {
        let _ = (node, eligibility);
        Err(not_yet())
    }

    /// The job as it is, and again whenever anything of it changed. Ends only with the daemon; after an outage it goes on.
    pub fn watch(&self, namespace: &Namespace, job: &JobId) -> BoxStream<'static, JobChange> {
        let _ = (namespace, job);
        Box::pin(futures::stream::empty())
    }
}

fn not_yet() -> Error {
    Error::new(ErrorKind::Unavailable, "jobs: this node has no connection to the cluster's state yet")
}
