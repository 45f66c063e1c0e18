//! Jobs, evaluations, deployments, and nodes as jobs see them.

use reqwest::Method;

use super::{RestClient, Result};
use crate::rest::Done;
use crate::rest::allocation::AllocationList;
use crate::rest::deployment::{Deployment, DeploymentList, Promote};
use crate::rest::evaluation::{Evaluation, EvaluationList};
use crate::rest::job::{
    Decided, DispatchJob, Dispatched, JobDetail, JobList, JobPlan, JobSummary, JobVersions, ListJobs, ParseJob,
    ParsedJob, PlanJob, RevertJob, StopJob, SubmitJob, Submitted,
};
use crate::rest::node::{ClusterNode, DrainNode, SetEligibility};

impl RestClient {
    /// Jobs of the namespace.
    pub async fn jobs(&self, query: &ListJobs) -> Result<JobList> {
        self.get("list jobs", &["jobs"], &[("prefix", query.prefix.clone())]).await
    }

    /// Declares a job, or a new version of one.
    pub async fn submit_job(&self, request: &SubmitJob) -> Result<Submitted> {
        self.post(&format!("declare job {}", request.job.id), &["jobs"], request).await
    }

    /// Reads a job file, on the node.
    pub async fn parse_job(&self, request: &ParseJob) -> Result<ParsedJob> {
        self.post("read a job file", &["jobs", "parse"], request).await
    }

    /// What declaring a job would change.
    pub async fn plan_job(&self, request: &PlanJob) -> Result<JobPlan> {
        self.post(&format!("plan job {}", request.job.id), &["jobs", "plan"], request).await
    }

    /// One, and what became of it.
    pub async fn job(&self, id: &str) -> Result<JobDetail> {
        self.get(&format!("look at job {id}"), &["jobs", id], &[]).await
    }

    /// Stops one.
    pub async fn stop_job(&self, id: &str, query: &StopJob) -> Result<Decided> {
        let yes = |yes: bool| yes.then(|| "true".to_owned());
        let pairs = [("purge", yes(query.purge)), ("no_shutdown_delay", yes(query.no_shutdown_delay))];
        let request = self.request(Method::DELETE, &["jobs", id], &pairs);
        self.slow(&format!("stop job {id}"), request).await
    }

    /// Its instances by state.
    pub async fn job_summary(&self, id: &str) -> Result<JobSummary> {
        self.get(&format!("sum up job {id}"), &["jobs", id, "summary"], &[]).await
    }

    /// Its versions, the newest first.
    pub async fn job_versions(&self, id: &str) -> Result<JobVersions> {
        self.get(&format!("list versions of job {id}"), &["jobs", id, "versions"], &[]).await
    }

    /// Its allocations, the newest first.
    pub async fn job_allocations(&self, id: &str) -> Result<AllocationList> {
        self.get(&format!("list allocations of job {id}"), &["jobs", id, "allocations"], &[]).await
    }

    /// Its evaluations, the newest first.
    pub async fn job_evaluations(&self, id: &str) -> Result<EvaluationList> {
        self.get(&format!("list evaluations of job {id}"), &["jobs", id, "evaluations"], &[]).await
    }

    /// Its deployments, the newest first.
    pub async fn job_deployments(&self, id: &str) -> Result<DeploymentList> {
        self.get(&format!("list deployments of job {id}"), &["jobs", id, "deployments"], &[]).await
    }

    /// Has where its instances run decided anew.
    pub async fn evaluate_job(&self, id: &str) -> Result<Decided> {
        self.post(&format!("evaluate job {id}"), &["jobs", id, "evaluate"], &serde_json::json!({})).await
    }

    /// Goes back to a version.
    pub async fn revert_job(&self, id: &str, request: &RevertJob) -> Result<Submitted> {
        self.post(&format!("revert job {id}"), &["jobs", id, "revert"], request).await
    }

    /// Starts a parameterized one.
    pub async fn dispatch_job(&self, id: &str, request: &DispatchJob) -> Result<Dispatched> {
        self.post(&format!("dispatch job {id}"), &["jobs", id, "dispatch"], request).await
    }

    /// Starts a periodic one now.
    pub async fn force_periodic(&self, id: &str) -> Result<Dispatched> {
        self.post(&format!("start job {id}"), &["jobs", id, "periodic", "force"], &serde_json::json!({})).await
    }

    /// Goes on after the canaries of its deployment.
    pub async fn promote_job(&self, id: &str, request: &Promote) -> Result<Decided> {
        self.post(&format!("promote the canaries of job {id}"), &["jobs", id, "promote"], request).await
    }

    /// One evaluation.
    pub async fn evaluation(&self, id: &str) -> Result<Evaluation> {
        self.get(&format!("look at evaluation {id}"), &["evaluations", id], &[]).await
    }

    /// One deployment.
    pub async fn deployment(&self, id: &str) -> Result<Deployment> {
        self.get(&format!("look at deployment {id}"), &["deployments", id], &[]).await
    }

    /// Gives a deployment up.
    pub async fn fail_deployment(&self, id: &str) -> Result<Decided> {
        self.post(&format!("fail deployment {id}"), &["deployments", id, "fail"], &serde_json::json!({})).await
    }

    /// A node, as jobs see it.
    pub async fn cluster_node(&self, id: &str) -> Result<ClusterNode> {
        self.get(&format!("look at node {id}"), &["nodes", id], &[]).await
    }

    /// Empties a node, or no longer does.
    pub async fn drain_node(&self, id: &str, request: &DrainNode) -> Result<ClusterNode> {
        self.post(&format!("drain node {id}"), &["nodes", id, "drain"], request).await
    }

    /// Whether anything new may be placed on a node.
    pub async fn set_eligibility(&self, id: &str, request: &SetEligibility) -> Result<ClusterNode> {
        self.post(&format!("change eligibility of node {id}"), &["nodes", id, "eligibility"], request).await
    }

    /// Signals, restarts and stops of allocations answer alike.
    pub(super) async fn order<T: serde::Serialize>(&self, doing: &str, id: &str, verb: &str, body: &T) -> Result<Done> {
        self.post(doing, &["allocations", id, verb], body).await
    }
}
