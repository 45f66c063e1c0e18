//! Asking the node that has an allocation.

use moat_model::{AllocId, NodeId};
use serde::de::DeserializeOwned;

use super::{Client, ExecSession, Result, encode};
use crate::allocation::{AllocationRequest, AllocationVerb, StreamBegun};
use crate::stream::StreamId;

impl Client {
    /// One question, one answer.
    pub async fn ask_about_allocation<T: DeserializeOwned>(
        &self,
        node: &NodeId,
        allocation: &AllocId,
        verb: AllocationVerb,
    ) -> Result<T> {
        let doing = format!("ask node {node} about allocation {allocation}");
        let request = AllocationRequest { allocation: allocation.clone(), verb };
        let subject = self.options.subjects.allocation(&self.options.namespace, node);
        self.request(&doing, subject, encode(&doing, &request)?, self.options.timeouts.request).await
    }

    /// A verb that answers with a stream: an exec, a log, a file. Dropping `output` hangs up.
    pub async fn stream_of_allocation(
        &self,
        node: &NodeId,
        allocation: &AllocId,
        verb: impl FnOnce(StreamId) -> AllocationVerb,
    ) -> Result<ExecSession> {
        let doing = format!("reach allocation {allocation} on node {node}");
        let subject = self.options.subjects.allocation(&self.options.namespace, node);
        let request = |stream| Ok(AllocationRequest { allocation: allocation.clone(), verb: verb(stream) });
        self.stream(doing, subject, request, |begun: &StreamBegun| begun.pid).await
    }
}
