//! What is done to workloads that run, and to nodes.

use bytes::Bytes;
use moat_model::claims::{self, ClaimsSpec};
use moat_model::{ErrorKind, NodeId, WorkloadId, WorkloadName};
use nkeys::KeyPair;
use serde::de::DeserializeOwned;

use super::{Client, Error, Result, encode, now, random};
use crate::nex::{LameDuckResponse, LogCursor, StopRequest, StopResponse};
use crate::sandbox::{
    ControlRequest, ExplainResponse, InspectRequest, InspectResponse, LogsRequest, LogsResponse, SandboxRequest,
    StatsResponse, WorkloadRef, WorkloadView,
};

/// Claims that let one of our own verbs through live this long; nodes refuse more than 60 s.
const CONTROL_CLAIMS_SECS: i64 = 30;

impl Client {
    /// Stops a workload. Only whoever signed its start may.
    pub async fn stop(
        &self,
        node: &NodeId,
        workload_id: &str,
        name: &WorkloadName,
        issuer: &KeyPair,
    ) -> Result<StopResponse> {
        let doing = format!("stop {name} on node {node}");
        let mut spec = ClaimsSpec::new(name.clone(), now());
        spec.nonce = Some(nonce()?);
        let workload_jwt = claims::sign(issuer, &spec).map_err(|e| Error::new(ErrorKind::InvalidSpec, &doing, e))?;
        let request = StopRequest { workload_id: workload_id.to_owned(), workload_jwt, target_node: node.to_string() };
        let subject = self.options.subjects.stop(&self.options.namespace, node);
        let reply: StopResponse =
            self.request(&doing, subject, encode(&doing, &request)?, self.options.timeouts.stop).await?;
        if reply.stopped {
            Ok(reply)
        } else {
            Err(Error::new(ErrorKind::Internal, doing, "the node says that it did not stop"))
        }
    }

    /// Makes a node refuse new workloads; those it runs stay.
    pub async fn lameduck(&self, node: &NodeId) -> Result<LameDuckResponse> {
        let subject = self.options.subjects.lameduck(node);
        let doing = format!("put node {node} into lame duck mode");
        self.request(&doing, subject, Bytes::new(), self.options.timeouts.request).await
    }

    /// The workloads of a node.
    pub async fn inspect(&self, node: &NodeId, request: &InspectRequest) -> Result<InspectResponse> {
        self.sandbox(&format!("list workloads of node {node}"), node, &SandboxRequest::Inspect(request.clone())).await
    }

    /// A piece of a workload's log: the last `tail` lines, or what comes after a place.
    pub async fn log_history(
        &self,
        node: &NodeId,
        workload: &WorkloadId,
        tail: Option<u32>,
        after: Option<LogCursor>,
    ) -> Result<LogsResponse> {
        let request = LogsRequest { workload: workload.clone(), tail, after };
        self.sandbox(&format!("read the log of {workload}"), node, &SandboxRequest::Logs(request)).await
    }

    /// What a workload uses.
    pub async fn stats(&self, node: &NodeId, workload: &WorkloadId) -> Result<StatsResponse> {
        let request = SandboxRequest::Stats(WorkloadRef { workload: workload.clone() });
        self.sandbox(&format!("measure {workload}"), node, &request).await
    }

    /// What a workload is made of.
    pub async fn explain(&self, node: &NodeId, workload: &WorkloadId) -> Result<ExplainResponse> {
        let request = SandboxRequest::Explain(WorkloadRef { workload: workload.clone() });
        self.sandbox(&format!("explain {workload}"), node, &request).await
    }

    /// Freezes a workload.
    pub async fn pause(
        &self,
        node: &NodeId,
        workload: &WorkloadId,
        name: &WorkloadName,
        issuer: &KeyPair,
    ) -> Result<WorkloadView> {
        let control = ControlRequest { workload: workload.clone(), claims: control_claims(name, issuer)? };
        self.sandbox(&format!("pause {name}"), node, &SandboxRequest::Pause(control)).await
    }

    /// Lets a workload go on.
    pub async fn resume(
        &self,
        node: &NodeId,
        workload: &WorkloadId,
        name: &WorkloadName,
        issuer: &KeyPair,
    ) -> Result<WorkloadView> {
        let control = ControlRequest { workload: workload.clone(), claims: control_claims(name, issuer)? };
        self.sandbox(&format!("resume {name}"), node, &SandboxRequest::Resume(control)).await
    }

    pub(super) async fn sandbox<T: DeserializeOwned>(
        &self,
        doing: &str,
        node: &NodeId,
        request: &SandboxRequest,
    ) -> Result<T> {
        let subject = self.options.subjects.sandbox(&self.options.namespace, node);
        self.request(doing, subject, encode(doing, request)?, self.options.timeouts.request).await
    }
}

/// Claims for one of our own verbs: short-lived, and different each time.
pub(super) fn control_claims(name: &WorkloadName, issuer: &KeyPair) -> Result<String> {
    let now = now();
    let mut spec = ClaimsSpec::new(name.clone(), now);
    spec.expires = Some(now.as_secs().saturating_add(CONTROL_CLAIMS_SECS));
    spec.nonce = Some(nonce()?);
    claims::sign(issuer, &spec).map_err(|e| Error::new(ErrorKind::InvalidSpec, format!("sign claims about {name}"), e))
}

/// What makes two claims of one second different.
pub(super) fn nonce() -> Result<String> {
    Ok(data_encoding::HEXLOWER.encode(&random::<12>()?))
}
